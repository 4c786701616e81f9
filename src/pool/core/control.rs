//! What time, operators, and the end of the gateway ask of a core.

use tokio::time::Instant;

use super::{Core, Order};
use crate::pool::{CheckoutError, CloseReason};

impl<C, W> Core<C, W> {
    /// Holds back leases, or lets them go on.
    pub(in crate::pool) fn pause(
        &mut self,
        paused: bool,
        now: Instant,
        orders: &mut Vec<Order<C, W>>,
    ) {
        self.paused = paused;
        self.plan(now, orders);
    }

    /// Tells those who have waited for too long; when to look again, while anybody waits.
    pub(in crate::pool) fn expire(
        &mut self,
        now: Instant,
        orders: &mut Vec<Order<C, W>>,
    ) -> Option<Instant> {
        self.deny_late(now, orders);
        let next = self.queue.first_since();
        self.queue.watched = next.is_some();
        next.map(|since| since + self.bounds.wait_max)
    }

    /// Those who are late are in front.
    pub(super) fn deny_late(&mut self, now: Instant, orders: &mut Vec<Order<C, W>>) {
        while let Some(since) = self.queue.first_since() {
            let waited = now.saturating_duration_since(since);
            if waited < self.bounds.wait_max {
                return;
            }
            let error = match self.fault() {
                _ if self.paused => CheckoutError::Paused,
                Some(fault) => CheckoutError::DialFailed(fault.clone()),
                None => CheckoutError::WaitTooLong { waited },
            };
            let late = self.queue.pop();
            orders.extend(late.map(|place| Order::Deny(place.waiter, error)));
        }
    }

    /// Forgets an outage, so that the next who asks has an upstream opened.
    pub(in crate::pool) fn reopen(&mut self, now: Instant, orders: &mut Vec<Order<C, W>>) {
        if self.outage.take().is_some() {
            self.plan(now, orders);
        }
    }

    /// Ends the pool: waiters hear it, idle connections close, leased ones when they come back.
    pub(in crate::pool) fn drain(&mut self, orders: &mut Vec<Order<C, W>>) {
        self.draining = true;
        for waiter in self.queue.clear() {
            orders.push(Order::Deny(waiter, CheckoutError::Draining));
        }
        self.close_idle(orders);
    }

    /// Closes what is idle; leases can still be had for exchanges that are under way.
    pub(in crate::pool) fn close_idle(&mut self, orders: &mut Vec<Order<C, W>>) {
        while !self.idle.is_empty() {
            self.close_front(CloseReason::Draining, orders);
        }
    }

    /// Closes every connection there is, now or when it comes back; new ones are opened as needed.
    pub(in crate::pool) fn renew(&mut self, now: Instant, orders: &mut Vec<Order<C, W>>) {
        self.epoch += 1;
        self.outage = None;
        while !self.idle.is_empty() {
            self.close_front(CloseReason::Retired, orders);
        }
        self.plan(now, orders);
    }
}
