//! The master behind sentinels: asked for before each dial, proven by `ROLE`, followed when it moves.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{AskFault, Upstream, dial::Opener, reign::Reign};
use crate::{
    net::{DialFault, DialStep},
    redis::wire::Value,
    shutdown::Shutdown,
    tenant::{Endpoint, Generation, Sentinel, Target, Tenant},
};

/// How long a dial waits for a failover that is under way, before clients hear of it.
const FAILOVER_WAIT: Duration = Duration::from_secs(3);
/// How often it looks meanwhile.
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// How often a silent sentinel is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(5);
/// The pause before the next sentinel is listened to.
const LISTEN_PAUSE: Duration = Duration::from_millis(500);
/// Signs of doubt are looked into at most this often.
const DOUBT_PAUSE: Duration = Duration::from_millis(250);
/// Without upstreams for so many looks, nobody needs to be told of failovers.
const UNUSED_MAX: u32 = 12;
/// What the sentinels call a master that moves.
const SWITCH: &str = "+switch-master";

/// One tenant's master, and who looks after where it is.
pub(super) struct Watch {
    target: Target,
    service: Sentinel,
    generation: Generation,
    opener: Opener,
    state: Mutex<State>,
    /// Which sentinel is asked first.
    turn: AtomicUsize,
    doubt: Arc<Notify>,
    switched: Notify,
}

#[derive(Default)]
struct State {
    reign: Option<Arc<Reign>>,
    is_watched: bool,
}

/// Why listening to a sentinel has ended.
enum End {
    /// There is nobody to tell.
    Unused,
    /// The sentinel is gone.
    Lost,
}

