//! The part of the configuration that is Redis'.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of the Redis side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Shared upstreams of a tenant, of all versions and databases together.
    pub trunks_max: usize,
    /// Commands of one client under way at once; beyond, its socket is not read.
    pub in_flight_max: usize,
    /// Output at which a client that does not read is closed, in bytes; the reply under way is let through.
    pub output_bytes_max: usize,
    /// Output at which a subscriber that does not read is closed, in bytes (`client-output-buffer-limit pubsub`).
    pub subscriber_bytes_max: usize,
    /// Output of a subscriber, in bytes, that may wait for no longer than `subscriber_soft_max`.
    pub subscriber_bytes_soft: usize,
    /// How long that much may wait.
    #[serde(with = "humantime_serde")]
    pub subscriber_soft_max: Duration,
    /// The largest command, in bytes.
    pub request_bytes_max: usize,
    /// The largest argument of a command, in bytes (`proto-max-bulk-len`).
    pub argument_bytes_max: usize,
    /// How long a client may take to log in.
    #[serde(with = "humantime_serde")]
    pub login_wait_max: Duration,
    /// How long one connection attempt to a server may take.
    #[serde(with = "humantime_serde")]
    pub connect_wait_max: Duration,
    /// How long the oldest command on a trunk may wait for its reply.
    #[serde(with = "humantime_serde")]
    pub reply_wait_max: Duration,
    /// How long an unused trunk stays open.
    #[serde(with = "humantime_serde")]
    pub trunk_idle_after: Duration,
    /// How long a client may leave a transaction or a watch open without a command.
    #[serde(with = "humantime_serde")]
    pub transaction_idle_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            trunks_max: 2,
            in_flight_max: 1024,
            output_bytes_max: 64 * 1024 * 1024,
            subscriber_bytes_max: 32 * 1024 * 1024,
            subscriber_bytes_soft: 8 * 1024 * 1024,
            subscriber_soft_max: Duration::from_mins(1),
            request_bytes_max: 512 * 1024 * 1024,
            argument_bytes_max: 512 * 1024 * 1024,
            login_wait_max: Duration::from_secs(10),
            connect_wait_max: Duration::from_secs(5),
            reply_wait_max: Duration::from_mins(1),
            trunk_idle_after: Duration::from_mins(1),
            transaction_idle_max: Duration::from_mins(1),
        }
    }
}

impl Settings {
    /// How long a client may take to accept its last bytes.
    pub(super) const fn goodbye_max() -> Duration {
        Duration::from_secs(1)
    }
}
