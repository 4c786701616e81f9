//! What a pool looks like at one moment, for metrics and the admin API.

use crate::tenant::TenantId;

/// Counts of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStats {
    /// Whose it is.
    pub tenant: TenantId,
    /// The tenant's slug.
    pub slug: String,
    /// The owning project's ref.
    pub project: String,
    /// The one server that it leads to, if it is not the whole tenant's; `aside` for the one connection beside it.
    pub server: Option<String>,
    /// Upstreams waiting to be used.
    pub idle: usize,
    /// Upstreams in use.
    pub leased: usize,
    /// Upstreams being opened.
    pub dialing: usize,
    /// Upstreams being cleaned.
    pub resetting: usize,
    /// Clients waiting.
    pub waiting: usize,
    /// Upstreams at most.
    pub max: usize,
    /// Leases granted since the pool exists.
    pub leases: u64,
    /// Whether an operator holds new leases back.
    pub paused: bool,
    /// Why the upstream cannot be opened at the moment.
    pub fault: Option<String>,
}
