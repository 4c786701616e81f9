//! The configuration: each module's `Settings` gathered, read from a file and the environment.
//!
//! `config/polypool.toml` is the annotated reference; a test holds it equal to [`Config::default`].
//! What a setting means is said where it is used; here it is only read, and faults are named by key
//! and line.

mod assemble;
mod environment;
mod fault;
mod file;
mod hidden;
mod sections;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::{
    assemble::{AssembleError, admin_token, open_registry},
    environment::unknown_variables,
    fault::ConfigFault,
    hidden::Hidden,
    sections::{
        Limits, Listen, Log, LogFormat, Mode, Runtime, Scheduling, Secrets, Shutdown, System, Tls,
        TypeLimits,
    },
};
use crate::{admin, mongodb, pool, postgres, redis, registry};

/// The file that is read when none is named, if it is there.
pub const DEFAULT_FILE: &str = "polypool.toml";

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients and operators connect.
    pub listen: Listen,
    /// TLS on both sides.
    pub tls: Tls,
    /// The registry and its cache.
    pub registry: registry::Settings,
    /// Keys and tokens.
    pub secrets: Secrets,
    /// The admin API.
    pub admin: admin::Settings,
    /// What is logged.
    pub log: Log,
    /// What all pools share.
    pub pool: pool::Settings,
    /// The `PostgreSQL` side.
    pub postgres: postgres::Settings,
    /// The Redis side.
    pub redis: redis::Settings,
    /// The `MongoDB` side.
    pub mongodb: mongodb::Settings,
    /// What bounds a database that sets no limits of its own.
    pub limits: Limits,
    /// What the gateway runs on.
    pub runtime: Runtime,
    /// How the gateway ends.
    pub shutdown: Shutdown,
    /// `DATABASE_URL`: a registry in `PostgreSQL`, which is not available yet.
    #[serde(skip)]
    pub database_url: Hidden,
    /// `POSTGRES_URL`, `REDIS_URL`, `MONGODB_URL`, `BUN_API_URL`: served as project `system`.
    #[serde(skip)]
    pub system: System,
}

impl Config {
    /// Reads the named file, or [`DEFAULT_FILE`] if it is there, and then the environment.
    ///
    /// # Errors
    /// Names the key and the line, or the variable, of what is wrong.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigFault> {
        let found = file.map(Path::to_owned).or_else(|| {
            let default = PathBuf::from(DEFAULT_FILE);
            default.is_file().then_some(default)
        });
        Self::read(found.as_deref(), |name| std::env::var(name).ok())
    }

    /// What a command that only asks a running gateway need not care for.
    ///
    /// # Errors
    /// When `DATABASE_URL` is set: using another registry instead would be wrong.
    pub fn check_registry(&self) -> Result<(), ConfigFault> {
        match self.database_url.get() {
            None => Ok(()),
            Some(_) => Err(ConfigFault::Variable {
                name: "DATABASE_URL",
                why: "the PostgreSQL registry is not available yet; \
                      unset it to use the embedded one"
                    .to_owned(),
            }),
        }
    }

    fn read(
        file: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigFault> {
        let mut config = match file {
            Some(path) => file::read(path)?,
            None => Self::default(),
        };
        environment::apply(&mut config, variable)?;
        Ok(config)
    }
}
