//! The audit log: every change writes its row in its own transaction, or does not happen.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::{Registry, RegistryError};

/// Rows of the log that one question gives at most.
const ROWS_MAX: u32 = 1000;

/// Who makes a change.
#[derive(Debug, Clone)]
pub struct Actor {
    /// A name: that of a token, or `cli`.
    pub name: String,
    /// `token`, `service` or `cli`.
    pub kind: &'static str,
    /// From where.
    pub address: Option<IpAddr>,
}

impl Actor {
    /// Somebody with access to the data directory itself.
    pub fn local() -> Self {
        Self {
            name: "cli".to_owned(),
            kind: "cli",
            address: None,
        }
    }
}

/// A row of the log.
#[derive(Debug, Clone, Serialize)]
pub struct AuditRow {
    /// Its place in the order of all.
    pub seq: i64,
    /// When.
    pub created_at: String,
    /// Which database, if one.
    pub database_id: Option<String>,
    /// Which project, if one.
    pub project_ref: Option<String>,
    /// What was done.
    pub operation: String,
    /// By whom.
    pub actor: String,
    /// What kind of actor.
    pub actor_kind: String,
    /// `ok`, `denied` or `error`.
    pub outcome: String,
    /// What changed, by name; never a secret.
    pub metadata: Value,
}

/// What is written.
pub(super) struct Entry<'a> {
    pub(super) operation: &'static str,
    pub(super) database: Option<Uuid>,
    pub(super) project_ref: Option<&'a str>,
    pub(super) metadata: Value,
}

/// Writes a row within the transaction of the change.
pub(super) async fn record(
    connection: &mut SqliteConnection,
    actor: &Actor,
    entry: Entry<'_>,
) -> Result<(), RegistryError> {
    sqlx::query(
        "INSERT INTO database_audit_log
           (id, database_id, project_ref, operation, actor, actor_kind, outcome, ip, metadata)
         VALUES ($1, $2, $3, $4, $5, $6, 'ok', $7, $8)",
    )
    .bind(Uuid::now_v7().to_string())
    .bind(entry.database.map(|id| id.to_string()))
    .bind(entry.project_ref)
    .bind(entry.operation)
    .bind(&actor.name)
    .bind(actor.kind)
    .bind(actor.address.map(|address| address.to_string()))
    .bind(entry.metadata.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

impl Registry {
    /// Notes what an operator asks of a database's pool.
    ///
    /// # Errors
    /// When the store is out of reach; then it should not be done.
    pub async fn note_order(
        &self,
        operation: &'static str,
        database: Uuid,
        actor: &Actor,
    ) -> Result<(), RegistryError> {
        let entry = Entry {
            operation,
            database: Some(database),
            project_ref: None,
            metadata: Value::Null,
        };
        let mut transaction = self.store.pool().begin().await?;
        record(&mut transaction, actor, entry).await?;
        Ok(transaction.commit().await?)
    }

    /// The newest rows of the audit log, newest first.
    pub async fn audit(&self, rows_max: u32) -> Result<Vec<AuditRow>, RegistryError> {
        let rows = sqlx::query("SELECT * FROM database_audit_log ORDER BY seq DESC LIMIT $1")
            .bind(rows_max.min(ROWS_MAX))
            .fetch_all(self.store.pool())
            .await?;
        rows.iter()
            .map(|row| {
                let metadata: &str = row.try_get("metadata")?;
                Ok(AuditRow {
                    seq: row.try_get("seq")?,
                    created_at: row.try_get("created_at")?,
                    database_id: row.try_get("database_id")?,
                    project_ref: row.try_get("project_ref")?,
                    operation: row.try_get("operation")?,
                    actor: row.try_get("actor")?,
                    actor_kind: row.try_get("actor_kind")?,
                    outcome: row.try_get("outcome")?,
                    metadata: serde_json::from_str(metadata).unwrap_or(Value::Null),
                })
            })
            .collect()
    }
}
