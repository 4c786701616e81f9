//! Which hash SCRAM runs with, and what a server keeps of a password under it.
//!
//! SHA-256 is what is offered; SHA-1 exists for MongoDB's users of old.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::tenant::{ScramVerifier, salted_password};

/// Bytes of a block of either hash.
const BLOCK_BYTES: usize = 64;
/// Iterations of SHA-1 verifiers: a MongoDB server's own number.
const SHA1_ITERATIONS: u32 = 10_000;

/// The hash of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mechanism {
    /// RFC 7677.
    #[default]
    Sha256,
    /// RFC 5802.
    Sha1,
}

impl Mechanism {
    /// The registered name.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha1 => "SCRAM-SHA-1",
        }
    }

    /// The mechanism of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha1]
            .into_iter()
            .find(|mechanism| mechanism.label() == name)
    }

    pub(super) fn hash(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha1 => Sha1::digest(bytes).to_vec(),
        }
    }

    /// HMAC with a key that is not longer than a block.
    pub(super) fn hmac(self, key: &[u8], text: &[u8]) -> Vec<u8> {
        // HMAC pads a short key with zeros to the hash's block, so this is the same key.
        let mut block = Zeroizing::new([0; BLOCK_BYTES]);
        for (to, from) in block.iter_mut().zip(key) {
            *to = *from;
        }
        match self {
            Self::Sha256 => authenticated(<Hmac<Sha256> as KeyInit>::new((&*block).into()), text),
            Self::Sha1 => authenticated(<Hmac<Sha1> as KeyInit>::new((&*block).into()), text),
        }
    }

    pub(super) fn salted(self, password: &str, salt: &[u8], iterations: u32) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(match self {
            Self::Sha256 => salted_password(password, salt, iterations).to_vec(),
            Self::Sha1 => {
                let mut out = vec![0; 20];
                pbkdf2::pbkdf2_hmac::<Sha1>(password.as_bytes(), salt, iterations, &mut out);
                out
            }
        })
    }
}

fn authenticated(mut mac: impl Mac, text: &[u8]) -> Vec<u8> {
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

/// What a proof is checked against, whichever the hash.
#[derive(Clone)]
pub struct Verifier {
    pub(super) mechanism: Mechanism,
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Vec<u8>,
    pub(super) server_key: Vec<u8>,
}

impl Verifier {
    /// Derives the SHA-1 verifier of a password as MongoDB sends it: its digest, which needs no
    /// preparation. Costs some milliseconds of CPU.
    pub fn derive_sha1(digest: &str, salt: Vec<u8>) -> Self {
        let mechanism = Mechanism::Sha1;
        let salted = mechanism.salted(digest, &salt, SHA1_ITERATIONS);
        let client_key = mechanism.hmac(&salted, b"Client Key");
        Self {
            mechanism,
            iterations: SHA1_ITERATIONS,
            salt,
            stored_key: mechanism.hash(&client_key),
            server_key: mechanism.hmac(&salted, b"Server Key"),
        }
    }
}

impl From<ScramVerifier> for Verifier {
    fn from(verifier: ScramVerifier) -> Self {
        Self {
            mechanism: Mechanism::Sha256,
            iterations: verifier.iterations,
            stored_key: verifier.stored_key.to_vec(),
            server_key: verifier.server_key.to_vec(),
            salt: verifier.salt,
        }
    }
}

/// Keys are as good as the password, so they are not shown.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({})", self.mechanism.label())
    }
}
