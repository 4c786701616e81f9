//! What statements take and give: learned from the server, held against what their clients were told.
//!
//! A statement that would give other columns than when it was prepared is refused, as on the client's own
//! connection. Where it is prepared again the server would see nothing wrong, so it is looked at here. And
//! it would find other types for parameters, so it is told those that it found at first.

use std::sync::Arc;

use bytes::BytesMut;

use super::{Session, requests::Step};
use crate::postgres::{
    exchange::{Act, Exchange, FAILED, IDLE, Reply, Undo},
    held::Presence,
    prepared::{Form, Shape, Statement},
    refusal,
    statement::{Deed, Facts},
    wire::{self, Frame},
};

/// The name of a statement that is only tried.
const TRIED: &[u8] = b"pp?tried";

impl Session {
    /// Asks for the shape of a statement that was just prepared.
    pub(super) fn ask_shape(&mut self, statement: &Statement, undo: Undo) {
        if let Some(lease) = self.lease.as_mut().filter(|_| !statement.facts.borrows) {
            let out = &mut lease.upstream.peer.out;
            wire::named_message(out, b'D', statement.name.as_bytes());
            self.exchange.expect(Reply::Describe, Act::Swallow, undo);
        }
    }

    /// A Parse of what others have prepared, which this upstream has: the server is asked only if it may be
    /// of another mind. In a transaction that has failed it refuses; and definitions that were changed past
    /// the gateway are noticed in time.
    pub(super) fn trust_or_try(&mut self, statement: &Arc<Statement>, name: &[u8]) {
        let catalogue = &self.tenancy.catalogue;
        let works = self.exchange.status() != FAILED && self.exchange.is_first_unit();
        if catalogue.is_aged(statement) {
            let undo = Undo::Again(Arc::clone(statement), name.into());
            self.try_text(&statement.rest, Some(undo));
        } else if works {
            let epoch = catalogue.epoch();
            self.statements.believe(name, epoch);
        } else {
            self.try_text(&statement.rest, None);
        }
    }

    /// Prepares a text under a name of ours and closes it again; with `undo`, its shape is asked for as
    /// well.
    pub(super) fn try_text(&mut self, rest: &[u8], undo: Option<Undo>) {
        let Some(lease) = &mut self.lease else {
            return;
        };
        let out = &mut lease.upstream.peer.out;
        self.client.inbound.settle(out);
        // It was left there if describing it was given up.
        let mut ask = |reply, undo| self.exchange.expect(reply, Act::Swallow, undo);
        wire::close_statement(out, TRIED);
        ask(Reply::Close, Undo::Nothing);
        wire::parse_with_name(out, TRIED, rest);
        ask(Reply::Parse, Undo::Nothing);
        let describes = undo.is_some();
        if let Some(undo) = undo {
            wire::named_message(out, b'D', TRIED);
            ask(Reply::Describe, undo);
        }
        wire::close_statement(out, TRIED);
        ask(Reply::Close, Undo::Nothing);
        if describes {
            // Before it is used, it is known what it is.
            wire::data(out, b'H');
        }
    }

    /// The same of statements that the server has told of, under the client's own names.
    pub(super) fn ask_shapes(&mut self, found: Vec<(Arc<[u8]>, Arc<Statement>)>) {
        for (name, statement) in found {
            let Some(lease) = &mut self.lease else {
                return;
            };
            let out = &mut lease.upstream.peer.out;
            wire::named_message(out, b'D', &name);
            wire::data(out, b'S');
            let undo = Undo::Shape(statement, Some((*name).into()));
            self.exchange.expect(Reply::Describe, Act::Look, undo);
            self.exchange.expect(Reply::Sync, Act::Look, Undo::Nothing);
        }
    }

