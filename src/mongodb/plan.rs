//! How one request is passed on: what is changed in it, and what its ending means.

use std::{ops::Range, sync::Arc, time::Duration};

use super::{
    answers,
    commands::{Class, Command},
    cursors::{Cursor, Tempo},
    deadline::Deadline,
    policy::Grant,
    preference::{Mode, Preference},
    refusal::{ErrorReply, Standing},
    repeat::{REPEATS_MAX, Refused},
    servers::{Route, Server},
    sessions::{Edits, Id, Scope},
    transactions::Transaction,
    wire::{
        Body, EXHAUST_ALLOWED, Element, Elements, Header, Message, WireFault, clear_flag,
        encode_message, lower_integer, remove_fields, with_integer,
    },
};

/// Commands that must not be compressed, of those that are passed on at all.
const UNPACKED: [&[u8]; 5] = [
    b"createUser",
    b"updateUser",
    b"copydb",
    b"copydbgetnonce",
    b"copydbsaslstart",
];

/// What becomes of an operation whose client vanished; measured on a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aftermath {
    /// A read ends when its connection closes.
    Close,
    /// A getMore does not: its cursor is killed over another connection.
    KillCursor,
    /// Whatever changes something is let to its end.
    Finish,
}

/// The cursor that a request goes on with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Continued {
    /// Its id.
    pub(super) id: i64,
    /// Whether the request waits for data.
    pub(super) tempo: Tempo,
}

/// How a request is passed on.
pub(super) struct Plan {
    /// The header as sent on.
    pub(super) header: Header,
    /// Whether the client waits for a reply.
    pub(super) wants_reply: bool,
    /// What its refusal would have to say.
    pub(super) standing: Standing,
    /// What happens when the client vanishes.
    pub(super) aftermath: Aftermath,
    /// Sent instead of the client's bytes.
    pub(super) rewritten: Option<Vec<u8>>,
    /// Whether it may be compressed: what bears a password must not be.
    pub(super) may_pack: bool,
    /// Which server it has to go to.
    pub(super) route: Route,
    /// The cursor that it goes on with.
    pub(super) cursor: Option<Continued>,
    /// The cursors that it closes.
    pub(super) killed: Vec<i64>,
    /// How long the client would have it wait.
    pub(super) asked_wait: Option<Duration>,
    /// What the cursor that it opens will be like.
    pub(super) opens: Tempo,
    /// The transaction that it is a statement of.
    pub(super) transaction: Option<Transaction>,
    /// When it has to be done.
    pub(super) deadline: Option<Box<Deadline>>,
    /// How often it was sent again.
    pub(super) repeats: u8,
    /// What it was refused with before it was sent again.
    pub(super) refused: Option<Box<Refused>>,
    body_at: Range<usize>,
    /// Its session ids as the server will know them.
    sessions: Edits,
    /// Fields that a standalone server refuses, ascending.
    retry_fields: [Option<Range<usize>>; 2],
    /// Where a getMore's `maxTimeMS` is in the message.
    await_at: Option<Range<usize>>,
    allows_exhaust: bool,
    passed_bytes: usize,
}

impl Plan {
    /// The plan of a request that policy lets pass.
    pub(super) fn new(
        header: &Header,
        message: &Message<'_>,
        command: Command,
        grant: Grant<'_>,
        scope: &Scope,
    ) -> Result<Self, ErrorReply> {
        let body = &message.body;
        let sessions = scope.edits(body)?;
        let name = body.command();
        let is_retryable = body.transaction_number.is_some() && !body.in_transaction;
        let mut retry_fields = [None, None];
        if is_retryable {
            retry_fields = [body.transaction_number.clone(), body.statement_id.clone()];
            retry_fields.sort_by_key(|field| field.as_ref().map(|field| field.start));
        }
        let is_get_more = name == b"getMore";
        let await_at = body.time_max.as_ref().filter(|_| is_get_more);
        let confines = command.class == Class::Listing && grant.is_confined();
        let rewritten = confines
            .then(|| confined(header, message, grant, scope))
            .transpose()?;
        let deadline = match &rewritten {
            None => Deadline::of(body, message.body_at.start),
            Some(bytes) => deadline_of(bytes),
        };
        Ok(Self {
            header: *header,
            wants_reply: message.wants_reply(),
            standing: match name {
                b"commitTransaction" | b"abortTransaction" => Standing::EndsTransaction,
                _ if body.in_transaction => Standing::InTransaction,
                _ if is_retryable => Standing::Retryable,
                _ if is_get_more => Standing::OfCursor,
                _ => Standing::Plain,
            },
            aftermath: match command.class {
                Class::Read | Class::Listing | Class::Handshake => Aftermath::Close,
                Class::Cursor if is_get_more => Aftermath::KillCursor,
                Class::Cursor
                | Class::Session
                | Class::Write
                | Class::Define
                | Class::Administer
                | Class::Internal => Aftermath::Finish,
            },
            rewritten,
            may_pack: !UNPACKED.contains(&name),
            route: route_of(body, command),
            cursor: None,
            killed: Vec::new(),
            asked_wait: await_at.and_then(asked_wait),
            opens: tempo_of(body),
            transaction: body
                .in_transaction
                .then(|| Transaction::of(body, &sessions))
                .flatten(),
            deadline,
            repeats: 0,
            refused: None,
            sessions,
            body_at: message.body_at.clone(),
            retry_fields,
            await_at: await_at.map(|field| {
                let body_at = message.body_at.start;
                body_at + field.range.start..body_at + field.range.end
            }),
            allows_exhaust: message.allows_exhaust(),
            passed_bytes: 0,
        })
    }

