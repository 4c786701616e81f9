//! The PostgreSQL side as the gateway starts it: what it is made of, and one client's whole life.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    cancel::Cancels,
    console::Operator,
    flow::Peer,
    login::{self, Outcome},
    refusal,
    servers::Means,
    session::{Session, Tally},
    tenancy::{Tenancies, Tenancy},
    upstream::Dialer,
    wire,
};
use crate::{
    fault::{Refusal, Side},
    net::{
        Stream,
        tls::{ClientTls, ServerTls},
    },
    pool::{self, Budget, Fleet},
    protocol::Protocol,
    session::{Admission, Seat},
    shutdown::Shutdown,
    telemetry::{SessionEnd, SessionMeters},
    tenant::{Tenant, TenantId, Timeouts},
};

/// How long a client that is not let in may take to say something and to read why.
const REFUSE_WAIT_MAX: Duration = Duration::from_secs(2);

/// PostgreSQL's part of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long a client may take to log in.
    #[serde(with = "humantime_serde")]
    pub login_wait_max: Duration,
    /// Whether clients must use TLS.
    pub tls_required: bool,
    /// Cancel requests of one address in a second; more are dropped.
    pub cancels_per_second_max: u32,
    /// How long a query may take, its answer included; zero: as long as it likes.
    #[serde(with = "humantime_serde")]
    pub query_max: Duration,
    /// How long a client may pause within a transaction; zero: as long as it likes.
    #[serde(with = "humantime_serde")]
    pub transaction_idle_max: Duration,
    /// How long a client may pause between transactions; zero: as long as it likes.
    #[serde(with = "humantime_serde")]
    pub client_idle_max: Duration,
    /// The longest statement text, in bytes.
    pub statement_bytes_max: usize,
    /// Prepared statements of one client at most.
    pub statements_max: usize,
    /// The texts of one client's prepared statements together, in bytes.
    pub statements_bytes_max: usize,
    /// Prepared statements kept on one upstream; the least recently used is closed.
    pub upstream_statements_max: usize,
    /// How long a client waits for a server that fits, where there are several: for the end of a failover.
    #[serde(with = "humantime_serde")]
    pub failover_wait_max: Duration,
    /// Channels of one client that the shared listener hears; with more, its upstream stays with it.
    pub listen_channels_max: usize,
    /// Notifications that wait for a client that does not read, or that stays in a transaction, in bytes.
    pub notifications_bytes_max: usize,
    /// How long what the database's functions do to sessions counts as known, and what shared statements take
    /// and give, where nothing tells of a change.
    #[serde(with = "humantime_serde")]
    pub routines_fresh_for: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            login_wait_max: Duration::from_mins(1),
            tls_required: false,
            cancels_per_second_max: 100,
            query_max: Duration::ZERO,
            transaction_idle_max: Duration::ZERO,
            client_idle_max: Duration::ZERO,
            statement_bytes_max: 64 * 1024 * 1024,
            statements_max: 5000,
            statements_bytes_max: 64 * 1024 * 1024,
            upstream_statements_max: 500,
            failover_wait_max: Duration::from_secs(10),
            listen_channels_max: 1000,
            notifications_bytes_max: 32 * 1024 * 1024,
            routines_fresh_for: Duration::from_mins(1),
        }
    }
}

impl Settings {
    /// How long clients of databases may take that say nothing of their own.
    pub(super) fn timeouts(&self) -> Timeouts {
        let some = |duration: Duration| Some(duration).filter(|duration| !duration.is_zero());
        Timeouts {
            query: some(self.query_max),
            transaction_idle: some(self.transaction_idle_max),
            client_idle: some(self.client_idle_max),
        }
    }
}

/// What a service is made of.
pub struct Parts {
    /// PostgreSQL's part of the settings.
    pub settings: Settings,
    /// How pools behave.
    pub pool: pool::Settings,
    /// The bound on all upstreams together.
    pub budget: Arc<Budget>,
    /// Who lets clients in.
    pub admission: Arc<Admission>,
    /// The end.
    pub shutdown: Shutdown,
    /// TLS towards upstreams.
    pub client_tls: ClientTls,
    /// TLS towards clients; without it only plain connections are served.
    pub server_tls: Option<ServerTls>,
}

/// The gateway's PostgreSQL side.
pub struct Service {
    pub(super) settings: Settings,
    pub(super) admission: Arc<Admission>,
    pub(super) shutdown: Shutdown,
    pub(super) server_tls: Option<ServerTls>,
    pub(super) tenancies: Arc<Tenancies>,
    pub(super) cancels: Arc<Cancels>,
    /// Not owned: who owns it owns this service too.
    operator: OnceLock<Weak<dyn Operator>>,
    fleet: Arc<Fleet<Dialer>>,
}

