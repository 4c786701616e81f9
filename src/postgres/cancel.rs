//! Cancel requests: from the key that a client has to the query it is running, and to no other.
//!
//! A request is forwarded only while its client owns an upstream, and the upstream may not change
//! hands until the forwarding has ended, so that a late one cannot hit the next client.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use dashmap::{DashMap, mapref::entry::Entry};
use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    upstream::{self, Way},
    wire,
};
use crate::{
    net::{Address, tls::ClientTls},
    shutdown::Shutdown,
};

/// How long forwarding one request may take.
const FORWARD_MAX: Duration = Duration::from_secs(5);
/// The secrets of clients that speak protocol 3.2; the server's own are as long.
const LONG_SECRET_BYTES: usize = 32;
/// Addresses whose requests are counted within a second; further ones are not heard.
const ADDRESSES_MAX: usize = 4096;

/// Where and with what key an upstream's query is cancelled.
pub(super) struct CancelTarget {
    pub(super) address: SocketAddr,
    pub(super) host: String,
    pub(super) way: Way,
    pub(super) pid: u32,
    pub(super) secret: Box<[u8]>,
    /// What the registration says of certificates.
    pub(super) client_tls: ClientTls,
}

/// Every client's key.
pub(super) struct Cancels {
    desks: DashMap<u32, Arc<Desk>>,
    rate: Mutex<Rate>,
}

/// Requests of each address in the present second.
struct Rate {
    per_second_max: u32,
    second: Instant,
    seen: HashMap<IpAddr, u32>,
}

impl Rate {
    fn allows(&mut self, from: IpAddr, now: Instant) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.seen.clear();
        }
        if self.seen.len() >= ADDRESSES_MAX && !self.seen.contains_key(&from) {
            return false;
        }
        let seen = self.seen.entry(from).or_default();
        *seen += 1;
        *seen <= self.per_second_max
    }
}

/// Where requests to cancel one client's queries are taken.
pub(super) struct Desk {
    pub(super) pid: u32,
    secret: Box<[u8]>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    target: Option<Arc<CancelTarget>>,
    forwarding: usize,
    /// One took too long: the server may hear of it at any later time.
    late: bool,
    /// The client waits for an upstream, or has been asked to give that up.
    waiting: Option<Wait>,
}

/// A client's desk; dropped, its key is void.
pub(super) struct OwnDesk {
    cancels: Arc<Cancels>,
    desk: Arc<Desk>,
}

impl Cancels {
    /// Nobody's keys yet.
    pub(super) fn new(per_second_max: u32) -> Arc<Self> {
        Arc::new(Self {
            desks: DashMap::new(),
            rate: Mutex::new(Rate {
                per_second_max,
                second: Instant::now(),
                seen: HashMap::new(),
            }),
        })
    }

