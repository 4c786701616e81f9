//! Hello and login with one server, each step's failure named.

use bson::{Binary, RawArrayBuf, RawDocumentBuf, rawdoc, spec::BinarySubtype};
use tokio::task::spawn_blocking;

use super::super::{
    intake::Intake,
    servers::endpoint_of,
    wire::{Compressor, Elements},
};
use super::{
    Era, ServerKind, Upstream,
    converse::{Answer, ConverseError, converse},
};
use crate::{
    auth::scram::{Client, Salted, ScramError},
    crypto::Secret,
    net::{DialFault, DialStep, Stream},
    tenant::{Endpoint, Target},
};

/// The one mechanism that is offered.
const MECHANISM: &str = "SCRAM-SHA-256";

/// A connection, and the salted password that its login used.
pub(super) struct Opened {
    pub(super) upstream: Upstream,
    pub(super) salted: Option<Salted>,
}

/// Why one server was not opened.
#[derive(Debug)]
pub(super) enum GreetError {
    /// It takes no writes, and may know who does.
    NotPrimary {
        /// Whom it takes for the primary.
        primary: Option<Endpoint>,
    },
    /// Anything else.
    Fault(DialFault),
}

impl From<DialFault> for GreetError {
    fn from(fault: DialFault) -> Self {
        Self::Fault(fault)
    }
}

/// Which server will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// One that takes writes.
    Writable,
    /// The one that is dialled, whatever it is at the moment.
    Anyone,
}

/// Who logs in, and where that user is defined.
pub(super) struct Login<'a> {
    user: &'a str,
    password: &'a Secret,
    source: &'a str,
}

impl<'a> Login<'a> {
    pub(super) fn of(target: &'a Target) -> Result<Option<Self>, DialFault> {
        let option = |key: &str| target.options.get(key).map(String::as_str);
        let Some(user) = target.user.as_deref() else {
            return Ok(None);
        };
        if let Some(other) = option("authmechanism").filter(|name| *name != MECHANISM) {
            return Err(DialFault::new(
                DialStep::Login,
                format!("the mechanism {other} is not offered"),
                "give the user SCRAM-SHA-256 and leave authMechanism out",
            ));
        }
        let password = target.password.as_ref().ok_or_else(|| {
            DialFault::new(
                DialStep::Login,
                "there is a user but no password",
                "give both or none",
            )
        })?;
        let source = option("authsource").or(target.database.as_deref());
        Ok(Some(Self {
            user,
            password,
            source: source.unwrap_or("admin"),
        }))
    }
}

/// Hello and login in two round trips: the login's first message rides on the hello.
pub(super) async fn greet(
    mut stream: Stream,
    target: &Target,
    login: Option<Login<'_>>,
    known: Option<&Salted>,
    wanted: Wanted,
) -> Result<Opened, GreetError> {
    let mut intake = Intake::default();
    let begun = match &login {
        Some(login) => Some(Client::begin(login.user).map_err(|error| scram_fault(&error))?),
        None => None,
    };
    let mut hello = hello_command();
    let offered = compressors_of(target);
    if !offered.is_empty() {
        let offered: RawArrayBuf = offered.iter().map(|it| it.label()).collect();
        hello.append(bson::cstr!("compression"), offered);
    }
    if let (Some(login), Some((_, first))) = (&login, &begun) {
        let mut start = sasl_start(first);
        start.append(bson::cstr!("db"), login.source);
        hello.append(bson::cstr!("speculativeAuthenticate"), start);
    }
    let answer = converse(&mut stream, &mut intake, &hello)
        .await
        .map_err(hello_fault)?;
    let kind = kind_of(&answer, target, wanted)?;
    let mut upstream = Upstream {
        stream,
        intake,
        kind,
        era: Era::default(),
        compressor: agreed(&answer, &offered),
    };
    let salted = match (login, begun) {
        (Some(login), Some((client, first))) => {
            let server_first = match speculated(&answer) {
                Some(server_first) => server_first,
                None => start_login(&mut upstream, &login, &first).await?,
            };
            Some(finish_login(&mut upstream, &login, (client, server_first), known).await?)
        }
        _ => None,
    };
    Ok(Opened { upstream, salted })
}

/// What the connection string says of compression, as drivers read it.
fn compressors_of(target: &Target) -> Vec<Compressor> {
    let listed = target.options.get("compressors");
    let names = listed.into_iter().flat_map(|names| names.split(','));
    names.filter_map(Compressor::parse).collect()
}

/// The first of ours that the server has too.
fn agreed(answer: &Answer, offered: &[Compressor]) -> Option<Compressor> {
    let field = answer.field("compression")?;
    let names = Elements::new(field.document()?).ok()?;
    let theirs: Vec<_> = names
        .filter_map(|name| Compressor::parse(name.ok()?.text()?))
        .collect();
    offered.iter().copied().find(|it| theirs.contains(it))
}

/// The legacy name is understood by every server that speaks `OP_MSG`.
pub(crate) fn hello_command() -> RawDocumentBuf {
    rawdoc! {
        "isMaster": 1,
        "helloOk": true,
        "client": {
            "application": { "name": "polypool" },
            "driver": { "name": "polypool", "version": env!("CARGO_PKG_VERSION") },
            "os": { "type": std::env::consts::OS },
        },
        "$db": "admin",
    }
}

