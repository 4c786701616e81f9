//! The task that looks after one line: it waits upstream for whoever stands there.
//!
//! One lease at a time. When others wait for a lease it is held for [`TURN`] and given up, so that any
//! number of lines get their turns, in the order of asking. While it is held, the server counts this
//! line among those blocked on the key, and serves lines and other clients in its own order.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Outcome, Share};
use crate::{
    fault::{Effect, Refusal},
    pool::{CloseReason, Lease, Residue},
    redis::{
        upstream::{AskFault, Dialer},
        wire,
    },
};

/// How long a lease is kept when others wait for one.
const TURN: Duration = Duration::from_millis(20);
/// How long one wait upstream lasts at most: a connection that has died silently is noticed then.
const SLICE: Duration = Duration::from_secs(10);
/// The same where the server does not let us end it.
const SLICE_BLIND: Duration = Duration::from_secs(1);
/// How much longer than it should a wait upstream may take.
const GRACE: Duration = Duration::from_mins(1);
/// How soon it is tried again to end a wait that had not begun.
const UNBLOCK_EVERY: Duration = Duration::from_millis(5);
/// A reply that comes sooner than this shows that there is more to be had.
const AT_ONCE: Duration = Duration::from_millis(2);
/// Elements that are asked for at once at most.
pub(super) const BATCH_MAX: usize = 64;
/// Attempts to find an upstream for putting back what nobody is there to get.
const RETURNS_MAX: u32 = 20;
/// The pause between them.
const RETURN_PAUSE: Duration = Duration::from_millis(500);

/// Looks after a line until nobody stands in it.
pub(super) async fn run(share: Arc<Share>) {
    let mut failures = 0;
    while !share.station.shares().forget(&share) {
        match share.hold().await {
            Ok(()) => failures = 0,
            Err(refusal) => {
                share.tell_all(&Outcome::Refused(refusal));
                failures += 1;
                let owed = share.line.lock().unclaimed.len();
                if owed > 0 && failures > RETURNS_MAX {
                    tracing::error!(
                        elements = owed,
                        "could not put back what nobody was there to get"
                    );
                    share.line.lock().unclaimed.clear();
                } else if owed > 0 {
                    sleep(RETURN_PAUSE).await;
                }
            }
        }
    }
}

impl Share {
    /// One turn at an upstream.
    async fn hold(&self) -> Result<(), Refusal> {
        let permit = tokio::select! {
            permit = self.station.turn() => permit?,
            () = self.deserted() => return Ok(()),
        };
        let version = self.wish.version;
        let mut lease = self.station.upstream(version, self.wish.database).await?;
        let reign = lease.upstream.reign.clone();
        let deposed = async move {
            match reign {
                Some(reign) => reign.over().await,
                None => std::future::pending().await,
            }
        };
        let waited = tokio::select! {
            biased;
            waited = self.wait(&mut lease) => waited,
            // An old master's elements are not the tenant's any more.
            () = deposed => Err(AskFault::Closed),
        };
        let residue = match waited {
            Ok(()) => Residue::Clean,
            Err(fault) => {
                tracing::debug!(%fault, "lost while waiting for clients that block");
                Residue::Broken(CloseReason::Lost)
            }
        };
        lease.give_back(residue);
        drop(permit);
        Ok(())
    }

    /// Resolves when there is nothing left to do.
    async fn deserted(&self) {
        while !self.line.lock().is_empty() {
            self.changed.notified().await;
        }
    }

    async fn wait(&self, lease: &mut Lease<Dialer>) -> Result<(), AskFault> {
        let began = Instant::now();
        let id = lease.upstream.number().await?;
        let mut is_plenty = false;
        loop {
            self.deal();
            let waiting = self.waiting();
            if waiting == 0 {
                return self.put_back(lease).await;
            }
            if began.elapsed() >= TURN && self.station.is_crowded() {
                return Ok(());
            }
            let sent = Instant::now();
            let many = waiting.min(BATCH_MAX);
            let asked = if is_plenty && many > 1 && self.wish.is_pop() {
                self.ask_many(lease, many).await
            } else {
                self.ask_one(lease, id, began)
                    .await
                    .map(|reply| vec![reply])
            };
            let replies = match asked {
                Ok(replies) => replies,
                Err(fault) => {
                    // Something may have been on its way to the first; the others wait on.
                    let effect = Effect::Unknown;
                    self.tell_first(Outcome::Refused(Refusal::UpstreamLost { effect }));
                    return Err(fault);
                }
            };
            let is_full = replies.iter().all(|reply| !wire::is_null(reply));
            is_plenty = is_full && (replies.len() > 1 || sent.elapsed() < AT_ONCE);
            for reply in replies {
                self.take(reply);
            }
        }
    }

