//! The counts of a core, read without changing it, and its invariants.

use tokio::time::Instant;

use super::Core;
use crate::{net::DialFault, tenant::Generation};

impl<C, W> Core<C, W> {
    /// All the places that are taken.
    pub(in crate::pool) fn slots(&self) -> usize {
        self.live() + self.dialing + self.closing
    }

    pub(in crate::pool) fn idle(&self) -> usize {
        self.idle.len()
    }

    pub(in crate::pool) fn leased(&self) -> usize {
        self.leased
    }

    pub(in crate::pool) fn dialing(&self) -> usize {
        self.dialing
    }

    pub(in crate::pool) fn resetting(&self) -> usize {
        self.resetting
    }

    pub(in crate::pool) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Since when the first in the line has waited.
    #[cfg(test)]
    pub(in crate::pool) fn first_since(&self) -> Option<Instant> {
        self.queue.first_since()
    }

    pub(in crate::pool) fn leases(&self) -> u64 {
        self.leases
    }

    pub(in crate::pool) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(in crate::pool) fn last_lease(&self) -> Instant {
        self.last_lease
    }

    pub(in crate::pool) fn fault(&self) -> Option<&DialFault> {
        self.outage.as_ref().map(|outage| &outage.fault)
    }

    pub(in crate::pool) fn max(&self) -> usize {
        self.bounds.max
    }

    pub(in crate::pool) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(in crate::pool) fn generation(&self) -> Generation {
        self.generation
    }

    /// Connections that are, or will be, of use.
    pub(super) fn live(&self) -> usize {
        self.idle.len() + self.leased + self.resetting
    }

    pub(super) fn idle_wanted(&self) -> usize {
        self.bounds.idle_min.saturating_sub(self.live())
    }

    /// The invariants; swept after every step of the simulation.
    #[cfg(test)]
    pub(in crate::pool) fn check(&self) {
        assert!(self.slots() <= self.bounds.max, "more slots than allowed");
        assert!(
            self.queue.len() <= self.bounds.queue_max,
            "queue beyond its bound"
        );
        assert!(
            self.queue.is_empty() || self.idle.is_empty() || self.paused,
            "somebody waits while a connection is idle"
        );
        assert!(
            self.queue.is_empty() || self.queue.watched,
            "nobody looks after the line"
        );
    }
}
