//! The messages that prepare, bind, describe and close statements: by the client's names outside,
//! by the statements' own on the upstream.

use std::sync::Arc;

use bytes::BytesMut;

use super::{
    Run, Session, Stop,
    names::Names,
    requests::{Step, malformed},
};
use crate::postgres::{
    exchange::{Act, Reply, Undo},
    held::Presence,
    prepared::{Form, NAME_PREFIX, Statement, upstream_name},
    refusal,
    statement::{Facts, scan},
    upstream::Upstream,
    wire::{self, Frame},
};

/// The head of a Bind that must be seen whole: two names.
const NAMES_BYTES_MAX: usize = 64 * 1024;
/// The name of a statement that is only tried.
const TRIED: &[u8] = b"pp?tried";
/// `ParseComplete` and `CloseComplete`.
pub(super) const COMPLETIONS: [&[u8]; 2] = [PARSE_COMPLETE, CLOSE_COMPLETE];
const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";
const CLOSE_COMPLETE: &[u8] = b"3\0\0\0\x04";

/// What it means that a client's name is not known.
#[derive(Clone, Copy)]
enum Absence {
    /// It is about to be given.
    Usual,
    /// It is used all the same.
    Strange,
}

impl Session {
    pub(super) fn parse(&mut self, frame: Frame) -> Result<Step, Stop> {
        let Some(body) = frame.body(self.client.inbound.unseen()) else {
            return Ok(Step::Incomplete);
        };
        let parse = wire::parse(body).ok_or_else(|| malformed("invalid Parse message"))?;
        if parse.name.is_empty() {
            let facts = scan(parse.text);
            return Ok(self.parse_unnamed(frame, facts));
        }
        let name: Box<[u8]> = parse.name.into();
        if !self.is_sure(&name, Absence::Usual) {
            return Ok(Step::Wait);
        }
        if self.statements.find(&name).is_some() {
            return Ok(self.parse_again(frame, &name));
        }
        if !self.has_room(parse.rest.len()) {
            let said = refusal::too_many_statements(self.service.settings.statements_max);
            return Ok(self.refuse_message(frame, said));
        }
        let dialect = self.wanted.dialect();
        let statement = self.tenancy.catalogue.find(dialect, parse.text, parse.rest);
        if let Err(refused) = self.permit(&statement.facts, b'P') {
            return Ok(self.refuse_message(frame, refusal::error_bytes(&refused)));
        }
        match self.settle_names(&statement.facts) {
            Names::Ready => {}
            Names::Wait => return Ok(Step::Wait),
            Names::Refused(said) => return Ok(self.refuse_message(frame, said)),
        }
        let unit = self.exchange.unit();
        self.statements.insert(&name, Arc::clone(&statement), unit);
        if let Some(lease) = &mut self.lease {
            self.client
                .inbound
                .skip(frame.bytes, &mut lease.upstream.peer.out);
        }
        let before = self.exchange.outstanding();
        self.load(&statement);
        let sent = self.exchange.outstanding() > before;
        let undo = Undo::Prepare {
            name,
            statement,
            sent,
        };
        if sent {
            self.exchange.claim_last(undo);
        } else {
            self.exchange
                .expect(Reply::Made, Act::Say(PARSE_COMPLETE), undo);
            self.exchange.begin_unit();
        }
        Ok(Step::Done)
    }

    fn parse_unnamed(&mut self, frame: Frame, facts: Facts) -> Step {
        if facts.names_statements() && !self.exchange.is_first_unit() {
            return Step::Wait;
        }
        if let Err(refused) = self.permit(&facts, b'P') {
            return self.refuse_message(frame, refusal::error_bytes(&refused));
        }
        match self.settle_names(&facts) {
            Names::Ready => {}
            Names::Wait => return Step::Wait,
            Names::Refused(said) => return self.refuse_message(frame, said),
        }
        let parse = frame
            .body(self.client.inbound.unseen())
            .and_then(wire::parse);
        let rest = parse.map_or(&[0; 3][..], |parse| parse.rest);
        // Skipped after an error, it leaves the one before as it was.
        let open = self.exchange.is_unit_open();
        let before = open.then(|| self.statements.take_unnamed()).flatten();
        let unit = self.exchange.unit();
        let serial = self.statements.set_unnamed(rest, facts, unit);
        if let Some(lease) = &mut self.lease {
            lease.upstream.unnamed = Some((self.seat.id(), serial));
        }
        let undo = Undo::Unnamed {
            serial,
            own: true,
            before: before.map(Box::new),
        };
        self.exchange.expect(Reply::Parse, Act::Forward, undo);
        self.pass(frame)
    }

    /// A Parse of a name that is taken: the server says so only once it has looked at the text.
    fn parse_again(&mut self, frame: Frame, name: &[u8]) -> Step {
        let unseen = self.client.inbound.unseen();
        let parse = frame.body(unseen).and_then(wire::parse);
        if let (Some(parse), Some(lease)) = (parse, &mut self.lease) {
            let mut tried = BytesMut::new();
            wire::parse_with_name(&mut tried, TRIED, parse.rest);
            wire::close_statement(&mut tried, TRIED);
            let out = &mut lease.upstream.peer.out;
            self.client.inbound.settle(out);
            out.extend_from_slice(&tried);
            for reply in [Reply::Parse, Reply::Close] {
                self.exchange.expect(reply, Act::Swallow, Undo::Nothing);
            }
        }
        self.refuse_message(frame, refusal::duplicate_statement(name))
    }