impl Watch {
    pub(super) fn new(tenant: &Tenant, service: &Sentinel, opener: Opener) -> Arc<Self> {
        Arc::new(Self {
            target: tenant.target.clone(),
            service: service.clone(),
            generation: tenant.generation,
            opener,
            state: Mutex::default(),
            turn: AtomicUsize::new(0),
            doubt: Arc::default(),
            switched: Notify::new(),
        })
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether somebody looks after it.
    pub(super) fn is_watched(&self) -> bool {
        self.state.lock().is_watched
    }

    /// An upstream to the master; in the middle of a failover, to the new one if it comes soon.
    pub(super) async fn dial(self: &Arc<Self>, shutdown: &Shutdown) -> Result<Upstream, DialFault> {
        self.be_watched(shutdown);
        let until = Instant::now() + FAILOVER_WAIT;
        loop {
            let switched = self.switched.notified();
            let fault = match self.dial_once().await {
                Ok(upstream) => return Ok(upstream),
                Err(fault) => fault,
            };
            // Another attempt mends neither a wrong password nor a wrong name.
            if fault.step != DialStep::Connect || Instant::now() >= until {
                return Err(fault);
            }
            if timeout(RETRY_EVERY, switched).await.is_err() {
                tracing::debug!(cause = %fault.cause, "no master yet");
            }
        }
    }

    async fn dial_once(&self) -> Result<Upstream, DialFault> {
        let turn = self.turn.load(Ordering::Relaxed);
        let found = open_master(&self.opener, &self.target, &self.service, turn).await;
        match found {
            Ok((mut upstream, master)) => {
                upstream.reign = Some(self.follow(&master));
                Ok(upstream)
            }
            Err(fault) => {
                // Another sentinel may know better.
                self.turn.fetch_add(1, Ordering::Relaxed);
                Err(fault)
            }
        }
    }

    /// Takes note of who is master; another than before ends what was.
    fn follow(&self, master: &Endpoint) -> Arc<Reign> {
        let mut state = self.state.lock();
        if let Some(reign) = &state.reign
            && reign.master == *master
        {
            return Arc::clone(reign);
        }
        let reign = Arc::new(Reign::new(master.clone(), Arc::clone(&self.doubt)));
        let before = state.reign.replace(Arc::clone(&reign));
        drop(state);
        if let Some(before) = before {
            tracing::info!(service = %self.service.service, from = %before.master, to = %master, "master moved");
            before.end();
        }
        self.switched.notify_waiters();
        reign
    }

    fn be_watched(self: &Arc<Self>, shutdown: &Shutdown) {
        let was = std::mem::replace(&mut self.state.lock().is_watched, true);
        if !was {
            let watch = Arc::downgrade(self);
            let until = shutdown.clone();
            shutdown.spawn("redis-sentinel", async move {
                tokio::select! {
                    () = until.draining() => {}
                    () = look_after(watch) => {}
                }
            });
        }
    }

    /// Whether upstreams of the present reign exist, or somebody opens one.
    fn is_used(self: &Arc<Self>) -> bool {
        let state = self.state.lock();
        state
            .reign
            .as_ref()
            .is_some_and(|reign| Arc::strong_count(reign) > 1)
    }

    async fn listen(self: &Arc<Self>, at: usize) -> Result<End, DialFault> {
        let endpoints = &self.target.endpoints;
        let Some(endpoint) = endpoints.get(at % endpoints.len().max(1)) else {
            return Ok(End::Unused);
        };
        let mut sentinel =
            open_sentinel(&self.opener, &self.target, &self.service, endpoint).await?;
        let subscribed = sentinel.tell(&["SUBSCRIBE", SWITCH]).await;
        if subscribed.is_err() || sentinel.frame(super::ANSWER_BYTES_MAX).await.is_err() {
            return Ok(End::Lost);
        }
        // What happened before the subscription is not announced any more.
        self.look_again().await;
        let (mut silent, mut unused) = (false, 0);
        loop {
            tokio::select! {
                frame = sentinel.frame(super::ANSWER_BYTES_MAX) => match frame {
                    Ok(frame) => {
                        silent = false;
                        self.hear(&frame);
                    }
                    Err(_) => return Ok(End::Lost),
                },
                () = self.doubt.notified() => {
                    self.look_again().await;
                    tokio::time::sleep(DOUBT_PAUSE).await;
                }
                () = tokio::time::sleep(PING_EVERY) => {
                    unused = if self.is_used() { 0 } else { unused + 1 };
                    if unused >= UNUSED_MAX {
                        return Ok(End::Unused);
                    }
                    if silent || sentinel.tell(&["PING"]).await.is_err() {
                        return Ok(End::Lost);
                    }
                    silent = true;
                }
            }
        }
    }

    /// Reads an announcement: `service old-host old-port new-host new-port`.
    fn hear(&self, frame: &bytes::Bytes) {
        let Some(push) = Value::read(frame) else {
            return;
        };
        let words: Vec<_> = push
            .list()
            .unwrap_or_default()
            .iter()
            .map(Value::text)
            .collect();
        let [Some("message"), Some(SWITCH), Some(news)] = words[..] else {
            return;
        };
        let news: Vec<_> = news.split(' ').collect();
        if let [service, _, _, host, port] = news[..]
            && service == self.service.service
            && let Ok(port) = port.parse()
        {
            self.follow(&Endpoint {
                host: host.to_owned(),
                port,
            });
        }
    }

    /// Asks again who is master; a server that cannot prove it is not followed.
    async fn look_again(&self) {
        let turn = self.turn.load(Ordering::Relaxed);
        match open_master(&self.opener, &self.target, &self.service, turn).await {
            Ok((_, master)) => {
                self.follow(&master);
            }
            Err(fault) => {
                self.turn.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%fault, "no master found");
            }
        }
    }
}

async fn look_after(watch: Weak<Watch>) {
    let mut at = 0_usize;
    while let Some(watch) = watch.upgrade() {
        let ended = watch.listen(at).await;
        if matches!(ended, Ok(End::Unused)) {
            watch.state.lock().is_watched = false;
            return;
        }
        if let Err(fault) = ended {
            tracing::debug!(%fault, "sentinel not reached");
        }
        drop(watch);
        at += 1;
        tokio::time::sleep(LISTEN_PAUSE).await;
    }
}

