//! `/api/platform/databases`: list, register, show, change, remove, test.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    http::{HeaderValue, header},
    response::IntoResponse,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::{
    Admin,
    answer::{Answer, ApiError, Code, created, gone, ok},
    body::{Body, Params},
    probe::failure,
};
use crate::{
    crypto::Secret,
    registry::{
        Actor, DatabaseChange, DatabaseRow, Edit, Listing, NewDatabase, NewProject, Traits,
    },
    tenant::{DatabaseType, Target},
};

/// The project of databases that name none.
const DEFAULT_PROJECT: &str = "default";

/// What registration and change have in common. A field that is absent stays as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    project_ref: Option<String>,
    project_name: Option<String>,
    organization_slug: Option<String>,
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    slug: Option<String>,
    connection_string: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    username: Option<String>,
    password: Option<String>,
    database_name: Option<String>,
    ssl: Option<bool>,
    #[serde(default)]
    skip_test: bool,
    #[serde(default)]
    description: Edit<String>,
    config: Option<Value>,
    status: Option<String>,
    #[serde(default)]
    max_upstream: Edit<u32>,
    #[serde(default)]
    max_clients: Edit<u32>,
    #[serde(default)]
    pool_mode: Edit<String>,
    allow_passthrough_auth: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct Filter {
    #[serde(alias = "projectRef")]
    project_ref: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    cursor: Option<Uuid>,
    limit: Option<u32>,
}

pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Params(filter): Params<Filter>,
) -> Answer {
    let listing = Listing {
        project_ref: filter.project_ref,
        kind: filter.kind.as_deref().map(parse_kind).transpose()?,
        after: filter.cursor,
        rows_max: filter.limit,
    };
    let rows = admin.parts.registry.databases(&listing).await?;
    let last = rows.last().map(|row| row.id.to_string());
    let mut response = ok(rows);
    if let Some(cursor) = last.and_then(|id| HeaderValue::from_str(&id).ok()) {
        response.headers_mut().insert("x-next-cursor", cursor);
    }
    Ok(response)
}

