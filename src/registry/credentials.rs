//! Issuing and revoking what clients log in with.

use serde::Serialize;
use serde_json::json;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    Actor, Change, Registry, RegistryError, audit, names::check_user, projects, rows,
    store::id_from,
};
use crate::{
    crypto::{CryptoError, Secret, random_label, random_text},
    tenant::{CredentialId, Role, ScramVerifier},
};

/// What a credential is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One database.
    Database(Uuid),
    /// Every database of the project of this ref, also those to come.
    Project(String),
}

/// A credential to issue.
#[derive(Debug, Clone)]
pub struct NewCredential {
    /// What for.
    pub scope: Scope,
    /// The user's name; unique in its scope.
    pub user: String,
    /// What it may do.
    pub role: Role,
    /// When it ends, RFC 3339 in UTC.
    pub expires_at: Option<String>,
}

/// A credential, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct CredentialRow {
    /// The row's id.
    pub id: Uuid,
    /// The database, if it is of one.
    pub database_id: Option<Uuid>,
    /// The project's ref, if it is of a whole project.
    pub project_ref: Option<String>,
    /// The user's name, without the tenant part.
    pub username: String,
    /// The public characters of its password.
    pub public_id: String,
    /// What it may do.
    pub role: String,
    /// When it ends.
    pub expires_at: Option<String>,
    /// When it was issued.
    pub created_at: String,
}

/// A credential that was just issued: the only time its password is known.
#[derive(Debug)]
pub struct Issued {
    /// What is stored of it.
    pub row: CredentialRow,
    /// `ppc_<8 public characters>_<secret>`.
    pub password: Secret,
}

const LIST: &str = "SELECT c.*, p.ref AS project_ref FROM gateway_credentials c
  LEFT JOIN projects p ON p.id = c.project_id
  WHERE ($1 IS NULL OR c.database_id = $1) AND ($2 IS NULL OR p.ref = $2)
  ORDER BY c.id LIMIT 1000";
const BY_ID: &str = "SELECT c.*, p.ref AS project_ref,
    COALESCE(c.project_id, (SELECT d.project_id FROM databases d WHERE d.id = c.database_id)) AS owner
  FROM gateway_credentials c LEFT JOIN projects p ON p.id = c.project_id WHERE c.id = $1";

