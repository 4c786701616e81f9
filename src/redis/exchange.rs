//! A stretch of commands on an upstream of the client's own: transactions, blocking commands.
//!
//! Poll-style, so that the session watches its client at the same time. Dropped in the middle, the
//! lease closes its upstream, and nothing is taken out of the database for a client that has gone.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    sync::OwnedSemaphorePermit,
};

use super::{
    cluster::Cluster,
    outbox::Outbox,
    redirect,
    refusal::{self, Plain},
    upstream::Dialer,
    wire::{ReplyFault, Scanner, Version},
};
use crate::{
    pool::{Lease, Residue},
    signal::Seldom,
};

/// Room for each read.
const READ_BYTES: usize = 16 * 1024;
/// Output at which the upstream is not read any further.
const HIGH_WATER: usize = 1024 * 1024;
/// A reply that is longer than this is handed on in pieces.
const PIECE_BYTES: usize = 64 * 1024;

/// An upstream that one client has for itself.
pub(super) struct Exchange {
    lease: Lease<Dialer>,
    /// Who has to be told where slots have moved to.
    cluster: Option<Arc<Cluster>>,
    /// The right to hold a lease for long; the pool keeps the rest for everybody.
    _permit: OwnedSemaphorePermit,
    scanner: Scanner,
    outgoing: Bytes,
    /// Replies still to come.
    left: usize,
    /// A part of the reply under way was handed on.
    is_cut: bool,
    /// It waits for the client, not for the server.
    is_held_back: bool,
    /// The first byte of the last reply; `_` for every null.
    kind: u8,
    /// Whose number stands for whose in a reply to `CLIENT TRACKINGINFO`.
    renumber: Option<(u64, u64)>,
    /// Whether the server is still the one to use.
    tenure: Tenure,
    /// What the server sends unasked is for the client.
    hears: Hears,
}

/// For how long a server is the one to use.
enum Tenure {
    /// Always.
    Unlimited,
    /// Until then.
    Lasting(Seldom<()>),
    /// No longer.
    Over,
}

/// What is handed on that answers nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hears {
    Nothing,
    Pushes,
    Everything,
}

/// Why an exchange failed.
#[derive(Debug, Error)]
pub(super) enum ExchangeFault {
    /// The connection failed.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// The server closed it.
    #[error("the server closed the connection")]
    Closed,
    /// Another server has taken the place of this one.
    #[error("another server is master now")]
    Deposed,
    /// It is not RESP.
    #[error("broken reply: {0}")]
    Reply(#[from] ReplyFault),
}

impl Exchange {
    pub(super) fn new(
        lease: Lease<Dialer>,
        permit: OwnedSemaphorePermit,
        cluster: Option<Arc<Cluster>>,
    ) -> Self {
        let reign = lease.upstream.reign.as_ref();
        Self {
            tenure: reign.map_or(Tenure::Unlimited, |reign| {
                Tenure::Lasting(Seldom::new(reign.over()))
            }),
            lease,
            cluster,
            _permit: permit,
            scanner: Scanner::default(),
            outgoing: Bytes::new(),
            left: 0,
            is_cut: false,
            is_held_back: false,
            kind: 0,
            renumber: None,
            hears: Hears::Nothing,
        }
    }

    /// Begins with commands that will have `replies` replies.
    pub(super) fn begin(&mut self, commands: Bytes, replies: usize) {
        self.outgoing = commands;
        self.left = replies;
        self.is_cut = false;
    }

    /// Whether it stopped reading because the client has not taken its output.
    pub(super) fn is_held_back(&self) -> bool {
        self.is_held_back
    }

    /// Whether the last reply was no error.
    pub(super) fn is_accepted(&self) -> bool {
        self.kind != b'-'
    }

    /// Whether the last reply was an array: that of an EXEC which was carried out.
    pub(super) fn is_carried_out(&self) -> bool {
        self.kind == b'*'
    }

    /// In which database and version it is from now on.
    pub(super) fn note_place(&mut self, place: (Version, u32)) {
        let upstream = &mut self.lease.upstream;
        (upstream.version, upstream.database) = place;
    }

    /// Which number of a client stands for which other in replies from now on.
    pub(super) fn renumber(&mut self, numbers: Option<(u64, u64)>) {
        self.renumber = numbers;
    }

    /// Whether the client has a part of a reply that will not be completed.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Ready when every reply has come and is in `client`'s output, unless it asked for silence.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        client: &Outbox,
        is_silent: bool,
    ) -> Poll<Result<(), ExchangeFault>> {
        self.write(context)?;
        loop {
            self.settle(client, is_silent)?;
            if self.left == 0 {
                self.tell_promptly(context, client);
                return Poll::Ready(Ok(()));
            }
            if self.is_over(context) {
                return Poll::Ready(Err(ExchangeFault::Deposed));
            }
            self.is_held_back = client.standing().waiting > HIGH_WATER;
            if self.is_held_back {
                // The session is woken when the client has taken some, and polls again.
                return Poll::Pending;
            }
            let upstream = &mut self.lease.upstream;
            upstream.input.reserve(READ_BYTES);
            let read = pin!(upstream.stream.read_buf(&mut upstream.input));
            if std::task::ready!(read.poll(context))? == 0 {
                return Poll::Ready(Err(ExchangeFault::Closed));
            }
        }
    }

