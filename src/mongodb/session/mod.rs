//! One client's life: its requests in order, each answered here or passed on by `exchange`.
//!
//! `serve` decides over a request, `greet` answers the hello and the login.

mod greet;
mod serve;

use std::{
    future::poll_fn,
    ops::ControlFlow,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bson::RawDocumentBuf;
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    ending::Ending,
    intake::Intake,
    login::Conversation,
    outlet,
    refusal::{ErrorReply, Standing},
    room::{FREE_BYTES, Place},
    servers::Servers,
    service::Service,
    sessions::Scope,
    transactions::end_abandoned,
    wire::{
        Compressor, HEADER_BYTES, Header, MESSAGE_BYTES_MAX, Opcode, WireFault, encode_message,
        judged_bytes, length_at, unpack,
    },
};
use crate::{
    fault::{FaultKind, Refusal, Side},
    net::Stream,
    session::Admitted,
    telemetry::SessionEnd,
};

/// Largest message before login: a login needs a few hundred bytes.
pub(super) const LOGIN_BYTES_MAX: usize = 64 * 1024;
/// Larger messages are not unpacked on the threads that serve others.
const PACKED_HERE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of buffer that a waiting client keeps.
const KEPT_BYTES: usize = 1024;
/// How long the rest of a message may take once it began, without any progress.
const PARTIAL_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a connection may take to say hello, and to prove a login that it began.
const LOGIN_WAIT_MAX: Duration = Duration::from_mins(1);
/// How long a connection that only watches may be quiet. Monitors never log in, and ask every ten
/// seconds; nobody who is silent for this long is one.
const MONITOR_QUIET_MAX: Duration = Duration::from_mins(10);
/// Requests after which the counters that all sessions share are brought up to date.
const COUNTED_TOGETHER: u32 = 64;

/// Goes on, or ends the session.
pub(super) type Flow<T = ()> = ControlFlow<SessionEnd, T>;

/// One client.
pub(super) struct Session {
    pub(super) service: Arc<Service>,
    pub(super) client: Stream,
    pub(super) intake: Intake,
    pub(super) ending: Ending,
    pub(super) member: Option<Member>,
    pub(super) tally: Tally,
    /// How the reply to this request may be compressed.
    pub(super) reply_by: Option<Compressor>,
    /// Whether it ever spoke of a transaction.
    pub(super) has_transactions: bool,
    pub(super) connection: i32,
    conversation: Conversation,
    is_greeted: bool,
    is_introduced: bool,
    label: Option<String>,
    next_reply: i32,
    /// Room for a large request.
    place: Option<Place>,
}

/// A client that is logged in.
pub(super) struct Member {
    pub(super) admitted: Admitted,
    pub(super) servers: Arc<Servers>,
    pub(super) login: Arc<str>,
    scope: Scope,
    source: String,
}

/// What was counted and not yet added to the counters of all.
#[derive(Debug, Default)]
pub(super) struct Tally {
    exchanges: u32,
    read_bytes: u64,
    written_bytes: u64,
}
impl Session {
    pub(super) fn new(service: Arc<Service>, client: Stream) -> Self {
        let ending = Ending::new(&service.shutdown);
        let connection = service.next_connection();
        Self {
            service,
            client,
            intake: Intake::default(),
            ending,
            member: None,
            tally: Tally::default(),
            reply_by: None,
            has_transactions: false,
            connection,
            conversation: Conversation::None,
            is_greeted: false,
            is_introduced: false,
            label: None,
            next_reply: 0,
            place: None,
        }
    }

    /// Serves the client until it or we have had enough.
    pub(super) async fn run(mut self) -> SessionEnd {
        loop {
            if let ControlFlow::Break(end) = self.serve_next().await {
                self.publish();
                self.leave_transactions();
                return end;
            }
        }
    }

    /// What the client leaves open holds locks: it is ended unless another connection takes it up.
    fn leave_transactions(&self) {
        if let (true, Some(member)) = (self.has_transactions, &self.member) {
            let ending = end_abandoned(Arc::clone(&member.servers), self.connection);
            self.service.shutdown.spawn("mongodb-abandoned", ending);
        }
    }

