//! All pools of one protocol: found by tenant, kept up, forgotten when unused for long.

use std::{sync::Arc, time::Duration};

use dashmap::DashMap;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    Budget, Dial, Pool, PoolStats, Settings,
    shell::{Part, Shared},
};
use crate::{
    protocol::Protocol,
    shutdown::Shutdown,
    telemetry::PoolMeters,
    tenant::{Endpoint, Tenant, TenantId},
};

/// How often idle, old and missing upstreams are looked after.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

/// Whose a pool is.
type Key = (TenantId, Part);
type Pools<D> = DashMap<Key, Arc<Pool<D>>>;

/// The pools of one protocol.
pub struct Fleet<D: Dial> {
    shared: Arc<Shared<D>>,
    pools: Arc<Pools<D>>,
}

impl<D: Dial> Fleet<D> {
    /// An empty fleet, and the task that looks after it.
    pub fn new(
        protocol: Protocol,
        dialer: D,
        settings: Settings,
        budget: Arc<Budget>,
        shutdown: Shutdown,
    ) -> Self {
        let meters = PoolMeters::new(protocol);
        let shared = Arc::new(Shared {
            dialer,
            settings,
            shutdown,
            budget,
            meters,
        });
        let pools = Arc::new(DashMap::new());
        let upkeep = upkeep(Arc::clone(&shared), Arc::clone(&pools));
        shared.shutdown.spawn("pool-upkeep", upkeep);
        Self { shared, pools }
    }

    /// The tenant's pool; a newer registration retires the connections of the older.
    pub fn pool(&self, tenant: &Arc<Tenant>) -> Arc<Pool<D>> {
        self.pool_of(tenant, Part::Whole)
    }

    /// The pool of one of the tenant's servers; each has the tenant's bounds for itself.
    pub fn server_pool(&self, tenant: &Arc<Tenant>, server: &Endpoint) -> Arc<Pool<D>> {
        self.pool_of(tenant, Part::Server(server.clone()))
    }

    /// The tenant's pool of one, beside its own: for a connection that serves all of its clients for long.
    pub fn aside(&self, tenant: &Arc<Tenant>) -> Arc<Pool<D>> {
        self.pool_of(tenant, Part::Aside)
    }

    fn pool_of(&self, tenant: &Arc<Tenant>, part: Part) -> Arc<Pool<D>> {
        let key = (tenant.id, part);
        // Most calls find the pool, so the write lock of `entry` is not taken first.
        let found = self.pools.get(&key).map(|pool| Arc::clone(&pool));
        let pool = found.unwrap_or_else(|| {
            let part = key.1.clone();
            let make = || Pool::new(Arc::clone(&self.shared), Arc::clone(tenant), part);
            Arc::clone(&self.pools.entry(key).or_insert_with(make))
        });
        pool.retire(tenant);
        pool
    }

    /// The pool of that tenant, if it has one at the moment.
    pub fn find(&self, tenant: TenantId) -> Option<Arc<Pool<D>>> {
        self.pools
            .get(&(tenant, Part::Whole))
            .map(|pool| Arc::clone(&pool))
    }

    /// The pools that the tenant has at the moment: its own, and those of its servers.
    pub fn all_of(&self, tenant: TenantId) -> Vec<Arc<Pool<D>>> {
        let all = self.pools.iter().filter(|pool| pool.key().0 == tenant);
        all.map(|pool| Arc::clone(&pool)).collect()
    }

    /// Takes up a changed registration in the pools that the tenant has at the moment.
    pub fn renew(&self, tenant: &Arc<Tenant>) {
        // Collected first: no map lock is held while pools work.
        let all = self.pools.iter().filter(|pool| pool.key().0 == tenant.id);
        let all: Vec<_> = all.map(|pool| Arc::clone(&pool)).collect();
        for pool in all {
            pool.retire(tenant);
        }
    }

    /// Ends the pools of a tenant that was removed.
    pub fn remove(&self, tenant: TenantId) {
        let mut gone = Vec::new();
        self.pools.retain(|(owner, _), pool| {
            let stays = *owner != tenant;
            if !stays {
                gone.push(Arc::clone(pool));
            }
            stays
        });
        for pool in gone {
            pool.drain();
        }
    }

    /// Every pool's registration and counts.
    pub fn views(&self) -> Vec<(Arc<Tenant>, PoolStats)> {
        let pools = self.pools.iter();
        pools.map(|pool| (pool.tenant(), pool.stats())).collect()
    }

    /// The counts of every pool.
    pub fn snapshot(&self) -> Vec<PoolStats> {
        self.pools.iter().map(|pool| pool.stats()).collect()
    }
}

async fn upkeep<D: Dial>(shared: Arc<Shared<D>>, pools: Arc<Pools<D>>) {
    let mut ticks = interval(UPKEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.shutdown.draining() => break,
            _ = ticks.tick() => {}
        }
        // Collected first: no map lock is held while pools work.
        let present: Vec<_> = pools.iter().map(|pool| Arc::clone(&pool)).collect();
        for pool in &present {
            pool.tick();
        }
        drop(present);
        let since = Instant::now().checked_sub(shared.settings.pool_idle_after);
        if let Some(since) = since {
            // Held by the map alone, so no session can ask it for a lease meanwhile.
            pools.retain(|_, pool| Arc::strong_count(pool) > 1 || !pool.is_forgotten(since));
        }
    }
    // Sessions inside an exchange finish it; what is idle can go at once.
    for pool in pools.iter() {
        pool.close_idle();
    }
}
