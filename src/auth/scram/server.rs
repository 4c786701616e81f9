//! The server's role: towards clients.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::message::{ClientFirst, ScramError, check_length, field, nonce};
use crate::tenant::{ScramVerifier, hmac};

/// An exchange whose first messages have been said; consumed by the last.
pub struct Server {
    verifier: ScramVerifier,
    covered: Vec<u8>,
    nonce: String,
    /// Both first messages, which the proof covers.
    said: String,
}

impl Server {
    /// Answers the client's first message; the text is the server's first.
    pub fn begin(
        first: &ClientFirst,
        verifier: ScramVerifier,
    ) -> Result<(Self, String), ScramError> {
        Ok(Self::begin_with(first, verifier, &nonce()?))
    }

    pub(super) fn begin_with(
        first: &ClientFirst,
        verifier: ScramVerifier,
        own_nonce: &str,
    ) -> (Self, String) {
        let nonce = format!("{}{own_nonce}", first.nonce);
        let salt = STANDARD.encode(&verifier.salt);
        let answer = format!("r={nonce},s={salt},i={}", verifier.iterations);
        let said = format!("{},{answer}", first.bare);
        (
            Self {
                verifier,
                covered: first.covered.clone(),
                nonce,
                said,
            },
            answer,
        )
    }

    /// Checks the client's proof; the text is the server's last message, its own proof.
    pub fn finish(self, last: &str) -> Result<String, ScramError> {
        check_length(last)?;
        let (covered, proof) = last.rsplit_once(",p=").ok_or(ScramError::Malformed("p="))?;
        let mut fields = covered.split(',');
        let binding = field(fields.next(), "c=")?;
        let nonce = field(fields.next(), "r=")?;
        if binding != STANDARD.encode(&self.covered) {
            return Err(ScramError::Malformed("channel binding"));
        }
        if nonce != self.nonce {
            return Err(ScramError::Malformed("nonce"));
        }
        let proof: [u8; 32] = STANDARD
            .decode(proof)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(ScramError::Malformed("proof"))?;
        let said = format!("{},{covered}", self.said);
        let signature = hmac(&self.verifier.stored_key, said.as_bytes());
        let mut client_key = proof;
        for (byte, mask) in client_key.iter_mut().zip(signature) {
            *byte ^= mask;
        }
        let stored: [u8; 32] = Sha256::digest(client_key).into();
        if bool::from(stored.ct_eq(&self.verifier.stored_key)) {
            let own = hmac(&self.verifier.server_key, said.as_bytes());
            Ok(format!("v={}", STANDARD.encode(own)))
        } else {
            Err(ScramError::Mismatch)
        }
    }
}