    async fn serve_next(&mut self) -> Flow {
        self.place = None;
        let header = match self.stranger_wait_max() {
            None => self.next_request().await?,
            Some(wait_max) => timeout(wait_max, self.next_request())
                .await
                .unwrap_or(Flow::Break(SessionEnd::Limit))?,
        };
        self.reply_by = None;
        let header = match header.opcode {
            Opcode::Compressed => match Box::pin(self.unpack(header)).await? {
                Some(header) => header,
                None => return Flow::Continue(()),
            },
            _ => header,
        };
        match header.opcode {
            Opcode::Message => self.serve_message(header).await,
            Opcode::Query => Box::pin(self.serve_query(header)).await,
            Opcode::Reply | Opcode::Compressed => self.malformed("a reply from a client"),
        }
    }

    /// Puts the message that a compressed one holds in its place; nothing, if there was no room for it.
    async fn unpack(&mut self, header: Header) -> Flow<Option<Header>> {
        let size = length_at(self.intake.pending(), HEADER_BYTES + 4).unwrap_or_default();
        if size > FREE_BYTES && self.member.is_some() {
            self.place = None;
            let wanted = size.min(MESSAGE_BYTES_MAX) + header.length;
            if !self.take_place(header, wanted).await? {
                return Flow::Continue(None);
            }
        }
        let bytes = self.intake.pending().get(..header.length);
        let bytes = bytes.unwrap_or_default().to_vec();
        let length_max = self.length_max();
        let unpacking = move || unpack(&bytes, &header, length_max);
        let unpacked = if header.length > PACKED_HERE_BYTES_MAX {
            let unpacked = spawn_blocking(unpacking).await;
            unpacked.unwrap_or(Err(WireFault::Layout("unpacking broke off")))
        } else {
            unpacking()
        };
        let unpacked = match unpacked {
            Ok(unpacked) => unpacked,
            Err(fault) => return self.malformed(&fault.to_string()),
        };
        self.reply_by = unpacked.compressor;
        self.intake.replace(header.length, unpacked.message);
        match Header::parse(self.intake.pending(), length_max) {
            Ok(Some(header)) => Flow::Continue(Some(header)),
            _ => self.malformed("a compressed message without a header"),
        }
    }

    /// Waits for room for a large request; false: there was none, and it is refused.
    async fn take_place(&mut self, header: Header, bytes: usize) -> Flow<bool> {
        let Some(member) = &self.member else {
            return Flow::Continue(false);
        };
        let servers = Arc::clone(&member.servers);
        let wait_max = servers.tenant().limits.queue_wait_max;
        self.place = match self.attend(servers.room.take(bytes, wait_max)).await {
            Ok(place) => place,
            Err(interrupt) => return Flow::Break(interrupt.end()),
        };
        if self.place.is_some() {
            return Flow::Continue(true);
        }
        let refusal = Refusal::QueueTimeout { waited: wait_max };
        self.service.meters().fault(refusal.kind(), refusal.side());
        let error = ErrorReply::of(&refusal, Standing::Plain);
        self.turn_down(header, error).await.map_continue(|()| false)
    }

    const fn length_max(&self) -> usize {
        match self.member {
            Some(_) => MESSAGE_BYTES_MAX,
            None => LOGIN_BYTES_MAX,
        }
    }

    /// How long the next request may take of a client that is not logged in.
    fn stranger_wait_max(&self) -> Option<Duration> {
        if self.member.is_some() {
            None
        } else if self.is_greeted && !self.conversation.is_begun() {
            Some(MONITOR_QUIET_MAX)
        } else {
            Some(LOGIN_WAIT_MAX)
        }
    }

    /// Waits until the next request can be judged.
    async fn next_request(&mut self) -> Flow<Header> {
        loop {
            let known = self.intake.pending();
            let length_max = self.length_max();
            let judged = Header::parse(known, length_max).and_then(|header| {
                let Some(header) = header else {
                    return Ok((None, HEADER_BYTES));
                };
                judged_bytes(known, &header).map(|needed| (Some(header), needed))
            });
            let missing = match judged {
                Err(fault) => {
                    return self.malformed(&fault.to_string());
                }
                Ok((Some(header), needed)) if needed <= known.len() => {
                    return Flow::Continue(header);
                }
                Ok((Some(header), needed)) if needed > FREE_BYTES && self.place.is_none() => {
                    Box::pin(self.take_place(header, needed)).await?;
                    continue;
                }
                Ok((_, needed)) => needed.saturating_sub(known.len()),
            };
            if known.is_empty() {
                self.intake.release(KEPT_BYTES);
                self.wait_for_bytes().await?;
            } else {
                self.read_more(missing).await?;
            }
        }
    }

