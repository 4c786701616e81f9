//! The bytes of all four directions: written, read, and handed on.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use super::{Need, Run, Session, Stop};
use crate::postgres::flow::{BUFFER_BYTES, Inbound, Peer};

/// How often a message is read on before others have their turn.
const RELAYS_MAX: usize = 4;

/// Resolves when the client has closed.
pub(super) type Watch = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Session {
    /// Writes what is ready and reads what has come; ready when something came or something is over.
    pub(super) fn poll_transfer(
        &mut self,
        context: &mut Context<'_>,
        need: Need,
    ) -> Poll<Result<(), Stop>> {
        let mut nothing = Inbound::default();
        let (client, tally) = (&mut self.client, &mut self.tally);
        let mut moved = false;
        let mut waiting = 0;
        let from = match &mut self.lease {
            Some(lease) => &mut lease.upstream.peer.inbound,
            None => &mut nothing,
        };
        match client.poll_send(context, from) {
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Stop::Vanished)),
            Poll::Ready(Ok(count)) => {
                tally.client_written += count as u64;
                moved = count > 0 && self.ears.as_ref().is_some_and(|ears| ears.has_mail());
            }
            Poll::Pending => {}
        }
        if let Some(lease) = &mut self.lease {
            let upstream = &mut lease.upstream.peer;
            let sent = send_on(context, upstream, &mut client.inbound);
            tally.upstream_written += sent;
            // Nothing will be answered, so it is for us to see that the exchange is over.
            moved |= sent > 0 && self.exchange.is_quiet();
            waiting = upstream.out.len() + client.inbound.passed();
            let answers = relay(context, upstream, client, &mut self.reply);
            let answers = answers.map_err(|_| Stop::UpstreamLost)?;
            tally.upstream_read += answers.read;
            tally.client_written += answers.written;
            moved |= answers.read > 0;
            if answers.read == 0 && upstream.inbound.passed() + client.out.len() < BUFFER_BYTES {
                match upstream.poll_read(context) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Stop::UpstreamLost)),
                    Poll::Ready(Ok(count)) => {
                        tally.upstream_read += count as u64;
                        moved = true;
                    }
                    Poll::Pending => {}
                }
            }
            if client.out.len() < BUFFER_BYTES {
                let data = relay(context, client, upstream, &mut self.request);
                let data = data.map_err(|_| Stop::Vanished)?;
                tally.client_read += data.read;
                tally.upstream_written += data.written;
                if data.read > 0 {
                    self.watch = None;
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let room = need == Need::Input || client.inbound.unseen().len() < BUFFER_BYTES;
        // Answers that the client does not read keep its next messages out.
        if room && waiting < BUFFER_BYTES && client.out.len() < BUFFER_BYTES {
            match client.poll_read(context) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Stop::Vanished)),
                Poll::Ready(Ok(count)) => {
                    tally.client_read += count as u64;
                    moved = true;
                }
                Poll::Pending => {}
            }
            self.watch = None;
        } else if self.poll_closed(context).is_ready() {
            return Poll::Ready(Err(Stop::Vanished));
        }
        if moved {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// The end of a client that is not read: behind what it sent, it must be seen all the same.
    fn poll_closed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.watch.is_none() {
            let watch = self.client.stream.watch_close();
            self.watch = watch.ok().map(|watch| Box::pin(watch) as Watch);
        }
        match &mut self.watch {
            Some(watch) => watch.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

/// Writes to an upstream.
fn send_on(context: &mut Context<'_>, upstream: &mut Peer, from: &mut Inbound) -> u64 {
    match upstream.poll_send(context, from) {
        Poll::Ready(Ok(count)) => count as u64,
        Poll::Ready(Err(_)) => {
            // What the server said before it closed is still to be read.
            upstream.out.clear();
            from.forget_passed();
            0
        }
        Poll::Pending => 0,
    }
}

/// What was moved at once.
#[derive(Default)]
struct Moved {
    read: u64,
    written: u64,
}

/// Hands on what has come of the rest of a long message.
fn relay(
    context: &mut Context<'_>,
    from: &mut Peer,
    to: &mut Peer,
    run: &mut Run,
) -> io::Result<Moved> {
    let mut moved = Moved::default();
    for _ in 0..RELAYS_MAX {
        let held = !from.inbound.is_empty() || !to.out.is_empty();
        if held || run.dropped || run.left < BUFFER_BYTES {
            break;
        }
        match from.poll_relay(context, to, &mut run.left) {
            Poll::Ready(Ok((0, _))) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Poll::Ready(Ok((read, written))) => {
                moved.read += read as u64;
                moved.written += written as u64;
            }
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    Ok(moved)
}
