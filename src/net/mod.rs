//! Sockets: listening, dialling, TLS, and the one stream type of both sides.
//!
//! Knows no protocol and no tenant; deadlines and limits are passed in.

mod dial;
pub mod dns;
mod end_point;
mod listener;
mod scratch;
mod stream;
pub mod tls;

pub use dial::{Address, DialFault, DialStep, dial};
pub use listener::Listener;
pub use scratch::{SCRATCH_BYTES, give_back, poll_read_with};
pub use stream::Stream;
