//! `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{Admin, answer::ok};

/// The process answers; nothing else is looked at.
pub(super) async fn live() -> Response {
    ok(json!({ "status": "ok" }))
}

/// New clients are welcome: not draining, and the registry can be read.
pub(super) async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let draining = admin.parts.shutdown.is_draining();
    let registry = admin.parts.registry.is_readable().await;
    let (code, status) = match (draining, registry) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
        (false, true) => (StatusCode::OK, "ready"),
    };
    let checks = json!({ "registry": if registry { "ok" } else { "unreadable" } });
    (code, Json(json!({ "status": status, "checks": checks }))).into_response()
}

pub(super) async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, (admin.parts.metrics)()).into_response()
}
