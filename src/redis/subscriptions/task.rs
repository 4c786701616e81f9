//! The task that owns a tenant's subscription upstream.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    time::timeout,
};

use super::{
    Hub,
    nodes::Right,
    state::{Key, Place, Taken},
};
use crate::{
    fault::{Effect, Refusal},
    pool::{CloseReason, Lease, Residue},
    redis::{
        outbox::Outbox,
        upstream::Dialer,
        wire::{Scanner, Version},
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
pub(super) async fn run(hub: Arc<Hub>, place: Place) {
    let mut pause = BACKOFF_MIN;
    loop {
        let refusal = match open(&hub, place).await {
            Ok((lease, _right)) => match carry(&hub, place, lease).await {
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
        if hub.close(place, refusal) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

async fn open(hub: &Hub, place: Place) -> Result<(Lease<Dialer>, Right), Refusal> {
    let mut right = Right::new();
    let mut lease = match (&hub.nodes, place) {
        (Some(nodes), Some(node)) => {
            right = nodes.right().await?;
            nodes.cluster.lease_on(node).await?
        }
        _ => hub.pool.lease().await.map_err(|error| error.refusal())?,
    };
    let newest = if lease.upstream.speaks_hello {
        Version::Resp3
    } else {
        Version::Resp2
    };
    let database = lease.upstream.database;
    match lease.upstream.prepare(newest, database).await {
        Ok(()) => Ok((lease, right)),
        Err(fault) => {
            lease.give_back(Residue::Broken(CloseReason::Dirty));
            Err(Refusal::UpstreamDown {
                cause: fault.to_string(),
            })
        }
    }
}

async fn carry(hub: &Arc<Hub>, place: Place, mut lease: Lease<Dialer>) -> End {
    hub.state.lock().reopen(place);
    let mut link = Link {
        place,
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
        if !state.is_used(place) {
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
    place: Place,
    outgoing: BytesMut,
    scanner: Scanner,
}

impl Link {
    fn turn(
        &mut self,
        hub: &Arc<Hub>,
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
        hub: &Arc<Hub>,
        lease: &mut Lease<Dialer>,
        context: &mut Context<'_>,
    ) -> Result<(), End> {
        loop {
            if self.outgoing.is_empty() {
                let mut state = hub.state.lock();
                let desk = state.desk(self.place);
                if desk.outgoing.is_empty() {
                    desk.idle = Some(context.waker().clone());
                    break;
                }
                std::mem::swap(&mut self.outgoing, &mut desk.outgoing);
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
    fn settle(&mut self, hub: &Arc<Hub>, input: &mut BytesMut) -> Result<(), End> {
        let (mut touched, mut gone) = (Vec::new(), Vec::new());
        let outcome = self.hand_out(hub, input, (&mut touched, &mut gone));
        // Also what came before a fault is for the clients.
        for client in touched {
            if client.flush_watching() {
                hub.state.lock().slow.push(Arc::downgrade(&client));
            }
        }
        if input.is_empty() && input.capacity() > KEPT_BYTES_MAX {
            // A long message has come; most are short.
            *input = BytesMut::new();
        }
        for (key, reply) in gone {
            hub.follow(&key, self.place, &reply);
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
        hub: &Arc<Hub>,
        input: &mut BytesMut,
        (touched, gone): (&mut Vec<Arc<Outbox>>, &mut Vec<(Key, Bytes)>),
    ) -> Result<bool, End> {
        let mut news = false;
        let mut state = hub.state.lock();
        while let Some(frame) = self
            .scanner
            .scan(input)
            .map_err(|_| End::Lost("not a reply"))?
        {
            let bytes = input.get(..frame.end).unwrap_or_default();
            match state.take(self.place, bytes, touched).map_err(End::Lost)? {
                Taken::Message => {}
                Taken::Answer => news = true,
                Taken::Elsewhere(key, reply) => gone.push((key, reply)),
            }
            input.advance(frame.end);
        }
        Ok(news)
    }
}
