//! What passing a message costs: our cutters beside the crates that build values.
//!
//! `cargo bench --bench wire`. Prints nanoseconds per message, the best of several runs; asserts
//! nothing. The wire rooms are pure, so they are compiled in here as they are.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_types,
    reason = "a benchmark prints, uses the real clock, and may stop here"
)]
#![expect(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "only a part of each room is used"
)]

use std::{hint::black_box, time::Instant};

#[path = "../../src/fault.rs"]
mod fault;

mod redis;

mod mongodb;

/// Prints the best of ten runs, per message.
fn measure(name: &str, messages: usize, mut work: impl FnMut() -> usize) {
    const ROUNDS: u32 = 2000;
    assert_eq!(work(), messages, "{name}");
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let began = Instant::now();
        for _ in 0..ROUNDS {
            black_box(work());
        }
        let each = began.elapsed().as_secs_f64() / f64::from(ROUNDS);
        best = best.min(each * 1e9 / f64::from(u32::try_from(messages).unwrap()));
    }
    println!("{name:<48} {best:>10.1} ns");
}

fn main() {
    redis::run();
    mongodb::run();
}
