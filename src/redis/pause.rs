//! `CLIENT PAUSE ... WRITE`: writes that the server holds back must not hold up what is behind them on a
//! trunk, and least of all the `CLIENT UNPAUSE`. While it lasts each has an upstream of its own.
//!
//! Only a pause that a client of ours has asked for is known of.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::time::Instant;

/// How long after its end the server may hold writes back: it looks at its clock at least once a second
/// (`hz`), and begins and ends a pause a little later than is noted here.
const LINGER_MAX: Duration = Duration::from_secs(2);

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
        self.is_within(Duration::ZERO)
    }

    /// Whether the server may still hold back writes that it got while they were paused.
    pub(super) fn may_linger(&self) -> bool {
        self.is_within(LINGER_MAX)
    }

    /// Notes what a client asks for with a `CLIENT PAUSE`. False: the server refuses it, or pauses more
    /// than writes.
    pub(super) fn begin(&self, words: &[Bytes]) -> bool {
        let [_, _, time, mode] = words else {
            return false;
        };
        let time = milliseconds(time).filter(|_| mode.eq_ignore_ascii_case(b"write"));
        if let Some(time) = time {
            let until = self.now().saturating_add(time).saturating_add(1);
            self.until.fetch_max(until, Ordering::Relaxed);
        }
        time.is_some()
    }

    /// Notes that it is over.
    pub(super) fn end(&self) {
        let now = self.now();
        self.until.fetch_min(now, Ordering::Relaxed);
    }

    fn is_within(&self, after: Duration) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until != 0 && self.began.elapsed() < Duration::from_millis(until).saturating_add(after)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A time as the server takes it: its end, counted from 1970, has to fit into what the server counts in.
fn milliseconds(word: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(word).ok()?;
    let time = text.parse::<i64>().ok()?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let end = i128::from(time) + i128::try_from(since_1970.as_millis()).ok()?;
    if time.to_string() != text || end > i128::from(i64::MAX) {
        return None;
    }
    u64::try_from(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_noted(words: &[&str]) -> bool {
        let words: Vec<Bytes> = words
            .iter()
            .map(|word| Bytes::copy_from_slice(word.as_bytes()))
            .collect();
        let pause = Pause::new();
        assert_eq!(pause.begin(&words), pause.is_on());
        pause.is_on()
    }

    #[test]
    fn only_what_the_server_takes_is_a_pause_of_writes() {
        assert!(is_noted(&["CLIENT", "PAUSE", "1000", "write"]));
        assert!(is_noted(&["CLIENT", "PAUSE", "1000000000000", "WRITE"]));
        for time in ["-1", "+5", "05", "x", "", "9223372036854775807"] {
            assert!(!is_noted(&["CLIENT", "PAUSE", time, "WRITE"]), "{time}");
        }
        for words in [
            &["CLIENT", "PAUSE", "1000"][..],
            &["CLIENT", "PAUSE", "1000", "ALL"],
            &["CLIENT", "PAUSE", "1000", "WRITE", "WRITE"],
        ] {
            assert!(!is_noted(words), "{words:?}");
        }
    }
}
