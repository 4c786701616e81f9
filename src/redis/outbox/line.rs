//! The state of a client's output, and its socket: what is touched under the lock.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    time::Instant,
};

use super::{Bounds, Ending, Intake, Standing, output::Output};
use crate::net::{SCRATCH_BYTES, Stream, give_back, poll_read_with};

/// Pieces that are written in one call.
const SLICES_MAX: usize = 64;

/// The state behind the lock.
pub(super) struct Line {
    pub(super) stream: Stream,
    pub(super) out: Output,
    /// Messages that came in the middle of a reply.
    pub(super) later: Output,
    /// A part of a reply is in `out`, and not the rest.
    pub(super) is_midway: bool,
    /// Replies that a trunk still owes.
    pub(super) owed: usize,
    /// The session wants to be woken when no more than this many are owed.
    pub(super) wake_at: Option<usize>,
    pub(super) task: Option<Waker>,
    /// A TLS layer may hold bytes back.
    pub(super) unflushed: bool,
    /// In the list of a trunk that will flush it.
    pub(super) touched: bool,
    /// The database that an awaited `SELECT` has reached.
    pub(super) selected: Option<u32>,
    pub(super) ending: Option<Ending>,
    /// Bytes written and replies delivered since the session last asked.
    pub(super) written: u64,
    /// The largest reply of late, which bounds how many may be under way.
    pub(super) reply_bytes: usize,
    /// What has come of the reply in progress.
    pub(super) partial: usize,
    pub(super) lag: Lag,
}

/// How a subscriber lags behind.
#[derive(Default)]
pub(super) struct Lag {
    /// Since when it is as slow as it may be for some time only.
    pub(super) since: Option<Instant>,
    /// Somebody looks whether that time is over.
    pub(super) is_watched: bool,
}

impl Line {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            out: Output::default(),
            later: Output::default(),
            is_midway: false,
            owed: 0,
            wake_at: None,
            task: None,
            unflushed: false,
            touched: false,
            selected: None,
            ending: None,
            written: 0,
            reply_bytes: 0,
            partial: 0,
            lag: Lag::default(),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            owed: self.owed,
            waiting: self.waiting(),
            reply_bytes: self.reply_bytes,
            ending: self.ending,
        }
    }

    /// Bytes that the client has not taken yet.
    pub(super) fn waiting(&self) -> usize {
        self.out.len() + self.later.len()
    }

    /// Whether so much waits that a subscriber may not leave it so for long.
    pub(super) fn is_slow(&mut self, bounds: &Bounds) -> bool {
        if self.lag.since.is_some() && self.waiting() < bounds.message_bytes_soft {
            self.lag.since = None;
        }
        self.lag.since.is_some()
    }

    pub(super) fn is_overdue(&mut self, bounds: &Bounds) -> bool {
        let since = self.lag.since.filter(|_| self.is_slow(bounds));
        since.is_some_and(|since| since.elapsed() > bounds.message_bytes_for)
    }

    pub(super) fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        if ending != Ending::Cut {
            self.out = Output::default();
            self.later = Output::default();
        }
    }

    /// Takes a part of a reply. False: the client is given up, or was before.
    ///
    /// The reply in progress is let through whatever its size; what comes after it is not.
    pub(super) fn take_part(&mut self, bytes: &[u8], is_last: bool, bytes_max: usize) -> bool {
        let waiting = self.waiting();
        if waiting > 0 && waiting + bytes.len() > bytes_max && !self.is_midway {
            self.end(Ending::Slow);
        }
        if self.ending.is_some() {
            return false;
        }
        self.out.append(bytes);
        self.set_midway(!is_last);
        true
    }

    /// Notes how large replies are, of which this was the last part or a part.
    pub(super) fn note_size(&mut self, bytes: usize, replies: usize) {
        self.partial += bytes;
        match self.partial.checked_div(replies) {
            None => self.reply_bytes = self.reply_bytes.max(self.partial),
            Some(mean) => {
                self.reply_bytes = (self.reply_bytes - self.reply_bytes / 8).max(mean);
                self.partial = 0;
            }
        }
    }

    /// Between the parts of a reply nothing else may come.
    pub(super) fn set_midway(&mut self, is_midway: bool) {
        self.is_midway = is_midway;
        if !is_midway {
            while let Some(piece) = self.later.pop() {
                self.out.share(&piece);
            }
        }
    }

    pub(super) fn wake(&mut self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    pub(super) fn write_now(&mut self) {
        while !self.out.is_empty() {
            let wrote = if let Some(bytes) = self.out.only() {
                self.stream.try_write(bytes)
            } else {
                let mut room = [IoSlice::new(&[]); SLICES_MAX];
                self.stream.try_write_vectored(self.out.slices(&mut room))
            };
            match wrote {
                Ok(0) => return self.end(Ending::Gone),
                Ok(bytes) => self.advance(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.end(Ending::Gone),
            }
        }
    }

    /// Writes what the socket takes now, and wakes the session for what it has to do.
    pub(super) fn flush(&mut self) {
        self.touched = false;
        self.write_now();
        let due = self.wake_at.is_some_and(|at| self.owed <= at);
        if due || !self.out.is_empty() || self.ending.is_some() {
            self.wake();
        }
    }

    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let stream = Pin::new(&mut self.stream);
            let wrote = if let Some(bytes) = self.out.only() {
                stream.poll_write(context, bytes)
            } else {
                let mut room = [IoSlice::new(&[]); SLICES_MAX];
                stream.poll_write_vectored(context, self.out.slices(&mut room))
            };
            match ready!(wrote)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.advance(bytes),
            }
            self.unflushed = self.stream.is_tls();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn advance(&mut self, bytes: usize) {
        self.out.advance(bytes);
        self.written += u64::try_from(bytes).unwrap_or(u64::MAX);
    }
}

impl Intake<'_> {
    /// A client that waits has no buffer; only what is long is read into place.
    pub(super) fn poll(
        self,
        stream: &mut Stream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes > SCRATCH_BYTES {
            self.input.reserve(self.bytes);
            return pin!(stream.read_buf(self.input)).poll(context);
        }
        poll_read_with(stream, context, |read| {
            if self.input.is_empty() && self.input.capacity() < read.len() {
                *self.input = BytesMut::with_capacity(read.len());
            }
            self.input.extend_from_slice(&read);
            let count = read.len();
            give_back(read);
            count
        })
    }
}
