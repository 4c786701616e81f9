//! Opening an upstream: connect, TLS, log in alone and awaited, then what only dresses it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{
    AskFault, BUSY, Upstream,
    sentinel::{Watch, open_master},
};
use crate::{
    crypto::Secret,
    net::{
        Address, DialFault, DialStep, Stream, dial,
        tls::{ClientTls, Verify},
    },
    pool,
    redis::wire::Version,
    shutdown::Shutdown,
    tenant::{Endpoint, Sentinel, Target, Tenant, TenantId, TlsMode},
};

/// Opens upstreams for the pools of Redis tenants.
#[derive(Clone)]
pub struct Dialer {
    opener: Opener,
    shutdown: Shutdown,
    /// Where the masters of sentinels' services are.
    watches: Arc<Mutex<HashMap<TenantId, Arc<Watch>>>>,
    /// The node of a cluster that the next upstream of a tenant is wanted for.
    wanted: Arc<Mutex<HashMap<TenantId, Endpoint>>>,
}

/// Opens a connection to one server.
#[derive(Clone)]
pub(super) struct Opener {
    tls: ClientTls,
    connect_max: Duration,
}

impl Dialer {
    /// A dialer that gives a connection attempt at most `connect_max`.
    pub fn new(tls: ClientTls, connect_max: Duration, shutdown: Shutdown) -> Self {
        Self {
            opener: Opener::new(tls, connect_max),
            shutdown,
            watches: Arc::default(),
            wanted: Arc::default(),
        }
    }

    /// Who looks after where the tenant's master is.
    fn watch(&self, tenant: &Tenant, service: &Sentinel) -> Arc<Watch> {
        let mut watches = self.watches.lock();
        if let Some(watch) = watches.get(&tenant.id)
            && watch.generation() >= tenant.generation
        {
            return Arc::clone(watch);
        }
        // Those that nobody has used for long are forgotten when another comes.
        watches.retain(|_, watch| watch.is_watched());
        let watch = Watch::new(tenant, service, self.opener.clone());
        watches.insert(tenant.id, Arc::clone(&watch));
        watch
    }
}

impl Dialer {
    /// Has the next upstream of a tenant opened at that node, if that can be done.
    pub(in crate::redis) fn want(&self, tenant: TenantId, node: &Endpoint) {
        self.wanted.lock().insert(tenant, node.clone());
    }

    /// Closes what an upstream leads to, and connects it to another node of the same tenant.
    pub(in crate::redis) async fn move_to(
        &self,
        tenant: &Tenant,
        upstream: &mut Upstream,
        endpoint: &Endpoint,
    ) -> Result<(), DialFault> {
        // Closed before the other is opened, so that no bound is exceeded.
        if let Err(error) = upstream.stream.shutdown().await {
            tracing::trace!(%error, "upstream was closed already");
        }
        let mut fresh = self.opener.open(&tenant.target, endpoint).await?;
        dress(&mut fresh, tenant).await?;
        *upstream = fresh;
        Ok(())
    }
}

impl pool::Dial for Dialer {
    type Upstream = Upstream;

    async fn dial(&self, tenant: &Arc<Tenant>) -> Result<Upstream, DialFault> {
        let target = &tenant.target;
        let mut upstream = if let Some(service) = &target.sentinel {
            self.watch(tenant, service).dial(&self.shutdown).await?
        } else {
            let wanted = self.wanted.lock().remove(&tenant.id);
            self.opener.open_wanted(target, wanted).await?
        };
        dress(&mut upstream, tenant).await?;
        Ok(upstream)
    }
}

impl Opener {
    pub(super) fn new(tls: ClientTls, connect_max: Duration) -> Self {
        Self { tls, connect_max }
    }

    /// Connects and logs in to the wanted node, or to any other.
    async fn open_wanted(
        &self,
        target: &Target,
        wanted: Option<Endpoint>,
    ) -> Result<Upstream, DialFault> {
        if let Some(wanted) = wanted
            && let Ok(upstream) = self.open(target, &wanted).await
        {
            return Ok(upstream);
        }
        self.open_any(target).await
    }

    /// Connects and logs in to the server that a target leads to at this moment.
    pub(super) async fn open_any(&self, target: &Target) -> Result<Upstream, DialFault> {
        if let Some(service) = &target.sentinel {
            return Ok(open_master(self, target, service, 0).await?.0);
        }
        let mut last = None;
        // More than one are the nodes of a cluster: the first that answers tells of the others.
        for endpoint in &target.endpoints {
            match self.open(target, endpoint).await {
                Ok(upstream) => return Ok(upstream),
                Err(fault) => last = Some(fault),
            }
        }
        Err(last.unwrap_or_else(|| {
            DialFault::new(
                DialStep::Name,
                "the connection URL has no host",
                "give host and port",
            )
        }))
    }

    /// Connects and logs in to one server.
    pub(super) async fn open(
        &self,
        target: &Target,
        endpoint: &Endpoint,
    ) -> Result<Upstream, DialFault> {
        let mut upstream = Upstream::new(self.connect(endpoint, target.tls).await?);
        upstream.endpoint = Some(endpoint.clone());
        let login = (target.user.as_deref(), target.password.as_ref());
        match timeout(self.connect_max, log_in(&mut upstream, login)).await {
            Ok(outcome) => outcome.map(|()| upstream),
            Err(_) => Err(DialFault::new(
                DialStep::Login,
                format!(
                    "no answer to the login within {} ms",
                    self.connect_max.as_millis()
                ),
                "the server accepts connections but does not answer; look at its log",
            )),
        }
    }

    /// Connects, under TLS where the target says so.
    pub(super) async fn connect(
        &self,
        endpoint: &Endpoint,
        mode: TlsMode,
    ) -> Result<Stream, DialFault> {
        let address = Address {
            host: &endpoint.host,
            port: endpoint.port,
        };
        let stream = dial(address, self.connect_max).await?;
        let verify = match mode {
            TlsMode::Disable | TlsMode::Prefer => return Ok(stream),
            TlsMode::Require => Verify::Nothing,
            TlsMode::VerifyCa => Verify::Chain,
            TlsMode::VerifyFull => Verify::ChainAndName,
        };
        self.tls.upgrade(stream, &endpoint.host, verify).await
    }
}

/// Logs in with nothing else in the same packet: a refusal must not be read as another's reply.
pub(super) async fn log_in(
    upstream: &mut Upstream,
    login: (Option<&str>, Option<&Secret>),
) -> Result<(), DialFault> {
    let user = login.0.unwrap_or("default");
    let mut hello = vec!["HELLO", "3"];
    if let Some(password) = login.1 {
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
        Err(AskFault::Refused(text)) if is_unknown(&text) => log_in_old(upstream, login).await,
        Err(fault) => Err(login_fault(&fault)),
    }
}

/// A server before 6.0, or one that speaks RESP2 only.
async fn log_in_old(
    upstream: &mut Upstream,
    login: (Option<&str>, Option<&Secret>),
) -> Result<(), DialFault> {
    if let Some(password) = login.1 {
        let words = match login.0 {
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
    match upstream.prepare(upstream.version, database).await {
        Ok(()) => {}
        // Whoever needs the database selects it, once the server does.
        Err(AskFault::Refused(text)) if text.starts_with(BUSY) => {}
        Err(fault) => {
            return Err(DialFault::new(
                DialStep::Login,
                format!("database {database} cannot be selected: {fault}"),
                "the number at the end of the URL must be one that the server has",
            ));
        }
    }
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
