//! `CLIENT TRACKING ... REDIRECT`: invalidations for another client of the tenant.
//!
//! The server knows connections by numbers of its own, and the client that is meant has none there.
//! So it is told to redirect to an upstream of ours, a messenger: one for each client that
//! is redirected to, however many redirect to it. What it hears goes to that client, in the form that the server
//! would choose for it.

use std::{
    collections::HashMap,
    future::pending,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{sync::OwnedSemaphorePermit, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    outbox::Outbox,
    presence::{Presences, Seen},
    upstream::Dialer,
    wire,
};
use crate::{
    pool::{CloseReason, Lease, Residue},
    shutdown::Shutdown,
};

/// The longest message: the keys of one transaction come in one.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How often a client is looked after that takes too little of what it is told.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How a message begins in RESP3; what follows are the keys, or null for all of them.
const HEAD: &[u8] = b">2\r\n$10\r\ninvalidate\r\n";
/// The same for a subscriber in RESP2.
const HEAD_RESP2: &[u8] = b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";
const NULL: &[u8] = b"_\r\n";
const NULL_RESP2: &[u8] = b"$-1\r\n";

/// The messengers of one tenant, by the client that each is for.
#[derive(Default)]
pub(super) struct Messengers {
    live: Mutex<HashMap<u64, Weak<Messenger>>>,
}

/// An upstream that hears invalidations for one client; dropped by all who redirect to it, it closes.
pub(super) struct Messenger {
    /// By which number the server knows it.
    pub(super) number: u64,
    /// The client that it is for.
    pub(super) target: u64,
    end: CancellationToken,
}

/// What lets a messenger have an upstream for long: a turn, and the right to keep it.
pub(super) type Permits = [OwnedSemaphorePermit; 2];

impl Messengers {
    /// The messenger for a client, if there is one.
    pub(super) fn find(&self, target: u64) -> Option<Arc<Messenger>> {
        let found = self.live.lock().get(&target).and_then(Weak::upgrade);
        found.filter(|one| !one.end.is_cancelled())
    }

    /// Makes an upstream that the server knows by `number` the messenger for a client, unless another has
    /// become so meanwhile.
    pub(super) fn begin(
        &self,
        (number, target): (u64, u64),
        (lease, permits): (Lease<Dialer>, Permits),
        presences: Arc<Presences>,
        shutdown: &Shutdown,
    ) -> Arc<Messenger> {
        let messenger = Arc::new(Messenger {
            number,
            target,
            end: CancellationToken::new(),
        });
        let mut live = self.live.lock();
        live.retain(|_, one| one.strong_count() > 0);
        let other = live.get(&target).and_then(Weak::upgrade);
        if let Some(other) = other.filter(|one| !one.end.is_cancelled()) {
            lease.give_back(Residue::Clean);
            return other;
        }
        live.insert(target, Arc::downgrade(&messenger));
        drop(live);
        let end = messenger.end.clone();
        shutdown.spawn("redis-redirect", async move {
            carry(lease, target, &presences, end).await;
            drop(permits);
        });
        messenger
    }
}

impl Messenger {
    /// Closes it: its client has left, and the server tells those who redirect to it.
    pub(super) fn close(&self) {
        self.end.cancel();
    }
}

impl Drop for Messenger {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Hands on what comes until nobody redirects any more, the client has left, or the upstream is lost.
async fn carry(
    mut lease: Lease<Dialer>,
    target: u64,
    presences: &Presences,
    end: CancellationToken,
) {
    // A client that takes too little of what it is told, and has to be looked after.
    let mut slow: Option<Arc<Outbox>> = None;
    let reign = lease.upstream.reign.clone();
    let mut over = pin!(async move {
        match reign {
            Some(reign) => reign.over().await,
            None => pending().await,
        }
    });
    loop {
        let frame = tokio::select! {
            biased;
            () = end.cancelled() => break,
            // Another server may know somebody else by its number.
            () = &mut over => break,
            frame = lease.upstream.frame(MESSAGE_BYTES_MAX) => frame,
            () = sleep(LOOK_EVERY), if slow.is_some() => {
                slow = slow.filter(|outbox| outbox.look_at_clock());
                continue;
            }
        };
        let keys = frame
            .as_ref()
            .ok()
            .and_then(|frame| frame.strip_prefix(HEAD));
        let Some((keys, (outbox, seen))) = keys.zip(presences.reach(target)) else {
            break;
        };
        if let Some(message) = message(&seen, keys)
            && outbox.publish(&message)
            && outbox.flush_watching()
        {
            slow = Some(outbox);
        }
    }
    end.cancel();
    lease.give_back(Residue::Broken(CloseReason::Dirty));
}

/// What a client is told; in RESP2 only a subscriber can be told anything unasked.
fn message(seen: &Seen, keys: &[u8]) -> Option<Bytes> {
    let mut out = BytesMut::new();
    if seen.version == 3 {
        out.put_slice(HEAD);
        out.put_slice(keys);
    } else if seen.channels + seen.patterns + seen.shards > 0 {
        out.put_slice(HEAD_RESP2);
        out.put_slice(if keys == NULL { NULL_RESP2 } else { keys });
    } else {
        return None;
    }
    Some(out.freeze())
}

/// Replaces the number of a messenger by that of its client in a reply to `CLIENT TRACKINGINFO`.
pub(super) fn renumbered(reply: &[u8], (from, to): (u64, u64)) -> BytesMut {
    let line = |number| {
        let mut line = BytesMut::from(&b"$8\r\nredirect\r\n"[..]);
        wire::integer(&mut line, number);
        line
    };
    let (from, to) = (line(from), line(to));
    let mut out = BytesMut::with_capacity(reply.len());
    match memchr::memmem::find(reply, &from) {
        Some(at) => {
            out.put_slice(reply.get(..at).unwrap_or_default());
            out.put_slice(&to);
            out.put_slice(reply.get(at + from.len()..).unwrap_or_default());
        }
        None => out.put_slice(reply),
    }
    out
}
