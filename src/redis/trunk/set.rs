//! The trunks of one tenant: found or opened by protocol version and database.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Trunk,
    scripts::Stuck,
    task::{Driver, Patience, TrunkFault},
};
use crate::{
    fault::Refusal,
    net::{DialFault, DialStep},
    pool::{CheckoutError, CloseReason, Lease, Pool, Residue},
    redis::{settings::Settings, upstream::Dialer, wire::Version},
    shutdown::Shutdown,
};

/// A trunk this old is replaced by a new one.
const AGE_MAX: Duration = Duration::from_mins(30);

/// The trunks of a tenant.
pub(in crate::redis) struct Trunks {
    pool: Arc<Pool<Dialer>>,
    shutdown: Shutdown,
    patience: Patience,
    open_max: usize,
    /// Those that are stuck behind a script.
    stuck: Arc<Stuck>,
    open: Mutex<Vec<Open>>,
    /// The server's version, as the last one opened was told.
    server: Mutex<Option<Arc<str>>>,
    /// Held while one is being opened, so that a herd opens one.
    opening: tokio::sync::Mutex<Option<Failure>>,
}

/// A trunk and the database that it is preferred for.
struct Open {
    trunk: Arc<Trunk>,
    database: u32,
}

/// The last attempt that failed: whoever waited for it need not try again.
struct Failure {
    at: Instant,
    refusal: Refusal,
}

impl Trunks {
    pub(in crate::redis) fn new(
        pool: Arc<Pool<Dialer>>,
        shutdown: Shutdown,
        settings: &Settings,
        trunks_max: usize,
    ) -> Self {
        Self {
            pool,
            shutdown,
            patience: Patience::of(settings),
            open_max: trunks_max,
            stuck: Arc::default(),
            open: Mutex::default(),
            server: Mutex::new(None),
            opening: tokio::sync::Mutex::new(None),
        }
    }

    /// Whether a script holds up one of them.
    pub(in crate::redis) fn is_stuck(&self) -> bool {
        self.stuck.is_any()
    }

    /// An open trunk for that version, preferably one that is on that database.
    ///
    /// While a script holds one up, only one that is on the database and free of it.
    pub(in crate::redis) fn find(&self, version: Version, database: u32) -> Option<Arc<Trunk>> {
        let mut open = self.open.lock();
        open.retain(|one| !one.trunk.is_closed());
        let is_stuck = self.is_stuck();
        let mut found: Option<&Open> = None;
        for one in open.iter().filter(|one| one.trunk.version == version) {
            if one.trunk.is_stuck() {
                continue;
            }
            if one.database == database {
                return Some(Arc::clone(&one.trunk));
            }
            found = found.or(Some(one));
        }
        // Another database's is shared only when there may be no more.
        let shared = open.len() >= self.open_max && !is_stuck;
        found.filter(|_| shared).map(|one| Arc::clone(&one.trunk))
    }

    /// While a script holds up others: one of that version that is free of it, with the database that
    /// it is on.
    pub(in crate::redis) fn spare(&self, version: Version) -> Option<(Arc<Trunk>, u32)> {
        if !self.is_stuck() {
            return None;
        }
        let open = self.open.lock();
        let one = open.iter().find(|one| {
            let trunk = &one.trunk;
            trunk.version == version && !trunk.is_closed() && !trunk.is_stuck()
        })?;
        Some((Arc::clone(&one.trunk), one.trunk.database()))
    }

    /// The version and database of one that is open.
    pub(in crate::redis) fn any(&self) -> Option<(Version, u32)> {
        let open = self.open.lock();
        let one = open.iter().find(|one| !one.trunk.is_closed())?;
        Some((one.trunk.version, one.database))
    }

    /// An open trunk, opened if need be.
    pub(in crate::redis) async fn get(
        &self,
        version: Version,
        database: u32,
    ) -> Result<Arc<Trunk>, Refusal> {
        let asked = Instant::now();
        let mut last = self.opening.lock().await;
        if let Some(trunk) = self.find(version, database) {
            return Ok(trunk);
        }
        if let Some(failure) = last.as_ref().filter(|failure| failure.at >= asked) {
            return Err(failure.refusal.clone());
        }
        match self.open(version, database).await {
            Ok(trunk) => {
                *last = None;
                Ok(trunk)
            }
            Err(error) => {
                let refusal = error.refusal();
                *last = Some(Failure {
                    at: Instant::now(),
                    refusal: refusal.clone(),
                });
                Err(refusal)
            }
        }
    }

