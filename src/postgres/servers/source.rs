//! Where a session has its upstreams from: the pool of the only server, or those of several.

use std::{sync::Arc, time::Duration};

use super::{ATTRS, Servers, Unserved, several::Several};
use crate::{
    pool::{Fleet, Lease, Pool},
    postgres::{
        rank::Rank, session::Told, settings::Parameters, tenancy::Tenancy, upstream::Dialer,
    },
    shutdown::Shutdown,
    tenant::Tenant,
};

/// Where upstreams come from.
pub(in crate::postgres) enum Source {
    /// One server, whatever it is.
    Single(Arc<Pool<Dialer>>),
    /// Whichever server fits.
    Several(Box<Several>),
}

/// What it takes to reach servers.
#[derive(Clone)]
pub(in crate::postgres) struct Means {
    pub(in crate::postgres) fleet: Arc<Fleet<Dialer>>,
    pub(in crate::postgres) tenancy: Arc<Tenancy>,
    pub(in crate::postgres) shutdown: Shutdown,
    /// How long a server that fits is waited for.
    pub(in crate::postgres) wait_max: Duration,
}

impl Source {
    /// Where a session of a tenant begins.
    pub(in crate::postgres) fn of(
        means: Means,
        tenant: &Arc<Tenant>,
        startup: &Parameters,
    ) -> Self {
        if tenant.target.is_choosy() || startup.find(ATTRS).is_some() {
            Self::Several(Several::boxed(means, tenant))
        } else {
            Self::Single(means.fleet.pool(tenant))
        }
    }

    /// The client chooses, though there is one server only: from now on that is looked at.
    pub(in crate::postgres) fn split(&mut self, means: Means) {
        if let Self::Single(pool) = self {
            *self = Self::Several(Several::boxed(means, &pool.tenant()));
        }
    }

    /// What is known of the servers, if they are looked at.
    pub(in crate::postgres) fn servers(&self) -> Option<Arc<Servers>> {
        match self {
            Self::Single(_) => None,
            Self::Several(several) => Some(Arc::clone(&several.servers)),
        }
    }

    /// The registration of this moment.
    pub(in crate::postgres) fn tenant(&self) -> Arc<Tenant> {
        match self {
            Self::Single(pool) => pool.tenant(),
            Self::Several(several) => several.home.tenant(),
        }
    }

    /// An idle upstream, if there is one.
    pub(in crate::postgres) fn try_lease(&mut self) -> Option<Lease<Dialer>> {
        match self {
            Self::Single(pool) => pool.try_lease(),
            Self::Several(several) => several.try_lease(),
        }
    }

    /// An upstream, after waiting for it.
    ///
    /// # Cancel safety
    /// Safe.
    pub(in crate::postgres) async fn lease(&mut self) -> Result<Lease<Dialer>, Unserved> {
        match self {
            Self::Single(pool) => pool.lease().await.map_err(Unserved::Checkout),
            Self::Several(several) => several.lease().await,
        }
    }

    /// The server in use says that it has been promoted.
    pub(in crate::postgres) fn promoted(&self) {
        if let Self::Several(several) = self
            && let Some(at) = several.at
        {
            several.servers.hear(at, Rank::Primary);
        }
    }

    /// The server in use does not write, which may be its own fault.
    pub(in crate::postgres) fn doubt(&self) {
        if let Self::Several(several) = self {
            several.doubt();
        }
    }

    /// What a client is told of the place where it is going to be served, as far as that is known.
    pub(in crate::postgres) fn greeting(&mut self, tenancy: &Tenancy) -> Option<Told> {
        match self {
            Self::Single(_) => tenancy.greeting().map(Told::new),
            Self::Several(several) => several.greeting(),
        }
    }
}
