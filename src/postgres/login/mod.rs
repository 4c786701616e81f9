//! From the first byte to `ReadyForQuery`: encryption, the start-up packet, the proof, the greeting.

mod opening;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::time::{Instant, timeout, timeout_at};

use opening::Opened;

use super::{
    exchange::IDLE,
    flow::Peer,
    refusal,
    service::Service,
    session::{Newcomer, Told, demanded},
    settings::{Parameters, read_options},
    tenancy::{Accepted, Tenancy},
    upstream::{Dialer, Failed},
    wire::{self, StartupParameters},
};
use crate::{
    auth::scram::{self, ScramError},
    fault::Refusal,
    pool::{CloseReason, Pool, Residue},
    protocol::Protocol,
    session::{Admitted, Candidate, Claim},
    telemetry::SessionEnd,
    tenant::PoolMode,
};

/// How long a client may take to read why it is not let in.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);
/// The longest message of a client that has not logged in.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;
const MECHANISM: &str = "SCRAM-SHA-256";

/// What came of a connection.
pub(super) enum Outcome {
    /// A session begins.
    Admitted(Peer, Box<Newcomer>),
    /// It wanted no session: a cancel request, or nothing at all.
    Served,
    /// It was not let in.
    Refused(SessionEnd),
}

/// Why a login ends.
enum Stop {
    /// The client went away, or there is nothing more to say.
    Silent,
    /// With an error of ours.
    Refused(Refusal),
    /// With an error of the upstream's.
    Failed(Vec<u8>),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Logs a client in.
pub(super) async fn admit(service: &Arc<Service>, client: Peer) -> Outcome {
    let deadline = Instant::now() + service.settings.login_wait_max;
    let (client, startup) = match timeout_at(deadline, opening::open(service, client)).await {
        Ok(Opened::Session(client, startup)) => (client, startup),
        Ok(Opened::Refused(client, refused)) => {
            return say_no(service, client, Stop::Refused(refused)).await;
        }
        Ok(Opened::Over) | Err(_) => return Outcome::Served,
    };
    let mut login = Login { service, client };
    let stop = match timeout_at(deadline, login.run(&startup)).await {
        Ok(Ok(newcomer)) => return Outcome::Admitted(login.client, Box::new(newcomer)),
        Ok(Err(stop)) => stop,
        Err(_) => Stop::Refused(Refusal::TimedOut { what: "login" }),
    };
    say_no(service, login.client, stop).await
}

async fn say_no(service: &Service, mut client: Peer, stop: Stop) -> Outcome {
    let out = &mut client.out;
    match stop {
        Stop::Silent => return Outcome::Served,
        Stop::Refused(refused) => {
            service.meters().fault(refused.kind(), refused.side());
            refusal::fatal(out, &refused);
        }
        Stop::Failed(body) => wire::tagged(out, b'E', |out| out.extend_from_slice(&body)),
    }
    drop(timeout(LAST_WORDS_MAX, client.flush()).await);
    Outcome::Refused(SessionEnd::LoginFailed)
}

struct Login<'a> {
    service: &'a Arc<Service>,
    client: Peer,
}

