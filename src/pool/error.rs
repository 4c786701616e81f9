//! Why a client did not get an upstream.

use std::time::Duration;

use thiserror::Error;

use crate::{
    fault::{Fault, FaultKind, Refusal, Side},
    net::DialFault,
};

/// Why a checkout failed.
#[derive(Debug, Clone, Error)]
pub enum CheckoutError {
    /// The queue is at its bound.
    #[error("{max} clients wait already")]
    QueueFull {
        /// The bound.
        max: usize,
    },
    /// The deadline passed.
    #[error("no upstream became free within {waited:?}")]
    WaitTooLong {
        /// How long the client waited.
        waited: Duration,
    },
    /// The upstream cannot be opened, and none is open.
    #[error("the upstream cannot be opened")]
    DialFailed(#[source] DialFault),
    /// An operator paused the pool, and the wait was too long.
    #[error("the pool is paused")]
    Paused,
    /// The gateway is shutting down.
    #[error("the gateway is shutting down")]
    Draining,
}

impl CheckoutError {
    /// The metric label of the outcome.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::QueueFull { .. } => "queue_full",
            Self::WaitTooLong { .. } => "wait_too_long",
            Self::DialFailed(_) => "dial_failed",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }

    /// What the client is told.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::QueueFull { max } => Refusal::QueueFull { max: *max },
            Self::WaitTooLong { waited } => Refusal::QueueTimeout { waited: *waited },
            Self::DialFailed(fault) => Refusal::UpstreamDown {
                cause: fault.to_string(),
            },
            Self::Paused => Refusal::Paused,
            Self::Draining => Refusal::Draining,
        }
    }
}

impl Fault for CheckoutError {
    fn kind(&self) -> FaultKind {
        self.refusal().kind()
    }

    fn side(&self) -> Side {
        self.refusal().side()
    }
}
