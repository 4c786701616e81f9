//! The settings that all pools share; a tenant's own bounds are in `TenantLimits`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How pools behave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Upstreams opened at the same time per pool, against herds.
    pub dialing_max: usize,
    /// How long opening one may take, login included.
    #[serde(with = "humantime_serde")]
    pub dial_wait_max: Duration,
    /// How long a reset may take before the upstream is closed instead.
    #[serde(with = "humantime_serde")]
    pub reset_wait_max: Duration,
    /// How long a polite goodbye may take.
    #[serde(with = "humantime_serde")]
    pub close_wait_max: Duration,
    /// An upstream unused for this long is closed.
    #[serde(with = "humantime_serde")]
    pub idle_after: Duration,
    /// An upstream older than this, less up to a tenth, is closed when it comes back.
    #[serde(with = "humantime_serde")]
    pub lifetime_max: Duration,
    /// A pool without upstreams, unused for this long, is forgotten.
    #[serde(with = "humantime_serde")]
    pub pool_idle_after: Duration,
    /// The first pause after a failed dial; doubled by each further failure.
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    /// The longest pause after failed dials.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// Upstreams of all tenants together.
    pub upstream_total_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dialing_max: 2,
            dial_wait_max: Duration::from_secs(10),
            reset_wait_max: Duration::from_secs(5),
            close_wait_max: Duration::from_secs(1),
            idle_after: Duration::from_mins(5),
            lifetime_max: Duration::from_hours(1),
            pool_idle_after: Duration::from_mins(15),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            upstream_total_max: 2000,
        }
    }
}
