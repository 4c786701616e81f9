//! Live figures: what the gateway knows of its pools and clients at this moment.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use serde::Serialize;
use serde_json::json;

use super::{
    Admin,
    answer::{Answer, ok},
};

/// Where live figures come from; answers at once, from snapshots.
pub trait Figures: Send + Sync {
    /// All pools.
    fn pools(&self) -> Vec<PoolRow>;
    /// All clients.
    fn clients(&self) -> Vec<ClientRow>;
}

/// One pool.
#[derive(Debug, Clone, Serialize)]
pub struct PoolRow {
    /// The database's id.
    pub database_id: String,
    /// Its slug.
    pub slug: String,
    /// Its project's ref.
    pub project_ref: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The one server that it leads to, of databases that have a pool for each; `aside` for the one
    /// connection that listens for all clients of a PostgreSQL database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// What that server is, `primary` or `standby`, of PostgreSQL databases that have several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Clients waiting for an upstream.
    pub clients_waiting: usize,
    /// Upstreams in use.
    pub upstreams_leased: usize,
    /// Upstreams waiting to be used.
    pub upstreams_idle: usize,
    /// Upstreams being opened or cleaned.
    pub upstreams_changing: usize,
    /// Upstreams at most.
    pub upstreams_max: usize,
    /// Leases granted so far.
    pub leases: u64,
    /// Whether an operator holds new leases back.
    pub paused: bool,
    /// Why the upstream cannot be opened, when it cannot.
    pub fault: Option<String>,
}

/// One client.
#[derive(Debug, Clone, Serialize)]
pub struct ClientRow {
    /// The gateway's number of it.
    pub id: u64,
    /// Its protocol.
    pub protocol: &'static str,
    /// Its address.
    pub peer: String,
    /// The slug of the database that it uses.
    pub slug: String,
    /// That database's project.
    pub project_ref: String,
    /// The user it logged in as.
    pub user: String,
    /// What it may do.
    pub role: &'static str,
    /// What it calls itself.
    pub label: String,
    /// How long it has been here, in seconds.
    pub age_s: f64,
    /// Exchanges so far.
    pub exchanges: u64,
    /// Bytes from it.
    pub read_bytes: u64,
    /// Bytes to it.
    pub written_bytes: u64,
}

pub(super) async fn pools(State(admin): State<Arc<Admin>>) -> Response {
    ok(admin.parts.figures.pools())
}

pub(super) async fn clients(State(admin): State<Arc<Admin>>) -> Response {
    ok(admin.parts.figures.clients())
}

pub(super) async fn stats(State(admin): State<Arc<Admin>>) -> Response {
    let pools = admin.parts.figures.pools();
    let sum = |count: fn(&PoolRow) -> usize| pools.iter().map(count).sum::<usize>();
    ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": admin.began.elapsed().as_secs(),
        "draining": admin.parts.shutdown.is_draining(),
        "clients": admin.parts.figures.clients().len(),
        "clients_waiting": sum(|pool| pool.clients_waiting),
        "pools": pools.len(),
        "upstreams": {
            "leased": sum(|pool| pool.upstreams_leased),
            "idle": sum(|pool| pool.upstreams_idle),
            "changing": sum(|pool| pool.upstreams_changing),
        },
        "cache": admin.parts.registry.cache_figures(),
    }))
}

pub(super) async fn info(State(admin): State<Arc<Admin>>) -> Answer {
    Ok(ok(json!({
        "name": "polypool",
        "version": env!("CARGO_PKG_VERSION"),
        "listeners": admin.parts.entrances,
    })))
}
