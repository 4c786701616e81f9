//! Writing to a socket with a bound on standing still.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{io::AsyncWrite, time::timeout};

/// How long the other side may take nothing before it is given up.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Writes what fits right now; the answer is how much that was.
pub(super) async fn write_now<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
) -> io::Result<usize> {
    poll_fn(|context| match poll_write(stream, context, bytes) {
        Poll::Pending => Poll::Ready(Ok(0)),
        ready @ Poll::Ready(_) => ready,
    })
    .await
}

/// Writes everything; a peer that takes nothing for long is a fault.
pub(super) async fn write_all<S: AsyncWrite + Unpin>(
    stream: &mut S,
    mut bytes: &[u8],
) -> io::Result<()> {
    while !bytes.is_empty() {
        // The timer is made only if it is needed.
        let mut written = write_now(stream, bytes).await?;
        if written == 0 {
            let waiting = poll_fn(|context| poll_write(stream, context, bytes));
            written = timeout(STALL_MAX, waiting)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        }
        bytes = bytes.get(written..).unwrap_or_default();
    }
    flush(stream).await
}

async fn flush<S: AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut flush = pin!(poll_fn(|context| Pin::new(&mut *stream).poll_flush(context)));
    let first = poll_fn(|context| Poll::Ready(flush.as_mut().poll(context))).await;
    match first {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => timeout(STALL_MAX, flush)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?,
    }
}

fn poll_write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    context: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    match Pin::new(stream).poll_write(context, bytes) {
        Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        other => other,
    }
}
