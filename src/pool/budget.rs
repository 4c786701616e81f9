//! The bound on upstreams of all tenants and protocols together, and who gives way when it is spent.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// A pool as the budget sees it: something that can give up an idle upstream, and be told to go on.
pub(super) trait Claimant: Send + Sync {
    /// When the pool last granted a lease, if it has an idle upstream to give up.
    fn evictable_since(&self) -> Option<Instant>;
    /// Closes one idle upstream; its slot comes back through [`Slot`]'s drop.
    fn evict(&self) -> bool;
    /// A slot may be had now.
    fn poke(&self);
}

/// The count of slots, shared by every fleet.
pub struct Budget {
    state: Mutex<State>,
    max: usize,
}

struct State {
    used: usize,
    claimants: Vec<Weak<dyn Claimant>>,
    /// Pools that were denied, in turn: a loud tenant cannot starve a quiet one.
    denied: VecDeque<Weak<dyn Claimant>>,
}

/// The right for one upstream to exist. Minted by [`Budget`] only; dropped, the place is free.
#[must_use]
pub(super) struct Slot {
    budget: Arc<Budget>,
}

impl Budget {
    /// A budget of `max` upstreams.
    pub fn new(max: usize) -> Arc<Self> {
        let state = State {
            used: 0,
            claimants: Vec::new(),
            denied: VecDeque::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            max,
        })
    }

    /// Upstreams that exist now.
    pub fn used(&self) -> usize {
        self.state.lock().used
    }

    pub(super) fn join(&self, claimant: Weak<dyn Claimant>) {
        let mut state = self.state.lock();
        state.claimants.retain(|one| one.strong_count() > 0);
        state.claimants.push(claimant);
    }

    /// A slot, if need be at the cost of the idle upstream of the least recently used pool.
    ///
    /// `None`: everything is in use; the claimant is poked when a slot becomes free.
    pub(super) fn acquire(self: &Arc<Self>, claimant: &Weak<dyn Claimant>) -> Option<Slot> {
        if let Some(slot) = self.take() {
            return Some(slot);
        }
        // The lock is not held while pools are asked: they lock themselves.
        let pools: Vec<_> = self
            .state
            .lock()
            .claimants
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let oldest = pools
            .iter()
            .filter_map(|pool| Some((pool.evictable_since()?, pool)))
            .min_by_key(|(since, _)| *since);
        if oldest.is_some_and(|(_, pool)| pool.evict())
            && let Some(slot) = self.take()
        {
            return Some(slot);
        }
        self.state.lock().denied.push_back(Weak::clone(claimant));
        None
    }

    fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.state.lock();
        (state.used < self.max).then(|| {
            state.used += 1;
            Slot {
                budget: Arc::clone(self),
            }
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let next = {
            let mut state = self.budget.state.lock();
            state.used -= 1;
            loop {
                match state.denied.pop_front() {
                    None => break None,
                    Some(weak) => {
                        if let Some(claimant) = weak.upgrade() {
                            break Some(claimant);
                        }
                    }
                }
            }
        };
        if let Some(claimant) = next {
            claimant.poke();
        }
    }
}