    /// A new key for a client: four bytes, or what protocol 3.2 allows for.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(super) fn enrol(self: &Arc<Self>, long: bool) -> Result<OwnDesk, getrandom::Error> {
        loop {
            // Drivers read the process id as a signed number and some refuse negative ones.
            let pid = getrandom::u32()? >> 1;
            let mut secret: Box<[u8]> = vec![0; if long { LONG_SECRET_BYTES } else { 4 }].into();
            getrandom::fill(&mut secret)?;
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
    pub(super) async fn request(&self, from: IpAddr, pid: u32, secret: &[u8]) {
        if !self.rate.lock().allows(from, Instant::now()) {
            tracing::debug!(%from, "more cancel requests than are let through");
            return;
        }
        let desk = self.desks.get(&pid).map(|desk| Arc::clone(&desk));
        let Some(desk) = desk else {
            return;
        };
        if !bool::from(desk.secret.ct_eq(secret)) {
            return;
        }
        let Some(forwarding) = Forwarding::begin(&desk) else {
            return;
        };
        forwarding.carry_out().await;
    }
}

/// Sends a cancel request and waits until the server has taken it: it then closes.
pub(super) async fn send(target: &CancelTarget) {
    let host = target.address.ip().to_string();
    let address = Address {
        host: &host,
        port: target.address.port(),
    };
    let opened = upstream::open(address, &target.host, target.way, &target.client_tls).await;
    let Ok(mut stream) = opened else {
        tracing::debug!("a cancel request could not be forwarded");
        return;
    };
    let mut out = BytesMut::new();
    wire::cancel_request(&mut out, target.pid, &target.secret);
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
        if let Some(wait) = &mut state.waiting {
            let waiter = std::mem::replace(wait, Wait::Over);
            drop(state);
            if let Wait::Polled(waker) = waiter {
                waker.wake();
            }
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

impl Forwarding {
    async fn carry_out(&self) {
        let sent = timeout(FORWARD_MAX, send(&self.target)).await;
        if sent.is_err() {
            tracing::debug!("a cancel request took too long to forward");
            self.desk.state.lock().late = true;
        }
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
    pub(super) fn key(&self) -> (u32, &[u8]) {
        (self.desk.pid, &self.desk.secret)
    }

    /// From now on requests go to this upstream.
    pub(super) fn attach(&self, target: &Arc<CancelTarget>) {
        let mut state = self.desk.state.lock();
        state.waiting = None;
        state.target = Some(Arc::clone(target));
    }

    /// The client begins to wait for an upstream: a request asks it to give up.
    pub(super) fn begin_waiting(&self) {
        self.desk.state.lock().waiting = Some(Wait::Begun);
    }

    /// It waits no more.
    pub(super) fn end_waiting(&self) {
        self.desk.state.lock().waiting = None;
    }

    /// Ready while the client, which waits for an upstream, is asked to give up.
    pub(super) fn poll_cancelled(&self, context: &Context<'_>) -> Poll<()> {
        match &mut self.desk.state.lock().waiting {
            Some(Wait::Over) => return Poll::Ready(()),
            Some(Wait::Polled(waker)) => waker.clone_from(context.waker()),
            Some(wait) => *wait = Wait::Polled(context.waker().clone()),
            None => {}
        }
        Poll::Pending
    }

    /// Cancels the client's own query, for whoever has waited for it too long.
    pub(super) fn cancel_query(&self, shutdown: &Shutdown) {
        if let Some(forwarding) = Forwarding::begin(&self.desk) {
            shutdown.spawn("query-cancel", async move { forwarding.carry_out().await });
        }
    }

    /// From now on requests go nowhere; returns when none is on its way any more that could be waited
    /// for. True if one may still come to the server: then nobody else may have the upstream.
    pub(super) async fn detach(&self) -> bool {
        loop {
            {
                let mut state = self.desk.state.lock();
                state.target = None;
                if state.forwarding == 0 {
                    return std::mem::take(&mut state.late);
                }
            }
            self.desk.changed.notified().await;
        }
    }
}

impl Drop for OwnDesk {
    fn drop(&mut self) {
        self.cancels.desks.remove(&self.desk.pid);
    }
}

/// A client's wait for an upstream.
enum Wait {
    Begun,
    /// Somebody is to be woken when it is asked to give up.
    Polled(Waker),
    /// It is asked to give up.
    Over,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::TlsMode;

    fn target() -> Arc<CancelTarget> {
        Arc::new(CancelTarget {
            address: ([127, 0, 0, 1], 1).into(),
            host: "localhost".into(),
            way: Way {
                mode: TlsMode::Disable,
                direct: false,
            },
            pid: 1,
            secret: [0, 0, 0, 2].into(),
            client_tls: ClientTls::new(None, None).unwrap(),
        })
    }

    #[tokio::test]
    async fn an_upstream_stays_while_a_request_is_on_its_way() {
        let own = Cancels::new(100).enrol(false).unwrap();
        assert!(Forwarding::begin(&own.desk).is_none(), "nothing to cancel");
        own.attach(&target());
        let forwarding = Forwarding::begin(&own.desk).unwrap();
        let mut detach = std::pin::pin!(own.detach());
        tokio::select! {
            biased;
            _ = &mut detach => panic!("detached under way"),
            () = std::future::ready(()) => {}
        }
        drop(forwarding);
        assert!(!detach.await);
        assert!(Forwarding::begin(&own.desk).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_may_come_late_is_told_of() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = Cancels::new(100).enrol(false).unwrap();
        let silent = CancelTarget {
            address: server.local_addr().unwrap(),
            ..Arc::into_inner(target()).unwrap()
        };
        own.attach(&Arc::new(silent));
        Forwarding::begin(&own.desk).unwrap().carry_out().await;
        assert!(own.detach().await, "the server has not said that it heard");
        assert!(!own.detach().await);
    }

    #[tokio::test]
    async fn a_waiting_client_gives_up() {
        let own = Cancels::new(100).enrol(false).unwrap();
        own.begin_waiting();
        let mut polls = 0;
        let cancelled = std::future::poll_fn(|context| {
            polls += 1;
            own.poll_cancelled(context)
        });
        let ask = async { assert!(Forwarding::begin(&own.desk).is_none()) };
        tokio::join!(cancelled, ask);
        assert_eq!(polls, 2, "it waited until it was asked");
        own.attach(&target());
        assert!(Forwarding::begin(&own.desk).is_some(), "it waits no more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_cannot_guess_for_long() {
        let cancels = Cancels::new(2);
        let allows = |last: u8| {
            let from = IpAddr::from([127, 0, 0, last]);
            cancels.rate.lock().allows(from, Instant::now())
        };
        assert_eq!([1, 1, 1, 2].map(allows), [true, true, false, true]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(allows(1));
    }

    #[test]
    fn a_key_is_void_when_its_client_is_gone() {
        let cancels = Cancels::new(100);
        drop(cancels.enrol(false).unwrap());
        assert!(cancels.desks.is_empty());
    }
}
