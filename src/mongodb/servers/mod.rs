//! A tenant's servers as the gateway knows them, and which of them a request goes to.
//!
//! `view` is what the members of a replica set say of themselves, `monitor` asks them, `set` puts
//! the two together; `routers` are those of a sharded cluster, where there are several; `turns` bounds the requests
//! that wait for data. A single server needs none of it: it is reached by its seed.

mod monitor;
mod routers;
mod set;
mod turns;
mod view;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::OnceCell, time::Instant};

use self::{monitor::Found, routers::Routers, set::Set};
use super::{
    cursors::Cursors,
    echoes::Echoes,
    preference::Preference,
    room::Room,
    transactions::Transactions,
    upstream::{Dialer, Names, is_name},
};
use crate::{
    net::tls::ClientTls,
    pool::{CheckoutError, Fleet, Lease, Pool},
    shutdown::Shutdown,
    tenant::{Endpoint, Generation, Tenant},
};

pub(crate) use monitor::endpoint_of;
pub(crate) use turns::{Turn, Turns, Waits};
pub(crate) use view::Version;

/// How long servers that could not be asked what they are, are taken for a single one.
const UNFOUND_FOR: Duration = Duration::from_secs(1);
/// Seconds without a request after which the members of a set are watched no longer.
const WATCHED_SECONDS: u32 = 15 * 60;

/// What all tenants' servers are made with.
pub(crate) struct Means {
    /// The pools.
    pub(crate) fleet: Fleet<Dialer>,
    /// TLS towards members.
    pub(crate) tls: ClientTls,
    /// What names stand for.
    pub(crate) names: Arc<Names>,
    /// The end of monitors.
    pub(crate) shutdown: Shutdown,
    /// Of a pool, how much requests that wait for data may hold.
    pub(crate) share_percent: u8,
    /// Bytes of large commands of one tenant at once.
    pub(crate) request_bytes_max: usize,
}

/// One server, or whatever a tenant's seeds lead to.
pub(crate) struct Server {
    /// Which, if it is a particular one.
    pub(crate) endpoint: Option<Endpoint>,
    /// Its upstreams.
    pub(crate) pool: Arc<Pool<Dialer>>,
    /// Who may wait on it.
    pub(crate) turns: Turns,
    /// The order of its last hello, of a member of a set.
    heard: Mutex<Option<Version>>,
}

impl Server {
    /// The order of the last hello that was heard of it.
    pub(crate) fn heard(&self) -> Option<Version> {
        *self.heard.lock()
    }

    fn new(means: &Means, tenant: &Arc<Tenant>, endpoint: Option<Endpoint>) -> Arc<Self> {
        let pool = match &endpoint {
            None => means.fleet.pool(tenant),
            Some(endpoint) => means.fleet.server_pool(tenant, endpoint),
        };
        let turns = Turns::new(tenant.limits.upstream_max, means.share_percent);
        Arc::new(Self {
            endpoint,
            pool,
            turns,
            heard: Mutex::new(None),
        })
    }
}

/// Where a request has to go.
#[derive(Clone, Default)]
pub(crate) enum Route {
    /// To the server that takes writes.
    #[default]
    Primary,
    /// To one that fits.
    Read(Box<Preference>),
    /// To that one: it has the cursor.
    Server(Arc<Server>),
}

/// An upstream, and the server that it leads to.
type Leased = (Arc<Server>, Lease<Dialer>);

/// Why no upstream was had.
pub(crate) enum Unserved {
    /// The pool says why.
    Checkout(CheckoutError),
    /// No member fits what the client wants to read from.
    NoMember(&'static str),
}

/// What a tenant's seeds turned out to be.
enum Shape {
    /// One server, or a member that is wanted whatever it is.
    Single,
    /// Several routers.
    Routers(Arc<Routers>),
    /// A replica set.
    Set(Arc<Set>),
}

/// One tenant's servers, under one registration.
pub(crate) struct Servers {
    /// Cursors that clients have open there; they outlive a change of registration.
    pub(crate) cursors: Arc<Cursors>,
    /// Transactions that clients have open there.
    pub(crate) transactions: Transactions,
    /// The sessions of these, and of those before them.
    pub(crate) echoes: Echoes,
    /// Room for large commands.
    pub(crate) room: Room,
    means: Arc<Means>,
    tenant: Arc<Tenant>,
    home: Arc<Server>,
    shape: OnceCell<Shape>,
    unfound_at: Mutex<Option<Instant>>,
    is_used: AtomicBool,
    unused_seconds: AtomicU32,
    is_over: AtomicBool,
}

impl Servers {
    /// The servers of a tenant, of which nothing is known yet.
    pub(crate) fn new(means: Arc<Means>, tenant: Arc<Tenant>, cursors: Arc<Cursors>) -> Arc<Self> {
        Arc::new(Self {
            cursors,
            transactions: Transactions::default(),
            echoes: Echoes::default(),
            room: Room::new(means.request_bytes_max),
            home: Server::new(&means, &tenant, None),
            means,
            tenant,
            shape: OnceCell::new(),
            unfound_at: Mutex::new(None),
            is_used: AtomicBool::new(true),
            unused_seconds: AtomicU32::new(0),
            is_over: AtomicBool::new(false),
        })
    }

    /// The registration that they were found by.
    pub(crate) fn generation(&self) -> Generation {
        self.tenant.generation
    }

    /// The registration of this moment.
    pub(crate) fn tenant(&self) -> Arc<Tenant> {
        self.home.pool.tenant()
    }

