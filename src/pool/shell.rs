//! One tenant's pool: the core behind a lock, with dialling, cleaning and closing as tasks.
//!
//! The lock is held for the accounting only, never across an await, and never while a slot is
//! dropped: the budget may then poke a pool, this one included.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    Budget, CheckoutError, CloseReason, Dial, Lease, OpenReason, Settings, Upstream, Waiting,
    budget::{Claimant, Slot},
    core::{Bounds, Core, InLine, Meta, Order},
    line,
};
use crate::{
    net::{DialFault, DialStep},
    shutdown::Shutdown,
    telemetry::PoolMeters,
    tenant::{Endpoint, Tenant},
};

/// What every pool of a fleet shares.
pub(super) struct Shared<D> {
    pub(super) dialer: D,
    pub(super) settings: Settings,
    pub(super) shutdown: Shutdown,
    pub(super) budget: Arc<Budget>,
    pub(super) meters: PoolMeters,
}

/// Which of a tenant's upstreams a pool is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// All.
    Whole,
    /// Those to one of its servers.
    Server(Endpoint),
    /// One, beside the others.
    Aside,
}

impl Part {
    fn bounds(&self, settings: &Settings, tenant: &Tenant) -> Bounds {
        let bounds = Bounds::of(settings, tenant);
        match self {
            Self::Whole | Self::Server(_) => bounds,
            Self::Aside => Bounds {
                max: 1,
                idle_min: 0,
                ..bounds
            },
        }
    }
}

/// The upstreams of one tenant, or of one of its servers.
pub struct Pool<D: Dial> {
    pub(super) shared: Arc<Shared<D>>,
    tenant: RwLock<Arc<Tenant>>,
    pub(super) part: Part,
    pub(super) core: Mutex<Core<Held<D>, Waiter<D>>>,
    this: Weak<Self>,
}

/// A connection with its right to exist.
pub(super) struct Held<D: Dial> {
    upstream: Box<D::Upstream>,
    slot: Slot,
}

pub(super) type Waiter<D> = oneshot::Sender<Result<Lease<D>, CheckoutError>>;
pub(super) type Orders<D> = Vec<Order<Held<D>, Waiter<D>>>;

impl<D: Dial> Pool<D> {
    pub(super) fn new(shared: Arc<Shared<D>>, tenant: Arc<Tenant>, part: Part) -> Arc<Self> {
        let bounds = part.bounds(&shared.settings, &tenant);
        let core = Core::new(bounds, tenant.generation, Instant::now());
        Arc::new_cyclic(|this| {
            shared.budget.join(Weak::clone(this) as Weak<dyn Claimant>);
            Self {
                shared,
                tenant: RwLock::new(tenant),
                part,
                core: Mutex::new(core),
                this: Weak::clone(this),
            }
        })
    }

    /// The registration that new upstreams are opened by.
    pub fn tenant(&self) -> Arc<Tenant> {
        Arc::clone(&self.tenant.read())
    }

    /// An idle upstream, if there is one and nobody waits for it.
    pub fn try_lease(&self) -> Option<Lease<D>> {
        loop {
            let (mut held, meta) = self.core.lock().take(Instant::now)?;
            if held.upstream.is_open() {
                let pool = self.this.upgrade()?;
                return Some(Lease::new(pool, held.upstream, meta, held.slot));
            }
            self.close_leased(held.upstream, held.slot, CloseReason::Stale);
        }
    }

    /// An upstream, after waiting in line for at most the tenant's `queue_wait_max`.
    ///
    /// # Cancel safety
    /// Safe: a dropped future leaves the line, and gives back what it was handed.
    pub async fn lease(&self) -> Result<Lease<D>, CheckoutError> {
        match self.try_lease() {
            Some(lease) => {
                self.shared.meters.leased(None, Duration::ZERO);
                Ok(lease)
            }
            None => self.stand_in_line()?.await,
        }
    }

