//! A replica set: its view kept up by a monitor for each member, and upstreams to who fits.

use std::{sync::Arc, time::Duration};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        preference::{Mode, Preference},
        upstream::Dialer,
    },
    Means, Server, Unserved, at, monitor,
    view::{Hello, Version, View},
};
use crate::{
    net::{DialFault, DialStep},
    pool::{CheckoutError, Lease},
    tenant::{Endpoint, Target, Tenant},
};

/// How long a member that fits is waited for; elections take a few seconds.
const MEMBER_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long after a failed dial a member is not tried again, unless it has been heard of.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long logins that a member refuses are tried again.
const LOGIN_WAIT_MAX: Duration = Duration::from_secs(3);

/// One replica set, as one tenant reaches it.
pub(super) struct Set {
    means: Arc<Means>,
    tenant: Arc<Tenant>,
    view: Mutex<View>,
    news: watch::Sender<()>,
    monitors: Mutex<AHashMap<Endpoint, Watch>>,
    servers: Mutex<AHashMap<Endpoint, Arc<Server>>>,
    gone: CancellationToken,
}

/// How the monitor of a member is reached.
struct Watch {
    gone: CancellationToken,
    doubt: Arc<Notify>,
}

impl Set {
    /// Begins to watch the members that the seeds lead to.
    pub(super) fn watch(means: Arc<Means>, tenant: Arc<Tenant>, target: &Target) -> Arc<Self> {
        let name = target.options.get("replicaset").cloned();
        let view = View::new(name, &target.endpoints, Instant::now());
        let set = Arc::new(Self {
            means,
            tenant,
            view: Mutex::new(view),
            news: watch::Sender::new(()),
            monitors: Mutex::new(AHashMap::new()),
            servers: Mutex::new(AHashMap::new()),
            gone: CancellationToken::new(),
        });
        set.watch_members();
        set
    }

    /// Ends the monitors.
    pub(super) fn end(&self) {
        self.gone.cancel();
        self.servers.lock().clear();
    }

    /// The server that fits at this moment.
    pub(super) fn choose(&self, preference: &Preference) -> Option<Arc<Server>> {
        let endpoint = self.view.lock().choose(preference)?;
        let mut servers = self.servers.lock();
        if let Some(server) = servers.get(&endpoint) {
            return Some(Arc::clone(server));
        }
        let server = Server::new(&self.means, &self.tenant, Some(endpoint.clone()));
        *server.heard.lock() = self.view.lock().version(&endpoint);
        servers.insert(endpoint, Arc::clone(&server));
        Some(server)
    }

    /// An upstream to a server that fits, after waiting for one if there is none. Nothing has been
    /// sent yet, so a member that cannot be reached is just followed by the next.
    pub(super) async fn lease(
        &self,
        preference: &Preference,
    ) -> Result<(Arc<Server>, Lease<Dialer>), Unserved> {
        let began = Instant::now();
        let until = began + MEMBER_WAIT_MAX;
        let patience = |fault: &DialFault| match fault.step {
            DialStep::Login => began + LOGIN_WAIT_MAX,
            DialStep::Name | DialStep::Connect | DialStep::Tls | DialStep::Ping => until,
        };
        loop {
            let server = self.wait_for(preference, until).await?;
            match at(&server).await {
                Err(Unserved::Checkout(CheckoutError::DialFailed(fault)))
                    if Instant::now() < patience(&fault) =>
                {
                    let mut news = self.news.subscribe();
                    // A member that takes no login is there all the same, perhaps in the middle of an election.
                    if let Some(endpoint) = &server.endpoint
                        && fault.step != DialStep::Login
                    {
                        self.lose(endpoint);
                        self.doubt(endpoint);
                    }
                    // Its monitor says when it is back; the wait is only against a busy loop.
                    let _waited = timeout_at(Instant::now() + RETRY_AFTER, news.changed()).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// A server that fits, after waiting for one if there is none.
    pub(super) async fn wait(&self, preference: &Preference) -> Option<Arc<Server>> {
        let until = Instant::now() + MEMBER_WAIT_MAX;
        self.wait_for(preference, until).await.ok()
    }

    async fn wait_for(
        &self,
        preference: &Preference,
        until: Instant,
    ) -> Result<Arc<Server>, Unserved> {
        let mut news = self.news.subscribe();
        loop {
            if let Some(server) = self.choose(preference) {
                return Ok(server);
            }
            if let Ok(Ok(())) = timeout_at(until, news.changed()).await {
                continue;
            }
            return Err(match preference.mode {
                Mode::Primary => Unserved::Checkout(CheckoutError::DialFailed(no_primary())),
                mode => Unserved::NoMember(mode.label()),
            });
        }
    }

    /// A member said hello.
    pub(super) fn hear(self: &Arc<Self>, from: &Endpoint, hello: Hello, took: Duration) {
        let before = self.primary();
        let (is_back, version) = {
            let mut view = self.view.lock();
            let served = view.serves(from);
            view.hear(from, hello, took, Instant::now());
            (!served && view.serves(from), view.version(from))
        };
        let server = self.servers.lock().get(from).cloned();
        if let Some(server) = server {
            *server.heard.lock() = version;
            if is_back {
                server.pool.reopen();
            }
        }
        self.watch_members();
        let primary = self.primary();
        if primary != before {
            let primary = primary.as_ref().map(ToString::to_string);
            tracing::info!(tenant = %self.tenant.slug, primary, "the set has another primary");
        }
        self.news.send_replace(());
    }

    /// A member cannot be reached.
    pub(super) fn lose(&self, endpoint: &Endpoint) {
        self.view.lock().lose(endpoint);
        self.news.send_replace(());
    }

    /// A member's answer says that it is not what it was taken for.
    pub(super) fn suspect(&self, endpoint: &Endpoint, said: Option<Version>) {
        let is_news = self.view.lock().suspect(endpoint, said);
        if is_news {
            self.doubt(endpoint);
        }
    }

    /// Has its monitor ask at once.
    fn doubt(&self, endpoint: &Endpoint) {
        if let Some(watch) = self.monitors.lock().get(endpoint) {
            watch.doubt.notify_one();
        }
    }

    fn primary(&self) -> Option<Endpoint> {
        self.view.lock().choose(&Preference::default())
    }

    /// One monitor for each member, and none for who is not.
    fn watch_members(self: &Arc<Self>) {
        let members: Vec<_> = self.view.lock().endpoints().cloned().collect();
        let mut monitors = self.monitors.lock();
        monitors.retain(|endpoint, watch| {
            let stays = members.contains(endpoint);
            if !stays {
                watch.gone.cancel();
            }
            stays
        });
        for endpoint in members {
            if monitors.contains_key(&endpoint) {
                continue;
            }
            let gone = self.gone.child_token();
            let doubt = Arc::new(Notify::new());
            let watch = Watch {
                gone: gone.clone(),
                doubt: Arc::clone(&doubt),
            };
            monitors.insert(endpoint.clone(), watch);
            let watching = monitor::watch(Arc::clone(self), endpoint, gone, doubt);
            self.means.shutdown.spawn("mongodb-monitor", watching);
        }
    }

    pub(super) const fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    pub(super) const fn means(&self) -> &Arc<Means> {
        &self.means
    }
}

fn no_primary() -> DialFault {
    DialFault::new(
        DialStep::Login,
        "no member of the replica set is primary",
        "wait for the election to end, or register every member of the set as a seed",
    )
}
