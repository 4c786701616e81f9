//! Waiting, with an eye on the client: its bytes, its end, its appetite, and our own end.

use std::{
    future::Future,
    task::{Context, Poll},
};

use bytes::BytesMut;

use super::{Control, HIGH_WATER, Over, Session};
use crate::redis::outbox::Standing;

/// Room for each read from a client.
const READ_BYTES: usize = 16 * 1024;
/// How much is read ahead of a client that waits for something.
const READ_AHEAD_BYTES: usize = 64 * 1024;
/// The most by which a buffer grows at once: what a client announces is not yet there.
const GROWTH_BYTES_MAX: usize = 1024 * 1024;

impl Session {
    /// Waits for bytes from the client, or its end.
    pub(super) async fn receive(&mut self) -> Result<(), Over> {
        if self.input.is_empty() {
            // An idle client keeps no buffer.
            self.input = BytesMut::new();
        }
        let bytes_max = self.service.settings().request_bytes_max;
        if self.input.len() >= bytes_max {
            return Err(Over);
        }
        let before = (self.input.len(), self.is_draining);
        std::future::poll_fn(|context| {
            let standing = self.poll_client(context, None, bytes_max)?;
            let came = (self.input.len(), self.is_draining) != before || self.has_ended;
            if came && standing.waiting < HIGH_WATER {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Waits until no more than `owed` replies are owed and the client has taken its output.
    pub(super) async fn settled(&mut self, owed: usize) -> Result<(), Over> {
        std::future::poll_fn(|context| {
            let standing = self.poll_client(context, Some(owed), READ_AHEAD_BYTES)?;
            let done = standing.owed <= owed && standing.waiting == 0;
            if done {
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

    /// Waits until the trunk has room, or is closed.
    pub(super) async fn room(&mut self) -> Result<(), Over> {
        std::future::poll_fn(|context| {
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
        std::future::poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            self.poll_client(context, None, READ_AHEAD_BYTES)?;
            Poll::Pending
        })
        .await
    }

    /// As [`meanwhile`](Self::meanwhile), for what has no sense once the client has left.
    pub(super) async fn attended<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Over> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            self.poll_attended(context)?;
            Poll::Pending
        })
        .await
    }

    /// Looks after a client whose end is the end of what it waits for.
    pub(super) fn poll_attended(&mut self, context: &mut Context<'_>) -> Result<Standing, Over> {
        let standing = self.poll_client(context, None, READ_AHEAD_BYTES)?;
        if self.has_ended {
            Err(Over)
        } else {
            Ok(standing)
        }
    }

    /// Looks after the client: writes, reads ahead within bounds, notices its end and ours.
    fn poll_client(
        &mut self,
        context: &mut Context<'_>,
        wake_at: Option<usize>,
        ahead_max: usize,
    ) -> Result<Standing, Over> {
        let may_read = !self.has_ended && self.input.len() < ahead_max;
        if may_read && self.input.capacity() - self.input.len() < READ_BYTES / 4 {
            let missing = self.decoder.wanted().saturating_sub(self.input.len());
            self.input
                .reserve(missing.clamp(READ_BYTES, GROWTH_BYTES_MAX));
        }
        let input = may_read.then_some(&mut self.input);
        let turn = self.outbox.poll_session(context, wake_at, input);
        match turn.read {
            Poll::Ready(Ok(0)) => self.has_ended = true,
            Poll::Ready(Ok(_)) => self.is_fresh = true,
            Poll::Ready(Err(_)) => return Err(Over),
            Poll::Pending if self.is_fresh => self.is_fresh = false,
            Poll::Pending => self.poll_control(context)?,
        }
        if turn.standing.ending.is_some() {
            return Err(Over);
        }
        Ok(turn.standing)
    }

    fn poll_control(&mut self, context: &mut Context<'_>) -> Result<(), Over> {
        let Poll::Ready(control) = self.control.as_mut().poll(context) else {
            return Ok(());
        };
        match control {
            Control::Killed | Control::LoginLate => Err(Over),
            Control::Drain => {
                self.is_draining = true;
                self.control = match &self.member {
                    None => Box::pin(std::future::pending()),
                    Some(member) => {
                        let end = member.seat.end_token();
                        Box::pin(async move {
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