    /// A place at the end of the line.
    ///
    /// # Errors
    /// Why it would be of no use.
    pub fn stand_in_line(&self) -> Result<Waiting<D>, CheckoutError> {
        let (sender, receiver) = oneshot::channel();
        let mut orders = Orders::<D>::new();
        let asked = {
            let mut core = self.core.lock();
            // Under the lock, so that nobody behind has come before.
            let now = Instant::now();
            let asked = core.ask(sender, now).map(|ticket| (ticket, now));
            core.plan(now, &mut orders);
            asked
        };
        self.carry_out(orders);
        match (asked, self.this.upgrade()) {
            (Ok((ticket, since)), Some(pool)) => Ok(Waiting::new(pool, ticket, since, receiver)),
            (Err((_, error)), _) => {
                self.shared
                    .meters
                    .leased(Some(error.label()), Duration::ZERO);
                Err(error)
            }
            (Ok(_), None) => Err(CheckoutError::Draining),
        }
    }

    /// Tells those who have waited for too long; when to look again, while anybody waits.
    pub(super) fn expire(&self) -> Option<Instant> {
        let mut orders = Orders::<D>::new();
        let next = self.core.lock().expire(Instant::now(), &mut orders);
        self.carry_out(orders);
        next
    }

    /// Takes up a changed registration and retires the connections of the old one.
    pub(super) fn retire(&self, tenant: &Arc<Tenant>) {
        if self.core.lock().generation() >= tenant.generation {
            return;
        }
        *self.tenant.write() = Arc::clone(tenant);
        let bounds = self.part.bounds(&self.shared.settings, tenant);
        let generation = tenant.generation;
        self.step(|core, now, orders| core.retire(generation, bounds, now, orders));
    }

    pub(super) fn tick(&self) {
        self.step(Core::tick);
    }

    pub(super) fn drain(&self) {
        self.step(|core, _, orders| core.drain(orders));
    }

    /// Closes what is idle now; leases in use close when they come back.
    pub(super) fn close_idle(&self) {
        self.step(|core, _, orders| core.close_idle(orders));
    }

    /// Whether nothing is open and nothing was asked for since `since`.
    pub(super) fn is_forgotten(&self, since: Instant) -> bool {
        let core = self.core.lock();
        core.slots() == 0
            && core.waiting() == 0
            && core.last_lease() < since
            // Forgotten, it would not be paused any more.
            && !core.is_paused()
    }

    pub(super) fn take_back(&self, upstream: Box<D::Upstream>, meta: Meta, slot: Slot) {
        self.step(|core, now, orders| core.came_back(Held { upstream, slot }, meta, now, orders));
    }

    pub(super) fn reset(&self, mut upstream: Box<D::Upstream>, meta: Meta, slot: Slot) {
        let Some(pool) = self.this.upgrade() else {
            return;
        };
        self.core.lock().reset_begun();
        self.shared.shutdown.spawn("pool-reset", async move {
            let wait_max = pool.shared.settings.reset_wait_max;
            let outcome = timeout(wait_max, upstream.reset()).await;
            if matches!(outcome, Ok(Ok(()))) {
                let held = Held { upstream, slot };
                pool.step(|core, now, orders| core.reset_done(held, meta, now, orders));
            } else {
                pool.core.lock().reset_failed();
                pool.finish_close(upstream, slot, CloseReason::ResetFailed)
                    .await;
            }
        });
    }

    pub(super) fn close_leased(&self, upstream: Box<D::Upstream>, slot: Slot, reason: CloseReason) {
        self.core.lock().close_begun();
        self.close(upstream, slot, reason);
    }

    /// A lease was dropped: its socket is closed already.
    pub(super) fn lost(&self, slot: Slot, reason: CloseReason) {
        self.shared.meters.closed(reason.label());
        drop(slot);
        self.step(|core, now, orders| {
            core.close_begun();
            core.closed(now, orders);
        });
    }

    fn close(&self, upstream: Box<D::Upstream>, slot: Slot, reason: CloseReason) {
        let Some(pool) = self.this.upgrade() else {
            return;
        };
        self.shared.shutdown.spawn("pool-close", async move {
            pool.finish_close(upstream, slot, reason).await;
        });
    }

    /// The place is kept until the server has seen the end, so that it never counts more than max.
    async fn finish_close(&self, upstream: Box<D::Upstream>, slot: Slot, reason: CloseReason) {
        // A goodbye that takes too long is cut: dropping the future closes the socket.
        let _cut = timeout(self.shared.settings.close_wait_max, upstream.close())
            .await
            .is_err();
        self.shared.meters.closed(reason.label());
        drop(slot);
        self.step(Core::closed);
    }

