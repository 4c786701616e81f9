//! The statements that one upstream has, under our names for them.
//!
//! Messages change what is known here before they are answered; the unit in which one was sent tells
//! whether it can be relied on.

use std::sync::Arc;

use ahash::HashMap;

/// What is known of a statement on an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// It is there, or will be unless this very unit fails.
    Here,
    /// It is not there.
    Absent,
    /// It may be there: to be closed before it is prepared, which is no error either way.
    Doubtful,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Proven,
    /// Sent in that unit, not answered.
    Sent(u64),
    Doubtful,
}

/// The statements that one upstream has.
#[derive(Debug, Default)]
pub(super) struct UpstreamStatements {
    held: HashMap<u64, (State, u64)>,
    clock: u64,
    /// Statements may exist that are not held here.
    unsure: bool,
    /// The names that a client gave to statements here itself.
    named: Vec<Arc<[u8]>>,
    /// Whose names these are: the client, and the edition of its list; `None` if they are not whole.
    owner: Option<(u64, u64)>,
}

impl UpstreamStatements {
    /// Whether a statement is there, as seen by a message of the given unit; counts as a use.
    pub(super) fn presence(&mut self, id: u64, unit: u64) -> Presence {
        self.clock += 1;
        match self.held.get_mut(&id) {
            None if self.unsure => Presence::Doubtful,
            None => Presence::Absent,
            Some((state, used)) => {
                *used = self.clock;
                match *state {
                    State::Proven => Presence::Here,
                    State::Sent(sent) if sent == unit => Presence::Here,
                    State::Sent(_) | State::Doubtful => Presence::Doubtful,
                }
            }
        }
    }

    /// A Parse is sent; gives the statement to close first when there are `max` already.
    pub(super) fn sent(&mut self, id: u64, unit: u64, max: usize) -> Option<u64> {
        self.clock += 1;
        self.held.insert(id, (State::Sent(unit), self.clock));
        if self.held.len() <= max.max(1) {
            return None;
        }
        let oldest = self
            .held
            .iter()
            .min_by_key(|(_, (_, used))| *used)
            .map(|(id, _)| *id)?;
        self.held.remove(&oldest);
        Some(oldest)
    }

    /// The Parse was answered.
    pub(super) fn proven(&mut self, id: u64) {
        if let Some((state, _)) = self.held.get_mut(&id) {
            *state = State::Proven;
        }
    }

    /// A Parse or a Close of it was not carried out.
    pub(super) fn doubt(&mut self, id: u64) {
        self.held.insert(id, (State::Doubtful, self.clock));
    }

    /// It is about to be closed; whether it may be there.
    pub(super) fn forget(&mut self, id: u64) -> bool {
        self.held.remove(&id).is_some()
    }

    /// All are gone; `certain` if nothing was under way meanwhile.
    pub(super) fn clear(&mut self, certain: bool) {
        self.held.clear();
        self.unsure = !certain;
        self.owner = None;
        if certain {
            self.named.clear();
        }
    }

    /// A client's statements stand here under its names.
    pub(super) fn name(&mut self, names: Vec<Arc<[u8]>>, owner: Option<(u64, u64)>) {
        self.named = names;
        self.owner = owner;
    }

    /// Whether these are that client's names, in that edition.
    pub(super) fn is_named_by(&self, owner: (u64, u64)) -> bool {
        self.owner == Some(owner) && !self.unsure
    }

    /// Whether somebody's statement may stand under a name.
    pub(super) fn may_know(&self, name: &[u8]) -> bool {
        self.unsure || self.named.iter().any(|known| **known == *name)
    }

    /// The names that a client has given stay, but do not count as its own.
    pub(super) fn disown(&mut self) {
        self.owner = None;
    }

    /// A statement of somebody's is closed.
    pub(super) fn close_named(&mut self, name: &[u8]) {
        self.named.retain(|known| **known != *name);
        self.owner = None;
    }

    /// All were closed, before what is held here was sent.
    pub(super) fn be_sure(&mut self) {
        self.unsure = false;
    }

    /// Takes out those held here, to be closed.
    pub(super) fn take_ids(&mut self) -> Vec<u64> {
        self.held.drain().map(|(id, _)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_sent_in_another_unit_is_doubtful_until_proven() {
        let mut upstream = UpstreamStatements::default();
        assert_eq!(upstream.presence(7, 1), Presence::Absent);
        assert_eq!(upstream.sent(7, 1, 2), None);
        assert_eq!(upstream.presence(7, 1), Presence::Here);
        assert_eq!(upstream.presence(7, 2), Presence::Doubtful);
        upstream.proven(7);
        assert_eq!(upstream.presence(7, 2), Presence::Here);
        upstream.doubt(7);
        assert_eq!(upstream.presence(7, 2), Presence::Doubtful);
    }

    #[test]
    fn the_least_recently_used_gives_way() {
        let mut upstream = UpstreamStatements::default();
        upstream.sent(1, 1, 2);
        upstream.sent(2, 1, 2);
        upstream.presence(1, 1);
        assert_eq!(upstream.sent(3, 1, 2), Some(2));
        assert_eq!(upstream.presence(2, 1), Presence::Absent);
    }
}
