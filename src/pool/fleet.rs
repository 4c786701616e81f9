//! All pools of one protocol: found by tenant, kept up, forgotten when unused for long.

use std::{sync::Arc, time::Duration};

use dashmap::DashMap;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Budget, Dial, Pool, PoolStats, Settings, shell::Shared};
use crate::{
    protocol::Protocol,
    shutdown::Shutdown,
    telemetry::PoolMeters,
    tenant::{Tenant, TenantId},
};

/// How often idle, old and missing upstreams are looked after.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

/// The pools of one protocol.
pub struct Fleet<D: Dial> {
    shared: Arc<Shared<D>>,
    pools: Arc<DashMap<TenantId, Arc<Pool<D>>>>,
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
        // Most calls find the pool, so the write lock of `entry` is not taken first.
        let found = self.pools.get(&tenant.id).map(|pool| Arc::clone(&pool));
        let pool = found.unwrap_or_else(|| {
            let make = || Pool::new(Arc::clone(&self.shared), Arc::clone(tenant));
            Arc::clone(&self.pools.entry(tenant.id).or_insert_with(make))
        });
        pool.retire(tenant);
        pool
    }

    /// The pool of that tenant, if it has one at the moment.
    pub fn find(&self, tenant: TenantId) -> Option<Arc<Pool<D>>> {
        self.pools.get(&tenant).map(|pool| Arc::clone(&pool))
    }

    /// Takes up a changed registration, if the tenant has a pool at the moment.
    pub fn renew(&self, tenant: &Arc<Tenant>) {
        if let Some(pool) = self.find(tenant.id) {
            pool.retire(tenant);
        }
    }

    /// Ends the pool of a tenant that was removed.
    pub fn remove(&self, tenant: TenantId) {
        if let Some((_, pool)) = self.pools.remove(&tenant) {
            pool.drain();
        }
    }

    /// The counts of every pool.
    pub fn snapshot(&self) -> Vec<PoolStats> {
        self.pools.iter().map(|pool| pool.stats()).collect()
    }
}

async fn upkeep<D: Dial>(shared: Arc<Shared<D>>, pools: Arc<DashMap<TenantId, Arc<Pool<D>>>>) {
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
