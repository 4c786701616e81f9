//! The hello: what drivers ask first, and what their monitors ask for ever.
//!
//! To drivers the gateway looks like one mongos, whatever is behind it: that makes sessions,
//! transactions, retryable operations and change streams work with a plain connection string. It is
//! answered here and never passed on: an awaitable hello would hold an upstream for ever.

use std::time::Duration;

use bson::{DateTime, RawArrayBuf, RawDocumentBuf, cstr};

use super::{
    login::SaslStart,
    refusal::ErrorReply,
    topology::Topology,
    wire::{Compressor, Element, Elements, MESSAGE_BYTES_MAX},
};
use crate::auth::scram::Mechanism;

/// Longest time that one awaited hello may be held.
const AWAIT_MAX: Duration = Duration::from_mins(5);
/// Characters kept of an application's name.
const LABEL_CHARS_MAX: usize = 128;

/// What a hello asks.
#[derive(Debug, Default)]
pub(crate) struct Hello {
    /// The name it came under.
    pub(crate) name: Name,
    /// What the client says of itself, which it may do once.
    pub(crate) metadata: Option<Metadata>,
    /// A login's first message that rides along.
    pub(crate) speculation: Option<SaslStart>,
    /// How long to wait for news.
    pub(crate) awaits: Option<Duration>,
    /// How the client can compress, if it says.
    pub(crate) compressors: Option<Vec<Compressor>>,
    /// Whether the client understands the new name.
    asks_hello_ok: bool,
    /// Whether the client wants to be served as behind a load balancer.
    asks_service: bool,
    /// Whether the client asks which mechanisms a user has.
    asks_mechanisms: bool,
}

/// The names that the hello goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Name {
    /// `hello`.
    #[default]
    Hello,
    /// `isMaster` or `ismaster`.
    IsMaster,
}

/// What a client says of itself.
#[derive(Debug)]
pub(crate) struct Metadata {
    /// What its application calls itself.
    pub(crate) label: Option<String>,
}

/// Whether a command is the hello under one of its names.
pub(crate) fn is_hello(command: &[u8]) -> bool {
    matches!(command, b"hello" | b"isMaster" | b"ismaster")
}

impl Hello {
    /// What a stream's later replies answer: nothing but the name it came under.
    pub(crate) fn again(name: Name) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// Reads a hello's body.
    pub(crate) fn read(body: &[u8], topology: &Topology) -> Result<Self, ErrorReply> {
        let mut hello = Self::default();
        let mut version = None;
        let mut await_millis = None;
        let elements = Elements::new(body).map_err(|fault| ErrorReply::of_wire(&fault))?;
        for (position, element) in elements.enumerate() {
            let element = element.map_err(|fault| ErrorReply::of_wire(&fault))?;
            match element.name {
                b"hello" if position == 0 => hello.name = Name::Hello,
                _ if position == 0 => hello.name = Name::IsMaster,
                b"helloOk" => hello.asks_hello_ok = element.truth(),
                b"loadBalanced" => hello.asks_service = element.truth(),
                b"saslSupportedMechs" => hello.asks_mechanisms = element.text().is_some(),
                b"client" => {
                    let label = label_of(&element);
                    hello.metadata = Some(Metadata { label });
                }
                b"speculativeAuthenticate" => {
                    // Whatever is wrong with it, it is only left unanswered.
                    hello.speculation = element.document().and_then(SaslStart::speculated);
                }
                b"compression" => hello.compressors = Some(compressors_of(&element)),
                b"topologyVersion" => version = Some(element),
                b"maxAwaitTimeMS" => await_millis = element.integer(),
                _ => {}
            }
        }
        hello.awaits = match (version, await_millis) {
            (None, None) => None,
            (Some(_), None) => return Err(ErrorReply::await_without_time()),
            (None, Some(_)) => return Err(ErrorReply::await_without_version()),
            (Some(_), Some(millis)) if millis < 0 => {
                return Err(ErrorReply::await_negative(millis));
            }
            (Some(version), Some(millis)) => is_current(&version, topology)
                .then(|| Duration::from_millis(millis.unsigned_abs()).min(AWAIT_MAX)),
        };
        Ok(hello)
    }

    /// The reply, without what a speculative login adds and without `ok`.
    pub(crate) fn reply(
        &self,
        topology: &Topology,
        wire_version: i32,
        offered: &[Mechanism],
        connection: i32,
    ) -> RawDocumentBuf {
        let mut out = RawDocumentBuf::new();
        if self.asks_hello_ok {
            out.append(cstr!("helloOk"), true);
        }
        match self.name {
            Name::Hello => out.append(cstr!("isWritablePrimary"), true),
            Name::IsMaster => out.append(cstr!("ismaster"), true),
        }
        out.append(cstr!("msg"), "isdbgrid");
        out.append(cstr!("topologyVersion"), topology.version());
        out.append(cstr!("maxBsonObjectSize"), 16_777_216);
        out.append(
            cstr!("maxMessageSizeBytes"),
            i32::try_from(MESSAGE_BYTES_MAX).unwrap_or(i32::MAX),
        );
        out.append(cstr!("maxWriteBatchSize"), 100_000);
        out.append(cstr!("localTime"), DateTime::now());
        out.append(cstr!("logicalSessionTimeoutMinutes"), 30);
        out.append(cstr!("connectionId"), connection);
        out.append(cstr!("minWireVersion"), 0);
        out.append(cstr!("maxWireVersion"), wire_version);
        out.append(cstr!("readOnly"), false);
        if self.asks_service {
            out.append(cstr!("serviceId"), topology.process());
        }
        if self.asks_mechanisms {
            // The same for users that do not exist: the answer must not tell.
            let mechanisms: RawArrayBuf = offered.iter().map(|it| it.label()).collect();
            out.append(cstr!("saslSupportedMechs"), mechanisms);
        }
        out
    }
}

/// Whether a client's `topologyVersion` is ours of this moment; only then there is reason to wait.
fn is_current(version: &Element<'_>, topology: &Topology) -> bool {
    let Some(fields) = version
        .document()
        .and_then(|document| Elements::new(document).ok())
    else {
        return false;
    };
    let process = fields.clone().find(b"processId");
    let counter = fields
        .find(b"counter")
        .and_then(|counter| counter.integer());
    process.is_some_and(|process| process.value == topology.process().bytes())
        && counter == Some(topology.counter())
}

fn compressors_of(listed: &Element<'_>) -> Vec<Compressor> {
    let listed = listed
        .document()
        .and_then(|listed| Elements::new(listed).ok());
    let mut known = Vec::new();
    for name in listed.into_iter().flatten().flatten() {
        if let Some(compressor) = name.text().and_then(Compressor::parse)
            && !known.contains(&compressor)
        {
            known.push(compressor);
        }
    }
    known
}

fn label_of(client: &Element<'_>) -> Option<String> {
    let application = Elements::new(client.document()?)
        .ok()?
        .find(b"application")?;
    let name = Elements::new(application.document()?).ok()?.find(b"name")?;
    Some(name.text()?.chars().take(LABEL_CHARS_MAX).collect())
}
