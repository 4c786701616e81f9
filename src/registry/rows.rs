//! A registered database as it is shown: everything but its secret.

use serde::Serialize;
use serde_json::Value;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::{Registry, RegistryError, store::id_from};
use crate::{
    crypto,
    tenant::{DatabaseType, Target},
};

/// Rows that one question gives at most.
const ROWS_MAX: u32 = 1000;

/// A registered database, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct DatabaseRow {
    /// The row's id.
    pub id: Uuid,
    /// The project's id.
    pub project_id: Uuid,
    /// The project's ref.
    pub project_ref: String,
    /// The project's display name.
    pub project_name: String,
    /// The organisation's display name.
    pub organization_name: String,
    /// The organisation's slug.
    pub organization_slug: String,
    /// Its name within the project.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its name within the gateway.
    pub slug: String,
    /// What somebody wrote about it.
    pub description: Option<String>,
    /// The first host.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// The database within the server.
    pub database_name: Option<String>,
    /// The upstream's own user.
    pub username: Option<String>,
    /// Whether the upstream is reached under TLS.
    pub ssl_enabled: bool,
    /// The connection string with `****` for the password.
    pub connection_string: String,
    /// Settings of this database alone.
    pub config: Value,
    /// `active`, `inactive`, `maintenance` or `error`.
    pub status: String,
    /// The tier that limits come from.
    pub tier: String,
    /// Upstream connections at most, where this database has its own limit.
    pub max_upstream: Option<u32>,
    /// Clients at most, likewise.
    pub max_clients: Option<u32>,
    /// When an upstream changes hands, likewise.
    pub pool_mode: Option<String>,
    /// Whether the upstream's own user may log in here.
    pub allow_passthrough_auth: bool,
    /// The key that the connection string is sealed under.
    pub key_id: Option<String>,
    /// When an upstream was last opened.
    pub last_connected_at: Option<String>,
    /// When it was registered.
    pub created_at: String,
    /// When it was changed.
    pub updated_at: String,
    /// Counts the changes.
    pub version: i64,
}

/// Which databases to list.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Only those of this project.
    pub project_ref: Option<String>,
    /// Only those of this type.
    pub kind: Option<DatabaseType>,
    /// Only those after this one, in the order of registration.
    pub after: Option<Uuid>,
    /// As many at most; 1000 when there is none, and never more.
    pub rows_max: Option<u32>,
}

const LIST: &str = "SELECT d.*, p.ref AS project_ref, p.name AS project_name,
    o.name AS organization_name, o.slug AS organization_slug
  FROM databases d JOIN projects p ON p.id = d.project_id
  JOIN organizations o ON o.id = p.organization_id
  WHERE ($1 IS NULL OR p.ref = $1) AND ($2 IS NULL OR d.type = $2) AND ($3 IS NULL OR d.id > $3)
  ORDER BY d.id LIMIT $4";
const FIND: &str = "SELECT d.*, p.ref AS project_ref, p.name AS project_name,
    o.name AS organization_name, o.slug AS organization_slug
  FROM databases d JOIN projects p ON p.id = d.project_id
  JOIN organizations o ON o.id = p.organization_id
  WHERE d.id = $1 OR d.gateway_slug = $1";

impl Registry {
    /// The databases that fit, oldest first.
    pub async fn databases(&self, listing: &Listing) -> Result<Vec<DatabaseRow>, RegistryError> {
        let rows = sqlx::query(LIST)
            .bind(listing.project_ref.as_deref())
            .bind(listing.kind.map(DatabaseType::label))
            .bind(listing.after.map(|id| id.to_string()))
            .bind(listing.rows_max.unwrap_or(ROWS_MAX).clamp(1, ROWS_MAX))
            .fetch_all(self.store.pool())
            .await?;
        let mut found = self.system_rows(listing);
        for row in &rows {
            found.push(self.row_from(row)?);
        }
        Ok(found)
    }

    /// The database of that id or slug.
    pub async fn database(&self, id_or_slug: &str) -> Result<Option<DatabaseRow>, RegistryError> {
        let row = sqlx::query(FIND)
            .bind(id_or_slug)
            .fetch_optional(self.store.pool())
            .await?;
        match row {
            Some(row) => self.row_from(&row).map(Some),
            None => Ok(self.system_row(id_or_slug).map(|(row, _)| row.clone())),
        }
    }

    /// Opens the connection string of a row.
    pub(super) fn open_row(&self, row: &SqliteRow) -> Result<Target, RegistryError> {
        let id = id_from(row.try_get("id")?)?;
        let kind = kind_from(row)?;
        Ok(self
            .vault
            .open(id, kind, row.try_get("connection_string")?)?)
    }

    pub(super) fn row_from(&self, row: &SqliteRow) -> Result<DatabaseRow, RegistryError> {
        let id = id_from(row.try_get("id")?)?;
        let kind = kind_from(row)?;
        let stored: &str = row.try_get("connection_string")?;
        let config: &str = row.try_get("config")?;
        let opened = self.open_row(row);
        let status: String = row.try_get("status")?;
        Ok(DatabaseRow {
            id,
            project_id: id_from(row.try_get("project_id")?)?,
            project_ref: row.try_get("project_ref")?,
            project_name: row.try_get("project_name")?,
            organization_name: row.try_get("organization_name")?,
            organization_slug: row.try_get("organization_slug")?,
            name: row.try_get("name")?,
            kind: kind.label(),
            slug: row.try_get("gateway_slug")?,
            description: row.try_get("description")?,
            host: row.try_get("host")?,
            port: row.try_get("port")?,
            database_name: row.try_get("database_name")?,
            username: row.try_get("username")?,
            ssl_enabled: row.try_get("ssl_enabled")?,
            status: if opened.is_ok() {
                status
            } else {
                "error".to_owned()
            },
            connection_string: opened
                .map_or_else(|_| "****".to_owned(), |target| target.redacted()),
            config: serde_json::from_str(config).unwrap_or(Value::Null),
            tier: row.try_get("tier")?,
            max_upstream: row.try_get("max_upstream")?,
            max_clients: row.try_get("max_clients")?,
            pool_mode: row.try_get("pool_mode")?,
            allow_passthrough_auth: row.try_get("allow_passthrough_auth")?,
            key_id: crypto::sealed_under(stored).map(str::to_owned),
            last_connected_at: row.try_get("last_connected_at")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            version: row.try_get("version")?,
        })
    }
}

/// The row of that id.
pub(super) async fn by_id(
    connection: &mut SqliteConnection,
    id: Uuid,
) -> Result<SqliteRow, RegistryError> {
    let row = sqlx::query(FIND)
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    row.ok_or_else(|| RegistryError::NotFound {
        what: "database",
        name: id.to_string(),
    })
}

fn kind_from(row: &SqliteRow) -> Result<DatabaseType, RegistryError> {
    DatabaseType::parse(row.try_get("type")?).ok_or(RegistryError::Damaged { what: "type" })
}
