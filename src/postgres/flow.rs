//! One side of a session: a socket, what came from it, and what goes to it.
//!
//! Bytes that pass unchanged are written to the other side from the buffer they were read into; only
//! what is made, rewritten or left out costs a copy. Buffers grow while they are used and are let go
//! when a client is idle.

use std::{
    future::Future,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::net::Stream;

/// What a busy direction reads at once, and how much may lie unwritten before reading stops.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
/// Read on the stack first, so that an idle client needs no buffer.
const SCRATCH_BYTES: usize = 8 * 1024;
/// What passes behind something made is copied up to here: dearer is a system call that gathers.
const GATHERED_BYTES_MAX: usize = 1024;
/// What an upstream has from the beginning; twice as much may be kept of what was made.
const KEPT_BYTES: usize = 32 * 1024;
/// What an idle client may keep.
const IDLE_BYTES_MAX: usize = 1024;

/// Bytes from one peer: first those that may go on, then those that were not looked at.
#[derive(Default)]
pub(super) struct Inbound {
    buffer: BytesMut,
    passed: usize,
}

impl Inbound {
    /// What was not looked at yet.
    pub(super) fn unseen(&self) -> &[u8] {
        self.buffer.get(self.passed..).unwrap_or_default()
    }

    /// Lets the next bytes go on as they are.
    pub(super) fn pass(&mut self, count: usize) {
        self.passed = self.buffer.len().min(self.passed + count);
    }

    /// Leaves the next bytes out; those before go to `out`, in their order.
    pub(super) fn skip(&mut self, count: usize, out: &mut BytesMut) {
        self.settle(out);
        self.buffer.advance(count.min(self.buffer.len()));
    }

    /// Moves what may go on to `out`, so that something can be put behind it.
    pub(super) fn settle(&mut self, out: &mut BytesMut) {
        if let Some(passed) = self
            .buffer
            .get(..self.passed)
            .filter(|bytes| !bytes.is_empty())
        {
            out.extend_from_slice(passed);
            self.buffer.advance(self.passed);
            self.passed = 0;
        }
    }

    /// Gives up what may go on: the other side is gone.
    pub(super) fn forget_passed(&mut self) {
        self.buffer.advance(self.passed);
        self.passed = 0;
    }

    /// How much may go on but is not written.
    pub(super) fn passed(&self) -> usize {
        self.passed
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Gives memory back; for peers that are idle.
    pub(super) fn release(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > IDLE_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
    }

    /// Room for busy times from the beginning.
    pub(super) fn reserve(&mut self) {
        self.buffer.reserve(KEPT_BYTES);
    }
}

/// A socket with what came from it and what we made for it.
pub(super) struct Peer {
    pub(super) stream: Stream,
    pub(super) inbound: Inbound,
    pub(super) out: BytesMut,
}

impl Peer {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            inbound: Inbound::default(),
            out: BytesMut::new(),
        }
    }

    /// Reads once; 0 is the end of the stream.
    pub(super) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let buffer = &mut self.inbound.buffer;
        if buffer.capacity() - buffer.len() < BUFFER_BYTES {
            // What went on has left its room at the front: without this, every other read is a small one.
            let _is_there = buffer.try_reclaim(BUFFER_BYTES);
        }
        if buffer.capacity() - buffer.len() >= SCRATCH_BYTES || buffer.len() >= SCRATCH_BYTES {
            if buffer.capacity() - buffer.len() < SCRATCH_BYTES {
                buffer.reserve(BUFFER_BYTES);
            }
            return pin!(self.stream.read_buf(buffer)).poll(context);
        }
        let mut scratch = [const { MaybeUninit::<u8>::uninit() }; SCRATCH_BYTES];
        let mut read = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
        let bytes = read.filled();
        if bytes.len() == SCRATCH_BYTES {
            // More is coming: from now on into a large buffer of its own.
            buffer.reserve(BUFFER_BYTES + SCRATCH_BYTES);
        }
        buffer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Writes what we made, then what passed from the other side, until all is written.
    pub(super) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Inbound,
    ) -> Poll<io::Result<usize>> {
        if !self.out.is_empty() && from.passed <= GATHERED_BYTES_MAX {
            from.settle(&mut self.out);
        }
        let mut written = 0;
        while !self.out.is_empty() || from.passed > 0 {
            let passed = from.buffer.get(..from.passed).unwrap_or_default();
            let stream = Pin::new(&mut self.stream);
            let count = ready!(if self.out.is_empty() {
                stream.poll_write(context, passed)
            } else if passed.is_empty() {
                stream.poll_write(context, &self.out)
            } else {
                let slices = [IoSlice::new(&self.out), IoSlice::new(passed)];
                stream.poll_write_vectored(context, &slices)
            })?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            written += count;
            let made = count.min(self.out.len());
            self.out.advance(made);
            from.buffer.advance(count - made);
            from.passed -= count - made;
        }
        if written > 0 && self.stream.is_tls() {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        }
        if self.out.capacity() > 2 * KEPT_BYTES {
            self.out = BytesMut::new();
        }
        Poll::Ready(Ok(written))
    }

    /// Writes all that is in `out`.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        let mut nothing = Inbound::default();
        std::future::poll_fn(|context| self.poll_send(context, &mut nothing)).await?;
        Ok(())
    }

    /// Reads more; 0 is the end of the stream.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|context| self.poll_read(context)).await
    }
}
