//! The cache in front of the store: bounded, single flight, and of use while the store is down.
//!
//! Knows nothing of SQL: loading is passed in.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::{sync::Mutex as FlightLock, time::Instant};
use uuid::Uuid;

use super::{RegistryError, query::Entry};

/// Names that are known to be unknown, at most; older ones are forgotten.
const UNKNOWN_MAX: usize = 4096;
/// How long a failure, or the use of a stale entry, spares the store another attempt.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// What an entry is looked up by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Name(String),
    PublicId(String),
}

/// How the cache does, since the start.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct CacheFigures {
    /// Answered from the cache.
    pub hits: u64,
    /// Read from the store.
    pub misses: u64,
    /// Answered from an old entry, because the store was out of reach.
    pub stale: u64,
    /// Entries now.
    pub entries: usize,
}

/// How long entries are good, and how many there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct CacheLimits {
    pub(super) known_for: Duration,
    pub(super) unknown_for: Duration,
    pub(super) entries_max: usize,
}

pub(super) struct Cache {
    limits: CacheLimits,
    state: Mutex<State>,
    hits: AtomicU64,
    misses: AtomicU64,
    stale: AtomicU64,
}

struct State {
    known: Shelf,
    unknown: Shelf,
    flights: HashMap<Key, Arc<Flight>>,
    /// Counts our own writes; a load that began before one is not kept.
    writes: u64,
}

/// One load at a time for a key; remembers when the last one failed.
type Flight = FlightLock<Option<Instant>>;

impl Cache {
    pub(super) fn new(limits: CacheLimits) -> Self {
        Self {
            limits,
            state: Mutex::new(State {
                known: Shelf::new(limits.entries_max),
                unknown: Shelf::new(UNKNOWN_MAX.min(limits.entries_max)),
                flights: HashMap::new(),
                writes: 0,
            }),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            stale: AtomicU64::new(0),
        }
    }

    /// The entry of a key: the cached one while it is fresh, else what `load` gives, else, in an
    /// outage, the cached one whatever its age.
    ///
    /// # Cancel safety
    /// Safe: the next caller loads.
    pub(super) async fn get<F, L>(&self, key: Key, load: L) -> Result<Arc<Entry>, RegistryError>
    where
        L: FnOnce(Option<Arc<Entry>>) -> F,
        F: Future<Output = Result<Entry, RegistryError>>,
    {
        if let Some(entry) = self.fresh(&key) {
            return Ok(entry);
        }
        let boarding = Boarding::new(self, key);
        let mut failed = boarding.flight.lock().await;
        if let Some(entry) = self.fresh(&boarding.key) {
            return Ok(entry);
        }
        if failed.is_some_and(|at| at.elapsed() < OUTAGE_PAUSE) {
            return Err(RegistryError::Unavailable);
        }
        let (old, writes) = self.begin(&boarding.key);
        match load(old.clone()).await {
            Ok(entry) => {
                let entry = Arc::new(entry);
                self.keep(&boarding.key, &entry, writes);
                Ok(entry)
            }
            Err(error) if error.is_outage() => {
                if let Some(entry) = old {
                    self.prolong(&boarding.key, &entry, writes);
                    return Ok(entry);
                }
                *failed = Some(Instant::now());
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Forgets what a write of ours has changed: all of the project, and every unknown name.
    pub(super) fn forget(&self, project: Uuid) {
        let mut state = self.state.lock();
        state.writes += 1;
        state.known.retain(|entry| !entry.concerns(project));
        state.unknown.retain(|_| false);
    }

    pub(super) fn figures(&self) -> CacheFigures {
        CacheFigures {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            stale: self.stale.load(Ordering::Relaxed),
            entries: self.state.lock().known.entries.len(),
        }
    }

    fn fresh(&self, key: &Key) -> Option<Arc<Entry>> {
        let state = self.state.lock();
        let now = Instant::now();
        let slot = state
            .known
            .entries
            .get(key)
            .or_else(|| state.unknown.entries.get(key))?;
        (slot.fresh_until > now).then(|| {
            self.hits.fetch_add(1, Ordering::Relaxed);
            Arc::clone(&slot.entry)
        })
    }

    fn begin(&self, key: &Key) -> (Option<Arc<Entry>>, u64) {
        self.misses.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock();
        let old = state
            .known
            .entries
            .get(key)
            .map(|slot| Arc::clone(&slot.entry));
        (old, state.writes)
    }

    fn keep(&self, key: &Key, entry: &Arc<Entry>, writes: u64) {
        let mut state = self.state.lock();
        if state.writes != writes {
            return;
        }
        let now = Instant::now();
        if entry.is_empty() {
            state.known.entries.remove(key);
            state.unknown.put(key, entry, now + self.limits.unknown_for);
        } else {
            state.unknown.entries.remove(key);
            state.known.put(key, entry, now + self.limits.known_for);
        }
    }

    fn prolong(&self, key: &Key, entry: &Arc<Entry>, writes: u64) {
        self.stale.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.writes == writes {
            state.known.put(key, entry, Instant::now() + OUTAGE_PAUSE);
        }
    }
}

/// A bounded map that forgets what was put in first.
struct Shelf {
    entries: HashMap<Key, Slot>,
    /// Keys in the order of their last put, with that put's number; outdated ones are skipped.
    order: VecDeque<(Key, u64)>,
    puts: u64,
    max: usize,
}

struct Slot {
    entry: Arc<Entry>,
    fresh_until: Instant,
    put: u64,
}

impl Shelf {
    fn new(max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            puts: 0,
            max: max.max(1),
        }
    }

    fn put(&mut self, key: &Key, entry: &Arc<Entry>, fresh_until: Instant) {
        self.puts += 1;
        let slot = Slot {
            entry: Arc::clone(entry),
            fresh_until,
            put: self.puts,
        };
        self.entries.insert(key.clone(), slot);
        self.order.push_back((key.clone(), self.puts));
        while self.entries.len() > self.max {
            let Some((oldest, put)) = self.order.pop_front() else {
                return;
            };
            if self
                .entries
                .get(&oldest)
                .is_some_and(|slot| slot.put == put)
            {
                self.entries.remove(&oldest);
            }
        }
        if self.order.len() > 2 * self.max {
            let entries = &self.entries;
            self.order
                .retain(|(key, put)| entries.get(key).is_some_and(|slot| slot.put == *put));
        }
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.entries.retain(|_, slot| keep(&slot.entry));
    }
}

/// A place in the queue for a key's load; the last one to leave takes the flight off the list.
struct Boarding<'a> {
    cache: &'a Cache,
    key: Key,
    flight: Arc<Flight>,
}

impl<'a> Boarding<'a> {
    fn new(cache: &'a Cache, key: Key) -> Self {
        let flight = {
            let mut state = cache.state.lock();
            Arc::clone(state.flights.entry(key.clone()).or_default())
        };
        Self { cache, key, flight }
    }
}

impl Drop for Boarding<'_> {
    fn drop(&mut self) {
        let mut state = self.cache.state.lock();
        // Two owners: the list and this one.
        if Arc::strong_count(&self.flight) <= 2 {
            state.flights.remove(&self.key);
        }
    }
}
