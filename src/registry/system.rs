//! System databases: set by the environment, served as project `system`, never stored.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    DatabaseRow, Listing, Registry, RegistryError,
    query::{Entry, Holding},
    record::Record,
};
use crate::{
    crypto::Secret,
    tenant::{DatabaseType, Generation, Target, TargetError, Tenant, TenantId, TlsMode},
};

/// The ref of their project.
const PROJECT: &str = "system";
/// The id of their project; those of the databases follow it.
const ID: u128 = 0x7379_7374_656d_8000_8000_0000_0000_0000;

/// A database that the environment sets.
#[derive(Debug, Clone)]
pub struct SystemDatabase {
    /// Its type, which is also its name.
    pub kind: DatabaseType,
    /// Where it is.
    pub connection_string: Secret,
}

/// The system databases, as they are served and shown.
#[derive(Debug, Default)]
pub(super) struct System {
    records: Vec<Arc<Record>>,
    rows: Vec<(DatabaseRow, Target)>,
}

impl Registry {
    /// Adds the databases that the environment sets.
    ///
    /// # Errors
    /// When a connection string is none, or of another type.
    pub fn with_system(mut self, databases: Vec<SystemDatabase>) -> Result<Self, RegistryError> {
        for database in databases {
            let target = Target::parse(database.connection_string.expose())?;
            if target.kind != database.kind {
                return Err(TargetError::UnknownScheme(target.scheme).into());
            }
            let row = shown(&target);
            if let Some(protocol) = target.kind.protocol() {
                let tenant = Tenant {
                    id: TenantId(row.id),
                    project: PROJECT.to_owned(),
                    name: row.name.clone(),
                    slug: row.slug.clone(),
                    protocol,
                    target: target.clone(),
                    limits: self.limits.of(protocol),
                    generation: Generation(1),
                };
                self.system
                    .records
                    .push(Arc::new(Record::new(tenant, true)));
            }
            self.system.rows.push((row, target));
        }
        Ok(self)
    }

    /// Fills in what the store does not know: a row of the same name there goes before.
    pub(super) fn add_system(&self, name: &str, entry: &mut Entry) {
        let holding = |records: Vec<Arc<Record>>| {
            (!records.is_empty()).then(|| Holding {
                project: Uuid::from_u128(ID),
                records,
                credentials: Vec::new(),
            })
        };
        if entry.by_ref.is_none() && name == PROJECT {
            entry.by_ref = holding(self.system.records.clone());
        }
        if entry.by_slug.is_none() {
            let of_slug = self
                .system
                .records
                .iter()
                .filter(|record| record.tenant.slug == name);
            entry.by_slug = holding(of_slug.map(Arc::clone).collect());
        }
    }

    /// The rows of the system databases that fit; they come before all others.
    pub(super) fn system_rows(&self, listing: &Listing) -> Vec<DatabaseRow> {
        let fits = |row: &&DatabaseRow| {
            listing.after.is_none()
                && listing
                    .project_ref
                    .as_deref()
                    .is_none_or(|project| project == PROJECT)
                && listing.kind.is_none_or(|kind| kind.label() == row.kind)
        };
        let rows = self.system.rows.iter().map(|(row, _)| row);
        rows.filter(fits).cloned().collect()
    }

    /// The system database of that id or slug.
    pub(super) fn system_row(&self, id_or_slug: &str) -> Option<&(DatabaseRow, Target)> {
        let rows = self.system.rows.iter();
        rows.into_iter()
            .find(|(row, _)| row.slug == id_or_slug || row.id.to_string() == id_or_slug)
    }

    /// The environment alone can change a system database.
    pub(super) fn is_changeable(&self, id: Uuid) -> Result<(), RegistryError> {
        match self.system_row(&id.to_string()) {
            None => Ok(()),
            Some((row, _)) => Err(RegistryError::Conflict(format!(
                "'{}' is set by the environment; it cannot be changed here",
                row.slug
            ))),
        }
    }
}

fn shown(target: &Target) -> DatabaseRow {
    let name = match target.kind {
        DatabaseType::BunApi => "bun-api",
        kind @ (DatabaseType::Postgres | DatabaseType::Redis | DatabaseType::Mongodb) => {
            kind.label()
        }
    };
    let number = match target.kind {
        DatabaseType::Postgres => 1,
        DatabaseType::Redis => 2,
        DatabaseType::Mongodb => 3,
        DatabaseType::BunApi => 4,
    };
    let endpoint = target.endpoint();
    DatabaseRow {
        id: Uuid::from_u128(ID + number),
        project_id: Uuid::from_u128(ID),
        project_ref: PROJECT.to_owned(),
        project_name: PROJECT.to_owned(),
        organization_name: PROJECT.to_owned(),
        organization_slug: PROJECT.to_owned(),
        name: name.to_owned(),
        kind: target.kind.label(),
        slug: format!("{PROJECT}-{name}"),
        description: Some("set by the environment".to_owned()),
        host: endpoint.map(|endpoint| endpoint.host.clone()),
        port: endpoint.map(|endpoint| endpoint.port),
        database_name: target.database.clone(),
        username: target.user.clone(),
        ssl_enabled: !matches!(target.tls, TlsMode::Disable | TlsMode::Prefer),
        connection_string: target.redacted(),
        config: serde_json::json!({}),
        status: "active".to_owned(),
        tier: "default".to_owned(),
        max_upstream: None,
        max_clients: None,
        pool_mode: None,
        allow_passthrough_auth: true,
        key_id: None,
        last_connected_at: None,
        created_at: String::new(),
        updated_at: String::new(),
        version: 1,
    }
}
