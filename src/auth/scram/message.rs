//! The grammar of the messages (RFC 5802 section 7), bounded.

use thiserror::Error;

/// The longest message that is looked at, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ScramError {
    /// A message does not follow the grammar.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The client wants channel binding where there is none, or another one, or was told that there is none.
    #[error("channel binding does not agree with what was offered")]
    ChannelBinding,
    /// The proof does not fit the verifier.
    #[error("the proof does not fit")]
    Mismatch,
    /// The server did not prove that it knows the password.
    #[error("the server's signature does not fit")]
    ServerMismatch,
    /// The server says no.
    #[error("the server refuses the exchange")]
    Refused,
    /// The system has no randomness to give.
    #[error("no randomness for a nonce")]
    NoRandomness,
}

/// What ties an exchange to the TLS connection it runs over (RFC 5802 section 6), as one side sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding<'a> {
    /// There is nothing to bind to, or this side cannot.
    Unavailable,
    /// This side could, but the mechanism without it was chosen.
    Unused,
    /// The hash of the server's certificate (`tls-server-end-point`).
    EndPoint(&'a [u8]),
}

/// The only kind of binding there is.
pub(super) const END_POINT: &str = "p=tls-server-end-point";

/// The client's first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFirst {
    /// The user name, unescaped; PostgreSQL's clients leave it empty.
    pub user: String,
    /// The GS2 header as sent and the binding, which the last message repeats.
    pub(super) covered: Vec<u8>,
    /// The message without its header.
    pub(super) bare: String,
    /// The client's nonce.
    pub(super) nonce: String,
}

impl ClientFirst {
    /// Reads `n,,n=user,r=nonce`, where no binding is offered.
    pub fn parse(text: &str) -> Result<Self, ScramError> {
        Self::parse_bound(text, Binding::Unavailable)
    }

    /// Reads the message, and holds the client's idea of the binding against the server's.
    pub fn parse_bound(text: &str, offered: Binding<'_>) -> Result<Self, ScramError> {
        check_length(text)?;
        let mut parts = text.splitn(3, ',');
        let (Some(binding), Some(identity), Some(bare)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(ScramError::Malformed("header"));
        };
        let data: &[u8] = match (binding, offered) {
            ("n", Binding::Unavailable | Binding::Unused) | ("y", Binding::Unavailable) => &[],
            (END_POINT, Binding::EndPoint(data)) => data,
            // `y` says: no binding was offered. If one was, somebody between has taken it out.
            ("n" | "y", _) => return Err(ScramError::ChannelBinding),
            _ if binding.starts_with("p=") => return Err(ScramError::ChannelBinding),
            _ => return Err(ScramError::Malformed("binding flag")),
        };
        if !identity.is_empty() {
            return Err(ScramError::Malformed("authorization identity"));
        }
        if bare.starts_with("m=") {
            return Err(ScramError::Malformed("mandatory extension"));
        }
        let mut fields = bare.split(',');
        let user = field(fields.next(), "n=")?;
        let nonce = field(fields.next(), "r=")?;
        if nonce.is_empty() {
            return Err(ScramError::Malformed("nonce"));
        }
        Ok(Self {
            user: unescape(user)?,
            covered: [format!("{binding},{identity},").as_bytes(), data].concat(),
            bare: bare.to_owned(),
            nonce: nonce.to_owned(),
        })
    }
}

pub(super) fn check_length(text: &str) -> Result<(), ScramError> {
    if text.len() > MESSAGE_BYTES_MAX {
        Err(ScramError::Malformed("length"))
    } else {
        Ok(())
    }
}

/// The value of a field that must come now.
pub(super) fn field<'a>(
    text: Option<&'a str>,
    prefix: &'static str,
) -> Result<&'a str, ScramError> {
    text.and_then(|text| text.strip_prefix(prefix))
        .ok_or(ScramError::Malformed(prefix))
}

/// `=2C` and `=3D` are the only escapes of a name.
fn unescape(name: &str) -> Result<String, ScramError> {
    let plain = name.replace("=2C", ",").replace("=3D", "\u{0}");
    if plain.contains('=') || name.contains('\u{0}') {
        return Err(ScramError::Malformed("user name"));
    }
    Ok(plain.replace('\u{0}', "="))
}

pub(super) fn escape(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

/// A fresh nonce of printable characters without a comma.
pub(super) fn nonce() -> Result<String, ScramError> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).map_err(|_| ScramError::NoRandomness)?;
    Ok(STANDARD.encode(bytes))
}
