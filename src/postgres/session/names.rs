//! Statements under the client's own names: what SQL text calls them by.
//!
//! By protocol a statement has a name of ours on upstreams. SQL text names it as the client does, and
//! is not rewritten. So before a text that prepares, runs or lists statements by name, the client's
//! statements are prepared on the upstream as the client calls them, and from then on its messages
//! pass with their names as they are: the session is native there, and stays (a pin) until no
//! statement is left. `DEALLOCATE name` alone, which drivers send for what they prepared by protocol,
//! needs less: something that bears the name.

use std::sync::Arc;

use super::{Session, requests::Step};
use crate::{
    fault::Refusal,
    postgres::{
        exchange::{Act, FAILED, Reply, Undo},
        refusal,
        statement::{Deed, Facts},
        wire::{self, Frame},
    },
};

/// The statement and the portal of texts of ours.
pub(super) const LOADER: &[u8] = b"pp?load";
/// The messages that `run_apart` makes.
pub(super) const LOADER_REPLIES: [Reply; 5] = [
    Reply::Parse,
    Reply::Bind,
    Reply::Execute,
    Reply::Close,
    Reply::Close,
];
/// Portals of which it is remembered what they do to statements; with more, the session is asked.
const PORTALS_MAX: usize = 100;

/// Whether a text may run.
pub(super) enum Names {
    Ready,
    /// Answers must come first.
    Wait,
    /// It cannot be carried out as it should: an error.
    Refused(Box<[u8]>),
}

impl Session {
    /// Before a text: if it needs the names of statements, the upstream comes to know them.
    pub(super) fn settle_names(&mut self, facts: &Facts) -> Names {
        match self.show_channels(facts) {
            Names::Ready => {}
            other => return other,
        }
        if !facts.needs_names() {
            return Names::Ready;
        }
        if !self.exchange.is_first_unit() {
            return Names::Wait;
        }
        if self.state.unloaded.take().is_some() {
            return Names::Refused(unprepared());
        }
        if self.state.native && !facts.lists_statements {
            return Names::Ready;
        }
        if self.exchange.status() == FAILED {
            // Nothing can be prepared now. One statement does not run either; of several, some may.
            return if facts.several && !self.state.native {
                refused("a statement by name behind the end of a transaction that has failed")
            } else {
                Names::Ready
            };
        }
        if self.enter_names(facts.lists_statements) {
            Names::Wait
        } else {
            Names::Ready
        }
    }

    /// A client that has statements by SQL finds them on whichever upstream it comes to, before
    /// anything of its own runs there; whether that must be waited for.
    pub(super) fn bring_names(&mut self) -> bool {
        if self.state.relooks && self.exchange.is_unused() {
            self.state.relooks = false;
            self.state.native = false;
        }
        let names = self.statements.holds_sql() && !self.state.native && !self.state.nameless;
        if !names || !self.exchange.is_unused() {
            return false;
        }
        if self.state.unloaded.take().is_some() {
            self.state.nameless = true;
            return false;
        }
        self.enter_names(false)
    }

    /// Before `DEALLOCATE name` runs on an upstream that has the statement under another name, or
    /// perhaps somebody else's under this one; whether the client has it.
    fn lend_name(&mut self, name: &Arc<[u8]>, act: &Act) -> bool {
        let found = self.statements.find(name).is_some();
        let Some(lease) = &mut self.lease else {
            return found;
        };
        if found || lease.upstream.statements.may_know(name) {
            lease.upstream.statements.close_named(name);
            let out = &mut lease.upstream.peer.out;
            self.client.inbound.settle(out);
            wire::close_statement(out, name);
            self.exchange.expect(Reply::Close, like(act), Undo::Nothing);
        }
        if found {
            wire::parse_with_name(&mut lease.upstream.peer.out, name, &[0; 3]);
            self.exchange.expect(Reply::Parse, like(act), Undo::Lent);
        }
        found
    }

