//! Connections to a tenant's MongoDB: opened, logged in, looked at, probed.
//!
//! A connection serves one request at a time and keeps nothing of it, so it never needs a reset:
//! cursors, sessions and transactions live in the server, by their own ids.

mod converse;
mod handshake;
mod login;
mod names;
mod probe;
mod seeds;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::{io::AsyncWriteExt as _, time::Instant};

pub use names::Names;
pub use probe::probe;

pub(crate) use converse::{Answer, ConverseError, converse};
pub(crate) use handshake::hello_command;
pub(crate) use login::digest;
pub(crate) use names::is_name;
pub(crate) use seeds::connect;

use self::seeds::{OpenError, open, open_server};
use super::{intake::Intake, wire::Compressor};
use crate::{
    auth::scram::Salted,
    net::{DialFault, Stream, tls::ClientTls},
    pool,
    tenant::{Endpoint, Generation, Tenant, TenantId},
};

/// How long one server of a target may take to accept a connection.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Tenants of whom something is kept.
const KNOWN_MAX: usize = 10_000;
/// How long a set without a primary is waited for, and how often it is asked.
const ELECTION_WAIT_MAX: Duration = Duration::from_secs(8);
const ELECTION_ASK_EVERY: Duration = Duration::from_millis(200);

/// What the server at the other end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerKind {
    /// A server by itself: it refuses retryable writes and transactions.
    Standalone,
    /// A member of a replica set.
    Member,
    /// A router of a sharded cluster.
    Router,
}

/// One logged-in connection.
pub struct Upstream {
    /// The socket.
    pub(crate) stream: Stream,
    /// What was read of the reply under way.
    pub(crate) intake: Intake,
    /// What it is connected to.
    pub(crate) kind: ServerKind,
    /// Until when that is true.
    pub(crate) era: Era,
    /// How requests to it are compressed.
    pub(crate) compressor: Option<Compressor>,
}

/// The time during which a tenant's servers keep their parts: it ends with an election. Connections
/// of a past era are not used again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Era {
    current: Arc<AtomicU64>,
    own: u64,
}

impl Era {
    /// Ends the era of all connections that were opened in it.
    pub(crate) fn end(&self) {
        // Many notice the same election: only the first counts it.
        let next = self.own.wrapping_add(1);
        let (own, order) = (self.own, Ordering::Relaxed);
        if self
            .current
            .compare_exchange(own, next, order, order)
            .is_ok()
        {
            tracing::info!(
                "an upstream is no longer primary; its tenant's connections are renewed"
            );
        }
    }

    fn is_over(&self) -> bool {
        self.current.load(Ordering::Relaxed) != self.own
    }

    /// The era of this moment.
    fn now(&self) -> Self {
        Self {
            current: Arc::clone(&self.current),
            own: self.current.load(Ordering::Relaxed),
        }
    }
}

impl pool::Upstream for Upstream {
    fn is_open(&mut self) -> bool {
        !self.era.is_over() && self.intake.pending().is_empty() && self.stream.is_quiet()
    }

    async fn reset(&mut self) -> Result<(), String> {
        Ok(())
    }

    async fn close(mut self) {
        if let Err(error) = self.stream.shutdown().await {
            tracing::trace!(%error, "upstream was closed by the other side");
        }
    }
}

/// Opens connections for the pools.
pub struct Dialer {
    tls: ClientTls,
    names: Arc<Names>,
    tenants: Mutex<AHashMap<TenantId, Known>>,
}

/// What is kept of a tenant from one dial to the next.
#[derive(Clone, Default)]
struct Known {
    generation: Generation,
    /// Deriving a key from a password costs milliseconds.
    salted: Option<Salted>,
    era: Era,
}

impl Dialer {
    /// A dialer that knows nobody yet.
    pub fn new(tls: ClientTls, names: Arc<Names>) -> Self {
        Self {
            tls,
            names,
            tenants: Mutex::new(AHashMap::new()),
        }
    }

    fn known(&self, tenant: &Tenant) -> Known {
        let mut tenants = self.tenants.lock();
        if tenants.len() >= KNOWN_MAX && !tenants.contains_key(&tenant.id) {
            tenants.clear();
        }
        let known = tenants.entry(tenant.id).or_default();
        if known.generation != tenant.generation {
            // Another password may be right now.
            *known = Known {
                generation: tenant.generation,
                ..Known::default()
            };
        }
        known.clone()
    }

    fn remember(&self, tenant: &Tenant, salted: Option<Salted>) {
        if let Some(known) = self.tenants.lock().get_mut(&tenant.id)
            && known.generation == tenant.generation
        {
            known.salted = salted;
        }
    }
}

impl pool::Dial for Dialer {
    type Upstream = Upstream;

    async fn dial(&self, tenant: &Arc<Tenant>) -> Result<Upstream, DialFault> {
        let known = self.known(tenant);
        let target = self.names.resolve(&tenant.target).await?;
        let until = Instant::now() + ELECTION_WAIT_MAX;
        let mut opened = loop {
            let era = known.era.now();
            match open(&target, &self.tls, known.salted.as_ref(), CONNECT_WAIT_MAX).await {
                Ok(mut opened) => {
                    opened.upstream.era = era;
                    break opened;
                }
                // The servers are there and will agree soon.
                Err(OpenError::NoPrimary(_)) if Instant::now() < until => {
                    tokio::time::sleep(ELECTION_ASK_EVERY).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        if known.salted.is_none() {
            self.remember(tenant, opened.salted.take());
        }
        Ok(opened.upstream)
    }

    async fn dial_server(
        &self,
        tenant: &Arc<Tenant>,
        server: &Endpoint,
    ) -> Result<Upstream, DialFault> {
        let known = self.known(tenant);
        let with = (known.salted.as_ref(), CONNECT_WAIT_MAX);
        let target = self.names.resolve(&tenant.target).await?;
        let mut opened = open_server(&target, server, &self.tls, with).await?;
        if known.salted.is_none() {
            self.remember(tenant, opened.salted.take());
        }
        Ok(opened.upstream)
    }
}
