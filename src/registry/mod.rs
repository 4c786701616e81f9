//! The registry: which databases there are, where, and who may use them.
//!
//! [`Registry::resolve`] answers sessions from a cache; the other methods serve the admin API and
//! the command line. Connection strings are stored sealed, and opened in `vault.rs` only. Whether a
//! login is proven is not decided here (`session`), nor how a database is reached (`pool`).

mod audit;
mod cache;
mod changes;
mod credentials;
mod databases;
mod error;
mod names;
mod projects;
mod query;
mod record;
mod rows;
mod settings;
mod store;
mod system;
#[cfg(test)]
mod tests;
mod timeouts;
mod tokens;
mod traits;
mod vault;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use uuid::Uuid;
use zeroize::Zeroizing;

pub use self::{
    audit::{Actor, AuditRow},
    cache::CacheFigures,
    changes::Change,
    credentials::{CredentialRow, Issued, NewCredential, Scope},
    databases::{DatabaseChange, NewDatabase},
    error::RegistryError,
    projects::{NewProject, ProjectRow},
    query::{Address, Found, Place, Query},
    record::LimitDefaults,
    rows::{DatabaseRow, Listing},
    settings::Settings,
    store::make_data_dir,
    system::SystemDatabase,
    tokens::{TokenRole, TokenRow},
    traits::{Edit, Traits},
    vault::{Passphrases, Vault},
};
use self::{
    cache::{Cache, CacheLimits, Key},
    query::{Choice, Entry, Holding},
    record::{CredentialRecord, Record},
    store::{DatabaseRecord, Lookup, Store},
};
use crate::{
    protocol::Protocol,
    tenant::{Generation, Tenant, TenantId, TenantLimits},
};

/// How long a read for a login may take before the cache has to do.
const READ_MAX: Duration = Duration::from_secs(5);
/// Names longer than this are unknown without a look: a DNS label and a `ref` have 63 characters.
const NAME_MAX: usize = 63;

/// The registry and its cache; shared by everybody.
pub struct Registry {
    store: Store,
    vault: Vault,
    cache: Cache,
    changes: changes::Changes,
    system: system::System,
    limits: LimitDefaults,
    salt_key: Zeroizing<[u8; 32]>,
    readable: AtomicBool,
}

impl Registry {
    /// Opens the embedded registry, making the file and its schema where they are missing.
    ///
    /// # Errors
    /// When the file cannot be opened, or belongs to a newer polypool.
    pub async fn open(
        settings: &Settings,
        vault: Vault,
        limits: LimitDefaults,
    ) -> Result<Self, RegistryError> {
        let store = store::connect(&settings.file()).await?;
        store::migrate(&store).await?;
        Ok(Self {
            store,
            cache: Cache::new(CacheLimits {
                known_for: settings.cache_for,
                unknown_for: settings.unknown_for,
                entries_max: settings.cache_entries_max,
            }),
            changes: changes::Changes::new(),
            system: system::System::default(),
            limits,
            salt_key: vault.keyring().derive("own user's salt"),
            vault,
            readable: AtomicBool::new(true),
        })
    }

