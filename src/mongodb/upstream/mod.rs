//! Connections to a tenant's MongoDB: opened, logged in, looked at, probed.
//!
//! A connection serves one request at a time and keeps nothing of it, so it never needs a reset:
//! cursors, sessions and transactions live in the server, by their own ids.

mod converse;
mod handshake;
mod probe;

use std::{sync::Arc, time::Duration};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;

pub use probe::probe;

pub(crate) use converse::converse;

use self::handshake::open;
use super::intake::Intake;
use crate::{
    auth::scram::Salted,
    net::{DialFault, Stream, tls::ClientTls},
    pool,
    tenant::{Generation, Tenant, TenantId},
};

/// How long one server of a target may take to accept a connection.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Tenants whose salted password is kept.
const SALTED_MAX: usize = 10_000;

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
}

impl pool::Upstream for Upstream {
    fn is_open(&mut self) -> bool {
        self.intake.pending().is_empty() && self.stream.is_quiet()
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
    /// Deriving a key from a password costs milliseconds; each tenant's is kept.
    salted: Mutex<AHashMap<TenantId, (Generation, Salted)>>,
}

impl Dialer {
    /// A dialer that knows no password yet.
    pub fn new(tls: ClientTls) -> Self {
        Self {
            tls,
            salted: Mutex::new(AHashMap::new()),
        }
    }

    fn known(&self, tenant: &Tenant) -> Option<Salted> {
        let salted = self.salted.lock();
        let (generation, salted) = salted.get(&tenant.id)?;
        (*generation == tenant.generation).then(|| salted.clone())
    }

    fn remember(&self, tenant: &Tenant, fresh: Salted) {
        let mut salted = self.salted.lock();
        if salted.len() >= SALTED_MAX {
            salted.clear();
        }
        salted.insert(tenant.id, (tenant.generation, fresh));
    }
}

impl pool::Dial for Dialer {
    type Upstream = Upstream;

    async fn dial(&self, tenant: &Arc<Tenant>) -> Result<Upstream, DialFault> {
        let known = self.known(tenant);
        let opened = open(&tenant.target, &self.tls, known.as_ref(), CONNECT_WAIT_MAX).await?;
        if let (None, Some(salted)) = (known, opened.salted) {
            self.remember(tenant, salted);
        }
        Ok(opened.upstream)
    }
}
