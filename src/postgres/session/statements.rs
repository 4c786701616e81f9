//! The messages that prepare, bind, describe and close statements: by the client's names outside,
//! by the statements' own on the upstream.

use std::sync::Arc;

use super::{
    Run, Session, Stop,
    meaning::Provided,
    names::{Names, unprepared},
    requests::{Step, malformed},
};
use crate::postgres::{
    exchange::{Act, Reply, Undo},
    prepared::{Form, NAME_PREFIX},
    refusal,
    statement::Facts,
    wire::{self, Frame},
};

/// The head of a Bind that must be seen whole: two names.
const NAMES_BYTES_MAX: usize = 64 * 1024;
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
            let Some(facts) = self.scan_here(parse.text) else {
                return Ok(Step::Wait);
            };
            return Ok(self.parse_unnamed(frame, facts));
        }
        let name: Box<[u8]> = parse.name.into();
        if !self.is_sure(&name, Absence::Usual) {
            return Ok(Step::Wait);
        }
        if self.state.native {
            return Ok(self.parse_natively(frame, &name));
        }
        if self.statements.find(&name).is_some() {
            return Ok(self.parse_again(frame, &name));
        }
        if !self.has_room(parse.rest.len()) {
            let said = refusal::too_many_statements(self.service.settings.statements_max);
            return Ok(self.refuse_message(frame, said));
        }
        // What is being set counts for this text.
        if self.exchange.sets_parameters() {
            return Ok(Step::Wait);
        }
        let Some(statement) = self.identify_here(parse.text, parse.rest) else {
            return Ok(Step::Wait);
        };
        if let Err(refused) = self.permit(&statement.facts, b'P') {
            return Ok(self.refuse_message(frame, refusal::error_bytes(&refused)));
        }
        match self.settle_names(&statement.facts) {
            Names::Ready => {}
            Names::Wait => return Ok(Step::Wait),
            Names::Refused(said) => return Ok(self.refuse_message(frame, said)),
        }
        if self.state.native {
            return Ok(self.parse_natively(frame, &name));
        }
        let unit = self.exchange.unit();
        self.statements.insert(&name, Arc::clone(&statement), unit);
        if let Some(lease) = &mut self.lease {
            self.client
                .inbound
                .skip(frame.bytes, &mut lease.upstream.peer.out);
        }
        let before = self.exchange.outstanding();
        self.load(&statement, None);
        let sent = self.exchange.outstanding() > before;
        let (asked, asked_name) = (Arc::clone(&statement), name.clone());
        let undo = Undo::Prepare {
            name,
            statement,
            sent,
        };
        if sent {
            self.exchange.claim_last(undo);
            self.ask_under(&asked);
            self.ask_shape(&asked, Undo::Shape(Arc::clone(&asked), Some(asked_name)));
        } else {
            self.trust_or_try(&asked, &asked_name);
            self.exchange
                .expect(Reply::Made, Act::Say(PARSE_COMPLETE), undo);
            self.exchange.begin_unit();
        }
        Ok(Step::Done)
    }

    /// A Parse of a name that is taken: the server says so only once it has looked at the text.
    fn parse_again(&mut self, frame: Frame, name: &[u8]) -> Step {
        let unseen = self.client.inbound.unseen();
        let parse = frame.body(unseen).and_then(wire::parse);
        if let Some(rest) = parse.map(|parse| parse.rest.to_vec()) {
            self.try_text(&rest, None);
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
        if self.state.native {
            return true;
        }
        if self.exchange.takes_names() {
            return false;
        }
        match (self.statements.unit_of(name), absence) {
            (Some(unit), _) => self.exchange.is_settled(unit),
            (None, Absence::Usual) => !self.exchange.has_open_closes(),
            (None, Absence::Strange) => self.exchange.is_first_unit(),
        }
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
        if self.state.native {
            let (portal, name) = (bind.portal.to_vec(), bind.statement.to_vec());
            return Ok(self.bind_natively(frame, &portal, &name));
        }
        let head = wire::HEADER_BYTES + bind.names_bytes();
        let tail = frame
            .bytes
            .checked_sub(head)
            .ok_or_else(|| malformed("invalid Bind message"))?;
        let found = self.statements.find_named(bind.statement);
        let Some((name, statement)) = found.map(|(name, found)| (name.clone(), found.clone()))
        else {
            let strange = bind.statement.to_vec();
            return Ok(self.bind_strange(frame, &strange));
        };
        if statement.form == Form::Sql {
            return Ok(self.refuse_run(frame, unprepared()));
        }
        let portal = bind.portal.to_vec();
        match self.settle_names(&statement.facts) {
            Names::Ready => {}
            Names::Wait => return Ok(Step::Wait),
            Names::Refused(said) => return Ok(self.refuse_run(frame, said)),
        }
        self.open_portal(&portal, &statement.facts);
        if self.state.native {
            return Ok(self.bind_natively(frame, &portal, &name));
        }
        let statement = match self.provide(&name, statement) {
            Provided::Here(statement) => statement,
            Provided::Wait => return Ok(Step::Wait),
            Provided::Refused(said) => return Ok(self.refuse_run(frame, said)),
        };
        let verdict = self.judge_statement(&statement);
        self.note(&statement.facts);
        self.weigh(verdict);
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

    /// A Bind of a name that the client has not given.
    fn bind_strange(&mut self, frame: Frame, name: &[u8]) -> Step {
        if name.starts_with(NAME_PREFIX.as_bytes()) {
            return self.refuse_run(frame, refusal::unknown_statement(name));
        }
        // The upstream does not know it either, and says so as it should be said.
        self.forget_strange(name);
        self.forward(frame, Reply::Bind)
    }

    /// As [`Self::refuse_message`], for a message of which the rest may still be to come.
    pub(super) fn refuse_run(&mut self, frame: Frame, said: Box<[u8]>) -> Step {
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
            if !self.is_unnamed_sure() {
                return Ok(Step::Wait);
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
        if self.state.native {
            if reply == Reply::Describe && self.is_out_of_date(&name, &Facts::default()) {
                return Ok(self.refuse_message(frame, refusal::changed_columns()));
            }
            return Ok(match reply {
                Reply::Close => self.close_natively(frame, &name),
                _ => self.forward(frame, reply),
            });
        }
        if reply == Reply::Describe {
            return Ok(self.describe(frame, &name));
        }
        let undo = match self.statements.remove(&name) {
            Some(statement) => {
                self.unload(&statement);
                Undo::Close { name, statement }
            }
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
                self.forget_strange(name);
                return self.forward(frame, Reply::Describe);
            }
            return self.refuse_message(frame, refusal::unknown_statement(name));
        };
        if statement.form == Form::Sql {
            return self.refuse_message(frame, unprepared());
        }
        match self.settle_names(&statement.facts) {
            Names::Ready => {}
            Names::Wait => return Step::Wait,
            Names::Refused(said) => return self.refuse_message(frame, said),
        }
        if self.state.native {
            return self.forward(frame, Reply::Describe);
        }
        if let Some(step) = self.describe_here(frame, &name) {
            return step;
        }
        let statement = match self.provide(&name, statement) {
            Provided::Here(statement) => statement,
            Provided::Wait => return Step::Wait,
            Provided::Refused(said) => return self.refuse_message(frame, said),
        };
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
