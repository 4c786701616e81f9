//! Cancel requests: from the key that a client has to the query it is running, and to no other.
//!
//! A request is forwarded only while its client owns an upstream, and the upstream may not change
//! hands until the forwarding has ended, so that a late one cannot hit the next client.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use dashmap::{DashMap, mapref::entry::Entry};
use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
    time::timeout,
};

use super::{upstream, wire};
use crate::{
    net::{Address, tls::ClientTls},
    tenant::TlsMode,
};

/// How long forwarding one request may take.
const FORWARD_MAX: Duration = Duration::from_secs(5);

/// Where and with what key an upstream's query is cancelled.
pub(super) struct CancelTarget {
    pub(super) address: SocketAddr,
    pub(super) host: String,
    pub(super) tls: TlsMode,
    pub(super) pid: u32,
    pub(super) secret: u32,
}

/// Every client's key.
#[derive(Default)]
pub(super) struct Cancels {
    desks: DashMap<u32, Arc<Desk>>,
}

/// Where requests to cancel one client's queries are taken.
pub(super) struct Desk {
    pub(super) pid: u32,
    pub(super) secret: u32,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    target: Option<Arc<CancelTarget>>,
    forwarding: usize,
    /// The client waits for an upstream.
    waiting: bool,
    cancelled: bool,
}

/// A client's desk; dropped, its key is void.
pub(super) struct OwnDesk {
    cancels: Arc<Cancels>,
    desk: Arc<Desk>,
}

impl Cancels {
    /// A new key for a client.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(super) fn enrol(self: &Arc<Self>) -> Result<OwnDesk, getrandom::Error> {
        loop {
            // Drivers read the process id as a signed number and some refuse negative ones.
            let pid = getrandom::u32()? >> 1;
            let secret = getrandom::u32()?;
            if let (1.., Entry::Vacant(place)) = (pid, self.desks.entry(pid)) {
                let desk = Arc::new(Desk {
                    pid,
                    secret,
                    state: Mutex::default(),
                    changed: Notify::new(),
                });
                place.insert(Arc::clone(&desk));
                return Ok(OwnDesk {
                    cancels: Arc::clone(self),
                    desk,
                });
            }
        }
    }

    /// Carries out a request, if its key is right and there is something to cancel.
    pub(super) async fn request(&self, pid: u32, secret: u32, client_tls: &ClientTls) {
        let desk = self.desks.get(&pid).map(|desk| Arc::clone(&desk));
        let Some(desk) = desk else {
            return;
        };
        if !bool::from(desk.secret.ct_eq(&secret)) {
            return;
        }
        let Some(forwarding) = Forwarding::begin(&desk) else {
            return;
        };
        if timeout(FORWARD_MAX, send(&forwarding.target, client_tls))
            .await
            .is_err()
        {
            tracing::debug!("a cancel request took too long to forward");
        }
    }
}

/// Sends a cancel request and waits until the server has taken it: it then closes.
pub(super) async fn send(target: &CancelTarget, client_tls: &ClientTls) {
    let host = target.address.ip().to_string();
    let address = Address {
        host: &host,
        port: target.address.port(),
    };
    let Ok(mut stream) = upstream::open(address, &target.host, target.tls, client_tls).await else {
        tracing::debug!("a cancel request could not be forwarded");
        return;
    };
    let mut out = BytesMut::new();
    wire::cancel_request(&mut out, target.pid, target.secret);
    if stream.write_all(&out).await.is_ok() && stream.flush().await.is_ok() {
        let mut rest = [0; 1];
        drop(stream.read(&mut rest).await);
    }
}

/// As long as it lives, the upstream may not change hands.
struct Forwarding {
    desk: Arc<Desk>,
    target: Arc<CancelTarget>,
}

impl Forwarding {
    fn begin(desk: &Arc<Desk>) -> Option<Self> {
        let mut state = desk.state.lock();
        if state.waiting {
            state.cancelled = true;
            desk.changed.notify_one();
            return None;
        }
        let target = Arc::clone(state.target.as_ref()?);
        state.forwarding += 1;
        Some(Self {
            desk: Arc::clone(desk),
            target,
        })
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.desk.state.lock().forwarding -= 1;
        self.desk.changed.notify_one();
    }
}

impl OwnDesk {
    /// The key that the client is told.
    pub(super) fn key(&self) -> (u32, u32) {
        (self.desk.pid, self.desk.secret)
    }

    /// From now on requests go to this upstream.
    pub(super) fn attach(&self, target: &Arc<CancelTarget>) {
        self.desk.state.lock().target = Some(Arc::clone(target));
    }

    /// From now on requests go nowhere; returns when none is on its way any more.
    pub(super) async fn detach(&self) {
        loop {
            {
                let mut state = self.desk.state.lock();
                state.target = None;
                if state.forwarding == 0 {
                    return;
                }
            }
            self.desk.changed.notified().await;
        }
    }

    /// Resolves when the client, which waits for an upstream, asks to give up.
    ///
    /// # Cancel safety
    /// Safe; dropped, the client does not wait any more.
    pub(super) async fn cancelled(&self) {
        let _waiting = Waiting::begin(&self.desk);
        while !std::mem::take(&mut self.desk.state.lock().cancelled) {
            self.desk.changed.notified().await;
        }
    }
}

impl Drop for OwnDesk {
    fn drop(&mut self) {
        self.cancels.desks.remove(&self.desk.pid);
    }
}

/// Marks a client as waiting.
struct Waiting<'a>(&'a Desk);

impl<'a> Waiting<'a> {
    fn begin(desk: &'a Desk) -> Self {
        let mut state = desk.state.lock();
        state.waiting = true;
        state.cancelled = false;
        drop(state);
        Self(desk)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Arc<CancelTarget> {
        Arc::new(CancelTarget {
            address: ([127, 0, 0, 1], 1).into(),
            host: "localhost".into(),
            tls: TlsMode::Disable,
            pid: 1,
            secret: 2,
        })
    }

    #[tokio::test]
    async fn an_upstream_stays_while_a_request_is_on_its_way() {
        let own = Arc::new(Cancels::default()).enrol().unwrap();
        assert!(Forwarding::begin(&own.desk).is_none(), "nothing to cancel");
        own.attach(&target());
        let forwarding = Forwarding::begin(&own.desk).unwrap();
        let mut detach = std::pin::pin!(own.detach());
        tokio::select! {
            biased;
            () = &mut detach => panic!("detached under way"),
            () = std::future::ready(()) => {}
        }
        drop(forwarding);
        detach.await;
        assert!(Forwarding::begin(&own.desk).is_none());
    }

    #[tokio::test]
    async fn a_waiting_client_gives_up() {
        let own = Arc::new(Cancels::default()).enrol().unwrap();
        let mut cancelled = std::pin::pin!(own.cancelled());
        tokio::select! {
            biased;
            () = &mut cancelled => panic!("nobody asked"),
            () = std::future::ready(()) => {}
        }
        assert!(Forwarding::begin(&own.desk).is_none());
        cancelled.await;
    }

    #[test]
    fn a_key_is_void_when_its_client_is_gone() {
        let cancels = Arc::new(Cancels::default());
        drop(cancels.enrol().unwrap());
        assert!(cancels.desks.is_empty());
    }
}
