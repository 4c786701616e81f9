//! What the gateway says of itself: the `topologyVersion` that drivers order its answers by.

use bson::{RawDocumentBuf, oid::ObjectId, rawdoc};

use crate::shutdown::Shutdown;

/// The identity of this process towards drivers.
///
/// Its counter has two values: 0 while serving and 1 while draining. Nothing else about a gateway
/// changes while it runs, so nothing else makes monitors look again.
#[derive(Clone)]
pub(crate) struct Topology {
    process: ObjectId,
    shutdown: Shutdown,
}

impl Topology {
    /// A new identity.
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self {
            process: ObjectId::new(),
            shutdown,
        }
    }

    /// The id of this process; also the `serviceId` of load-balanced clients.
    pub(crate) const fn process(&self) -> ObjectId {
        self.process
    }

    /// How often it changed.
    pub(crate) fn counter(&self) -> i64 {
        i64::from(self.shutdown.is_draining())
    }

    /// The document that drivers compare.
    pub(crate) fn version(&self) -> RawDocumentBuf {
        rawdoc! { "processId": self.process, "counter": self.counter() }
    }

    /// Resolves when the version changes.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn changed(&self) {
        self.shutdown.draining().await;
    }
}