    /// Gives a reply to whom it is for.
    fn take(&self, reply: Bytes) {
        let is_for_all = self.wish.kind == super::wish::Kind::Read || reply.starts_with(b"-");
        if wire::is_null(&reply) {
            return;
        }
        if is_for_all {
            // An error would be everybody's, for they have all sent the same.
            return self.tell_all(&Outcome::Reply(reply));
        }
        self.line.lock().unclaimed.push_back(reply);
        self.deal();
    }

    /// Waits on the server for one reply, until nobody wants it any longer.
    async fn ask_one(
        &self,
        lease: &mut Lease<Dialer>,
        id: Option<u64>,
        began: Instant,
    ) -> Result<Bytes, AskFault> {
        let slice = if id.is_some() { SLICE } else { SLICE_BLIND };
        let command = self.wish.command(slice);
        let asked = timeout(slice + GRACE, lease.upstream.converse(&command, 1));
        let mut asked = std::pin::pin!(asked);
        let mut again = None;
        loop {
            let crowded = self.station.crowded();
            let is_unwanted = self.waiting() == 0;
            let is_over = is_unwanted || self.station.is_crowded();
            let due = again.or_else(|| match (is_unwanted, is_over) {
                (true, _) => Some(Instant::now()),
                (false, true) => Some(began + TURN),
                (false, false) => None,
            });
            tokio::select! {
                biased;
                reply = &mut asked => {
                    let mut replies = reply.map_err(|_| AskFault::Closed)??;
                    return replies.pop().ok_or(AskFault::Closed);
                }
                () = self.changed.notified() => {}
                () = crowded => {}
                () = until(due), if id.is_some() => {
                    if let (Some(id), true) = (id, is_over) {
                        let unblocked = self.station.unblock(id);
                        tokio::select! {
                            biased;
                            reply = &mut asked => {
                                let mut replies = reply.map_err(|_| AskFault::Closed)??;
                                return replies.pop().ok_or(AskFault::Closed);
                            }
                            () = unblocked => {}
                        }
                    }
                    again = is_over.then(|| Instant::now() + UNBLOCK_EVERY);
                }
            }
        }
    }

    /// Takes what there is for many at once, without waiting.
    async fn ask_many(
        &self,
        lease: &mut Lease<Dialer>,
        many: usize,
    ) -> Result<Vec<Bytes>, AskFault> {
        let mut commands = BytesMut::new();
        wire::encode_command(&mut commands, &["MULTI"]);
        // Inside a transaction it does not block.
        let command = self.wish.command(SLICE);
        for _ in 0..many {
            commands.extend_from_slice(&command);
        }
        wire::encode_command(&mut commands, &["EXEC"]);
        let asked = lease.upstream.converse(&commands, many + 2);
        let mut replies = timeout(GRACE, asked)
            .await
            .map_err(|_| AskFault::Closed)??;
        let replies = replies.pop().unwrap_or_default();
        // An error: it is heard again, and by everybody, from the command alone.
        Ok(wire::items(&replies).unwrap_or_else(|| vec![Bytes::from_static(b"_\r\n")]))
    }

    /// Puts back what nobody is there to get, the last that was taken first.
    async fn put_back(&self, lease: &mut Lease<Dialer>) -> Result<(), AskFault> {
        loop {
            let reply = {
                let mut line = self.line.lock();
                if !line.queue.is_empty() {
                    return Ok(());
                }
                line.unclaimed.pop_back()
            };
            let Some(reply) = reply else { return Ok(()) };
            let Some(command) = self.wish.undo(&reply) else {
                continue;
            };
            let asked = lease.upstream.converse(&command, 1);
            // Nothing is sent twice: without an answer it may be back, or not.
            let answer = timeout(GRACE, asked)
                .await
                .map_err(|_| AskFault::Closed)??;
            match answer.first() {
                Some(answer) if !answer.starts_with(b"-") => {
                    tracing::debug!("put back what nobody was there to get");
                }
                _ => tracing::error!("the server did not take back what nobody was there to get"),
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
