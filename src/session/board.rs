//! The board of live sessions: who is connected, for limits, for `CLIENT LIST` and for the admin API.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    protocol::Protocol,
    tenant::{CredentialId, Role, Tenant, TenantId},
};

/// Everybody who is logged in.
#[derive(Default)]
pub struct Board {
    next: AtomicU64,
    live: DashMap<u64, Arc<Live>>,
    tenants: DashMap<TenantId, AtomicUsize>,
    /// What clients did that have left.
    departed: DashMap<TenantId, Totals>,
}

/// Whether a client has an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// Nobody has said: it shares upstreams with others, or has one for moments only.
    Unknown,
    /// It has none, and needs none.
    Idle,
    /// It stands in line for one.
    Waiting,
    /// It has one.
    Active,
}

impl Standing {
    /// The word for it, as PgBouncer has it.
    pub fn label(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::Idle => Some("idle"),
            Self::Waiting => Some("waiting"),
            Self::Active => Some("active"),
        }
    }
}

/// What clients of a tenant did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Exchanges.
    pub exchanges: u64,
    /// Bytes from them.
    pub read_bytes: u64,
    /// Bytes to them.
    pub written_bytes: u64,
}

/// Tenants whose departed clients are remembered.
const DEPARTED_MAX: usize = 10_000;

/// One logged-in client.
struct Live {
    id: u64,
    protocol: Protocol,
    peer: SocketAddr,
    tenant: Arc<Tenant>,
    user: String,
    role: Role,
    credential: Option<CredentialId>,
    since: SystemTime,
    began: Instant,
    label: Mutex<String>,
    exchanges: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    /// A [`Standing`].
    standing: AtomicU8,
    end: CancellationToken,
}

/// What can be told of a live session.
#[derive(Debug, Clone)]
pub struct ClientFigures {
    /// The gateway's number of the client.
    pub id: u64,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its address.
    pub peer: SocketAddr,
    /// The tenant it uses.
    pub tenant: TenantId,
    /// That tenant's slug.
    pub slug: String,
    /// That tenant's project.
    pub project: String,
    /// The user it logged in as.
    pub user: String,
    /// What it may do.
    pub role: Role,
    /// When it was admitted.
    pub since: SystemTime,
    /// How long ago that was.
    pub age: Duration,
    /// What it calls itself: `application_name`, `CLIENT SETNAME`, `appName`.
    pub label: String,
    /// Exchanges so far.
    pub exchanges: u64,
    /// Bytes from it.
    pub read_bytes: u64,
    /// Bytes to it.
    pub written_bytes: u64,
    /// Whether it has an upstream.
    pub standing: Standing,
}

/// A session's entry on the board; dropped, the client is off it.
pub struct Seat {
    board: Arc<Board>,
    live: Arc<Live>,
}

/// What makes a seat.
pub(super) struct Newcomer {
    pub(super) protocol: Protocol,
    pub(super) peer: SocketAddr,
    pub(super) tenant: Arc<Tenant>,
    pub(super) user: String,
    pub(super) role: Role,
    pub(super) credential: Option<CredentialId>,
}

impl Board {
    /// An empty board.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Seats a client, unless the tenant has as many as it may; then `None`.
    pub(super) fn seat(self: &Arc<Self>, newcomer: Newcomer) -> Option<Seat> {
        let max = newcomer.tenant.limits.clients_max;
        {
            let count = self.tenants.entry(newcomer.tenant.id).or_default();
            if count.fetch_add(1, Ordering::Relaxed) >= max {
                count.fetch_sub(1, Ordering::Relaxed);
                return None;
            }
        }
        let live = Arc::new(Live {
            // Clients see it as their id, and drivers take 0 for none.
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            protocol: newcomer.protocol,
            peer: newcomer.peer,
            tenant: newcomer.tenant,
            user: newcomer.user,
            role: newcomer.role,
            credential: newcomer.credential,
            since: SystemTime::now(),
            began: Instant::now(),
            label: Mutex::default(),
            exchanges: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            standing: AtomicU8::new(Standing::Unknown as u8),
            end: CancellationToken::new(),
        });
        self.live.insert(live.id, Arc::clone(&live));
        Some(Seat {
            board: Arc::clone(self),
            live,
        })
    }

