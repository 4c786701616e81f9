//! The nodes of a cluster, and the right to have upstreams to several of them.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::CONFIRM_MAX;
use crate::{fault::Refusal, redis::cluster::Cluster};

/// Who has which channel, and how many upstreams there may be.
pub(in crate::redis) struct Nodes {
    pub(super) cluster: Arc<Cluster>,
    /// The one place that is kept back for subscriptions.
    own: Arc<Semaphore>,
    /// Bounds what is taken from leases for longer than a command.
    keepers: Arc<Semaphore>,
    /// Bounds leases.
    pins: Arc<Semaphore>,
}

/// The right to have an upstream; dropped after it.
pub(super) type Right = Vec<OwnedSemaphorePermit>;

impl Nodes {
    pub(in crate::redis) fn new(
        cluster: &Arc<Cluster>,
        keepers: &Arc<Semaphore>,
        pins: &Arc<Semaphore>,
    ) -> Self {
        Self {
            cluster: Arc::clone(cluster),
            own: Arc::new(Semaphore::new(1)),
            keepers: Arc::clone(keepers),
            pins: Arc::clone(pins),
        }
    }

    /// The right to one more upstream.
    pub(super) async fn right(&self) -> Result<Right, Refusal> {
        if let Ok(own) = Arc::clone(&self.own).try_acquire_owned() {
            return Ok(vec![own]);
        }
        let keeper = Arc::clone(&self.keepers).try_acquire_owned();
        let keeper = keeper.map_err(|_| Refusal::UpstreamDown {
            cause:
                "shard channels on so many nodes need more upstream connections than there may be"
                    .into(),
        })?;
        // It is never closed while the station lives.
        let pin = timeout(CONFIRM_MAX, Arc::clone(&self.pins).acquire_owned()).await;
        let pin = pin.map_err(|_| Refusal::TimedOut {
            what: "subscription",
        })?;
        Ok(vec![keeper, pin.map_err(|_| Refusal::Draining)?])
    }
}
