//! What the three protocols share of a client's life: being admitted, being seen, being ended.
//!
//! There is no common session loop: each protocol has its own `session` room. This is the only
//! caller of `Registry::resolve`.

mod admission;
mod board;
mod password;

pub use admission::{Admission, Admitted, Candidate, Claim};
pub use board::{Board, ClientFigures, Seat, Standing, Totals};
