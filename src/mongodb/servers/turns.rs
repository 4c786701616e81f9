//! Who of the requests that wait for data may hold an upstream meanwhile.
//!
//! A `getMore` of a change stream holds its upstream until something happens. A share of the pool
//! is the most that all of them hold together; beyond it they take turns, in the order in which they
//! came, and the more of them there are the shorter each turn is.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit};

/// How long a server waits of itself when it is not told.
const ASKED_DEFAULT: Duration = Duration::from_secs(1);

/// The turns on one pool.
pub(crate) struct Turns {
    permits: Semaphore,
    /// Whether a waiting request can take all of the pool.
    is_all: bool,
    queued: AtomicUsize,
}

/// The right to wait on the server.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    _permit: Option<SemaphorePermit<'a>>,
}

/// How long waits may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// While everybody has a turn.
    pub(crate) whole: Duration,
    /// While others wait for theirs.
    pub(crate) short: Duration,
}

/// Leaves the count however the wait ends.
struct Queued<'a>(&'a AtomicUsize);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    /// As many turns at once as that share of a pool, at least one.
    pub(crate) fn new(pool_max: usize, share_percent: u8) -> Self {
        let share = (pool_max * usize::from(share_percent) / 100).max(1);
        Self {
            permits: Semaphore::new(share),
            is_all: share >= pool_max,
            queued: AtomicUsize::new(0),
        }
    }

    /// The next turn, first come first served.
    ///
    /// # Cancel safety
    /// Safe: a dropped future leaves the line.
    pub(crate) async fn take(&self) -> Turn<'_> {
        self.queued.fetch_add(1, Ordering::Relaxed);
        let _queued = Queued(&self.queued);
        Turn {
            turns: self,
            // The semaphore is never closed.
            _permit: self.permits.acquire().await.ok(),
        }
    }
}

impl Turn<'_> {
    /// How long this turn may be.
    pub(crate) fn wait(&self, asked: Option<Duration>, is_wanted: bool, waits: Waits) -> Duration {
        let is_crowded = self.turns.queued.load(Ordering::Relaxed) > 0;
        let most = if is_crowded || (is_wanted && self.turns.is_all) {
            waits.short
        } else {
            waits.whole
        };
        asked.unwrap_or(ASKED_DEFAULT).min(most)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::mpsc, time::timeout};

    use super::*;
    use crate::shutdown::Shutdown;

    const WAITS: Waits = Waits {
        whole: Duration::from_secs(1),
        short: Duration::from_millis(20),
    };

    #[tokio::test(start_paused = true)]
    async fn more_waits_than_turns_share_them_in_order() {
        let turns = std::sync::Arc::new(Turns::new(10, 20));
        let shutdown = Shutdown::new();
        let (sender, mut order) = mpsc::channel(64);
        for client in 0..6 {
            let (turns, sender) = (turns.clone(), sender.clone());
            shutdown.spawn("client", async move {
                let turn = turns.take().await;
                let wait = turn.wait(None, false, WAITS);
                sender.send((client, wait)).await.unwrap();
                tokio::time::sleep(wait).await;
            });
        }
        drop(sender);
        let mut seen = Vec::new();
        while let Some(next) = order.recv().await {
            seen.push(next);
        }
        let clients: Vec<_> = seen.iter().map(|(client, _)| *client).collect();
        assert_eq!(clients, [0, 1, 2, 3, 4, 5]);
        // The last two have nobody behind them.
        assert!(seen[2..4].iter().all(|(_, wait)| *wait == WAITS.short));
        assert!(seen[4..].iter().any(|(_, wait)| *wait == WAITS.whole));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_of_one_is_not_held_for_long_while_others_want_it() {
        let turns = Turns::new(1, 50);
        let turn = turns.take().await;
        assert_eq!(turn.wait(None, true, WAITS), WAITS.short);
        assert_eq!(turn.wait(None, false, WAITS), WAITS.whole);
        let asked = Duration::from_millis(5);
        assert_eq!(turn.wait(Some(asked), true, WAITS), asked);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_line_is_not_counted() {
        let turns = Turns::new(1, 50);
        let turn = turns.take().await;
        assert!(
            timeout(Duration::from_millis(1), turns.take())
                .await
                .is_err()
        );
        assert_eq!(turn.wait(None, false, WAITS), WAITS.whole);
    }
}
