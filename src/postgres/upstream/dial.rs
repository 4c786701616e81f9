//! Opening an upstream: which host, and the login.

use std::{collections::BTreeMap, sync::Arc};

use md5::{Digest, Md5};

use super::{
    Reading, Upstream,
    connect::{self, Way},
    read_message, split_word,
};
use crate::{
    auth::scram::{self, Binding},
    crypto::Secret,
    net::{Address, DialFault, DialStep, tls::ClientTls},
    pool,
    postgres::{
        cancel::CancelTarget, exchange::IDLE, flow::Peer, held::UpstreamStatements, rank::Rank,
        refusal, tenancy::Tenancies, wire,
    },
    tenant::{Endpoint, Target, Tenant, TlsMode},
};

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

    /// Of several servers the one that takes writes.
    async fn dial(&self, tenant: &Arc<Tenant>) -> Result<Upstream, DialFault> {
        let leader = self.tenancies.of(tenant.id).leader();
        let mut endpoints: Vec<_> = tenant.target.endpoints.iter().collect();
        // A former primary that came back may claim to be one still.
        endpoints.sort_by_key(|endpoint| Some(*endpoint) != leader.as_ref());
        self.open(tenant, &endpoints).await
    }

    async fn dial_server(
        &self,
        tenant: &Arc<Tenant>,
        server: &Endpoint,
    ) -> Result<Upstream, DialFault> {
        let upstream = self.open(tenant, &[server]).await?;
        let tenancy = self.tenancies.of(tenant.id);
        tenancy.set_greeting_at(server, &upstream.reported);
        Ok(upstream)
    }
}

impl Dialer {
    async fn open(&self, tenant: &Tenant, endpoints: &[&Endpoint]) -> Result<Upstream, DialFault> {
        let tenancy = self.tenancies.of(tenant.id);
        let known = tenancy.salted(tenant.generation);
        let (mut upstream, salted) =
            log_in(&tenant.target, endpoints, &self.client_tls, known).await?;
        if let Some(salted) = salted {
            tenancy.keep_salted(tenant.generation, salted);
        }
        let greeted = tenancy.routines.greet(&mut upstream, tenant.generation);
        greeted.await.map_err(|failed| lost(failed.cause()))?;
        tenancy.set_greeting(&upstream.reported);
        Ok(upstream)
    }
}

/// Tries each host in turn, and for each what the modes of TLS leave open.
pub(super) async fn log_in(
    target: &Target,
    endpoints: &[&Endpoint],
    client_tls: &ClientTls,
    known: Option<scram::Salted>,
) -> Result<(Upstream, Option<scram::Salted>), DialFault> {
    let client_tls = connect::certified(target, client_tls)?;
    let mut first_fault = None;
    for endpoint in endpoints {
        for &mode in connect::modes(target) {
            match attempt(target, endpoint, mode, &client_tls, known.clone()).await {
                Ok((upstream, _)) if !serves(endpoints, &upstream) => {
                    let hint = "none of the hosts is a primary; check the connection string";
                    let fault = DialFault::new(DialStep::Login, "the server is a standby", hint);
                    first_fault.get_or_insert(fault);
                    pool::Upstream::close(upstream).await;
                    break;
                }
                Ok(opened) => return Ok(opened),
                Err(Missed { fault, barred }) => {
                    first_fault.get_or_insert(fault);
                    // Only a server that minds how we came may be tried in the other way.
                    if !barred {
                        break;
                    }
                }
            }
        }
    }
    Err(first_fault.unwrap_or_else(|| {
        let cause = "the connection string has no host";
        DialFault::new(DialStep::Name, cause, "add a host")
    }))
}

/// Of several hosts only the primary will do: which one it is may change.
fn serves(endpoints: &[&Endpoint], upstream: &Upstream) -> bool {
    endpoints.len() < 2 || upstream.rank != Some(Rank::Standby)
}

/// Why one attempt failed.
struct Missed {
    fault: DialFault,
    /// The server's rules (`pg_hba.conf`) let nobody in this way.
    barred: bool,
}

