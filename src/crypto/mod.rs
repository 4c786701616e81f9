//! Secrets at rest and in memory: sealing, the keyring, the legacy format, and [`Secret`].
//!
//! Password verifiers are not here (`tenant::ScramVerifier`), nor is TLS (`net::tls`).

mod secret;

pub use secret::Secret;
