//! What is on its way to one client, and the client's socket.
//!
//! Shared between the client's own session, which reads the socket, and the trunk that carries its
//! commands, which writes replies straight to the socket when nothing waits before them: that
//! saves waking the session for each reply. Whoever touches the socket holds the lock.

use std::{
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BufMut, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::net::Stream;

/// Room for each read from a client.
const SCRATCH_BYTES: usize = 16 * 1024;
/// An output buffer larger than this is given back once it is empty.
const KEPT_BYTES_MAX: usize = 1024;

/// One client's output.
pub(super) struct Outbox {
    line: Mutex<Line>,
    /// Output at which a client that does not read is given up.
    bytes_max: usize,
}

/// The state behind the lock.
struct Line {
    stream: Stream,
    out: BytesMut,
    /// Messages that came in the middle of a reply.
    later: BytesMut,
    /// A part of a reply is in `out`, and not the rest.
    is_midway: bool,
    /// Replies that a trunk still owes.
    owed: usize,
    /// The session wants to be woken when no more than this many are owed.
    wake_at: Option<usize>,
    task: Option<Waker>,
    /// A TLS layer may hold bytes back.
    unflushed: bool,
    /// In the list of a trunk that will flush it.
    touched: bool,
    /// The database that an awaited `SELECT` has reached.
    selected: Option<u32>,
    ending: Option<Ending>,
    /// Bytes written and replies delivered since the session last asked.
    written: u64,
    /// The largest reply of late, which bounds how many may be under way.
    reply_bytes: usize,
    /// What has come of the reply in progress.
    partial: usize,
}

/// Why a client cannot be served any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It does not read its replies.
    Slow,
    /// Its upstream was lost in the middle of a reply.
    Cut,
    /// Its socket failed.
    Gone,
}

/// Where to read to.
pub(super) struct Intake<'a> {
    /// The session's buffer.
    pub(super) input: &'a mut BytesMut,
    /// Bytes that are known to be missing; 0 if nothing is known.
    pub(super) bytes: usize,
}

/// What a session's turn at its socket came to.
pub(super) struct Turn {
    /// How things stand.
    pub(super) standing: Standing,
    /// Bytes read; 0 is the end of the client's input.
    pub(super) read: Poll<io::Result<usize>>,
}

/// What the session needs to know of its output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// Replies that a trunk still owes.
    pub(super) owed: usize,
    /// Bytes that the client has not taken yet.
    pub(super) waiting: usize,
    /// The largest reply of late.
    pub(super) reply_bytes: usize,
    /// Why it must end.
    pub(super) ending: Option<Ending>,
}

impl Outbox {
    pub(super) fn new(stream: Stream, bytes_max: usize) -> Arc<Self> {
        let line = Line {
            stream,
            out: BytesMut::new(),
            later: BytesMut::new(),
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
        };
        Arc::new(Self {
            line: Mutex::new(line),
            bytes_max,
        })
    }

    /// How things stand.
    pub(super) fn standing(&self) -> Standing {
        self.line.lock().standing()
    }

    /// Announces replies that a trunk will deliver.
    pub(super) fn owe(&self, replies: usize) {
        self.line.lock().owed += replies;
    }