/// Asks the sentinels in turn, and opens the server that they name if it says itself that it is master.
pub(super) async fn open_master(
    opener: &Opener,
    target: &Target,
    service: &Sentinel,
    turn: usize,
) -> Result<(Upstream, Endpoint), DialFault> {
    let mut last = None;
    let count = target.endpoints.len();
    for endpoint in target
        .endpoints
        .iter()
        .cycle()
        .skip(turn % count.max(1))
        .take(count)
    {
        match ask_sentinel(opener, target, service, endpoint).await {
            Ok(master) => {
                let upstream = prove_master(opener, target, &master).await?;
                return Ok((upstream, master));
            }
            Err(fault) => last = Some(fault),
        }
    }
    Err(last.unwrap_or_else(|| {
        DialFault::new(
            DialStep::Name,
            "the connection URL names no sentinel",
            "redis+sentinel://host:26379/mymaster/0",
        )
    }))
}

async fn open_sentinel(
    opener: &Opener,
    target: &Target,
    service: &Sentinel,
    endpoint: &Endpoint,
) -> Result<Upstream, DialFault> {
    let stream = opener.connect(endpoint, target.tls).await?;
    let mut upstream = Upstream::new(stream);
    let login = (service.user.as_deref(), service.password.as_ref());
    super::dial::log_in(&mut upstream, login)
        .await
        .map_err(|fault| {
            DialFault::new(
                fault.step,
                format!("sentinel {endpoint}: {}", fault.cause),
                "sentinels have a login of their own: ?sentinel_user=...&sentinel_password=...",
            )
        })?;
    Ok(upstream)
}

async fn ask_sentinel(
    opener: &Opener,
    target: &Target,
    service: &Sentinel,
    endpoint: &Endpoint,
) -> Result<Endpoint, DialFault> {
    let mut sentinel = open_sentinel(opener, target, service, endpoint).await?;
    let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &service.service];
    let reply = sentinel
        .ask(&question)
        .await
        .map_err(|fault| no_answer(endpoint, &fault))?;
    let value = Value::read(&reply);
    let words = value.as_ref().and_then(Value::list).unwrap_or_default();
    let [host, port] = words else {
        return Err(DialFault::new(
            DialStep::Login,
            format!(
                "sentinel {endpoint} knows no master named '{}'",
                service.service
            ),
            "the first part of the URL's path is the name that the sentinels have for the master",
        ));
    };
    let port = port.integer().and_then(|port| u16::try_from(port).ok());
    match (host.text(), port) {
        (Some(host), Some(port)) => Ok(Endpoint {
            host: host.to_owned(),
            port,
        }),
        _ => Err(no_answer(endpoint, &AskFault::TooLong)),
    }
}

fn no_answer(endpoint: &Endpoint, fault: &AskFault) -> DialFault {
    DialFault::new(
        DialStep::Connect,
        format!("sentinel {endpoint}: {fault}"),
        "is this the port of a sentinel?",
    )
}

/// Sentinels may be behind the times: only a server that calls itself master is one.
async fn prove_master(
    opener: &Opener,
    target: &Target,
    master: &Endpoint,
) -> Result<Upstream, DialFault> {
    let mut upstream = opener.open(target, master).await?;
    let role = match upstream.ask(&["ROLE"]).await {
        Ok(reply) => Value::read(&reply),
        // An old server, or a user that may not ask: believed.
        Err(AskFault::Refused(text)) if text.starts_with("NOPERM") || text.contains("unknown") => {
            return Ok(upstream);
        }
        Err(fault) => return Err(no_answer(master, &fault)),
    };
    let role = role
        .as_ref()
        .and_then(Value::list)
        .and_then(<[Value]>::first);
    match role.and_then(Value::text) {
        Some("master") => Ok(upstream),
        role => Err(DialFault::new(
            DialStep::Connect,
            format!(
                "{master}, which the sentinels call master, says that it is {}",
                role.unwrap_or("nothing")
            ),
            "a failover is under way, or the sentinels are out of date",
        )),
    }
}
