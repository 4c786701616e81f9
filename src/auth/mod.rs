//! Proofs: SCRAM in both roles, and the delay that failures earn.
//!
//! Pure: no sockets, no registry. What is proven against (the verifier) is a noun of `tenant`.

pub mod scram;
mod throttle;

pub use throttle::{Throttle, ThrottleKey};
