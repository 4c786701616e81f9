//! Checking passwords in clear against verifiers, off the reactor and only once for each.

use dashmap::{DashMap, DashSet};
use tokio::sync::Semaphore;

use crate::{
    auth::scram::Verifier,
    crypto::Secret,
    tenant::{ScramVerifier, hmac},
};

/// Passwords remembered as right, at most; beyond, all are forgotten and derived again.
const REMEMBERED_MAX: usize = 10_000;
/// Derivations at the same time: a flood of logins must leave the processors to the data paths.
const DERIVING_MAX: usize = 2;

/// Password checks of this process.
pub(super) struct PasswordCheck {
    key: [u8; 32],
    right: DashSet<[u8; 32]>,
    derived: DashMap<[u8; 32], Verifier>,
    deriving: Semaphore,
}

impl PasswordCheck {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self {
            key,
            right: DashSet::new(),
            derived: DashMap::new(),
            deriving: Semaphore::new(DERIVING_MAX),
        }
    }

    /// Whether the password fits. The first time costs a key derivation, then one hash.
    pub(super) async fn matches(&self, verifier: &ScramVerifier, password: &[u8]) -> bool {
        // Only a digest under a key of this process is kept, and it covers the verifier: a changed
        // password has another one.
        let mut text = verifier.stored_key.to_vec();
        text.extend_from_slice(password);
        let digest = hmac(&self.key, &text);
        if self.right.contains(&digest) {
            return true;
        }
        let Ok(password) = String::from_utf8(password.to_vec()) else {
            return false;
        };
        let verifier = verifier.clone();
        let Ok(_permit) = self.deriving.acquire().await else {
            return false;
        };
        let derived = tokio::task::spawn_blocking(move || verifier.matches(&password)).await;
        let fits = derived.unwrap_or(false);
        if fits {
            if self.right.len() >= REMEMBERED_MAX {
                self.right.clear();
            }
            self.right.insert(digest);
        }
        fits
    }

    /// The verifier of a password by `SCRAM-SHA-1`. The first time costs a key derivation, then one hash.
    pub(super) async fn derive_sha1(&self, password: Secret, salt: Vec<u8>) -> Option<Verifier> {
        let text = [salt.as_slice(), password.expose().as_bytes()].concat();
        let digest = hmac(&self.key, &text);
        if let Some(known) = self.derived.get(&digest) {
            return Some(known.clone());
        }
        let _permit = self.deriving.acquire().await.ok()?;
        let work = move || Verifier::derive_sha1(password.expose(), salt);
        let verifier = tokio::task::spawn_blocking(work).await.ok()?;
        if self.derived.len() >= REMEMBERED_MAX {
            self.derived.clear();
        }
        self.derived.insert(digest, verifier.clone());
        Some(verifier)
    }
}
