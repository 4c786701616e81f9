//! What can go wrong between us and the registry.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{
    crypto::CryptoError,
    fault::{Fault, FaultKind, Side},
    tenant::TargetError,
};

/// Why the registry cannot answer or refuses a change.
///
/// # Invariants
/// No variant holds a secret.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// It cannot be read or written now.
    #[error("the registry cannot be read or written: {0}")]
    Storage(#[from] sqlx::Error),
    /// It could not be read a moment ago, or does not answer in time.
    #[error("the registry does not answer")]
    Unavailable,
    /// Its file or folder cannot be made.
    #[error("the registry at {path}: {source}")]
    File {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It was written by a newer polypool.
    #[error("the registry is of version {found}; this polypool knows {known} at most")]
    TooNew {
        /// Its version.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// A row is not as it must be.
    #[error("the registry's {what} is damaged")]
    Damaged {
        /// What is.
        what: &'static str,
    },
    /// There is no such thing.
    #[error("there is no {what} '{name}'")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// By which name.
        name: String,
    },
    /// The change would break a uniqueness.
    #[error("{0}")]
    Conflict(String),
    /// A value is not allowed.
    #[error("{field}: {why}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The connection string is not one.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A secret cannot be sealed or opened.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl RegistryError {
    /// Whether the registry itself is out of reach, so that what is cached may go on.
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Storage(_) | Self::Unavailable | Self::File { .. }
        )
    }
}

impl Fault for RegistryError {
    fn kind(&self) -> FaultKind {
        match self {
            Self::Storage(_)
            | Self::Unavailable
            | Self::File { .. }
            | Self::TooNew { .. }
            | Self::Damaged { .. } => FaultKind::Registry,
            Self::NotFound { .. } | Self::Conflict(_) | Self::Invalid { .. } | Self::Target(_) => {
                FaultKind::Malformed
            }
            Self::Crypto(_) => FaultKind::Internal,
        }
    }

    fn side(&self) -> Side {
        match self.kind() {
            FaultKind::Malformed => Side::Client,
            _ => Side::Gateway,
        }
    }
}
