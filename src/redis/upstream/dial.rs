//! Opening an upstream: connect, TLS, log in alone and awaited, then what only dresses it.

use std::{sync::Arc, time::Duration};

use super::{AskFault, Upstream};
use crate::{
    net::{
        Address, DialFault, DialStep, dial,
        tls::{ClientTls, Verify},
    },
    pool,
    redis::wire::Version,
    tenant::{Target, Tenant, TlsMode},
};

/// Opens upstreams for the pools of Redis tenants.
pub struct Dialer {
    tls: ClientTls,
    connect_max: Duration,
}

impl Dialer {
    /// A dialer that gives a connection attempt at most `connect_max`.
    pub fn new(tls: ClientTls, connect_max: Duration) -> Self {
        Self { tls, connect_max }
    }
}

impl pool::Dial for Dialer {
    type Upstream = Upstream;

    async fn dial(&self, tenant: &Arc<Tenant>) -> Result<Upstream, DialFault> {
        let mut upstream = open(&tenant.target, &self.tls, self.connect_max).await?;
        dress(&mut upstream, tenant).await?;
        Ok(upstream)
    }
}

/// Connects and logs in.
pub(super) async fn open(
    target: &Target,
    tls: &ClientTls,
    connect_max: Duration,
) -> Result<Upstream, DialFault> {
    if target.scheme == "redis+sentinel" || target.scheme == "redis+cluster" {
        return Err(DialFault::new(
            DialStep::Connect,
            format!("{}:// is not supported yet", target.scheme),
            "register the server itself with redis:// or rediss://",
        ));
    }
    let endpoint = target.endpoint().ok_or_else(|| {
        DialFault::new(
            DialStep::Name,
            "the connection URL has no host",
            "give host and port",
        )
    })?;
    let address = Address {
        host: &endpoint.host,
        port: endpoint.port,
    };
    let stream = dial(address, connect_max).await?;
    let verify = match target.tls {
        TlsMode::Disable | TlsMode::Prefer => None,
        TlsMode::Require => Some(Verify::Nothing),
        TlsMode::VerifyCa => Some(Verify::Chain),
        TlsMode::VerifyFull => Some(Verify::ChainAndName),
    };
    let stream = match verify {
        None => stream,
        Some(verify) => tls.upgrade(stream, &endpoint.host, verify).await?,
    };
    let mut upstream = Upstream::new(stream);
    log_in(&mut upstream, target).await?;
    Ok(upstream)
}

/// Logs in with nothing else in the same packet: a refusal must not be read as another's reply.
async fn log_in(upstream: &mut Upstream, target: &Target) -> Result<(), DialFault> {
    let user = target.user.as_deref().unwrap_or("default");
    let mut hello = vec!["HELLO", "3"];
    if let Some(password) = &target.password {
        hello.extend(["AUTH", user, password.expose()]);
    }
    match upstream.ask(&hello).await {
        Ok(reply) => {
            upstream.version = Version::Resp3;
            upstream.speaks_hello = true;
            if let Some(version) = version_in_hello(&reply) {
                upstream.server = Arc::from(version);
            }
            Ok(())
        }
        Err(AskFault::Refused(text)) if is_unknown(&text) => log_in_old(upstream, target).await,
        Err(fault) => Err(login_fault(&fault)),
    }
}

/// A server before 6.0, or one that speaks RESP2 only.
async fn log_in_old(upstream: &mut Upstream, target: &Target) -> Result<(), DialFault> {
    if let Some(password) = &target.password {
        let words = match &target.user {
            Some(user) if user != "default" => vec!["AUTH", user, password.expose()],
            _ => vec!["AUTH", password.expose()],
        };
        upstream
            .ask(&words)
            .await
            .map_err(|fault| login_fault(&fault))?;
    }
    Ok(())
}

/// Selects the tenant's database and names the connection for whoever reads `CLIENT LIST` there.
async fn dress(upstream: &mut Upstream, tenant: &Tenant) -> Result<(), DialFault> {
    let database = database_of(&tenant.target)?;
    upstream
        .prepare(upstream.version, database)
        .await
        .map_err(|fault| {
            DialFault::new(
                DialStep::Login,
                format!("database {database} cannot be selected: {fault}"),
                "the number at the end of the URL must be one that the server has",
            )
        })?;
    match upstream
        .ask(&["CLIENT", "SETNAME", &format!("polypool-{}", tenant.slug)])
        .await
    {
        // A name is a convenience; a server may forbid it.
        Ok(_) | Err(AskFault::Refused(_)) => Ok(()),
        Err(fault) => Err(login_fault(&fault)),
    }
}

/// The database number in a target; none means 0.
pub(in crate::redis) fn database_of(target: &Target) -> Result<u32, DialFault> {
    let Some(text) = &target.database else {
        return Ok(0);
    };
    text.parse().map_err(|_| {
        DialFault::new(
            DialStep::Login,
            format!("'{text}' is not a database number"),
            "a Redis URL ends in a number, such as redis://host:6379/0",
        )
    })
}

pub(super) fn login_fault(fault: &AskFault) -> DialFault {
    let hint = match fault {
        AskFault::Refused(text) if text.starts_with("WRONGPASS") => {
            "check user and password in the URL: redis://user:password@host"
        }
        AskFault::Refused(text) if text.starts_with("NOAUTH") || text.contains("without any") => {
            "the server wants a password: redis://:password@host"
        }
        AskFault::Refused(text) if text.starts_with("NOPERM") => {
            "the user's ACL must allow HELLO, AUTH, SELECT and PING"
        }
        AskFault::Refused(text) if text.contains("max number of clients") => {
            "the server has as many connections as it allows; raise its maxclients"
        }
        AskFault::Refused(_) => "the server's own words are above",
        AskFault::Closed => "the server closed the connection; does it expect TLS (rediss://)?",
        AskFault::Io(_) => "the connection broke during login",
        AskFault::Reply(_) | AskFault::TooLong => "is this the port of a Redis server?",
    };
    DialFault::new(DialStep::Login, fault.to_string(), hint)
}

fn is_unknown(text: &str) -> bool {
    text.starts_with("NOPROTO") || text.to_ascii_lowercase().contains("unknown command")
}

/// The value after `version` in a reply to `HELLO`, which is a map of bulk strings at its start.
fn version_in_hello(reply: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(reply);
    let mut lines = text
        .split("\r\n")
        .skip_while(|line| *line != "version")
        .skip(2);
    lines.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_the_map() {
        let reply = b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n";
        assert_eq!(version_in_hello(reply).as_deref(), Some("7.0.15"));
        assert_eq!(version_in_hello(b"+OK\r\n"), None);
    }

    #[test]
    fn database_numbers_are_numbers() {
        let target = |url| Target::parse(url).unwrap();
        assert_eq!(database_of(&target("redis://h")), Ok(0));
        assert_eq!(database_of(&target("redis://h/3")), Ok(3));
        assert!(database_of(&target("redis://h/x")).is_err());
    }
}
