//! Hello and SCRAM-SHA-256 (RFC 5802, RFC 7677) as a client.
//!
//! Names and passwords are used as given, without `SASLprep`: plain ASCII is what the bench issues.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bson::spec::BinarySubtype;
use bson::{Binary, RawDocument, RawDocumentBuf, rawdoc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::dialog::Dialog;
use crate::fault::Fault;

/// A server that asks for more rounds than this is refused.
const ITERATIONS_MAX: u32 = 1_000_000;

type Key = [u8; 32];

/// Opens logged-in connections; derives the salted password once for all of them.
pub(crate) struct Door {
    addr: SocketAddr,
    credential: Option<Credential>,
    salted: Option<Salted>,
}

/// Who logs in, and at which database.
pub(crate) struct Credential {
    /// The user's name.
    pub(crate) user: String,
    /// Its password.
    pub(crate) password: String,
    /// The login database (`authSource`).
    pub(crate) auth_db: String,
}

/// The salted password and what it was made of.
struct Salted {
    salt: Vec<u8>,
    iterations: u32,
    password: Key,
}

impl Door {
    /// A door to `addr`; without a credential nobody logs in.
    pub(crate) fn new(addr: SocketAddr, credential: Option<Credential>) -> Self {
        Self {
            addr,
            credential,
            salted: None,
        }
    }

    /// A connection that has said hello and is logged in.
    pub(crate) fn open(&mut self) -> Result<Dialog, Fault> {
        let mut dialog = Dialog::open(self.addr)?;
        dialog.ask(&rawdoc! {
            "hello": 1,
            "client": {
                "driver": { "name": "polypool-load", "version": env!("CARGO_PKG_VERSION") },
                "os": { "type": "Linux" },
            },
            "$db": "admin",
        })?;
        if let Some(credential) = &self.credential {
            log_in(&mut dialog, credential, &mut self.salted)?;
        }
        Ok(dialog)
    }
}

fn log_in(
    dialog: &mut Dialog,
    credential: &Credential,
    salted: &mut Option<Salted>,
) -> Result<(), Fault> {
    let nonce = nonce()?;
    let user = credential.user.replace('=', "=3D").replace(',', "=2C");
    let client_first = format!("n={user},r={nonce}");
    let auth_db = credential.auth_db.as_str();
    let reply = dialog.ask(&rawdoc! {
        "saslStart": 1,
        "mechanism": "SCRAM-SHA-256",
        "payload": binary(&format!("n,,{client_first}")),
        "options": { "skipEmptyExchange": true },
        "$db": auth_db,
    })?;
    let server_first = payload(&reply)?;
    let challenge = Challenge::parse(&server_first, &nonce)?;
    let salted = match salted.take() {
        Some(known) if known.salt == challenge.salt && known.iterations == challenge.iterations => {
            salted.insert(known)
        }
        _ => salted.insert(challenge.salted(&credential.password)),
    };
    let without_proof = format!("c=biws,r={}", challenge.nonce);
    let (proof, signature) = proof(
        &salted.password,
        &format!("{client_first},{server_first},{without_proof}"),
    )?;
    let reply = dialog.ask(&rawdoc! {
        "saslContinue": 1,
        "conversationId": conversation(&reply)?,
        "payload": binary(&format!("{without_proof},p={}", BASE64.encode(proof))),
        "$db": auth_db,
    })?;
    if payload(&reply)? != format!("v={}", BASE64.encode(signature)) {
        return Err(Fault::Login("the server's signature is wrong".into()));
    }
    if !reply.get_bool("done").unwrap_or(false) {
        finish(dialog, &reply, auth_db)?;
    }
    Ok(())
}

/// The empty last exchange of servers that do not know `skipEmptyExchange`.
fn finish(dialog: &mut Dialog, reply: &RawDocument, auth_db: &str) -> Result<(), Fault> {
    let reply = dialog.ask(&rawdoc! {
        "saslContinue": 1,
        "conversationId": conversation(reply)?,
        "payload": binary(""),
        "$db": auth_db,
    })?;
    match reply.get_bool("done") {
        Ok(true) => Ok(()),
        _ => Err(Fault::Login("the server does not finish".into())),
    }
}

/// The server's first message.
struct Challenge {
    nonce: String,
    salt: Vec<u8>,
    iterations: u32,
}

impl Challenge {
    fn parse(message: &str, client_nonce: &str) -> Result<Self, Fault> {
        let mut parts = message.splitn(3, ',');
        let mut part = |name: &str| {
            parts
                .next()
                .and_then(|part| part.strip_prefix(name))
                .ok_or_else(|| Fault::Login(format!("no {name} in the server's first message")))
        };
        let nonce = part("r=")?.to_owned();
        let salt = BASE64
            .decode(part("s=")?)
            .map_err(|error| Fault::Login(error.to_string()))?;
        let iterations = part("i=")?
            .parse()
            .ok()
            .filter(|iterations| (1..=ITERATIONS_MAX).contains(iterations))
            .ok_or_else(|| Fault::Login("a wrong count of iterations".into()))?;
        if !nonce.starts_with(client_nonce) || nonce.len() == client_nonce.len() {
            return Err(Fault::Login(
                "the server's nonce does not extend ours".into(),
            ));
        }
        Ok(Self {
            nonce,
            salt,
            iterations,
        })
    }

    fn salted(&self, password: &str) -> Salted {
        let mut key = Key::default();
        pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), &self.salt, self.iterations, &mut key);
        Salted {
            salt: self.salt.clone(),
            iterations: self.iterations,
            password: key,
        }
    }
}

