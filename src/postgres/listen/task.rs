//! The task that owns a tenant's shared listener.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use tokio::time::{Instant, sleep};

use super::{End, Hub, Means, state::Lost};
use crate::{
    pool::{CloseReason, Lease, Residue},
    postgres::{
        flow::{Inbound, Peer},
        servers::Servers,
        upstream::Dialer,
        wire,
    },
    shutdown::Shutdown,
};

/// How long the server may take to answer; then it is taken for lost.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long it may be silent before it is asked for a sign of life.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// No message to a listener is longer: notifications are shorter than a page.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// How often the listener looks at what no message tells it.
const TICK: Duration = Duration::from_millis(500);
/// For how many of these looks it is kept when nobody listens: many come back at once.
const UNUSED_MAX: u32 = 2;

/// Opens the upstream, and keeps it for as long as somebody listens.
pub(super) async fn run(hub: Arc<Hub>, means: Means) {
    let lease = match means.pool.lease().await {
        Ok(lease) => lease,
        Err(error) => {
            tracing::warn!(%error, "there is no shared listener");
            hub.state.lock().close(&End::Lost(None));
            return;
        }
    };
    let listener = Listener {
        hub,
        lease,
        servers: means.servers,
        shutdown: means.shutdown,
        heard: Instant::now(),
        unused: 0,
    };
    listener.run().await;
}

struct Listener {
    hub: Arc<Hub>,
    lease: Lease<Dialer>,
    servers: Option<Arc<Servers>>,
    shutdown: Shutdown,
    /// When the server said something.
    heard: Instant,
    /// How often it was looked at while nobody listened.
    unused: u32,
}

impl Listener {
    async fn run(mut self) {
        let residue = loop {
            let turns = std::future::poll_fn(|context| match self.turn(context) {
                Poll::Ready(Ok(never)) => match never {},
                Poll::Ready(Err(lost)) => Poll::Ready(lost),
                Poll::Pending => Poll::Pending,
            });
            let lost = tokio::select! {
                lost = turns => lost,
                () = sleep(TICK) => match self.look() {
                    Look::Good => continue,
                    Look::Unused => break Residue::Broken(CloseReason::Idle),
                    Look::Lost => Lost(None),
                },
            };
            tracing::warn!("the shared listener is lost");
            self.hub.state.lock().close(&End::Lost(lost.0));
            break Residue::Broken(CloseReason::Lost);
        };
        self.lease.give_back(residue);
    }

    /// Sends what is to be sent, and hands out what has come; ready only when that cannot go on.
    fn turn(&mut self, context: &mut Context<'_>) -> Poll<Result<Infallible, Lost>> {
        let peer = &mut self.lease.upstream.peer;
        loop {
            let mut outgoing = BytesMut::new();
            self.hub
                .state
                .lock()
                .take_outgoing(&mut outgoing, context.waker());
            peer.out.extend_from_slice(&outgoing);
            if let Poll::Ready(Err(_)) = peer.poll_send(context, &mut Inbound::default()) {
                // What the server said before it closed is still to be read.
                peer.out.clear();
            }
            match ready!(peer.poll_read(context)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(Lost(None))),
            }
            self.heard = Instant::now();
            hand_out(&self.hub, peer)?;
        }
    }

    fn look(&mut self) -> Look {
        let mut state = self.hub.state.lock();
        self.unused = if state.is_used() { 0 } else { self.unused + 1 };
        let ends = self.unused > UNUSED_MAX || self.shutdown.is_draining();
        if ends && state.close_unused() {
            return Look::Unused;
        }
        let asked = state.waiting_since();
        if asked.is_none() && self.heard.elapsed() > SILENCE_MAX {
            state.ping();
        }
        let is_late = asked.is_some_and(|since| since.max(self.heard).elapsed() > ANSWER_MAX);
        let cancel = &self.lease.upstream.cancel;
        // Where nobody writes any more, nobody notifies.
        let moved = self
            .servers
            .as_ref()
            .is_some_and(|servers| servers.have_moved(cancel));
        if is_late || moved || self.lease.is_retired() {
            return Look::Lost;
        }
        Look::Good
    }
}

/// What a look at the clock, and at what operators did, came to.
enum Look {
    Good,
    Unused,
    Lost,
}

/// Hands out every whole message that has come.
fn hand_out(hub: &Hub, peer: &mut Peer) -> Result<(), Lost> {
    let mut state = hub.state.lock();
    loop {
        let unseen = peer.inbound.unseen();
        let Some(frame) = wire::backend_head(unseen).map_err(|_| Lost(None))? else {
            return Ok(());
        };
        if frame.bytes > MESSAGE_BYTES_MAX {
            return Err(Lost(None));
        }
        let Some(body) = frame.body(unseen) else {
            return Ok(());
        };
        state.take(frame.tag, body)?;
        peer.inbound.skip(frame.bytes, &mut BytesMut::new());
    }
}
