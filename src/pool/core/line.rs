//! Who waits, in the order in which they came.

use std::collections::BTreeMap;

use tokio::time::Instant;

/// Somebody in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) struct InLine<W> {
    pub(in crate::pool) ticket: u64,
    pub(in crate::pool) waiter: W,
    /// When it joined.
    pub(in crate::pool) since: Instant,
}

/// The line. Tickets and times ascend together.
#[derive(Debug)]
pub(super) struct Line<W> {
    places: BTreeMap<u64, InLine<W>>,
    last: u64,
    /// Somebody calls `expire` in time.
    pub(super) watched: bool,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self {
            places: BTreeMap::new(),
            last: 0,
            watched: false,
        }
    }
}

impl<W> Line<W> {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Joins at the end; the ticket.
    pub(super) fn join(&mut self, waiter: W, since: Instant) -> u64 {
        self.last += 1;
        let ticket = self.last;
        self.put_back(InLine {
            ticket,
            waiter,
            since,
        });
        ticket
    }

    /// Whoever was first has its old place again.
    pub(super) fn put_back(&mut self, place: InLine<W>) {
        self.places.insert(place.ticket, place);
    }

    /// Leaves; false: it is not there.
    pub(super) fn leave(&mut self, ticket: u64) -> bool {
        self.places.remove(&ticket).is_some()
    }

    /// Since when the first has waited.
    pub(super) fn first_since(&self) -> Option<Instant> {
        let first = self.places.first_key_value();
        first.map(|(_, place)| place.since)
    }

    /// Takes the first out.
    pub(super) fn pop(&mut self) -> Option<InLine<W>> {
        self.places.pop_first().map(|(_, place)| place)
    }

    /// Takes all out.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = W> + use<W> {
        let all = std::mem::take(&mut self.places);
        all.into_values().map(|place| place.waiter)
    }
}
