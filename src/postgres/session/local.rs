//! Units that need no upstream: preparing what the pool is known to prepare well, and closing.
//!
//! Besides the time, this saves programs that prepare on one connection and wait, while their own
//! other connections hold every upstream: they would wait for themselves.

use std::sync::Arc;

use super::{Session, statements::COMPLETIONS};
use crate::postgres::{
    exchange::{IDLE, SETTLED},
    prepared::Statement,
    wire::{self, Frame},
};

/// What a unit does to the client's statements, if that is all that it does.
#[derive(Default)]
struct Unit {
    bytes: usize,
    changes: Vec<Change>,
}

enum Change {
    Prepare(Box<[u8]>, Arc<Statement>),
    Close(Box<[u8]>),
}

impl Session {
    /// Answers the unit at the head of what came, if it can be done here; false if it cannot.
    pub(super) fn answer_locally(&mut self) -> bool {
        let Some(unit) = self.local_unit() else {
            return false;
        };
        let out = &mut self.client.out;
        let [parsed, closed] = COMPLETIONS;
        for change in unit.changes {
            match change {
                Change::Prepare(name, statement) => {
                    self.statements.insert(&name, statement, SETTLED);
                    let epoch = self.tenancy.catalogue.epoch();
                    self.statements.believe(&name, epoch);
                    out.extend_from_slice(parsed);
                }
                Change::Close(name) => {
                    self.statements.remove(&name);
                    out.extend_from_slice(closed);
                }
            }
        }
        wire::ready(out, IDLE);
        self.client
            .inbound
            .skip(unit.bytes, &mut bytes::BytesMut::new());
        self.tally.units += 1;
        true
    }

    /// The unit, if it is whole and consists of nothing else.
    fn local_unit(&self) -> Option<Unit> {
        let mut unit = Unit::default();
        loop {
            let rest = self.client.inbound.unseen().get(unit.bytes..)?;
            let frame = wire::frontend_head(rest, self.limits()).ok().flatten()?;
            let body = frame.body(rest)?;
            unit.bytes += frame.bytes;
            if let Frame { tag: b'S', .. } = frame {
                return (!unit.changes.is_empty()).then_some(unit);
            }
            let change = self.local_change(frame.tag, body)?;
            unit.changes.push(change);
        }
    }

    fn local_change(&self, tag: u8, body: &[u8]) -> Option<Change> {
        match tag {
            b'P' => {
                let parse = wire::parse(body)?;
                let dialect = self.wanted.dialect();
                let statement = self.tenancy.catalogue.known(dialect, parse.rest)?;
                let free = !parse.name.is_empty()
                    && !statement.facts.depends()
                    && self.statements.find(parse.name).is_none();
                let allowed = free && self.has_room(parse.rest.len()) && statement.is_proven();
                let allowed = allowed && !self.tenancy.catalogue.is_aged(&statement);
                let permitted = allowed && self.permit(&statement.facts, b'P').is_ok();
                permitted.then(|| Change::Prepare(parse.name.into(), statement))
            }
            b'C' => {
                let (kind, name) = wire::named(body)?;
                (kind == b'S' && !name.is_empty()).then(|| Change::Close(name.into()))
            }
            _ => None,
        }
    }
}
