//! Statements under the client's own names: what `EXECUTE name` runs on whichever upstream.
//!
//! By protocol a statement has a name of ours on upstreams. SQL text names it as the client does, and
//! is not rewritten; so before such a text runs, the names in it are given on the upstream the
//! meaning that they have for the client, and names of others are taken away.

use std::sync::Arc;

use super::{Session, requests::Step};
use crate::{
    fault::Refusal,
    postgres::{
        exchange::{Act, FAILED, Reply, Undo},
        held::Presence,
        prepared::Form,
        refusal,
        statement::{Deed, Facts},
        wire::{self, Frame},
    },
};

/// The statement and the portal by which others are prepared.
const LOADER: &[u8] = b"pp?load";
/// The messages that `run_apart` makes.
const LOADER_REPLIES: [Reply; 5] = [
    Reply::Parse,
    Reply::Bind,
    Reply::Execute,
    Reply::Close,
    Reply::Close,
];
/// Portals of which it is remembered what they do to statements; with more, the session is asked.
const PORTALS_MAX: usize = 100;

/// The identity of what only takes a name: no statement has it.
const NO_STATEMENT: u64 = 0;

/// How much of its meaning a name needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Its statement.
    Whole,
    /// Any statement.
    Taken,
}

/// Whether a text may run.
pub(super) enum Names {
    Ready,
    /// Answers must come first.
    Wait,
    /// It cannot be carried out as it should: an error.
    Refused(Box<[u8]>),
}

impl Session {
    /// Before a text runs: its names get their meaning, in a unit of ours if none is open.
    pub(super) fn settle_names(&mut self, facts: &Facts) -> Names {
        match self.show_channels(facts) {
            Names::Ready => {}
            other => return other,
        }
        // In a transaction that has failed, nothing runs and nothing can be prepared.
        let void = self.exchange.status() == FAILED && !facts.several;
        if void || !facts.names_statements() {
            return Names::Ready;
        }
        if !self.exchange.is_first_unit() {
            return Names::Wait;
        }
        if self.exchange.is_unit_open() {
            self.align(facts, &Act::Swallow);
            return Names::Ready;
        }
        if facts.lists_statements && self.state.unloaded.take().is_some() {
            let what = "a list of prepared statements of which one cannot be prepared again";
            let refused = Refusal::Unsupported { what: what.into() };
            return Names::Refused(refusal::error_bytes(&refused));
        }
        let before = self.exchange.outstanding();
        self.align(facts, &Act::Load);
        if self.exchange.outstanding() == before {
            return Names::Ready;
        }
        if let Some(lease) = &mut self.lease {
            wire::data(&mut lease.upstream.peer.out, b'S');
            self.exchange.expect(Reply::Sync, Act::Load, Undo::Nothing);
        }
        if facts.lists_statements {
            Names::Wait
        } else {
            Names::Ready
        }
    }

    /// Gives the names of a text their meaning on the upstream; the answers are not the client's.
    fn align(&mut self, facts: &Facts, act: &Act) {
        if facts.lists_statements {
            self.align_all(act);
        }
        let deeds = facts.deeds.as_deref().unwrap_or_default();
        for (_, deed) in deeds {
            let meaning = match deed {
                // Whether the name is taken is all that matters.
                Deed::Prepare(..) | Deed::Deallocate(_) if deeds.len() == 1 => Meaning::Taken,
                Deed::Prepare(..) | Deed::Deallocate(_) | Deed::Execute(_) => Meaning::Whole,
            };
            self.give(deed.name(), meaning, act);
        }
    }

    /// A text looks at the list of statements: there must be the client's and no others.
    fn align_all(&mut self, act: &Act) {
        let mut names: Vec<_> = self.statements.names().map(Arc::clone).collect();
        names.sort_unstable();
        let Some(lease) = &mut self.lease else {
            return;
        };
        let upstream = &mut lease.upstream;
        let foreign = upstream.statements.own.has_others(|name| {
            let found = names.binary_search_by(|known| known.as_ref().cmp(name));
            found.is_ok()
        });
        if foreign || !upstream.statements.has_none_of_ours() {
            self.client.inbound.settle(&mut upstream.peer.out);
            wire::run_apart(&mut upstream.peer.out, LOADER, b"DEALLOCATE ALL");
            for reply in LOADER_REPLIES {
                let undo = if reply == Reply::Execute {
                    Undo::Clear
                } else {
                    Undo::Nothing
                };
                self.exchange.expect(reply, like(act), undo);
            }
            upstream.statements.clear(true);
        }
        for name in &names {
            self.align_name(name, act);
        }
    }

    /// Gives one name its meaning on the upstream.
    pub(super) fn align_name(&mut self, name: &Arc<[u8]>, act: &Act) {
        self.give(name, Meaning::Whole, act);
    }

