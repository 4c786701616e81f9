//! Plain changes of parameters: followed by their text, without asking the upstream afterwards.
//!
//! What a client resets goes back to what it began with, which the upstream does not know: so a text
//! of ours puts it right before anything else can see it.

use super::{Session, names::TEMPORARY, requests::Step};
use crate::postgres::{
    exchange::{Act, Reply, Undo},
    refusal,
    servers::{ATTRS, Unserved, WantedAttrs},
    settings::Parameters,
    statement::{Change, Facts},
    wire::{self, Frame},
};

impl Session {
    /// A simple query that is one plain change of a parameter.
    pub(super) fn change(&mut self, frame: Frame, facts: &Facts, change: &Change) -> Step {
        if let Some(unserved) = self.unservable(change) {
            return self.replace_query(frame, refusal::unserved_bytes(&unserved));
        }
        // In a transaction it may be taken back, and after a suspect unit all is asked for anyway. What comes behind
        // another choice of servers waits for the answer: it may be for another server.
        // Whether a pin ends is asked as well.
        let followed = self.exchange.is_unused()
            && !self.state.suspect
            && self.state.pinned != Some(TEMPORARY)
            && !chooses_server(change);
        let undo = match change {
            Change::Set(name, value) => Some((name, Some(value.clone()))),
            Change::Reset(name) => Some((name, self.startup.find(name).map(str::to_owned))),
            Change::ResetLocal(_) | Change::ResetAll => None,
        };
        let undo = if let Some((name, value)) = undo.filter(|_| followed) {
            self.state.unlisted.extend(facts.parameters.iter().cloned());
            Undo::Set(Box::new((name.clone(), value)), false)
        } else {
            self.note(facts);
            if facts.deallocates_all() {
                Undo::DeallocateAll
            } else {
                Undo::Nothing
            }
        };
        self.note_quotes(facts);
        let Some(text) = self.restoring(change) else {
            self.exchange.expect(Reply::Query, Act::Forward, undo);
            return self.pass(frame);
        };
        let (first, undo) = match undo {
            Undo::DeallocateAll => (undo, Undo::Nothing),
            undo => (Undo::Nothing, undo),
        };
        self.exchange.expect(Reply::Query, Act::Hold, first);
        self.client.inbound.pass(frame.bytes);
        if let Some(lease) = &mut self.lease {
            let out = &mut lease.upstream.peer.out;
            self.client.inbound.settle(out);
            wire::query(out, &text);
            self.note_quotes(facts);
            self.exchange.expect(Reply::Query, Act::Restore, undo);
        }
        Step::Done
    }

    /// Whether a change asks for a server that no session of its kind can have; said at once, for afterwards nothing could
    /// be taken back.
    fn unservable(&self, change: &Change) -> Option<Unserved> {
        match change {
            Change::Set(name, value) if name == ATTRS => {
                let pair = (name.clone(), value.clone());
                let wanted = Parameters::from_pairs(std::iter::once(pair));
                WantedAttrs::of(self.role, &wanted, None).judged().err()
            }
            Change::Set(..) | Change::Reset(_) | Change::ResetLocal(_) | Change::ResetAll => None,
        }
    }

    /// The text that must follow a reset, if the client began with other values than the upstream.
    pub(super) fn restoring(&self, change: &Change) -> Option<String> {
        match change {
            Change::Set(..) => None,
            Change::Reset(name) => self.startup.setting(|known| known == name, false),
            Change::ResetLocal(name) => self.startup.setting(|known| known == name, true),
            Change::ResetAll => self.startup.setting(|_| true, false),
        }
    }
}

fn chooses_server(change: &Change) -> bool {
    match change {
        Change::Set(name, _) | Change::Reset(name) => name == ATTRS,
        Change::ResetLocal(_) | Change::ResetAll => false,
    }
}
