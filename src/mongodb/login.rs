//! Logging in: SCRAM in the commands that MongoDB wraps it in.
//!
//! SHA-256 always; SHA-1, where it is switched on, for an upstream's own user only: of issued credentials there is no
//! password to derive its verifier from.
//!
//! Whom a login means, and what a failure costs, is decided in `session::Admission`.

use std::{net::SocketAddr, sync::Arc};

use bson::{Binary, RawDocumentBuf, rawdoc, spec::BinarySubtype};

use super::{
    refusal::{ErrorReply, Standing},
    upstream::digest,
    wire::{Body, Elements},
};
use crate::{
    auth::scram::{ClientFirst, Mechanism, Server, Verifier},
    fault::Refusal,
    protocol::Protocol,
    session::{Admission, Admitted, Candidate, Claim},
};

/// The number of a connection's only conversation.
const CONVERSATION: i32 = 1;

/// The first message of a login.
#[derive(Debug)]
pub(crate) struct SaslStart {
    mechanism: String,
    payload: Vec<u8>,
    source: String,
    skips_empty_exchange: bool,
}

impl SaslStart {
    /// Reads a `saslStart` command.
    pub(crate) fn read(body: &Body<'_>) -> Result<Self, ErrorReply> {
        let mut start = Self::of(body.bytes())
            .ok_or_else(|| ErrorReply::bad_field("saslStart", "mechanism or payload"))?;
        body.database().clone_into(&mut start.source);
        Ok(start)
    }

    /// Reads the document of `speculativeAuthenticate`, if it is one that can be answered.
    pub(crate) fn speculated(document: &[u8]) -> Option<Self> {
        let command = Elements::new(document).ok()?.next()?.ok()?;
        let start = Self::of(document)?;
        let is_known = Mechanism::parse(&start.mechanism).is_some();
        (command.name == b"saslStart" && is_known).then_some(start)
    }

    fn of(document: &[u8]) -> Option<Self> {
        let elements = Elements::new(document).ok()?;
        let find = |name: &[u8]| elements.clone().find(name);
        let skips = find(b"options").and_then(|options| {
            let mut options = Elements::new(options.document()?).ok()?.flatten();
            let option = options.find(|option| option.name == b"skipEmptyExchange")?;
            Some(option.truth())
        });
        Some(Self {
            mechanism: find(b"mechanism")?.text()?.to_owned(),
            payload: find(b"payload")?.binary()?.to_vec(),
            source: find(b"db")
                .and_then(|source| source.text().map(str::to_owned))
                .unwrap_or_default(),
            skips_empty_exchange: skips.unwrap_or(false),
        })
    }
}

/// A later message of a login.
#[derive(Debug)]
pub(crate) struct SaslContinue {
    conversation: i64,
    payload: Vec<u8>,
}

impl SaslContinue {
    /// Reads a `saslContinue` command.
    pub(crate) fn read(body: &Body<'_>) -> Result<Self, ErrorReply> {
        let conversation = body.field("conversationId").and_then(|id| id.integer());
        let payload = body.field("payload");
        let payload = payload.and_then(|payload| payload.binary().map(<[u8]>::to_vec));
        match (conversation, payload) {
            (Some(conversation), Some(payload)) => Ok(Self {
                conversation,
                payload,
            }),
            _ => Err(ErrorReply::bad_field(
                "saslContinue",
                "conversationId or payload",
            )),
        }
    }
}

/// Where a client says it comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    /// The TLS server name it asked for.
    pub(crate) server_name: Option<&'a str>,
    /// Its address.
    pub(crate) peer: SocketAddr,
    /// How it may log in.
    pub(crate) offered: &'static [Mechanism],
}

/// A connection's login under way.
#[derive(Default)]
pub(crate) enum Conversation {
    /// None.
    #[default]
    None,
    /// The first messages were exchanged.
    Begun(Box<Begun>),
    /// Proven; an old driver still wants one empty exchange.
    Proven,
}

/// What is kept between the first message and the proof.
pub(crate) struct Begun {
    server: Server,
    candidate: Candidate,
    login: String,
    source: String,
    skips_empty_exchange: bool,
}

/// What a step of a login gives.
pub(crate) struct Step {
    /// The reply, without `ok`.
    pub(crate) reply: RawDocumentBuf,
    /// Who is logged in now, with this message.
    pub(crate) newcomer: Option<Newcomer>,
}

