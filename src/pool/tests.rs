//! The shell and the fleet, with upstreams that are not sockets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use uuid::Uuid;

use super::{Budget, CheckoutError, CloseReason, Dial, Fleet, Residue, Settings, Upstream};
use crate::{
    net::{DialFault, DialStep},
    protocol::Protocol,
    shutdown::Shutdown,
    tenant::{Endpoint, Generation, Target, Tenant, TenantId, TenantLimits},
};

/// Counts of what the fake server saw.
#[derive(Default)]
struct Server {
    open: AtomicUsize,
    opened: AtomicUsize,
    peak: AtomicUsize,
    refuses: AtomicBool,
}

struct Wire {
    server: Arc<Server>,
    stale: bool,
    generation: Generation,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.server.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Upstream for Wire {
    fn is_open(&mut self) -> bool {
        !self.stale
    }

    async fn reset(&mut self) -> Result<(), String> {
        Ok(())
    }

    async fn close(self) {}
}

struct Fake(Arc<Server>);

impl Dial for Fake {
    type Upstream = Wire;

    async fn dial(&self, tenant: &Arc<Tenant>) -> Result<Wire, DialFault> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if self.0.refuses.load(Ordering::SeqCst) {
            return Err(DialFault::new(DialStep::Connect, "refused", "start it"));
        }
        let open = self.0.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.opened.fetch_add(1, Ordering::SeqCst);
        self.0.peak.fetch_max(open, Ordering::SeqCst);
        Ok(Wire {
            server: Arc::clone(&self.0),
            stale: false,
            generation: tenant.generation,
        })
    }
}

fn fleet(budget: usize) -> (Fleet<Fake>, Arc<Server>) {
    let server = Arc::new(Server::default());
    let fake = Fake(Arc::clone(&server));
    let budget = Budget::new(budget);
    let fleet = Fleet::new(
        Protocol::Postgres,
        fake,
        Settings::default(),
        budget,
        Shutdown::new(),
    );
    (fleet, server)
}

fn tenant(max: usize) -> Tenant {
    let limits = TenantLimits {
        upstream_max: max,
        queue_wait_max: Duration::from_secs(5),
        ..TenantLimits::of(Protocol::Postgres)
    };
    Tenant {
        id: TenantId(Uuid::new_v4()),
        project: "p".into(),
        name: "n".into(),
        slug: "s".into(),
        protocol: Protocol::Postgres,
        target: Target::parse("postgres://u:p@h/d").unwrap(),
        limits,
        generation: Generation(1),
    }
}

#[tokio::test(start_paused = true)]
async fn five_hundred_clients_share_the_bound() {
    let (fleet, server) = fleet(1000);
    let fleet = Arc::new(fleet);
    let tenant = Arc::new(tenant(20));
    let shutdown = Shutdown::new();
    for _ in 0..500 {
        let (fleet, tenant) = (Arc::clone(&fleet), Arc::clone(&tenant));
        shutdown.spawn("client", async move {
            for _ in 0..4 {
                let lease = fleet.pool(&tenant).lease().await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
                lease.give_back(Residue::Clean);
            }
        });
    }
    assert!(shutdown.run_down(Duration::from_mins(1)).await.is_empty());
    assert_eq!(server.peak.load(Ordering::SeqCst), 20);
    assert_eq!(fleet.snapshot()[0].leases, 2000);
}

#[tokio::test(start_paused = true)]
async fn dropped_lease_closes_its_upstream() {
    let (fleet, server) = fleet(10);
    let pool = fleet.pool(&Arc::new(tenant(1)));
    drop(pool.lease().await.unwrap());
    assert_eq!(server.open.load(Ordering::SeqCst), 0);
    pool.lease().await.unwrap().give_back(Residue::Clean);
    assert_eq!(server.opened.load(Ordering::SeqCst), 2);
    assert_eq!(pool.stats().leased, 0);
}