    /// The server's version, once one has been opened.
    pub(in crate::redis) fn server(&self) -> Option<Arc<str>> {
        self.server.lock().clone()
    }

    /// How many are open.
    pub(in crate::redis) fn count(&self) -> usize {
        let mut open = self.open.lock();
        open.retain(|one| !one.trunk.is_closed());
        open.len()
    }

    /// Waits until a script has let go of one that serves.
    async fn freed(&self, version: Version, database: u32) -> Arc<Trunk> {
        loop {
            let freed = self.stuck.freed();
            if let Some(trunk) = self.find(version, database) {
                return trunk;
            }
            freed.await;
        }
    }

    async fn open(&self, version: Version, database: u32) -> Result<Arc<Trunk>, CheckoutError> {
        let is_extra = self.is_stuck() && self.count() >= self.open_max;
        let mut lease = tokio::select! {
            lease = self.pool.lease() => lease?,
            // There may be no place for another as long as the one that is free again has its own.
            trunk = self.freed(version, database) => return Ok(trunk),
        };
        if let Err(fault) = lease.upstream.prepare(version, database).await {
            let cause = fault.to_string();
            lease.give_back(fault.residue());
            let hint = "the server must accept HELLO and SELECT";
            return Err(CheckoutError::DialFailed(DialFault::new(
                DialStep::Login,
                cause,
                hint,
            )));
        }
        *self.server.lock() = Some(Arc::clone(&lease.upstream.server));
        let stuck = Arc::clone(&self.stuck);
        let trunk = open(lease, (self.patience, is_extra), stuck, &self.shutdown);
        self.open.lock().push(Open {
            trunk: Arc::clone(&trunk),
            database,
        });
        Ok(trunk)
    }
}

/// Makes a trunk of a lease.
pub(in crate::redis) fn open(
    lease: Lease<Dialer>,
    (patience, is_extra): (Patience, bool),
    stuck: Arc<Stuck>,
    shutdown: &Shutdown,
) -> Arc<Trunk> {
    let upstream = &lease.upstream;
    let trunk = Arc::new(Trunk::new(upstream.version, upstream.database, stuck));
    let (kept, until) = (Arc::clone(&trunk), shutdown.clone());
    shutdown.spawn("redis-trunk", async move {
        drive(lease, &kept, (patience, is_extra), &until).await;
    });
    trunk
}

/// Runs a trunk on its lease, and gives the lease back as the trunk's end allows.
///
/// While the gateway drains, it ends as soon as nothing is under way.
async fn drive(
    mut lease: Lease<Dialer>,
    trunk: &Trunk,
    (patience, is_extra): (Patience, bool),
    shutdown: &Shutdown,
) {
    let inbox = (Arc::clone(&trunk.inbox), trunk.scripts.clone());
    let pool = Arc::clone(lease.pool());
    let (opened, generation) = (Instant::now(), pool.tenant().generation);
    let is_retired = || {
        opened.elapsed() > AGE_MAX
            || pool.tenant().generation != generation
            || shutdown.is_draining()
            // It stood in for one that was stuck.
            || (is_extra && !trunk.scripts.is_any_stuck())
    };
    let upstream = &mut lease.upstream;
    let fault = Driver::new(upstream, inbox, patience, is_retired)
        .run()
        .await;
    {
        let inbox = trunk.inbox.lock();
        lease.upstream.database = inbox.database;
        lease.upstream.version = inbox.version;
    }
    let residue = match &fault {
        TrunkFault::Unused => Residue::Clean,
        TrunkFault::Closed | TrunkFault::Io(_) | TrunkFault::Stuck => {
            Residue::Broken(CloseReason::Lost)
        }
        TrunkFault::Deposed => Residue::Broken(CloseReason::Retired),
        TrunkFault::Reply(_) | TrunkFault::Unasked | TrunkFault::Select => {
            Residue::Broken(CloseReason::ProtocolError)
        }
    };
    match &fault {
        TrunkFault::Unused | TrunkFault::Closed => tracing::debug!(%fault, "trunk ended"),
        _ => tracing::warn!(%fault, "trunk ended"),
    }
    lease.give_back(residue);
}