    fn give(&mut self, name: &Arc<[u8]>, meaning: Meaning, act: &Act) {
        let Some(lease) = &mut self.lease else {
            return;
        };
        let (out, statements) = (&mut lease.upstream.peer.out, &mut lease.upstream.statements);
        let wanted = self.statements.find(name);
        let id = wanted.map(|statement| statement.id);
        let unit = self.exchange.unit();
        let presence = statements.own.presence(name, id, unit);
        if presence == Presence::Here {
            return;
        }
        self.client.inbound.settle(out);
        let max = self.service.settings.upstream_statements_max;
        let taken = id
            .filter(|_| meaning == Meaning::Taken)
            .map(|_| NO_STATEMENT);
        let other = statements.own.sent(name, taken.or(id), unit, max);
        let doubtful = (presence == Presence::Doubtful).then_some(name);
        for closed in other.iter().chain(doubtful) {
            wire::close_statement(out, closed);
            let undo = Undo::Own(Arc::clone(closed));
            self.exchange.expect(Reply::Close, like(act), undo);
        }
        let undo = || Undo::Own(Arc::clone(name));
        match wanted.map(|statement| (statement.form, &statement.rest)) {
            None => {}
            Some(_) if taken.is_some() => {
                wire::parse_with_name(out, name, &[0; 3]);
                self.exchange.expect(Reply::Parse, like(act), undo());
            }
            Some((Form::Protocol, rest)) => {
                wire::parse_with_name(out, name, rest);
                self.exchange.expect(Reply::Parse, like(act), undo());
            }
            Some((Form::Sql, text)) => {
                wire::run_apart(out, LOADER, text);
                for reply in LOADER_REPLIES {
                    let undo = if reply == Reply::Execute {
                        undo()
                    } else {
                        Undo::Nothing
                    };
                    self.exchange.expect(reply, like(act), undo);
                }
            }
        }
    }

    /// Whether the client may prepare what a text prepares.
    ///
    /// # Errors
    /// A refusal that says how many it may.
    pub(super) fn room_for(&self, facts: &Facts) -> Result<(), Refusal> {
        let mut deeds = facts.deeds.iter().flat_map(|deeds| deeds.iter());
        let fits = deeds.all(|(_, deed)| match deed {
            Deed::Prepare(_, text) => self.has_room(text.len()),
            Deed::Execute(_) | Deed::Deallocate(_) => true,
        });
        if fits {
            return Ok(());
        }
        let what = format!(
            "more than {} prepared statements of one client",
            self.service.settings.statements_max
        );
        Err(Refusal::Unsupported { what })
    }

    /// What is run by name does what its own text does.
    pub(super) fn note_names(&mut self, facts: &Facts) {
        for (_, deed) in facts.deeds.iter().flat_map(|deeds| deeds.iter()) {
            let Deed::Execute(name) = deed else {
                continue;
            };
            match self.statements.find(name).map(Arc::clone) {
                Some(statement) if statement.facts != *facts => self.note(&statement.facts),
                Some(_) => {}
                // A function may have prepared it.
                None => self.state.suspect = true,
            }
        }
    }

    /// A Bind opens a portal: what its statement does to names happens when it is executed.
    pub(super) fn open_portal(&mut self, portal: &[u8], facts: &Facts) {
        let matters = facts.deeds.is_some() || facts.change.is_some();
        if self.portals.is_empty() && !matters {
            return;
        }
        self.portals.retain(|(name, _)| **name != *portal);
        if matters && self.portals.len() >= PORTALS_MAX {
            self.state.suspect = true;
        } else if matters {
            self.portals.push((portal.into(), facts.clone()));
        }
    }

    /// An Execute.
    pub(super) fn execute(&mut self, frame: Frame) -> Step {
        if self.portals.is_empty() {
            return self.forward(frame, Reply::Execute);
        }
        let Some(body) = frame.body(self.client.inbound.unseen()) else {
            return Step::Incomplete;
        };
        let portal = wire::split_cstr(body).map_or(&b""[..], |(portal, _)| portal);
        let found = self.portals.iter().find(|(name, _)| **name == *portal);
        let Some(facts) = found.map(|(_, facts)| facts.clone()) else {
            return self.forward(frame, Reply::Execute);
        };
        let undo = facts
            .deeds
            .map_or(Undo::Nothing, |deeds| Undo::Deeds(deeds, 0));
        self.exchange.expect(Reply::Execute, Act::Forward, undo);
        self.client.inbound.pass(frame.bytes);
        let restore = facts.change.and_then(|change| self.restoring(&change));
        if let (Some(text), Some(lease)) = (restore, &mut self.lease) {
            let out = &mut lease.upstream.peer.out;
            self.client.inbound.settle(out);
            wire::run_apart(out, LOADER, text.as_bytes());
            for reply in LOADER_REPLIES {
                self.exchange.expect(reply, Act::Swallow, Undo::Nothing);
            }
        }
        Step::Done
    }
}

/// Acts are not copied, as some own bytes; these do not.
fn like(act: &Act) -> Act {
    match act {
        Act::Load => Act::Load,
        _ => Act::Swallow,
    }
}
