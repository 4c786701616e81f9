//! The admin API's part of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who may speak to the admin API, and what it may dial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Names by which the API may be addressed, besides `localhost` and IP addresses.
    pub hosts: Vec<String>,
    /// Connections at once at most.
    pub clients_max: usize,
    /// Bytes of a request's body at most.
    pub body_bytes_max: usize,
    /// How long a request may take.
    #[serde(with = "humantime_serde")]
    pub request_wait_max: Duration,
    /// How long a connection test may take; longer than its steps, which say which one hangs.
    #[serde(with = "humantime_serde")]
    pub test_wait_max: Duration,
    /// Link-local, metadata and similar addresses that databases may have all the same, as `a.b.c.d`
    /// or `a.b.c.d/n`.
    pub egress_allow: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            clients_max: 256,
            body_bytes_max: 3 * 1024 * 1024,
            request_wait_max: Duration::from_mins(1),
            test_wait_max: Duration::from_secs(15),
            egress_allow: Vec::new(),
        }
    }
}
