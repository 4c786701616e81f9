//! The task that owns a trunk's connection: gathers, writes, reads, hands out.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    BATCH_BYTES, INBOX_BYTES_KEPT_MAX, Inbox,
    link::Link,
    scripts::{STUCK_AFTER, Scripts},
};
use crate::{
    net::Stream,
    redis::{settings::Settings, upstream::Upstream, wire::ReplyFault},
    signal::Seldom,
};

/// Room for each read: large, because one read serves many clients.
const READ_BYTES: usize = 64 * 1024;
/// Reads in a row before clients get what has come.
const READS_MAX: usize = 4;
/// Batches under way at once: one is worked on by the server while the next is on its way. More would
/// only be smaller, and cost the server a read each.
const BATCHES_MAX: usize = 2;
/// How often the clock is looked at.
const TICK_EVERY: Duration = Duration::from_millis(500);

/// Why a trunk ended.
#[derive(Debug, Error)]
pub(super) enum TrunkFault {
    /// Nobody used it for long, or another takes its place.
    #[error("not used any longer")]
    Unused,
    /// The server closed it.
    #[error("the server closed the connection")]
    Closed,
    /// The connection failed.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// The server sent what is no reply.
    #[error("broken reply: {0}")]
    Reply(#[from] ReplyFault),
    /// The server sent a reply that nobody asked for.
    #[error("a reply that nobody asked for")]
    Unasked,
    /// The server did not accept a database number that it accepted before, or was busy.
    #[error("the database could not be selected")]
    Select,
    /// Another server has taken the place of this one.
    #[error("another server is master now")]
    Deposed,
    /// The oldest command has waited too long.
    #[error("no reply for too long")]
    Stuck,
}

/// When a trunk ends by itself.
#[derive(Debug, Clone, Copy)]
pub(in crate::redis) struct Patience {
    /// Without commands.
    idle_after: Duration,
    /// Without any byte of a reply that is owed.
    reply_wait_max: Duration,
}

impl Patience {
    /// As the file says.
    pub(in crate::redis) fn of(settings: &Settings) -> Self {
        Self {
            idle_after: settings.trunk_idle_after,
            reply_wait_max: settings.reply_wait_max,
        }
    }
}

/// The connection's side of a trunk.
pub(super) struct Driver<'s> {
    pub(super) stream: &'s mut Stream,
    pub(super) inbox: Arc<Mutex<Inbox>>,
    pub(super) patience: Patience,
    /// Whether another trunk has to take its place: it is old, or the registration has changed.
    is_retired: Box<dyn Fn() -> bool + Send + 's>,
    /// Ready when the server is not the one to use any longer; `None` where that cannot be.
    deposed: Option<Seldom<()>>,
    scripts: Scripts,
    link: Link,
}

/// What a turn came to.
enum Turn {
    /// There are new commands; more may come before they are written.
    Gathering,
    /// Look at the clock.
    Tick,
}

impl<'s> Driver<'s> {
    pub(super) fn new(
        upstream: &'s mut Upstream,
        (inbox, scripts): (Arc<Mutex<Inbox>>, Scripts),
        patience: Patience,
        is_retired: impl Fn() -> bool + Send + 's,
    ) -> Self {
        let reign = upstream.reign.clone();
        Self {
            stream: &mut upstream.stream,
            inbox,
            patience,
            is_retired: Box::new(is_retired),
            deposed: reign.as_ref().map(|reign| Seldom::new(reign.over())),
            scripts,
            link: Link::new(reign),
        }
    }

    /// Carries commands until the trunk ends; everybody who is owed a reply then has an error.
    pub(super) async fn run(mut self) -> TrunkFault {
        let fault = match self.carry().await {
            Ok(never) => match never {},
            Err(fault) => fault,
        };
        self.scripts.note(false);
        self.fail();
        fault
    }

    async fn carry(&mut self) -> Result<Infallible, TrunkFault> {
        let mut tick = Box::pin(sleep_until(Instant::now() + TICK_EVERY));
        let mut is_watching = false;
        loop {
            let turn = std::future::poll_fn(|context| self.turn(context, tick.as_mut())).await?;
            match turn {
                // Every client that is ready now runs before the write, so that it takes them all.
                Turn::Gathering => tokio::task::yield_now().await,
                Turn::Tick => {
                    self.look_at_clock()?;
                    is_watching = self.look_at_scripts();
                    let pause = if is_watching { STUCK_AFTER } else { TICK_EVERY };
                    tick.as_mut().reset(Instant::now() + pause);
                    continue;
                }
            }
            self.gather();
            if !is_watching && !self.link.scripts.is_empty() {
                // Looked at sooner than usual, once for all scripts that are on their way now.
                is_watching = true;
                tick.as_mut().reset(Instant::now() + STUCK_AFTER);
            }
        }
    }

    /// Notes whether a script holds up everything. False: there is none.
    fn look_at_scripts(&mut self) -> bool {
        let is_behind = self.link.is_behind_script();
        let is_stuck = is_behind && self.link.came.elapsed() >= STUCK_AFTER;
        self.scripts.note(is_stuck);
        !self.link.scripts.is_empty()
    }