#[tokio::test(start_paused = true)]
async fn each_server_has_the_bound_for_itself_and_goes_with_the_tenant() {
    let (fleet, server) = fleet(10);
    let tenant = Arc::new(tenant(1));
    let seat = |port| Endpoint {
        host: "h".into(),
        port,
    };
    let mut leases = Vec::new();
    for port in [1, 2] {
        let pool = fleet.server_pool(&tenant, &seat(port));
        leases.push(pool.lease().await.unwrap());
        assert!(pool.try_lease().is_none());
    }
    assert_eq!(server.open.load(Ordering::SeqCst), 2);
    let mut servers: Vec<_> = fleet
        .snapshot()
        .into_iter()
        .map(|pool| pool.server)
        .collect();
    servers.sort();
    assert_eq!(servers, [Some("h:1".to_owned()), Some("h:2".to_owned())]);
    fleet.remove(tenant.id);
    assert!(fleet.snapshot().is_empty());
    for lease in leases {
        lease.give_back(Residue::Clean);
    }
    tokio::task::yield_now().await;
    assert_eq!(server.open.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn abandoned_wait_leaves_no_leak() {
    let (fleet, _) = fleet(10);
    let pool = fleet.pool(&Arc::new(tenant(1)));
    let lease = pool.lease().await.unwrap();
    let gone = timeout(Duration::from_millis(5), pool.lease()).await;
    assert!(gone.is_err());
    assert_eq!(pool.stats().waiting, 0);
    lease.give_back(Residue::Clean);
    assert!(pool.try_lease().is_some());
}

#[tokio::test(start_paused = true)]
async fn stale_upstream_is_replaced_unseen() {
    let (fleet, server) = fleet(10);
    let pool = fleet.pool(&Arc::new(tenant(1)));
    let mut lease = pool.lease().await.unwrap();
    lease.upstream.stale = true;
    lease.give_back(Residue::Clean);
    let lease = pool.lease().await.unwrap();
    assert!(!lease.upstream.stale);
    assert_eq!(server.opened.load(Ordering::SeqCst), 2);
    lease.give_back(Residue::Broken(CloseReason::Dirty));
}

#[tokio::test(start_paused = true)]
async fn down_upstream_is_told_at_once_and_tried_again_later() {
    let (fleet, server) = fleet(10);
    let pool = fleet.pool(&Arc::new(tenant(2)));
    server.refuses.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let error = pool.lease().await.err().unwrap();
        assert!(matches!(error, CheckoutError::DialFailed(_)), "{error}");
    }
    server.refuses.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(1)).await;
    pool.lease().await.unwrap().give_back(Residue::Clean);
}

#[tokio::test(start_paused = true)]
async fn spent_budget_evicts_the_least_recently_used_tenant() {
    let (fleet, server) = fleet(2);
    let [first, second, third] = [(); 3].map(|()| fleet.pool(&Arc::new(tenant(2))));
    for pool in [&first, &second] {
        pool.lease().await.unwrap().give_back(Residue::Clean);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    third.lease().await.unwrap().give_back(Residue::Clean);
    assert_eq!(first.stats().idle, 0);
    assert_eq!(second.stats().idle, 1);
    assert!(server.peak.load(Ordering::SeqCst) <= 2);
}

#[tokio::test(start_paused = true)]
async fn changed_registration_retires_old_upstreams() {
    let (fleet, _) = fleet(10);
    let old = tenant(2);
    let new = Tenant {
        generation: Generation(2),
        target: old.target.clone(),
        ..tenant(2)
    };
    let new = Tenant { id: old.id, ..new };
    let pool = fleet.pool(&Arc::new(old));
    let held = pool.lease().await.unwrap();
    pool.lease().await.unwrap().give_back(Residue::Clean);
    assert_eq!(fleet.pool(&Arc::new(new)).stats().idle, 0);
    held.give_back(Residue::Clean);
    let lease = pool.lease().await.unwrap();
    assert_eq!(lease.upstream.generation, Generation(2));
}

#[tokio::test(start_paused = true)]
async fn full_queue_refuses_at_once() {
    let (fleet, _) = fleet(10);
    let mut one = tenant(1);
    one.limits.queue_max = 1;
    let pool = fleet.pool(&Arc::new(one));
    let _held = pool.lease().await.unwrap();
    let (first, second) = tokio::join!(pool.lease(), pool.lease());
    assert!(matches!(
        first.err().unwrap(),
        CheckoutError::WaitTooLong { .. }
    ));
    assert!(matches!(
        second.err().unwrap(),
        CheckoutError::QueueFull { max: 1 }
    ));
}