    /// Makes it the request of that cursor's next batch.
    pub(super) fn go_on(&mut self, id: i64, cursor: Cursor) {
        let tempo = cursor.tempo;
        self.cursor = Some(Continued { id, tempo });
        self.route = Route::Server(cursor.server);
    }

    /// Whether it waits for data.
    pub(super) fn waits(&self) -> bool {
        self.cursor
            .is_some_and(|cursor| cursor.tempo == Tempo::Awaiting)
    }

    /// Whether its reply may bear events of other sessions' transactions.
    pub(super) fn hears_of_sessions(&self) -> bool {
        self.waits() || self.opens == Tempo::Awaiting
    }

    /// The server of the cursor that it goes on with.
    pub(super) fn cursor_server(&self) -> Option<Arc<Server>> {
        match &self.route {
            Route::Server(server) => Some(Arc::clone(server)),
            Route::Primary | Route::Read(_) => None,
        }
    }

    /// Puts in how long the server may wait for data.
    pub(super) fn set_wait(&mut self, message: &[u8], wait: Duration) {
        // Zero would mean the server's own default.
        let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX).max(1);
        let whole = message.get(..self.header.length).unwrap_or_default();
        self.rewritten = match &self.await_at {
            Some(field) => {
                let mut copy = whole.to_vec();
                lower_integer(&mut copy, field, i64::from(millis));
                Some(copy)
            }
            None => Some(with_integer(whole, &self.body_at, "maxTimeMS", millis)),
        };
    }

    /// The id of its session as the server will know it, and as the client does.
    pub(super) fn session_ids(&self) -> Option<(Id, Id)> {
        self.sessions.ids()
    }

    /// Edits the request in place where every upstream needs it.
    pub(super) fn edit(&mut self, message: &mut [u8]) {
        self.sessions.apply(message, &self.body_at);
        if std::mem::take(&mut self.allows_exhaust) {
            // Replies then come one by one, which is always legal.
            clear_flag(message, EXHAUST_ALLOWED);
        }
    }

    /// Takes out what a standalone server refuses every write for. The request then begins that
    /// many bytes later.
    pub(super) fn strip_retry_fields(&mut self, message: &mut [u8]) -> usize {
        let fields = std::mem::take(&mut self.retry_fields);
        let removed = remove_fields(message, &self.body_at, fields.iter().flatten());
        if removed == 0 {
            return 0;
        }
        self.header.length -= removed;
        // Sent twice it would run twice, so drivers must not be told to.
        self.standing = Standing::Plain;
        if let Some(deadline) = &mut self.deadline {
            let at = deadline.field().start - self.body_at.start;
            let before = fields.iter().flatten().filter(|field| field.start < at);
            deadline.shift(before.map(ExactSizeIterator::len).sum());
        }
        removed
    }

    /// Notes that bytes of the request are with the upstream and off the intake.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.passed_bytes += bytes;
    }

    /// Bytes of the request that are not off the intake.
    pub(super) const fn left_bytes(&self) -> usize {
        self.header.length - self.passed_bytes
    }

    /// Whether it may be sent again when a server refuses it for no longer being what it was: a read, or what runs once
    /// however often it is sent.
    pub(super) fn may_repeat(&self) -> bool {
        let is_safe = match self.standing {
            Standing::Retryable => true,
            Standing::Plain => self.aftermath == Aftermath::Close,
            Standing::InTransaction | Standing::EndsTransaction | Standing::OfCursor => false,
        };
        is_safe && self.repeats < REPEATS_MAX && !self.is_partly_gone()
    }

    /// Whether the request can no longer be sent from its beginning.
    pub(super) const fn is_partly_gone(&self) -> bool {
        self.passed_bytes > 0
    }
}

