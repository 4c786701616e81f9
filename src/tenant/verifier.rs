//! The SCRAM-SHA-256 verifier: what is stored of a password, for all three protocols.
//!
//! RFC 5802 section 3 with SHA-256 (RFC 7677). PostgreSQL and MongoDB run SCRAM against it, Redis
//! sends the password itself, which is then put through the same derivation.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Iterations of new verifiers. MongoDB's drivers refuse fewer; PostgreSQL uses the same.
const ITERATIONS: u32 = 4096;
/// Bytes of salt in new verifiers. MongoDB's SCRAM-SHA-256 salts are 28 bytes; some drivers check.
const SALT_BYTES: usize = 28;

/// What a server keeps of a password (RFC 5802: salt, i, `StoredKey`, `ServerKey`).
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// The iteration count of PBKDF2.
    pub iterations: u32,
    /// The salt.
    pub salt: Vec<u8>,
    /// H(ClientKey).
    pub stored_key: [u8; 32],
    /// HMAC(SaltedPassword, "Server Key").
    pub server_key: [u8; 32],
}

impl ScramVerifier {
    /// Derives a verifier with a fresh salt. Costs about a millisecond of CPU.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn derive(password: &str) -> Result<Self, getrandom::Error> {
        let mut salt = vec![0; SALT_BYTES];
        getrandom::fill(&mut salt)?;
        Ok(Self::derive_with(password, salt, ITERATIONS))
    }

    /// Derives the verifier of a password for a given salt and iteration count.
    pub fn derive_with(password: &str, salt: Vec<u8>, iterations: u32) -> Self {
        let salted = salted_password(password, &salt, iterations);
        let client_key = hmac(&salted, b"Client Key");
        Self {
            iterations,
            salt,
            stored_key: Sha256::digest(client_key).into(),
            server_key: hmac(&salted, b"Server Key"),
        }
    }

    /// A verifier that no password fits, for names that do not exist: the same work, the same
    /// messages. The salt depends on the name, so that asking twice tells nothing.
    pub fn mock(name: &str, process_key: &[u8; 32]) -> Self {
        let seed = hmac(process_key, name.as_bytes());
        Self {
            iterations: ITERATIONS,
            salt: seed.iter().copied().take(SALT_BYTES).collect(),
            stored_key: hmac(&seed, b"stored"),
            server_key: hmac(&seed, b"server"),
        }
    }

    /// Whether a password in clear is the one. Costs as much as a derivation.
    pub fn matches(&self, password: &str) -> bool {
        let other = Self::derive_with(password, self.salt.clone(), self.iterations);
        bool::from(
            self.stored_key.ct_eq(&other.stored_key) & self.server_key.ct_eq(&other.server_key),
        )
    }
}

/// Keys are as good as the password for SCRAM, so they are not shown.
impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScramVerifier(i={})", self.iterations)
    }
}

/// `SaltedPassword` of RFC 5802: PBKDF2-HMAC-SHA-256 over the prepared password.
pub(crate) fn salted_password(password: &str, salt: &[u8], iterations: u32) -> [u8; 32] {
    // Like PostgreSQL, a password that SASLprep refuses is used as it is.
    let prepared = stringprep::saslprep(password).unwrap_or(password.into());
    let mut out = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(prepared.as_bytes(), salt, iterations, &mut out);
    out
}

/// HMAC-SHA-256.
pub(crate) fn hmac(key: &[u8; 32], text: &[u8]) -> [u8; 32] {
    // HMAC pads a short key with zeros to the hash's block, so this is the same key.
    let mut block = [0; 64];
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
    mac.update(text);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifier_matches_its_password_only() {
        let verifier = ScramVerifier::derive("pencil").unwrap();
        assert!(verifier.matches("pencil"));
        assert!(!verifier.matches("pencil "));
        assert!(!ScramVerifier::mock("x", &[0; 32]).matches("pencil"));
    }
}
