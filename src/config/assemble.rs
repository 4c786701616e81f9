//! What is made of the configuration before anything else: the data directory, keys, the registry.

use std::{io, path::PathBuf};

use thiserror::Error;

use super::{Config, ConfigFault};
use crate::{
    admin,
    crypto::{CryptoError, Keyring, Secret},
    registry::{Passphrases, Registry, RegistryError, Vault, make_data_dir},
};

/// Why the gateway cannot begin.
#[derive(Debug, Error)]
pub enum AssembleError {
    /// The data directory or a file in it cannot be read or made.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another registry is asked for.
    #[error(transparent)]
    Config(#[from] ConfigFault),
    /// The encryption keys are not usable.
    #[error(transparent)]
    Keys(#[from] CryptoError),
    /// The registry does not open.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Opens the registry; makes the data directory and the encryption key at the first start.
///
/// # Errors
/// Says which file or key is not usable.
pub async fn open_registry(config: &Config) -> Result<Registry, AssembleError> {
    config.check_registry()?;
    make_dir(config)?;
    let secrets = &config.secrets;
    let keyring = if let Some(keys) = secrets.encryption_keys.get() {
        Keyring::parse(keys.expose())?
    } else {
        let path = config.registry.data_dir.join("encryption.key");
        let (keyring, made) = Keyring::load_or_create(&path)?;
        if made {
            tracing::info!(path = %path.display(), "made the encryption key; keep a copy of it");
        }
        keyring
    };
    let passphrases = Passphrases {
        postgres: secrets.pg_meta_crypto_key.get().cloned(),
        redis: secrets.redis_crypto_key.get().cloned(),
        mongodb: secrets.mongodb_crypto_key.get().cloned(),
    };
    let vault = Vault::new(keyring, passphrases, config.registry.allow_plaintext);
    let registry = Registry::open(&config.registry, vault, config.limits.defaults()).await?;
    Ok(registry.with_system(config.system.databases())?)
}

/// The admin token: the configured one, else that of the data directory, made at the first start.
///
/// # Errors
/// When its file cannot be read or made.
pub fn admin_token(config: &Config) -> Result<Secret, AssembleError> {
    if let Some(token) = config.secrets.admin_token.get() {
        return Ok(token.clone());
    }
    make_dir(config)?;
    let path = admin::token_file(&config.registry.data_dir);
    let (token, made) =
        admin::load_or_create_token(&config.registry.data_dir).map_err(|source| {
            AssembleError::File {
                path: path.clone(),
                source,
            }
        })?;
    if made {
        tracing::info!(path = %path.display(), "made the admin token");
    }
    Ok(token)
}

fn make_dir(config: &Config) -> Result<(), AssembleError> {
    let path = &config.registry.data_dir;
    make_data_dir(path).map_err(|source| AssembleError::File {
        path: path.clone(),
        source,
    })
}