    /// Everybody, or everybody of one tenant.
    pub fn clients(&self, tenant: Option<TenantId>) -> Vec<ClientFigures> {
        self.live
            .iter()
            .filter(|live| tenant.is_none_or(|id| live.tenant.id == id))
            .map(|live| live.figures())
            .collect()
    }

    /// What a tenant's clients did that have left, since the gateway runs.
    pub fn departed(&self, tenant: TenantId) -> Totals {
        self.departed
            .get(&tenant)
            .map_or_else(Totals::default, |totals| *totals)
    }

    /// How many are connected to a tenant.
    pub fn count(&self, tenant: TenantId) -> usize {
        self.tenants
            .get(&tenant)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Ends one session, if it belongs to the tenant (when one is given). False: there is none.
    pub fn end(&self, id: u64, tenant: Option<TenantId>) -> bool {
        let Some(live) = self.live.get(&id) else {
            return false;
        };
        let theirs = tenant.is_none_or(|tenant| live.tenant.id == tenant);
        if theirs {
            live.end.cancel();
        }
        theirs
    }

    /// Ends every session of a tenant.
    pub fn end_tenant(&self, tenant: TenantId) {
        self.end_where(|live| live.tenant.id == tenant);
    }

    /// Ends every session of an issued credential.
    pub fn end_credential(&self, credential: CredentialId) {
        self.end_where(|live| live.credential == Some(credential));
    }

    fn end_where(&self, which: impl Fn(&Live) -> bool) {
        for live in &self.live {
            if which(&live) {
                live.end.cancel();
            }
        }
    }
}

impl Seat {
    /// The gateway's number of this client, never 0.
    pub fn id(&self) -> u64 {
        self.live.id
    }

    /// What resolves when somebody ends this session, without borrowing the seat.
    pub fn end_token(&self) -> CancellationToken {
        self.live.end.clone()
    }

    /// Notes what the client calls itself, cut to 64 characters.
    pub fn set_label(&self, label: &str) {
        *self.live.label.lock() = label.chars().take(64).collect();
    }

    /// Notes whether the client has an upstream.
    pub fn set_standing(&self, standing: Standing) {
        self.live.standing.store(standing as u8, Ordering::Relaxed);
    }

    /// Counts exchanges and bytes.
    pub fn count(&self, exchanges: u64, read_bytes: u64, written_bytes: u64) {
        self.live.exchanges.fetch_add(exchanges, Ordering::Relaxed);
        self.live
            .read_bytes
            .fetch_add(read_bytes, Ordering::Relaxed);
        self.live
            .written_bytes
            .fetch_add(written_bytes, Ordering::Relaxed);
    }

    /// This client as others see it.
    pub fn figures(&self) -> ClientFigures {
        self.live.figures()
    }

    /// The board that the seat is on.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.board.live.remove(&self.live.id);
        let tenant = self.live.tenant.id;
        let departed = &self.board.departed;
        // Counting all of them looks at every shard, so it is asked last.
        if departed.contains_key(&tenant) || departed.len() < DEPARTED_MAX {
            let mut totals = departed.entry(tenant).or_default();
            totals.exchanges += self.live.exchanges.load(Ordering::Relaxed);
            totals.read_bytes += self.live.read_bytes.load(Ordering::Relaxed);
            totals.written_bytes += self.live.written_bytes.load(Ordering::Relaxed);
        }
        if let Some(count) = self.board.tenants.get(&tenant) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        self.board
            .tenants
            .remove_if(&tenant, |_, count| count.load(Ordering::Relaxed) == 0);
    }
}

impl Live {
    fn figures(&self) -> ClientFigures {
        ClientFigures {
            id: self.id,
            protocol: self.protocol,
            peer: self.peer,
            tenant: self.tenant.id,
            slug: self.tenant.slug.clone(),
            project: self.tenant.project.clone(),
            user: self.user.clone(),
            role: self.role,
            since: self.since,
            age: self.began.elapsed(),
            label: self.label.lock().clone(),
            exchanges: self.exchanges.load(Ordering::Relaxed),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
            standing: self.standing(),
        }
    }

    fn standing(&self) -> Standing {
        use Standing::{Active, Idle, Unknown, Waiting};
        let noted = self.standing.load(Ordering::Relaxed);
        let mut known = [Idle, Waiting, Active].into_iter();
        known
            .find(|standing| *standing as u8 == noted)
            .unwrap_or(Unknown)
    }
}
