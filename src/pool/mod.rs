//! Bounded upstream connections, one pool per tenant, all pools one fleet.
//!
//! Knows no protocol: what an upstream is comes in by [`Upstream`] and [`Dial`]. `core` is the
//! accounting, pure and simulated; `shell` puts sockets and time around it, `line` those who wait; `fleet` holds the pools
//! and evicts by least recent use; `budget` bounds them all together.
//!
//! # Invariants
//! * `idle + leased + dialing + resetting = slots <= max`, for each pool; the budget likewise.
//! * An upstream comes back only by [`Lease::give_back`]; whatever else happens to a lease closes it.
//! * Waiters are served in the order in which they came.

mod budget;
mod control;
mod core;
mod error;
mod fleet;
mod lease;
mod limits;
mod line;
mod reason;
mod shell;
mod stats;
mod upstream;

pub use budget::Budget;
pub use error::CheckoutError;
pub use fleet::Fleet;
pub use lease::Lease;
pub use limits::Settings;
pub use line::Waiting;
pub use reason::{CloseReason, OpenReason};
pub use shell::Pool;
pub use stats::PoolStats;
pub use upstream::{Dial, Residue, Upstream};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
