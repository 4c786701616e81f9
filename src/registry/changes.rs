//! What others have to know at once: pools and sessions that outlive what they were made from.

use std::sync::Arc;

use tokio::sync::broadcast;
use uuid::Uuid;

use super::{Registry, RegistryError};
use crate::tenant::{CredentialId, Tenant, TenantId};

/// Changes kept for a follower that is busy.
const CHANGES_KEPT_MAX: usize = 256;

/// A write that changes who may be connected, or where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A database's registration is another now.
    Changed(TenantId),
    /// A database is registered no more.
    Removed(TenantId),
    /// A credential is valid no more.
    Revoked(CredentialId),
}

/// Tells followers of changes.
pub(super) struct Changes(broadcast::Sender<Change>);

impl Changes {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(CHANGES_KEPT_MAX))
    }

    /// Without a follower nobody has to know.
    pub(super) fn tell(&self, change: Change) {
        let _followers = self.0.send(change).unwrap_or_default();
    }
}

impl Registry {
    /// Changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.0.subscribe()
    }

    /// A database as pools use it; `None` if it is registered no more or cannot be opened.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, RegistryError> {
        let Some(row) = self.database(&id.to_string()).await? else {
            return Ok(None);
        };
        let lookup = self.store.by_slug(&row.slug).await?;
        let holding = lookup.map(|lookup| self.holding(lookup, None));
        Ok(holding.and_then(|holding| holding.tenant(id)))
    }

    /// Forgets what was cached of a project and tells followers; after every write of ours.
    pub(super) fn changed(&self, project: Uuid, change: Change) {
        self.forget(project);
        self.changes.tell(change);
    }
}
