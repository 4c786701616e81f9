//! How many bytes of large commands the clients of one tenant may have here at once.
//!
//! Documents stream, but a command's body is judged whole, and what came compressed is unpacked whole.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Messages up to this size take no room.
pub(crate) const FREE_BYTES: usize = 64 * 1024;
/// Bytes of one unit.
const UNIT_BYTES: usize = 1024;

/// The room of one tenant.
pub(crate) struct Room {
    units: Arc<Semaphore>,
    most: usize,
}

/// A piece of the room, for as long as a command is here.
pub(crate) type Place = OwnedSemaphorePermit;

impl Room {
    /// That many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let most = (bytes_max / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            units: Arc::new(Semaphore::new(most)),
            most,
        }
    }

    /// Room for a command, first come first served; nothing, when there is none for that long. What is larger than all of
    /// it has it alone.
    ///
    /// # Cancel safety
    /// Safe: a dropped future leaves the line.
    pub(crate) async fn take(&self, bytes: usize, wait_max: Duration) -> Option<Place> {
        let units = bytes.div_ceil(UNIT_BYTES).min(self.most);
        let units = u32::try_from(units).ok()?;
        let taking = Arc::clone(&self.units).acquire_many_owned(units);
        // The semaphore is never closed.
        timeout(wait_max, taking).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn room_is_given_in_turn_and_comes_back() {
        let room = Room::new(100 * UNIT_BYTES);
        let wait_max = Duration::from_secs(1);
        let first = room.take(60 * UNIT_BYTES, wait_max).await;
        assert!(first.is_some());
        assert!(room.take(60 * UNIT_BYTES, wait_max).await.is_none());
        assert!(room.take(40 * UNIT_BYTES, wait_max).await.is_some());
        drop(first);
        assert!(room.take(1_000 * UNIT_BYTES, wait_max).await.is_some());
    }
}