    /// Whether what is known is out of date: others are to be used from now on.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Ends what is known: the registration changed, or the servers turned out to be others.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        match self.shape.get() {
            Some(Shape::Set(set)) => set.end(),
            Some(Shape::Routers(routers)) => routers.end(),
            Some(Shape::Single) | None => {}
        }
    }

    /// To be called once a second.
    pub(crate) fn tick(&self) {
        self.cursors.sweep();
        self.transactions.sweep();
        let unused = if self.is_used.swap(false, Ordering::Relaxed) {
            self.unused_seconds.store(0, Ordering::Relaxed);
            0
        } else {
            self.unused_seconds.fetch_add(1, Ordering::Relaxed)
        };
        if self.tenant().generation != self.generation() || unused >= WATCHED_SECONDS {
            self.end();
        }
    }

    /// An upstream for that route without waiting, if that can be; else the server in whose line to wait, if that is
    /// a particular one.
    pub(crate) fn try_lease(&self, route: &Route) -> Result<Leased, Option<Arc<Server>>> {
        self.is_used.store(true, Ordering::Relaxed);
        let server = match (route, self.shape.get().ok_or(None)?) {
            (Route::Server(server), _) => Arc::clone(server),
            (_, Shape::Single) => Arc::clone(&self.home),
            (_, Shape::Routers(routers)) => return routers.try_lease().ok_or(None),
            (Route::Primary, Shape::Set(set)) => set.choose(&Preference::default()).ok_or(None)?,
            (Route::Read(preference), Shape::Set(set)) => set.choose(preference).ok_or(None)?,
        };
        match server.pool.try_lease() {
            Some(lease) => Ok((server, lease)),
            None => Err(Some(server)),
        }
    }

    /// An upstream for that route.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn lease(
        &self,
        route: &Route,
    ) -> Result<(Arc<Server>, Lease<Dialer>), Unserved> {
        let set = match (route, self.shape().await) {
            (Route::Server(server), _) => return at(server).await,
            (_, None | Some(Shape::Single)) => return at(&self.home).await,
            (_, Some(Shape::Routers(routers))) => return routers.lease().await,
            (_, Some(Shape::Set(set))) => set,
        };
        match route {
            Route::Read(preference) => set.lease(preference).await,
            Route::Primary | Route::Server(_) => set.lease(&Preference::default()).await,
        }
    }

    /// An answer says that its server is not what it was taken for.
    pub(crate) fn suspect(&self, server: &Server, said: Option<Version>) {
        match (self.shape.get(), &server.endpoint) {
            (Some(Shape::Set(set)), Some(endpoint)) => set.suspect(endpoint, said),
            (Some(Shape::Routers(routers)), Some(endpoint)) => routers.lose(endpoint),
            _ => {}
        }
    }

    /// After a server refused a request for no longer being what it was: waits until one fits. False: it is the same,
    /// and has not said that anything changed, or there is none in time.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn outlast(
        &self,
        route: &Route,
        refused: &Server,
        said: Option<Version>,
    ) -> bool {
        let (Some(Shape::Set(set)), Some(endpoint)) = (self.shape.get(), &refused.endpoint) else {
            return false;
        };
        let fits = match route {
            Route::Primary => set.wait(&Preference::default()).await,
            Route::Read(preference) => set.wait(preference).await,
            Route::Server(_) => None,
        };
        fits.is_some_and(|server| said.is_some() || server.endpoint.as_ref() != Some(endpoint))
    }

    /// Whether a transaction has to stay where it began: a router knows its own only.
    pub(crate) fn pins_transactions(&self) -> bool {
        matches!(self.shape.get(), Some(Shape::Routers(_)))
    }

    /// A member of a set answered where a single server was: what is known is wrong.
    pub(crate) fn doubt(&self, server: &Server) {
        let is_direct = is_direct(&self.tenant);
        if server.endpoint.is_none()
            && !is_direct
            && matches!(self.shape.get(), Some(Shape::Single))
        {
            self.end();
        }
    }

    /// What it is, if that is known; found out by whoever asks first.
    async fn shape(&self) -> Option<&Shape> {
        let is_unfound = |at: &Option<Instant>| at.is_some_and(|at| at.elapsed() < UNFOUND_FOR);
        if self.shape.get().is_none() && is_unfound(&self.unfound_at.lock()) {
            return None;
        }
        let found = self.shape.get_or_try_init(|| self.find_out()).await.ok();
        if found.is_none() {
            // The dial that follows meets the same fault and tells it.
            *self.unfound_at.lock() = Some(Instant::now());
        }
        found
    }

    async fn find_out(&self) -> Result<Shape, ()> {
        if is_direct(&self.tenant) {
            return Ok(Shape::Single);
        }
        let tenant = &self.tenant;
        let target = self.means.names.resolve(&tenant.target).await;
        let target = target.map_err(|fault| tracing::debug!(%fault, "no servers found"))?;
        let has_several = target.endpoints.len() > 1 || is_name(&target);
        match monitor::find_out(&target, &self.means.tls).await {
            Some(Found::Router) if has_several => {
                let means = Arc::clone(&self.means);
                let routers = Routers::new(means, Arc::clone(tenant), &target.endpoints);
                Ok(Shape::Routers(routers))
            }
            Some(Found::Alone | Found::Router) => Ok(Shape::Single),
            Some(Found::Member) => {
                let set = Set::watch(Arc::clone(&self.means), Arc::clone(tenant), &target);
                Ok(Shape::Set(set))
            }
            None => Err(()),
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.end();
    }
}

fn is_direct(tenant: &Tenant) -> bool {
    let option = tenant.target.options.get("directconnection");
    option.is_some_and(|value| value == "true")
}

async fn at(server: &Arc<Server>) -> Result<(Arc<Server>, Lease<Dialer>), Unserved> {
    match server.pool.lease().await {
        Ok(lease) => Ok((Arc::clone(server), lease)),
        Err(error) => Err(Unserved::Checkout(error)),
    }
}
