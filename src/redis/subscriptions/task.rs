//! The task that owns a tenant's subscription upstream.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    time::timeout,
};

use super::{Hub, Kind, State};
use crate::{
    fault::{Effect, Refusal},
    pool::{CloseReason, Lease, Residue},
    redis::{
        outbox::Outbox,
        upstream::Dialer,
        wire::{Push, Scanner, Version},
    },
};

/// Room for each read.
const READ_BYTES: usize = 64 * 1024;
/// A read buffer larger than this is given back once it is empty.
const KEPT_BYTES_MAX: usize = 4 * READ_BYTES;
/// A message longer than this ends the upstream: it is in memory as a whole.
const MESSAGE_BYTES_MAX: usize = 512 * 1024 * 1024;
/// The first pause before the upstream is opened again; doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// How long the upstream is kept when nobody is subscribed: many come back at once.
const LINGER: Duration = Duration::from_secs(5);
/// The same, while the gateway is shutting down.
const DRAIN_TICK: Duration = Duration::from_millis(50);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Why the upstream ended.
enum End {
    /// Nobody is subscribed to anything.
    Unused,
    /// It was lost, or broke its protocol.
    Lost(&'static str),
}

/// Keeps the upstream open as long as somebody is subscribed.
pub(super) async fn run(hub: Arc<Hub>) {
    let mut pause = BACKOFF_MIN;
    loop {
        let refusal = match open(&hub).await {
            Ok(lease) => match carry(&hub, lease).await {
                End::Unused => None,
                End::Lost(why) => {
                    tracing::warn!(why, "subscriptions interrupted");
                    pause = BACKOFF_MIN;
                    Some(Refusal::UpstreamLost {
                        effect: Effect::None,
                    })
                }
            },
            Err(refusal) => Some(refusal),
        };
        if hub.close(refusal) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

async fn open(hub: &Hub) -> Result<Lease<Dialer>, Refusal> {
    let mut lease = hub.pool.lease().await.map_err(|error| error.refusal())?;
    let newest = if lease.upstream.speaks_hello {
        Version::Resp3
    } else {
        Version::Resp2
    };
    let database = lease.upstream.database;
    match lease.upstream.prepare(newest, database).await {
        Ok(()) => Ok(lease),
        Err(fault) => {
            lease.give_back(Residue::Broken(CloseReason::Dirty));
            Err(Refusal::UpstreamDown {
                cause: fault.to_string(),
            })
        }
    }
}

async fn carry(hub: &Hub, mut lease: Lease<Dialer>) -> End {
    hub.state.lock().reopen();
    let mut link = Link {
        outgoing: BytesMut::new(),
        scanner: Scanner::default(),
    };
    let reign = lease.upstream.reign.clone();
    let mut deposed = pin!(async {
        match reign {
            Some(reign) => reign.over().await,
            None => std::future::pending().await,
        }
    });
    let end = loop {
        let turns = std::future::poll_fn(|context| match link.turn(hub, &mut lease, context) {
            Poll::Ready(Ok(never)) => match never {},
            Poll::Ready(Err(end)) => Poll::Ready(end),
            Poll::Pending => Poll::Pending,
        });
        let linger = if hub.shutdown.is_draining() {
            DRAIN_TICK
        } else {
            LINGER
        };
        let turned = tokio::select! {
            turned = timeout(linger, turns) => turned,
            () = &mut deposed => Ok(End::Lost("another server is master now")),
        };
        if let Ok(end) = turned {
            break end;
        }
        let mut state = hub.state.lock();
        state.look_at_clock();
        if state.topics.is_empty() {
            break End::Unused;
        }
    };
    lease.give_back(Residue::Broken(match end {
        End::Unused => CloseReason::Idle,
        End::Lost(_) => CloseReason::Lost,
    }));
    end
}

/// What is under way on the upstream.
struct Link {
    outgoing: BytesMut,
    scanner: Scanner,
}

impl Link {
    fn turn(
        &mut self,
        hub: &Hub,
        lease: &mut Lease<Dialer>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Infallible, End>> {
        loop {
            self.write(hub, lease, context)?;
            let upstream = &mut lease.upstream;
            upstream.input.reserve(READ_BYTES);
            let read = pin!(upstream.stream.read_buf(&mut upstream.input));
            match ready!(read.poll(context)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(End::Lost("connection lost"))),
                Ok(_) => self.settle(hub, &mut upstream.input)?,
            }
        }
    }

    fn write(
        &mut self,
        hub: &Hub,
        lease: &mut Lease<Dialer>,
        context: &mut Context<'_>,
    ) -> Result<(), End> {
        loop {
            if self.outgoing.is_empty() {
                let mut state = hub.state.lock();
                if state.outgoing.is_empty() {
                    state.idle = Some(context.waker().clone());
                    break;
                }
                std::mem::swap(&mut self.outgoing, &mut state.outgoing);
            }
            match Pin::new(&mut lease.upstream.stream).poll_write(context, &self.outgoing) {
                Poll::Ready(Ok(bytes)) if bytes > 0 => self.outgoing.advance(bytes),
                Poll::Ready(_) => return Err(End::Lost("connection lost")),
                Poll::Pending => break,
            }
        }
        match Pin::new(&mut lease.upstream.stream).poll_flush(context) {
            Poll::Ready(Err(_)) => Err(End::Lost("connection lost")),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Hands out everything that has been read, then lets every client have it.
    fn settle(&mut self, hub: &Hub, input: &mut BytesMut) -> Result<(), End> {
        let mut touched = Vec::new();
        let outcome = self.hand_out(hub, input, &mut touched);
        // Also what came before a fault is for the clients.
        for client in touched {
            if client.flush() {
                hub.state.lock().slow.push(Arc::downgrade(&client));
            }
        }
        if input.is_empty() && input.capacity() > KEPT_BYTES_MAX {
            // A long message has come; most are short.
            *input = BytesMut::new();
        }
        if outcome? {
            hub.changed.notify_waiters();
        }
        if input.len() > MESSAGE_BYTES_MAX {
            return Err(End::Lost("message too long"));
        }
        Ok(())
    }

    /// True: there was an answer, somebody may have waited for it.
    fn hand_out(
        &mut self,
        hub: &Hub,
        input: &mut BytesMut,
        touched: &mut Vec<Arc<Outbox>>,
    ) -> Result<bool, End> {
        let mut news = false;
        let mut state = hub.state.lock();
        while let Some(frame) = self
            .scanner
            .scan(input)
            .map_err(|_| End::Lost("not a reply"))?
        {
            let bytes = input.get(..frame.end).unwrap_or_default();
            news |= state.take(bytes, touched)?;
            input.advance(frame.end);
        }
        Ok(news)
    }
}

impl Hub {
    /// Notes that the upstream has ended. True: nobody needs another.
    fn close(&self, fault: Option<Refusal>) -> bool {
        let mut state = self.state.lock();
        state.is_open = false;
        state.idle = None;
        if fault.is_some() {
            state.failures += 1;
            state.fault = fault;
        }
        // What only waited to be ended is ended now.
        state.topics.retain(|_, topic| topic.is_wanted);
        state.topics.values_mut().for_each(|topic| topic.asked = 0);
        let unused = state.topics.is_empty() || self.shutdown.is_draining();
        state.is_running = !unused;
        self.in_use.store(!unused, Ordering::Relaxed);
        drop(state);
        self.changed.notify_waiters();
        unused
    }
}

impl State {
    /// A new upstream knows of nothing: everything wanted is asked for again.
    fn reopen(&mut self) {
        self.is_open = true;
        self.outgoing.clear();
        self.asked.clear();
        let wanted: Vec<(Kind, Bytes)> = self.topics.keys().cloned().collect();
        for topic in self.topics.values_mut() {
            topic.asked = 0;
        }
        for (kind, name) in wanted {
            self.ask(kind, &name, true);
        }
    }

    /// Takes one frame. True: an answer, somebody may have waited for it.
    fn take(&mut self, frame: &[u8], touched: &mut Vec<Arc<Outbox>>) -> Result<bool, End> {
        let Some(push) = Push::read(frame) else {
            if frame.first() != Some(&b'-') {
                return Err(End::Lost("not a message"));
            }
            // The server does not allow this topic: whoever waits for it finds it gone.
            if let Some(key) = self.answered() {
                self.topics.remove(&key);
            }
            return Ok(true);
        };
        let kind = match push.kind {
            b"message" => Kind::Channel,
            b"pmessage" => Kind::Pattern,
            b"smessage" => Kind::Shard,
            _ => {
                self.answered();
                return Ok(true);
            }
        };
        let key = (kind, Bytes::copy_from_slice(push.topic));
        if let Some(topic) = self.topics.get(&key) {
            // One copy for all who hear it in the same version; the read buffer is not kept for it.
            let (mut old, mut new) = (None, None);
            for member in topic.members.values() {
                let message = match member.version {
                    Version::Resp2 => old.get_or_insert_with(|| message(b'*', frame)),
                    Version::Resp3 => new.get_or_insert_with(|| message(b'>', frame)),
                };
                if member.outbox.publish(message) {
                    touched.push(Arc::clone(&member.outbox));
                }
            }
        }
        Ok(false)
    }

    /// Gives up subscribers that have been slow for too long.
    fn look_at_clock(&mut self) {
        self.slow.retain(|client| {
            let client = client.upgrade();
            client.is_some_and(|client| client.look_at_clock())
        });
    }
}

/// A message as a client of one version hears it.
fn message(kind: u8, frame: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(frame.len());
    message.put_u8(kind);
    message.put_slice(frame.get(1..).unwrap_or_default());
    message.freeze()
}
