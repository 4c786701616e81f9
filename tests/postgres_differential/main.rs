//! The PostgreSQL side against the truth: what two clients see through a pool of two upstreams, and
//! what they see on two direct connections. `sessions` has the cases that this has found, and the
//! rows of the README's table.
//!
//! Reads `POLYPOOL_TEST_POSTGRES_URL` and `…_SUPERUSER_URL`; without them, says so and passes.
//! `POLYPOOL_DIFFERENTIAL_SEED` replays one run, `POLYPOOL_DIFFERENTIAL_OPERATIONS` makes it longer.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::format_push_string,
    clippy::print_stdout,
    clippy::format_collect,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a test may stop here"
)]

mod cancels;
mod definitions;
mod differential;
mod functions;
mod gateway;
mod killed;
mod listening;
mod meanings;
mod operations;
mod quotes;
mod sessions;
mod shared;
mod wire;
