//! What is on its way to one client, and the client's socket.
//!
//! Shared between the client's own session, which reads the socket, and the trunk that carries its
//! commands, which writes replies straight to the socket when nothing waits before them: that
//! saves waking the session for each reply. Whoever touches the socket holds the lock.

mod line;
mod output;
#[cfg(test)]
mod tests;

pub(super) use output::Output;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use self::line::Line;
use super::settings::Settings;
use crate::net::Stream;

/// What is read at once of a client that is not listened to any longer.
const DISCARDED_BYTES: usize = 4096;

/// One client's output.
pub(super) struct Outbox {
    line: Mutex<Line>,
    bounds: Bounds,
}

/// Output at which a client that does not read is given up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Of any client; the reply under way is let through.
    bytes_max: usize,
    /// When a message comes for it.
    message_bytes_max: usize,
    /// The same, if that much waits for as long as `message_bytes_for`.
    message_bytes_soft: usize,
    message_bytes_for: Duration,
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
    pub(super) fn new(stream: Stream, bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            line: Mutex::new(Line::new(stream)),
            bounds,
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
    pub(super) fn append(&self, bytes: &[u8]) {
        self.append_part(bytes, true);
    }

    /// Appends output of the session's own and writes what the socket takes. False: the client is gone.
    pub(super) fn hand_over(&self, bytes: &[u8]) -> bool {
        let mut line = self.line.lock();
        line.out.append(bytes);
        line.write_now();
        line.ending.is_none()
    }

    /// Delivers `replies` replies of a trunk. True: the caller has to [`flush`](Self::flush).
    ///
    /// `bytes` may be a part of a reply, with `replies` 0.
    pub(super) fn deliver(&self, bytes: &[u8], replies: usize) -> bool {
        let mut line = self.line.lock();
        line.owed = line.owed.saturating_sub(replies);
        if line.take_part(bytes, replies > 0, self.bounds.bytes_max) {
            line.note_size(bytes.len(), replies);
        }
        !std::mem::replace(&mut line.touched, true)
    }

    /// Delivers a message that answers nothing. True: the caller has to flush and
    /// [`watch`](Self::flush_watching), even where a trunk flushes.
    ///
    /// As the server does, a subscriber is given up when a message would make too much of what waits, or
    /// when a lot has waited for long.
    pub(super) fn publish(&self, message: &Bytes) -> bool {
        let mut line = self.line.lock();
        if line.ending.is_none() {
            let was_slow = line.is_slow(&self.bounds);
            if line.is_midway {
                line.later.share(message);
            } else {
                line.out.share(message);
            }
            let waiting = line.waiting();
            if !was_slow && waiting >= self.bounds.message_bytes_soft {
                line.lag.since = Some(Instant::now());
            }
            if waiting > self.bounds.message_bytes_max || line.is_overdue(&self.bounds) {
                line.end(Ending::Slow);
            }
        }
        let is_unwatched = line.is_slow(&self.bounds) && !line.lag.is_watched;
        !std::mem::replace(&mut line.touched, true) || is_unwatched
    }

    /// Appends a part of a reply that the session relays; messages wait until it is whole.
    pub(super) fn append_part(&self, bytes: &[u8], is_last: bool) {
        let mut line = self.line.lock();
        line.take_part(bytes, is_last, self.bounds.bytes_max);
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
        self.line.lock().flush();
    }

    /// The same after messages. True: the client is slow, and the caller has to
    /// [`look at the clock`](Self::look_at_clock).
    pub(super) fn flush_watching(&self) -> bool {
        let mut line = self.line.lock();
        line.flush();
        line.is_slow(&self.bounds) && !std::mem::replace(&mut line.lag.is_watched, true)
    }

    /// Gives a subscriber up that has been slow for too long. False: it is slow no longer.
    pub(super) fn look_at_clock(&self) -> bool {
        let mut line = self.line.lock();
        line.lag.is_watched = line.is_slow(&self.bounds) && line.ending.is_none();
        if line.lag.is_watched && line.is_overdue(&self.bounds) {
            line.end(Ending::Slow);
            line.wake();
        }
        line.lag.is_watched
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

    /// Reads and forgets what the client still sends, until it closes.
    pub(super) fn poll_discard(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut waste = [0; DISCARDED_BYTES];
        let mut line = self.line.lock();
        loop {
            let mut waste = ReadBuf::new(&mut waste);
            let read = Pin::new(&mut line.stream).poll_read(context, &mut waste);
            if ready!(read).is_err() || waste.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }

    /// Bytes written since this was last asked.
    pub(super) fn take_written(&self) -> u64 {
        std::mem::take(&mut self.line.lock().written)
    }
}

impl Bounds {
    /// As the file says.
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            bytes_max: settings.output_bytes_max,
            message_bytes_max: settings.subscriber_bytes_max,
            message_bytes_soft: settings.subscriber_bytes_soft,
            message_bytes_for: settings.subscriber_soft_max,
        }
    }
}