    /// The types of a statement's parameters where it is prepared again, if they are to be told. What others
    /// know may be out of date where its client has only just prepared it, and has been told nothing.
    pub(super) fn kept_types<'a>(&self, name: &[u8], statement: &'a Statement) -> Option<&'a [u8]> {
        let types = statement.shape.get()?.types.as_deref();
        let believed = self.statements.believed(name);
        let is_new = believed.is_some_and(|epoch| epoch == self.tenancy.catalogue.epoch());
        types.filter(|_| !is_new)
    }

    /// `ParameterDescription`: kept until it is known which columns there are.
    pub(super) fn described(&mut self, frame: Frame) {
        let lease = self.lease.as_ref();
        let unseen = lease.map(|lease| lease.upstream.peer.inbound.unseen());
        let types = unseen.and_then(|unseen| frame.body(unseen));
        self.state.described = types.map(Into::into);
    }

    /// The upstream tells which columns a statement gives; `None` if it gives none. Others than its client
    /// knows make it of no use, as on the client's own connection; but who has just prepared it knows these.
    pub(super) fn compare(&mut self, columns: Option<u64>) {
        let types = self.state.described.take();
        let shape = Shape { types, columns };
        match self.exchange.undo() {
            Some(Undo::Shape(statement, name)) => {
                let (statement, name) = (Arc::clone(statement), name.clone());
                self.compare_shape(&statement, name, &shape);
            }
            Some(Undo::Again(statement, name)) => {
                let (statement, name) = (Arc::clone(statement), name.clone());
                if statement.has_shape(&shape) {
                    self.tenancy.catalogue.look(&statement);
                } else {
                    self.tenancy.catalogue.outdate(&statement);
                    self.prepared_anew(&name, &statement).has_shape(&shape);
                }
            }
            Some(Undo::Compare(statement)) => {
                let statement = Arc::clone(statement);
                self.compare_shape(&statement, None, &shape);
            }
            Some(Undo::Named(name, statement)) => {
                let (name, statement) = (Arc::clone(name), Arc::clone(statement));
                self.compare_named(&name, &statement, &shape);
            }
            Some(Undo::Columns(serial) | Undo::CompareUnnamed(serial)) => {
                let serial = *serial;
                if !self.statements.unnamed_has(serial, &shape) {
                    self.state.changed_unnamed = true;
                    if let Some(lease) = &mut self.lease {
                        lease.upstream.unnamed = None;
                    }
                }
            }
            _ => {}
        }
    }

    fn compare_shape(
        &mut self,
        statement: &Arc<Statement>,
        name: Option<Box<[u8]>>,
        shape: &Shape,
    ) {
        if statement.has_shape(shape) {
            if name.is_some() && matches!(self.exchange.act(), Act::Swallow) {
                self.tenancy.catalogue.look(statement);
            }
            return;
        }
        match name {
            Some(name) => {
                self.tenancy.catalogue.outdate(statement);
                self.prepared_anew(&name, statement).has_shape(shape);
            }
            None => self.state.changed = Some(statement.id),
        }
        if let Some(lease) = self
            .lease
            .as_mut()
            .filter(|_| statement.form == Form::Protocol)
        {
            lease.upstream.statements.doubt(statement.id);
        }
    }

    /// A statement has its client's name here.
    fn compare_named(&mut self, name: &Arc<[u8]>, statement: &Arc<Statement>, shape: &Shape) {
        let first_use = self.statements.first_use(name);
        if statement.has_shape(shape) {
            return;
        }
        if first_use == Some(self.tenancy.catalogue.epoch()) {
            // What others knew of it was out of date when the client prepared it; it knows nothing yet.
            self.tenancy.catalogue.outdate(statement);
            self.prepared_anew(name, statement).has_shape(shape);
            return;
        }
        self.state.outdated.insert(Arc::clone(name));
        if let Some(lease) = &mut self.lease {
            // Next time it may be right again.
            lease.upstream.statements.disown();
        }
    }

    /// A statement has been out of date since before its columns could be asked for.
    pub(super) fn is_late(&mut self, name: &[u8], statement: &Statement) {
        let fresh = self.prepared_anew(name, statement);
        fresh.has_shape(&Shape::OUT_OF_DATE);
    }

    pub(super) fn prepared_anew(&mut self, name: &[u8], statement: &Statement) -> Arc<Statement> {
        let fresh = match statement.form {
            Form::Sql => Statement::by_sql(statement.dialect, &statement.rest),
            Form::Protocol => {
                let (under, facts) = (statement.under.get().cloned(), statement.facts.clone());
                self.tenancy.catalogue.alone(under, &statement.rest, facts)
            }
        };
        self.statements.replace(name, statement, Arc::clone(&fresh));
        fresh
    }

    /// Whether a statement that would give other columns is about to run by a name of the client's: the
    /// statement's own, or one that its text says. By the next time it may be right again, so all are
    /// looked at anew then.
    pub(super) fn is_out_of_date(&mut self, name: &[u8], facts: &Facts) -> bool {
        // Behind what is not answered, a transaction that has failed may be over.
        let failed = self.exchange.status() == FAILED && self.exchange.outstanding() == 0;
        let refused = !failed && self.runs_outdated(name, facts);
        self.state.relooks |= refused;
        refused
    }

    fn runs_outdated(&self, name: &[u8], facts: &Facts) -> bool {
        let outdated = &self.state.outdated;
        if outdated.is_empty() {
            return false;
        }
        let mut given_up = Vec::new();
        for deed in facts.deeds() {
            match deed {
                Deed::Execute(run) if outdated.contains(run) && !given_up.contains(&run) => {
                    return true;
                }
                Deed::Deallocate(name) => given_up.push(name),
                Deed::DeallocateAll => break,
                Deed::Prepare | Deed::Execute(_) | Deed::Unclear => {}
            }
        }
        outdated.contains(name)
    }

    /// `ReadyForQuery` has come: a transaction that is over may have been taken back, and with it what made
    /// names out of date.
    pub(super) fn mind_end(&mut self, status: u8) {
        let over = status == IDLE && self.exchange.status() != IDLE;
        self.state.relooks |= over && !self.state.outdated.is_empty();
    }

    /// Describe, in a transaction that has failed, of what cannot be prepared there any more: the server
    /// would tell of it if it gives no columns.
    pub(super) fn describe_here(&mut self, frame: Frame, name: &[u8]) -> Option<Step> {
        if self.exchange.status() != FAILED || self.exchange.outstanding() > 0 {
            return None;
        }
        let unit = self.exchange.unit();
        let client = self.seat.id();
        let upstream = &mut self.lease.as_mut()?.upstream;
        let shape = if name.is_empty() {
            let unnamed = self.statements.unnamed()?;
            let absent = upstream.unnamed != Some((client, unnamed.serial));
            unnamed.shape.as_ref().filter(|_| absent)
        } else {
            let statement = self.statements.find(name)?;
            let absent = upstream.statements.presence(statement.id, unit) != Presence::Here;
            statement.shape.get().filter(|_| absent)
        };
        let types = shape?.types_alone()?;
        let mut said = BytesMut::new();
        wire::tagged(&mut said, b't', |out| out.extend_from_slice(types));
        wire::data(&mut said, b'n');
        self.client
            .inbound
            .skip(frame.bytes, &mut upstream.peer.out);
        self.exchange
            .expect(Reply::Made, Act::Tell((*said).into()), Undo::Nothing);
        self.exchange.begin_unit();
        Some(Step::Done)
    }

    /// Before the unnamed statement is used, which was prepared again: whether it gives what its client was told
    /// is to be known first.
    pub(super) fn ask_unnamed_shape(&mut self, serial: u64) {
        if let Some(lease) = &mut self.lease {
            let out = &mut lease.upstream.peer.out;
            wire::named_message(out, b'D', b"");
            let undo = Undo::CompareUnnamed(serial);
            self.exchange.expect(Reply::Describe, Act::Swallow, undo);
        }
    }
}

/// A statement of which the columns cannot be told, as they are others by now, and the client's name for it.
pub(super) fn out_of_date(exchange: &Exchange, body: &[u8]) -> Option<(Box<[u8]>, Arc<Statement>)> {
    match (exchange.act(), exchange.undo()?) {
        (Act::Look, Undo::Shape(statement, Some(name))) if refusal::is_stale_plan(body) => {
            Some((name.clone(), Arc::clone(statement)))
        }
        _ => None,
    }
}
