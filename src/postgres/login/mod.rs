//! From the first byte to `ReadyForQuery`: encryption, the start-up packet, the proof, the greeting.

mod opening;
mod proof;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use opening::Opened;

use super::{
    console,
    exchange::IDLE,
    flow::Peer,
    refusal::{self, Severity},
    servers::{ATTRS, Source, Unserved},
    service::Service,
    session::{Newcomer, TEMPORARY, Told, demanded},
    settings::{Parameters, read_options},
    tenancy::{Accepted, Tenancy},
    upstream::Failed,
    wire::{self, StartupParameters},
};
use crate::{
    fault::Refusal,
    pool::{CloseReason, Residue},
    protocol::Protocol,
    session::{Admitted, Candidate, Claim},
    telemetry::SessionEnd,
    tenant::{PoolMode, Tenant},
};

/// How long a client may take to read why it is not let in.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

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
    /// There is no server for it.
    Unserved(Unserved),
    /// There is no database of the name that was asked for.
    NoDatabase(String),
}

impl From<Unserved> for Stop {
    fn from(unserved: Unserved) -> Self {
        Self::Unserved(unserved)
    }
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
    if startup.find("database") == Some(console::DATABASE) {
        console::serve(service, client).await;
        return Outcome::Served;
    }
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
        Stop::Unserved(unserved) => refusal::unserved(out, Severity::Fatal, &unserved),
        Stop::NoDatabase(name) => refusal::unknown_database(out, &name),
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
        let reference = reference.map(|(_, value)| value.as_str());
        let candidate = self.identify(startup, reference).await?;
        let admitted = self.prove(candidate).await?;
        let database = asked_database(startup);
        if let Some(other) = database.filter(|name| !is_called(&admitted.tenant, name))
            && !self.names_project(startup, reference, &admitted.tenant)
        {
            return Err(Stop::NoDatabase(other.to_owned()));
        }
        let wanted = wanted_parameters(startup, options)?;
        self.greet(admitted, wanted, startup.has_long_keys()).await
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
        let database = asked_database(startup);
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

    /// Whether the login names the project, whose only database then serves whatever it is called.
    fn names_project(
        &self,
        startup: &StartupParameters,
        reference: Option<&str>,
        tenant: &Tenant,
    ) -> bool {
        let user = startup.find("user").and_then(|user| user.rsplit_once('.'));
        let label = self.client.stream.server_name();
        let label = label.and_then(|name| name.split_once('.'));
        let named = reference.or(user.map(|(_, t)| t)).or(label.map(|(t, _)| t));
        named.is_some_and(|t| t.eq_ignore_ascii_case(&tenant.project))
    }

    /// The greeting of a real upstream, overlaid by what the client began with.
    async fn greet(
        &mut self,
        admitted: Admitted,
        wanted: Arc<Parameters>,
        long_keys: bool,
    ) -> Result<Newcomer, Stop> {
        let Admitted {
            tenant, role, seat, ..
        } = admitted;
        let tenancy = self.service.tenancies.of(tenant.id);
        let startup = demanded(role, wanted);
        let kept = match tenant.limits.pool_mode {
            PoolMode::Session => Some("session_mode"),
            PoolMode::Transaction | PoolMode::Statement => {
                startup.may_make_temporary().then_some(TEMPORARY)
            }
        };
        if kept == Some(TEMPORARY) {
            self.service.meters().pinned(TEMPORARY);
        }
        let mut source = Source::of(self.service.means(&tenancy), &tenant, &startup);
        if let Source::Several(several) = &mut source {
            several.want(role, &startup);
        }
        let greeting = source.greeting(&tenancy);
        let told = match greeting.and_then(|told| remembered(told, &tenancy, &startup)) {
            Some(told) => told,
            None => try_parameters(&mut source, &tenancy, &startup).await?,
        };
        let desk = self
            .service
            .cancels
            .enrol(long_keys)
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
            source,
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

/// The database by its name; libpq sends the user's name where none was asked for.
fn asked_database(startup: &StartupParameters) -> Option<&str> {
    let name = startup.find("database")?;
    (!name.is_empty() && Some(name) != startup.find("user")).then_some(name)
}

/// Whether a name is one of the tenant's database; where the name is another's, nobody is let into this one.
fn is_called(tenant: &Tenant, name: &str) -> bool {
    let target = &tenant.target;
    let own = target.database.as_deref().or(target.user.as_deref());
    own == Some(name)
        || [&tenant.name, &tenant.slug]
            .iter()
            .any(|own| own.eq_ignore_ascii_case(name))
}

/// The start-up parameters that are the session's.
fn wanted_parameters(
    startup: &StartupParameters,
    options: Vec<(String, String)>,
) -> Result<Arc<Parameters>, Stop> {
    let ours = ["user", "database", "options", "replication"];
    let direct = startup
        .pairs
        .iter()
        .filter(|(name, _)| !ours.contains(&name.as_str()))
        .cloned();
    let options = options.into_iter().filter(|(name, _)| name != "reference");
    let mut attrs: Option<String> = None;
    let mut pairs = Vec::new();
    for (name, value) in options.chain(direct) {
        // libpq's own name will do: the server has none of that name.
        if !["target_session_attrs", ATTRS].contains(&name.to_ascii_lowercase().as_str()) {
            pairs.push((name, value));
            continue;
        }
        if let Some(other) = attrs.replace(value.clone()).filter(|other| *other != value) {
            return Err(Unserved::Twice(other.into(), value.into()).into());
        }
    }
    pairs.extend(attrs.map(|attrs| (ATTRS.to_owned(), attrs)));
    Ok(Parameters::from_pairs(pairs))
}

/// What the client is told, if the server is known to accept all that it wants.
fn remembered(mut told: Told, tenancy: &Tenancy, wanted: &Parameters) -> Option<Told> {
    for (name, value) in wanted.iter() {
        if let Accepted::Reported(name, value) = tenancy.accepted(name, value)? {
            told.tell(&name, &value);
        }
    }
    Some(told)
}

/// Has a real upstream say what it makes of the parameters.
async fn try_parameters(
    source: &mut Source,
    tenancy: &Tenancy,
    startup: &Arc<Parameters>,
) -> Result<Told, Stop> {
    let mut lease = source.lease().await?;
    match lease.upstream.apply(startup).await {
        Ok(()) => {
            let reported = &lease.upstream.reported;
            let told = source.greeting(tenancy);
            let told = told.unwrap_or_else(|| Told::new(Arc::new(reported.clone())));
            let told = tried(told, tenancy, startup, reported);
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
fn tried(
    mut told: Told,
    tenancy: &Tenancy,
    wanted: &Parameters,
    reported: &BTreeMap<String, String>,
) -> Told {
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

fn unsupported(what: &str) -> Refusal {
    Refusal::Unsupported { what: what.into() }
}