    /// Appends output of the session's own; only while nothing is owed.
    pub(super) fn append(&self, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.line.lock().out);
    }

    /// Appends output of the session's own and writes what the socket takes. False: the client is gone.
    pub(super) fn hand_over(&self, bytes: &[u8]) -> bool {
        let mut line = self.line.lock();
        line.out.extend_from_slice(bytes);
        line.write_now();
        line.ending.is_none()
    }

    /// Delivers `replies` replies of a trunk. True: the caller has to [`flush`](Self::flush).
    ///
    /// `bytes` may be a part of a reply, with `replies` 0.
    pub(super) fn deliver(&self, bytes: &[u8], replies: usize) -> bool {
        let mut line = self.line.lock();
        line.owed = line.owed.saturating_sub(replies);
        if line.ending.is_none() {
            // The reply in progress is let through whatever its size; what comes after it is not.
            if line.out.len() > self.bytes_max && !line.is_midway {
                line.end(Ending::Slow);
            } else {
                line.out.extend_from_slice(bytes);
                line.set_midway(replies == 0);
                line.note_size(bytes.len(), replies);
            }
        }
        !std::mem::replace(&mut line.touched, true)
    }

    /// Delivers a message that answers nothing. True: the caller has to [`flush`](Self::flush).
    pub(super) fn publish(&self, kind: u8, body: &[u8]) -> bool {
        let mut line = self.line.lock();
        if line.ending.is_none() {
            let out = if line.is_midway {
                &mut line.later
            } else {
                &mut line.out
            };
            if out.len() > self.bytes_max {
                line.end(Ending::Slow);
            } else {
                out.put_u8(kind);
                out.put_slice(body);
            }
        }
        !std::mem::replace(&mut line.touched, true)
    }

    /// Appends a part of a reply that the session relays; messages wait until it is whole.
    pub(super) fn append_part(&self, bytes: &[u8], is_last: bool) {
        let mut line = self.line.lock();
        line.out.put_slice(bytes);
        line.set_midway(!is_last);
    }

    /// Tells the session that its `SELECT` succeeded.
    pub(super) fn select(&self, database: u32) {
        self.line.lock().selected = Some(database);
    }

    /// The database that an awaited `SELECT` has reached, once.
    pub(super) fn take_selected(&self) -> Option<u32> {
        self.line.lock().selected.take()
    }

    /// Gives the client up.
    pub(super) fn end(&self, ending: Ending) {
        let mut line = self.line.lock();
        line.end(ending);
        line.wake();
    }

    /// Writes what the socket takes now, and wakes the session for what it has to do.
    pub(super) fn flush(&self) {
        let mut line = self.line.lock();
        line.touched = false;
        line.write_now();
        let due = line.wake_at.is_some_and(|at| line.owed <= at);
        if due || !line.out.is_empty() || line.ending.is_some() {
            line.wake();
        }
    }

    /// The session's turn: writes what waits, reads if there is room, and leaves the waker for when
    /// no more than `wake_at` replies are owed, or the client must end.
    pub(super) fn poll_session(
        &self,
        context: &mut Context<'_>,
        wake_at: Option<usize>,
        intake: Option<Intake<'_>>,
    ) -> Turn {
        let mut line = self.line.lock();
        line.wake_at = wake_at;
        if !line
            .task
            .as_ref()
            .is_some_and(|task| task.will_wake(context.waker()))
        {
            line.task = Some(context.waker().clone());
        }
        if let Poll::Ready(Err(_)) = line.poll_flush(context) {
            line.end(Ending::Gone);
        }
        let read = match intake {
            Some(intake) => intake.poll(&mut line.stream, context),
            None => Poll::Pending,
        };
        Turn {
            standing: line.standing(),
            read,
        }
    }

    /// Closes the client's side of the connection.
    pub(super) fn poll_close(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line.lock().stream).poll_shutdown(context)
    }

    /// Bytes written since this was last asked.
    pub(super) fn take_written(&self) -> u64 {
        std::mem::take(&mut self.line.lock().written)
    }
}

impl Intake<'_> {
    /// A client that waits has no buffer: what comes is read on the stack first, unless it is long.
    fn poll(self, stream: &mut Stream, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.bytes > SCRATCH_BYTES {
            self.input.reserve(self.bytes);
            return pin!(stream.read_buf(self.input)).poll(context);
        }
        let mut scratch = [MaybeUninit::uninit(); SCRATCH_BYTES];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(stream).poll_read(context, &mut buffer))?;
        if self.input.is_empty() && self.input.capacity() < buffer.filled().len() {
            *self.input = BytesMut::with_capacity(buffer.filled().len());
        }
        self.input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl Line {
    fn standing(&self) -> Standing {
        Standing {
            owed: self.owed,
            waiting: self.out.len(),
            reply_bytes: self.reply_bytes,
            ending: self.ending,
        }
    }

    fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        if ending != Ending::Cut {
            self.out = BytesMut::new();
        }
    }

    /// Notes how large replies are, of which this was the last part or a part.
    fn note_size(&mut self, bytes: usize, replies: usize) {
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
    fn set_midway(&mut self, is_midway: bool) {
        self.is_midway = is_midway;
        if !is_midway && !self.later.is_empty() {
            let later = std::mem::take(&mut self.later);
            self.out.extend_from_slice(&later);
        }
    }

    fn wake(&mut self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    fn write_now(&mut self) {
        while !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(0) => return self.end(Ending::Gone),
                Ok(bytes) => self.advance(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.end(Ending::Gone),
            }
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => self.advance(bytes),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
            self.unflushed = self.stream.is_tls();
        }
        if self.unflushed {
            std::task::ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, bytes: usize) {
        self.out.advance(bytes);
        self.written += u64::try_from(bytes).unwrap_or(u64::MAX);
        if self.out.is_empty() && self.out.capacity() > KEPT_BYTES_MAX {
            self.out = BytesMut::new();
        } else if self.out.is_empty() {
            self.out.clear();
        }
    }
}
