//! The client's role: towards upstreams.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    mechanism::Mechanism,
    message::{Binding, END_POINT, ScramError, check_length, escape, field, nonce},
};
use crate::crypto::Secret;

/// More iterations than any server asks for; a hostile one could otherwise keep us busy for hours.
const ITERATIONS_MAX: u32 = 1_000_000;

/// An exchange whose first message has been made.
pub struct Client {
    mechanism: Mechanism,
    /// The GS2 header and the binding, which the last message repeats.
    covered: Vec<u8>,
    bare: String,
    nonce: String,
}

/// The salted password of one salt: kept by dialers, so that dialling again costs no derivation.
#[derive(Clone)]
pub struct Salted {
    mechanism: Mechanism,
    salt: Vec<u8>,
    iterations: u32,
    key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Salted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salted(****)")
    }
}

/// The client's last message, and what the server must answer.
#[derive(Debug)]
pub struct Finish {
    /// To be sent.
    pub message: String,
    /// For the next exchange with the same server.
    pub salted: Salted,
    expected: Vec<u8>,
}

impl Client {
    /// Begins; the text is the first message. PostgreSQL ignores the user and wants it empty.
    pub fn begin(user: &str) -> Result<(Self, String), ScramError> {
        Self::begin_bound(user, Binding::Unavailable)
    }

    /// Begins with that hash.
    pub fn begin_as(mechanism: Mechanism, user: &str) -> Result<(Self, String), ScramError> {
        let (client, first) = Self::begin(user)?;
        Ok((client.by(mechanism), first))
    }

    pub(super) fn by(self, mechanism: Mechanism) -> Self {
        Self { mechanism, ..self }
    }

    /// The hash.
    pub const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Begins over TLS: [`Binding::Unused`] is for servers that do not offer the binding.
    pub fn begin_bound(user: &str, binding: Binding<'_>) -> Result<(Self, String), ScramError> {
        Ok(Self::begin_with(user, nonce()?, binding))
    }

    pub(super) fn begin_with(user: &str, nonce: String, binding: Binding<'_>) -> (Self, String) {
        let (flag, data): (_, &[u8]) = match binding {
            Binding::Unavailable => ("n", &[]),
            Binding::Unused => ("y", &[]),
            Binding::EndPoint(data) => (END_POINT, data),
        };
        let bare = format!("n={},r={nonce}", escape(user));
        let first = format!("{flag},,{bare}");
        let covered = [format!("{flag},,").as_bytes(), data].concat();
        let client = Self {
            mechanism: Mechanism::Sha256,
            covered,
            bare,
            nonce,
        };
        (client, first)
    }

    /// Answers the server's first message. Costs a key derivation unless `known` fits.
    pub fn answer(
        self,
        server_first: &str,
        password: &Secret,
        known: Option<&Salted>,
    ) -> Result<Finish, ScramError> {
        check_length(server_first)?;
        let mut fields = server_first.split(',');
        let nonce = field(fields.next(), "r=")?;
        let salt = field(fields.next(), "s=")?;
        let iterations = field(fields.next(), "i=")?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::Malformed("nonce"));
        }
        let salt = STANDARD
            .decode(salt)
            .map_err(|_| ScramError::Malformed("salt"))?;
        let iterations: u32 = iterations
            .parse()
            .map_err(|_| ScramError::Malformed("i="))?;
        if iterations == 0 || iterations > ITERATIONS_MAX {
            return Err(ScramError::Malformed("iteration count"));
        }
        let mechanism = self.mechanism;
        let fits = |known: &&Salted| {
            known.mechanism == mechanism && known.salt == salt && known.iterations == iterations
        };
        let salted = match known.filter(fits) {
            Some(known) => known.clone(),
            None => Salted {
                mechanism,
                key: mechanism.salted(password.expose(), &salt, iterations),
                salt,
                iterations,
            },
        };
        let covered = format!("c={},r={nonce}", STANDARD.encode(&self.covered));
        let said = format!("{},{server_first},{covered}", self.bare);
        let client_key = Zeroizing::new(mechanism.hmac(&salted.key, b"Client Key"));
        let stored_key = mechanism.hash(&client_key);
        let mut proof = mechanism.hmac(&stored_key, said.as_bytes());
        for (byte, key) in proof.iter_mut().zip(client_key.iter()) {
            *byte ^= key;
        }
        let server_key = mechanism.hmac(&salted.key, b"Server Key");
        let expected = mechanism.hmac(&server_key, said.as_bytes());
        let message = format!("{covered},p={}", STANDARD.encode(proof));
        Ok(Finish {
            message,
            salted,
            expected,
        })
    }
}

impl Finish {
    /// Checks the server's last message, so that nobody can play the server.
    pub fn check(&self, server_last: &str) -> Result<(), ScramError> {
        check_length(server_last)?;
        if server_last.starts_with("e=") {
            return Err(ScramError::Refused);
        }
        let value = server_last.split(',').next();
        let signature = STANDARD
            .decode(field(value, "v=")?)
            .map_err(|_| ScramError::Malformed("signature"))?;
        if bool::from(signature.as_slice().ct_eq(&self.expected)) {
            Ok(())
        } else {
            Err(ScramError::ServerMismatch)
        }
    }
}
