//! The closed loop: every client asks, waits for its answer, and asks again until the time is over.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::connection::Connection;
use crate::fault::Fault;
use crate::latency::Latencies;

/// How long the answers still outstanding at the end are waited for.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(10);
/// After so many errors a run has shown what it can show.
const ERRORS_MAX: u64 = 100;
const EVENTS_MAX: usize = 1024;

/// What a run found.
pub(crate) struct Outcome {
    /// The latency of every complete operation.
    pub(crate) latencies: Latencies,
    /// From the first request to the last reply.
    pub(crate) elapsed: Duration,
    /// Operations that failed, or were never answered.
    pub(crate) errors: u64,
    /// The first of the errors.
    pub(crate) first_error: Option<Fault>,
}

/// Runs `connections` for `duration`, then waits for what is outstanding.
///
/// # Errors
/// Only what keeps the loop from running; what happens to a client is counted in the outcome.
pub(crate) fn run(connections: Vec<Connection>, duration: Duration) -> Result<Outcome, Fault> {
    let mut drive = Drive::new(connections)?;
    let mut events = Events::with_capacity(EVENTS_MAX);
    let began_at = Instant::now();
    let deadline = began_at + duration;
    for index in 0..drive.connections.len() {
        drive.begin(index);
    }
    while drive.live > 0 && drive.errors < ERRORS_MAX {
        let wait_max = (deadline + DRAIN_WAIT_MAX).checked_duration_since(Instant::now());
        let Some(wait_max) = wait_max else {
            drive.abandon();
            break;
        };
        match drive.poll.poll(&mut events, Some(wait_max)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            drive.proceed(event.token().0, deadline);
        }
    }
    Ok(Outcome {
        latencies: drive.latencies,
        elapsed: began_at.elapsed(),
        errors: drive.errors,
        first_error: drive.first_error,
    })
}

struct Drive {
    poll: Poll,
    /// A slot is empty once its client is done, or failed.
    connections: Vec<Option<Connection>>,
    live: usize,
    latencies: Latencies,
    errors: u64,
    first_error: Option<Fault>,
}

impl Drive {
    fn new(connections: Vec<Connection>) -> Result<Self, Fault> {
        let poll = Poll::new()?;
        let mut slots = Vec::with_capacity(connections.len());
        for (index, mut connection) in connections.into_iter().enumerate() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(connection.socket(), Token(index), interest)?;
            slots.push(Some(connection));
        }
        Ok(Self {
            poll,
            live: slots.len(),
            connections: slots,
            latencies: Latencies::new(),
            errors: 0,
            first_error: None,
        })
    }

    fn begin(&mut self, index: usize) {
        let result = self.connection(index).map(Connection::begin);
        if let Some(Err(fault)) = result {
            self.fail(fault);
            self.retire(index);
        }
    }

    fn proceed(&mut self, index: usize, deadline: Instant) {
        let Some(result) = self.connection(index).map(Connection::proceed) else {
            return;
        };
        let usable = match result {
            Ok(None) => return,
            Ok(Some(latency)) => {
                self.latencies.add(latency);
                true
            }
            Err(fault) => {
                // An error reply leaves the connection in order; anything else does not.
                let usable = matches!(fault, Fault::Server { .. } | Fault::Answer(_));
                self.fail(fault);
                usable
            }
        };
        if usable && Instant::now() < deadline {
            self.begin(index);
        } else {
            self.retire(index);
        }
    }

    fn connection(&mut self, index: usize) -> Option<&mut Connection> {
        self.connections.get_mut(index)?.as_mut()
    }

    fn fail(&mut self, fault: Fault) {
        self.errors += 1;
        self.first_error.get_or_insert(fault);
    }

    fn retire(&mut self, index: usize) {
        if let Some(slot) = self.connections.get_mut(index) {
            self.live -= usize::from(slot.take().is_some());
        }
    }

    fn abandon(&mut self) {
        for _ in 0..self.live {
            self.fail(Fault::Answer("no answer within the wait at the end".into()));
        }
    }
}