    fn dial(&self, reason: OpenReason) {
        let claimant = Weak::clone(&self.this) as Weak<dyn Claimant>;
        let Some(pool) = self.this.upgrade() else {
            return;
        };
        let Some(slot) = self.shared.budget.acquire(&claimant) else {
            self.core.lock().dial_denied();
            return;
        };
        self.shared.shutdown.spawn("pool-dial", async move {
            let tenant = pool.tenant();
            let epoch = pool.core.lock().epoch();
            let wait_max = pool.shared.settings.dial_wait_max;
            let dialer = &pool.shared.dialer;
            let dial = async {
                match &pool.part {
                    Part::Whole | Part::Aside => dialer.dial(&tenant).await,
                    Part::Server(server) => dialer.dial_server(&tenant, server).await,
                }
            };
            let outcome = match timeout(wait_max, dial).await {
                Ok(outcome) => outcome,
                Err(_) => Err(DialFault::new(
                    DialStep::Login,
                    format!("no upstream within {} ms", wait_max.as_millis()),
                    "the server accepts connections but does not answer; look at its log",
                )),
            };
            pool.dialed(outcome, &(tenant, epoch), slot, reason);
        });
    }

    fn dialed(
        &self,
        outcome: Result<D::Upstream, DialFault>,
        (tenant, epoch): &(Arc<Tenant>, u64),
        slot: Slot,
        reason: OpenReason,
    ) {
        match outcome {
            Ok(upstream) => {
                self.shared.meters.opened(reason.label());
                let life = self.shared.settings.lifetime_max;
                let life = life.mul_f64(1.0 - f64::from(jitter() % 1000) / 10_000.0);
                let meta = Meta {
                    expires: Instant::now() + life,
                    generation: tenant.generation,
                    epoch: *epoch,
                };
                let upstream = Box::new(upstream);
                let held = Held { upstream, slot };
                self.step(|core, now, orders| core.dialed(held, meta, now, orders));
            }
            Err(fault) => {
                tracing::warn!(tenant = %tenant.slug, step = %fault.step, cause = %fault.cause, "dial failed");
                self.shared.meters.dial_failed(fault.step.label());
                drop(slot);
                self.step(|core, now, orders| core.dial_failed(&fault, jitter(), now, orders));
            }
        }
    }

    /// One event into the core, and its orders carried out after the lock is free.
    pub(super) fn step(
        &self,
        event: impl FnOnce(&mut Core<Held<D>, Waiter<D>>, Instant, &mut Orders<D>),
    ) {
        let mut orders = Orders::<D>::new();
        event(&mut self.core.lock(), Instant::now(), &mut orders);
        self.carry_out(orders);
    }

    fn carry_out(&self, orders: Orders<D>) {
        for order in orders {
            match order {
                Order::Hand(in_line, held, meta) => self.hand(in_line, held, meta),
                Order::Watch => {
                    let watching =
                        line::watch(Weak::clone(&self.this), self.shared.shutdown.clone());
                    self.shared.shutdown.spawn("pool-line", watching);
                }
                Order::Dial(reason) => self.dial(reason),
                Order::Close(held, reason) => self.close(held.upstream, held.slot, reason),
                // A waiter that has gone does not need to be told.
                Order::Deny(waiter, error) => drop(waiter.send(Err(error))),
            }
        }
    }

    fn hand(&self, in_line: InLine<Waiter<D>>, mut held: Held<D>, meta: Meta) {
        let Some(pool) = self.this.upgrade() else {
            return;
        };
        if !held.upstream.is_open() {
            self.close_leased(held.upstream, held.slot, CloseReason::Stale);
            self.step(|core, now, orders| core.requeue(in_line, now, orders));
            return;
        }
        let lease = Lease::new(pool, held.upstream, meta, held.slot);
        if let Err(Ok(lease)) = in_line.waiter.send(Ok(lease)) {
            lease.give_back(super::Residue::Clean);
        }
    }
}

impl<D: Dial> Claimant for Pool<D> {
    fn evictable_since(&self) -> Option<Instant> {
        let core = self.core.lock();
        (core.idle() > 0).then(|| core.last_lease())
    }

    fn evict(&self) -> bool {
        let mut had = false;
        self.step(|core, _, orders| had = core.evict(orders));
        had
    }

    fn poke(&self) {
        self.step(Core::poked);
    }
}

/// A random number; without randomness from the system there is just no jitter.
fn jitter() -> u32 {
    getrandom::u32().unwrap_or(0)
}
