//! `CLIENT PAUSE ... WRITE`: writes that the server holds back must not hold up what is behind them on a
//! trunk, and least of all the `CLIENT UNPAUSE`. While it lasts each has an upstream of its own.
//!
//! Only a pause that a client of ours has asked for is known of.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Until when the writes of a tenant are paused.
pub(super) struct Pause {
    began: Instant,
    /// Milliseconds from `began`; 0: they are not.
    until: AtomicU64,
}

impl Pause {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            until: AtomicU64::new(0),
        }
    }

    /// Whether writes are paused at the moment.
    pub(super) fn is_on(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until != 0 && self.began.elapsed() < Duration::from_millis(until)
    }

    /// Notes what a client asks for: the words of a `CLIENT PAUSE` from its time on.
    pub(super) fn begin(&self, time: &[u8], mode: &[u8]) {
        let time = std::str::from_utf8(time).ok();
        let time = time.and_then(|text| text.parse::<u64>().ok());
        if let Some(time) = time.filter(|_| mode.eq_ignore_ascii_case(b"write")) {
            let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let until = now.saturating_add(time).saturating_add(1);
            self.until.fetch_max(until, Ordering::Relaxed);
        }
    }

    /// Notes that a client ends it.
    pub(super) fn end(&self) {
        self.until.store(0, Ordering::Relaxed);
    }
}
