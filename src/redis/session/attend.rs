//! Waiting, with an eye on the client: its bytes, its end, its appetite, and our own end.

use std::{
    future::{Future, poll_fn},
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::time::timeout;

use super::{Control, Over, Session};
use crate::{
    redis::{
        outbox::{Ending, Intake, Standing},
        settings::Settings,
    },
    signal::Seldom,
    telemetry::SessionEnd,
};

/// How much is read ahead of a client that waits for something.
pub(super) const READ_AHEAD_BYTES: usize = 64 * 1024;
/// The same of a client whose end has to be seen, for it stands behind what was sent before it.
const ATTENDED_BYTES: usize = 1024 * 1024;
/// The most by which a buffer grows at once: what a client announces is not yet there.
const GROWTH_BYTES_MAX: usize = 1024 * 1024;

/// What ends a wait, besides the end of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing: it is soon over.
    Brief,
    /// Our own end: it may take long, and nothing has been begun.
    Queued,
    /// The same, and input beyond [`ATTENDED_BYTES`]: it may last for ever.
    Blocked,
}

impl Session {
    /// Waits for bytes from the client, or its end.
    pub(super) async fn receive(&mut self) -> Result<(), Over> {
        if self.input.is_empty() {
            // A client may be idle for long; what it has sent is not kept until then.
            self.input = BytesMut::new();
        }
        self.next_bytes(|_, _| Ok(())).await
    }