pub(super) async fn show(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Answer {
    let row = admin.database(&id).await?;
    let tag = HeaderValue::from_str(&format!("\"{}\"", row.version)).ok();
    let mut response = ok(row);
    if let Some(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

pub(super) async fn register(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Extension<Actor>,
    Body(mut input): Body<Input>,
) -> Answer {
    let kind = input.kind.as_deref().map(parse_kind).transpose()?;
    let connection_string = input.take_connection_string(kind)?.ok_or_else(|| {
        ApiError::new(
            Code::BadRequest,
            "connection_string: is needed, or type and host",
        )
    })?;
    let target = Target::parse(connection_string.expose())
        .map_err(|error| ApiError::new(Code::InvalidConnectionString, error.to_string()))?;
    let tested = !input.skip_test;
    if tested {
        admin.test(&target).await?;
    }
    let new = NewDatabase {
        project: NewProject {
            project_ref: input
                .project_ref
                .take()
                .unwrap_or_else(|| DEFAULT_PROJECT.to_owned()),
            name: input.project_name.take(),
            organization: input.organization_slug.take(),
        },
        name: input.name.take(),
        kind,
        connection_string,
        slug: input.slug.take(),
        traits: input.into_traits(),
    };
    let row = admin.parts.registry.register(new, &actor).await?;
    if tested {
        admin.parts.registry.note_connected(row.id).await?;
    }
    let location = format!("/api/platform/databases/{}", row.id);
    Ok(([(header::LOCATION, location)], created(row)).into_response())
}

pub(super) async fn change(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Body(mut input): Body<Input>,
) -> Answer {
    let row = admin.database(&id).await?;
    let moved = [
        &input.project_ref,
        &input.project_name,
        &input.organization_slug,
    ];
    if moved.into_iter().any(Option::is_some) {
        let message = "project_ref: a database cannot move to another project";
        return Err(ApiError::new(Code::BadRequest, message));
    }
    let connection_string = input.take_connection_string(DatabaseType::parse(row.kind))?;
    if let Some(plain) = &connection_string
        && !input.skip_test
    {
        let target = Target::parse(plain.expose())
            .map_err(|error| ApiError::new(Code::InvalidConnectionString, error.to_string()))?;
        admin.test(&target).await?;
    }
    let change = DatabaseChange {
        name: input.name.take(),
        slug: input.slug.take(),
        connection_string,
        traits: input.into_traits(),
    };
    Ok(ok(admin
        .parts
        .registry
        .change(row.id, change, &actor)
        .await?))
}

pub(super) async fn remove(
    State(admin): State<Arc<Admin>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Answer {
    let row = admin.database(&id).await?;
    admin.parts.registry.remove(row.id, &actor).await?;
    Ok(gone())
}

/// Tests a database that is not registered.
pub(super) async fn test(State(admin): State<Arc<Admin>>, Body(mut input): Body<Input>) -> Answer {
    let kind = input.kind.as_deref().map(parse_kind).transpose()?;
    let connection_string = input.take_connection_string(kind)?.ok_or_else(|| {
        ApiError::new(
            Code::BadRequest,
            "connection_string: is needed, or type and host",
        )
    })?;
    let target = Target::parse(connection_string.expose())
        .map_err(|error| ApiError::new(Code::InvalidConnectionString, error.to_string()))?;
    if kind.is_some_and(|kind| kind != target.kind) {
        let message = format!(
            "the connection string is one of type '{}'",
            target.kind.label()
        );
        return Err(ApiError::new(Code::InvalidConnectionString, message));
    }
    outcome(admin.test(&target).await)
}

/// Tests a registered database.
pub(super) async fn test_registered(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
) -> Answer {
    let row = admin.database(&id).await?;
    let target = admin.parts.registry.target(row.id).await?;
    let tested = admin.test(&target).await;
    if tested.is_ok() {
        admin.parts.registry.note_connected(row.id).await?;
    }
    outcome(tested)
}

fn outcome(tested: Result<impl serde::Serialize, ApiError>) -> Answer {
    match tested {
        Ok(success) => Ok(ok(success)),
        Err(error) if error.code == Code::EgressDenied => Err(error),
        Err(error) => Ok(ok(failure(&error))),
    }
}

fn parse_kind(text: &str) -> Result<DatabaseType, ApiError> {
    DatabaseType::parse(text).ok_or_else(|| {
        let message = "type: must be 'postgres', 'redis', 'mongodb' or 'bun_api'";
        ApiError::new(Code::BadRequest, message)
    })
}

impl Admin {
    /// The database of that id or slug.
    pub(super) async fn database(&self, id_or_slug: &str) -> Result<DatabaseRow, ApiError> {
        let found = self.parts.registry.database(id_or_slug).await?;
        found.ok_or_else(|| {
            let message = format!("there is no database '{id_or_slug}'");
            ApiError::new(Code::DatabaseNotFound, message)
        })
    }
}

impl Input {
    /// The connection string as given, or put together from its parts.
    fn take_connection_string(
        &mut self,
        kind: Option<DatabaseType>,
    ) -> Result<Option<Secret>, ApiError> {
        let host = self.host.take();
        if let Some(text) = self.connection_string.take() {
            return match host {
                None => Ok(Some(Secret::from(text))),
                Some(_) => Err(ApiError::new(
                    Code::BadRequest,
                    "connection_string and host: only one of them",
                )),
            };
        }
        let Some(host) = host else { return Ok(None) };
        let scheme = match (kind, self.ssl.unwrap_or(false)) {
            (Some(DatabaseType::Postgres), _) => "postgresql",
            (Some(DatabaseType::Redis), false) => "redis",
            (Some(DatabaseType::Redis), true) => "rediss",
            (Some(DatabaseType::Mongodb), _) => "mongodb",
            (Some(DatabaseType::BunApi), false) => "http",
            (Some(DatabaseType::BunApi), true) => "https",
            (None, _) => return Err(ApiError::new(Code::BadRequest, "type: is needed with host")),
        };
        Ok(Some(self.assemble(scheme, &host)))
    }

    fn assemble(&mut self, scheme: &str, host: &str) -> Secret {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut url = format!("{scheme}://");
        let password = self.password.take().map(Secret::from);
        if self.username.is_some() || password.is_some() {
            url.push_str(&encode(self.username.as_deref().unwrap_or_default()));
            if let Some(password) = &password {
                url.push(':');
                url.push_str(&encode(password.expose()));
            }
            url.push('@');
        }
        if host.contains(':') {
            url.push('[');
            url.push_str(host.trim_matches(['[', ']']));
            url.push(']');
        } else {
            url.push_str(host);
        }
        if let Some(port) = self.port {
            url.push(':');
            url.push_str(&port.to_string());
        }
        url.push('/');
        url.push_str(&encode(self.database_name.as_deref().unwrap_or_default()));
        match (scheme, self.ssl) {
            ("postgresql", Some(true)) => url.push_str("?sslmode=require"),
            ("postgresql", Some(false)) => url.push_str("?sslmode=disable"),
            ("mongodb", Some(true)) => url.push_str("?tls=true"),
            _ => {}
        }
        Secret::from(url)
    }

    fn into_traits(self) -> Traits {
        Traits {
            description: self.description,
            config: self.config,
            status: self.status,
            max_upstream: self.max_upstream,
            max_clients: self.max_clients,
            pool_mode: self.pool_mode,
            allow_passthrough_auth: self.allow_passthrough_auth,
        }
    }
}
