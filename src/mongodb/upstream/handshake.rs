//! The hello with one server, and a login that begins with it; each step's failure named.

use bson::{RawArrayBuf, RawDocumentBuf, rawdoc};

use super::super::{
    intake::Intake,
    servers::endpoint_of,
    wire::{Compressor, Elements},
};
use super::{
    Era, ServerKind, Upstream,
    converse::{Answer, ConverseError, converse},
    login::Login,
};
use crate::{
    auth::scram::Salted,
    net::{DialFault, DialStep, Stream},
    tenant::{Endpoint, Target},
};

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

/// Hello and login in two round trips: the login's first message rides on the hello.
pub(super) async fn greet(
    mut stream: Stream,
    target: &Target,
    login: Option<Login<'_>>,
    known: Option<&Salted>,
    wanted: Wanted,
) -> Result<Opened, GreetError> {
    let mut intake = Intake::default();
    let mut hello = hello_command();
    let offered = compressors_of(target);
    if !offered.is_empty() {
        let offered: RawArrayBuf = offered.iter().map(|it| it.label()).collect();
        hello.append(bson::cstr!("compression"), offered);
    }
    let begun = login.map(|login| login.begin(&mut hello)).transpose()?;
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
    let salted = match begun {
        Some(begun) => begun.finish(&mut upstream, &answer, known).await?,
        None => None,
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

#[expect(clippy::needless_pass_by_value, reason = "shaped for map_err")]
fn hello_fault(error: ConverseError) -> DialFault {
    DialFault::new(
        DialStep::Login,
        error.to_string(),
        "check that a MongoDB server (3.6 or later) listens there, and whether it wants TLS (tls=true)",
    )
}