    fn turn(
        &mut self,
        context: &mut Context<'_>,
        tick: Pin<&mut Sleep>,
    ) -> Poll<Result<Turn, TrunkFault>> {
        // Reading comes first and never waits for a write: both ends would block for ever.
        self.read(context)?;
        if let Some(deposed) = &mut self.deposed
            && deposed.poll(context).is_ready()
        {
            return Poll::Ready(Err(TrunkFault::Deposed));
        }
        self.write(context)?;
        // What cannot be written now is not gathered either, so that the inbox bounds it.
        if self.link.outgoing.is_empty() && !self.link.is_astray() {
            let mut inbox = self.inbox.lock();
            if inbox.entries.is_empty() {
                inbox.idle = Some(context.waker().clone());
            } else if self.link.batches < BATCHES_MAX || inbox.bytes.len() >= BATCH_BYTES {
                return Poll::Ready(Ok(Turn::Gathering));
            } else {
                // Woken by the reply that ends a batch, or by what fills this one.
                inbox.full = Some(context.waker().clone());
            }
        }
        tick.poll(context).map(|()| Ok(Turn::Tick))
    }

    /// Takes over what sessions have put into the inbox.
    fn gather(&mut self) {
        let mut inbox = self.inbox.lock();
        if let Some(last) = inbox.entries.last_mut() {
            last.ends_batch = true;
            self.link.batches += 1;
        }
        if self.link.in_flight.is_empty() {
            self.link.came = Instant::now();
        }
        self.link.in_flight.extend(inbox.entries.drain(..));
        self.link.scripts.append(&mut inbox.scripts);
        std::mem::swap(&mut inbox.bytes, &mut self.link.outgoing);
        if inbox.bytes.capacity() > INBOX_BYTES_KEPT_MAX {
            inbox.bytes = BytesMut::new();
        }
        let waiting = std::mem::take(&mut inbox.waiting);
        drop(inbox);
        for session in waiting {
            session.wake();
        }
        self.link.hand_out_locals();
        self.link.flush();
    }

    fn write(&mut self, context: &mut Context<'_>) -> Result<(), TrunkFault> {
        let link = &mut self.link;
        let mut wrote = false;
        while !link.outgoing.is_empty() {
            match Pin::new(&mut *self.stream).poll_write(context, &link.outgoing) {
                Poll::Ready(Ok(0)) => return Err(TrunkFault::Closed),
                Poll::Ready(Ok(bytes)) => {
                    link.outgoing.advance(bytes);
                    link.written += u64::try_from(bytes).unwrap_or(u64::MAX);
                    wrote = true;
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => break,
            }
        }
        if link.outgoing.is_empty() {
            link.outgoing.clear();
        }
        if wrote {
            link.moved = Instant::now();
        }
        if self.stream.is_tls()
            && let Poll::Ready(Err(error)) = Pin::new(&mut *self.stream).poll_flush(context)
        {
            return Err(error.into());
        }
        Ok(())
    }

    fn read(&mut self, context: &mut Context<'_>) -> Result<(), TrunkFault> {
        let mut outcome = Ok(());
        for read in 0..READS_MAX {
            match self.read_once(context) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if read + 1 == READS_MAX => context.waker().wake_by_ref(),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(fault)) => {
                    outcome = Err(fault);
                    break;
                }
            }
        }
        self.link.flush();
        outcome
    }

    fn read_once(&mut self, context: &mut Context<'_>) -> Poll<Result<(), TrunkFault>> {
        self.link.incoming.reserve(READ_BYTES);
        let read = pin!(self.stream.read_buf(&mut self.link.incoming));
        if ready!(read.poll(context))? == 0 {
            return Poll::Ready(Err(TrunkFault::Closed));
        }
        self.link.moved = Instant::now();
        self.link.came = self.link.moved;
        if self.scripts.is_stuck() {
            self.scripts.note(false);
        }
        let settled = self.link.settle();
        if self.link.is_astray() {
            if !self.link.outgoing.is_empty() {
                // It would be carried out on the wrong database, were the server free by now.
                return Poll::Ready(Err(TrunkFault::Select));
            }
            // Those who come now find another.
            self.inbox.lock().closed = true;
        }
        Poll::Ready(settled)
    }

    fn look_at_clock(&mut self) -> Result<(), TrunkFault> {
        let still = self.link.moved.elapsed();
        if !self.link.in_flight.is_empty() && still > self.patience.reply_wait_max {
            return Err(TrunkFault::Stuck);
        }
        let mut inbox = self.inbox.lock();
        // Under the lock: a session that comes now finds it closed and has lost nothing.
        inbox.closed |= (self.is_retired)();
        if !self.link.in_flight.is_empty() || !inbox.entries.is_empty() {
            return Ok(());
        }
        inbox.closed |= still > self.patience.idle_after;
        if inbox.closed {
            Err(TrunkFault::Unused)
        } else {
            Ok(())
        }
    }

    /// Tells everybody who is owed a reply that it will not come.
    fn fail(&mut self) {
        let (entries, waiting) = {
            let mut inbox = self.inbox.lock();
            inbox.closed = true;
            inbox.bytes = BytesMut::new();
            (
                std::mem::take(&mut inbox.entries),
                std::mem::take(&mut inbox.waiting),
            )
        };
        for session in waiting {
            session.wake();
        }
        self.link.in_flight.extend(entries);
        self.link.fail();
    }
}
