//! What the sessions of one tenant share: statements, the greeting, and what its server accepts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use dashmap::DashMap;
use parking_lot::Mutex;

use super::{listen::Hub, prepared::Catalogue};
use crate::{
    auth::scram::Salted,
    tenant::{Generation, TenantId},
};

/// Tenants without a session are forgotten when there are more than this.
const TENANCIES_MAX: usize = 4096;
/// Start-up parameters that are remembered as accepted.
const ACCEPTED_MAX: usize = 4096;

/// A parameter's name and a value that the server took.
type Pair = (String, String);

/// What a server makes of a start-up parameter.
#[derive(Debug, Clone)]
pub(super) enum Accepted {
    /// It takes it, and reports it so.
    Reported(String, String),
    /// It takes it, and does not report it.
    Silently,
}

/// What one tenant's sessions share.
#[derive(Default)]
pub(super) struct Tenancy {
    pub(super) catalogue: Catalogue,
    /// What its clients listen to.
    pub(super) hub: Arc<Hub>,
    greeting: Mutex<Option<Arc<BTreeMap<String, String>>>>,
    /// Start-up parameters that were tried, and how the server reports them, if it does.
    accepted: Mutex<HashMap<Pair, Accepted>>,
    salted: Mutex<Option<(Generation, Salted)>>,
}

impl Tenancy {
    /// What a fresh upstream reported.
    pub(super) fn greeting(&self) -> Option<Arc<BTreeMap<String, String>>> {
        self.greeting.lock().clone()
    }

    /// The latest upstream's report; another server version shows from then on.
    pub(super) fn set_greeting(&self, reported: &BTreeMap<String, String>) {
        let mut greeting = self.greeting.lock();
        if greeting.as_deref() != Some(reported) {
            *greeting = Some(Arc::new(reported.clone()));
        }
    }

    /// Whether the server takes this value, and how it reports it; `None` if nobody tried.
    pub(super) fn accepted(&self, name: &str, value: &str) -> Option<Accepted> {
        self.accepted
            .lock()
            .get(&(name.to_owned(), value.to_owned()))
            .cloned()
    }

    /// The server took this value.
    pub(super) fn accept(&self, name: &str, value: &str, how: Accepted) {
        let mut accepted = self.accepted.lock();
        if accepted.len() >= ACCEPTED_MAX {
            accepted.clear();
        }
        accepted.insert((name.to_owned(), value.to_owned()), how);
    }

    /// The derived password of this registration, so that dialling again costs no derivation.
    pub(super) fn salted(&self, generation: Generation) -> Option<Salted> {
        let salted = self.salted.lock();
        salted
            .as_ref()
            .filter(|(of, _)| *of == generation)
            .map(|(_, salted)| salted.clone())
    }

    pub(super) fn keep_salted(&self, generation: Generation, salted: Salted) {
        *self.salted.lock() = Some((generation, salted));
    }
}

/// Every tenant's.
#[derive(Default)]
pub(super) struct Tenancies {
    all: DashMap<TenantId, Arc<Tenancy>>,
}

impl Tenancies {
    /// What the sessions of a tenant share.
    pub(super) fn of(&self, tenant: TenantId) -> Arc<Tenancy> {
        if let Some(found) = self.all.get(&tenant) {
            return Arc::clone(&found);
        }
        if self.all.len() >= TENANCIES_MAX {
            self.all.retain(|_, tenancy| Arc::strong_count(tenancy) > 1);
        }
        Arc::clone(&self.all.entry(tenant).or_default())
    }
}
