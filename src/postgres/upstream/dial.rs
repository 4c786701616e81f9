//! Opening an upstream: connection, TLS, login; and the connection test.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use md5::{Digest, Md5};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Upstream, read_message, split_word};
use crate::{
    auth::scram,
    crypto::Secret,
    net::{
        self, Address, DialFault, DialStep, Stream,
        tls::{ClientTls, Verify},
    },
    pool,
    postgres::{
        cancel::CancelTarget, exchange::IDLE, flow::Peer, held::UpstreamStatements, refusal,
        tenancy::Tenancies, wire,
    },
    tenant::{Target, Tenant, TlsMode},
};

/// How long a TCP connection may take; the pool bounds the whole.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Parameters of the connection string that are handed to the server.
const HANDED_ON: [&str; 2] = ["application_name", "options"];

/// Opens PostgreSQL upstreams for the pools.
pub struct Dialer {
    client_tls: ClientTls,
    tenancies: Arc<Tenancies>,
}

impl Dialer {
    pub(in crate::postgres) fn new(client_tls: ClientTls, tenancies: Arc<Tenancies>) -> Self {
        Self {
            client_tls,
            tenancies,
        }
    }
}

impl pool::Dial for Dialer {
    type Upstream = Upstream;

    async fn dial(&self, tenant: &Arc<Tenant>) -> Result<Upstream, DialFault> {
        let tenancy = self.tenancies.of(tenant.id);
        let known = tenancy.salted(tenant.generation);
        let (upstream, salted) = log_in(&tenant.target, &self.client_tls, known).await?;
        if let Some(salted) = salted {
            tenancy.keep_salted(tenant.generation, salted);
        }
        tenancy.set_greeting(&upstream.reported);
        Ok(upstream)
    }
}

/// Tests a connection: opens it, logs in, runs a statement; the server's version.
///
/// # Errors
/// The step that failed, why, and what to do.
pub async fn probe(
    target: &Target,
    client_tls: &ClientTls,
    wait_max: Duration,
) -> Result<String, DialFault> {
    let test = async {
        let (mut upstream, _) = log_in(target, client_tls, None).await?;
        upstream.run("SELECT 1").await.map_err(|failed| {
            let hint = "the server takes logins but no statements; look at its log";
            DialFault::new(DialStep::Ping, failed.cause(), hint)
        })?;
        let version = upstream
            .reported
            .get("server_version")
            .cloned()
            .unwrap_or_default();
        pool::Upstream::close(upstream).await;
        Ok(version)
    };
    tokio::time::timeout(wait_max, test)
        .await
        .unwrap_or_else(|_| {
            let hint = "the host is reached, but the server does not answer in time";
            Err(DialFault::new(DialStep::Login, "no answer in time", hint))
        })
}

/// Connects, and asks for TLS as the mode says.
pub(in crate::postgres) async fn open(
    address: Address<'_>,
    host: &str,
    mode: TlsMode,
    client_tls: &ClientTls,
) -> Result<Stream, DialFault> {
    let mut stream = net::dial(address, CONNECT_MAX).await?;
    let verify = match mode {
        TlsMode::Disable => return Ok(stream),
        TlsMode::Prefer | TlsMode::Require => Verify::Nothing,
        TlsMode::VerifyCa => Verify::Chain,
        TlsMode::VerifyFull => Verify::ChainAndName,
    };
    let lost = |error: std::io::Error| {
        let hint = "check that a PostgreSQL server listens on this port";
        DialFault::new(DialStep::Tls, error.to_string(), hint)
    };
    stream.write_all(&wire::SSL_REQUEST).await.map_err(lost)?;
    match stream.read_u8().await.map_err(lost)? {
        b'S' => client_tls.upgrade(stream, host, verify).await,
        b'N' if mode == TlsMode::Prefer => Ok(stream),
        b'N' => Err(DialFault::new(
            DialStep::Tls,
            "the server does not offer TLS",
            "enable ssl on the server, or use sslmode=prefer",
        )),
        _ => Err(DialFault::new(
            DialStep::Tls,
            "the answer to the request for TLS is not PostgreSQL's",
            "check that a PostgreSQL server listens on this port",
        )),
    }
}

async fn log_in(
    target: &Target,
    client_tls: &ClientTls,
    known: Option<scram::Salted>,
) -> Result<(Upstream, Option<scram::Salted>), DialFault> {
    let endpoint = target.endpoint().ok_or_else(|| {
        DialFault::new(
            DialStep::Name,
            "the connection string has no host",
            "add a host",
        )
    })?;
    let address = Address {
        host: &endpoint.host,
        port: endpoint.port,
    };
    let mut peer = Peer::new(open(address, &endpoint.host, target.tls, client_tls).await?);
    peer.inbound.reserve();
    let user = target.user.as_deref().unwrap_or("postgres");
    let mut pairs = vec![
        ("user", user),
        ("database", target.database.as_deref().unwrap_or(user)),
    ];
    for name in HANDED_ON {
        pairs.extend(target.options.get(name).map(|value| (name, value.as_str())));
    }
    wire::startup_message(&mut peer.out, &pairs);
    let mut login = Login {
        peer,
        user,
        password: target.password.as_ref(),
        salted: known,
    };
    login.prove().await?;
    let (reported, key) = login.greeting().await?;
    let cancel = CancelTarget {
        address: login.peer.stream.peer(),
        host: endpoint.host.clone(),
        tls: if login.peer.stream.is_tls() {
            target.tls
        } else {
            TlsMode::Disable
        },
        pid: key.0,
        secret: key.1,
    };
    let upstream = Upstream {
        peer: login.peer,
        cancel: Arc::new(cancel),
        reported,
        known: Arc::default(),
        statements: UpstreamStatements::default(),
        unnamed: None,
        status: IDLE,
    };
    Ok((upstream, login.salted))
}