    /// Whether the client may hold another statement.
    pub(super) fn has_room(&self, more_bytes: usize) -> bool {
        let settings = &self.service.settings;
        let (count, bytes) = self.statements.size();
        count < settings.statements_max && bytes + more_bytes <= settings.statements_bytes_max
    }

    /// Whether what a name means cannot change any more by an earlier unit's failure.
    fn is_sure(&self, name: &[u8], absence: Absence) -> bool {
        match (self.statements.unit_of(name), absence) {
            (Some(unit), _) => self.exchange.is_settled(unit),
            (None, Absence::Usual) => !self.exchange.has_open_closes(),
            (None, Absence::Strange) => self.exchange.is_first_unit(),
        }
    }

    /// Makes sure that the upstream has a statement; the answers are swallowed.
    pub(super) fn load(&mut self, statement: &Statement) {
        let Some(lease) = &mut self.lease else {
            return;
        };
        let Upstream {
            peer, statements, ..
        } = &mut lease.upstream;
        let unit = self.exchange.unit();
        match statements.presence(statement.id, unit) {
            Presence::Here => return,
            Presence::Absent => self.client.inbound.settle(&mut peer.out),
            Presence::Doubtful => {
                self.client.inbound.settle(&mut peer.out);
                wire::close_statement(&mut peer.out, statement.name.as_bytes());
                self.exchange
                    .expect(Reply::Close, Act::Swallow, Undo::Nothing);
            }
        }
        let max = self.service.settings.upstream_statements_max;
        if let Some(oldest) = statements.sent(statement.id, unit, max) {
            wire::close_statement(&mut peer.out, upstream_name(oldest).as_bytes());
            self.exchange
                .expect(Reply::Close, Act::Swallow, Undo::Evict(oldest));
        }
        wire::parse_with_name(&mut peer.out, statement.name.as_bytes(), &statement.rest);
        self.exchange
            .expect(Reply::Parse, Act::Swallow, Undo::Load(statement.id));
    }

    /// A Bind or Describe of the unnamed statement: makes sure that it is the client's own.
    fn use_unnamed(&mut self, frame: Frame, reply: Reply) -> Step {
        let Some(unnamed) = self.statements.unnamed() else {
            return self.refuse_run(frame, refusal::unknown_statement(b""));
        };
        // Where its Parse fails, the upstream may still have somebody else's.
        if !self.exchange.is_settled(unnamed.unit) {
            return Step::Wait;
        }
        let serial = unnamed.serial;
        let facts = unnamed.facts.clone();
        match self.settle_names(&facts) {
            Names::Ready => {}
            Names::Wait => return Step::Wait,
            Names::Refused(said) => return self.refuse_run(frame, said),
        }
        let (Some(lease), Some(unnamed)) = (&mut self.lease, self.statements.unnamed()) else {
            return Step::Done;
        };
        let upstream = &mut lease.upstream;
        let mine = Some((self.seat.id(), serial));
        if upstream.unnamed != mine {
            self.client.inbound.settle(&mut upstream.peer.out);
            wire::parse_with_name(&mut upstream.peer.out, b"", &unnamed.rest);
            upstream.unnamed = mine;
            self.statements.resend_unnamed(self.exchange.unit());
            let undo = Undo::Unnamed {
                serial,
                own: false,
                before: None,
            };
            self.exchange.expect(Reply::Parse, Act::Swallow, undo);
        }
        self.note(&facts);
        self.forward(frame, reply)
    }

