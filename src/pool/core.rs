//! The accounting of one pool, pure: no socket, no clock, no await.
//!
//! Events come in with `now`, orders go out; the shell carries them out after it has let go of the
//! lock. Generic over the connection and the waiter, so that the simulation can use plain numbers.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::{CheckoutError, CloseReason, OpenReason};
use crate::{net::DialFault, tenant::Generation};

/// What bounds one pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) max: usize,
    pub(super) idle_min: usize,
    pub(super) dialing_max: usize,
    pub(super) queue_max: usize,
    pub(super) idle_after: Duration,
    pub(super) backoff_min: Duration,
    pub(super) backoff_max: Duration,
}

/// What is remembered of a connection wherever it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta {
    pub(super) expires: Instant,
    pub(super) generation: Generation,
}

/// What the shell has to do.
#[derive(Debug)]
pub(super) enum Order<C, W> {
    /// Give the connection to the waiter of that ticket; if it has gone, `came_back`.
    Hand(u64, W, C, Meta),
    /// Open a connection, then `dialed` or `dial_denied`.
    Dial(OpenReason),
    /// Say goodbye, then `closed`.
    Close(C, CloseReason),
    /// Tell the waiter.
    Deny(W, CheckoutError),
}

/// Counts, the idle ones, and who waits.
#[derive(Debug)]
pub(super) struct Core<C, W> {
    bounds: Bounds,
    idle: VecDeque<Idle<C>>,
    queue: BTreeMap<u64, W>,
    ticket: u64,
    leased: usize,
    dialing: usize,
    resetting: usize,
    closing: usize,
    generation: Generation,
    paused: bool,
    draining: bool,
    /// The budget denied a slot; no further dial until it pokes.
    starved: bool,
    outage: Option<Outage>,
    last_lease: Instant,
    leases: u64,
}

#[derive(Debug)]
struct Idle<C> {
    conn: C,
    meta: Meta,
    since: Instant,
}

/// The circuit: while it is open, clients hear the cause at once.
#[derive(Debug)]
struct Outage {
    fault: DialFault,
    failures: u32,
    until: Instant,
}

impl<C, W> Core<C, W> {
    pub(super) fn new(bounds: Bounds, generation: Generation, now: Instant) -> Self {
        Self {
            bounds,
            idle: VecDeque::new(),
            queue: BTreeMap::new(),
            ticket: 0,
            leased: 0,
            dialing: 0,
            resetting: 0,
            closing: 0,
            generation,
            paused: false,
            draining: false,
            starved: false,
            outage: None,
            last_lease: now,
            leases: 0,
        }
    }

    /// The most recently used idle connection, unless others wait for one.
    pub(super) fn take(&mut self, now: Instant) -> Option<(C, Meta)> {
        if self.paused || self.draining || !self.queue.is_empty() {
            return None;
        }
        let idle = self.idle.pop_back()?;
        self.lease(now);
        Some((idle.conn, idle.meta))
    }

    /// Puts a waiter at the end of the queue.
    ///
    /// # Errors
    /// The waiter back, with why it would wait for nothing.
    pub(super) fn ask(&mut self, waiter: W, now: Instant) -> Result<u64, (W, CheckoutError)> {
        if self.draining {
            return Err((waiter, CheckoutError::Draining));
        }
        if self.queue.len() >= self.bounds.queue_max {
            return Err((
                waiter,
                CheckoutError::QueueFull {
                    max: self.bounds.queue_max,
                },
            ));
        }
        if let Some(outage) = &self.outage
            && self.live() + self.dialing == 0
            && now < outage.until
        {
            return Err((waiter, CheckoutError::DialFailed(outage.fault.clone())));
        }
        self.ticket += 1;
        self.queue.insert(self.ticket, waiter);
        Ok(self.ticket)
    }

    /// The waiter went away. False: it has been served or told meanwhile.
    pub(super) fn withdraw(&mut self, ticket: u64) -> bool {
        self.queue.remove(&ticket).is_some()
    }

    /// A waiter was handed a connection that turned out stale: it has its old place again.
    pub(super) fn requeue(
        &mut self,
        ticket: u64,
        waiter: W,
        now: Instant,
        orders: &mut Vec<Order<C, W>>,
    ) {
        self.queue.insert(ticket, waiter);
        self.plan(now, orders);
    }