async fn attempt(
    target: &Target,
    endpoint: &Endpoint,
    mode: TlsMode,
    client_tls: &ClientTls,
    known: Option<scram::Salted>,
) -> Result<(Upstream, Option<scram::Salted>), Missed> {
    let address = Address {
        host: &endpoint.host,
        port: endpoint.port,
    };
    let way = Way {
        mode,
        direct: connect::is_direct(target),
    };
    let stream = connect::open(address, &endpoint.host, way, client_tls).await;
    let mut peer = Peer::new(stream.map_err(|fault| Missed {
        fault,
        barred: false,
    })?);
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
        binding: target.options.get("channel_binding").map(String::as_str),
        salted: known,
        bound: false,
        barred: false,
    };
    let greeting = match login.run().await {
        Ok(greeting) => greeting,
        Err(fault) => {
            let barred = login.barred;
            return Err(Missed { fault, barred });
        }
    };
    let cancel = CancelTarget {
        address: login.peer.stream.peer(),
        host: endpoint.host.clone(),
        way: Way {
            mode: if login.peer.stream.is_tls() {
                mode
            } else {
                TlsMode::Disable
            },
            ..way
        },
        pid: greeting.pid,
        secret: greeting.secret,
        client_tls: client_tls.clone(),
    };
    let rank = Rank::reported(&greeting.reported);
    let upstream = Upstream {
        peer: login.peer,
        cancel: Arc::new(cancel),
        began: Reading::reported(&greeting.reported),
        reported: greeting.reported,
        known: Arc::default(),
        statements: UpstreamStatements::default(),
        unnamed: None,
        status: IDLE,
        rank,
    };
    Ok((upstream, login.salted))
}

/// What a server says when it has let us in.
#[derive(Default)]
struct Greeting {
    reported: BTreeMap<String, String>,
    pid: u32,
    secret: Box<[u8]>,
}

/// A login under way.
struct Login<'a> {
    peer: Peer,
    user: &'a str,
    password: Option<&'a Secret>,
    /// `channel_binding` of the connection string.
    binding: Option<&'a str>,
    salted: Option<scram::Salted>,
    /// The exchange was bound to the TLS connection.
    bound: bool,
    barred: bool,
}

impl Login<'_> {
    async fn run(&mut self) -> Result<Greeting, DialFault> {
        self.prove().await?;
        if self.binding == Some("require") && !self.bound {
            return Err(unsupported(
                "a login that is not bound to its TLS connection",
            ));
        }
        self.greeting().await
    }

    async fn prove(&mut self) -> Result<(), DialFault> {
        loop {
            let body = self.authentication().await?;
            match split_word(&body) {
                (0, _) => return Ok(()),
                // A password in clear tells somebody between us all that binding would have kept.
                (3 | 5, _) if self.binding == Some("require") => {
                    return Err(unsupported("a password without channel binding"));
                }
                (3, _) => {
                    let password = self.password()?.expose().as_bytes().to_vec();
                    wire::password(&mut self.peer.out, &[&password[..], &[0]].concat());
                }
                (5, salt) => {
                    let answer = md5_answer(self.user, self.password()?.expose(), salt);
                    wire::password(&mut self.peer.out, answer.as_bytes());
                }
                (10, mechanisms) => self.scram(mechanisms).await?,
                (code, _) => return Err(unsupported(&format!("authentication method {code}"))),
            }
        }
    }

    async fn scram(&mut self, mechanisms: &[u8]) -> Result<(), DialFault> {
        let wrong = |error: scram::ScramError| refused(error.to_string());
        let offered = |wanted: &str| {
            let mut names = mechanisms.split(|byte| *byte == 0);
            names.any(|name| name == wanted.as_bytes())
        };
        let (plain, plus) = ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS");
        let end_point = self.peer.stream.end_point();
        let (mechanism, binding) = match (self.binding, end_point) {
            (Some("disable"), _) | (_, None) => (plain, Binding::Unavailable),
            (_, Some(hash)) if offered(plus) => (plus, Binding::EndPoint(hash)),
            (_, Some(_)) => (plain, Binding::Unused),
        };
        self.bound = mechanism == plus;
        if !offered(mechanism) || self.binding == Some("require") && !self.bound {
            return Err(unsupported("no SASL mechanism in common"));
        }
        let (client, first) = scram::Client::begin_bound("", binding).map_err(wrong)?;
        wire::sasl_initial(&mut self.peer.out, mechanism, &first);
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
                b'E' => return Err(self.rejected(&message.body)),
                b'N' | b'v' => {}
                _ => {
                    return Err(lost(
                        "the server does not speak PostgreSQL's protocol".into(),
                    ));
                }
            }
        }
    }

    async fn greeting(&mut self) -> Result<Greeting, DialFault> {
        let mut greeting = Greeting::default();
        loop {
            let message = read_message(&mut self.peer).await.map_err(lost)?;
            match message.tag {
                b'S' => {
                    if let Some((name, value)) = wire::status_pair(&message.body) {
                        let (name, value) = (name.to_owned(), value.to_owned());
                        greeting.reported.insert(name, value);
                    }
                }
                b'K' => {
                    let (pid, secret) = split_word(&message.body);
                    (greeting.pid, greeting.secret) = (pid, secret.into());
                }
                b'E' => return Err(self.rejected(&message.body)),
                b'Z' => return Ok(greeting),
                _ => {}
            }
        }
    }

    fn rejected(&mut self, body: &[u8]) -> DialFault {
        let (code, message) = refusal::upstream_error(body);
        self.barred = refusal::is_barred(&code);
        let hint = refusal::login_hint(&code);
        DialFault::new(DialStep::Login, format!("{message} ({code})"), hint)
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
