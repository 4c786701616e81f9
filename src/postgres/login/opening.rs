//! The first packets of a connection: encryption, cancel requests, and the start-up packet.

use std::sync::Arc;

use bytes::BytesMut;

use super::unsupported;
use crate::{
    fault::Refusal,
    postgres::{
        flow::Peer,
        service::Service,
        wire::{self, Startup, StartupParameters},
    },
};

/// The first byte of a TLS handshake without `SSLRequest` (`sslnegotiation=direct`).
const TLS_HANDSHAKE: u8 = 0x16;

/// What a connection turns out to want.
pub(super) enum Opened {
    /// A session, with these parameters.
    Session(Peer, StartupParameters),
    /// Nothing that is answered: it went away, or was a cancel request.
    Over,
    /// What is not given.
    Refused(Peer, Refusal),
}

/// Reads up to the start-up packet.
pub(super) async fn open(service: &Arc<Service>, mut client: Peer) -> Opened {
    let mut asked = Asked::default();
    if service.server_tls.is_some() {
        let mut first = [0; 1];
        match client.stream.peek(&mut first).await {
            Ok(1) if first == [TLS_HANDSHAKE] => {
                asked.ssl = true;
                match upgrade(service, client).await {
                    Some(encrypted) => client = encrypted,
                    None => return Opened::Over,
                }
                // Without it, bytes meant for another protocol could be taken for this one's.
                if client.stream.application_protocol() != Some(wire::APPLICATION_PROTOCOL) {
                    let what = "direct TLS without the application protocol postgresql";
                    return Opened::Refused(client, Refusal::Malformed { what });
                }
            }
            Ok(1) => {}
            Ok(_) | Err(_) => return Opened::Over,
        }
    }
    loop {
        let startup = match wire::read_startup(client.inbound.unseen()) {
            // As the server does: drivers that leave at once send a goodbye first, and take an answer for a fault.
            Err(Refusal::Malformed {
                what: wire::BAD_LENGTH,
            }) => return Opened::Over,
            Err(refused) => return Opened::Refused(client, refused),
            Ok(Some((startup, bytes))) => {
                client.inbound.skip(bytes, &mut BytesMut::new());
                startup
            }
            Ok(None) => match client.fill().await {
                Ok(1..) => continue,
                Ok(0) | Err(_) => return Opened::Over,
            },
        };
        match startup {
            Startup::Session(_) if service.settings.tls_required && !client.stream.is_tls() => {
                let what = "a connection without TLS; use sslmode=require".to_owned();
                return Opened::Refused(client, Refusal::NotPermitted { what });
            }
            Startup::Session(parameters) => return negotiate(client, parameters),
            Startup::Cancel { pid, secret } => {
                let from = client.stream.peer().ip();
                service.cancels.request(from, pid, &secret).await;
                return Opened::Over;
            }
            // Bytes sent ahead in clear could be taken for bytes sent under encryption.
            Startup::Ssl | Startup::Gss if !client.inbound.is_empty() => return Opened::Over,
            Startup::Ssl if !std::mem::replace(&mut asked.ssl, true) => {
                match answer_ssl(service, client).await {
                    Some(answered) => client = answered,
                    None => return Opened::Over,
                }
            }
            Startup::Gss if !std::mem::replace(&mut asked.gss, true) => {
                client.out.extend_from_slice(b"N");
                if client.flush().await.is_err() {
                    return Opened::Over;
                }
            }
            Startup::Ssl | Startup::Gss => {
                let refused = Refusal::Malformed {
                    what: "encryption asked for twice",
                };
                return Opened::Refused(client, refused);
            }
        }
    }
}

/// Each kind of encryption may be asked for once.
#[derive(Default)]
struct Asked {
    ssl: bool,
    gss: bool,
}

async fn answer_ssl(service: &Service, mut client: Peer) -> Option<Peer> {
    let offered = service.server_tls.is_some();
    client
        .out
        .extend_from_slice(if offered { b"S" } else { b"N" });
    client.flush().await.ok()?;
    if offered {
        upgrade(service, client).await
    } else {
        Some(client)
    }
}

async fn upgrade(service: &Service, client: Peer) -> Option<Peer> {
    let stream = service
        .server_tls
        .as_ref()?
        .accept_as(client.stream, &[wire::APPLICATION_PROTOCOL])
        .await
        .ok()?;
    Some(Peer::new(stream))
}

fn negotiate(mut client: Peer, parameters: StartupParameters) -> Opened {
    if parameters.minor > wire::MINOR_MAX || !parameters.protocol_options.is_empty() {
        let minor = parameters.minor.min(wire::MINOR_MAX);
        wire::negotiate_minor(&mut client.out, minor, &parameters.protocol_options);
    }
    let off = |value: &str| matches!(value, "false" | "off" | "no" | "0" | "f" | "n");
    if parameters
        .find("replication")
        .is_some_and(|value| !off(value))
    {
        return Opened::Refused(client, unsupported("a replication connection"));
    }
    Opened::Session(client, parameters)
}