/// The client's proof and the signature that the server must answer with.
fn proof(salted: &Key, auth_message: &str) -> Result<(Key, Key), Fault> {
    let client_key = sign(salted, b"Client Key")?;
    let stored_key: Key = Sha256::digest(client_key).into();
    let mut proof = sign(&stored_key, auth_message.as_bytes())?;
    for (byte, key) in proof.iter_mut().zip(client_key) {
        *byte ^= key;
    }
    let server_key = sign(salted, b"Server Key")?;
    Ok((proof, sign(&server_key, auth_message.as_bytes())?))
}

fn sign(key: &Key, message: &[u8]) -> Result<Key, Fault> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)
        .map_err(|error| Fault::Login(format!("hmac: {error}")))?;
    mac.update(message);
    Ok(mac.finalize().into_bytes().into())
}

fn nonce() -> Result<String, Fault> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).map_err(|error| Fault::Login(format!("nonce: {error}")))?;
    Ok(BASE64.encode(bytes))
}

fn binary(text: &str) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: text.as_bytes().to_vec(),
    }
}

fn payload(reply: &RawDocumentBuf) -> Result<String, Fault> {
    let payload = reply
        .get_binary("payload")
        .map_err(|error| Fault::Login(error.to_string()))?;
    String::from_utf8(payload.bytes.to_vec()).map_err(|error| Fault::Login(error.to_string()))
}

fn conversation(reply: &RawDocument) -> Result<i32, Fault> {
    reply
        .get_i32("conversationId")
        .map_err(|error| Fault::Login(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn proof_is_that_of_the_rfc() {
        let server_first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let challenge = Challenge::parse(server_first, "rOprNGfwEbeRWgbNEkqO").unwrap();
        let message = format!(
            "n=user,r=rOprNGfwEbeRWgbNEkqO,{server_first},c=biws,r={}",
            challenge.nonce
        );
        let (proof, signature) = proof(&challenge.salted("pencil").password, &message).unwrap();
        assert_eq!(
            BASE64.encode(proof),
            "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(
            BASE64.encode(signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn nonce_that_is_not_ours_is_refused() {
        assert!(Challenge::parse("r=other,s=AAAA,i=4096", "mine").is_err());
        assert!(Challenge::parse("r=mine,s=AAAA,i=4096", "mine").is_err());
    }
}
