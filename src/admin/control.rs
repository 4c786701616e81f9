//! `…/databases/{id}/pause`, `…/resume`, `…/drain`, `…/reconnect`: what operators ask of a pool.

use std::{future::Future, pin::Pin, sync::Arc};

use axum::{
    Extension,
    extract::{Path, State},
};
use serde_json::json;

use super::{
    Admin,
    answer::{Answer, ApiError, Code, ok},
};
use crate::registry::Actor;

/// What is asked of a database's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// New leases are held back; those in use go on.
    Pause,
    /// A pause ends.
    Resume,
    /// A pause, answered when no upstream is in use any more, and with all of them closed.
    Drain,
    /// Every upstream closes, now or when it comes back.
    Reconnect,
}

impl Order {
    /// The name in the route and in the audit log.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Drain => "drain",
            Self::Reconnect => "reconnect",
        }
    }
}

/// The outcome; an error says why not.
pub type ControlFuture<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// Who carries orders out.
pub trait Control: Send + Sync {
    /// Carries one out on a database, by its id or slug.
    fn control<'a>(&'a self, order: Order, database: &'a str) -> ControlFuture<'a>;
}

/// A handler's arguments: the admin API, who asks, and the database.
type Asked = (State<Arc<Admin>>, Extension<Actor>, Path<String>);

pub(super) async fn pause(
    state: State<Arc<Admin>>,
    actor: Extension<Actor>,
    id: Path<String>,
) -> Answer {
    run(Order::Pause, (state, actor, id)).await
}

pub(super) async fn resume(
    state: State<Arc<Admin>>,
    actor: Extension<Actor>,
    id: Path<String>,
) -> Answer {
    run(Order::Resume, (state, actor, id)).await
}

pub(super) async fn drain(
    state: State<Arc<Admin>>,
    actor: Extension<Actor>,
    id: Path<String>,
) -> Answer {
    run(Order::Drain, (state, actor, id)).await
}

pub(super) async fn reconnect(
    state: State<Arc<Admin>>,
    actor: Extension<Actor>,
    id: Path<String>,
) -> Answer {
    run(Order::Reconnect, (state, actor, id)).await
}

async fn run(order: Order, (State(admin), Extension(actor), Path(id)): Asked) -> Answer {
    let row = admin.database(&id).await?;
    let id = row.id.to_string();
    let registry = &admin.parts.registry;
    registry.note_order(order.label(), row.id, &actor).await?;
    let done = admin.parts.control.control(order, &id).await;
    done.map_err(|why| ApiError::new(Code::Conflict, why))?;
    let pools = admin.parts.figures.pools();
    let own = pools.into_iter().filter(|pool| pool.database_id == id);
    let pool = own.min_by_key(|pool| pool.server.is_some());
    Ok(ok(json!({ "action": order.label(), "pool": pool })))
}
