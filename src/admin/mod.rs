//! The admin HTTP API: a file per resource, over the registry and over snapshots of live figures.
//!
//! Nothing here can slow a session: figures are read as snapshots, and a connection test opens a
//! connection of its own with a deadline. How a database is reached is passed in ([`Prober`]).

mod answer;
mod body;
mod client_url;
mod control;
mod credentials;
mod databases;
mod egress;
mod figures;
mod gate;
mod health;
mod probe;
mod projects;
mod routes;
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod token;
mod tokens;

use std::{net::SocketAddr, sync::Arc};

use axum::Router;
use tokio::time::Instant;

pub use self::{
    client_url::Entrances,
    control::{Control, ControlFuture, Order},
    figures::{ClientRow, Figures, PoolRow},
    probe::{ProbeFuture, Prober, ResolveFuture},
    settings::Settings,
    token::{load_or_create_token, token_file},
};
use crate::{crypto::Secret, registry::Registry, shutdown::Shutdown};

/// Renders the metrics in Prometheus' text format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the admin API is put together from.
pub struct Parts {
    /// Its part of the configuration.
    pub settings: Settings,
    /// The registry it shows and changes.
    pub registry: Arc<Registry>,
    /// How databases are tested.
    pub prober: Arc<dyn Prober>,
    /// Where live figures come from.
    pub figures: Arc<dyn Figures>,
    /// Who carries out what operators ask of pools.
    pub control: Arc<dyn Control>,
    /// Renders `/metrics`.
    pub metrics: RenderMetrics,
    /// The token that may do everything.
    pub token: Secret,
    /// Where clients connect.
    pub entrances: Entrances,
    /// Whether the gateway drains.
    pub shutdown: Shutdown,
}

/// The admin API.
pub struct Admin {
    parts: Parts,
    began: Instant,
}

impl Admin {
    /// An admin API over its parts.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            began: Instant::now(),
        })
    }

    /// The service, as one caller from `peer` sees it.
    pub fn router(self: &Arc<Self>, peer: SocketAddr) -> Router {
        routes::router(Arc::clone(self), peer)
    }
}
