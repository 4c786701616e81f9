//! `…/credentials` of a database and of a project: issue, list, revoke.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Admin,
    answer::{Answer, ApiError, Code, created, gone, ok},
    body::{Body, parse_id},
};
use crate::{
    registry::{Actor, Issued, Listing, NewCredential, Scope},
    tenant::Role,
};

/// The user of a credential when the caller does not say.
const DEFAULT_USER: &str = "app";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    username: Option<String>,
    role: Option<String>,
    expires_at: Option<String>,
}

impl Input {
    fn into_new(self, scope: Scope) -> Result<NewCredential, ApiError> {
        let bad = |message: &str| ApiError::new(Code::BadRequest, message);
        let role = match self.role.as_deref() {
            None => Role::Write,
            Some(role) => {
                Role::parse(role).ok_or_else(|| bad("role: must be 'read', 'write' or 'admin'"))?
            }
        };
        if self
            .expires_at
            .as_deref()
            .is_some_and(|at| !is_utc_time(at))
        {
            return Err(bad("expires_at: must be like 2030-01-31T00:00:00Z"));
        }
        Ok(NewCredential {
            scope,
            user: self.username.unwrap_or_else(|| DEFAULT_USER.to_owned()),
            role,
            expires_at: self.expires_at,
        })
    }
}

pub(super) async fn of_database(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Answer {
    let row = admin.database(&id).await?;
    let scope = Scope::Database(row.id);
    Ok(ok(admin.parts.registry.credentials(&scope).await?))
}

pub(super) async fn of_project(
    State(admin): State<Arc<Admin>>,
    Path(project_ref): Path<String>,
) -> Answer {
    let scope = Scope::Project(project_ref);
    Ok(ok(admin.parts.registry.credentials(&scope).await?))
}

pub(super) async fn issue_for_database(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Body(input): Body<Input>,
) -> Answer {
    let row = admin.database(&id).await?;
    let new = input.into_new(Scope::Database(row.id))?;
    let issued = admin.parts.registry.issue(new, &actor).await?;
    let login = format!("{}.{}", issued.row.username, row.slug);
    let url = admin.parts.entrances.url(&row, &login, &issued.password);
    let mut answer = told(&issued, &login);
    if let Value::Object(fields) = &mut answer {
        fields.insert("urls".into(), json!({ row.kind: url }));
        fields.insert("url".into(), json!(url));
    }
    Ok(created(answer))
}

pub(super) async fn issue_for_project(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Extension<Actor>,
    Path(project_ref): Path<String>,
    Body(input): Body<Input>,
) -> Answer {
    let new = input.into_new(Scope::Project(project_ref.clone()))?;
    let registry = &admin.parts.registry;
    let issued = registry.issue(new, &actor).await?;
    let listing = Listing {
        project_ref: Some(project_ref.clone()),
        ..Listing::default()
    };
    let rows = registry.databases(&listing).await?;
    let user = &issued.row.username;
    let (urls, each) =
        admin
            .parts
            .entrances
            .project_urls(&project_ref, &rows, user, &issued.password);
    let mut answer = told(&issued, &format!("{user}.{project_ref}"));
    if let Value::Object(fields) = &mut answer {
        fields.insert("urls".into(), Value::Object(urls));
        fields.insert("databases".into(), Value::Array(each));
    }
    Ok(created(answer))
}

pub(super) async fn revoke(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Extension<Actor>,
    Path((_, id)): Path<(String, String)>,
) -> Answer {
    admin.parts.registry.revoke(parse_id(&id)?, &actor).await?;
    Ok(gone())
}

pub(super) async fn revoke_by_id(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Answer {
    admin.parts.registry.revoke(parse_id(&id)?, &actor).await?;
    Ok(gone())
}

/// The one time that the password is told.
fn told(issued: &Issued, login: &str) -> Value {
    json!({
        "id": issued.row.id,
        "username": login,
        "user": issued.row.username,
        "role": issued.row.role,
        "expires_at": issued.row.expires_at,
        "created_at": issued.row.created_at,
        "password": issued.password.expose(),
    })
}

/// The registry compares times as texts, so they must be written alike.
fn is_utc_time(text: &str) -> bool {
    let shape = |(letter, pattern): (u8, u8)| match pattern {
        b'0' => letter.is_ascii_digit(),
        other => letter == other,
    };
    let pattern = "0000-00-00T00:00:00";
    let Some((whole, rest)) = text.split_at_checked(pattern.len()) else {
        return false;
    };
    let fraction = rest
        .strip_prefix('.')
        .and_then(|rest| rest.strip_suffix('Z'));
    whole.bytes().zip(pattern.bytes()).all(shape)
        && (rest == "Z"
            || fraction.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_digit())))
}
