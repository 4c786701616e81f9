//! The server's role: towards clients.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq;

use super::{
    mechanism::Verifier,
    message::{ClientFirst, ScramError, check_length, field, nonce},
};

/// An exchange whose first messages have been said; consumed by the last.
pub struct Server {
    verifier: Verifier,
    covered: Vec<u8>,
    nonce: String,
    /// Both first messages, which the proof covers.
    said: String,
}

impl Server {
    /// Answers the client's first message; the text is the server's first.
    pub fn begin(
        first: &ClientFirst,
        verifier: impl Into<Verifier>,
    ) -> Result<(Self, String), ScramError> {
        Ok(Self::begin_with(first, verifier.into(), &nonce()?))
    }

    pub(super) fn begin_with(
        first: &ClientFirst,
        verifier: Verifier,
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
        let verifier = &self.verifier;
        let mechanism = verifier.mechanism;
        let mut client_key = STANDARD
            .decode(proof)
            .ok()
            .filter(|proof| proof.len() == verifier.stored_key.len())
            .ok_or(ScramError::Malformed("proof"))?;
        let said = format!("{},{covered}", self.said);
        let signature = mechanism.hmac(&verifier.stored_key, said.as_bytes());
        for (byte, mask) in client_key.iter_mut().zip(signature) {
            *byte ^= mask;
        }
        let stored = mechanism.hash(&client_key);
        if bool::from(stored.ct_eq(&verifier.stored_key)) {
            let own = mechanism.hmac(&verifier.server_key, said.as_bytes());
            Ok(format!("v={}", STANDARD.encode(own)))
        } else {
            Err(ScramError::Mismatch)
        }
    }
}
