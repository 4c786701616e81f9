//! `/api/platform/projects`, and the audit log.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
};
use serde::Deserialize;

use super::{
    Admin,
    answer::{Answer, ApiError, Code, created, ok},
    body::{Body, Params},
};
use crate::registry::{Actor, NewProject};

/// Rows of the audit log when the caller does not say.
const AUDIT_ROWS: u32 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    #[serde(rename = "ref")]
    project_ref: String,
    name: Option<String>,
    organization_slug: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Page {
    limit: Option<u32>,
}

pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Answer {
    Ok(ok(admin.parts.registry.projects().await?))
}

pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Path(project_ref): Path<String>,
) -> Answer {
    let found = admin.parts.registry.project(&project_ref).await?;
    let row = found.ok_or_else(|| {
        ApiError::new(
            Code::ProjectNotFound,
            format!("there is no project '{project_ref}'"),
        )
    })?;
    Ok(ok(row))
}

pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<Input>,
) -> Answer {
    let new = NewProject {
        project_ref: input.project_ref,
        name: input.name,
        organization: input.organization_slug,
    };
    Ok(created(
        admin.parts.registry.create_project(&new, &actor).await?,
    ))
}

pub(super) async fn audit(State(admin): State<Arc<Admin>>, Params(page): Params<Page>) -> Answer {
    let rows = page.limit.unwrap_or(AUDIT_ROWS);
    Ok(ok(admin.parts.registry.audit(rows).await?))
}
