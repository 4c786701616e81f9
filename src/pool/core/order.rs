//! The words of the core: what bounds it, what it remembers, what it orders.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    super::{CheckoutError, CloseReason, OpenReason, Settings},
    InLine,
};
use crate::tenant::{Generation, Tenant};

/// What bounds one pool.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) struct Bounds {
    pub(in crate::pool) max: usize,
    pub(in crate::pool) idle_min: usize,
    pub(in crate::pool) dialing_max: usize,
    pub(in crate::pool) queue_max: usize,
    pub(in crate::pool) wait_max: Duration,
    pub(in crate::pool) idle_after: Duration,
    pub(in crate::pool) backoff_min: Duration,
    pub(in crate::pool) backoff_max: Duration,
}

impl Bounds {
    /// What bounds a pool of that tenant.
    pub(in crate::pool) fn of(settings: &Settings, tenant: &Tenant) -> Self {
        Self {
            max: tenant.limits.upstream_max,
            idle_min: tenant.limits.idle_min,
            dialing_max: settings.dialing_max,
            queue_max: tenant.limits.queue_max,
            wait_max: tenant.limits.queue_wait_max,
            idle_after: settings.idle_after,
            backoff_min: settings.backoff_min,
            backoff_max: settings.backoff_max,
        }
    }
}

/// What is remembered of a connection wherever it is.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) struct Meta {
    pub(in crate::pool) expires: Instant,
    pub(in crate::pool) generation: Generation,
    pub(in crate::pool) epoch: u64,
}

/// What the shell has to do.
#[derive(Debug)]
pub(in crate::pool) enum Order<C, W> {
    /// Give the connection to who waits; if it has gone, `came_back`.
    Hand(InLine<W>, C, Meta),
    /// Call `expire`, and again whenever it says, until it says nothing.
    Watch,
    /// Open a connection, then `dialed` or `dial_denied`.
    Dial(OpenReason),
    /// Say goodbye, then `closed`.
    Close(C, CloseReason),
    /// Tell the waiter.
    Deny(W, CheckoutError),
}
