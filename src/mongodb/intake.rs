//! What was read from a socket and not yet used up.
//!
//! Most messages are small: they are read over the thread's scratch, so that a connection that waits
//! holds no buffer. What is left of a large one is read into place.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::net::{SCRATCH_BYTES, give_back, poll_read_with};

/// Bytes that are copied to where they stay; with more, the buffer they were read into stays: half of one, so that who
/// stops in the middle of a message holds no more than twice what came.
const COPIED_BYTES_MAX: usize = SCRATCH_BYTES / 2;
/// Bytes read at once into place.
const BULK_BYTES: usize = 256 * 1024;

/// Bytes of one message after which there is room for all of it: until then nobody gets more for claiming much, and
/// from then on it is not moved any more, which would need room for two.
const BELIEVED_BYTES: usize = 1024 * 1024;

/// Bytes between a socket and whoever understands them.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    bytes: Vec<u8>,
    start: usize,
}

impl Intake {
    /// What is there.
    pub(crate) fn pending(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// What is there, for edits in place.
    pub(crate) fn pending_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..).unwrap_or_default()
    }

    /// Puts other bytes in the place of those at the front.
    pub(crate) fn replace(&mut self, count: usize, mut bytes: Vec<u8>) {
        let rest = self.pending().get(count..).unwrap_or_default();
        bytes.extend_from_slice(rest);
        *self = Self { bytes, start: 0 };
    }

    /// Takes bytes off the front.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Lets go of a buffer that holds nothing and is larger than what may be kept.
    pub(crate) fn release(&mut self, kept_bytes: usize) {
        if self.bytes.is_empty() && self.bytes.capacity() > kept_bytes {
            give_back(std::mem::take(&mut self.bytes));
        }
    }

    /// Reads once; the answer is how many bytes came, 0 at the end of file. `wanted` is how many
    /// are missing, as far as that is known.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        wanted: usize,
    ) -> io::Result<usize> {
        poll_fn(|context| self.poll_fill(context, stream, wanted)).await
    }

    /// [`Intake::fill`], polled.
    pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut S,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        if wanted > SCRATCH_BYTES {
            self.compact();
            let is_believed = self.bytes.len() >= BELIEVED_BYTES;
            self.bytes.reserve_exact(if is_believed {
                wanted
            } else {
                wanted.min(BULK_BYTES)
            });
            return pin!(stream.read_buf(&mut self.bytes)).poll(context);
        }
        poll_read_with(stream, context, |read| {
            let count = read.len();
            if self.bytes.is_empty() && count > COPIED_BYTES_MAX {
                give_back(std::mem::replace(&mut self.bytes, read));
            } else {
                self.compact();
                self.bytes.extend_from_slice(&read);
                give_back(read);
            }
            count
        })
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_come_out_as_they_went_in() {
        let sent: Vec<u8> = (0..100_000_u32)
            .map(|number| number.to_le_bytes()[1])
            .collect();
        let mut socket = &sent[..];
        let mut intake = Intake::default();
        let mut seen = Vec::new();
        for wanted in (0..).map(|round| round * 7919) {
            if intake.fill(&mut socket, wanted).await.unwrap() == 0 {
                break;
            }
            let taken = intake.pending().len() / 2 + 1;
            seen.extend_from_slice(&intake.pending()[..taken]);
            intake.consume(taken);
        }
        seen.extend_from_slice(intake.pending());
        assert_eq!(seen, sent);
    }

    #[tokio::test]
    async fn whole_message_is_not_moved_while_it_comes() {
        let whole = 8 * BELIEVED_BYTES;
        let sent = vec![7; whole];
        let mut socket = &sent[..];
        let mut intake = Intake::default();
        let mut capacities = Vec::new();
        while intake.pending().len() < whole {
            let missing = whole - intake.pending().len();
            intake.fill(&mut socket, missing).await.unwrap();
            capacities.push(intake.bytes.capacity());
        }
        capacities.dedup();
        assert_eq!(capacities.first(), Some(&BULK_BYTES));
        assert_eq!(capacities.last(), Some(&whole));
        assert!(capacities.len() <= BELIEVED_BYTES / BULK_BYTES + 1);
    }

    #[tokio::test]
    async fn half_a_message_holds_no_more_than_twice_its_bytes() {
        for sent in [100, 9000, 30_000, 33_000, 64_000] {
            let sent = vec![7; sent];
            let mut intake = Intake::default();
            intake.fill(&mut &sent[..], 0).await.unwrap();
            assert_eq!(intake.pending(), sent);
            assert!(intake.bytes.capacity() <= 2 * sent.len());
        }
    }

    #[tokio::test]
    async fn large_empty_buffer_is_let_go() {
        let sent = [7; 8000];
        let mut intake = Intake::default();
        intake.fill(&mut &sent[..], 0).await.unwrap();
        intake.release(1024);
        assert_eq!(intake.pending().len(), 8000);
        intake.consume(8000);
        intake.release(1024);
        assert_eq!(intake.bytes.capacity(), 0);
    }
}
