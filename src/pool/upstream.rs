//! What the pool asks of a protocol: how an upstream is opened, looked at, cleaned and closed.

use std::{future::Future, sync::Arc};

use super::CloseReason;
use crate::{
    net::DialFault,
    tenant::{Endpoint, Tenant},
};

/// One logged-in connection to a tenant's database.
pub trait Upstream: Send + 'static {
    /// Whether an idle connection is still good: no end of file, no byte that nobody asked for.
    fn is_open(&mut self) -> bool;

    /// Brings the session back to what it was after login.
    ///
    /// # Cancel safety
    /// Not needed: the pool closes an upstream whose reset does not end well and in time.
    fn reset(&mut self) -> impl Future<Output = Result<(), String>> + Send;

    /// Says goodbye as the protocol does; the pool bounds its time.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Opens upstreams of one protocol.
pub trait Dial: Send + Sync + 'static {
    /// What is opened.
    type Upstream: Upstream;

    /// Connects and logs in.
    fn dial(
        &self,
        tenant: &Arc<Tenant>,
    ) -> impl Future<Output = Result<Self::Upstream, DialFault>> + Send;

    /// Connects to that one of the tenant's servers, for a pool of its own. A protocol that asks
    /// for no such pools need not know how.
    fn dial_server(
        &self,
        tenant: &Arc<Tenant>,
        _server: &Endpoint,
    ) -> impl Future<Output = Result<Self::Upstream, DialFault>> + Send {
        self.dial(tenant)
    }
}

/// What an exchange left behind on its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residue {
    /// Nothing: proven by the protocol.
    Clean,
    /// Session state that a reset removes.
    NeedsReset,
    /// It must not be used again.
    Broken(CloseReason),
}