    /// Waits for bytes from the client, or its end, and has `meanwhile` look at what else may come.
    pub(super) async fn next_bytes(
        &mut self,
        mut meanwhile: impl FnMut(&mut Self, &mut Context<'_>) -> Result<(), Over>,
    ) -> Result<(), Over> {
        let bytes_max = self.service.settings().request_bytes_max;
        if self.input.len() >= bytes_max {
            return Err(Over(SessionEnd::Limit));
        }
        self.count_traffic();
        self.show();
        let before = (self.input.len(), self.is_draining);
        poll_fn(|context| {
            meanwhile(self, context)?;
            self.poll_client(context, None, bytes_max)?;
            let came = (self.input.len(), self.is_draining) != before || self.has_ended;
            if came {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Waits until nothing is owed and the client has taken all of its output: the end.
    pub(super) async fn drained(&mut self) -> Result<(), Over> {
        poll_fn(|context| {
            let standing = self.poll_ahead(context, 0)?;
            if standing.owed == 0 && standing.waiting == 0 {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Closes the connection; the last words are on their way already.
    ///
    /// A client that is cut off in the middle of what it sends would be told so by a reset, which can
    /// overtake the last words: it is let finish. One that does not take them is not waited for.
    pub(super) async fn say_goodbye(&mut self, end: SessionEnd) {
        let goodbye = async {
            let closed = poll_fn(|context| self.outbox.poll_close(context)).await;
            if closed.is_ok() && matches!(end, SessionEnd::Malformed | SessionEnd::Limit) {
                poll_fn(|context| self.outbox.poll_discard(context)).await;
            }
        };
        if timeout(Settings::goodbye_max(), goodbye).await.is_err() {
            tracing::trace!(peer = %self.peer, "client did not take its goodbye");
        }
    }

    /// Waits until no more than `owed` replies are owed and the client has taken its output.
    ///
    /// A client that goes on sending does not read until it has sent everything: it is served all
    /// the same, as the server would, or both would wait for each other. Its output has a bound.
    pub(super) async fn settled(&mut self, owed: usize) -> Result<(), Over> {
        poll_fn(|context| {
            let standing = self.poll_ahead(context, owed)?;
            let goes_on = standing.waiting == 0 || self.input.len() >= READ_AHEAD_BYTES;
            if standing.owed <= owed && goes_on {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        })
        .await?;
        if let Some(database) = self.outbox.take_selected() {
            self.database = database;
            self.trunk = None;
            if let Some(member) = &self.member {
                member.station.note_database(database);
            }
        }
        Ok(())
    }

    /// Looks after the client and reads ahead, until the socket has nothing more or that is enough:
    /// what has been read has used up the waker, which is left again by a read that finds nothing.
    fn poll_ahead(&mut self, context: &mut Context<'_>, owed: usize) -> Result<Standing, Over> {
        loop {
            let before = self.input.len();
            let standing = self.poll_client(context, Some(owed), READ_AHEAD_BYTES)?;
            if self.input.len() == before {
                return Ok(standing);
            }
        }
    }

    /// Waits until the trunk has room, or is closed.
    pub(super) async fn room(&mut self) -> Result<(), Over> {
        poll_fn(|context| {
            self.poll_client(context, None, 0)?;
            match &self.trunk {
                None => Poll::Ready(Ok(())),
                Some(trunk) => trunk.poll_room(context).map(Ok),
            }
        })
        .await
    }

    /// Carries out something that takes time, and looks after the client meanwhile.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Over> {
        let mut work = std::pin::pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            self.poll_client(context, None, READ_AHEAD_BYTES)?;
            Poll::Pending
        })
        .await
    }

    /// As [`meanwhile`](Self::meanwhile), for what has no sense once the client has left.
    pub(super) async fn attended<T>(
        &mut self,
        wait: Wait,
        work: impl Future<Output = T>,
    ) -> Result<T, Over> {
        let mut work = std::pin::pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            self.poll_attended(context, wait)?;
            Poll::Pending
        })
        .await
    }

    /// Looks after a client whose end is the end of what it waits for.
    pub(super) fn poll_attended(
        &mut self,
        context: &mut Context<'_>,
        wait: Wait,
    ) -> Result<Standing, Over> {
        loop {
            let before = self.input.len();
            let standing = self.poll_client(context, None, ATTENDED_BYTES)?;
            if self.has_ended {
                return Err(Over(SessionEnd::Vanished));
            }
            if self.is_draining && wait != Wait::Brief {
                return Err(Over(SessionEnd::Draining));
            }
            if self.input.len() >= ATTENDED_BYTES && wait == Wait::Blocked {
                return Err(Over(SessionEnd::Limit));
            }
            // What has been read has used up the waker: it is left again when there is no more.
            if self.input.len() == before {
                return Ok(standing);
            }
        }
    }

    /// Looks after the client: writes, reads ahead within bounds, notices its end and ours.
    pub(super) fn poll_client(
        &mut self,
        context: &mut Context<'_>,
        wake_at: Option<usize>,
        ahead_max: usize,
    ) -> Result<Standing, Over> {
        let may_read = !self.has_ended && self.input.len() < ahead_max;
        let missing = self.decoder.wanted().saturating_sub(self.input.len());
        let intake = may_read.then_some(Intake {
            input: &mut self.input,
            bytes: missing.min(GROWTH_BYTES_MAX),
        });
        let turn = self.outbox.poll_session(context, wake_at, intake);
        match turn.read {
            Poll::Ready(Ok(0)) => self.has_ended = true,
            Poll::Ready(Ok(bytes)) => {
                self.traffic.read += u64::try_from(bytes).unwrap_or(u64::MAX);
            }
            Poll::Ready(Err(_)) => return Err(Over(SessionEnd::Vanished)),
            Poll::Pending => {}
        }
        self.poll_control(context)?;
        match turn.standing.ending {
            None => Ok(turn.standing),
            Some(Ending::Slow) => Err(Over(SessionEnd::SlowReader)),
            Some(Ending::Cut) => Err(Over(SessionEnd::UpstreamLost)),
            Some(Ending::Gone) => Err(Over(SessionEnd::Vanished)),
        }
    }

    fn poll_control(&mut self, context: &mut Context<'_>) -> Result<(), Over> {
        let Poll::Ready(control) = self.control.poll(context) else {
            return Ok(());
        };
        match control {
            Control::Killed => Err(Over(SessionEnd::Killed)),
            Control::LoginLate => Err(Over(SessionEnd::LoginFailed)),
            Control::Drain => {
                self.is_draining = true;
                self.control = match &self.member {
                    None => Seldom::new(std::future::pending()),
                    Some(member) => {
                        let end = member.seat.end_token();
                        Seldom::new(async move {
                            end.cancelled_owned().await;
                            Control::Killed
                        })
                    }
                };
                context.waker().wake_by_ref();
                Ok(())
            }
        }
    }
}
