//! The accounting of one pool, pure: no socket, no clock, no await.
//!
//! Events come in with `now`, orders go out; the shell carries them out after it has let go of the
//! lock. Generic over the connection and the waiter, so that the simulation can use plain numbers.

mod control;
mod line;
mod order;
mod view;

use std::collections::VecDeque;

use tokio::time::Instant;

pub(in crate::pool) use line::InLine;
pub(in crate::pool) use order::{Bounds, Meta, Order};

use self::line::Line;
use super::{CheckoutError, CloseReason, OpenReason};
use crate::{net::DialFault, tenant::Generation};

/// Counts, the idle ones, and who waits.
#[derive(Debug)]
pub(in crate::pool) struct Core<C, W> {
    bounds: Bounds,
    idle: VecDeque<Idle<C>>,
    queue: Line<W>,
    leased: usize,
    dialing: usize,
    resetting: usize,
    closing: usize,
    generation: Generation,
    /// Counts the requests to begin anew.
    epoch: u64,
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
    pub(in crate::pool) fn new(bounds: Bounds, generation: Generation, now: Instant) -> Self {
        Self {
            bounds,
            idle: VecDeque::new(),
            queue: Line::default(),
            leased: 0,
            dialing: 0,
            resetting: 0,
            closing: 0,
            generation,
            epoch: 0,
            paused: false,
            draining: false,
            starved: false,
            outage: None,
            last_lease: now,
            leases: 0,
        }
    }

    /// The most recently used idle connection, unless others wait for one. The clock is read only then.
    pub(in crate::pool) fn take(&mut self, now: impl FnOnce() -> Instant) -> Option<(C, Meta)> {
        if self.paused || self.draining || !self.queue.is_empty() {
            return None;
        }
        let idle = self.idle.pop_back()?;
        self.lease(now());
        Some((idle.conn, idle.meta))
    }

    /// Puts a waiter at the end of the queue.
    ///
    /// # Errors
    /// The waiter back, with why it would wait for nothing.
    pub(in crate::pool) fn ask(
        &mut self,
        waiter: W,
        now: Instant,
    ) -> Result<u64, (W, CheckoutError)> {
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
        Ok(self.queue.join(waiter, now))
    }

    /// The waiter went away. False: it has been served or told meanwhile.
    pub(in crate::pool) fn withdraw(&mut self, ticket: u64) -> bool {
        self.queue.leave(ticket)
    }

    /// A waiter was handed a connection that turned out stale: it has its old place again.
    pub(in crate::pool) fn requeue(
        &mut self,
        in_line: InLine<W>,
        now: Instant,
        orders: &mut Vec<Order<C, W>>,
    ) {
        self.queue.put_back(in_line);
        self.plan(now, orders);
    }

    /// Orders what the present state calls for. To be called after every event.
    pub(in crate::pool) fn plan(&mut self, now: Instant, orders: &mut Vec<Order<C, W>>) {
        self.plan_leases(now, orders);
        if !self.queue.watched && !self.queue.is_empty() {
            self.queue.watched = true;
            orders.push(Order::Watch);
        }
    }

    fn plan_leases(&mut self, now: Instant, orders: &mut Vec<Order<C, W>>) {
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
    pub(in crate::pool) fn came_back(
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
    pub(in crate::pool) fn reset_begun(&mut self) {
        self.leased -= 1;
        self.resetting += 1;
    }

    /// Cleaning went well.
    pub(in crate::pool) fn reset_done(
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
    pub(in crate::pool) fn reset_failed(&mut self) {
        self.resetting -= 1;
        self.closing += 1;
    }

    /// A leased connection is being closed.
    pub(in crate::pool) fn close_begun(&mut self) {
        self.leased -= 1;
        self.closing += 1;
    }

    /// A connection is gone for good.
    pub(in crate::pool) fn closed(&mut self, now: Instant, orders: &mut Vec<Order<C, W>>) {
        self.closing -= 1;
        self.plan(now, orders);
    }

    /// A dial ended well.
    pub(in crate::pool) fn dialed(
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
    pub(in crate::pool) fn dial_failed(
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
            for waiter in self.queue.clear() {
                let error = CheckoutError::DialFailed(fault.clone());
                orders.push(Order::Deny(waiter, error));
            }
        }
        self.plan(now, orders);
    }

    /// The budget has no slot at the moment; it will poke.
    pub(in crate::pool) fn dial_denied(&mut self) {
        self.dialing -= 1;
        self.starved = true;
    }

    /// The budget may have a slot again.
    pub(in crate::pool) fn poked(&mut self, now: Instant, orders: &mut Vec<Order<C, W>>) {
        self.starved = false;
        self.plan(now, orders);
    }

    /// Time passed: idle and old connections close, the minimum is kept up.
    pub(in crate::pool) fn tick(&mut self, now: Instant, orders: &mut Vec<Order<C, W>>) {
        // A poke may have come between the budget's denial and our noting it.
        self.starved = false;
        // The bound may be a lower one than when the line was last looked at.
        self.deny_late(now, orders);
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
    pub(in crate::pool) fn retire(
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
    pub(in crate::pool) fn evict(&mut self, orders: &mut Vec<Order<C, W>>) -> bool {
        let had = !self.idle.is_empty();
        self.close_front(CloseReason::Evicted, orders);
        had
    }

    /// Puts a good connection where it is wanted: to the first waiter, else among the idle.
    fn settle(&mut self, conn: C, meta: Meta, now: Instant, orders: &mut Vec<Order<C, W>>) {
        let ending = if self.draining {
            Some(CloseReason::Draining)
        } else if (meta.generation, meta.epoch) != (self.generation, self.epoch) {
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
            && let Some(in_line) = self.queue.pop()
        {
            self.lease(now);
            orders.push(Order::Hand(in_line, conn, meta));
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
}
