//! The statements that one upstream has: under our names for them, and under names that clients gave.
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
    /// What stands under names that clients gave.
    pub(super) own: OwnNames,
    clock: u64,
    /// Statements may exist that are not held here.
    unsure: bool,
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

    /// All are gone; `certain` if nothing was under way meanwhile.
    pub(super) fn clear(&mut self, certain: bool) {
        self.held.clear();
        self.unsure = !certain;
        self.own.held.clear();
        self.own.unsure = !certain;
    }

    /// Whether there is none under a name of ours.
    pub(super) fn has_none_of_ours(&self) -> bool {
        self.held.is_empty() && !self.unsure
    }
}

/// What stands on one upstream under names that clients gave, whichever clients.
#[derive(Debug, Default)]
pub(super) struct OwnNames {
    /// The statement's identity; `None` if nothing stands there.
    held: HashMap<Arc<[u8]>, (Option<u64>, State)>,
    /// Names may be taken that are not held here.
    unsure: bool,
}

impl OwnNames {
    /// How a name stands to what it is to mean, as seen by a message of the given unit.
    pub(super) fn presence(&self, name: &[u8], wanted: Option<u64>, unit: u64) -> Presence {
        match self.held.get(name) {
            None if self.unsure => Presence::Doubtful,
            None | Some((None, State::Proven)) if wanted.is_some() => Presence::Absent,
            None => Presence::Here,
            Some((_, State::Doubtful)) => Presence::Doubtful,
            Some((_, State::Sent(sent))) if *sent != unit => Presence::Doubtful,
            Some((found, _)) if *found == wanted => Presence::Here,
            Some((None, _)) => Presence::Absent,
            Some((Some(_), _)) => Presence::Doubtful,
        }
    }

    /// A name is given another meaning; gives the name to close first when there are `max` already.
    pub(super) fn sent(
        &mut self,
        name: &Arc<[u8]>,
        id: Option<u64>,
        unit: u64,
        max: usize,
    ) -> Option<Arc<[u8]>> {
        self.held.insert(Arc::clone(name), (id, State::Sent(unit)));
        if self.held.len() <= max.max(1) {
            return None;
        }
        let other = self.held.keys().find(|other| *other != name)?;
        let other = Arc::clone(other);
        self.held.remove(&other);
        Some(other)
    }

    /// It was carried out.
    pub(super) fn proven(&mut self, name: &[u8]) {
        if let Some((_, state)) = self.held.get_mut(name) {
            *state = State::Proven;
        }
    }

    /// A name has this meaning now.
    pub(super) fn set(&mut self, name: &Arc<[u8]>, id: Option<u64>) {
        self.held.insert(Arc::clone(name), (id, State::Proven));
    }

    /// It was not carried out.
    pub(super) fn doubt(&mut self, name: &Arc<[u8]>) {
        self.held.insert(Arc::clone(name), (None, State::Doubtful));
    }

    /// Whether a statement stands there that this gateway knows of.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        matches!(self.held.get(name), Some((Some(_), State::Proven)))
    }

    /// Whether a statement may stand under a name that is not wanted.
    pub(super) fn has_others(&self, wanted: impl Fn(&[u8]) -> bool) -> bool {
        let mut held = self.held.iter();
        self.unsure
            || held.any(|(name, (id, state))| {
                !wanted(name) && (id.is_some() || *state != State::Proven)
            })
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

    #[test]
    fn a_name_means_what_was_sent_last() {
        let (name, mut own): (Arc<[u8]>, _) = (b"p"[..].into(), OwnNames::default());
        assert_eq!(own.presence(&name, None, 1), Presence::Here);
        assert_eq!(own.presence(&name, Some(7), 1), Presence::Absent);
        assert_eq!(own.sent(&name, Some(7), 1, 9), None);
        assert_eq!(own.presence(&name, Some(7), 1), Presence::Here);
        assert_eq!(own.presence(&name, Some(7), 2), Presence::Doubtful);
        own.proven(&name);
        assert_eq!(own.presence(&name, Some(7), 2), Presence::Here);
        assert_eq!(own.presence(&name, Some(8), 2), Presence::Doubtful);
        assert_eq!(own.presence(&name, None, 2), Presence::Doubtful);
        own.set(&name, None);
        assert_eq!(own.presence(&name, Some(8), 3), Presence::Absent);
        let other: Arc<[u8]> = b"q"[..].into();
        assert_eq!(own.sent(&other, Some(9), 3, 1), Some(name));
    }
}