impl Service {
    /// A service without clients.
    pub fn new(parts: Parts) -> Arc<Self> {
        let tenancies = Arc::new(Tenancies::new(parts.settings.routines_fresh_for));
        let client_tls = parts.client_tls.speaking(wire::APPLICATION_PROTOCOL);
        let cancels = Cancels::new(parts.settings.cancels_per_second_max);
        let dialer = Dialer::new(client_tls, Arc::clone(&tenancies));
        let fleet = Fleet::new(
            Protocol::Postgres,
            dialer,
            parts.pool,
            parts.budget,
            parts.shutdown.clone(),
        );
        Arc::new(Self {
            settings: parts.settings,
            admission: parts.admission,
            shutdown: parts.shutdown,
            server_tls: parts.server_tls,
            tenancies,
            cancels,
            operator: OnceLock::new(),
            fleet: Arc::new(fleet),
        })
    }

    /// From now on there is a console, for as long as this lives. Only the first one counts.
    pub fn set_operator(&self, operator: Weak<dyn Operator>) {
        self.operator.get_or_init(|| operator);
    }

    pub(super) fn operator(&self) -> Option<Arc<dyn Operator>> {
        self.operator.get()?.upgrade()
    }

    /// The pools.
    pub fn fleet(&self) -> &Fleet<Dialer> {
        &self.fleet
    }

    /// Has the pools of a tenant's servers made, where there are several; an operator means them all.
    pub fn open_pools(&self, tenant: &Arc<Tenant>) {
        let servers = tenant.target.endpoints.iter();
        for server in servers.filter(|_| tenant.target.endpoints.len() > 1) {
            drop(self.fleet.server_pool(tenant, server));
        }
    }

    /// What a server of a tenant with several is at the moment: `primary` or `standby`.
    pub fn rank_of(&self, tenant: TenantId, server: &str) -> Option<&'static str> {
        self.tenancies.rank_of(tenant, server)
    }

    /// What sessions of a tenant with several servers reach them with.
    pub(super) fn means(&self, tenancy: &Arc<Tenancy>) -> Means {
        Means {
            fleet: Arc::clone(&self.fleet),
            tenancy: Arc::clone(tenancy),
            shutdown: self.shutdown.clone(),
            wait_max: self.settings.failover_wait_max,
        }
    }

    /// One client's whole life.
    pub async fn serve(self: Arc<Self>, stream: Stream) {
        let peer = stream.peer();
        self.meters().opened();
        // Boxed, so that its memory is free while the session lasts.
        let login = Box::pin(login::admit(&self, Peer::new(stream)));
        let outcome = login.await;
        let end = match outcome {
            Outcome::Admitted(client, newcomer) => {
                Session::new(Arc::clone(&self), client, *newcomer)
                    .run()
                    .await
            }
            Outcome::Served => SessionEnd::Goodbye,
            Outcome::Refused(end) => end,
        };
        self.meters().ended(end);
        tracing::debug!(%peer, end = end.label(), "session over");
    }

    /// Tells a client for whom there is no place why, and closes.
    pub async fn refuse(stream: Stream, refused: &Refusal) {
        let mut client = Peer::new(stream);
        // Closing with unread bytes would take the answer away from the client.
        drop(timeout(REFUSE_WAIT_MAX, client.fill()).await);
        refusal::fatal(&mut client.out, refused);
        drop(timeout(REFUSE_WAIT_MAX, client.flush()).await);
    }

    pub(super) fn meters(&self) -> &SessionMeters {
        self.admission.meters(Protocol::Postgres)
    }

    /// Adds up what a session did since it last counted.
    pub(super) fn count(&self, seat: &Seat, tally: &Tally) {
        seat.count(tally.units, tally.client_read, tally.client_written);
        let meters = self.meters();
        meters.exchanges(tally.units);
        meters.bytes(Side::Client, tally.client_read, tally.client_written);
        meters.bytes(Side::Upstream, tally.upstream_read, tally.upstream_written);
    }
}

#[cfg(test)]
mod sizes {
    use super::*;

    fn of_two<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_session_is_small() {
        let (task, session) = (of_two(Service::serve), size_of::<Session>());
        assert!(task < 2048, "the task takes {task} bytes");
        assert!(session < 2048, "the session takes {session} bytes");
    }
}
