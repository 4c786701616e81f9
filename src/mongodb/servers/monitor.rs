//! Asking one server what it is, once and for ever.
//!
//! A monitor has a connection of its own, which never logs in. It is outside the pool's bound: one
//! for each member of each set in use, counted by `polypool_monitors`.

use std::{pin::pin, sync::Arc, time::Duration};

use bson::{RawDocumentBuf, cstr, rawdoc};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        intake::Intake,
        preference::tags_of,
        upstream::{Answer, connect, converse, hello_command},
        wire::{Element, Elements},
    },
    set::Set,
    view::{Hello, State, Version},
};
use crate::{
    net::{Stream, tls::ClientTls},
    protocol::Protocol,
    telemetry::MonitorMeter,
    tenant::{Endpoint, Target},
};

/// How long a member may take to accept a connection, and to answer what it need not think about.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(3);
/// How long a member is asked to wait for news before it answers anyway.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long after a failure a member is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How long a member that was asked for a doubt is not asked for the next: it may tell clients
/// something else than what it says of itself.
const DOUBT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What a seed turned out to be.
pub(super) enum Found {
    /// A server by itself.
    Alone,
    /// A router of a sharded cluster.
    Router,
    /// A member of a set.
    Member,
}

/// Asks the seeds, one after the other, until one answers.
pub(super) async fn find_out(target: &Target, tls: &ClientTls) -> Option<Found> {
    for seed in &target.endpoints {
        let asked = async {
            let mut line = Line::open(target, seed, tls).await?;
            line.ask(&hello_command()).await
        };
        if let Ok(Some(answer)) = timeout(ANSWER_WAIT_MAX, asked).await {
            let is_member = answer.field("setName").is_some()
                || answer.field("isreplicaset").is_some_and(|it| it.truth());
            let message = answer.field("msg");
            let is_router = message.is_some_and(|message| message.text() == Some("isdbgrid"));
            return Some(match (is_member, is_router) {
                (true, _) => Found::Member,
                (false, true) => Found::Router,
                (false, false) => Found::Alone,
            });
        }
    }
    None
}

/// Watches one member until `gone`; a `doubt` about it has it asked at once.
pub(super) async fn watch(
    set: Arc<Set>,
    endpoint: Endpoint,
    gone: CancellationToken,
    doubt: Arc<Notify>,
) {
    let draining = set.means().shutdown.clone();
    loop {
        tokio::select! {
            () = gone.cancelled() => return,
            () = draining.draining() => return,
            () = attend(&set, &endpoint, &doubt) => {}
        }
        set.lose(&endpoint);
        tokio::select! {
            () = gone.cancelled() => return,
            () = draining.draining() => return,
            () = sleep(RETRY_AFTER) => {}
        }
    }
}

/// Listens to a member for as long as it can be reached.
async fn attend(set: &Arc<Set>, endpoint: &Endpoint, doubt: &Notify) {
    let target = &set.tenant().target;
    let opened = timeout(
        ANSWER_WAIT_MAX,
        Line::open(target, endpoint, &set.means().tls),
    );
    let Ok(Some(mut line)) = opened.await else {
        return;
    };
    let _counted = MonitorMeter::opened(Protocol::Mongodb);
    let mut command = hello_command();
    loop {
        // Answered at once: how far the member is, and how fresh its data.
        let asked_at = Instant::now();
        let Ok(Some(answer)) = timeout(ANSWER_WAIT_MAX, line.ask(&command)).await else {
            return;
        };
        let took = asked_at.elapsed();
        // Who asks is told once.
        command = rawdoc! { "hello": 1, "$db": "admin" };
        let version = version_of(&answer);
        set.hear(endpoint, hello_of(&answer), took);
        let Some(version) = version else {
            // A server before 4.4 cannot be asked to tell of changes.
            tokio::select! {
                () = sleep(HEARTBEAT) => {}
                () = doubt.notified() => sleep(DOUBT_AGAIN_AFTER).await,
            }
            continue;
        };
        // Answered when something changes. An error that only says so changes nothing for the
        // server, which would be silent for all the time.
        let news = awaiting(version);
        let mut waiting = pin!(timeout(HEARTBEAT + ANSWER_WAIT_MAX, line.ask(&news)));
        let answer = loop {
            tokio::select! {
                answer = &mut waiting => break answer,
                () = doubt.notified() => {
                    if !ask_aside(set, endpoint).await {
                        return;
                    }
                }
            }
        };
        let Ok(Some(answer)) = answer else {
            return;
        };
        set.hear(endpoint, hello_of(&answer), took);
    }
}

