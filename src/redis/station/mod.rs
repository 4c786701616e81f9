//! What all clients of one tenant share: its pool, its trunks, and the right to hold a lease.

mod aside;

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, futures::Notified};

use super::{
    blocking::Shares,
    cluster::Cluster,
    exchange::Exchange,
    pause::Pause,
    presence::Presences,
    redirect::{Messenger, Messengers},
    settings::Settings,
    subscriptions::{Hub, Nodes},
    trunk::Trunks,
    upstream::{Dialer, database_of},
    wire::Version,
};
use crate::{
    fault::{Effect, Refusal},
    pool::{Lease, Pool},
    shutdown::Shutdown,
    tenant::{Generation, Tenant, TenantId},
};

/// What `HELLO` says of a server that cannot be asked: the first version that knows `HELLO`.
const SERVER_UNKNOWN: &str = "6.0.0";

/// Upstreams that are kept back for the trunks of a cluster: one for each of so many masters. With more
/// masters, those that hold leases share what is left.
const CLUSTER_TRUNKS: usize = 5;

/// One tenant, as its sessions use it.
pub(super) struct Station {
    pool: Arc<Pool<Dialer>>,
    trunks: Trunks,
    hub: Arc<Hub>,
    /// The nodes, if the database is a cluster.
    cluster: Option<Arc<Cluster>>,
    /// Bounds leases that are held for long, so that trunks always have a place. Fair.
    pins: Arc<Semaphore>,
    /// Bounds those that are kept for a session.
    keepers: Arc<Semaphore>,
    /// How many wait for their turn at one.
    queued: AtomicUsize,
    /// Somebody has begun to wait.
    crowding: Notify,
    shares: Shares,
    presences: Arc<Presences>,
    messengers: Messengers,
    /// Held by each client that is told of every command.
    audience: Arc<()>,
    pause: Pause,
    shutdown: Shutdown,
    /// The database of the connection URL.
    home: u32,
    /// The highest database number that the server is known to have.
    highest: AtomicU32,
    generation: Generation,
    tenant: TenantId,
}

