//! The embedded store: one `SQLite` file beside the gateway, readable by its owner only.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use sqlx::{
    ConnectOptions, Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::registry::RegistryError;

/// Connections to the file; more would only wait for each other's writes.
const CONNECTIONS_MAX: u32 = 4;
/// How long a write waits for another process' write.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// How long a caller waits for one of the connections.
const ACQUIRE_MAX: Duration = Duration::from_secs(5);

/// The open store.
#[derive(Debug, Clone)]
pub(in crate::registry) struct Store {
    pool: SqlitePool,
}

impl Store {
    pub(in crate::registry) const fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Begins a transaction that takes the write lock at once, so that it cannot fail half-way for
    /// having read an older state.
    pub(in crate::registry) async fn write(
        &self,
    ) -> Result<Transaction<'static, Sqlite>, RegistryError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// Opens the file, making it and its folder where they are missing.
pub(in crate::registry) async fn connect(path: &Path) -> Result<Store, RegistryError> {
    let fault = |source| RegistryError::File {
        path: path.to_owned(),
        source,
    };
    if let Some(folder) = path.parent() {
        make_data_dir(folder).map_err(fault)?;
    }
    make_file(path).map_err(fault)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_MAX)
        .disable_statement_logging();
    let pool = SqlitePoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_MAX)
        .connect_with(options)
        .await?;
    Ok(Store { pool })
}

/// Makes a folder that only its owner can enter, where it is missing.
///
/// # Errors
/// When it cannot be made.
pub fn make_data_dir(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// The `-wal` and `-shm` files get the mode of the main file, so that is made before `SQLite` does.
fn make_file(path: &Path) -> io::Result<()> {
    let made = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