fn sasl_start(first: &str) -> RawDocumentBuf {
    rawdoc! {
        "saslStart": 1,
        "mechanism": MECHANISM,
        "payload": payload(first),
        "options": { "skipEmptyExchange": true },
    }
}

fn payload(text: &str) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: text.as_bytes().to_vec(),
    }
}

/// What the server is; a fault when it is none that takes writes.
fn kind_of(answer: &Answer, target: &Target, wanted: Wanted) -> Result<ServerKind, GreetError> {
    let text = |name| {
        answer
            .field(name)
            .and_then(|field| field.text().map(str::to_owned))
    };
    let set = text("setName");
    let kind = match (&set, text("msg").as_deref()) {
        (Some(_), _) => ServerKind::Member,
        (None, Some("isdbgrid")) => ServerKind::Router,
        (None, _) => ServerKind::Standalone,
    };
    if let Some(wanted) = target.options.get("replicaset")
        && kind != ServerKind::Router
        && set.as_ref() != Some(wanted)
    {
        return Err(GreetError::Fault(DialFault::new(
            DialStep::Login,
            format!("the server is not of the replica set '{wanted}'"),
            "check replicaSet= in the connection string",
        )));
    }
    let is_direct = target
        .options
        .get("directconnection")
        .is_some_and(|value| value == "true");
    let is_primary = answer.field("ismaster").is_some_and(|field| field.truth());
    if is_primary || is_direct || wanted == Wanted::Anyone {
        return Ok(kind);
    }
    let primary = text("primary").as_deref().and_then(endpoint_of);
    Err(GreetError::NotPrimary { primary })
}

/// The server's first message, if it took up the speculative login.
fn speculated(answer: &Answer) -> Option<String> {
    let embedded = answer.field("speculativeAuthenticate")?;
    let elements = Elements::new(embedded.document()?).ok()?;
    let bytes = elements.find(b"payload")?.binary()?.to_vec();
    String::from_utf8(bytes).ok()
}

async fn start_login(
    upstream: &mut Upstream,
    login: &Login<'_>,
    first: &str,
) -> Result<String, DialFault> {
    let mut start = sasl_start(first);
    start.append(bson::cstr!("$db"), login.source);
    let answer = ask(upstream, &start).await?;
    payload_of(&answer)
}

async fn finish_login(
    upstream: &mut Upstream,
    login: &Login<'_>,
    (client, server_first): (Client, String),
    known: Option<&Salted>,
) -> Result<Salted, DialFault> {
    let (password, known) = (login.password.clone(), known.cloned());
    // A key derivation takes milliseconds, which is too long for the threads that serve clients.
    let derived =
        spawn_blocking(move || client.answer(&server_first, &password, known.as_ref())).await;
    let finish = match derived {
        Ok(Ok(finish)) => finish,
        Ok(Err(error)) => return Err(scram_fault(&error)),
        Err(error) => {
            return Err(DialFault::new(
                DialStep::Login,
                error.to_string(),
                "try again",
            ));
        }
    };
    let proof = rawdoc! {
        "saslContinue": 1,
        "conversationId": 1,
        "payload": payload(&finish.message),
        "$db": login.source,
    };
    let answer = ask(upstream, &proof).await?;
    finish
        .check(&payload_of(&answer)?)
        .map_err(|error| scram_fault(&error))?;
    let is_done = |answer: &Answer| answer.field("done").is_some_and(|done| done.truth());
    if !is_done(&answer) {
        // Servers before 4.4 know no skipEmptyExchange.
        let empty = rawdoc! {
            "saslContinue": 1,
            "conversationId": 1,
            "payload": payload(""),
            "$db": login.source,
        };
        let answer = ask(upstream, &empty).await?;
        if !is_done(&answer) {
            return Err(scram_fault(&ScramError::Refused));
        }
    }
    Ok(finish.salted)
}

async fn ask(upstream: &mut Upstream, command: &RawDocumentBuf) -> Result<Answer, DialFault> {
    converse(&mut upstream.stream, &mut upstream.intake, command)
        .await
        .map_err(|error| {
            DialFault::new(
                DialStep::Login,
                error.to_string(),
                "check user, password and authSource (the database where the user is defined), \
                 and that the user has SCRAM-SHA-256",
            )
        })
}

fn payload_of(answer: &Answer) -> Result<String, DialFault> {
    let bytes = answer
        .field("payload")
        .and_then(|field| field.binary().map(<[u8]>::to_vec));
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| scram_fault(&ScramError::Malformed("payload")))
}

fn scram_fault(error: &ScramError) -> DialFault {
    DialFault::new(
        DialStep::Login,
        error.to_string(),
        "the server and we do not understand each other; check that it is the server you mean",
    )
}

#[expect(clippy::needless_pass_by_value, reason = "shaped for map_err")]
fn hello_fault(error: ConverseError) -> DialFault {
    DialFault::new(
        DialStep::Login,
        error.to_string(),
        "check that a MongoDB server (3.6 or later) listens there, and whether it wants TLS (tls=true)",
    )
}
