//! Reading the rows behind a login: databases still sealed, credentials as accounts.

use sqlx::{Row, sqlite::SqliteRow};
use uuid::Uuid;

use super::{Store, id_from};
use crate::{
    registry::{RegistryError, record::CredentialRecord, timeouts},
    tenant::{
        Account, CredentialId, DatabaseType, PoolMode, Role, ScramVerifier, TenantId, Timeouts,
    },
};

/// Rows under one project, as they bear on one name.
#[derive(Debug)]
pub(in crate::registry) struct Lookup {
    pub(in crate::registry) project: Uuid,
    pub(in crate::registry) databases: Vec<DatabaseRecord>,
    pub(in crate::registry) credentials: Vec<CredentialRecord>,
}

/// A row of `databases`, still sealed.
#[derive(Debug)]
pub(in crate::registry) struct DatabaseRecord {
    pub(in crate::registry) id: Uuid,
    pub(in crate::registry) project_ref: String,
    pub(in crate::registry) name: String,
    pub(in crate::registry) slug: String,
    pub(in crate::registry) kind: DatabaseType,
    pub(in crate::registry) connection_string: String,
    pub(in crate::registry) upstream_max: Option<u32>,
    pub(in crate::registry) clients_max: Option<u32>,
    pub(in crate::registry) pool_mode: Option<PoolMode>,
    pub(in crate::registry) timeouts: Timeouts,
    pub(in crate::registry) own_user_allowed: bool,
    pub(in crate::registry) version: u64,
}

/// A database in use is `active`, or `error` when the last test failed; the others refuse clients.
const BY_SLUG: &str = "SELECT d.*, p.ref AS project_ref FROM databases d
  JOIN projects p ON p.id = d.project_id
  WHERE d.gateway_slug = $1 AND d.status IN ('active', 'error')";
const BY_ID: &str = "SELECT d.*, p.ref AS project_ref FROM databases d
  JOIN projects p ON p.id = d.project_id
  WHERE d.id = $1 AND d.status IN ('active', 'error')";
const BY_PROJECT: &str = "SELECT d.*, p.ref AS project_ref FROM databases d
  JOIN projects p ON p.id = d.project_id
  WHERE d.project_id = $1 AND d.status IN ('active', 'error') ORDER BY d.name";
const CREDENTIALS_OF_DATABASE: &str = "SELECT * FROM gateway_credentials
  WHERE (database_id = $1 OR project_id = $2) AND disabled_at IS NULL
    AND (expires_at IS NULL OR expires_at > strftime('%Y-%m-%dT%H:%M:%fZ','now'))";
const CREDENTIALS_OF_PROJECT: &str = "SELECT * FROM gateway_credentials
  WHERE (project_id = $1 OR database_id IN (SELECT id FROM databases WHERE project_id = $1))
    AND disabled_at IS NULL
    AND (expires_at IS NULL OR expires_at > strftime('%Y-%m-%dT%H:%M:%fZ','now'))";
const CREDENTIAL_BY_PUBLIC_ID: &str = "SELECT * FROM gateway_credentials
  WHERE public_id = $1 AND disabled_at IS NULL
    AND (expires_at IS NULL OR expires_at > strftime('%Y-%m-%dT%H:%M:%fZ','now'))";

impl Store {
    /// The database of that slug, with its credentials and its project's.
    pub(in crate::registry) async fn by_slug(
        &self,
        slug: &str,
    ) -> Result<Option<Lookup>, RegistryError> {
        let row = sqlx::query(BY_SLUG)
            .bind(slug)
            .fetch_optional(self.pool())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let project = id_from(row.try_get("project_id")?)?;
        let database = database_from(&row)?;
        let credentials = sqlx::query(CREDENTIALS_OF_DATABASE)
            .bind(database.id.to_string())
            .bind(project.to_string())
            .fetch_all(self.pool())
            .await?;
        Ok(Some(Lookup {
            project,
            databases: vec![database],
            credentials: credentials
                .iter()
                .map(credential_from)
                .collect::<Result<_, _>>()?,
        }))
    }

