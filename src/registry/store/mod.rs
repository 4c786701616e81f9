//! SQL: opening the file, its migrations, and reading what a login needs.
//!
//! Names of tables are not qualified, so that a store in `PostgreSQL` can serve the same statements
//! by its `search_path`.

mod lookup;
mod migrate;
mod sqlite;

pub(super) use lookup::{DatabaseRecord, Lookup};
pub(super) use migrate::migrate;
pub use sqlite::make_data_dir;
pub(super) use sqlite::{Store, connect};
use uuid::Uuid;

use super::RegistryError;

/// An id as it is stored.
pub(super) fn id_from(text: &str) -> Result<Uuid, RegistryError> {
    Uuid::parse_str(text).map_err(|_| RegistryError::Damaged { what: "id" })
}