impl Registry {
    /// Issues a credential; its password is made here and given once.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] when the scope has a user of that name.
    pub async fn issue(&self, new: NewCredential, actor: &Actor) -> Result<Issued, RegistryError> {
        check_user(&new.user)?;
        let public_id = random_label()?;
        let secret = random_text()?;
        let password = Secret::from(format!("ppc_{public_id}_{}", secret.expose()));
        let verifier = verifier_of(password.clone()).await?;
        let id = Uuid::now_v7();
        let mut transaction = self.store.write().await?;
        let (project, database) = self.reach(&mut transaction, &new.scope).await?;
        let inserted = sqlx::query(
            "INSERT INTO gateway_credentials (id, database_id, project_id, username, public_id, role,
               scram_iterations, scram_salt, scram_stored_key, scram_server_key, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(id.to_string())
        .bind(database.map(|id| id.to_string()))
        .bind(database.is_none().then(|| project.to_string()))
        .bind(&new.user)
        .bind(&public_id)
        .bind(new.role.label())
        .bind(verifier.iterations)
        .bind(verifier.salt.as_slice())
        .bind(verifier.stored_key.as_slice())
        .bind(verifier.server_key.as_slice())
        .bind(new.expires_at.as_deref())
        .execute(&mut *transaction)
        .await;
        inserted.map_err(|error| taken(error, &new.user))?;
        let entry = audit::Entry {
            operation: "credential.issue",
            database,
            project_ref: project_ref(&new.scope),
            metadata: json!({ "username": new.user, "role": new.role.label() }),
        };
        audit::record(&mut transaction, actor, entry).await?;
        let row = sqlx::query(BY_ID)
            .bind(id.to_string())
            .fetch_one(&mut *transaction)
            .await?;
        let row = row_from(&row)?;
        transaction.commit().await?;
        self.forget(project);
        Ok(Issued { row, password })
    }

    /// The credentials of a scope, oldest first; those of a project without its databases' own.
    pub async fn credentials(&self, scope: &Scope) -> Result<Vec<CredentialRow>, RegistryError> {
        let database = match scope {
            Scope::Database(id) => Some(id.to_string()),
            Scope::Project(_) => None,
        };
        let rows = sqlx::query(LIST)
            .bind(database)
            .bind(project_ref(scope))
            .fetch_all(self.store.pool())
            .await?;
        rows.iter().map(row_from).collect()
    }

    /// Revokes a credential; clients that are logged in with it are ended.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] when there is none.
    pub async fn revoke(&self, id: Uuid, actor: &Actor) -> Result<(), RegistryError> {
        let mut transaction = self.store.write().await?;
        let found = sqlx::query(BY_ID)
            .bind(id.to_string())
            .fetch_optional(&mut *transaction)
            .await?
            .ok_or_else(|| RegistryError::NotFound {
                what: "credential",
                name: id.to_string(),
            })?;
        let row = row_from(&found)?;
        let owner = id_from(found.try_get("owner")?)?;
        sqlx::query("DELETE FROM gateway_credentials WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        let entry = audit::Entry {
            operation: "credential.revoke",
            database: row.database_id,
            project_ref: row.project_ref.as_deref(),
            metadata: json!({ "username": row.username }),
        };
        audit::record(&mut transaction, actor, entry).await?;
        transaction.commit().await?;
        self.changed(owner, Change::Revoked(CredentialId(id)));
        Ok(())
    }

    /// The project and, for the scope of one, the database.
    async fn reach(
        &self,
        connection: &mut SqliteConnection,
        scope: &Scope,
    ) -> Result<(Uuid, Option<Uuid>), RegistryError> {
        match scope {
            Scope::Database(id) => {
                self.is_changeable(*id)?;
                let row = rows::by_id(connection, *id).await?;
                Ok((self.row_from(&row)?.project_id, Some(*id)))
            }
            Scope::Project(project_ref) => {
                let found = projects::find(connection, project_ref).await?;
                let project = found.ok_or_else(|| RegistryError::NotFound {
                    what: "project",
                    name: project_ref.clone(),
                })?;
                Ok((project, None))
            }
        }
    }
}

/// A millisecond of CPU, kept off the reactor.
async fn verifier_of(password: Secret) -> Result<ScramVerifier, RegistryError> {
    let derived =
        tokio::task::spawn_blocking(move || ScramVerifier::derive(password.expose())).await;
    match derived {
        Ok(Ok(verifier)) => Ok(verifier),
        Ok(Err(_)) | Err(_) => Err(CryptoError::Randomness.into()),
    }
}

fn project_ref(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::Database(_) => None,
        Scope::Project(project_ref) => Some(project_ref),
    }
}

fn taken(error: sqlx::Error, user: &str) -> RegistryError {
    let unique = error
        .as_database_error()
        .is_some_and(sqlx::error::DatabaseError::is_unique_violation);
    if unique {
        return RegistryError::Conflict(format!("there is a credential of user '{user}' already"));
    }
    error.into()
}

fn row_from(row: &SqliteRow) -> Result<CredentialRow, RegistryError> {
    let database: Option<&str> = row.try_get("database_id")?;
    Ok(CredentialRow {
        id: id_from(row.try_get("id")?)?,
        database_id: database.map(id_from).transpose()?,
        project_ref: row.try_get("project_ref")?,
        username: row.try_get("username")?,
        public_id: row.try_get("public_id")?,
        role: row.try_get("role")?,
        expires_at: row.try_get("expires_at")?,
        created_at: row.try_get("created_at")?,
    })
}