    /// The databases of the project of that ref, with all their credentials.
    pub(in crate::registry) async fn by_ref(
        &self,
        project_ref: &str,
    ) -> Result<Option<Lookup>, RegistryError> {
        let row = sqlx::query("SELECT id FROM projects WHERE ref = $1")
            .bind(project_ref)
            .fetch_optional(self.pool())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let project: String = row.try_get("id")?;
        let credentials = sqlx::query(CREDENTIALS_OF_PROJECT)
            .bind(&project)
            .fetch_all(self.pool())
            .await?;
        Ok(Some(Lookup {
            project: id_from(&project)?,
            databases: self.databases_of(&project).await?,
            credentials: credentials
                .iter()
                .map(credential_from)
                .collect::<Result<_, _>>()?,
        }))
    }

    /// What the credential of that public id reaches. The flag tells whether it is a whole project.
    pub(in crate::registry) async fn by_public_id(
        &self,
        public_id: &str,
    ) -> Result<Option<(Lookup, bool)>, RegistryError> {
        let row = sqlx::query(CREDENTIAL_BY_PUBLIC_ID)
            .bind(public_id)
            .fetch_optional(self.pool())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let credential = credential_from(&row)?;
        if let Some(project) = row.try_get::<Option<String>, _>("project_id")? {
            let lookup = Lookup {
                project: id_from(&project)?,
                databases: self.databases_of(&project).await?,
                credentials: vec![credential],
            };
            return Ok(Some((lookup, true)));
        }
        let database: String = row.try_get("database_id")?;
        let row = sqlx::query(BY_ID)
            .bind(database)
            .fetch_optional(self.pool())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let lookup = Lookup {
            project: id_from(row.try_get("project_id")?)?,
            databases: vec![database_from(&row)?],
            credentials: vec![credential],
        };
        Ok(Some((lookup, false)))
    }

    async fn databases_of(&self, project: &str) -> Result<Vec<DatabaseRecord>, RegistryError> {
        let rows = sqlx::query(BY_PROJECT)
            .bind(project)
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(database_from).collect()
    }
}

fn database_from(row: &SqliteRow) -> Result<DatabaseRecord, RegistryError> {
    let kind: &str = row.try_get("type")?;
    let pool_mode: Option<&str> = row.try_get("pool_mode")?;
    let config: &str = row.try_get("config")?;
    let config = serde_json::from_str(config).unwrap_or_default();
    Ok(DatabaseRecord {
        id: id_from(row.try_get("id")?)?,
        project_ref: row.try_get("project_ref")?,
        name: row.try_get("name")?,
        slug: row.try_get("gateway_slug")?,
        kind: DatabaseType::parse(kind).ok_or(RegistryError::Damaged { what: "type" })?,
        connection_string: row.try_get("connection_string")?,
        upstream_max: row.try_get("max_upstream")?,
        clients_max: row.try_get("max_clients")?,
        pool_mode: pool_mode.and_then(pool_mode_from),
        // Checked when they were written.
        timeouts: timeouts::read(&config).unwrap_or_default(),
        own_user_allowed: row.try_get("allow_passthrough_auth")?,
        version: row.try_get::<i64, _>("version")?.unsigned_abs(),
    })
}

fn pool_mode_from(text: &str) -> Option<PoolMode> {
    match text {
        "transaction" => Some(PoolMode::Transaction),
        "session" => Some(PoolMode::Session),
        "statement" => Some(PoolMode::Statement),
        _ => None,
    }
}

fn credential_from(row: &SqliteRow) -> Result<CredentialRecord, RegistryError> {
    let damaged = || RegistryError::Damaged { what: "credential" };
    let key = |column| -> Result<[u8; 32], RegistryError> {
        <[u8; 32]>::try_from(row.try_get::<&[u8], _>(column)?).map_err(|_| damaged())
    };
    let database: Option<&str> = row.try_get("database_id")?;
    let verifier = ScramVerifier {
        iterations: row.try_get("scram_iterations")?,
        salt: row.try_get("scram_salt")?,
        stored_key: key("scram_stored_key")?,
        server_key: key("scram_server_key")?,
    };
    Ok(CredentialRecord {
        account: Account {
            user: row.try_get("username")?,
            role: Role::parse(row.try_get("role")?).ok_or_else(damaged)?,
            verifier,
            credential: Some(CredentialId(id_from(row.try_get("id")?)?)),
            password: None,
        },
        database: database.map(id_from).transpose()?.map(TenantId),
    })
}
