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
mod clients;
mod entry;
mod exclusive;
mod local;
mod subscribe;
mod transaction;

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    exchange::Exchange,
    login::{Credentials, Hello},
    outbox::Outbox,
    refusal,
    service::Service,
    settings::Settings,
    station::Station,
    subscriptions::{Kind, Subscriber},
    trunk::Trunk,
    wire::{Decoder, Limits, Step, Version},
};
use crate::{fault::Refusal, net::Stream, session::Seat, tenant::Role};

/// Output at which a client's further commands wait.
const HIGH_WATER: usize = 256 * 1024;

/// One client.
pub(super) struct Session {
    service: Arc<Service>,
    outbox: Arc<Outbox>,
    input: BytesMut,
    decoder: Decoder,
    /// The client has sent its last byte.
    has_ended: bool,
    peer: SocketAddr,
    server_name: Option<String>,
    member: Option<Member>,
    version: Version,
    database: u32,
    name: String,
    replies: Replies,
    /// The trunk that carries this client's commands.
    trunk: Option<Arc<Trunk>>,
    subscriber: Option<Subscriber>,
    /// An upstream of its own, in a transaction or while watching.
    held: Option<Held>,
    control: Pin<Box<dyn Future<Output = Control> + Send>>,
    is_draining: bool,
    /// Bytes came in this turn, so that `control` need not be looked at before the next.
    is_fresh: bool,
}

/// Who a client is, once it has logged in.
struct Member {
    station: Arc<Station>,
    seat: Seat,
    user: String,
    role: Role,
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

/// An upstream held over several commands.
struct Held {
    exchange: Exchange,
    /// Between MULTI and EXEC.
    in_multi: bool,
    /// A command was refused here, so EXEC must fail.
    is_dirty: bool,
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
    /// A login.
    Login(Hello, Option<Credentials>),
    /// An upstream of its own, for these commands.
    Exclusive(exclusive::Job),
    /// Subscriptions to be confirmed.
    Subscribe(Kind, Vec<Bytes>),
    /// Nothing: the client is to be closed once it has what is owed.
    End,
}

/// The client is gone, or must go; nothing more can be sent.
struct Over;

impl Session {
    pub(super) fn new(service: Arc<Service>, stream: Stream) -> Self {
        let (peer, server_name) = (stream.peer(), stream.server_name().map(str::to_owned));
        let outbox = Outbox::new(stream, service.settings().output_bytes_max);
        let control = entry::stranger(&service);
        Self {
            service,
            outbox,
            input: BytesMut::new(),
            decoder: Decoder::default(),
            has_ended: false,
            peer,
            server_name,
            member: None,
            version: Version::Resp2,
            database: 0,
            name: String::new(),
            replies: Replies::On,
            trunk: None,
            subscriber: None,
            held: None,
            control,
            is_draining: false,
            is_fresh: false,
        }
    }

    /// Serves the client until it leaves or must go.
    pub(super) async fn run(mut self) {
        while let Ok(true) = self.step().await {}
        self.count_traffic(0);
        // The last words are on their way already; a client that does not take them is not waited for.
        let close = std::future::poll_fn(|context| self.outbox.poll_close(context));
        if tokio::time::timeout(Settings::goodbye_max(), close)
            .await
            .is_err()
        {
            tracing::trace!(peer = %self.peer, "client did not take its goodbye");
        }
    }

    /// Goes on as far as possible, then waits for what is missing. False: the end, in good order.
    async fn step(&mut self) -> Result<bool, Over> {
        match self.advance() {
            Next::Input => {
                if self.has_ended || (self.is_draining && self.held.is_none()) {
                    self.settled(0).await?;
                    return Ok(false);
                }
                self.receive().await?;
            }
            Next::Settled(owed) => self.settled(owed).await?,
            Next::Room => self.room().await?,
            Next::Trunk => self.open_trunk().await?,
            Next::Login(hello, credentials) => self.log_in(hello, credentials).await?,
            Next::Subscribe(kind, names) => self.subscribe(kind, names).await?,
            Next::Exclusive(job) => self.run_exclusive(job).await?,
            Next::End => {
                self.settled(0).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn open_trunk(&mut self) -> Result<(), Over> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        let (station, version, database) =
            (Arc::clone(&member.station), self.version, self.database);
        let opened = self
            .meanwhile(async move { station.trunks().get(version, database).await })
            .await?;
        match opened {
            Ok(trunk) => self.trunk = Some(trunk),
            Err(refusal) => self.refuse_next(&refusal),
        }
        Ok(())
    }

    /// Answers the next command in the buffer with a refusal; nothing is owed.
    fn refuse_next(&mut self, refusal: &Refusal) {
        let limits = self.limits();
        if let Ok(Step::Command { bytes }) = self.decoder.decode(&self.input, limits)
            && self.answer(|out, _| refusal::refuse(out, refusal)).is_ok()
        {
            self.input.advance(bytes);
        }
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
                self.outbox.append(|out| out.extend_from_slice(&answer));
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

    fn is_silent(&self) -> bool {
        self.replies != Replies::On
    }

    fn count_traffic(&self, read: u64) {
        if let Some(member) = &self.member {
            member.seat.count(0, read, self.outbox.take_written());
        }
    }
}
