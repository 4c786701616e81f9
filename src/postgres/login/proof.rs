//! The proof of a login: SCRAM-SHA-256, over TLS bound to the connection.

use bytes::BytesMut;

use super::{Login, Stop};
use crate::{
    auth::scram::{self, Binding, ScramError},
    fault::Refusal,
    postgres::wire,
    session::{Admitted, Candidate},
};

/// The longest message of a client that has not logged in.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;
const MECHANISM: &str = "SCRAM-SHA-256";
/// The same, bound to the TLS connection.
const MECHANISM_BOUND: &str = "SCRAM-SHA-256-PLUS";

impl Login<'_> {
    /// SCRAM-SHA-256, against a verifier that nothing fits if there is no such user.
    pub(super) async fn prove(&mut self, candidate: Candidate) -> Result<Admitted, Stop> {
        let end_point = self.client.stream.end_point().map(<[u8]>::to_vec);
        let offered = match end_point {
            Some(_) => format!("{MECHANISM_BOUND}\0{MECHANISM}\0\0"),
            None => format!("{MECHANISM}\0\0"),
        };
        wire::authentication(&mut self.client.out, 10, offered.as_bytes());
        let initial = self.password_message().await?;
        let malformed = || Refusal::Malformed {
            what: "invalid SASL message",
        };
        let (mechanism, rest) = wire::split_cstr(&initial).ok_or_else(malformed)?;
        let binding = match (mechanism, &end_point) {
            (b"SCRAM-SHA-256-PLUS", Some(hash)) => Binding::EndPoint(hash),
            (b"SCRAM-SHA-256", Some(_)) => Binding::Unused,
            (b"SCRAM-SHA-256", None) => Binding::Unavailable,
            _ => {
                return Err(Refusal::Malformed {
                    what: "SASL mechanism was not offered",
                }
                .into());
            }
        };
        let first = text(rest.get(4..).unwrap_or_default())?;
        let first = scram::ClientFirst::parse_bound(first, binding).map_err(wrong)?;
        let (server, answer) = scram::Server::begin(&first, candidate.verifier()).map_err(wrong)?;
        wire::authentication(&mut self.client.out, 11, answer.as_bytes());
        let last = self.password_message().await?;
        match server.finish(text(&last)?) {
            Ok(signature) => {
                let admitted = candidate.proven().await?;
                wire::authentication(&mut self.client.out, 12, signature.as_bytes());
                Ok(admitted)
            }
            Err(ScramError::Mismatch) => Err(candidate.rejected().await.into()),
            Err(error) => Err(wrong(error)),
        }
    }

    async fn password_message(&mut self) -> Result<Vec<u8>, Stop> {
        self.flush().await?;
        loop {
            let unseen = self.client.inbound.unseen();
            if let Some(frame) = wire::frontend_head(unseen, MESSAGE_BYTES_MAX)? {
                match frame.tag {
                    b'p' if frame.bytes <= MESSAGE_BYTES_MAX => {}
                    b'X' => return Err(Stop::Silent),
                    _ => {
                        return Err(Refusal::Malformed {
                            what: "expected SASL response",
                        }
                        .into());
                    }
                }
                if let Some(body) = frame.body(unseen) {
                    let body = body.to_vec();
                    self.client.inbound.skip(frame.bytes, &mut BytesMut::new());
                    return Ok(body);
                }
            }
            self.fill().await?;
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, Stop> {
    std::str::from_utf8(bytes).map_err(|_| {
        Refusal::Malformed {
            what: "invalid SASL message",
        }
        .into()
    })
}

fn wrong(error: ScramError) -> Stop {
    match error {
        ScramError::NoRandomness => Refusal::Internal.into(),
        ScramError::ChannelBinding => Refusal::Malformed {
            what: "SCRAM channel binding does not agree with what was offered",
        }
        .into(),
        _ => Refusal::Malformed {
            what: "invalid SCRAM message",
        }
        .into(),
    }
}
