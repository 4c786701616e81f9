//! How long a client may take: over a query, and over its pauses.
//!
//! A query that takes too long is cancelled, which the server answers as any cancel (57014), and the
//! session goes on; a pause that is too long ends the session.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::sleep;

use super::{Session, Stop};
use crate::{postgres::exchange::IDLE, signal::Seldom, tenant::Timeouts};

/// How long a cancelled query may take to end before the session is ended instead.
const CANCEL_MAX: Duration = Duration::from_secs(5);

/// What takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) enum Phase {
    /// A query.
    Query,
    /// A pause within a transaction.
    Transaction,
    /// A pause between transactions.
    Pause,
}

/// The clock of one session.
pub(super) struct Deadlines {
    timeouts: Timeouts,
    /// What is timed: its kind, and what tells it from the one before.
    timed: Option<(Phase, u64)>,
    alarm: Option<Seldom<()>>,
    cancelled: bool,
}

impl Deadlines {
    /// `None` where nothing is limited, so that nothing is spent on it.
    pub(super) fn new(timeouts: Timeouts) -> Option<Box<Self>> {
        (timeouts != Timeouts::default()).then(|| {
            Box::new(Self {
                timeouts,
                timed: None,
                alarm: None,
                cancelled: false,
            })
        })
    }

    fn time(&mut self, timed: (Phase, u64)) {
        if self.timed == Some(timed) {
            return;
        }
        let max = match timed.0 {
            Phase::Query => self.timeouts.query,
            Phase::Transaction => self.timeouts.transaction_idle,
            Phase::Pause => self.timeouts.client_idle,
        };
        self.timed = Some(timed);
        self.cancelled = false;
        self.alarm = max.map(|max| Seldom::new(sleep(max)));
    }
}

impl Session {
    /// Ready when something has taken so long that the session must end.
    pub(super) fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<Stop> {
        let timed = self.timed();
        let Some(deadlines) = &mut self.deadlines else {
            return Poll::Pending;
        };
        deadlines.time(timed);
        loop {
            let Some(alarm) = &mut deadlines.alarm else {
                return Poll::Pending;
            };
            if alarm.poll(context).is_pending() {
                return Poll::Pending;
            }
            deadlines.alarm = None;
            if timed.0 != Phase::Query || deadlines.cancelled {
                return Poll::Ready(Stop::Overdue(timed.0));
            }
            deadlines.cancelled = true;
            deadlines.alarm = Some(Seldom::new(sleep(CANCEL_MAX)));
            self.desk.cancel_query(&self.service.shutdown);
        }
    }

    fn timed(&self) -> (Phase, u64) {
        if self.lease.is_some() && self.exchange.is_busy() {
            (Phase::Query, self.exchange.unit())
        } else if self.lease.is_some() && self.exchange.status() != IDLE {
            (Phase::Transaction, self.tally.client_read)
        } else {
            (Phase::Pause, self.tally.client_read)
        }
    }
}
