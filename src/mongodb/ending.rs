//! What ends a session from outside: the gateway's draining, or somebody's order.

use std::task::{Context, Poll};

use tokio_util::sync::CancellationToken;

use crate::{shutdown::Shutdown, signal::Seldom, telemetry::SessionEnd};

/// Both signals of one session.
pub(super) struct Ending {
    drain: Watch,
    kill: Watch,
}

/// A signal that may come once.
enum Watch {
    /// It cannot come.
    Never,
    /// It may come.
    Waiting(Seldom<()>),
    /// It came.
    Seen,
}

impl Ending {
    /// Before login there is nobody to be ended but everybody.
    pub(super) fn new(shutdown: &Shutdown) -> Self {
        let shutdown = shutdown.clone();
        Self {
            drain: Watch::Waiting(Seldom::new(async move { shutdown.draining().await })),
            kill: Watch::Never,
        }
    }

    /// After login one client can be ended too.
    pub(super) fn watch(&mut self, token: CancellationToken) {
        self.kill = Watch::Waiting(Seldom::new(token.cancelled_owned()));
    }

    /// Ready between requests, when the session should end.
    pub(super) fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<SessionEnd> {
        match self.drain.poll(context) {
            Poll::Ready(()) => Poll::Ready(SessionEnd::Draining),
            Poll::Pending => self.poll_busy(context),
        }
    }

    /// Ready inside a request, when even that must end.
    pub(super) fn poll_busy(&mut self, context: &mut Context<'_>) -> Poll<SessionEnd> {
        self.kill.poll(context).map(|()| SessionEnd::Killed)
    }
}

impl Watch {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Never => Poll::Pending,
            Self::Seen => Poll::Ready(()),
            Self::Waiting(signal) => {
                let polled = signal.poll(context);
                if polled.is_ready() {
                    *self = Self::Seen;
                }
                polled
            }
        }
    }
}