    /// From now on what the server sends unasked is for the client: pushes, or whatever it is.
    pub(super) fn listen(&mut self, is_monitor: bool) {
        self.hears = if is_monitor {
            Hears::Everything
        } else {
            Hears::Pushes
        };
    }

    /// Hands on what came together with the reply, so that both reach the client together: a client that
    /// writes a key which it has cached must not read its cache between the reply and the invalidation.
    fn tell_promptly(&mut self, context: &mut Context<'_>, client: &Outbox) {
        if self.hears != Hears::Nothing
            && let Err(fault) = self.poll_told(context, client)
        {
            // The reply has come; who listens next hears of the fault.
            tracing::trace!(%fault, "upstream failed after a reply");
        }
    }

    /// Hands on what has come unasked, while nothing is under way.
    pub(super) fn poll_told(
        &mut self,
        context: &mut Context<'_>,
        client: &Outbox,
    ) -> Result<(), ExchangeFault> {
        if self.is_over(context) {
            return Err(ExchangeFault::Deposed);
        }
        loop {
            let upstream = &mut self.lease.upstream;
            while let Some(frame) = self.scanner.scan(&upstream.input)? {
                if self.hears != Hears::Everything && frame.kind != b'>' {
                    return Err(ExchangeFault::Closed);
                }
                let told = upstream.input.split_to(frame.end);
                client.append_part(&told, true);
            }
            if client.standing().ending.is_some() {
                // It does not read, and the session sees that.
                return Ok(());
            }
            upstream.input.reserve(READ_BYTES);
            let read = pin!(upstream.stream.read_buf(&mut upstream.input));
            match read.poll(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(bytes)) if bytes > 0 => {}
                Poll::Ready(Ok(_)) => return Err(ExchangeFault::Closed),
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// Gives the upstream back; nothing may be under way.
    pub(super) fn give_back(self, residue: Residue) {
        self.lease.give_back(residue);
    }

    /// Gives it back after a command that leaves nothing behind, unless the server has refused it.
    pub(super) fn release(self) {
        let residue = if self.is_accepted() {
            Residue::Clean
        } else {
            Residue::NeedsReset
        };
        self.give_back(residue);
    }

    /// Whether the server is not the one to use any longer.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        if let Tenure::Lasting(end) = &mut self.tenure
            && end.poll(context).is_ready()
        {
            // Not polled again: what has ended once has ended for good.
            self.tenure = Tenure::Over;
        }
        matches!(self.tenure, Tenure::Over)
    }

    fn write(&mut self, context: &mut Context<'_>) -> Result<(), ExchangeFault> {
        let stream = &mut self.lease.upstream.stream;
        while self.outgoing.has_remaining() {
            match Pin::new(&mut *stream).poll_write(context, &self.outgoing) {
                Poll::Ready(Ok(0)) => return Err(ExchangeFault::Closed),
                Poll::Ready(Ok(bytes)) => self.outgoing.advance(bytes),
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => break,
            }
        }
        if stream.is_tls()
            && let Poll::Ready(Err(error)) = Pin::new(stream).poll_flush(context)
        {
            return Err(error.into());
        }
        Ok(())
    }

    fn settle(&mut self, client: &Outbox, is_silent: bool) -> Result<(), ExchangeFault> {
        let input = &mut self.lease.upstream.input;
        let hand_on = |bytes: &[u8], is_last| {
            if !is_silent {
                client.append_part(bytes, is_last);
            }
        };
        while self.left > 0 {
            let Some(frame) = self.scanner.scan(input)? else {
                break;
            };
            let reply = input.split_to(frame.end);
            if frame.kind == b'>' {
                if self.hears != Hears::Nothing {
                    client.append_part(&reply, true);
                }
                continue;
            }
            let is_moving = frame.kind == b'-'
                && self
                    .cluster
                    .as_ref()
                    .is_some_and(|nodes| nodes.note_redirect(&reply));
            if is_moving {
                // The client knows of no nodes, and has to be told something that it can act on.
                let mut error = BytesMut::new();
                refusal::plain(&mut error, Plain::SlotMoving);
                hand_on(&error, true);
            } else if let Some(numbers) = self.renumber {
                hand_on(&redirect::renumbered(&reply, numbers), true);
            } else {
                hand_on(&reply, true);
            }
            // An EXEC that did nothing is answered with null, which in RESP2 looks like an array.
            self.kind = if reply.starts_with(b"*-1") {
                b'_'
            } else {
                frame.kind
            };
            self.is_cut = false;
            self.left -= 1;
        }
        let is_push = self.scanner.kind().is_none_or(|kind| kind == b'>');
        if self.left > 0 && input.len() >= PIECE_BYTES && !is_push {
            let piece = input.split_to(self.scanner.settled(input));
            self.scanner.moved(piece.len());
            self.is_cut = !is_silent;
            hand_on(&piece, false);
        }
        Ok(())
    }
}