/// A login under way.
struct Login<'a> {
    peer: Peer,
    user: &'a str,
    password: Option<&'a Secret>,
    salted: Option<scram::Salted>,
}

impl Login<'_> {
    async fn prove(&mut self) -> Result<(), DialFault> {
        loop {
            let body = self.authentication().await?;
            match split_word(&body) {
                (0, _) => return Ok(()),
                (3, _) => {
                    let password = self.password()?.expose().as_bytes().to_vec();
                    wire::password(&mut self.peer.out, &[&password[..], &[0]].concat());
                }
                (5, salt) => {
                    let answer = md5_answer(self.user, self.password()?.expose(), salt);
                    wire::password(&mut self.peer.out, answer.as_bytes());
                }
                (10, mechanisms) => {
                    if !mechanisms
                        .split(|byte| *byte == 0)
                        .any(|name| name == b"SCRAM-SHA-256")
                    {
                        return Err(unsupported("no SASL mechanism in common"));
                    }
                    self.scram().await?;
                }
                (code, _) => return Err(unsupported(&format!("authentication method {code}"))),
            }
        }
    }

    async fn scram(&mut self) -> Result<(), DialFault> {
        let wrong = |error: scram::ScramError| refused(error.to_string());
        let (client, first) = scram::Client::begin("").map_err(wrong)?;
        wire::sasl_initial(&mut self.peer.out, "SCRAM-SHA-256", &first);
        let body = self.authentication().await?;
        let server_first = text_of(&body, 11)?;
        let known = self.salted.take();
        let finish = client
            .answer(server_first, self.password()?, known.as_ref())
            .map_err(wrong)?;
        wire::password(&mut self.peer.out, finish.message.as_bytes());
        let body = self.authentication().await?;
        finish.check(text_of(&body, 12)?).map_err(wrong)?;
        self.salted = Some(finish.salted);
        Ok(())
    }

    fn password(&self) -> Result<&Secret, DialFault> {
        self.password.ok_or_else(|| {
            let hint = "put the user's password into the connection string";
            DialFault::new(
                DialStep::Login,
                "the server asks for a password, none is given",
                hint,
            )
        })
    }

    /// Sends what is ready and reads the next `Authentication…` message.
    async fn authentication(&mut self) -> Result<Vec<u8>, DialFault> {
        self.peer
            .flush()
            .await
            .map_err(|error| lost(error.to_string()))?;
        loop {
            let message = read_message(&mut self.peer).await.map_err(lost)?;
            match message.tag {
                b'R' => return Ok(message.body),
                b'E' => return Err(rejected(&message.body)),
                b'N' | b'v' => {}
                _ => {
                    return Err(lost(
                        "the server does not speak PostgreSQL's protocol".into(),
                    ));
                }
            }
        }
    }

    async fn greeting(&mut self) -> Result<(BTreeMap<String, String>, (u32, u32)), DialFault> {
        let (mut reported, mut key) = (BTreeMap::new(), (0, 0));
        loop {
            let message = read_message(&mut self.peer).await.map_err(lost)?;
            match message.tag {
                b'S' => {
                    if let Some((name, value)) = wire::status_pair(&message.body) {
                        reported.insert(name.to_owned(), value.to_owned());
                    }
                }
                b'K' => {
                    let (pid, rest) = split_word(&message.body);
                    key = (pid, split_word(rest).0);
                }
                b'E' => return Err(rejected(&message.body)),
                b'Z' => return Ok((reported, key)),
                _ => {}
            }
        }
    }
}

fn text_of(body: &[u8], wanted: u32) -> Result<&str, DialFault> {
    match split_word(body) {
        (code, text) if code == wanted => {
            std::str::from_utf8(text).map_err(|error| refused(error.to_string()))
        }
        _ => Err(refused("the server broke off the SCRAM exchange".into())),
    }
}

fn md5_answer(user: &str, password: &str, salt: &[u8]) -> String {
    let hex = |digest: &[u8]| {
        digest.iter().fold(String::new(), |mut text, byte| {
            for digit in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(u32::from(digit), 16));
            }
            text
        })
    };
    let inner = hex(&Md5::digest(
        [password.as_bytes(), user.as_bytes()].concat(),
    ));
    let outer = hex(&Md5::digest([inner.as_bytes(), salt].concat()));
    format!("md5{outer}\0")
}

fn lost(cause: String) -> DialFault {
    let hint = "check that the port is PostgreSQL's and that the server accepts connections";
    DialFault::new(DialStep::Login, cause, hint)
}

fn refused(cause: String) -> DialFault {
    DialFault::new(DialStep::Login, cause, "check the user and the password")
}

fn unsupported(what: &str) -> DialFault {
    let hint = "SCRAM-SHA-256, MD5 and clear passwords are known; change pg_hba.conf";
    DialFault::new(DialStep::Login, format!("unsupported: {what}"), hint)
}

fn rejected(body: &[u8]) -> DialFault {
    let (code, message) = refusal::upstream_error(body);
    let hint = refusal::login_hint(&code);
    DialFault::new(DialStep::Login, format!("{message} ({code})"), hint)
}
