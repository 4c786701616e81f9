//! From an address to a stream on which a login can begin: `sslmode`, `sslnegotiation`, certificates.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    net::{
        self, Address, DialFault, DialStep, Stream,
        tls::{ClientTls, UpstreamFiles, Verify},
    },
    postgres::wire,
    tenant::{Target, TlsMode},
};

/// How long a TCP connection may take; the pool bounds the whole.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How TLS comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) struct Way {
    /// Whether, and how far the server is checked.
    pub(in crate::postgres) mode: TlsMode,
    /// Without asking for it first (`sslnegotiation=direct`).
    pub(in crate::postgres) direct: bool,
}

/// What is tried in turn, as libpq does it: `allow` begins without TLS, `prefer` with it.
pub(super) fn modes(target: &Target) -> &'static [TlsMode] {
    match target.tls {
        TlsMode::Disable => &[TlsMode::Disable],
        TlsMode::Prefer if option(target, "sslmode") == Some("allow") => {
            &[TlsMode::Disable, TlsMode::Require]
        }
        TlsMode::Prefer => &[TlsMode::Prefer, TlsMode::Disable],
        // With certificates to trust at hand, libpq checks them.
        TlsMode::Require if roots(target).is_some() => &[TlsMode::VerifyCa],
        TlsMode::Require => &[TlsMode::Require],
        TlsMode::VerifyCa => &[TlsMode::VerifyCa],
        TlsMode::VerifyFull => &[TlsMode::VerifyFull],
    }
}

/// Whether the connection string asks for TLS from the first byte.
pub(super) fn is_direct(target: &Target) -> bool {
    option(target, "sslnegotiation") == Some("direct")
}

/// The certificates that the connection string names, where it does.
pub(super) fn certified(target: &Target, client_tls: &ClientTls) -> Result<ClientTls, DialFault> {
    let fault = |cause: String| {
        let hint = "put the files into tls.upstream_folder and name them without a path";
        DialFault::new(DialStep::Tls, cause, hint)
    };
    let identity = match (option(target, "sslcert"), option(target, "sslkey")) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some((certificate, key)),
        _ => return Err(fault("sslcert and sslkey go together".to_owned())),
    };
    let files = UpstreamFiles {
        identity,
        roots: roots(target),
    };
    let certified = client_tls.with_files(files);
    certified.map_err(|error| fault(error.to_string()))
}

/// Connects, and asks for TLS as the mode says.
pub(in crate::postgres) async fn open(
    address: Address<'_>,
    host: &str,
    way: Way,
    client_tls: &ClientTls,
) -> Result<Stream, DialFault> {
    let verify = match way.mode {
        TlsMode::Disable => return net::dial(address, CONNECT_MAX).await,
        TlsMode::Prefer | TlsMode::Require => Verify::Nothing,
        TlsMode::VerifyCa => Verify::Chain,
        TlsMode::VerifyFull => Verify::ChainAndName,
    };
    let fault = |cause: &str, hint| Err(DialFault::new(DialStep::Tls, cause, hint));
    if way.direct && way.mode == TlsMode::Prefer {
        let hint = "use sslmode=require, verify-ca or verify-full with it";
        return fault("sslnegotiation=direct leaves no way without TLS", hint);
    }
    let mut stream = net::dial(address, CONNECT_MAX).await?;
    if way.direct {
        let stream = client_tls.upgrade(stream, host, verify).await?;
        if stream.application_protocol() == Some(wire::APPLICATION_PROTOCOL) {
            return Ok(stream);
        }
        let hint = "use sslnegotiation=postgres for servers before version 17";
        return fault("the server does not name its protocol by ALPN", hint);
    }
    let lost = |error: std::io::Error| {
        let hint = "check that a PostgreSQL server listens on this port";
        DialFault::new(DialStep::Tls, error.to_string(), hint)
    };
    stream.write_all(&wire::SSL_REQUEST).await.map_err(lost)?;
    match stream.read_u8().await.map_err(lost)? {
        b'S' => client_tls.upgrade(stream, host, verify).await,
        b'N' if way.mode == TlsMode::Prefer => Ok(stream),
        b'N' => fault(
            "the server does not offer TLS",
            "enable ssl on the server, or use sslmode=prefer",
        ),
        _ => fault(
            "the answer to the request for TLS is not PostgreSQL's",
            "check that a PostgreSQL server listens on this port",
        ),
    }
}

fn option<'a>(target: &'a Target, name: &str) -> Option<&'a str> {
    target.options.get(name).map(String::as_str)
}

/// `system` are those that are trusted anyway.
fn roots(target: &Target) -> Option<&str> {
    option(target, "sslrootcert").filter(|name| *name != "system")
}
