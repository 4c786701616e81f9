//! Connecting to an upstream, step by step, with each step's failure named.

use std::{fmt, net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};

use super::Stream;

/// How long a silent peer is trusted before the kernel probes it.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(1);
/// How often it probes.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// A host and a port to connect to.
#[derive(Debug, Clone, Copy)]
pub struct Address<'a> {
    /// A name, or an address without brackets.
    pub host: &'a str,
    /// The TCP port.
    pub port: u16,
}

/// The steps of reaching a database, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialStep {
    /// Looking up the host's name.
    Name,
    /// Opening the TCP connection.
    Connect,
    /// The TLS handshake.
    Tls,
    /// Logging in.
    Login,
    /// The first harmless command.
    Ping,
}

impl DialStep {
    /// The name used in answers and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Login => "login",
            Self::Ping => "ping",
        }
    }
}

impl fmt::Display for DialStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Why an upstream could not be opened: which step, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{step}: {cause}")]
pub struct DialFault {
    /// The step that failed.
    pub step: DialStep,
    /// Why, without any secret.
    pub cause: String,
    /// What the person who registered the database can do.
    pub hint: Option<String>,
}

impl DialFault {
    /// A fault of a step, with advice.
    pub fn new(step: DialStep, cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            step,
            cause: cause.into(),
            hint: Some(hint.into()),
        }
    }
}

/// Connects within `wait_max`, trying every address of the name in the resolver's order.
pub async fn dial(address: Address<'_>, wait_max: Duration) -> Result<Stream, DialFault> {
    match timeout(wait_max, connect_any(address)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DialFault::new(
            DialStep::Connect,
            format!(
                "no answer from {}:{} within {} ms",
                address.host,
                address.port,
                wait_max.as_millis()
            ),
            "check that the host is reachable from here and that no firewall drops the packets",
        )),
    }
}

async fn connect_any(address: Address<'_>) -> Result<Stream, DialFault> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((address.host, address.port))
        .await
        .map_err(|error| {
            DialFault::new(
                DialStep::Name,
                format!("the name '{}' cannot be resolved: {error}", address.host),
                "check the spelling; private names resolve only inside their own network",
            )
        })?
        .collect();
    let mut last = None;
    for candidate in found {
        match connect(candidate).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    let cause = match last {
        Some(error) => format!("{}:{}: {error}", address.host, address.port),
        None => format!("the name '{}' has no address", address.host),
    };
    Err(DialFault::new(
        DialStep::Connect,
        cause,
        "check the host and the port, and that the server runs and listens there",
    ))
}

async fn connect(to: SocketAddr) -> std::io::Result<Stream> {
    #[expect(clippy::disallowed_methods, reason = "the one place that connects")]
    let socket = TcpStream::connect(to).await?;
    set_keepalive(&socket)?;
    Stream::plain(socket)
}

/// Half-open peers are found by the kernel, so that no read needs a deadline of its own.
pub(super) fn set_keepalive(socket: &TcpStream) -> std::io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}
