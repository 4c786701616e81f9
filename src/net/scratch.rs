//! Room for one read, shared by all connections of a thread: who waits for bytes holds no buffer for them.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes read at once: what is shorter leaves its socket empty with one call.
pub const SCRATCH_BYTES: usize = 64 * 1024;
/// Buffers that a thread keeps for its next reads.
const KEPT_MAX: usize = 16;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for one read.
fn take() -> Vec<u8> {
    KEPT.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(SCRATCH_BYTES))
}

/// Gives a buffer back for the next reads, if it is one of ours.
pub fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() != SCRATCH_BYTES {
        return;
    }
    KEPT.with_borrow_mut(|kept| {
        if kept.len() < KEPT_MAX {
            buffer.clear();
            kept.push(buffer);
        }
    });
}

/// Reads once; the buffer with what came, nothing at the end of file, goes through `keep`, which
/// gives back what it does not keep.
pub fn poll_read_with<S: AsyncRead + Unpin, T>(
    stream: &mut S,
    context: &mut Context<'_>,
    keep: impl FnOnce(Vec<u8>) -> T,
) -> Poll<io::Result<T>> {
    let mut buffer = take();
    let outcome = pin!(stream.read_buf(&mut buffer)).poll(context);
    match outcome {
        Poll::Ready(Ok(_)) => Poll::Ready(Ok(keep(buffer))),
        Poll::Ready(Err(error)) => {
            give_back(buffer);
            Poll::Ready(Err(error))
        }
        Poll::Pending => {
            give_back(buffer);
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn buffers_come_back_and_no_more_than_may_be_kept() {
        let read = std::future::poll_fn(|context| {
            poll_read_with(&mut &b"some"[..], context, |buffer| buffer)
        });
        let buffer = read.await.unwrap();
        assert_eq!(buffer, b"some");
        assert_eq!(buffer.capacity(), SCRATCH_BYTES);
        let address = buffer.as_ptr();
        give_back(buffer);
        let again = take();
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), address);
        for _ in 0..2 * KEPT_MAX {
            give_back(Vec::with_capacity(SCRATCH_BYTES));
        }
        give_back(Vec::with_capacity(2 * SCRATCH_BYTES));
        assert_eq!(KEPT.with_borrow(Vec::len), KEPT_MAX);
        assert!(KEPT.with_borrow(|kept| kept.iter().all(|one| one.capacity() == SCRATCH_BYTES)));
    }
}