    /// Between requests: as long as it takes.
    async fn wait_for_bytes(&mut self) -> Flow {
        poll_fn(|context| self.poll_bytes(context)).await
    }

    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Flow> {
        match self.intake.poll_fill(context, &mut self.client, 0) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Flow::Break(SessionEnd::Goodbye)),
            Poll::Ready(Ok(_)) => Poll::Ready(Flow::Continue(())),
            Poll::Pending => self.ending.poll_idle(context).map(Flow::Break),
        }
    }

    /// Inside a request: a client that stands still for long is given up.
    pub(super) async fn read_more(&mut self, missing: usize) -> Flow {
        let fill = self.intake.fill(&mut self.client, missing);
        match timeout(PARTIAL_WAIT_MAX, fill).await {
            Ok(Ok(0) | Err(_)) => Flow::Break(SessionEnd::Vanished),
            Ok(Ok(_)) => Flow::Continue(()),
            Err(_) => Flow::Break(SessionEnd::Limit),
        }
    }
    /// Takes a whole message off the intake, reading what is missing of it.
    pub(super) async fn skip(&mut self, length: usize) -> Flow {
        let mut rest = length;
        loop {
            let here = self.intake.pending().len().min(rest);
            self.intake.consume(here);
            rest -= here;
            if rest == 0 {
                return Flow::Continue(());
            }
            self.read_more(rest).await?;
        }
    }

    pub(super) async fn refuse(&mut self, request: i32, error: &ErrorReply) -> Flow {
        tracing::debug!(code = error.code(), peer = %self.client.peer(), "request refused");
        let body = error.document(&self.service.topology);
        self.answer(request, 0, &body).await
    }

    async fn answer(&mut self, request: i32, flags: u32, body: &RawDocumentBuf) -> Flow {
        self.answer_as(request, flags, body)
            .await
            .map_continue(|_| ())
    }

    /// Answers, and tells the number that the answer bears.
    async fn answer_as(&mut self, request: i32, flags: u32, body: &RawDocumentBuf) -> Flow<i32> {
        let id = self.reply_id();
        let mut reply = Vec::new();
        encode_message(&mut reply, id, request, flags, body.as_bytes());
        self.send(&reply).await?;
        Flow::Continue(id)
    }

    async fn send(&mut self, reply: &[u8]) -> Flow {
        match outlet::write_all(&mut self.client, reply).await {
            Ok(()) => Flow::Continue(()),
            Err(_) => Flow::Break(SessionEnd::Vanished),
        }
    }

    fn reply_id(&mut self) -> i32 {
        self.next_reply = self.next_reply.wrapping_add(1) & i32::MAX;
        self.next_reply
    }

    /// A real server closes the connection without a word; so do we.
    pub(super) fn malformed<T>(&self, what: &str) -> Flow<T> {
        tracing::debug!(peer = %self.client.peer(), what, "malformed message");
        self.service
            .meters()
            .fault(FaultKind::Malformed, Side::Client);
        Flow::Break(SessionEnd::Malformed)
    }

    /// Counts one exchange.
    pub(super) fn count(&mut self, read_bytes: usize, written_bytes: usize) {
        let (read, written) = (read_bytes as u64, written_bytes as u64);
        self.tally.exchanges += 1;
        self.tally.read_bytes += read;
        self.tally.written_bytes += written;
        if let Some(member) = &self.member {
            member.admitted.seat.count(1, read, written);
        }
        if self.tally.exchanges >= COUNTED_TOGETHER {
            self.publish();
        }
    }

    /// Adds what was counted to the counters of all.
    fn publish(&mut self) {
        let Tally {
            exchanges,
            read_bytes,
            written_bytes,
        } = std::mem::take(&mut self.tally);
        let meters = self.service.meters();
        meters.exchanges(u64::from(exchanges));
        meters.bytes(Side::Client, read_bytes, written_bytes);
        meters.bytes(Side::Upstream, written_bytes, read_bytes);
    }
}
