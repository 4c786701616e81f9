//! What the gateway tells about itself: metrics by name, and logs.
//!
//! `names` lists every metric; `meters` hands out typed handles, made once, so that counting on the
//! hot path is one atomic addition. No other module speaks to the `metrics` crate.

mod logs;
mod meters;
pub mod names;

pub use logs::{LogFormat, init_logs};
pub use meters::{Exporter, LoginOutcome, MonitorMeter, PoolMeters, SessionEnd, SessionMeters};
