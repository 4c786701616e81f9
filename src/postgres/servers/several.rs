//! Several servers, as one session reaches them: the one that fits, or the search for it.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{ANSWER_MAX, Means, Outlook, Servers, Unserved, WantedAttrs, look};
use crate::{
    pool::{CheckoutError, CloseReason, Lease, Pool, Residue},
    postgres::{
        rank::{IN_HOT_STANDBY, Rank},
        session::Told,
        settings::Parameters,
        upstream::Dialer,
    },
    tenant::{Role, SessionAttrs, Tenant},
};

/// The first pause before all servers are asked again whether one has been promoted.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often servers may turn out to be something else than was believed before that is told.
const SURPRISES_MAX: usize = 16;

/// Several servers, as one session reaches them.
pub(in crate::postgres) struct Several {
    means: Means,
    pub(super) servers: Arc<Servers>,
    /// The first of the pools.
    pub(super) home: Arc<Pool<Dialer>>,
    /// One for each server, in the same order.
    pools: Box<[Arc<Pool<Dialer>>]>,
    wanted: WantedAttrs,
    /// The server that was used last.
    pub(super) at: Option<usize>,
}

impl Several {
    pub(super) fn boxed(means: Means, tenant: &Arc<Tenant>) -> Box<Self> {
        let servers = means.tenancy.servers(tenant);
        let pools: Box<[_]> = match &*servers.endpoints {
            [] | [_] => [means.fleet.pool(tenant)].into(),
            several => several
                .iter()
                .map(|server| means.fleet.server_pool(tenant, server))
                .collect(),
        };
        let home = match pools.first() {
            Some(first) => Arc::clone(first),
            None => means.fleet.pool(tenant),
        };
        Box::new(Self {
            means,
            servers,
            home,
            pools,
            wanted: WantedAttrs::Known(SessionAttrs::Primary),
            at: None,
        })
    }

    /// What the client asks for from now on.
    pub(in crate::postgres) fn want(&mut self, role: Role, wanted: &Parameters) {
        self.wanted = WantedAttrs::of(role, wanted, self.servers.attrs);
    }

    /// Why no server will ever do for that.
    pub(in crate::postgres) fn unservable(&self) -> Option<Unserved> {
        self.wanted.judged().err()
    }

    /// Whether that is something else than what it was served by last.
    pub(in crate::postgres) fn wants_otherwise(&self, role: Role, wanted: &Parameters) -> bool {
        self.wanted != WantedAttrs::of(role, wanted, self.servers.attrs)
    }

    /// For a client that listens: a standby cannot.
    pub(in crate::postgres) fn want_primary(&mut self) {
        self.wanted = WantedAttrs::Known(SessionAttrs::Primary);
    }

    /// Has the server in use asked what it is.
    pub(super) fn doubt(&self) {
        if let Some(at) = self.at
            && let Some(pool) = self.pools.get(at)
            && self.servers.view.lock().doubt(at, Instant::now())
        {
            self.servers.survey(at, pool, &self.means.shutdown);
        }
    }

    pub(super) fn greeting(&mut self) -> Option<Told> {
        let attrs = self.wanted.judged().ok()?;
        let at = match self.at {
            Some(at) => at,
            None => self.choose(attrs)?,
        };
        let tenancy = &self.means.tenancy;
        let greeting = match self.servers.endpoints.get(at)? {
            _ if self.pools.len() == 1 => tenancy.greeting(),
            server => tenancy.greeting_at(server),
        }?;
        let tells = greeting.contains_key(IN_HOT_STANDBY);
        let mut told = Told::new(greeting);
        let rank = self.servers.view.lock().rank(at);
        if tells && let Some(rank) = rank {
            let stands_by = if rank == Rank::Standby { "on" } else { "off" };
            told.tell(IN_HOT_STANDBY, stands_by);
        }
        Some(told)
    }

    /// Takes up a changed registration.
    fn follow(&mut self) {
        let tenant = self.home.tenant();
        if tenant.generation > self.servers.generation() {
            let wanted = self.wanted.clone();
            *self = *Self::boxed(self.means.clone(), &tenant);
            self.wanted = wanted;
        }
    }

    /// The server that fits at this moment. Who may be back is asked on the side.
    fn choose(&self, attrs: SessionAttrs) -> Option<usize> {
        let busy = |at: usize| self.pools.get(at).map_or(0, |pool| pool.busy());
        let (chosen, due) = {
            let mut view = self.servers.view.lock();
            let now = Instant::now();
            let due = view.is_anyone_due(now).then(|| view.ask(None, now));
            (view.choose(attrs, now, busy), due)
        };
        self.survey(due.unwrap_or_default());
        chosen
    }

    fn serve(&mut self, at: usize, attrs: SessionAttrs) {
        self.at = Some(at);
        self.servers.view.lock().pass_on(at, attrs);
    }

    fn survey(&self, asked: Vec<usize>) {
        for at in asked {
            if let Some(pool) = self.pools.get(at) {
                self.servers.survey(at, pool, &self.means.shutdown);
            }
        }
    }