    /// A simple query that only takes one name away.
    pub(super) fn deallocate(&mut self, frame: Frame, facts: &Facts, name: &Arc<[u8]>) -> Step {
        if self.state.native || self.exchange.status() == FAILED {
            let undo = self.give_up(facts);
            self.exchange.expect(Reply::Query, Act::Forward, undo);
            return self.pass(frame);
        }
        let before = self.exchange.outstanding();
        self.lend_name(name, &Act::Load);
        if self.exchange.outstanding() > before
            && let Some(lease) = &mut self.lease
        {
            wire::data(&mut lease.upstream.peer.out, b'S');
            self.exchange.expect(Reply::Sync, Act::Load, Undo::Nothing);
        }
        let undo = Undo::Deallocate(Arc::clone(name));
        self.exchange.expect(Reply::Query, Act::Forward, undo);
        self.pass(frame)
    }

    /// What is run by name does what its own text does.
    pub(super) fn note_names(&mut self, facts: &Facts) {
        for deed in facts.deeds() {
            match deed {
                Deed::Execute(name) => match self.statements.find(name).map(Arc::clone) {
                    // What runs others in turn is not followed any further.
                    Some(statement) if statement.facts.deeds.is_some() => self.keep(PIN),
                    Some(statement) => {
                        let verdict = self.judge_statement(&statement);
                        self.note(&statement.facts);
                        self.weigh(verdict);
                    }
                    // What it is, only the server knows, if anybody does.
                    None => self.state.suspect = true,
                },
                Deed::Prepare | Deed::Unclear => self.state.suspect = true,
                Deed::Deallocate(_) | Deed::DeallocateAll => {
                    self.state.suspect |= self.state.native;
                }
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
        self.execute_quotes();
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
        let Some(undo) = self.take_names(&facts) else {
            return Step::Wait;
        };
        self.exchange.expect(Reply::Execute, Act::Forward, undo);
        self.client.inbound.pass(frame.bytes);
        let restore = facts.change.and_then(|change| self.restoring(&change));
        if let Some(text) = restore {
            self.run_apart(text.as_bytes());
        }
        Step::Done
    }

    /// An Execute of such a text is about to be sent: what it takes away is gone for the messages that
    /// follow; what is to be put back if it is not carried out. `None` if answers must come first.
    fn take_names(&mut self, facts: &Facts) -> Option<Undo> {
        if self.state.native || self.exchange.status() == FAILED {
            return Some(self.give_up(facts));
        }
        if facts.deallocates_all() {
            if !self.exchange.is_first_unit() {
                return None;
            }
            if let Some(lease) = &mut self.lease {
                lease.upstream.statements.clear(false);
            }
            return Some(Undo::TakeAll(Box::new(self.statements.take_named())));
        }
        let Some(name) = facts.deallocates() else {
            return Some(Undo::Nothing);
        };
        if !self.exchange.is_first_unit() {
            return None;
        }
        self.lend_name(name, &Act::Swallow);
        Some(match self.statements.remove(name) {
            Some(statement) => Undo::Take(Arc::clone(name), statement),
            None => Undo::Nothing,
        })
    }

    /// Runs a text of ours in the client's unit.
    fn run_apart(&mut self, text: &[u8]) {
        if let Some(lease) = &mut self.lease {
            let out = &mut lease.upstream.peer.out;
            self.client.inbound.settle(out);
            wire::run_apart(out, LOADER, text);
            for reply in LOADER_REPLIES {
                self.exchange.expect(reply, Act::Swallow, Undo::Nothing);
            }
        }
    }
}

/// Why a session stays where its names are.
pub(super) const PIN: &str = "sql_prepare";

/// Why a session with temporary objects, or where some may be made unseen, stays.
pub(in crate::postgres) const TEMPORARY: &str = "temporary";

fn refused(what: &str) -> Names {
    let refusal = Refusal::Unsupported { what: what.into() };
    Names::Refused(refusal::error_bytes(&refusal))
}

/// The upstream could not be given the client's statements.
pub(super) fn unprepared() -> Box<[u8]> {
    let what = "statements by name, of which one cannot be prepared any more".into();
    refusal::error_bytes(&Refusal::Unsupported { what })
}

/// Acts are not copied, as some own bytes; these do not.
pub(super) fn like(act: &Act) -> Act {
    match act {
        Act::Load => Act::Load,
        _ => Act::Swallow,
    }
}
