//! Numbered migrations, each run once, recorded with the hash of its text.

use sha2::{Digest, Sha256};
use sqlx::Row;

use super::Store;
use crate::registry::RegistryError;

struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

/// Every migration, in order. A released one is never edited.
const MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    name: "first",
    sql: include_str!("../migrations/0001_first.sql"),
}];

const LEDGER: &str = "CREATE TABLE IF NOT EXISTS gateway_migrations (
  version INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL,
  applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))) STRICT";

/// Brings the schema up to date; one transaction, so that two starting processes cannot meet in it.
pub(in crate::registry) async fn migrate(store: &Store) -> Result<(), RegistryError> {
    let mut transaction = store.write().await?;
    sqlx::raw_sql(LEDGER).execute(&mut *transaction).await?;
    let found: i64 =
        sqlx::query("SELECT COALESCE(MAX(version), 0) AS version FROM gateway_migrations")
            .fetch_one(&mut *transaction)
            .await?
            .try_get("version")?;
    let known = MIGRATIONS.last().map_or(0, |migration| migration.version);
    if found > known {
        return Err(RegistryError::TooNew { found, known });
    }
    for migration in MIGRATIONS
        .iter()
        .filter(|migration| migration.version > found)
    {
        sqlx::raw_sql(migration.sql)
            .execute(&mut *transaction)
            .await?;
        let digest = hexadecimal(&Sha256::digest(migration.sql));
        sqlx::query("INSERT INTO gateway_migrations (version, name, sha256) VALUES ($1, $2, $3)")
            .bind(migration.version)
            .bind(migration.name)
            .bind(digest)
            .execute(&mut *transaction)
            .await?;
        tracing::info!(
            version = migration.version,
            name = migration.name,
            "registry migrated"
        );
    }
    transaction.commit().await?;
    Ok(())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
