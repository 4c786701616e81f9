//! `/api/platform/tokens`: for owners.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    Admin,
    answer::{Answer, ApiError, Code, created, gone, ok},
    body::{Body, parse_id},
};
use crate::registry::{Actor, TokenRole};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    name: String,
    role: String,
}

pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Answer {
    Ok(ok(admin.parts.registry.tokens().await?))
}

pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<Input>,
) -> Answer {
    let role = TokenRole::parse(&input.role).ok_or_else(|| {
        ApiError::new(
            Code::BadRequest,
            "role: must be 'owner', 'operator' or 'viewer'",
        )
    })?;
    let (row, token) = admin
        .parts
        .registry
        .create_token(&input.name, role, &actor)
        .await?;
    Ok(created(json!({
        "id": row.id,
        "name": row.name,
        "role": row.role,
        "created_at": row.created_at,
        "token": token.expose(),
    })))
}

pub(super) async fn revoke(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Answer {
    admin
        .parts
        .registry
        .revoke_token(parse_id(&id)?, &actor)
        .await?;
    Ok(gone())
}