/// Where a command may go: reads where the client wants them, all others to who takes writes.
fn route_of(body: &Body<'_>, command: Command) -> Route {
    let reads = matches!(command.class, Class::Read | Class::Listing) && !body.in_transaction;
    match &body.read_preference {
        Some(field) if reads => match Preference::read(field) {
            preference if preference.mode == Mode::Primary => Route::Primary,
            preference => Route::Read(Box::new(preference)),
        },
        _ => Route::Primary,
    }
}

/// The deadline of a request that was written anew.
fn deadline_of(message: &[u8]) -> Option<Box<Deadline>> {
    let body = Body::scan(message.get(Message::REPLY_BODY_AT..)?).ok()?;
    Deadline::of(&body, Message::REPLY_BODY_AT)
}

fn asked_wait(field: &Element<'_>) -> Option<Duration> {
    let millis = u64::try_from(field.integer()?).ok()?;
    Some(Duration::from_millis(millis))
}

/// What the cursor of a command will be like.
fn tempo_of(body: &Body<'_>) -> Tempo {
    let awaits = match body.command() {
        b"find" => body.awaits_data,
        b"aggregate" => is_change_stream(body),
        _ => false,
    };
    if awaits {
        Tempo::Awaiting
    } else {
        Tempo::Prompt
    }
}

/// A change stream is a pipeline's first stage.
fn is_change_stream(body: &Body<'_>) -> bool {
    let first = || {
        let pipeline = body.field("pipeline")?;
        let stage = Elements::new(pipeline.document()?).ok()?.next()?.ok()?;
        let operator = Elements::new(stage.document()?).ok()?.next()?.ok()?;
        Some(operator.name == b"$changeStream")
    };
    first().unwrap_or(false)
}

