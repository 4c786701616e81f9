//! What a registration says besides where the database is: description, status, limits.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{RegistryError, timeouts};

/// What happens to a value that may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Edit<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is taken away.
    Clear,
    /// It becomes this.
    To(T),
}

impl<T> Edit<T> {
    const fn is_kept(&self) -> bool {
        matches!(self, Self::Keep)
    }

    const fn value(&self) -> Option<&T> {
        match self {
            Self::Keep | Self::Clear => None,
            Self::To(value) => Some(value),
        }
    }
}

/// `null` clears; absence keeps, where the field has `#[serde(default)]`.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for Edit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<T>::deserialize(deserializer)?.map_or(Self::Clear, Self::To))
    }
}

/// What may be given at registration and changed later; what is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct Traits {
    /// What somebody writes about it.
    pub description: Edit<String>,
    /// Settings of this database alone: an object.
    pub config: Option<Value>,
    /// `active`, `inactive` or `maintenance`.
    pub status: Option<String>,
    /// Upstream connections at most.
    pub max_upstream: Edit<u32>,
    /// Clients at most.
    pub max_clients: Edit<u32>,
    /// `transaction`, `session` or `statement`.
    pub pool_mode: Edit<String>,
    /// Whether the upstream's own user may log in here.
    pub allow_passthrough_auth: Option<bool>,
}

pub(super) async fn set_traits(
    connection: &mut SqliteConnection,
    id: Uuid,
    traits: &Traits,
) -> Result<(), RegistryError> {
    check_traits(traits)?;
    // A pair for each clearable column: whether to write it, and what.
    sqlx::query(
        "UPDATE databases SET
           description = CASE WHEN $2 THEN $3 ELSE description END,
           max_upstream = CASE WHEN $4 THEN $5 ELSE max_upstream END,
           max_clients = CASE WHEN $6 THEN $7 ELSE max_clients END,
           pool_mode = CASE WHEN $8 THEN $9 ELSE pool_mode END,
           config = COALESCE($10, config), status = COALESCE($11, status),
           allow_passthrough_auth = COALESCE($12, allow_passthrough_auth) WHERE id = $1",
    )
    .bind(id.to_string())
    .bind(!traits.description.is_kept())
    .bind(traits.description.value())
    .bind(!traits.max_upstream.is_kept())
    .bind(traits.max_upstream.value())
    .bind(!traits.max_clients.is_kept())
    .bind(traits.max_clients.value())
    .bind(!traits.pool_mode.is_kept())
    .bind(traits.pool_mode.value())
    .bind(traits.config.as_ref().map(Value::to_string))
    .bind(traits.status.as_deref())
    .bind(traits.allow_passthrough_auth)
    .execute(connection)
    .await?;
    Ok(())
}

fn check_traits(traits: &Traits) -> Result<(), RegistryError> {
    let invalid = |field, why: &str| {
        Err(RegistryError::Invalid {
            field,
            why: why.to_owned(),
        })
    };
    if traits
        .config
        .as_ref()
        .is_some_and(|config| !config.is_object())
    {
        return invalid("config", "must be an object");
    }
    if let Some(Err(key)) = traits.config.as_ref().map(timeouts::read) {
        return invalid(key, "must be a duration such as \"30s\"");
    }
    if let Some(status) = &traits.status
        && !matches!(status.as_str(), "active" | "inactive" | "maintenance")
    {
        return invalid("status", "must be 'active', 'inactive' or 'maintenance'");
    }
    if let Some(mode) = traits.pool_mode.value()
        && !matches!(mode.as_str(), "transaction" | "session" | "statement")
    {
        return invalid(
            "pool_mode",
            "must be 'transaction', 'session' or 'statement'",
        );
    }
    let limits = [
        ("max_upstream", traits.max_upstream),
        ("max_clients", traits.max_clients),
    ];
    for (field, limit) in limits {
        if limit == Edit::To(0) {
            return invalid(field, "must be at least 1");
        }
    }
    Ok(())
}

/// What the audit log says of a change.
pub(super) fn changed_traits(traits: &Traits) -> Map<String, Value> {
    let edited = |edit: &Edit<u32>| (!edit.is_kept()).then(|| json!(edit.value()));
    let pool_mode = &traits.pool_mode;
    let all = [
        (
            "description",
            (!traits.description.is_kept()).then(|| json!("changed")),
        ),
        ("config", traits.config.as_ref().map(|_| json!("changed"))),
        ("status", traits.status.as_ref().map(|status| json!(status))),
        ("max_upstream", edited(&traits.max_upstream)),
        ("max_clients", edited(&traits.max_clients)),
        (
            "pool_mode",
            (!pool_mode.is_kept()).then(|| json!(pool_mode.value())),
        ),
        (
            "allow_passthrough_auth",
            traits.allow_passthrough_auth.map(|allow| json!(allow)),
        ),
    ];
    all.into_iter()
        .filter_map(|(name, value)| value.map(|value| (name.to_owned(), value)))
        .collect()
}