    pub(super) fn try_lease(&mut self) -> Option<Lease<Dialer>> {
        self.follow();
        let attrs = self.wanted.judged().ok()?;
        let at = self.choose(attrs)?;
        let lease = self.pools.get(at)?.try_lease()?;
        if lease.upstream.rank.is_some_and(|rank| rank.fits(attrs)) {
            self.serve(at, attrs);
            return Some(lease);
        }
        lease.give_back(Residue::Clean);
        None
    }

    /// Nothing has been sent yet, so a server that cannot be reached is just followed by the next.
    pub(super) async fn lease(&mut self) -> Result<Lease<Dialer>, Unserved> {
        self.follow();
        let attrs = self.wanted.judged()?;
        let mut search = Search::begin(attrs, self.means.wait_max);
        loop {
            match self.choose(attrs) {
                Some(at) => match self.lease_at(at, attrs).await? {
                    Some(lease) => {
                        self.serve(at, attrs);
                        return Ok(lease);
                    }
                    None => search.surprised(self.pools.len())?,
                },
                None => self.look_around(&mut search).await?,
            }
        }
    }

    /// An upstream to that server; nothing, if it cannot be reached or turns out to be something else.
    async fn lease_at(
        &self,
        at: usize,
        attrs: SessionAttrs,
    ) -> Result<Option<Lease<Dialer>>, Unserved> {
        let Some(pool) = self.pools.get(at) else {
            return Ok(None);
        };
        let mut lease = match pool.lease().await {
            Ok(lease) => lease,
            Err(CheckoutError::DialFailed(fault)) => {
                self.servers.lose(at, fault);
                return Ok(None);
            }
            Err(error) => return Err(Unserved::Checkout(error)),
        };
        let mut rank = lease.upstream.rank.filter(|rank| rank.fits(attrs));
        if rank.is_none() {
            // It may have been promoted since that was heard on this connection.
            let asked = timeout(ANSWER_MAX, look(&mut lease.upstream)).await;
            rank = asked.ok().and_then(Result::ok);
        }
        let Some(rank) = rank else {
            lease.give_back(Residue::Broken(CloseReason::Lost));
            return Ok(None);
        };
        if self.servers.view.lock().rank(at) != Some(rank) {
            self.servers.hear(at, rank);
        }
        if rank.fits(attrs) {
            return Ok(Some(lease));
        }
        lease.give_back(Residue::Clean);
        Ok(None)
    }

    /// No server fits, as far as is known: all are asked. A standby may be promoted, so who wants a primary waits.
    async fn look_around(&self, search: &mut Search) -> Result<(), Unserved> {
        let mut news = self.servers.news.subscribe();
        let asked = {
            let mut view = self.servers.view.lock();
            view.ask(Some(search.round), Instant::now())
        };
        self.survey(asked);
        match self.servers.outlook(search.round) {
            Outlook::Dead(fault) => Err(Unserved::Checkout(CheckoutError::DialFailed(fault))),
            _ if Instant::now() >= search.until => Err(Unserved::NoServer(search.attrs)),
            Outlook::Open => {
                let soon = search.until.min(Instant::now() + PAUSE_MAX);
                drop(timeout_at(soon, news.changed()).await);
                Ok(())
            }
            Outlook::Another if search.hopes() => {
                let next = search.until.min(Instant::now() + search.pause);
                while self.choose(search.attrs).is_none() {
                    if timeout_at(next, news.changed()).await.is_err() {
                        break;
                    }
                }
                search.again();
                Ok(())
            }
            // It may have told just now.
            Outlook::Another if self.choose(search.attrs).is_some() => Ok(()),
            Outlook::Another => Err(Unserved::NoServer(search.attrs)),
        }
    }
}

/// One session's search for a server.
struct Search {
    attrs: SessionAttrs,
    until: Instant,
    /// What was heard before is not good enough.
    round: Instant,
    pause: Duration,
    surprises: usize,
}

impl Search {
    fn begin(attrs: SessionAttrs, wait_max: Duration) -> Self {
        let now = Instant::now();
        Self {
            attrs,
            until: now + wait_max,
            round: now,
            pause: PAUSE_MIN,
            surprises: 0,
        }
    }

    /// Whether what is wanted may come about by itself.
    const fn hopes(&self) -> bool {
        matches!(self.attrs, SessionAttrs::Primary | SessionAttrs::ReadWrite)
    }

    /// Begins to ask everybody again.
    fn again(&mut self) {
        self.round = Instant::now();
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// A server was not what it was taken for. Each of them is tried, however long the first took.
    fn surprised(&mut self, servers: usize) -> Result<(), Unserved> {
        self.surprises += 1;
        let late = Instant::now() >= self.until && self.surprises > servers;
        if late || self.surprises > SURPRISES_MAX {
            return Err(Unserved::NoServer(self.attrs));
        }
        Ok(())
    }
}
