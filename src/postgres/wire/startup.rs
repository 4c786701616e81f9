//! What a client sends before anything else: start-up, requests for encryption, cancel requests.

use crate::fault::Refusal;

/// The version that upstreams are asked for.
pub(super) const VERSION_3_0: u32 = 196_608;
/// The latest minor version that clients may use.
pub(crate) const MINOR_MAX: u32 = 2;
/// The first with longer secrets in keys.
const MINOR_LONG_KEYS: u32 = 2;
/// The longest secret of a key (protocol 3.2).
const SECRET_BYTES_MAX: usize = 256;
/// The code of a cancel request.
pub(crate) const CANCEL_CODE: u32 = 80_877_102;
const SSL_CODE: u32 = 80_877_103;
const GSS_CODE: u32 = 80_877_104;
/// PostgreSQL's own limit (`MAX_STARTUP_PACKET_LENGTH`).
const STARTUP_BYTES_MAX: u32 = 10_000;
/// The protocol's name in ALPN.
pub(crate) const APPLICATION_PROTOCOL: &[u8] = b"postgresql";
/// What is wrong with bytes that are not the start of a connection.
pub(crate) const BAD_LENGTH: &str = "invalid length of startup packet";
/// A request for TLS, as an upstream is asked.
pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// One packet of the start-up phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Startup {
    /// TLS is asked for.
    Ssl,
    /// GSSAPI encryption is asked for.
    Gss,
    /// Another connection's query is to be cancelled.
    Cancel {
        /// The process id of the key.
        pid: u32,
        /// The secret of the key.
        secret: Box<[u8]>,
    },
    /// A session begins.
    Session(StartupParameters),
}

/// The parameters of a session, as sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StartupParameters {
    /// The minor version that the client asked for.
    pub(crate) minor: u32,
    /// Names and values in their order, without protocol options.
    pub(crate) pairs: Vec<(String, String)>,
    /// The names of protocol options (`_pq_.*`), none of which is known.
    pub(crate) protocol_options: Vec<String>,
}

impl StartupParameters {
    /// Whether the version that is spoken then has long secrets in its keys.
    pub(crate) fn has_long_keys(&self) -> bool {
        self.minor >= MINOR_LONG_KEYS
    }

    /// The value of a parameter; the last one wins, as in PostgreSQL.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        let mut found = self.pairs.iter().rev();
        found
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Reads the packet at the head of `buffer`: itself and its length, or `None` until all is there.
///
/// # Errors
/// For lengths over the limit, unknown versions and broken parameters.
pub(crate) fn read(buffer: &[u8]) -> Result<Option<(Startup, usize)>, Refusal> {
    let Some((length, rest)) = buffer.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    if !(8..=STARTUP_BYTES_MAX).contains(&length) {
        return Err(Refusal::Malformed { what: BAD_LENGTH });
    }
    let Some(body) = rest.get(..length as usize - 4) else {
        return Ok(None);
    };
    let Some((code, body)) = body.split_first_chunk::<4>() else {
        return Err(Refusal::Malformed {
            what: "invalid startup packet",
        });
    };
    let startup = match u32::from_be_bytes(*code) {
        SSL_CODE => Startup::Ssl,
        GSS_CODE => Startup::Gss,
        CANCEL_CODE => cancel(body)?,
        version if version >> 16 == 3 => Startup::Session(session(body, version & 0xffff)?),
        version => {
            let what = format!("frontend protocol {}.{}", version >> 16, version & 0xffff);
            return Err(Refusal::Unsupported { what });
        }
    };
    Ok(Some((startup, length as usize)))
}

fn cancel(body: &[u8]) -> Result<Startup, Refusal> {
    let malformed = Refusal::Malformed {
        what: "invalid length of cancel request",
    };
    let Some((pid, rest)) = body.split_first_chunk::<4>() else {
        return Err(malformed);
    };
    if !(1..=SECRET_BYTES_MAX).contains(&rest.len()) {
        return Err(malformed);
    }
    Ok(Startup::Cancel {
        pid: u32::from_be_bytes(*pid),
        secret: rest.into(),
    })
}

fn session(mut body: &[u8], minor: u32) -> Result<StartupParameters, Refusal> {
    let broken = || Refusal::Malformed {
        what: "invalid startup packet layout",
    };
    let mut parameters = StartupParameters {
        minor,
        ..StartupParameters::default()
    };
    loop {
        let (name, rest) = super::split_cstr(body).ok_or_else(broken)?;
        if name.is_empty() {
            return if rest.is_empty() {
                Ok(parameters)
            } else {
                Err(broken())
            };
        }
        let (value, rest) = super::split_cstr(rest).ok_or_else(broken)?;
        body = rest;
        let text = |bytes: &[u8]| {
            std::str::from_utf8(bytes)
                .map(str::to_owned)
                .map_err(|_| Refusal::Malformed {
                    what: "startup packet is not UTF-8",
                })
        };
        let (name, value) = (text(name)?, text(value)?);
        if name.starts_with("_pq_.") {
            parameters.protocol_options.push(name);
        } else {
            parameters.pairs.push((name, value));
        }
    }
}
