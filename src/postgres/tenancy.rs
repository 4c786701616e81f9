//! What the sessions of one tenant share: statements, the greeting, and what its server accepts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use parking_lot::Mutex;

use super::{
    listen::Hub, prepared::Catalogue, rank::IN_HOT_STANDBY, routines::Routines, servers::Servers,
};
use crate::{
    auth::scram::Salted,
    tenant::{Endpoint, Generation, Tenant, TenantId},
};

/// Tenants without a session are forgotten when there are more than this.
const TENANCIES_MAX: usize = 4096;
/// Start-up parameters that are remembered as accepted.
const ACCEPTED_MAX: usize = 4096;

/// Servers whose greetings are remembered; a registration has far fewer.
const GREETINGS_MAX: usize = 64;

/// What a fresh upstream reported.
type Greeting = Arc<BTreeMap<String, String>>;

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
pub(super) struct Tenancy {
    pub(super) catalogue: Catalogue,
    /// What the database's functions do to sessions.
    pub(super) routines: Routines,
    /// What its clients listen to.
    pub(super) hub: Arc<Hub>,
    greeting: Mutex<Option<Greeting>>,
    was_promoted: AtomicBool,
    /// Where there are several servers: of each.
    greetings: Mutex<HashMap<Endpoint, Greeting>>,
    /// What is known of them.
    servers: Mutex<Option<Arc<Servers>>>,
    /// Start-up parameters that were tried, and how the server reports them, if it does.
    accepted: Mutex<HashMap<Pair, Accepted>>,
    salted: Mutex<Option<(Generation, Salted)>>,
}

impl Tenancy {
    fn new(fresh_for: Duration) -> Self {
        Self {
            catalogue: Catalogue::new(fresh_for),
            routines: Routines::new(fresh_for),
            hub: Arc::default(),
            greeting: Mutex::default(),
            was_promoted: AtomicBool::default(),
            greetings: Mutex::default(),
            servers: Mutex::default(),
            accepted: Mutex::default(),
            salted: Mutex::default(),
        }
    }

    /// What a fresh upstream reported.
    pub(super) fn greeting(&self) -> Option<Greeting> {
        self.greeting.lock().clone()
    }

    /// The latest upstream's report; another server version shows from then on.
    pub(super) fn set_greeting(&self, reported: &BTreeMap<String, String>) {
        let mut greeting = self.greeting.lock();
        if greeting.as_deref() != Some(reported) {
            *greeting = Some(Arc::new(reported.clone()));
        }
    }

    /// What a fresh upstream to that server reported.
    pub(super) fn greeting_at(&self, server: &Endpoint) -> Option<Greeting> {
        self.greetings.lock().get(server).cloned()
    }

    pub(super) fn set_greeting_at(&self, server: &Endpoint, reported: &BTreeMap<String, String>) {
        let mut greetings = self.greetings.lock();
        if greetings.len() >= GREETINGS_MAX && !greetings.contains_key(server) {
            greetings.clear();
        }
        greetings.insert(server.clone(), Arc::new(reported.clone()));
    }

    /// A server was promoted while connected: who logs in hears of it.
    pub(super) fn note_standby(&self, value: &str) {
        let mut greeting = self.greeting.lock();
        if let Some(known) = greeting.as_mut()
            && known
                .get(IN_HOT_STANDBY)
                .is_some_and(|known| known != value)
        {
            Arc::make_mut(known).insert(IN_HOT_STANDBY.to_owned(), value.to_owned());
            self.was_promoted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the only server was promoted while connected, so that clients may believe what was true before.
    pub(super) fn was_promoted(&self) -> bool {
        self.was_promoted.load(Ordering::Relaxed)
    }

    /// What is known of the servers of a registration, shared by its sessions.
    pub(super) fn servers(&self, tenant: &Tenant) -> Arc<Servers> {
        let mut servers = self.servers.lock();
        match &*servers {
            // Some session may have read an older registration.
            Some(known) if known.generation() >= tenant.generation => Arc::clone(known),
            _ => Arc::clone(servers.insert(Servers::new(tenant))),
        }
    }

    /// The server that takes writes, where there are several and that is known.
    pub(super) fn leader(&self) -> Option<Endpoint> {
        self.servers.lock().as_ref()?.leader()
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
pub(super) struct Tenancies {
    all: DashMap<TenantId, Arc<Tenancy>>,
    /// How long what is known of functions counts.
    fresh_for: Duration,
}

impl Tenancies {
    /// Nobody's.
    pub(super) fn new(fresh_for: Duration) -> Self {
        Self {
            all: DashMap::new(),
            fresh_for,
        }
    }

    /// What one of a tenant's servers is, if that is known.
    pub(super) fn rank_of(&self, tenant: TenantId, server: &str) -> Option<&'static str> {
        let servers = self.all.get(&tenant)?.servers.lock().clone();
        servers?.rank_of(server)
    }

    /// What the sessions of a tenant share.
    pub(super) fn of(&self, tenant: TenantId) -> Arc<Tenancy> {
        if let Some(found) = self.all.get(&tenant) {
            return Arc::clone(&found);
        }
        if self.all.len() >= TENANCIES_MAX {
            self.all.retain(|_, tenancy| Arc::strong_count(tenancy) > 1);
        }
        let make = || Arc::new(Tenancy::new(self.fresh_for));
        Arc::clone(&self.all.entry(tenant).or_insert_with(make))
    }
}