    pub(super) fn bind(&mut self, frame: Frame) -> Result<Step, Stop> {
        let unseen = self.client.inbound.unseen();
        let there = unseen.get(wire::HEADER_BYTES..frame.bytes.min(unseen.len()));
        let there = there.unwrap_or_default();
        let Some(bind) = wire::bind(there) else {
            let whole = frame.body(unseen).is_some() || there.len() > NAMES_BYTES_MAX;
            return if whole {
                Err(malformed("invalid Bind message"))
            } else {
                Ok(Step::Incomplete)
            };
        };
        if bind.statement.is_empty() {
            let portal: Box<[u8]> = bind.portal.into();
            return Ok(self.bind_unnamed(frame, &portal));
        }
        if !self.is_sure(bind.statement, Absence::Strange) {
            return Ok(Step::Wait);
        }
        let head = wire::HEADER_BYTES + bind.names_bytes();
        let tail = frame
            .bytes
            .checked_sub(head)
            .ok_or_else(|| malformed("invalid Bind message"))?;
        let found = self.statements.find_named(bind.statement);
        let Some((name, statement)) = found.map(|(name, found)| (name.clone(), found.clone()))
        else {
            if !bind.statement.starts_with(NAME_PREFIX.as_bytes()) {
                // The upstream does not know it either, and says so as it should be said.
                let name = bind.statement.into();
                self.align_name(&name, &Act::Swallow);
                return Ok(self.forward(frame, Reply::Bind));
            }
            let said = refusal::unknown_statement(bind.statement);
            return Ok(self.refuse_run(frame, said));
        };
        let portal = bind.portal.to_vec();
        if statement.form == Form::Sql {
            self.align_name(&name, &Act::Swallow);
            self.open_portal(&portal, &Facts::default());
            self.note(&statement.facts);
            return Ok(self.forward(frame, Reply::Bind));
        }
        match self.settle_names(&statement.facts) {
            Names::Ready => {}
            Names::Wait => return Ok(Step::Wait),
            Names::Refused(said) => return Ok(self.refuse_run(frame, said)),
        }
        self.open_portal(&portal, &statement.facts);
        self.load(&statement);
        self.note(&statement.facts);
        let Some(lease) = &mut self.lease else {
            return Ok(Step::Done);
        };
        let out = &mut lease.upstream.peer.out;
        self.client.inbound.skip(head, out);
        wire::bind_with_name(out, &portal, &statement.name, tail)
            .ok_or_else(|| malformed("Bind message too long"))?;
        self.exchange
            .expect(Reply::Bind, Act::Forward, Undo::Use(statement.id, name));
        self.request = Run {
            left: tail,
            dropped: false,
        };
        Ok(Step::Done)
    }

    fn bind_unnamed(&mut self, frame: Frame, portal: &[u8]) -> Step {
        let step = self.use_unnamed(frame, Reply::Bind);
        let matters = |facts: &Facts| facts.deeds.is_some() || facts.change.is_some();
        let unnamed = self.statements.unnamed().map(|held| &held.facts);
        // On the usual way, nothing is copied.
        if matches!(step, Step::Done) && (!self.portals.is_empty() || unnamed.is_some_and(matters))
        {
            let facts = unnamed.cloned().unwrap_or_default();
            self.open_portal(portal, &facts);
        }
        step
    }

    /// As [`Self::refuse_message`], for a message of which the rest may still be to come.
    fn refuse_run(&mut self, frame: Frame, said: Box<[u8]>) -> Step {
        self.refuse_message(Frame { bytes: 0, ..frame }, said);
        self.request = Run {
            left: frame.bytes,
            dropped: true,
        };
        Step::Done
    }

    pub(super) fn describe_or_close(&mut self, frame: Frame) -> Result<Step, Stop> {
        let Some(body) = frame.body(self.client.inbound.unseen()) else {
            return Ok(Step::Incomplete);
        };
        let (kind, name) =
            wire::named(body).ok_or_else(|| malformed("invalid Describe or Close message"))?;
        let reply = if frame.tag == b'D' {
            Reply::Describe
        } else {
            Reply::Close
        };
        if kind == b'P' {
            return Ok(self.forward(frame, reply));
        }
        if name.is_empty() {
            if reply == Reply::Describe {
                return Ok(self.use_unnamed(frame, reply));
            }
            let before = self.statements.take_unnamed().map(Box::new);
            self.exchange
                .expect(reply, Act::Forward, Undo::CloseUnnamed(before));
            return Ok(self.pass(frame));
        }
        let name: Box<[u8]> = name.into();
        if !self.is_sure(&name, Absence::Strange) {
            return Ok(Step::Wait);
        }
        if reply == Reply::Describe {
            return Ok(self.describe(frame, &name));
        }
        let undo = match self.statements.remove(&name) {
            Some(statement) => Undo::Close { name, statement },
            None => Undo::Nothing,
        };
        if let Some(lease) = &mut self.lease {
            self.client
                .inbound
                .skip(frame.bytes, &mut lease.upstream.peer.out);
        }
        self.exchange
            .expect(Reply::Made, Act::Say(CLOSE_COMPLETE), undo);
        self.exchange.begin_unit();
        Ok(Step::Done)
    }

    fn describe(&mut self, frame: Frame, name: &[u8]) -> Step {
        let found = self.statements.find_named(name);
        let Some((name, statement)) = found.map(|(name, found)| (name.clone(), found.clone()))
        else {
            if !name.starts_with(NAME_PREFIX.as_bytes()) {
                self.align_name(&name.into(), &Act::Swallow);
                return self.forward(frame, Reply::Describe);
            }
            return self.refuse_message(frame, refusal::unknown_statement(name));
        };
        if statement.form == Form::Sql {
            self.align_name(&name, &Act::Swallow);
            return self.forward(frame, Reply::Describe);
        }
        match self.settle_names(&statement.facts) {
            Names::Ready => {}
            Names::Wait => return Step::Wait,
            Names::Refused(said) => return self.refuse_message(frame, said),
        }
        self.load(&statement);
        let Some(lease) = &mut self.lease else {
            return Step::Done;
        };
        let out = &mut lease.upstream.peer.out;
        self.client.inbound.skip(frame.bytes, out);
        wire::named_message(out, b'D', statement.name.as_bytes());
        self.exchange
            .expect(Reply::Describe, Act::Forward, Undo::Use(statement.id, name));
        Step::Done
    }
}
