//! Projects and their organisations: the minimum that registration needs.

use serde::Serialize;
use serde_json::json;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    Actor, Registry, RegistryError, audit,
    names::{check_label, check_name},
    store::id_from,
};

/// The organisation of projects that name none.
const DEFAULT_ORGANIZATION: &str = "default";

/// A project to make.
#[derive(Debug, Clone)]
pub struct NewProject {
    /// Its ref, a DNS label: what clients and commands call it.
    pub project_ref: String,
    /// Its display name; the ref when there is none.
    pub name: Option<String>,
    /// The slug of its organisation, which is made when it is missing.
    pub organization: Option<String>,
}

/// A project, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct ProjectRow {
    /// The row's id.
    pub id: Uuid,
    /// Its ref.
    #[serde(rename = "ref")]
    pub project_ref: String,
    /// Its display name.
    pub name: String,
    /// The display name of its organisation.
    pub organization_name: String,
    /// The slug of its organisation.
    pub organization_slug: String,
    /// The platform's status of it.
    pub status: String,
    /// How many databases it has.
    pub databases: i64,
    /// When it was made.
    pub created_at: String,
}

const ROWS: &str = "SELECT p.id, p.ref, p.name, p.status, p.created_at,
    o.name AS organization_name, o.slug AS organization_slug,
    (SELECT COUNT(*) FROM databases d WHERE d.project_id = p.id) AS databases
  FROM projects p JOIN organizations o ON o.id = p.organization_id
  WHERE $1 IS NULL OR p.ref = $1 ORDER BY p.ref LIMIT 1000";

impl Registry {
    /// All projects, by ref.
    pub async fn projects(&self) -> Result<Vec<ProjectRow>, RegistryError> {
        let rows = sqlx::query(ROWS)
            .bind(None::<&str>)
            .fetch_all(self.store.pool())
            .await?;
        rows.iter().map(row_from).collect()
    }

    /// The project of that ref.
    pub async fn project(&self, project_ref: &str) -> Result<Option<ProjectRow>, RegistryError> {
        let row = sqlx::query(ROWS)
            .bind(project_ref)
            .fetch_optional(self.store.pool())
            .await?;
        row.as_ref().map(row_from).transpose()
    }

    /// Makes a project, and its organisation where that is missing.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] when there is one of that ref.
    pub async fn create_project(
        &self,
        new: &NewProject,
        actor: &Actor,
    ) -> Result<ProjectRow, RegistryError> {
        let mut transaction = self.store.write().await?;
        if find(&mut transaction, &new.project_ref).await?.is_some() {
            return Err(RegistryError::Conflict(format!(
                "there is a project '{}' already",
                new.project_ref
            )));
        }
        let id = insert(&mut transaction, new, actor).await?;
        transaction.commit().await?;
        self.forget(id);
        self.project(&new.project_ref)
            .await?
            .ok_or(RegistryError::Damaged { what: "project" })
    }
}

/// The project of that ref, made where it is missing.
pub(super) async fn find_or_insert(
    connection: &mut SqliteConnection,
    new: &NewProject,
    actor: &Actor,
) -> Result<Uuid, RegistryError> {
    match find(connection, &new.project_ref).await? {
        Some(id) => Ok(id),
        None => insert(connection, new, actor).await,
    }
}

/// The id of the project of that ref.
pub(super) async fn find(
    connection: &mut SqliteConnection,
    project_ref: &str,
) -> Result<Option<Uuid>, RegistryError> {
    let row = sqlx::query("SELECT id FROM projects WHERE ref = $1")
        .bind(project_ref)
        .fetch_optional(connection)
        .await?;
    row.map(|row| id_from(row.try_get("id")?)).transpose()
}

async fn insert(
    connection: &mut SqliteConnection,
    new: &NewProject,
    actor: &Actor,
) -> Result<Uuid, RegistryError> {
    check_label("project_ref", &new.project_ref)?;
    // Another project's clients use this name already; it must not change its meaning.
    let taken = sqlx::query("SELECT 1 FROM databases WHERE gateway_slug = $1")
        .bind(&new.project_ref)
        .fetch_optional(&mut *connection)
        .await?;
    if taken.is_some() {
        return Err(RegistryError::Conflict(format!(
            "'{}' is the slug of a database already",
            new.project_ref
        )));
    }
    let name = new.name.as_deref().unwrap_or(&new.project_ref);
    check_name("project_name", name)?;
    let organization = new.organization.as_deref().unwrap_or(DEFAULT_ORGANIZATION);
    let organization = find_or_insert_organization(connection, organization).await?;
    let id = Uuid::now_v7();
    sqlx::query(
        "INSERT INTO projects (id, organization_id, name, slug, ref) VALUES ($1, $2, $3, $4, $4)",
    )
    .bind(id.to_string())
    .bind(organization)
    .bind(name)
    .bind(&new.project_ref)
    .execute(&mut *connection)
    .await?;
    let entry = audit::Entry {
        operation: "project.create",
        database: None,
        project_ref: Some(&new.project_ref),
        metadata: json!({ "name": name }),
    };
    audit::record(connection, actor, entry).await?;
    Ok(id)
}

async fn find_or_insert_organization(
    connection: &mut SqliteConnection,
    slug: &str,
) -> Result<String, RegistryError> {
    check_label("organization_slug", slug)?;
    let row = sqlx::query(
        "INSERT INTO organizations (id, name, slug) VALUES ($1, $2, $2)
         ON CONFLICT (slug) DO UPDATE SET slug = excluded.slug RETURNING id",
    )
    .bind(Uuid::now_v7().to_string())
    .bind(slug)
    .fetch_one(connection)
    .await?;
    Ok(row.try_get("id")?)
}

fn row_from(row: &SqliteRow) -> Result<ProjectRow, RegistryError> {
    Ok(ProjectRow {
        id: id_from(row.try_get("id")?)?,
        project_ref: row.try_get("ref")?,
        name: row.try_get("name")?,
        organization_name: row.try_get("organization_name")?,
        organization_slug: row.try_get("organization_slug")?,
        status: row.try_get("status")?,
        databases: row.try_get("databases")?,
        created_at: row.try_get("created_at")?,
    })
}
