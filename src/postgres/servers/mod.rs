//! A tenant's servers where there are several, and which of them a session's next exchange goes to.
//!
//! `view` is what is known of them, pure; `wanted` is what a session asks for; `source` is where it has its
//! upstreams from, and `several` how that is found where there is a choice. What a server is it says itself: when a connection to it begins, when it is promoted (`in_hot_standby`), and
//! when it is asked, over an upstream of its own pool. Nobody watches: servers are asked when nothing is
//! known of them, when what was known turned out wrong, every two seconds for as long as sessions are served, and,
//! if they could not be reached, less and less often.

mod several;
mod source;
mod view;
mod wanted;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

pub(super) use source::{Means, Source};
pub(super) use wanted::{ATTRS, Unserved, WantedAttrs};

use self::view::{Outlook, View};
use super::{
    cancel::CancelTarget,
    rank::Rank,
    upstream::{Dialer, Upstream},
};
use crate::{
    net::{DialFault, DialStep},
    pool::{CheckoutError, CloseReason, Pool, Residue},
    shutdown::Shutdown,
    tenant::{Endpoint, Generation, SessionAttrs, Tenant},
};

/// How long a server may take to say what it is.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What is known of the servers of one registration.
pub(super) struct Servers {
    generation: Generation,
    slug: String,
    endpoints: Vec<Endpoint>,
    /// What the connection string asks for.
    attrs: Option<SessionAttrs>,
    view: Mutex<View>,
    /// Something was heard.
    news: watch::Sender<()>,
}

impl Servers {
    /// Nothing is known yet.
    pub(super) fn new(tenant: &Tenant) -> Arc<Self> {
        let target = &tenant.target;
        Arc::new(Self {
            generation: tenant.generation,
            slug: tenant.slug.clone(),
            endpoints: target.endpoints.clone(),
            attrs: target.attrs(),
            view: Mutex::new(View::new(target.endpoints.len(), target.balance())),
            news: watch::Sender::new(()),
        })
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// The server that takes writes.
    pub(super) fn leader(&self) -> Option<Endpoint> {
        let leader = self.view.lock().leader()?;
        self.endpoints.get(leader).cloned()
    }

    /// Whether writes go to another server than the one of this upstream.
    pub(super) fn have_moved(&self, from: &CancelTarget) -> bool {
        let leader = self.leader();
        leader.is_some_and(|leader| leader.host != from.host || leader.port != from.address.port())
    }

    /// What a server is, in a word for operators.
    pub(super) fn rank_of(&self, server: &str) -> Option<&'static str> {
        let mut endpoints = self.endpoints.iter();
        let at = endpoints.position(|endpoint| endpoint.to_string() == server)?;
        self.view.lock().rank(at).map(Rank::label)
    }

    fn hear(&self, at: usize, rank: Rank) {
        let moved = self.view.lock().hear(at, rank, Instant::now());
        if let Some(primary) = self.endpoints.get(at).filter(|_| moved) {
            tracing::info!(tenant = %self.slug, %primary, "writes go to this server");
        }
        self.news.send_replace(());
    }

    fn lose(&self, at: usize, fault: DialFault) {
        if let Some(server) = self.endpoints.get(at) {
            tracing::debug!(tenant = %self.slug, %server, %fault, "server not reached");
        }
        self.view.lock().lose(at, fault, Instant::now());
        self.news.send_replace(());
    }

    /// A server was asked in vain; what that means the view says.
    fn fail(&self, at: usize, fault: DialFault, how: fn(&mut View, usize, DialFault, Instant)) {
        if let Some(server) = self.endpoints.get(at) {
            tracing::debug!(tenant = %self.slug, %server, %fault, "server does not say what it is");
        }
        how(&mut self.view.lock(), at, fault, Instant::now());
        self.news.send_replace(());
    }

    fn spare(&self, at: usize) {
        self.view.lock().spare(at, Instant::now());
        self.news.send_replace(());
    }

    fn outlook(&self, round: Instant) -> Outlook {
        self.view.lock().outlook(round)
    }

    /// Has a server asked what it is; the view says that nobody else does.
    fn survey(self: &Arc<Self>, at: usize, pool: &Arc<Pool<Dialer>>, shutdown: &Shutdown) {
        let (servers, pool) = (Arc::clone(self), Arc::clone(pool));
        shutdown.spawn("postgres-survey", async move {
            // An outage need not be waited out: how often servers are asked is bounded here.
            pool.reopen();
            match ask(&pool).await {
                Ok(rank) => servers.hear(at, rank),
                Err(Unasked::Fault(fault)) => servers.lose(at, fault),
                Err(Unasked::Broken(fault)) => servers.fail(at, fault, View::break_off),
                Err(Unasked::Late) => servers.fail(at, late(), View::be_late),
                Err(Unasked::Pool(error)) => {
                    tracing::debug!(%error, "a server could not be asked what it is");
                    servers.spare(at);
                }
            }
        });
    }
}

/// Why a server did not say what it is.
enum Unasked {
    /// It cannot be reached.
    Fault(DialFault),
    /// It broke the connection, or does not understand.
    Broken(DialFault),
    /// It takes too long.
    Late,
    /// Its pool has no upstream to give.
    Pool(CheckoutError),
}

async fn ask(pool: &Pool<Dialer>) -> Result<Rank, Unasked> {
    let mut lease = match timeout(ANSWER_MAX, pool.lease()).await {
        Ok(Ok(lease)) => lease,
        Ok(Err(CheckoutError::DialFailed(fault))) => return Err(Unasked::Fault(fault)),
        Ok(Err(error)) => return Err(Unasked::Pool(error)),
        // Where all upstreams are in use, the server may be well; where one is being opened, it is silent.
        Err(_) if pool.stats().dialing > 0 => return Err(Unasked::Late),
        Err(_) => {
            return Err(Unasked::Pool(CheckoutError::WaitTooLong {
                waited: ANSWER_MAX,
            }));
        }
    };
    let asked = match timeout(ANSWER_MAX, look(&mut lease.upstream)).await {
        Ok(outcome) => outcome.map_err(Unasked::Broken),
        Err(_) => Err(Unasked::Late),
    };
    let residue = match asked {
        Ok(_) => Residue::Clean,
        Err(_) => Residue::Broken(CloseReason::Lost),
    };
    lease.give_back(residue);
    asked
}

fn late() -> DialFault {
    let cause = format!("no answer within {} ms", ANSWER_MAX.as_millis());
    DialFault::new(DialStep::Ping, cause, "look whether the server is frozen")
}

/// Asks over an upstream at hand; it must be closed if that fails.
async fn look(upstream: &mut Upstream) -> Result<Rank, DialFault> {
    let cause = match upstream.ask_rank().await {
        Ok(Some(rank)) => return Ok(rank),
        Ok(None) => "the server does not say whether it is in recovery".to_owned(),
        Err(failed) => failed.cause(),
    };
    let hint = "look at the server's log";
    Err(DialFault::new(DialStep::Ping, cause, hint))
}
