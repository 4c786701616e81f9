//! The task that looks after one line: it waits upstream for whoever stands there.
//!
//! One lease at a time. When others wait for a lease it is held for [`TURN`] and given up, so that any
//! number of lines get their turns, in the order of asking. While it is held, the server counts this
//! line among those blocked on the key, and serves lines and other clients in its own order.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    Outcome, Share, Wish,
    ending::{End, Replies, Unblocking, end_wait, settle},
};
use crate::{
    fault::{Effect, Refusal},
    pool::{CloseReason, Lease, Residue},
    redis::{
        upstream::{AskFault, Dialer},
        wire::{self, Version},
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
/// How often it is looked whether a pause of writes is over.
const PAUSE_LOOK: Duration = Duration::from_millis(100);
/// A reply that comes sooner than this shows that there is more to be had.
const AT_ONCE: Duration = Duration::from_millis(2);
/// Elements that are asked for at once at most.
pub(super) const BATCH_MAX: usize = 64;
/// Attempts to find an upstream for putting back what nobody is there to get.
const RETURNS_MAX: u32 = 20;
/// The pause between them.
const RETURN_PAUSE: Duration = Duration::from_millis(500);

const HELLO_2: &[u8] = b"*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n";
const HELLO_3: &[u8] = b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n";

/// What the server said.
struct Answer<'a> {
    replies: Vec<Bytes>,
    /// The number in line up to which the replies say that there was nothing, where one is null.
    before: u64,
    /// The end of the wait was asked for, and the server has not said yet what came of it.
    unblocking: Option<Unblocking<'a>>,
}

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
        let reached = async {
            self.unpaused().await;
            let permit = self.station.turn().await?;
            let (version, database) = (self.wish.version, self.wish.database);
            let lease = self.station.upstream(version, database).await?;
            Ok((permit, lease))
        };
        let mut reached = std::pin::pin!(reached);
        let (permit, mut lease) = loop {
            tokio::select! {
                biased;
                reached = &mut reached => break reached?,
                is_deserted = self.pressed() => {
                    if is_deserted {
                        return Ok(());
                    }
                    self.ask_aside().await;
                }
            }
        };
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

    /// Resolves when there is nothing left to do, or when somebody's time is over (false).
    async fn pressed(&self) -> bool {
        loop {
            if self.line.lock().is_empty() {
                return true;
            }
            let is_late = self.late() > 0;
            if is_late && !self.is_paused() {
                return false;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = self.unpaused(), if is_late => {}
            }
        }
    }

    /// Resolves when the server does not hold back what this line waits for.
    async fn unpaused(&self) {
        while self.is_paused() {
            sleep(PAUSE_LOOK).await;
        }
    }

    /// Whether the server holds back what this line waits for: on a trunk it would hold up everybody, and
    /// on a lease there would be no ending it.
    fn is_paused(&self) -> bool {
        self.writes() && self.station.pause().is_on()
    }

    /// Whether the server may hold a wait of this line back. `CLIENT UNBLOCK` of such a client ends servers
    /// that lack <https://github.com/redis/redis/pull/14164>.
    fn may_be_held_back(&self) -> bool {
        self.writes() && self.station.pause().may_linger()
    }

    fn writes(&self) -> bool {
        self.wish.kind != super::wish::Kind::Read
    }

    /// Asks over a trunk, without waiting, for those whose time is over.
    async fn ask_aside(&self) {
        let (many, before) = (self.late_many(), self.next());
        let version = self.wish.version.unwrap_or(self.version);
        // What is rendered for older clients cannot be rendered for newer ones.
        let is_raised = self.wish.is_scored() && version == Version::Resp2;
        let (mut commands, mut count) = self.wish.at_once(many);
        if is_raised {
            commands = [HELLO_3, &commands[..], HELLO_2].concat().as_slice().into();
            count += 2;
        }
        let database = self.wish.database;
        let asked = self.station.converse(version, database, (&commands, count));
        match asked.await {
            Ok(mut replies) => {
                if is_raised {
                    replies = replies.drain(1..count - 1).collect();
                }
                self.take_all(Wish::outcomes(&replies), before);
            }
            Err(refusal) => self.tell_late(before, &Outcome::Refused(refusal)),
        }
    }

    /// For how many the server is asked when the time of some is over.
    fn late_many(&self) -> usize {
        match self.wish.kind {
            super::wish::Kind::Read => 1,
            _ => self.late().clamp(1, BATCH_MAX),
        }
    }

    async fn wait(&self, lease: &mut Lease<Dialer>) -> Result<(), AskFault> {
        let began = Instant::now();
        let id = lease.upstream.number().await?;
        let mut is_plenty = false;
        loop {
            self.deal();
            if self.is_paused() {
                return Ok(());
            }
            let waiting = self.waiting();
            if waiting == 0 {
                return self.put_back(lease).await;
            }
            if began.elapsed() >= TURN && self.station.is_crowded() {
                return Ok(());
            }
            let sent = Instant::now();
            let many = waiting.min(BATCH_MAX);
            let asked = if self.late() > 0 {
                self.ask_many(lease, self.late_many()).await
            } else if is_plenty && many > 1 && self.wish.is_pop() {
                self.ask_many(lease, many).await
            } else {
                self.ask_one(lease, id, began).await
            };
            let Answer {
                replies,
                before,
                unblocking,
            } = match asked {
                Ok(answer) => answer,
                Err(fault) => {
                    // Something may have been on its way to the first; the others wait on.
                    let effect = Effect::Unknown;
                    self.tell_first(Outcome::Refused(Refusal::UpstreamLost { effect }));
                    return Err(fault);
                }
            };
            let is_full = replies.iter().all(|reply| !wire::is_null(reply));
            is_plenty = is_full && (replies.len() > 1 || sent.elapsed() < AT_ONCE);
            self.take_all(replies, before);
            if let Some(unblocking) = unblocking {
                // Whoever has the lease next would have its wait ended by it.
                settle(unblocking).await?;
            }
        }
    }

    /// Gives replies to whom they are for. Where there was nothing for some, the waits of those who came
    /// before `before` and whose time is over have ended.
    fn take_all(&self, replies: Vec<Bytes>, before: u64) {
        let is_full = replies.iter().all(|reply| !wire::is_null(reply));
        for reply in replies {
            self.take(reply);
        }
        if !is_full {
            self.tell_late(before, &Outcome::Expired);
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

    /// Waits on the server for one reply, until nobody wants it any longer or somebody's time is over.
    async fn ask_one(
        &self,
        lease: &mut Lease<Dialer>,
        id: Option<u64>,
        began: Instant,
    ) -> Result<Answer<'_>, AskFault> {
        let mut before = self.next();
        let slice = if id.is_some() { SLICE } else { SLICE_BLIND };
        let command = self.wish.command(slice);
        let asked = timeout(slice + GRACE, lease.upstream.converse(&command, 1));
        let mut asked = std::pin::pin!(asked);
        let mut again = None;
        loop {
            let crowded = self.station.crowded();
            let is_pressed = self.waiting() == 0 || self.late() > 0;
            let is_over = is_pressed || self.station.is_crowded();
            let may_end = is_over && (id.is_some() || self.late() > 0);
            if !is_over {
                again = None;
            }
            let due = again.or_else(|| match (is_pressed, is_over) {
                (true, _) => Some(Instant::now()),
                (false, true) => Some(began + TURN),
                (false, false) => None,
            });
            tokio::select! {
                biased;
                reply = &mut asked => return answer(reply, before, None),
                () = self.changed.notified() => {}
                () = crowded => {}
                () = until(due), if may_end => {
                    if self.may_be_held_back() {
                        again = Some(Instant::now() + PAUSE_LOOK);
                        continue;
                    }
                    let Some(id) = id else {
                        // It ends by itself soon enough, but not for those whose time is over.
                        self.ask_aside().await;
                        continue;
                    };
                    let next = self.next();
                    let unblocking = Box::pin(self.station.unblock(id));
                    match end_wait(asked.as_mut(), unblocking).await {
                        // There was nothing then, for anybody who had come.
                        End::Unblocked(None) => before = next,
                        End::Unblocked(Some(reply)) => return answer(reply, next, None),
                        End::Ended(reply, unblocking) => return answer(reply, before, unblocking),
                        End::Refused => {}
                    }
                    again = Some(Instant::now() + UNBLOCK_EVERY);
                }
            }
        }
    }

    /// Takes what there is for many at once, without waiting.
    async fn ask_many(
        &self,
        lease: &mut Lease<Dialer>,
        many: usize,
    ) -> Result<Answer<'_>, AskFault> {
        let before = self.next();
        let (commands, replies) = self.wish.at_once(many);
        let asked = lease.upstream.converse(&commands, replies);
        let replies = timeout(GRACE, asked)
            .await
            .map_err(|_| AskFault::Closed)??;
        Ok(Answer {
            replies: Wish::outcomes(&replies),
            before,
            unblocking: None,
        })
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

fn answer(
    reply: Replies,
    before: u64,
    unblocking: Option<Unblocking<'_>>,
) -> Result<Answer<'_>, AskFault> {
    Ok(Answer {
        replies: reply.map_err(|_| AskFault::Closed)??,
        before,
        unblocking,
    })
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
