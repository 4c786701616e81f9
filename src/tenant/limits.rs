//! What bounds one tenant's use of the gateway.

use std::time::Duration;

use crate::protocol::Protocol;

/// When an upstream changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoolMode {
    /// At the end of each transaction (PostgreSQL), command or operation.
    #[default]
    Transaction,
    /// When the client leaves.
    Session,
    /// After each statement; transactions are refused.
    Statement,
}

/// Bounds of one tenant's pool and clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantLimits {
    /// Upstream connections at most.
    pub upstream_max: usize,
    /// Upstream connections kept open while the pool lives.
    pub idle_min: usize,
    /// Clients connected at once at most.
    pub clients_max: usize,
    /// Clients waiting for an upstream at most.
    pub queue_max: usize,
    /// How long a client waits for an upstream.
    pub queue_wait_max: Duration,
    /// When an upstream changes hands.
    pub pool_mode: PoolMode,
    /// How long clients may take over things.
    pub timeouts: Timeouts,
}

/// How long a `PostgreSQL` client may take over something; `None`: as long as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// Over a query, its answer included.
    pub query: Option<Duration>,
    /// Over the pauses within a transaction.
    pub transaction_idle: Option<Duration>,
    /// Over the pauses between transactions.
    pub client_idle: Option<Duration>,
}

impl Timeouts {
    /// These, and where they say nothing, those.
    #[must_use]
    pub fn or(self, those: Self) -> Self {
        Self {
            query: self.query.or(those.query),
            transaction_idle: self.transaction_idle.or(those.transaction_idle),
            client_idle: self.client_idle.or(those.client_idle),
        }
    }
}

impl TenantLimits {
    /// The defaults of a protocol: 20 upstream connections for PostgreSQL, 10 for the others.
    pub const fn of(protocol: Protocol) -> Self {
        Self {
            upstream_max: match protocol {
                Protocol::Postgres => 20,
                Protocol::Redis | Protocol::Mongodb => 10,
            },
            idle_min: 0,
            clients_max: 10_000,
            queue_max: 10_000,
            queue_wait_max: Duration::from_secs(30),
            pool_mode: PoolMode::Transaction,
            timeouts: Timeouts {
                query: None,
                transaction_idle: None,
                client_idle: None,
            },
        }
    }
}
