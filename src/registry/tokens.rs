//! Tokens of the admin API: made once, stored as a hash.

use std::fmt;

use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{Row, sqlite::SqliteRow};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::{Actor, Registry, RegistryError, audit, names::check_name, store::id_from};
use crate::crypto::{Secret, random_label, random_text};

/// What a token may do in the admin API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenRole {
    /// Looks at everything.
    Viewer,
    /// Changes databases, projects and credentials too.
    Operator,
    /// Makes tokens too.
    Owner,
}

impl TokenRole {
    /// The name used in the registry, the API and the command line.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Owner => "owner",
        }
    }

    /// The role of that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Owner]
            .into_iter()
            .find(|role| role.label() == text)
    }
}

impl fmt::Display for TokenRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A token, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct TokenRow {
    /// The row's id.
    pub id: Uuid,
    /// What somebody called it.
    pub name: String,
    /// The public characters of the token.
    pub token_prefix: String,
    /// What it may do.
    pub role: String,
    /// When it was made.
    pub created_at: String,
}

impl Registry {
    /// Makes a token; the second value is the only time it is known.
    pub async fn create_token(
        &self,
        name: &str,
        role: TokenRole,
        actor: &Actor,
    ) -> Result<(TokenRow, Secret), RegistryError> {
        check_name("name", name)?;
        let id = Uuid::now_v7();
        let prefix = random_label()?;
        let token = Secret::from(format!("ppat_{prefix}_{}", random_text()?.expose()));
        let mut transaction = self.store.write().await?;
        let row = sqlx::query(
            "INSERT INTO gateway_tokens (id, name, token_prefix, token_sha256, role, created_by)
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING *",
        )
        .bind(id.to_string())
        .bind(name)
        .bind(&prefix)
        .bind(Sha256::digest(token.expose()).as_slice())
        .bind(role.label())
        .bind(&actor.name)
        .fetch_one(&mut *transaction)
        .await?;
        let row = row_from(&row)?;
        let entry = audit::Entry {
            operation: "token.create",
            database: None,
            project_ref: None,
            metadata: json!({ "name": name, "role": role.label() }),
        };
        audit::record(&mut transaction, actor, entry).await?;
        transaction.commit().await?;
        Ok((row, token))
    }

    /// The tokens that are not revoked, oldest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, RegistryError> {
        let rows = sqlx::query(
            "SELECT * FROM gateway_tokens WHERE revoked_at IS NULL ORDER BY id LIMIT 1000",
        )
        .fetch_all(self.store.pool())
        .await?;
        rows.iter().map(row_from).collect()
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] when there is none.
    pub async fn revoke_token(&self, id: Uuid, actor: &Actor) -> Result<(), RegistryError> {
        let mut transaction = self.store.write().await?;
        let revoked = sqlx::query(
            "UPDATE gateway_tokens SET revoked_at = strftime('%Y-%m-%dT%H:%M:%fZ','now')
             WHERE id = $1 AND revoked_at IS NULL",
        )
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        if revoked.rows_affected() == 0 {
            return Err(RegistryError::NotFound {
                what: "token",
                name: id.to_string(),
            });
        }
        let entry = audit::Entry {
            operation: "token.revoke",
            database: None,
            project_ref: None,
            metadata: json!({ "id": id }),
        };
        audit::record(&mut transaction, actor, entry).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Whose token this is and what it may do; `None` when it is nobody's.
    pub async fn check_token(
        &self,
        token: &str,
    ) -> Result<Option<(String, TokenRole)>, RegistryError> {
        let Some((prefix, _)) = token
            .strip_prefix("ppat_")
            .and_then(|rest| rest.split_once('_'))
        else {
            return Ok(None);
        };
        let row = sqlx::query(
            "SELECT * FROM gateway_tokens WHERE token_prefix = $1 AND revoked_at IS NULL
             AND (expires_at IS NULL OR expires_at > strftime('%Y-%m-%dT%H:%M:%fZ','now'))",
        )
        .bind(prefix)
        .fetch_optional(self.store.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let stored: &[u8] = row.try_get("token_sha256")?;
        if !bool::from(stored.ct_eq(Sha256::digest(token).as_slice())) {
            return Ok(None);
        }
        let role = TokenRole::parse(row.try_get("role")?)
            .ok_or(RegistryError::Damaged { what: "token" })?;
        Ok(Some((row.try_get("name")?, role)))
    }
}

fn row_from(row: &SqliteRow) -> Result<TokenRow, RegistryError> {
    Ok(TokenRow {
        id: id_from(row.try_get("id")?)?,
        name: row.try_get("name")?,
        token_prefix: row.try_get("token_prefix")?,
        role: row.try_get("role")?,
        created_at: row.try_get("created_at")?,
    })
}
