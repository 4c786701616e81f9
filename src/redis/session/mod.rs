//! One client's life: read, route, answer in order, end.
//!
//! `advance` takes commands out of the buffer without waiting; whatever needs to wait (a login, a
//! trunk to be opened, an upstream of the client's own) is a [`Next`] that the loop here carries
//! out, with an eye on the client all the time.
//!
//! # Invariants
//! A client's replies come in the order of its commands: while a trunk owes replies, local answers
//! queue behind them on the same trunk, and everything else waits until nothing is owed.

mod advance;
mod attend;
mod blocking;
mod bond;
mod busy;
mod clients;
mod entry;
mod exclusive;
mod held;
mod local;
mod request;
mod roster;
mod routed;
mod subscribe;
mod transaction;
mod window;

use std::{cell::Cell, net::SocketAddr, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::timeout;

use self::{held::Held, window::Window};
use super::{
    cluster::Route,
    login::{Credentials, Hello},
    outbox::{Bounds, Outbox},
    presence, refusal,
    service::Service,
    station::Station,
    subscriptions::{Kind, Subscriber},
    trunk::Trunk,
    wire::{Decoder, Limits, Step, Version},
};
use crate::{
    fault::{Refusal, Side},
    net::Stream,
    session::Seat,
    signal::Seldom,
    telemetry::SessionEnd,
    tenant::Role,
};

/// Commands of a client up to which each is counted at once.
const TRAFFIC_EXACT: u64 = 64;
/// Commands of a busy client that are counted together: the counters are everybody's.
const TRAFFIC_STEP: u64 = 32;
/// A longer answer of the gateway's own waits with its command until nothing is owed.
const LOCAL_BYTES_MAX: usize = 16 * 1024;

/// One client.
pub(super) struct Session {
    service: Arc<Service>,
    outbox: Arc<Outbox>,
    input: BytesMut,
    decoder: Decoder,
    /// The client has sent its last byte.
    has_ended: bool,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    server_name: Option<String>,
    member: Option<Member>,
    version: Version,
    database: u32,
    name: String,
    /// The last command, as the table numbers them.
    last: Cell<u16>,
    window: Cell<Window>,
    replies: Replies,
    /// The trunk that carries this client's commands.
    trunk: Option<Arc<Trunk>>,
    /// Its way into a cluster, instead of a trunk.
    route: Option<Route>,
    /// A transaction in a cluster, until it is whole.
    queue: Option<routed::Queue>,
    /// The slot that an upstream of its own is for.
    slot: Option<u16>,
    subscriber: Option<Subscriber>,
    /// An upstream of its own, in a transaction or while watching.
    held: Option<Held>,
    traffic: Traffic,
    control: Seldom<Control>,
    is_draining: bool,
}

/// Who a client is, once it has logged in.
struct Member {
    station: Arc<Station>,
    seat: Seat,
    user: String,
    role: Role,
    presence: presence::Entry,
}

/// What has come and gone and is not counted yet.
#[derive(Default)]
struct Traffic {
    commands: u64,
    read: u64,
    /// Commands counted so far.
    total: u64,
    is_last: bool,
}

/// What a client wants to hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replies {
    /// Everything.
    On,
    /// Nothing (`CLIENT REPLY OFF`).
    Off,
    /// Nothing of the next command (`CLIENT REPLY SKIP`).
    SkipNext,
}

/// What the session's surroundings want of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Control {
    /// The gateway is shutting down.
    Drain,
    /// Somebody ended this session.
    Killed,
    /// The client did not log in in time.
    LoginLate,
}

/// What the session needs before it can go on.
enum Next {
    /// More bytes from the client.
    Input,
    /// That no more than so many replies are owed, and that the client has taken its output.
    Settled(usize),
    /// Room in the trunk; its waker is left there.
    Room,
    /// A trunk.
    Trunk,
    Login(Hello, Option<Credentials>),
    /// A connection as it was accepted.
    Reset,
    /// An upstream of its own, for these commands.
    Exclusive(exclusive::Job),
    /// Subscriptions to begin or to end.
    Subscribe {
        kind: Kind,
        begins: bool,
        names: Vec<Bytes>,
    },
    /// Nothing: the client is to be closed once it has what is owed.
    End(SessionEnd),
}