    /// Orders what the present state calls for. To be called after every event.
    pub(super) fn plan(&mut self, now: Instant, orders: &mut Vec<Order<C, W>>) {
        while !self.paused && !self.draining && !self.queue.is_empty() {
            let Some(idle) = self.idle.pop_back() else {
                break;
            };
            self.settle(idle.conn, idle.meta, now, orders);
        }
        let backing_off = self
            .outage
            .as_ref()
            .is_some_and(|outage| now < outage.until);
        if self.paused || self.draining || self.starved || backing_off {
            return;
        }
        // A half-open circuit is tried with one dial, not with a herd.
        let at_once = if self.outage.is_some() {
            1
        } else {
            self.bounds.dialing_max
        };
        let spare = self.idle_wanted();
        let wanted = self.queue.len().max(spare);
        while self.dialing < at_once.min(wanted) && self.slots() < self.bounds.max {
            self.dialing += 1;
            let reason = if self.queue.is_empty() {
                OpenReason::IdleMin
            } else {
                OpenReason::Demand
            };
            orders.push(Order::Dial(reason));
        }
    }

    /// A lease came back clean.
    pub(super) fn came_back(
        &mut self,
        conn: C,
        meta: Meta,
        now: Instant,
        orders: &mut Vec<Order<C, W>>,
    ) {
        self.leased -= 1;
        self.settle(conn, meta, now, orders);
        if !matches!(orders.last(), Some(Order::Hand(..))) {
            self.plan(now, orders);
        }
    }

    /// A lease came back to be cleaned first.
    pub(super) fn reset_begun(&mut self) {
        self.leased -= 1;
        self.resetting += 1;
    }

    /// Cleaning went well.
    pub(super) fn reset_done(
        &mut self,
        conn: C,
        meta: Meta,
        now: Instant,
        orders: &mut Vec<Order<C, W>>,
    ) {
        self.resetting -= 1;
        self.settle(conn, meta, now, orders);
        self.plan(now, orders);
    }

    /// Cleaning failed; the connection is being closed.
    pub(super) fn reset_failed(&mut self) {
        self.resetting -= 1;
        self.closing += 1;
    }

    /// A leased connection is being closed.
    pub(super) fn close_begun(&mut self) {
        self.leased -= 1;
        self.closing += 1;
    }

    /// A connection is gone for good.
    pub(super) fn closed(&mut self, now: Instant, orders: &mut Vec<Order<C, W>>) {
        self.closing -= 1;
        self.plan(now, orders);
    }

    /// A dial ended well.
    pub(super) fn dialed(
        &mut self,
        conn: C,
        meta: Meta,
        now: Instant,
        orders: &mut Vec<Order<C, W>>,
    ) {
        self.dialing -= 1;
        self.outage = None;
        self.settle(conn, meta, now, orders);
        self.plan(now, orders);
    }

    /// A dial failed. With nothing else open or opening, everybody who waits hears why.
    pub(super) fn dial_failed(
        &mut self,
        fault: &DialFault,
        jitter: u32,
        now: Instant,
        orders: &mut Vec<Order<C, W>>,
    ) {
        self.dialing -= 1;
        let failures = self.outage.as_ref().map_or(0, |outage| outage.failures) + 1;
        let pause = self
            .bounds
            .backoff_min
            .saturating_mul(1 << failures.min(16).saturating_sub(1))
            .min(self.bounds.backoff_max);
        // Half fixed, half random, so that many gateways do not knock in step.
        let pause = pause / 2 + pause.mul_f64(f64::from(jitter % 1000) / 2000.0);
        self.outage = Some(Outage {
            fault: fault.clone(),
            failures,
            until: now + pause,
        });
        if self.live() + self.dialing == 0 {
            for waiter in std::mem::take(&mut self.queue).into_values() {
                orders.push(Order::Deny(
                    waiter,
                    CheckoutError::DialFailed(fault.clone()),
                ));
            }
        }
        self.plan(now, orders);
    }

    /// The budget has no slot at the moment; it will poke.
    pub(super) fn dial_denied(&mut self) {
        self.dialing -= 1;
        self.starved = true;
    }

    /// The budget may have a slot again.
    pub(super) fn poked(&mut self, now: Instant, orders: &mut Vec<Order<C, W>>) {
        self.starved = false;
        self.plan(now, orders);
    }

    /// Time passed: idle and old connections close, the minimum is kept up.
    pub(super) fn tick(&mut self, now: Instant, orders: &mut Vec<Order<C, W>>) {
        // A poke may have come between the budget's denial and our noting it.
        self.starved = false;
        // Oldest first: they are at the front, because reuse is at the back.
        while self.idle.len() > self.bounds.idle_min
            && self
                .idle
                .front()
                .is_some_and(|idle| now - idle.since >= self.bounds.idle_after)
        {
            self.close_front(CloseReason::Idle, orders);
        }
        for _ in 0..self.idle.len() {
            let Some(idle) = self.idle.pop_front() else {
                break;
            };
            if idle.meta.expires <= now {
                self.closing += 1;
                orders.push(Order::Close(idle.conn, CloseReason::Lifetime));
            } else {
                self.idle.push_back(idle);
            }
        }
        self.plan(now, orders);
    }

