//! What a registration says besides where the database is: description, status, limits.

use serde_json::{Map, Value, json};
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::RegistryError;

/// What may be given at registration and changed later. `None` leaves it as it is; `Some(None)`
/// clears it.
#[derive(Debug, Clone, Default)]
pub struct Traits {
    /// What somebody writes about it.
    pub description: Option<Option<String>>,
    /// Settings of this database alone: an object.
    pub config: Option<Value>,
    /// `active`, `inactive` or `maintenance`.
    pub status: Option<String>,
    /// Upstream connections at most.
    pub max_upstream: Option<Option<u32>>,
    /// Clients at most.
    pub max_clients: Option<Option<u32>>,
    /// `transaction`, `session` or `statement`.
    pub pool_mode: Option<Option<String>>,
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
    .bind(traits.description.is_some())
    .bind(traits.description.clone().flatten())
    .bind(traits.max_upstream.is_some())
    .bind(traits.max_upstream.flatten())
    .bind(traits.max_clients.is_some())
    .bind(traits.max_clients.flatten())
    .bind(traits.pool_mode.is_some())
    .bind(traits.pool_mode.clone().flatten())
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
    if let Some(status) = &traits.status
        && !matches!(status.as_str(), "active" | "inactive" | "maintenance")
    {
        return invalid("status", "must be 'active', 'inactive' or 'maintenance'");
    }
    if let Some(Some(mode)) = &traits.pool_mode
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
        if limit == Some(Some(0)) {
            return invalid(field, "must be at least 1");
        }
    }
    Ok(())
}

/// What the audit log says of a change.
pub(super) fn changed_traits(traits: &Traits) -> Map<String, Value> {
    let all = [
        (
            "description",
            traits.description.as_ref().map(|_| json!("changed")),
        ),
        ("config", traits.config.as_ref().map(|_| json!("changed"))),
        ("status", traits.status.as_ref().map(|status| json!(status))),
        ("max_upstream", traits.max_upstream.map(|max| json!(max))),
        ("max_clients", traits.max_clients.map(|max| json!(max))),
        (
            "pool_mode",
            traits.pool_mode.as_ref().map(|mode| json!(mode)),
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