/// The client is gone, or must go; nothing more can be sent.
struct Over(SessionEnd);

impl Session {
    pub(super) fn new(service: Arc<Service>, stream: Stream) -> Self {
        let (peer, local) = (stream.peer(), stream.local().ok());
        let server_name = stream.server_name().map(str::to_owned);
        let outbox = Outbox::new(stream, Bounds::of(service.settings()));
        let control = entry::stranger(&service);
        Self {
            service,
            outbox,
            input: BytesMut::new(),
            decoder: Decoder::default(),
            has_ended: false,
            peer,
            local,
            server_name,
            member: None,
            version: Version::Resp2,
            database: 0,
            name: String::new(),
            last: Cell::new(u16::MAX),
            window: Cell::default(),
            replies: Replies::On,
            trunk: None,
            route: None,
            queue: None,
            slot: None,
            subscriber: None,
            held: None,
            traffic: Traffic::default(),
            control,
            is_draining: false,
        }
    }

    /// Serves the client until it leaves or must go.
    pub(super) async fn run(&mut self) -> SessionEnd {
        let end = loop {
            match self.step().await {
                Ok(None) => {}
                Ok(Some(end)) | Err(Over(end)) => break end,
            }
        };
        self.traffic.is_last = true;
        self.count_traffic();
        Box::pin(self.leave_redirected()).await;
        self.say_goodbye(end).await;
        end
    }

