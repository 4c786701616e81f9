//! Asking name servers for what the system's own resolver does not tell: hosts of services, and texts.
//!
//! A stub: it asks a server that does the work, over UDP, and over TCP where an answer does not fit. Addresses of hosts are
//! the system's matter (`dial`).

mod message;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

pub use message::{Data, Kind, Record};

use self::message::{Answer, answer, question};

/// Where the system says whom to ask.
const SYSTEM_FILE: &str = "/etc/resolv.conf";
/// The port of name servers.
const PORT: u16 = 53;
/// How long one server may take.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often each is asked.
const ROUNDS: usize = 2;
/// Servers that are asked.
const SERVERS_MAX: usize = 3;
/// Bytes of an answer over UDP; larger ones were not asked for.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// Why a name could not be looked up.
#[derive(Debug, Error)]
pub enum LookupError {
    /// It is no name.
    #[error("'{0}' is not a name")]
    NoName(String),
    /// There is nobody to ask.
    #[error("no name server is known")]
    NoServer,
    /// The servers cannot say.
    #[error("the name server cannot say (code {0})")]
    Refused(u8),
    /// None answered.
    #[error("no answer from the name servers: {0}")]
    Io(#[from] io::Error),
}

/// Whom to ask.
#[derive(Debug, Clone, Default)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
}

impl Resolver {
    /// Asks these; none means: those that the system names.
    pub const fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers }
    }

    /// The records of a name; none, where there are none of that kind or there is no such name.
    ///
    /// # Errors
    /// When no server gives an answer.
    pub async fn look_up(&self, name: &str, kind: Kind) -> Result<Vec<Record>, LookupError> {
        let servers = if self.servers.is_empty() {
            let file = tokio::fs::read_to_string(SYSTEM_FILE).await;
            servers_of(&file.unwrap_or_default())
        } else {
            self.servers.clone()
        };
        let mut last = LookupError::NoServer;
        for _ in 0..ROUNDS {
            for server in servers.iter().take(SERVERS_MAX) {
                match timeout(ANSWER_WAIT_MAX, ask(*server, name, kind)).await {
                    Ok(Ok(records)) => return Ok(records),
                    Ok(Err(error)) => last = error,
                    Err(_) => last = io::Error::from(io::ErrorKind::TimedOut).into(),
                }
            }
        }
        Err(last)
    }
}

async fn ask(server: SocketAddr, name: &str, kind: Kind) -> Result<Vec<Record>, LookupError> {
    let id = getrandom::u32().map_err(io::Error::other)?.to_le_bytes();
    let id = u16::from_le_bytes([id[0], id[1]]);
    let asked = question(id, name, kind).ok_or_else(|| LookupError::NoName(name.to_owned()))?;
    let mut answered = over_udp(server, &asked, kind).await?;
    if answered == Answer::Cut {
        answered = over_tcp(server, &asked, kind).await?;
    }
    match answered {
        Answer::Records(records) => Ok(records),
        Answer::Failed(code) => Err(LookupError::Refused(code)),
        Answer::Cut => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

async fn over_udp(server: SocketAddr, asked: &[u8], kind: Kind) -> io::Result<Answer> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    // A port of its own for each question, and nobody else is heard on it.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(asked).await?;
    let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let length = socket.recv(&mut bytes).await?;
        let read = bytes
            .get(..length)
            .and_then(|bytes| answer(bytes, asked, kind));
        if let Some(read) = read {
            return Ok(read);
        }
    }
}

async fn over_tcp(server: SocketAddr, asked: &[u8], kind: Kind) -> io::Result<Answer> {
    #[expect(clippy::disallowed_methods, reason = "a name server is no upstream")]
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
    let whole = [&length.to_be_bytes(), asked].concat();
    stream.write_all(&whole).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    answer(&bytes, asked, kind).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The servers that a `resolv.conf` names.
fn servers_of(file: &str) -> Vec<SocketAddr> {
    let lines = file.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        let address = words.next().filter(|_| is_server)?;
        // A zone of an address (`%eth0`) has no place in a socket's address.
        let address = address.split('%').next()?;
        Some(SocketAddr::new(address.parse().ok()?, PORT))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_the_system_are_read() {
        let file = "# made by hand\nsearch example.com\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\nnameserver x\n";
        let expected: Vec<SocketAddr> = vec![
            "10.0.0.2:53".parse().unwrap(),
            "[fe80::1]:53".parse().unwrap(),
        ];
        assert_eq!(servers_of(file), expected);
    }
}