impl Station {
    pub(super) fn new(
        pool: Arc<Pool<Dialer>>,
        tenant: &Tenant,
        settings: &Settings,
        shutdown: Shutdown,
        dialer: Dialer,
    ) -> Self {
        let cluster = tenant.target.scheme.ends_with("+cluster").then(|| {
            let (pool, shutdown) = (Arc::clone(&pool), shutdown.clone());
            Cluster::new(pool, dialer, settings, shutdown)
        });
        let max = tenant.limits.upstream_max;
        // Trunks are kept, so where they had every place a transaction would wait for ever. One more
        // trunk is for clients of the other version, one place for the subscriptions, and one so that a
        // script that runs for ever can be killed while no trunk is free of it.
        let trunks_max = settings.trunks_max.min(max.saturating_sub(3)).max(1);
        let trunks = if cluster.is_some() {
            CLUSTER_TRUNKS
        } else {
            trunks_max + 2
        };
        let pins = max.saturating_sub(trunks + 1).max(1);
        let home = database_of(&tenant.target).unwrap_or(0);
        let (pins, keepers) = (
            Arc::new(Semaphore::new(pins)),
            Arc::new(Semaphore::new(pins - 1)),
        );
        let nodes = cluster.as_ref();
        let nodes = nodes.map(|cluster| Nodes::new(cluster, &keepers, &pins));
        Self {
            trunks: Trunks::new(Arc::clone(&pool), shutdown.clone(), settings, trunks_max),
            hub: Hub::new(Arc::clone(&pool), shutdown.clone(), nodes),
            pool,
            cluster,
            pins,
            keepers,
            queued: AtomicUsize::new(0),
            crowding: Notify::new(),
            shares: Shares::default(),
            presences: Arc::default(),
            messengers: Messengers::default(),
            audience: Arc::default(),
            pause: Pause::new(),
            shutdown,
            home,
            highest: AtomicU32::new(home),
            generation: tenant.generation,
            tenant: tenant.id,
        }
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn tenant(&self) -> TenantId {
        self.tenant
    }

    pub(super) fn trunks(&self) -> &Trunks {
        &self.trunks
    }

    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    pub(super) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// Whether it has upstreams that clients share.
    pub(super) fn has_trunks(&self) -> bool {
        self.trunks.count() > 0 || self.cluster.as_ref().is_some_and(|nodes| nodes.count() > 0)
    }

    /// The database that a client starts with.
    pub(super) fn home(&self) -> u32 {
        self.home
    }

    /// Whether the server is known to have a database of that number.
    pub(super) fn has_database(&self, number: u32) -> bool {
        number <= self.highest.load(Ordering::Relaxed)
    }

    /// Notes that the server has a database of that number.
    pub(super) fn note_database(&self, number: u32) {
        self.highest.fetch_max(number, Ordering::Relaxed);
    }

    /// The lines of clients that block.
    pub(super) fn shares(&self) -> &Shares {
        &self.shares
    }

    /// What clients see of each other.
    pub(super) fn presences(&self) -> &Arc<Presences> {
        &self.presences
    }

    /// Upstreams that hear for clients what others redirect to them.
    pub(super) fn messengers(&self) -> &Messengers {
        &self.messengers
    }

    /// What those hold who are told of every command.
    pub(super) fn audience(&self) -> &Arc<()> {
        &self.audience
    }

    /// Whether a client is told of every command.
    pub(super) fn has_audience(&self) -> bool {
        Arc::strong_count(&self.audience) > 1
    }

    /// Whether the server holds writes back.
    pub(super) fn pause(&self) -> &Pause {
        &self.pause
    }

    pub(super) fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// A turn among those who hold a lease for long, in the order of asking.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        if let Ok(permit) = Arc::clone(&self.pins).try_acquire_owned() {
            return Ok(permit);
        }
        let _queued = Queued::new(self);
        // It is never closed while the station lives.
        Arc::clone(&self.pins)
            .acquire_owned()
            .await
            .map_err(|_| Refusal::Draining)
    }

    /// The right to keep a lease for a session; `None`: as many as may be are kept.
    pub(super) fn keep(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.keepers).try_acquire_owned().ok()
    }

    /// Whether somebody waits for a turn.
    pub(super) fn is_crowded(&self) -> bool {
        self.queued.load(Ordering::Relaxed) > 0
    }

    /// Resolves when somebody begins to wait for a turn; made before it is asked whether anybody does.
    pub(super) fn crowded(&self) -> Notified<'_> {
        self.crowding.notified()
    }

    /// An upstream for one client, in its version and on its database; in a cluster, to the node of a
    /// slot.
    pub(super) async fn lease(
        &self,
        permit: OwnedSemaphorePermit,
        (version, database): (Version, u32),
        slot: Option<u16>,
    ) -> Result<Exchange, Refusal> {
        let lease = match &self.cluster {
            Some(cluster) => cluster.lease(slot).await?,
            None => self.pool.lease().await.map_err(|error| error.refusal())?,
        };
        let lease = prepared(lease, version, database).await?;
        Ok(Exchange::new(lease, permit, self.cluster.clone()))
    }

    /// The upstream that hears for a client what others redirect to it; `None`: no more may be kept.
    pub(super) async fn messenger(&self, target: u64) -> Result<Option<Arc<Messenger>>, Refusal> {
        if let Some(found) = self.messengers.find(target) {
            return Ok(Some(found));
        }
        let Some(keeper) = self.keep() else {
            return Ok(None);
        };
        let turn = self.turn().await?;
        let mut lease = self.upstream(None, self.home).await?;
        let number = lease.upstream.own_number().await.map_err(|fault| {
            let cause = fault.to_string();
            Refusal::UpstreamDown { cause }
        })?;
        let presences = Arc::clone(&self.presences);
        let upkeep = (lease, [turn, keeper]);
        let messenger = self
            .messengers
            .begin((number, target), upkeep, presences, &self.shutdown);
        Ok(Some(messenger))
    }

    /// An upstream on that database, in that version or else in the newest that the server speaks.
    pub(super) async fn upstream(
        &self,
        version: Option<Version>,
        database: u32,
    ) -> Result<Lease<Dialer>, Refusal> {
        let lease = self.pool.lease().await.map_err(|error| error.refusal())?;
        let newest = if lease.upstream.speaks_hello {
            Version::Resp3
        } else {
            Version::Resp2
        };
        prepared(lease, version.unwrap_or(newest), database).await
    }

    /// Asks the server a question of the gateway's own, over a trunk.
    pub(super) async fn ask<W: AsRef<[u8]>>(
        &self,
        version: Version,
        database: u32,
        words: &[W],
    ) -> Result<Bytes, Refusal> {
        let lost = |_| Refusal::UpstreamLost {
            effect: Effect::Unknown,
        };
        let trunk = self.trunks.get(version, database).await?;
        let answer = trunk
            .ask(database, words)
            .map_err(|_| Refusal::UpstreamLost {
                effect: Effect::None,
            })?;
        answer.await.map_err(lost)
    }

    /// Sends commands of the gateway's own over a trunk, in one piece; every reply, errors too.
    pub(super) async fn converse(
        &self,
        version: Version,
        database: u32,
        commands: (&[u8], usize),
    ) -> Result<Vec<Bytes>, Refusal> {
        let trunk = self.trunks.get(version, database).await?;
        let answers = trunk
            .converse(database, commands)
            .map_err(|_| Refusal::UpstreamLost {
                effect: Effect::None,
            })?;
        answers.await.map_err(|_| Refusal::UpstreamLost {
            effect: Effect::Unknown,
        })
    }

    /// Ends the wait of another of our upstreams, by the server's number of it. False: it did not wait.
    pub(super) async fn unblock(&self, number: u64) -> Result<bool, Refusal> {
        let (version, database) = self.trunks.any().unwrap_or((Version::Resp2, self.home));
        let words = ["CLIENT", "UNBLOCK", &number.to_string()];
        let reply = self.ask(version, database, &words).await?;
        Ok(reply.starts_with(b":1"))
    }

    /// The server's version, learned when the client's trunk is opened.
    pub(super) async fn server(&self, version: Version, database: u32) -> Arc<str> {
        if let Some(cluster) = &self.cluster {
            if let Err(refusal) = cluster.known().await {
                tracing::debug!(%refusal, "version of the servers unknown");
            }
            let server = cluster.server();
            return if server.is_empty() {
                Arc::from(SERVER_UNKNOWN)
            } else {
                server
            };
        }
        if let Some(known) = self.trunks.server() {
            return known;
        }
        if let Err(refusal) = self.trunks.get(version, database).await {
            tracing::debug!(%refusal, "version of the server unknown");
        }
        let server = self.trunks.server().filter(|server| !server.is_empty());
        server.unwrap_or_else(|| Arc::from(SERVER_UNKNOWN))
    }
}

/// Brings an upstream to that version and database.
async fn prepared(
    mut lease: Lease<Dialer>,
    version: Version,
    database: u32,
) -> Result<Lease<Dialer>, Refusal> {
    match lease.upstream.prepare(version, database).await {
        Ok(()) => Ok(lease),
        Err(fault) => {
            lease.give_back(fault.residue());
            Err(Refusal::UpstreamDown {
                cause: fault.to_string(),
            })
        }
    }
}

/// Counts among those who wait for a turn.
struct Queued<'a>(&'a Station);

impl<'a> Queued<'a> {
    fn new(station: &'a Station) -> Self {
        station.queued.fetch_add(1, Ordering::Relaxed);
        station.crowding.notify_waiters();
        Self(station)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
    }
}
