//! The growing delay after failed logins, per address and per tenant.
//!
//! Pure: takes `now`, says how long to wait. Bounded: the oldest entry goes when the table is full.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

/// Entries remembered at most.
const ENTRIES_MAX: usize = 10_000;
/// Failures that cost nothing: typing errors.
const FREE: u32 = 3;
/// The first delay; doubled by each further failure.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// The longest delay.
const DELAY_MAX: Duration = Duration::from_secs(5);
/// Failures of one address on one name after which logins are refused without looking.
const BLOCK_AFTER: u32 = 50;
/// An entry without failures for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_mins(5);

/// Whose failures are counted: an address together with the login it tried.
///
/// Both, because an address may be a whole company's, and a login alone would let anybody lock out
/// its owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ThrottleKey {
    /// The client's address.
    pub address: IpAddr,
    /// The login.
    pub name: String,
}

/// Failures of late.
#[derive(Debug, Default)]
pub struct Throttle {
    entries: HashMap<ThrottleKey, Entry>,
}

#[derive(Debug)]
struct Entry {
    failures: u32,
    last: Instant,
}

impl Throttle {
    /// How long to wait before a login may even be looked at; `None` for at once.
    pub fn blocked(&self, key: &ThrottleKey, now: Instant) -> Option<Duration> {
        let entry = self.entries.get(key)?;
        let until = entry.last + FORGET_AFTER;
        (entry.failures >= BLOCK_AFTER && now < until).then(|| until - now)
    }

    /// Counts a failure; the answer is to be delayed by the returned time.
    pub fn failed(&mut self, key: ThrottleKey, now: Instant) -> Duration {
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&key) {
            self.make_room(now);
        }
        let entry = self.entries.entry(key).or_insert(Entry {
            failures: 0,
            last: now,
        });
        if now - entry.last >= FORGET_AFTER {
            entry.failures = 0;
        }
        entry.failures = entry.failures.saturating_add(1);
        entry.last = now;
        let beyond = entry.failures.saturating_sub(FREE);
        if beyond == 0 {
            return Duration::ZERO;
        }
        DELAY_MIN
            .saturating_mul(1 << (beyond - 1).min(16))
            .min(DELAY_MAX)
    }

    /// A success clears the record.
    pub fn succeeded(&mut self, key: &ThrottleKey) {
        self.entries.remove(key);
    }

    fn make_room(&mut self, now: Instant) {
        self.entries
            .retain(|_, entry| now - entry.last < FORGET_AFTER);
        if self.entries.len() < ENTRIES_MAX {
            return;
        }
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ThrottleKey {
        ThrottleKey {
            address: IpAddr::from([127, 0, 0, 1]),
            name: name.into(),
        }
    }

    #[test]
    fn delay_grows_after_typing_errors_and_ends_with_success() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        let delays: Vec<_> = (0..6)
            .map(|_| throttle.failed(key("a"), now).as_millis())
            .collect();
        assert_eq!(delays, [0, 0, 0, 100, 200, 400]);
        throttle.succeeded(&key("a"));
        assert_eq!(throttle.failed(key("a"), now), Duration::ZERO);
    }

    #[test]
    fn many_failures_block_that_name_from_that_address_only() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        for _ in 0..BLOCK_AFTER {
            throttle.failed(key("a"), now);
        }
        assert!(throttle.blocked(&key("a"), now).is_some());
        assert!(throttle.blocked(&key("b"), now).is_none());
        assert!(throttle.blocked(&key("a"), now + FORGET_AFTER).is_none());
    }

    #[test]
    fn table_is_bounded() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        for n in 0..ENTRIES_MAX + 10 {
            throttle.failed(key(&n.to_string()), now);
        }
        assert_eq!(throttle.entries.len(), ENTRIES_MAX);
    }
}
