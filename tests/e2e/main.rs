//! End to end, by concern: the gateway as a process, in front of real servers.
//!
//! The servers' URLs come from `tests/servers env` (`make test` sets them). Without them the tests
//! say so and pass, unless `POLYPOOL_TEST_REQUIRED=1`, which `make test` also sets.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a test may stop here"
)]

mod canary;
mod faults;
mod logins;
mod scheduling;
mod support;
