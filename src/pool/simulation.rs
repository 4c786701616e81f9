//! Seeded runs of the core against a model: random events, the invariants swept after each.
//!
//! A failing seed is printed by the assertion and can be run again alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::core::{Bounds, Core, Meta, Order};
use crate::{
    net::{DialFault, DialStep},
    pool::CheckoutError,
    tenant::Generation,
};

const SEEDS: u64 = 300;
const STEPS: usize = 600;

/// xorshift64*: enough for choosing events, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % sides
    }
}

struct World {
    seed: u64,
    dice: Dice,
    core: Core<u32, u32>,
    bounds: Bounds,
    now: Instant,
    generation: Generation,
    next_conn: u32,
    next_waiter: u32,
    leased: BTreeMap<u32, Meta>,
    resetting: BTreeMap<u32, Meta>,
    closing: BTreeSet<u32>,
    dialing: usize,
    waiting: BTreeMap<u64, u32>,
    /// When the line is looked at again.
    watch: Option<Instant>,
    served: usize,
    denied: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let bounds = Bounds {
            max: 1 + dice.roll(5),
            idle_min: dice.roll(3),
            dialing_max: 1 + dice.roll(2),
            queue_max: 1 + dice.roll(12),
            // Every other run has no bound to speak of: there only a lease ends the waiting.
            wait_max: Duration::from_secs(if seed.is_multiple_of(2) { 10 } else { 100_000 }),
            idle_after: Duration::from_mins(1),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
        };
        let now = Instant::now();
        Self {
            seed,
            dice,
            core: Core::new(bounds, Generation(0), now),
            bounds,
            now,
            generation: Generation(0),
            next_conn: 0,
            next_waiter: 0,
            leased: BTreeMap::new(),
            resetting: BTreeMap::new(),
            closing: BTreeSet::new(),
            dialing: 0,
            waiting: BTreeMap::new(),
            watch: None,
            served: 0,
            denied: 0,
        }
    }

    fn step(&mut self) {
        let mut orders = Vec::new();
        match self.dice.roll(14) {
            0..4 => self.ask(&mut orders),
            4 | 5 => self.give_back(&mut orders),
            6 => self.lose(),
            7 => self.finish_reset(&mut orders),
            8 | 9 => self.finish_dial(&mut orders),
            10 => self.finish_close(&mut orders),
            11 => self.withdraw(),
            12 => {
                self.now += Duration::from_millis(self.dice.roll(30_000) as u64);
                self.core.tick(self.now, &mut orders);
            }
            _ => self.rare(&mut orders),
        }
        self.obey(orders);
        self.look_at_line();
        self.check();
    }

    /// The watch over the line, as the shell keeps it.
    fn look_at_line(&mut self) {
        while self.watch.is_some_and(|at| at <= self.now) {
            let mut orders = Vec::new();
            self.watch = self.core.expire(self.now, &mut orders);
            self.obey(orders);
        }
    }

    fn ask(&mut self, orders: &mut Vec<Order<u32, u32>>) {
        if let Some((conn, meta)) = self.core.take(|| self.now) {
            assert!(
                self.waiting.is_empty(),
                "seed {}: a newcomer passed the line",
                self.seed
            );
            assert!(self.leased.insert(conn, meta).is_none());
            return;
        }
        self.next_waiter += 1;
        if let Ok(ticket) = self.core.ask(self.next_waiter, self.now) {
            self.waiting.insert(ticket, self.next_waiter);
            self.core.plan(self.now, orders);
        }
    }

    fn give_back(&mut self, orders: &mut Vec<Order<u32, u32>>) {
        let Some((conn, meta)) = self.leased.pop_first() else {
            return;
        };
        match self.dice.roll(4) {
            0 => {
                self.core.reset_begun();
                self.resetting.insert(conn, meta);
            }
            1 => {
                self.core.close_begun();
                self.closing.insert(conn);
            }
            _ => self.core.came_back(conn, meta, self.now, orders),
        }
    }

    fn lose(&mut self) {
        if let Some((conn, _)) = self.leased.pop_last() {
            self.core.close_begun();
            self.closing.insert(conn);
        }
    }

    fn finish_reset(&mut self, orders: &mut Vec<Order<u32, u32>>) {
        let Some((conn, meta)) = self.resetting.pop_first() else {
            return;
        };
        if self.dice.roll(4) == 0 {
            self.core.reset_failed();
            self.closing.insert(conn);
        } else {
            self.core.reset_done(conn, meta, self.now, orders);
        }
    }

    fn finish_dial(&mut self, orders: &mut Vec<Order<u32, u32>>) {
        if self.dialing == 0 {
            return;
        }
        self.dialing -= 1;
        match self.dice.roll(5) {
            0 => {
                let fault = DialFault::new(DialStep::Connect, "refused", "start it");
                self.core.dial_failed(&fault, 500, self.now, orders);
            }
            1 => self.core.dial_denied(),
            _ => {
                self.next_conn += 1;
                let life = Duration::from_secs(1 + self.dice.roll(300) as u64);
                let meta = Meta {
                    expires: self.now + life,
                    generation: self.generation,
                    epoch: self.core.epoch(),
                };
                self.core.dialed(self.next_conn, meta, self.now, orders);
            }
        }
    }

    fn finish_close(&mut self, orders: &mut Vec<Order<u32, u32>>) {
        if self.closing.pop_first().is_some() {
            self.core.closed(self.now, orders);
        }
    }

    fn withdraw(&mut self) {
        if let Some((ticket, _)) = self.waiting.pop_last() {
            assert!(
                self.core.withdraw(ticket),
                "seed {}: a waiter was lost",
                self.seed
            );
        }
    }

    fn rare(&mut self, orders: &mut Vec<Order<u32, u32>>) {
        match self.dice.roll(5) {
            0 => {
                self.generation = Generation(self.generation.0 + 1);
                self.core
                    .retire(self.generation, self.bounds, self.now, orders);
            }
            1 => self.core.pause(true, self.now, orders),
            2 | 3 => self.core.pause(false, self.now, orders),
            _ => {
                self.core.poked(self.now, orders);
                self.core.evict(orders);
            }
        }
    }

    /// Carries out orders as the shell would, and holds them against the model.
    fn obey(&mut self, orders: Vec<Order<u32, u32>>) {
        for order in orders {
            match order {
                Order::Watch => {
                    assert!(self.watch.is_none(), "seed {}: two watches", self.seed);
                    self.watch = Some(self.now);
                }
                Order::Hand(in_line, conn, meta) => {
                    let first = self.waiting.pop_first();
                    assert_eq!(
                        first,
                        Some((in_line.ticket, in_line.waiter)),
                        "seed {}: not the first",
                        self.seed
                    );
                    assert_eq!(
                        meta.generation, self.generation,
                        "seed {}: retired",
                        self.seed
                    );
                    assert!(self.leased.insert(conn, meta).is_none());
                    self.served += 1;
                }
                Order::Dial(_) => self.dialing += 1,
                Order::Close(conn, _) => {
                    assert!(
                        self.closing.insert(conn),
                        "seed {}: closed twice",
                        self.seed
                    );
                }
                Order::Deny(waiter, error) => {
                    self.waiting.retain(|_, other| *other != waiter);
                    if let CheckoutError::WaitTooLong { waited } = error {
                        assert!(waited >= self.bounds.wait_max, "seed {}: early", self.seed);
                        self.denied += 1;
                    }
                }
            }
        }
    }

    fn check(&self) {
        self.core.check();
        let core = &self.core;
        let first = core.first_since();
        assert!(
            first.is_none_or(|since| self.now < since + self.bounds.wait_max),
            "seed {}: somebody waits beyond the bound",
            self.seed
        );
        let seen = (
            core.leased(),
            core.resetting(),
            core.dialing(),
            core.waiting(),
        );
        let model = (
            self.leased.len(),
            self.resetting.len(),
            self.dialing,
            self.waiting.len(),
        );
        assert_eq!(
            seen, model,
            "seed {}: leased, resetting, dialing, waiting",
            self.seed
        );
        let slots = model.0 + model.1 + model.2 + core.idle() + self.closing.len();
        assert_eq!(core.slots(), slots, "seed {}: slots", self.seed);
    }

    /// Lets everything end well and asks that nobody is left waiting.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.now += Duration::from_secs(6);
            let mut orders = Vec::new();
            self.core.pause(false, self.now, &mut orders);
            self.core.poked(self.now, &mut orders);
            while let Some((conn, meta)) = self.leased.pop_first() {
                self.core.came_back(conn, meta, self.now, &mut orders);
            }
            while let Some((conn, meta)) = self.resetting.pop_first() {
                self.core.reset_done(conn, meta, self.now, &mut orders);
            }
            self.finish_dial(&mut orders);
            self.finish_close(&mut orders);
            self.obey(orders);
            self.look_at_line();
            self.check();
            if self.waiting.is_empty() && self.leased.is_empty() {
                return;
            }
        }
        panic!("seed {}: {} wait for ever", self.seed, self.waiting.len());
    }
}

#[test]
fn random_lives_keep_the_sums_and_leave_nobody_waiting() {
    let (mut served, mut denied) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        served += world.served;
        denied += world.denied;
    }
    assert!(denied > 500, "the runs exercise waiting too long: {denied}");
    assert!(served > 5_000, "the runs exercise hand-over: {served}");
}