/// Asks a member at once, beside the answer that is awaited of it. False: it cannot be reached, whatever is awaited.
async fn ask_aside(set: &Arc<Set>, endpoint: &Endpoint) -> bool {
    let asked = async {
        let mut line = Line::open(&set.tenant().target, endpoint, &set.means().tls).await?;
        let _counted = MonitorMeter::opened(Protocol::Mongodb);
        let asked_at = Instant::now();
        let answer = line.ask(&hello_command()).await?;
        Some((answer, asked_at.elapsed()))
    };
    let Ok(Some((answer, took))) = timeout(ANSWER_WAIT_MAX, asked).await else {
        return false;
    };
    set.hear(endpoint, hello_of(&answer), took);
    sleep(DOUBT_AGAIN_AFTER).await;
    true
}

/// A connection that only says hello.
struct Line {
    stream: Stream,
    intake: Intake,
}

impl Line {
    async fn open(target: &Target, endpoint: &Endpoint, tls: &ClientTls) -> Option<Self> {
        match connect(target, endpoint, tls, ANSWER_WAIT_MAX).await {
            Ok(stream) => Some(Self {
                stream,
                intake: Intake::default(),
            }),
            Err(error) => {
                tracing::debug!(%endpoint, %error, "member not reached");
                None
            }
        }
    }

    async fn ask(&mut self, command: &RawDocumentBuf) -> Option<Answer> {
        let asked = converse(&mut self.stream, &mut self.intake, command).await;
        asked
            .inspect_err(|error| tracing::debug!(%error, "member does not say hello"))
            .ok()
    }
}

fn awaiting(version: Version) -> RawDocumentBuf {
    let mut command = rawdoc! { "hello": 1 };
    let known = rawdoc! { "processId": version.process, "counter": version.counter };
    command.append(cstr!("topologyVersion"), known);
    let millis = i64::try_from(HEARTBEAT.as_millis()).unwrap_or(i64::MAX);
    command.append(cstr!("maxAwaitTimeMS"), millis);
    command.append(cstr!("$db"), "admin");
    command
}

fn hello_of(answer: &Answer) -> Hello {
    let holds = |name| answer.field(name).is_some_and(|field| field.truth());
    let text = |name| {
        answer
            .field(name)
            .and_then(|field| field.text().map(str::to_owned))
    };
    let set = text("setName");
    let state = if set.is_none() {
        State::Other
    } else if holds("isWritablePrimary") || holds("ismaster") {
        State::Primary
    } else if holds("secondary") && !holds("hidden") {
        State::Secondary
    } else {
        State::Other
    };
    let mut hosts = endpoints(answer, "hosts");
    hosts.extend(endpoints(answer, "passives"));
    let election = answer.field("electionId").and_then(|id| object_id(&id));
    let configuration = answer.field("setVersion").and_then(|it| it.integer());
    Hello {
        state,
        set,
        me: text("me").as_deref().and_then(endpoint_of),
        hosts,
        election: election.zip(configuration),
        last_write: answer
            .field("lastWrite")
            .and_then(|it| last_write(&it))
            .unwrap_or(0),
        tags: answer
            .field("tags")
            .and_then(|it| tags_of(&it))
            .unwrap_or_default(),
        version: version_of(answer),
    }
}

/// The order of an answer, if its server tells.
pub(crate) fn version_of(answer: &Answer) -> Option<Version> {
    Version::read(&answer.field("topologyVersion")?)
}

impl Version {
    /// Reads a `topologyVersion`.
    pub(crate) fn read(field: &Element<'_>) -> Option<Self> {
        let fields = Elements::new(field.document()?).ok()?;
        Some(Self {
            process: object_id(&fields.clone().find(b"processId")?)?,
            counter: fields.find(b"counter")?.integer()?,
        })
    }
}

fn object_id(field: &Element<'_>) -> Option<bson::oid::ObjectId> {
    let bytes = field.value.first_chunk::<12>()?;
    Some(bson::oid::ObjectId::from_bytes(*bytes))
}

fn last_write(field: &Element<'_>) -> Option<i64> {
    let date = Elements::new(field.document()?)
        .ok()?
        .find(b"lastWriteDate")?;
    date.value
        .first_chunk::<8>()
        .map(|raw| i64::from_le_bytes(*raw))
}

fn endpoints(answer: &Answer, name: &str) -> Vec<Endpoint> {
    let field = answer.field(name);
    let listed = field
        .as_ref()
        .and_then(|field| Elements::new(field.document()?).ok());
    listed
        .into_iter()
        .flatten()
        .filter_map(|host| endpoint_of(host.ok()?.text()?))
        .collect()
}

/// A host and a port as members write them.
pub(crate) fn endpoint_of(text: &str) -> Option<Endpoint> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some(Endpoint {
        host: host.to_owned(),
        port: port.parse().ok()?,
    })
}
