//! What the clients of a tenant can see of each other: the fields of `CLIENT LIST`.
//!
//! Each session keeps its own line up to date when it begins to wait; others only read.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{outbox::Outbox, subscriptions::Counts, wire::Version};

/// Everybody who is logged in to one tenant.
#[derive(Default)]
pub(super) struct Presences {
    live: DashMap<u64, Arc<Presence>>,
}

/// One client, as others see it.
pub(super) struct Presence {
    local: Option<SocketAddr>,
    outbox: Weak<Outbox>,
    began: Instant,
    database: AtomicU32,
    version: AtomicU8,
    channels: AtomicU32,
    patterns: AtomicU32,
    shards: AtomicU32,
    /// Commands queued in its transaction; -1 outside of one.
    queued: AtomicI64,
    /// The last command, as the table numbers them.
    command: AtomicU16,
    /// Where invalidations go: a client's number, 0 for itself, -1 without tracking.
    redirect: AtomicI64,
    /// Bytes read and not served yet.
    unserved: AtomicU32,
    /// Milliseconds from `began` to the last command.
    active: AtomicU64,
    library: Mutex<Library>,
}

/// What a client says of the driver that it uses.
#[derive(Debug, Clone, Default)]
pub(super) struct Library {
    /// `lib-name`.
    pub(super) name: Box<str>,
    /// `lib-ver`.
    pub(super) version: Box<str>,
}

/// What a session tells of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Telling {
    pub(super) database: u32,
    pub(super) version: Version,
    pub(super) counts: Counts,
    pub(super) queued: i64,
    pub(super) command: u16,
    pub(super) redirect: i64,
    pub(super) unserved: usize,
}

/// The same, read by others.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) local: Option<SocketAddr>,
    pub(super) database: u32,
    pub(super) version: u8,
    pub(super) channels: u32,
    pub(super) patterns: u32,
    pub(super) shards: u32,
    pub(super) queued: i64,
    pub(super) command: u16,
    pub(super) redirect: i64,
    pub(super) unserved: u32,
    pub(super) idle: Duration,
    pub(super) library: Library,
}

/// A client's entry; dropped, it is gone.
pub(super) struct Entry {
    all: Arc<Presences>,
    id: u64,
    own: Arc<Presence>,
}

impl Presences {
    /// Enters a client.
    pub(super) fn enter(
        self: &Arc<Self>,
        id: u64,
        local: Option<SocketAddr>,
        outbox: &Arc<Outbox>,
    ) -> Entry {
        let own = Arc::new(Presence {
            local,
            outbox: Arc::downgrade(outbox),
            began: Instant::now(),
            database: AtomicU32::new(0),
            version: AtomicU8::new(2),
            channels: AtomicU32::new(0),
            patterns: AtomicU32::new(0),
            shards: AtomicU32::new(0),
            queued: AtomicI64::new(-1),
            command: AtomicU16::new(u16::MAX),
            redirect: AtomicI64::new(-1),
            unserved: AtomicU32::new(0),
            active: AtomicU64::new(0),
            library: Mutex::default(),
        });
        self.live.insert(id, Arc::clone(&own));
        let all = Arc::clone(self);
        Entry { all, id, own }
    }

    /// A client's output, and what is known of it.
    pub(super) fn reach(&self, id: u64) -> Option<(Arc<Outbox>, Seen)> {
        let outbox = self.live.get(&id)?.outbox.upgrade()?;
        Some((outbox, self.see(id)?))
    }

    /// What is known of a client.
    pub(super) fn see(&self, id: u64) -> Option<Seen> {
        let found = self.live.get(&id).map(|found| Arc::clone(&found))?;
        let active = Duration::from_millis(found.active.load(Ordering::Relaxed));
        let library = found.library.lock().clone();
        Some(Seen {
            local: found.local,
            database: found.database.load(Ordering::Relaxed),
            version: found.version.load(Ordering::Relaxed),
            channels: found.channels.load(Ordering::Relaxed),
            patterns: found.patterns.load(Ordering::Relaxed),
            shards: found.shards.load(Ordering::Relaxed),
            queued: found.queued.load(Ordering::Relaxed),
            command: found.command.load(Ordering::Relaxed),
            redirect: found.redirect.load(Ordering::Relaxed),
            unserved: found.unserved.load(Ordering::Relaxed),
            idle: found.began.elapsed().saturating_sub(active),
            library,
        })
    }
}

impl Entry {
    /// Tells how things stand.
    pub(super) fn tell(&self, telling: Telling) {
        let own = &self.own;
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        own.database.store(telling.database, Ordering::Relaxed);
        own.version
            .store(telling.version.number(), Ordering::Relaxed);
        own.channels
            .store(count(telling.counts.channels), Ordering::Relaxed);
        own.patterns
            .store(count(telling.counts.patterns), Ordering::Relaxed);
        own.shards
            .store(count(telling.counts.shards), Ordering::Relaxed);
        own.queued.store(telling.queued, Ordering::Relaxed);
        own.command.store(telling.command, Ordering::Relaxed);
        own.redirect.store(telling.redirect, Ordering::Relaxed);
        own.unserved
            .store(count(telling.unserved), Ordering::Relaxed);
        let active = own.began.elapsed().as_millis();
        own.active
            .store(u64::try_from(active).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Notes the driver's name or version.
    pub(super) fn note_library(&self, note: impl FnOnce(&mut Library)) {
        note(&mut self.own.library.lock());
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.all.live.remove(&self.id);
    }
}
