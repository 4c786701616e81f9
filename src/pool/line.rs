//! Waiting in a pool's line.
//!
//! Nobody in it has a timer: one task for the whole line tells those who have waited for too long.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use super::{CheckoutError, Dial, Lease, Pool, Residue};
use crate::shutdown::Shutdown;

/// How often the line is looked at while the gateway ends: its end must not wait for a line that is empty.
const DRAINING_EVERY: Duration = Duration::from_millis(50);

/// A place in the line: ready with the upstream, or with why there is none. Dropped, it leaves the line, and gives back
/// what it was handed.
#[must_use]
pub struct Waiting<D: Dial> {
    pool: Arc<Pool<D>>,
    ticket: u64,
    since: Instant,
    answer: oneshot::Receiver<Result<Lease<D>, CheckoutError>>,
    is_answered: bool,
}

impl<D: Dial> Waiting<D> {
    pub(super) fn new(
        pool: Arc<Pool<D>>,
        ticket: u64,
        since: Instant,
        answer: oneshot::Receiver<Result<Lease<D>, CheckoutError>>,
    ) -> Self {
        Self {
            pool,
            ticket,
            since,
            answer,
            is_answered: false,
        }
    }
}

impl<D: Dial> Future for Waiting<D> {
    type Output = Result<Lease<D>, CheckoutError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        self.is_answered = true;
        // A dropped sender cannot be: tickets are answered or withdrawn.
        let outcome = answer.unwrap_or(Err(CheckoutError::Draining));
        let label = outcome.as_ref().err().map(CheckoutError::label);
        let meters = &self.pool.shared.meters;
        meters.leased(label, self.since.elapsed());
        Poll::Ready(outcome)
    }
}

impl<D: Dial> Drop for Waiting<D> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        self.pool.core.lock().withdraw(self.ticket);
        self.answer.close();
        if let Ok(Ok(lease)) = self.answer.try_recv() {
            lease.give_back(Residue::Clean);
        }
    }
}

/// Looks after a line until it is empty.
pub(super) async fn watch<D: Dial>(pool: Weak<Pool<D>>, shutdown: Shutdown) {
    loop {
        // Not held while it sleeps: a pool that nobody uses may go.
        let Some(next) = pool.upgrade().and_then(|pool| pool.expire()) else {
            return;
        };
        if shutdown.is_draining() {
            sleep_until(next.min(Instant::now() + DRAINING_EVERY)).await;
            continue;
        }
        tokio::select! {
            () = sleep_until(next) => {}
            () = shutdown.draining() => {}
        }
    }
}