    /// The registration changed: connections of an older generation are closed, now or when they
    /// come back.
    pub(super) fn retire(
        &mut self,
        generation: Generation,
        bounds: Bounds,
        now: Instant,
        orders: &mut Vec<Order<C, W>>,
    ) {
        self.generation = generation;
        self.bounds = bounds;
        self.outage = None;
        while !self.idle.is_empty() {
            self.close_front(CloseReason::Retired, orders);
        }
        self.plan(now, orders);
    }

    /// Gives up the idle connection that was unused for longest.
    pub(super) fn evict(&mut self, orders: &mut Vec<Order<C, W>>) -> bool {
        let had = !self.idle.is_empty();
        self.close_front(CloseReason::Evicted, orders);
        had
    }

    /// Holds back leases, or lets them go on.
    pub(super) fn pause(&mut self, paused: bool, now: Instant, orders: &mut Vec<Order<C, W>>) {
        self.paused = paused;
        self.plan(now, orders);
    }

    /// Ends the pool: waiters hear it, idle connections close, leased ones when they come back.
    pub(super) fn drain(&mut self, orders: &mut Vec<Order<C, W>>) {
        self.draining = true;
        for waiter in std::mem::take(&mut self.queue).into_values() {
            orders.push(Order::Deny(waiter, CheckoutError::Draining));
        }
        self.close_idle(orders);
    }

    /// Closes what is idle; leases can still be had for exchanges that are under way.
    pub(super) fn close_idle(&mut self, orders: &mut Vec<Order<C, W>>) {
        while !self.idle.is_empty() {
            self.close_front(CloseReason::Draining, orders);
        }
    }

    /// All the places that are taken.
    pub(super) fn slots(&self) -> usize {
        self.live() + self.dialing + self.closing
    }

    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    pub(super) fn leased(&self) -> usize {
        self.leased
    }

    pub(super) fn dialing(&self) -> usize {
        self.dialing
    }

    pub(super) fn resetting(&self) -> usize {
        self.resetting
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn leases(&self) -> u64 {
        self.leases
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn last_lease(&self) -> Instant {
        self.last_lease
    }

    pub(super) fn fault(&self) -> Option<&DialFault> {
        self.outage.as_ref().map(|outage| &outage.fault)
    }

    pub(super) fn max(&self) -> usize {
        self.bounds.max
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// Puts a good connection where it is wanted: to the first waiter, else among the idle.
    fn settle(&mut self, conn: C, meta: Meta, now: Instant, orders: &mut Vec<Order<C, W>>) {
        let ending = if self.draining {
            Some(CloseReason::Draining)
        } else if meta.generation != self.generation {
            Some(CloseReason::Retired)
        } else if meta.expires <= now {
            Some(CloseReason::Lifetime)
        } else {
            None
        };
        if let Some(reason) = ending {
            self.closing += 1;
            orders.push(Order::Close(conn, reason));
        } else if !self.paused
            && let Some((ticket, waiter)) = self.queue.pop_first()
        {
            self.lease(now);
            orders.push(Order::Hand(ticket, waiter, conn, meta));
        } else {
            self.idle.push_back(Idle {
                conn,
                meta,
                since: now,
            });
        }
    }

    fn lease(&mut self, now: Instant) {
        self.leased += 1;
        self.leases += 1;
        self.last_lease = now;
    }

    fn close_front(&mut self, reason: CloseReason, orders: &mut Vec<Order<C, W>>) {
        if let Some(idle) = self.idle.pop_front() {
            self.closing += 1;
            orders.push(Order::Close(idle.conn, reason));
        }
    }

    /// Connections that are, or will be, of use.
    fn live(&self) -> usize {
        self.idle.len() + self.leased + self.resetting
    }

    fn idle_wanted(&self) -> usize {
        self.bounds.idle_min.saturating_sub(self.live())
    }

    /// The invariants; swept after every step of the simulation.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert!(self.slots() <= self.bounds.max, "more slots than allowed");
        assert!(
            self.queue.len() <= self.bounds.queue_max,
            "queue beyond its bound"
        );
        assert!(
            self.queue.is_empty() || self.idle.is_empty() || self.paused,
            "somebody waits while a connection is idle"
        );
    }
}