/// Who has just logged in.
pub(crate) struct Newcomer {
    /// The client, its tenant and its seat.
    pub(crate) admitted: Admitted,
    /// The login as sent.
    pub(crate) login: String,
    /// The database that the client said the login belongs to.
    pub(crate) source: String,
}

impl Conversation {
    /// Whether a proof is awaited.
    pub(crate) const fn is_begun(&self) -> bool {
        matches!(self, Self::Begun(_))
    }

    /// Answers the first message. A login that was under way is forgotten.
    pub(crate) async fn begin(
        &mut self,
        admission: &Arc<Admission>,
        start: SaslStart,
        origin: Origin<'_>,
    ) -> Result<Step, ErrorReply> {
        *self = Self::None;
        let mechanism = Mechanism::parse(&start.mechanism)
            .filter(|mechanism| origin.offered.contains(mechanism))
            .ok_or_else(|| ErrorReply::mechanism(&start.mechanism))?;
        let first = std::str::from_utf8(&start.payload)
            .ok()
            // Channel binding exists for no driver of MongoDB; the server takes this header only.
            .filter(|text| text.starts_with("n,,"))
            .and_then(|text| ClientFirst::parse(text).ok())
            .ok_or_else(rejected)?;
        let claim = Claim {
            protocol: Protocol::Mongodb,
            login: &first.user,
            database: Some(start.source.as_str()).filter(|source| !source.is_empty()),
            server_name: origin.server_name,
            reference: None,
            peer: origin.peer,
        };
        let candidate = admission
            .identify(claim)
            .await
            .map_err(|refusal| refused(&refusal))?;
        let verifier = match mechanism {
            Mechanism::Sha256 => Verifier::from(candidate.verifier()),
            Mechanism::Sha1 => {
                let digested = |password: &str| digest(&first.user, password);
                let verifier = candidate.sha1_verifier(digested).await;
                verifier.ok_or_else(rejected)?
            }
        };
        let (server, answer) = Server::begin(&first, verifier).map_err(|_| rejected())?;
        *self = Self::Begun(Box::new(Begun {
            server,
            candidate,
            login: first.user,
            source: start.source,
            skips_empty_exchange: start.skips_empty_exchange,
        }));
        Ok(Step {
            reply: reply(&answer, false),
            newcomer: None,
        })
    }

    /// Who is logging in.
    pub(crate) fn login(&self) -> Option<&str> {
        match self {
            Self::Begun(begun) => Some(&begun.login),
            Self::None | Self::Proven => None,
        }
    }

    /// Answers a later message.
    pub(crate) async fn proceed(&mut self, message: SaslContinue) -> Result<Step, ErrorReply> {
        if message.conversation != i64::from(CONVERSATION) {
            return Err(ErrorReply::no_conversation());
        }
        match std::mem::take(self) {
            Self::None => Err(ErrorReply::no_conversation()),
            Self::Proven if message.payload.is_empty() => Ok(Step {
                reply: reply("", true),
                newcomer: None,
            }),
            Self::Proven => Err(rejected()),
            Self::Begun(begun) => self.prove(*begun, &message.payload).await,
        }
    }

    async fn prove(&mut self, begun: Begun, payload: &[u8]) -> Result<Step, ErrorReply> {
        let last = std::str::from_utf8(payload).unwrap_or_default();
        let Ok(own_proof) = begun.server.finish(last) else {
            return Err(refused(&begun.candidate.rejected().await));
        };
        let admitted = begun
            .candidate
            .proven()
            .await
            .map_err(|refusal| refused(&refusal))?;
        if !begun.skips_empty_exchange {
            *self = Self::Proven;
        }
        Ok(Step {
            reply: reply(&own_proof, begun.skips_empty_exchange),
            newcomer: Some(Newcomer {
                admitted,
                login: begun.login,
                source: begun.source,
            }),
        })
    }
}

fn reply(payload: &str, done: bool) -> RawDocumentBuf {
    let payload = Binary {
        subtype: BinarySubtype::Generic,
        bytes: payload.as_bytes().to_vec(),
    };
    rawdoc! { "conversationId": CONVERSATION, "done": done, "payload": payload }
}

fn rejected() -> ErrorReply {
    refused(&Refusal::LoginRejected)
}

fn refused(refusal: &Refusal) -> ErrorReply {
    ErrorReply::of(refusal, Standing::Plain)
}
