//! Registering, changing and removing databases.

use serde_json::{Value, json};
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{
    Actor, Change, DatabaseRow, Registry, RegistryError, audit,
    names::{check_label, check_name, label_from, slug_candidates},
    projects::{self, NewProject},
    rows::by_id,
    traits::{Traits, changed_traits, set_traits},
};
use crate::{
    crypto::Secret,
    tenant::{DatabaseType, Target, TenantId, TlsMode},
};

/// Slugs that are tried before a registration gives up.
const SLUGS_MAX: usize = 100;

/// A database to register.
#[derive(Debug, Clone)]
pub struct NewDatabase {
    /// The project that is to own it; made where it is missing.
    pub project: NewProject,
    /// Its name within the project; made from the host when there is none.
    pub name: Option<String>,
    /// Its type, when the caller says one; the connection string must agree.
    pub kind: Option<DatabaseType>,
    /// Where it is.
    pub connection_string: Secret,
    /// Its slug; made from the name when there is none.
    pub slug: Option<String>,
    /// The rest.
    pub traits: Traits,
}

/// A change of a registered database; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct DatabaseChange {
    /// Another name.
    pub name: Option<String>,
    /// Another slug.
    pub slug: Option<String>,
    /// Another place, of the same type.
    pub connection_string: Option<Secret>,
    /// The rest.
    pub traits: Traits,
}

impl Registry {
    /// Registers a database. The connection is not tested here.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] when the name or the slug is taken.
    pub async fn register(
        &self,
        new: NewDatabase,
        actor: &Actor,
    ) -> Result<DatabaseRow, RegistryError> {
        let target = Target::parse(new.connection_string.expose())?;
        if new.kind.is_some_and(|kind| kind != target.kind) {
            return Err(wrong_type(target.kind));
        }
        let name = match new.name {
            Some(name) => name,
            None => name_from(&target),
        };
        check_name("name", &name)?;
        let id = Uuid::now_v7();
        let mut transaction = self.store.write().await?;
        let project = projects::find_or_insert(&mut transaction, &new.project, actor).await?;
        let project_ref = &new.project.project_ref;
        name_is_free(&mut transaction, project, project_ref, &name).await?;
        let slug = match new.slug {
            Some(slug) => {
                slug_is_free(&mut transaction, &slug, id, project).await?;
                slug
            }
            None => free_slug(&mut transaction, &name, target.kind, project_ref).await?,
        };
        sqlx::query(
            "INSERT INTO databases (id, project_id, name, type, connection_string, gateway_slug)
             VALUES ($1, $2, $3, $4, '', $5)",
        )
        .bind(id.to_string())
        .bind(project.to_string())
        .bind(&name)
        .bind(target.kind.label())
        .bind(&slug)
        .execute(&mut *transaction)
        .await?;
        self.set_place(&mut transaction, id, &target, &new.connection_string)
            .await?;
        set_traits(&mut transaction, id, &new.traits).await?;
        let entry = audit::Entry {
            operation: "database.create",
            database: Some(id),
            project_ref: Some(project_ref),
            metadata: json!({ "name": name, "slug": slug, "type": target.kind.label() }),
        };
        audit::record(&mut transaction, actor, entry).await?;
        let row = by_id(&mut transaction, id).await?;
        let row = self.row_from(&row)?;
        transaction.commit().await?;
        self.forget(project);
        Ok(row)
    }

