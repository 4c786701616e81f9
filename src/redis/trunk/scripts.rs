//! Scripts on a trunk: one that runs for long holds up everybody who is behind it.
//!
//! The server itself goes on to serve other connections, at least to say that it is busy. So clients
//! that have nothing under way on such a trunk leave it, and hear that from another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, futures::Notified};

/// How long a script may run until the trunk counts as stuck behind it.
pub(super) const STUCK_AFTER: Duration = Duration::from_millis(80);

/// The trunks of a tenant that are stuck behind scripts.
#[derive(Default)]
pub(in crate::redis) struct Stuck {
    count: AtomicUsize,
    /// One of them is not stuck any longer.
    freed: Notify,
}

/// Whether a trunk is stuck behind a script, and whether others of its tenant are.
#[derive(Clone)]
pub(super) struct Scripts {
    own: Arc<AtomicBool>,
    all: Arc<Stuck>,
}

impl Stuck {
    /// Whether any is.
    pub(super) fn is_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Ready when one that was stuck when this was called is so no longer.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }
}

impl Scripts {
    /// Those of one trunk, and all of its tenant.
    pub(super) fn new(all: Arc<Stuck>) -> Self {
        Self {
            own: Arc::default(),
            all,
        }
    }

    /// Notes how things stand.
    pub(super) fn note(&self, is_stuck: bool) {
        if self.own.swap(is_stuck, Ordering::Relaxed) == is_stuck {
            return;
        }
        if is_stuck {
            self.all.count.fetch_add(1, Ordering::Relaxed);
        } else {
            self.all.count.fetch_sub(1, Ordering::Relaxed);
            self.all.freed.notify_waiters();
        }
    }

    /// Whether a script holds up this trunk.
    pub(super) fn is_stuck(&self) -> bool {
        self.own.load(Ordering::Relaxed)
    }

    /// Whether a script holds up any trunk of the tenant.
    pub(super) fn is_any_stuck(&self) -> bool {
        self.all.is_any()
    }
}

/// Whether a command of that name runs a script.
pub(in crate::redis) fn is_script(name: &[u8]) -> bool {
    let names: [&[u8]; 6] = [
        b"eval",
        b"evalsha",
        b"eval_ro",
        b"evalsha_ro",
        b"fcall",
        b"fcall_ro",
    ];
    matches!(name.first(), Some(b'e' | b'E' | b'f' | b'F'))
        && names.iter().any(|one| one.eq_ignore_ascii_case(name))
}
