//! Several routers of one sharded cluster: any of them will do, so they take turns.
//!
//! What must stay with one of them (a cursor, a transaction) is sent there by whoever knows where it is. A router that
//! cannot be reached is left out for a while; if none can, each is tried. Where the registration gives a name instead of
//! hosts, it is looked up again from time to time.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    super::upstream::{Dialer, is_name},
    Means, Server, Unserved, at,
};
use crate::{
    pool::{CheckoutError, Lease},
    tenant::{Endpoint, Tenant},
};

/// How long a router that could not be reached is left out.
const LEFT_OUT_FOR: Duration = Duration::from_secs(1);

/// The routers of one cluster, as one tenant reaches them.
pub(super) struct Routers {
    means: Arc<Means>,
    tenant: Arc<Tenant>,
    all: Mutex<Ring>,
    gone: CancellationToken,
}

#[derive(Default)]
struct Ring {
    routers: Vec<Router>,
    turn: usize,
}

struct Router {
    server: Arc<Server>,
    lost_at: Option<Instant>,
}

impl Routers {
    /// The routers at those addresses.
    pub(super) fn new(means: Arc<Means>, tenant: Arc<Tenant>, endpoints: &[Endpoint]) -> Arc<Self> {
        let routers = Arc::new(Self {
            means,
            tenant,
            all: Mutex::default(),
            gone: CancellationToken::new(),
        });
        routers.renew(endpoints);
        if is_name(&routers.tenant.target) {
            let following = follow_name(Arc::downgrade(&routers), routers.gone.clone());
            routers.means.shutdown.spawn("mongodb-srv", following);
        }
        routers
    }

    /// Ends the looking up.
    pub(super) fn end(&self) {
        self.gone.cancel();
        // Servers know cursors, and cursors servers.
        self.all.lock().routers.clear();
    }

    /// The next in turn of those that can be reached, as far as is known.
    fn choose(&self) -> Option<Arc<Server>> {
        let ring = self.all.lock();
        let count = ring.routers.len();
        let from = ring.turn;
        let in_turn = (0..count).map(|step| (from + step) % count);
        let is_there = |at: &usize| {
            let router = ring.routers.get(*at);
            let lost_at = router.and_then(|router| router.lost_at);
            lost_at.is_none_or(|at| at.elapsed() >= LEFT_OUT_FOR)
        };
        let chosen = in_turn.clone().find(is_there).or(in_turn.clone().next())?;
        ring.routers
            .get(chosen)
            .map(|router| Arc::clone(&router.server))
    }

    /// The turn passes on to whoever comes after that one.
    fn pass_on(&self, served: &Server) {
        let mut ring = self.all.lock();
        let mut routers = ring.routers.iter();
        let at = routers.position(|router| router.server.endpoint == served.endpoint);
        ring.turn = at.map_or(0, |at| at + 1);
    }

    /// An upstream to the next in turn without waiting, if that can be.
    pub(super) fn try_lease(&self) -> Option<(Arc<Server>, Lease<Dialer>)> {
        let server = self.choose()?;
        let lease = server.pool.try_lease()?;
        self.pass_on(&server);
        Some((server, lease))
    }

    /// An upstream to any of them. Nothing has been sent yet, so one that cannot be reached is just followed by the
    /// next.
    pub(super) async fn lease(&self) -> Result<(Arc<Server>, Lease<Dialer>), Unserved> {
        let mut left = self.all.lock().routers.len();
        loop {
            let Some(server) = self.choose() else {
                return Err(Unserved::Checkout(CheckoutError::Draining));
            };
            left = left.saturating_sub(1);
            match at(&server).await {
                Err(Unserved::Checkout(CheckoutError::DialFailed(fault))) => {
                    if let Some(endpoint) = &server.endpoint {
                        self.lose(endpoint);
                    }
                    self.pass_on(&server);
                    if left == 0 {
                        return Err(Unserved::Checkout(CheckoutError::DialFailed(fault)));
                    }
                }
                outcome => {
                    self.pass_on(&server);
                    return outcome;
                }
            }
        }
    }

    /// A router cannot be reached, or says that it ends.
    pub(super) fn lose(&self, endpoint: &Endpoint) {
        let mut ring = self.all.lock();
        for router in &mut ring.routers {
            if router.server.endpoint.as_ref() == Some(endpoint) {
                router.lost_at = Some(Instant::now());
            }
        }
    }

    /// Takes up the addresses of this moment; those that stay keep their upstreams.
    fn renew(&self, endpoints: &[Endpoint]) {
        let mut ring = self.all.lock();
        ring.routers.retain(|router| {
            let endpoint = router.server.endpoint.as_ref();
            endpoint.is_some_and(|endpoint| endpoints.contains(endpoint))
        });
        for endpoint in endpoints {
            let is_known = ring
                .routers
                .iter()
                .any(|router| router.server.endpoint.as_ref() == Some(endpoint));
            if !is_known {
                let server = Server::new(&self.means, &self.tenant, Some(endpoint.clone()));
                ring.routers.push(Router {
                    server,
                    lost_at: None,
                });
            }
        }
    }
}

/// Looks the name up again for as long as anybody uses its routers.
async fn follow_name(routers: Weak<Routers>, gone: CancellationToken) {
    loop {
        let Some(every) = routers
            .upgrade()
            .map(|routers| routers.means.names.kept_for())
        else {
            return;
        };
        tokio::select! {
            () = gone.cancelled() => return,
            () = sleep(every) => {}
        }
        let Some(routers) = routers.upgrade() else {
            return;
        };
        let shutdown = routers.means.shutdown.clone();
        let resolved = tokio::select! {
            () = gone.cancelled() => return,
            () = shutdown.draining() => return,
            resolved = routers.means.names.resolve(&routers.tenant.target) => resolved,
        };
        match resolved {
            Ok(target) => routers.renew(&target.endpoints),
            Err(fault) => tracing::warn!(%fault, "the routers' name cannot be looked up"),
        }
    }
}