impl Login<'_> {
    async fn run(&mut self, startup: &StartupParameters) -> Result<Newcomer, Stop> {
        let options: Vec<_> = startup
            .find("options")
            .map(read_options)
            .unwrap_or_default();
        let reference = options.iter().find(|(name, _)| name == "reference");
        let candidate = self
            .identify(startup, reference.map(|(_, value)| value.as_str()))
            .await?;
        let admitted = self.prove(candidate).await?;
        let wanted = wanted_parameters(startup, options);
        self.greet(admitted, wanted).await
    }

    async fn identify(
        &mut self,
        startup: &StartupParameters,
        reference: Option<&str>,
    ) -> Result<Candidate, Stop> {
        let user = startup.find("user").filter(|user| !user.is_empty());
        let user = user.ok_or(Refusal::Malformed {
            what: "no user name in startup packet",
        })?;
        // libpq sends the user's name where no database was asked for.
        let database = startup
            .find("database")
            .filter(|name| !name.is_empty() && *name != user);
        let claim = Claim {
            protocol: Protocol::Postgres,
            login: user,
            database,
            server_name: self.client.stream.server_name(),
            reference,
            peer: self.client.stream.peer(),
        };
        Ok(self.service.admission.identify(claim).await?)
    }

    /// SCRAM-SHA-256, against a verifier that nothing fits if there is no such user.
    async fn prove(&mut self, candidate: Candidate) -> Result<Admitted, Stop> {
        let offer = [MECHANISM.as_bytes(), &[0, 0]].concat();
        wire::authentication(&mut self.client.out, 10, &offer);
        let initial = self.password_message().await?;
        let malformed = || Refusal::Malformed {
            what: "invalid SASL message",
        };
        let (mechanism, rest) = wire::split_cstr(&initial).ok_or_else(malformed)?;
        if mechanism != MECHANISM.as_bytes() {
            return Err(Refusal::Malformed {
                what: "SASL mechanism was not offered",
            }
            .into());
        }
        let first = text(rest.get(4..).unwrap_or_default())?;
        let first = scram::ClientFirst::parse(first).map_err(wrong)?;
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

    /// The greeting of a real upstream, overlaid by what the client began with.
    async fn greet(
        &mut self,
        admitted: Admitted,
        wanted: Arc<Parameters>,
    ) -> Result<Newcomer, Stop> {
        let Admitted {
            tenant, role, seat, ..
        } = admitted;
        let kept = match tenant.limits.pool_mode {
            PoolMode::Transaction => None,
            PoolMode::Session => Some("session_mode"),
            PoolMode::Statement => return Err(unsupported("pool mode statement").into()),
        };
        let pool = self.service.fleet().pool(&tenant);
        let tenancy = self.service.tenancies.of(tenant.id);
        let startup = demanded(role, wanted);
        let told = match remembered(&tenancy, &startup) {
            Some(told) => told,
            None => try_parameters(&pool, &tenancy, &startup).await?,
        };
        let desk = self
            .service
            .cancels
            .enrol()
            .map_err(|_| Refusal::Internal)?;
        if let Some(name) = startup.find("application_name") {
            seat.set_label(name);
        }
        let out = &mut self.client.out;
        wire::authentication_ok(out);
        for (name, value) in told.iter() {
            wire::parameter_status(out, name, value);
        }
        let (pid, secret) = desk.key();
        wire::backend_key(out, pid, secret);
        wire::ready(out, IDLE);
        let login = tenant
            .target
            .user
            .clone()
            .unwrap_or_else(|| "postgres".into());
        Ok(Newcomer {
            pool,
            tenancy,
            seat,
            role,
            desk,
            startup,
            told,
            login,
            kept,
        })
    }

    async fn fill(&mut self) -> Result<(), Stop> {
        match self.client.fill().await {
            Ok(1..) => Ok(()),
            Ok(0) | Err(_) => Err(Stop::Silent),
        }
    }

    async fn flush(&mut self) -> Result<(), Stop> {
        self.client.flush().await.map_err(|_| Stop::Silent)
    }
}

/// The start-up parameters that are the session's.
fn wanted_parameters(
    startup: &StartupParameters,
    options: Vec<(String, String)>,
) -> Arc<Parameters> {
    let ours = ["user", "database", "options", "replication"];
    let direct = startup
        .pairs
        .iter()
        .filter(|(name, _)| !ours.contains(&name.as_str()))
        .cloned();
    let options = options.into_iter().filter(|(name, _)| name != "reference");
    Parameters::from_pairs(options.chain(direct))
}

/// What the client is told, if the server is known to accept all that it wants.
fn remembered(tenancy: &Tenancy, wanted: &Parameters) -> Option<Told> {
    let mut told = Told::new(tenancy.greeting()?);
    for (name, value) in wanted.iter() {
        if let Accepted::Reported(name, value) = tenancy.accepted(name, value)? {
            told.tell(&name, &value);
        }
    }
    Some(told)
}

/// Has a real upstream say what it makes of the parameters.
async fn try_parameters(
    pool: &Pool<Dialer>,
    tenancy: &Tenancy,
    startup: &Arc<Parameters>,
) -> Result<Told, Stop> {
    let mut lease = pool.lease().await.map_err(|error| error.refusal())?;
    match lease.upstream.apply(startup).await {
        Ok(()) => {
            let told = tried(tenancy, startup, &lease.upstream.reported);
            lease.give_back(Residue::Clean);
            Ok(told)
        }
        Err(Failed::Answer(body)) => {
            lease.give_back(Residue::Clean);
            Err(Stop::Failed(body))
        }
        Err(Failed::Lost(cause)) => {
            lease.give_back(Residue::Broken(CloseReason::Lost));
            Err(Refusal::UpstreamDown { cause }.into())
        }
    }
}

/// Remembers what the server made of the parameters that it was given.
fn tried(tenancy: &Tenancy, wanted: &Parameters, reported: &BTreeMap<String, String>) -> Told {
    let mut told = Told::new(
        tenancy
            .greeting()
            .unwrap_or_else(|| Arc::new(reported.clone())),
    );
    for (name, value) in wanted.iter() {
        let found = reported
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        let how = match found {
            Some((name, value)) => {
                told.tell(name, value);
                Accepted::Reported(name.clone(), value.clone())
            }
            None => Accepted::Silently,
        };
        tenancy.accept(name, value, how);
    }
    told
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
        ScramError::ChannelBinding => unsupported("SCRAM with channel binding").into(),
        _ => Refusal::Malformed {
            what: "invalid SCRAM message",
        }
        .into(),
    }
}

fn unsupported(what: &str) -> Refusal {
    Refusal::Unsupported { what: what.into() }
}