    /// Goes on as far as possible, then waits for what is missing; the end, in good order.
    ///
    /// What is rare and large is boxed, so that a client that waits for its next command is small.
    async fn step(&mut self) -> Result<Option<SessionEnd>, Over> {
        match self.advance() {
            Next::Input => {
                if let Some(end) = self.is_over() {
                    self.drained().await?;
                    return Ok(Some(end));
                }
                if self.is_listening() {
                    Box::pin(self.listen()).await?;
                    return Ok(None);
                }
                if self.held.is_some() {
                    // A lease is not for keeping.
                    let idle_max = self.service.settings().transaction_idle_max;
                    let received = timeout(idle_max, self.receive()).await;
                    return received
                        .unwrap_or(Err(Over(SessionEnd::Limit)))
                        .map(|()| None);
                }
                self.receive().await?;
            }
            Next::Settled(owed) => self.settled(owed).await?,
            Next::Room => self.room().await?,
            Next::Trunk => Box::pin(self.open_trunk()).await?,
            Next::Login(hello, credentials) => Box::pin(self.log_in(hello, credentials)).await?,
            Next::Reset => Box::pin(self.reset()).await,
            Next::Subscribe {
                kind,
                begins,
                names,
            } => Box::pin(self.subscribe(kind, begins, names)).await?,
            Next::Exclusive(job) => Box::pin(self.run_exclusive(job)).await?,
            Next::End(end) => {
                Box::pin(self.leave_redirected()).await;
                self.drained().await?;
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// Why a client that has nothing more to be served has to be closed.
    fn is_over(&self) -> Option<SessionEnd> {
        if self.has_ended {
            return Some(SessionEnd::Goodbye);
        }
        (self.is_draining && (self.held.is_none() || self.is_listening()))
            .then_some(SessionEnd::Draining)
    }

    async fn open_trunk(&mut self) -> Result<(), Over> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        let (station, version, database) =
            (Arc::clone(&member.station), self.version, self.database);
        if let Some(cluster) = station.cluster() {
            let known = self.meanwhile(cluster.known()).await?;
            if let Err(refusal) = known {
                self.refuse_next(&refusal).await?;
            }
            return Ok(());
        }
        let opened = self
            .meanwhile(async move { station.trunks().get(version, database).await })
            .await?;
        match opened {
            Ok(trunk) => self.trunk = Some(trunk),
            Err(refusal) => self.refuse_next(&refusal).await?,
        }
        Ok(())
    }

    /// Answers the next command in the buffer with a refusal; nothing is owed.
    async fn refuse_next(&mut self, refusal: &Refusal) -> Result<(), Over> {
        let limits = self.limits();
        let Ok(Step::Command { bytes }) = self.decoder.decode(&self.input, limits) else {
            return Ok(());
        };
        let name = self.decoder.arg(&self.input, 0);
        let is_multi = name.eq_ignore_ascii_case(b"multi");
        let answered = if is_multi && refusal::is_busy(refusal) {
            self.begin_doomed()
        } else {
            self.answer(|out, _| refusal::refuse(out, refusal))
        };
        if answered.is_ok() {
            self.input.advance(bytes);
            if is_multi && self.queue.is_none() {
                return self.hang_up().await;
            }
        }
        Ok(())
    }

    /// Closes a client whose MULTI or WATCH was refused: what follows would be carried out without.
    async fn hang_up(&mut self) -> Result<(), Over> {
        self.input.clear();
        self.drained().await?;
        Err(Over(SessionEnd::UpstreamLost))
    }

    /// What this client may send at the moment.
    fn limits(&self) -> Limits {
        if self.member.is_none() {
            return Limits::BEFORE_LOGIN;
        }
        self.service.limits()
    }

    /// An answer of the gateway's own, behind everything that is owed.
    ///
    /// # Errors
    /// When the trunk has just failed and its errors are not delivered yet: to be called again then.
    fn answer(&mut self, write: impl FnOnce(&mut BytesMut, Version)) -> Result<(), Next> {
        let silent = self.is_silent();
        if !silent {
            let mut answer = BytesMut::new();
            write(&mut answer, self.version);
            if self.outbox.standing().owed == 0 {
                self.outbox.append(&answer);
            } else if let Some(route) = &self.route {
                route.answer(&answer);
            } else if answer.len() > LOCAL_BYTES_MAX {
                return Err(Next::Settled(0));
            } else {
                let trunk = self.trunk.as_ref().ok_or(Next::Settled(0))?;
                let placed = trunk.submit_local(answer.freeze(), &self.outbox);
                placed.map_err(|_| Next::Settled(0))?;
            }
        }
        if self.replies == Replies::SkipNext {
            self.replies = Replies::On;
        }
        Ok(())
    }

    /// Tells others how things stand.
    fn show(&self) {
        if let Some(member) = &self.member {
            let held = self.held.as_ref().filter(|held| held.in_multi);
            let subscriber = self.subscriber.as_ref();
            member.presence.tell(presence::Telling {
                database: self.database,
                version: self.version,
                counts: subscriber.map(Subscriber::counts).unwrap_or_default(),
                queued: held.map_or(-1, |held| held.queued),
                command: self.last.get(),
                redirect: self.redirect(),
                unserved: self.input.len(),
            });
        }
    }

    fn is_silent(&self) -> bool {
        self.replies != Replies::On
    }

    /// Counts what has come and gone; of a busy client only now and then.
    fn count_traffic(&mut self) {
        let traffic = &mut self.traffic;
        let is_quiet = traffic.total < TRAFFIC_EXACT || traffic.is_last;
        if traffic.commands == 0 && !traffic.is_last
            || (!is_quiet && traffic.commands < TRAFFIC_STEP)
        {
            return;
        }
        let (commands, read) = (std::mem::take(&mut traffic.commands), traffic.read);
        traffic.total += commands;
        traffic.read = 0;
        let written = self.outbox.take_written();
        let meters = self.service.meters();
        meters.exchanges(commands);
        meters.bytes(Side::Client, read, written);
        if let Some(member) = &self.member {
            member.seat.count(commands, read, written);
        }
    }
}
