//! The three protocols' services as one: started, listened for, counted, told of changes.

use std::sync::{Arc, Weak};

use crate::{
    admin::{ClientRow, Figures, Order, PoolRow},
    config::Config,
    fault::Refusal,
    mongodb,
    net::{
        Listener, Stream,
        tls::{ClientTls, ServerTls},
    },
    pool::{Budget, PoolStats},
    postgres,
    protocol::Protocol,
    redis,
    registry::{Change, Registry},
    session::{Admission, Board, ClientFigures},
    shutdown::Shutdown,
    telemetry::PoolMeters,
    tenant::{Tenant, TenantId},
};

/// The services and what they share.
pub(super) struct Services {
    board: Arc<Board>,
    postgres: Arc<postgres::Service>,
    redis: Arc<redis::Service>,
    mongodb: Arc<mongodb::Service>,
}

impl Services {
    pub(super) fn new(
        config: &Config,
        registry: Arc<Registry>,
        shutdown: &Shutdown,
        client_tls: &ClientTls,
        server_tls: Option<&ServerTls>,
    ) -> anyhow::Result<Self> {
        let board = Board::new();
        let admission = Admission::new(registry, Arc::clone(&board))?;
        let budget = Budget::new(config.pool.upstream_total_max);
        macro_rules! service {
            ($protocol:ident) => {
                $protocol::Service::new($protocol::Parts {
                    settings: config.$protocol.clone(),
                    pool: config.pool.clone(),
                    admission: Arc::clone(&admission),
                    shutdown: shutdown.clone(),
                    client_tls: client_tls.clone(),
                    server_tls: server_tls.cloned(),
                    budget: Arc::clone(&budget),
                })
            };
        }
        Ok(Self {
            board,
            postgres: service!(postgres),
            redis: service!(redis)?,
            mongodb: service!(mongodb),
        })
    }

    /// Serves what a listener accepts; beyond the bound, clients are told so.
    pub(super) fn listen(
        &self,
        protocol: Protocol,
        listener: Listener,
        clients_max: usize,
        shutdown: &Shutdown,
    ) {
        let full = Refusal::TooManyClients { max: clients_max };
        macro_rules! listen {
            ($protocol:ident, $session:literal, $listener:literal) => {{
                let service = Arc::clone(&self.$protocol);
                let serve = move |stream: Stream| Arc::clone(&service).serve(stream);
                let refuse = move |stream: Stream| {
                    let full = full.clone();
                    async move { $protocol::Service::refuse(stream, &full).await }
                };
                let run = listener.run(shutdown.clone(), $session, serve, refuse);
                shutdown.spawn($listener, run);
            }};
        }
        match protocol {
            Protocol::Postgres => listen!(postgres, "postgres-session", "postgres-listener"),
            Protocol::Redis => listen!(redis, "redis-session", "redis-listener"),
            Protocol::Mongodb => listen!(mongodb, "mongodb-session", "mongodb-listener"),
        }
    }

    /// Acts on changes of the registry: who lost the right to be here is ended, pools are renewed.
    pub(super) fn follow(self: &Arc<Self>, registry: &Arc<Registry>, shutdown: &Shutdown) {
        let mut changes = registry.changes();
        let (services, registry) = (Arc::clone(self), Arc::clone(registry));
        let draining = shutdown.clone();
        shutdown.spawn("registry-changes", async move {
            loop {
                let change = tokio::select! {
                    () = draining.draining() => return,
                    change = changes.recv() => change,
                };
                match change {
                    Ok(change) => services.apply(change, &registry).await,
                    // More at once than are kept: pools are renewed at the next login.
                    Err(error) => tracing::warn!(%error, "registry changes were missed"),
                }
            }
        });
    }

    async fn apply(&self, change: Change, registry: &Registry) {
        match change {
            Change::Revoked(credential) => self.board.end_credential(credential),
            Change::Removed(tenant) => self.end(tenant),
            Change::Changed(id) => match registry.tenant(id).await {
                Ok(Some(tenant)) => {
                    self.postgres.fleet().renew(&tenant);
                    self.redis.fleet().renew(&tenant);
                    self.mongodb.fleet().renew(&tenant);
                }
                // Switched off, or its connection string does not open any more.
                Ok(None) => self.end(id),
                Err(error) => tracing::warn!(%error, tenant = %id, "pool not renewed"),
            },
        }
    }

    /// Ends a tenant's clients and its pools.
    fn end(&self, tenant: TenantId) {
        self.board.end_tenant(tenant);
        self.postgres.fleet().remove(tenant);
        self.redis.fleet().remove(tenant);
        self.mongodb.fleet().remove(tenant);
    }

    pub(super) fn board(&self) -> &Board {
        &self.board
    }