    /// Changes a database; its version counts up, and pools replace their connections.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] when there is none, [`RegistryError::Conflict`] when a name is taken.
    pub async fn change(
        &self,
        id: Uuid,
        change: DatabaseChange,
        actor: &Actor,
    ) -> Result<DatabaseRow, RegistryError> {
        self.is_changeable(id)?;
        let mut transaction = self.store.write().await?;
        let old = self.row_from(&by_id(&mut transaction, id).await?)?;
        let mut changed = changed_traits(&change.traits);
        if let Some(name) = change.name.filter(|name| *name != old.name) {
            check_name("name", &name)?;
            name_is_free(&mut transaction, old.project_id, &old.project_ref, &name).await?;
            changed.insert("name".into(), json!(name));
        }
        if let Some(slug) = change.slug.filter(|slug| *slug != old.slug) {
            slug_is_free(&mut transaction, &slug, id, old.project_id).await?;
            changed.insert("slug".into(), json!(slug));
        }
        let text = |key: &str| changed.get(key).and_then(Value::as_str).map(str::to_owned);
        sqlx::query(
            "UPDATE databases SET name = COALESCE($2, name),
               gateway_slug = COALESCE($3, gateway_slug), version = version + 1,
               updated_at = strftime('%Y-%m-%dT%H:%M:%fZ','now') WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(text("name"))
        .bind(text("slug"))
        .execute(&mut *transaction)
        .await?;
        if let Some(plain) = &change.connection_string {
            let target = Target::parse(plain.expose())?;
            if target.kind.label() != old.kind {
                return Err(wrong_type(target.kind));
            }
            self.set_place(&mut transaction, id, &target, plain).await?;
            changed.insert("connection_string".into(), json!("changed"));
        }
        set_traits(&mut transaction, id, &change.traits).await?;
        let entry = audit::Entry {
            operation: "database.update",
            database: Some(id),
            project_ref: Some(&old.project_ref),
            metadata: Value::Object(changed),
        };
        audit::record(&mut transaction, actor, entry).await?;
        let row = self.row_from(&by_id(&mut transaction, id).await?)?;
        transaction.commit().await?;
        self.changed(old.project_id, Change::Changed(TenantId(id)));
        Ok(row)
    }

    /// Removes a database and its credentials. The database itself is not touched.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] when there is none.
    pub async fn remove(&self, id: Uuid, actor: &Actor) -> Result<(), RegistryError> {
        self.is_changeable(id)?;
        let mut transaction = self.store.write().await?;
        let old = self.row_from(&by_id(&mut transaction, id).await?)?;
        sqlx::query("DELETE FROM databases WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        let entry = audit::Entry {
            operation: "database.delete",
            database: Some(id),
            project_ref: Some(&old.project_ref),
            metadata: json!({ "name": old.name, "slug": old.slug }),
        };
        audit::record(&mut transaction, actor, entry).await?;
        transaction.commit().await?;
        self.changed(old.project_id, Change::Removed(TenantId(id)));
        Ok(())
    }

    /// Where a database is, opened; for connection tests.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] when there is none.
    pub async fn target(&self, id: Uuid) -> Result<Target, RegistryError> {
        if let Some((_, target)) = self.system_row(&id.to_string()) {
            return Ok(target.clone());
        }
        let mut connection = self
            .store
            .pool()
            .acquire()
            .await
            .map_err(RegistryError::from)?;
        let row = by_id(&mut connection, id).await?;
        self.open_row(&row)
    }

    /// Notes that an upstream of the database was just opened; writes at most once a minute.
    pub async fn note_connected(&self, id: Uuid) -> Result<(), RegistryError> {
        // Neither the version nor the cache is touched: nothing that routes has changed.
        sqlx::query(
            "UPDATE databases SET last_connected_at = strftime('%Y-%m-%dT%H:%M:%fZ','now')
             WHERE id = $1 AND (last_connected_at IS NULL
               OR last_connected_at < strftime('%Y-%m-%dT%H:%M:%fZ','now','-1 minute'))",
        )
        .bind(id.to_string())
        .execute(self.store.pool())
        .await?;
        Ok(())
    }

    async fn set_place(
        &self,
        connection: &mut SqliteConnection,
        id: Uuid,
        target: &Target,
        plain: &Secret,
    ) -> Result<(), RegistryError> {
        let endpoint = target.endpoint();
        sqlx::query(
            "UPDATE databases SET connection_string = $2, key_id = $3, host = $4, port = $5,
               database_name = $6, username = $7, ssl_enabled = $8 WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(self.vault.seal(id, plain)?)
        .bind(self.vault.keyring().newest_id())
        .bind(endpoint.map(|endpoint| endpoint.host.clone()))
        .bind(endpoint.map(|endpoint| endpoint.port))
        .bind(target.database.as_deref())
        .bind(target.user.as_deref())
        .bind(!matches!(target.tls, TlsMode::Disable | TlsMode::Prefer))
        .execute(connection)
        .await?;
        Ok(())
    }
}

async fn name_is_free(
    connection: &mut SqliteConnection,
    project: Uuid,
    project_ref: &str,
    name: &str,
) -> Result<(), RegistryError> {
    let taken = sqlx::query("SELECT 1 FROM databases WHERE project_id = $1 AND name = $2")
        .bind(project.to_string())
        .bind(name)
        .fetch_optional(connection)
        .await?;
    match taken {
        None => Ok(()),
        Some(_) => Err(RegistryError::Conflict(format!(
            "project '{project_ref}' has a database named '{name}' already; \
             give another name, or remove that one first"
        ))),
    }
}

/// A slug must not be one already, nor the ref of somebody else's project.
async fn slug_is_free(
    connection: &mut SqliteConnection,
    slug: &str,
    id: Uuid,
    project: Uuid,
) -> Result<(), RegistryError> {
    check_label("slug", slug)?;
    let taken = sqlx::query(
        "SELECT 1 FROM databases WHERE gateway_slug = $1 AND id <> $2
         UNION ALL SELECT 1 FROM projects WHERE ref = $1 AND id <> $3",
    )
    .bind(slug)
    .bind(id.to_string())
    .bind(project.to_string())
    .fetch_optional(connection)
    .await?;
    match taken {
        None => Ok(()),
        Some(_) => Err(RegistryError::Conflict(format!(
            "'{slug}' is the slug of a database or the ref of a project already"
        ))),
    }
}

/// The first slug that is neither a slug nor any project's ref.
async fn free_slug(
    connection: &mut SqliteConnection,
    name: &str,
    kind: DatabaseType,
    project_ref: &str,
) -> Result<String, RegistryError> {
    for slug in slug_candidates(name, kind.label(), project_ref).take(SLUGS_MAX) {
        match slug_is_free(connection, &slug, Uuid::nil(), Uuid::nil()).await {
            Ok(()) => return Ok(slug),
            Err(RegistryError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(RegistryError::Conflict(format!(
        "no slug is free for the name '{name}'; give one"
    )))
}

/// The first label of the host, or the type where the host is an address.
fn name_from(target: &Target) -> String {
    let host = target
        .endpoint()
        .map(|endpoint| endpoint.host.as_str())
        .unwrap_or_default();
    let is_address = host.parse::<std::net::IpAddr>().is_ok() || host == "localhost";
    let label = label_from(host.split('.').next().unwrap_or_default());
    if is_address || label.is_empty() {
        return label_from(target.kind.label());
    }
    label
}

fn wrong_type(kind: DatabaseType) -> RegistryError {
    RegistryError::Invalid {
        field: "type",
        why: format!("the connection string is one of type '{}'", kind.label()),
    }
}