    /// Which database and which user a client means.
    ///
    /// # Errors
    /// Only when the store is out of reach and the name is not in the cache.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn resolve(&self, query: &Query<'_>) -> Result<Found, RegistryError> {
        let (key, length) = match query.address {
            Address::Login { name, .. } => (Key::Name(name.to_ascii_lowercase()), name.len()),
            Address::Issued { public_id } => (Key::PublicId(public_id.to_owned()), public_id.len()),
        };
        if length == 0 || length > NAME_MAX {
            return Ok(Found::nobody());
        }
        let look = key.clone();
        let entry = self.cache.get(key, |old| self.load(look, old)).await?;
        let user = match query.address {
            Address::Login { user, .. } => user,
            Address::Issued { .. } => entry.issued_user.as_deref().unwrap_or_default(),
        };
        Ok(match entry.choose(query.protocol, query.database) {
            Choice::Nobody => Found::nobody(),
            Choice::BySlug(holding, record) => {
                self.one(record, holding.credential(user, record, false), user)
                    .await
            }
            Choice::ByRef(holding, record) => {
                self.one(record, holding.credential(user, record, true), user)
                    .await
            }
            Choice::Several(holding, records) => self.several(holding, &records, user).await,
        })
    }

    /// The key of verifiers for names that do not exist: like real ones, they are the same after a
    /// restart and in every gateway over this registry.
    pub fn mock_key(&self) -> [u8; 32] {
        *self.vault.keyring().derive("mock verifiers")
    }

    /// Whether the store answers.
    pub async fn is_readable(&self) -> bool {
        let ping = sqlx::query("SELECT 1 FROM databases LIMIT 1").fetch_optional(self.store.pool());
        let readable = matches!(timeout(READ_MAX, ping).await, Ok(Ok(_)));
        self.note_readable(readable);
        readable
    }

    /// How the cache does.
    pub fn cache_figures(&self) -> CacheFigures {
        self.cache.figures()
    }

    /// An issued credential goes before the upstream's own user of the same name.
    async fn one(
        &self,
        record: &Record,
        credential: Option<&CredentialRecord>,
        user: &str,
    ) -> Found {
        let account = match credential {
            Some(credential) => Some(credential.account.clone()),
            None => record.own_account(user, &self.salt_key).await,
        };
        Found {
            place: Place::One(Arc::clone(&record.tenant)),
            account,
        }
    }

    /// The user is one of the whole project or, failing that, the first upstream's own of that name.
    async fn several(&self, holding: &Holding, records: &[&Arc<Record>], user: &str) -> Found {
        let mut account = holding
            .project_credential(user)
            .map(|credential| credential.account.clone());
        for record in records {
            if account.is_none() {
                account = record.own_account(user, &self.salt_key).await;
            }
        }
        let names = records
            .iter()
            .map(|record| record.tenant.name.clone())
            .collect();
        Found {
            place: Place::Several(names),
            account,
        }
    }

    async fn load(&self, key: Key, old: Option<Arc<Entry>>) -> Result<Entry, RegistryError> {
        let outcome = timeout(READ_MAX, self.read(key, old.as_deref()))
            .await
            .unwrap_or(Err(RegistryError::Unavailable));
        match &outcome {
            Ok(_) => self.note_readable(true),
            Err(error) if error.is_outage() => self.note_readable(false),
            Err(_) => {}
        }
        outcome
    }

    async fn read(&self, key: Key, old: Option<&Entry>) -> Result<Entry, RegistryError> {
        let mut entry = Entry::default();
        match key {
            Key::Name(name) => {
                let by_slug = self.store.by_slug(&name).await?;
                let by_ref = self.store.by_ref(&name).await?;
                entry.by_slug = by_slug.map(|lookup| self.holding(lookup, old));
                entry.by_ref = by_ref.map(|lookup| self.holding(lookup, old));
                self.add_system(&name, &mut entry);
            }
            Key::PublicId(public_id) => {
                let Some((lookup, whole)) = self.store.by_public_id(&public_id).await? else {
                    return Ok(entry);
                };
                let user = lookup
                    .credentials
                    .first()
                    .map(|held| held.account.user.clone());
                let holding = Some(self.holding(lookup, old));
                entry.issued_user = user;
                if whole {
                    entry.by_ref = holding;
                } else {
                    entry.by_slug = holding;
                }
            }
        }
        Ok(entry)
    }

    fn holding(&self, lookup: Lookup, old: Option<&Entry>) -> Holding {
        Holding {
            project: lookup.project,
            records: lookup
                .databases
                .into_iter()
                .filter_map(|row| self.record(row, old))
                .collect(),
            credentials: lookup.credentials,
        }
    }

    /// `None` for rows that no client can be sent to: HTTP services, and strings that do not open.
    fn record(&self, row: DatabaseRecord, old: Option<&Entry>) -> Option<Arc<Record>> {
        let protocol = row.kind.protocol()?;
        if let Some(known) = old.and_then(|entry| entry.record(row.id, row.version)) {
            return Some(known);
        }
        let opened = self.vault.open(row.id, row.kind, &row.connection_string);
        let target = opened
            .inspect_err(|error| tracing::warn!(database = %row.id, %error, "not usable"))
            .ok()?;
        let tenant = Tenant {
            id: TenantId(row.id),
            limits: self.limits_of(protocol, &row),
            project: row.project_ref,
            name: row.name,
            slug: row.slug,
            protocol,
            target,
            generation: Generation(row.version),
        };
        Some(Arc::new(Record::new(tenant, row.own_user_allowed)))
    }

    fn limits_of(&self, protocol: Protocol, row: &DatabaseRecord) -> TenantLimits {
        let mut limits = self.limits.of(protocol);
        let count = |given: Option<u32>| given.and_then(|max| usize::try_from(max).ok());
        limits.upstream_max = count(row.upstream_max).unwrap_or(limits.upstream_max);
        limits.clients_max = count(row.clients_max).unwrap_or(limits.clients_max);
        limits.pool_mode = row.pool_mode.unwrap_or(limits.pool_mode);
        limits.timeouts = row.timeouts.or(limits.timeouts);
        limits
    }

    fn note_readable(&self, readable: bool) {
        if self.readable.swap(readable, Ordering::Relaxed) != readable {
            if readable {
                tracing::info!("the registry can be read again");
            } else {
                tracing::error!(
                    "the registry cannot be read; known databases go on from the cache"
                );
            }
        }
    }

    /// To be called after every write of ours.
    fn forget(&self, project: Uuid) {
        self.cache.forget(project);
    }
}