    /// Carries an order out on a tenant's pools; one is made if there is none.
    pub(super) fn order(&self, order: Order, tenant: &Arc<Tenant>) {
        macro_rules! order {
            ($protocol:ident) => {{
                let fleet = self.$protocol.fleet();
                let own = fleet.pool(tenant);
                let others = fleet.all_of(tenant.id).into_iter();
                let others = others.filter(|pool| !Arc::ptr_eq(pool, &own));
                for pool in std::iter::once(Arc::clone(&own)).chain(others) {
                    match order {
                        Order::Pause => pool.pause(),
                        Order::Resume => pool.resume(),
                        Order::Drain => {
                            pool.pause();
                            pool.reconnect();
                        }
                        Order::Reconnect => pool.reconnect(),
                    }
                }
            }};
        }
        match tenant.protocol {
            Protocol::Postgres => {
                self.postgres.open_pools(tenant);
                order!(postgres);
            }
            Protocol::Redis => order!(redis),
            Protocol::Mongodb => order!(mongodb),
        }
    }

    /// Upstreams of a tenant that are leased, or being cleaned.
    pub(super) fn in_use(&self, tenant: &Tenant) -> usize {
        let pools = self.pools_of(tenant.protocol).into_iter();
        let own = pools.filter(|stats| stats.tenant == tenant.id);
        own.map(|stats| stats.leased + stats.resetting).sum()
    }

    /// Every pool, for the console.
    pub(super) fn views(&self) -> Vec<postgres::PoolView> {
        let all = [
            self.postgres.fleet().views(),
            self.redis.fleet().views(),
            self.mongodb.fleet().views(),
        ];
        let view = |(tenant, stats): (Arc<Tenant>, PoolStats)| postgres::PoolView {
            departed: self.board.departed(tenant.id),
            role: self.role_of(&stats),
            tenant,
            stats,
        };
        all.into_iter().flatten().map(view).collect()
    }

    /// Makes the SQL console one of this operator's.
    pub(super) fn set_operator(&self, operator: Weak<dyn postgres::Operator>) {
        self.postgres.set_operator(operator);
    }

    /// What the server of a pool is, if PostgreSQL's side knows.
    fn role_of(&self, stats: &PoolStats) -> Option<&'static str> {
        let server = stats.server.as_deref()?;
        self.postgres.rank_of(stats.tenant, server)
    }

    fn pools_of(&self, protocol: Protocol) -> Vec<PoolStats> {
        match protocol {
            Protocol::Postgres => self.postgres.fleet().snapshot(),
            Protocol::Redis => self.redis.fleet().snapshot(),
            Protocol::Mongodb => self.mongodb.fleet().snapshot(),
        }
    }

    /// Brings the gauges of upstreams up to date.
    pub(super) fn note_upstreams(&self) {
        for protocol in Protocol::ALL {
            let pools = self.pools_of(protocol);
            let sum = |count: fn(&PoolStats) -> usize| pools.iter().map(count).sum();
            let states = [
                ("idle", sum(|pool| pool.idle)),
                ("leased", sum(|pool| pool.leased)),
                ("dialing", sum(|pool| pool.dialing)),
                ("resetting", sum(|pool| pool.resetting)),
            ];
            PoolMeters::set_upstreams(protocol, pools.len(), states);
        }
    }
}

impl Figures for Services {
    fn pools(&self) -> Vec<PoolRow> {
        Protocol::ALL
            .into_iter()
            .flat_map(|protocol| {
                self.pools_of(protocol)
                    .into_iter()
                    .map(move |stats| pool_row(protocol, self.role_of(&stats), stats))
            })
            .collect()
    }

    fn clients(&self) -> Vec<ClientRow> {
        self.board
            .clients(None)
            .into_iter()
            .map(client_row)
            .collect()
    }
}

fn pool_row(protocol: Protocol, role: Option<&'static str>, stats: PoolStats) -> PoolRow {
    PoolRow {
        database_id: stats.tenant.to_string(),
        slug: stats.slug,
        project_ref: stats.project,
        kind: protocol.label(),
        server: stats.server,
        role,
        clients_waiting: stats.waiting,
        upstreams_leased: stats.leased,
        upstreams_idle: stats.idle,
        upstreams_changing: stats.dialing + stats.resetting,
        upstreams_max: stats.max,
        leases: stats.leases,
        paused: stats.paused,
        fault: stats.fault,
    }
}

fn client_row(client: ClientFigures) -> ClientRow {
    ClientRow {
        id: client.id,
        protocol: client.protocol.label(),
        peer: client.peer.to_string(),
        slug: client.slug,
        project_ref: client.project,
        user: client.user,
        role: client.role.label(),
        label: client.label,
        age_s: client.age.as_secs_f64(),
        exchanges: client.exchanges,
        read_bytes: client.read_bytes,
        written_bytes: client.written_bytes,
    }
}
