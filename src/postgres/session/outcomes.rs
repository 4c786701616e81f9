//! What the end of a statement means for the client's session: names given and taken, parameters
//! set, errors that must speak of the client's names.

use std::sync::Arc;

use super::{Session, State, replies::Fate};
use crate::postgres::{
    exchange::{Exchange, Expect, IDLE, SETTLED, Undo},
    named::ClientStatements,
    refusal,
    settings::Parameters,
    upstream::Upstream,
    wire,
};

impl Session {
    /// A statement of the first entry's text was carried out.
    pub(super) fn completed(&mut self) {
        let Some(undo) = self.exchange.undo_mut() else {
            return;
        };
        match undo {
            Undo::Deallocate(name) => {
                let name = Arc::clone(name);
                self.statements.remove(&name);
            }
            Undo::Set(_, done) => *done = true,
            Undo::Understand(statement) => {
                let pairs = std::mem::take(&mut self.state.understood);
                drop(statement.under.set(Parameters::from_pairs(pairs)));
            }
            Undo::Nothing
            | Undo::Prepare { .. }
            | Undo::Load(_)
            | Undo::Shape(..)
            | Undo::Compare(_)
            | Undo::Again(..)
            | Undo::Named(..)
            | Undo::Columns(_)
            | Undo::CompareUnnamed(_)
            | Undo::GiveUp(_)
            | Undo::Evict(_)
            | Undo::Close { .. }
            | Undo::Unnamed { .. }
            | Undo::Use(..)
            | Undo::Native
            | Undo::Lent
            | Undo::Take(..)
            | Undo::TakeAll(_)
            | Undo::DeallocateAll
            | Undo::CloseUnnamed(_) => {}
        }
    }

    /// A parameter was changed by a plain statement on its own.
    pub(super) fn parameter_set(&mut self, name: &str, value: Option<&str>, status: u8) {
        let Some(lease) = &mut self.lease else {
            return;
        };
        let upstream = &mut lease.upstream;
        if status != IDLE || self.state.suspect {
            self.state.suspect = true;
            return;
        }
        // What the server makes of a value it says itself, where it reports it.
        let mut reported = upstream.reported.iter();
        let found = reported.find(|(known, _)| known.eq_ignore_ascii_case(name));
        let value = found
            .map(|(_, value)| value.as_str())
            .filter(|_| value.is_some())
            .or(value);
        let wanted = match value {
            Some(value) => self.wanted.overlaid(std::iter::once((name, value))),
            None => self.wanted.without(name),
        };
        upstream.known = Arc::clone(&wanted);
        self.wanted = wanted;
        self.mind_servers();
        if name == "application_name" {
            self.seat
                .set_label(self.wanted.find(name).unwrap_or_default());
        }
    }

    /// Tells the client all that it does not know yet of what the upstream reports.
    pub(super) fn tell_parameters(&mut self) {
        let Some(lease) = &mut self.lease else {
            return;
        };
        let upstream = &mut lease.upstream;
        let mut changed: Vec<_> = upstream.reported.iter().collect();
        changed.sort_by_key(|(name, _)| name.to_ascii_lowercase());
        upstream.peer.inbound.settle(&mut self.client.out);
        for (name, value) in changed {
            if self.told.tell(name, value) {
                wire::parameter_status(&mut self.client.out, name, value);
            }
        }
    }
}

/// An error in the client's words, where the upstream's differ: names of statements.
pub(super) fn reworded(exchange: &Exchange, whole: &[u8]) -> Option<Box<[u8]>> {
    let body = whole.get(wire::HEADER_BYTES..).unwrap_or_default();
    let Some(Undo::Use(id, name)) = exchange.undo() else {
        return None;
    };
    refusal::renamed(body, *id, name)
}

/// A message whose type says all.
pub(super) fn plain(exchange: &mut Exchange, upstream: &mut Upstream, tag: u8, fate: Fate) -> Fate {
    if tag == b'G' {
        exchange.copy_in_begins();
    }
    if let Some(Expect { undo, .. }) = exchange.answered(tag) {
        match undo {
            Undo::Prepare {
                statement,
                sent: true,
                ..
            } => {
                statement.prove();
                upstream.statements.proven(statement.id);
            }
            Undo::Load(id) => upstream.statements.proven(id),
            Undo::Prepare { sent: false, .. }
            | Undo::Nothing
            | Undo::Understand(_)
            | Undo::Shape(..)
            | Undo::Compare(_)
            | Undo::Again(..)
            | Undo::Named(..)
            | Undo::Columns(_)
            | Undo::CompareUnnamed(_)
            | Undo::GiveUp(_)
            | Undo::Evict(_)
            | Undo::Close { .. }
            | Undo::Unnamed { .. }
            | Undo::Native
            | Undo::Lent
            | Undo::Take(..)
            | Undo::TakeAll(_)
            | Undo::Deallocate(_)
            | Undo::DeallocateAll
            | Undo::CloseUnnamed(_)
            | Undo::Set(..)
            | Undo::Use(..) => {}
        }
    }
    // Notifications belong to the client, whatever is under way.
    if tag == b'A' { Fate::Pass } else { fate }
}

/// Takes back what a message that was never carried out had noted.
pub(super) fn undo(
    expect: Expect,
    state: &mut State,
    statements: &mut ClientStatements,
    upstream: &mut Upstream,
) {
    match expect.undo {
        Undo::Nothing
        | Undo::Use(..)
        | Undo::Understand(_)
        | Undo::Shape(..)
        | Undo::Compare(_)
        | Undo::Again(..)
        | Undo::Columns(_)
        | Undo::CompareUnnamed(_)
        | Undo::Set(..)
        | Undo::Deallocate(_)
        | Undo::DeallocateAll => {}
        Undo::GiveUp(given) => state.keep_names(*given, statements),
        Undo::Native | Undo::Named(..) => {
            state.native = false;
            upstream.statements.clear(false);
        }
        // What was lent may stand there for good.
        Undo::Lent => upstream.statements.clear(false),
        Undo::Take(name, statement) => {
            statements.insert(&name, statement, SETTLED);
            upstream.statements.clear(false);
        }
        Undo::TakeAll(names) => statements.restore_named(*names),
        Undo::CloseUnnamed(before) => statements.restore_unnamed(before.map(|before| *before)),
        Undo::Prepare {
            name,
            statement,
            sent,
        } => {
            statements.remove(&name);
            if sent {
                upstream.statements.doubt(statement.id);
            }
        }
        Undo::Load(id) | Undo::Evict(id) => upstream.statements.doubt(id),
        Undo::Close { name, statement } => statements.insert(&name, statement, SETTLED),
        Undo::Unnamed {
            serial,
            own,
            before,
        } => {
            if own && statements.undo_unnamed(serial) {
                statements.restore_unnamed(before.map(|before| *before));
            }
            upstream.unnamed = None;
        }
    }
}
