//! The use of one upstream for one exchange.

use std::sync::Arc;

use super::{CloseReason, Dial, Pool, Residue, budget::Slot, core::Meta};

/// An upstream in use. Poisoned by default: dropped, it is closed and its place is free.
#[must_use]
pub struct Lease<D: Dial> {
    /// The upstream itself. Boxed, because it changes hands several times for each exchange.
    pub upstream: Box<D::Upstream>,
    place: Place<D>,
}

/// The accounting side of a lease: a separate field, so that the upstream can be moved out.
struct Place<D: Dial> {
    pool: Arc<Pool<D>>,
    meta: Meta,
    slot: Option<Slot>,
}

impl<D: Dial> Lease<D> {
    pub(super) fn new(
        pool: Arc<Pool<D>>,
        upstream: Box<D::Upstream>,
        meta: Meta,
        slot: Slot,
    ) -> Self {
        Self {
            upstream,
            place: Place {
                pool,
                meta,
                slot: Some(slot),
            },
        }
    }

    /// The pool that it comes from.
    pub fn pool(&self) -> &Arc<Pool<D>> {
        &self.place.pool
    }

    /// Whether it will be closed when it comes back: the registration has changed, or an operator asked.
    pub fn is_retired(&self) -> bool {
        let core = self.place.pool.core.lock();
        let Meta {
            generation, epoch, ..
        } = self.place.meta;
        (generation, epoch) != (core.generation(), core.epoch())
    }

    /// The only way back. `NeedsReset` resets before anybody else can have it.
    pub fn give_back(self, residue: Residue) {
        let Self {
            upstream,
            mut place,
        } = self;
        let Some(slot) = place.slot.take() else {
            return;
        };
        let pool = Arc::clone(&place.pool);
        match residue {
            Residue::Clean => pool.take_back(upstream, place.meta, slot),
            Residue::NeedsReset => pool.reset(upstream, place.meta, slot),
            Residue::Broken(reason) => pool.close_leased(upstream, slot, reason),
        }
    }
}

impl<D: Dial> Drop for Place<D> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.pool.lost(slot, CloseReason::Abandoned);
        }
    }
}