/// A listing that shows the login its own databases only.
fn confined(
    header: &Header,
    message: &Message<'_>,
    grant: Grant<'_>,
    scope: &Scope,
) -> Result<Vec<u8>, ErrorReply> {
    let body = answers::confined_listing(message.body.bytes(), grant)
        .ok_or_else(|| ErrorReply::of_wire(&WireFault::Bson("not a document")))?;
    let mut out = Vec::new();
    encode_message(&mut out, header.request_id, 0, 0, body.as_bytes());
    let body = Body::scan(body.as_bytes()).map_err(|fault| ErrorReply::of_wire(&fault))?;
    let body_at = Message::REPLY_BODY_AT..out.len();
    scope.edits(&body)?.apply(&mut out, &body_at);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, rawdoc};

    use super::*;
    use crate::{
        mongodb::{commands::Commands, wire::MESSAGE_BYTES_MAX},
        tenant::{Role, TenantId},
    };

    fn plan(bytes: &[u8]) -> Plan {
        let header = Header::parse(bytes, MESSAGE_BYTES_MAX).unwrap().unwrap();
        let message = Message::parse(bytes, &header).unwrap();
        let command = Commands::new().find(message.body.command()).unwrap();
        let grant = Grant {
            role: Role::Write,
            database: None,
        };
        let scope = Scope::new(TenantId(uuid::Uuid::nil()), "me.docs");
        Plan::new(&header, &message, command, grant, &scope).unwrap()
    }

    fn encoded(flags: u32, body: &RawDocumentBuf) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_message(&mut bytes, 1, 0, flags, body.as_bytes());
        bytes
    }

    #[test]
    fn retry_fields_go_and_with_them_the_right_to_repeat() {
        let mut bytes = encoded(
            0,
            &rawdoc! { "insert": "c", "txnNumber": 1_i64, "$db": "app" },
        );
        let mut plan = plan(&bytes);
        assert_eq!(plan.standing, Standing::Retryable);
        let removed = plan.strip_retry_fields(&mut bytes);
        assert_eq!(
            bytes[removed..],
            encoded(0, &rawdoc! { "insert": "c", "$db": "app" })
        );
        assert_eq!(plan.left_bytes(), bytes.len() - removed);
        assert_eq!(plan.standing, Standing::Plain);
        assert_eq!(plan.strip_retry_fields(&mut bytes), 0);
    }

    #[test]
    fn time_limit_is_found_again_after_fields_have_gone() {
        let before = rawdoc! { "insert": "c", "maxTimeMS": 9, "stmtId": 1, "txnNumber": 1_i64, "$db": "app" };
        let between = rawdoc! { "insert": "c", "stmtId": 1, "maxTimeMS": 9, "txnNumber": 1_i64, "$db": "app" };
        let after = rawdoc! { "insert": "c", "stmtId": 1, "txnNumber": 1_i64, "maxTimeMS": 9, "$db": "app" };
        for body in [before, between, after] {
            let mut bytes = encoded(0, &body);
            let mut plan = plan(&bytes);
            let removed = plan.strip_retry_fields(&mut bytes);
            let sent = &bytes[removed..];
            let element = &sent[plan.deadline.unwrap().field().clone()];
            assert_eq!(element, b"\x10maxTimeMS\0\x09\0\0\0");
        }
    }

    #[test]
    fn statements_of_transactions_stay_whole() {
        let body = rawdoc! {
            "insert": "c", "txnNumber": 1_i64, "autocommit": false, "$db": "app",
        };
        let mut bytes = encoded(0, &body);
        let mut plan = plan(&bytes);
        assert_eq!(plan.standing, Standing::InTransaction);
        assert_eq!(plan.strip_retry_fields(&mut bytes), 0);
    }

    #[test]
    fn waits_are_clamped_and_streams_of_replies_declined() {
        let body = |millis: i64| {
            rawdoc! { "getMore": 7_i64, "collection": "c", "maxTimeMS": millis, "$db": "app" }
        };
        for (asked, sent) in [(60_000_i64, 1000), (200, 200)] {
            let mut bytes = encoded(EXHAUST_ALLOWED, &body(asked));
            let mut plan = plan(&bytes);
            assert_eq!(plan.aftermath, Aftermath::KillCursor);
            assert_eq!(plan.standing, Standing::OfCursor);
            assert_eq!(
                plan.asked_wait,
                Some(Duration::from_millis(asked.unsigned_abs()))
            );
            plan.edit(&mut bytes);
            plan.set_wait(&bytes, Duration::from_secs(1));
            assert_eq!(plan.rewritten, Some(encoded(0, &body(sent))));
        }
        let silent = rawdoc! { "getMore": 7_i64, "collection": "c", "$db": "app" };
        let mut bytes = encoded(0, &silent);
        let mut plan = plan(&bytes);
        plan.edit(&mut bytes);
        plan.set_wait(&bytes, Duration::from_millis(25));
        let told = rawdoc! { "getMore": 7_i64, "collection": "c", "$db": "app", "maxTimeMS": 25 };
        assert_eq!(plan.rewritten, Some(encoded(0, &told)));
    }

    #[test]
    fn only_reads_outside_transactions_leave_the_primary() {
        let wants = rawdoc! { "mode": "secondary" };
        let is_read = |mut body: RawDocumentBuf| {
            body.append(bson::cstr!("$readPreference"), wants.clone());
            body.append(bson::cstr!("$db"), "app");
            matches!(plan(&encoded(0, &body)).route, Route::Read(_))
        };
        assert!(is_read(rawdoc! { "find": "c" }));
        assert!(!is_read(rawdoc! { "insert": "c" }));
        assert!(!is_read(
            rawdoc! { "find": "c", "txnNumber": 1_i64, "autocommit": false }
        ));
    }

    #[test]
    fn cursors_that_will_wait_are_known_when_they_are_opened() {
        let opens = |mut body: RawDocumentBuf| {
            body.append(bson::cstr!("$db"), "app");
            plan(&encoded(0, &body)).opens == Tempo::Awaiting
        };
        assert!(opens(
            rawdoc! { "aggregate": "c", "pipeline": [{ "$changeStream": {} }] }
        ));
        assert!(!opens(
            rawdoc! { "aggregate": "c", "pipeline": [{ "$match": {} }] }
        ));
        assert!(opens(
            rawdoc! { "find": "c", "tailable": true, "awaitData": true }
        ));
        assert!(!opens(rawdoc! { "find": "c", "tailable": true }));
    }
}
