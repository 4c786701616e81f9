//! Secrets at rest and in memory: sealing, the keyring, the legacy format, and [`Secret`].
//!
//! Password verifiers are not here (`tenant::ScramVerifier`), nor is TLS (`net::tls`).

mod keyring;
mod legacy;
mod random;
mod seal;
mod secret;

use std::{io, path::PathBuf};

pub use keyring::Keyring;
pub(crate) use keyring::create_private;
pub use legacy::{is_legacy, open_legacy};
pub use random::{random_bytes, random_label, random_text};
pub use seal::{is_sealed, open, seal, sealed_under};
pub use secret::Secret;
use thiserror::Error;

/// Why a secret cannot be sealed, opened or made.
///
/// # Invariants
/// No variant holds a key, a passphrase, a ciphertext or a plaintext.
#[derive(Debug, Error)]
pub enum CryptoError {
    /// The text does not open: wrong key, wrong row, or damage. One error for all, so that nobody
    /// can ask which.
    #[error("the secret cannot be decrypted")]
    Undecryptable,
    /// The text was sealed under a key that is not in the keyring.
    #[error("the secret was sealed under key '{0}', which is not among the encryption keys")]
    UnknownKey(String),
    /// The list of keys is not one.
    #[error("encryption key {position}: {why}; expected 'id:base64 of 32 bytes', comma separated")]
    BadKeys {
        /// Which entry, counted from 1.
        position: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The key file cannot be read or made.
    #[error("the key file {path}: {source}")]
    KeyFile {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The operating system has no randomness to give.
    #[error("the operating system gives no randomness")]
    Randomness,
}
