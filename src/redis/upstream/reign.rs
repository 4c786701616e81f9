//! Who is master: for as long as it is.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::tenant::Endpoint;

/// The time during which one server is the one to use. What was opened in it is closed with its end:
/// a write that an old master still takes is lost.
#[derive(Debug)]
pub(in crate::redis) struct Reign {
    /// The server.
    pub(super) master: Endpoint,
    end: CancellationToken,
    /// Rings when somebody has seen a sign that it is master no longer.
    doubt: Arc<Notify>,
}

impl Reign {
    pub(in crate::redis) fn new(master: Endpoint, doubt: Arc<Notify>) -> Self {
        Self {
            master,
            end: CancellationToken::new(),
            doubt,
        }
    }

    /// Ends it.
    pub(in crate::redis) fn end(&self) {
        self.end.cancel();
    }

    /// Whether another server has taken its place.
    pub(in crate::redis) fn is_over(&self) -> bool {
        self.end.is_cancelled()
    }

    /// Ready when another server takes its place.
    pub(in crate::redis) fn over(&self) -> WaitForCancellationFutureOwned {
        self.end.clone().cancelled_owned()
    }

    /// Has somebody look whether it still lasts.
    pub(in crate::redis) fn doubt(&self) {
        self.doubt.notify_one();
    }
}
