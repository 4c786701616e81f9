//! The registry's part of the configuration.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// Where the registry is and how its cache behaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The folder of the embedded registry, the key file and the admin token's file.
    pub data_dir: PathBuf,
    /// How long a name's answer is used before it is read again.
    #[serde(with = "humantime_serde")]
    pub cache_for: Duration,
    /// How long it is remembered that a name is unknown.
    #[serde(with = "humantime_serde")]
    pub unknown_for: Duration,
    /// Names in the cache at most.
    pub cache_entries_max: usize,
    /// Whether connection strings in clear text, as older Studios stored them, are read.
    pub allow_plaintext: bool,
}

impl Settings {
    /// The file of the embedded registry.
    pub fn file(&self) -> PathBuf {
        self.data_dir.join("polypool.db")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("polypool-data"),
            cache_for: Duration::from_mins(1),
            unknown_for: Duration::from_secs(2),
            cache_entries_max: 10_000,
            allow_plaintext: false,
        }
    }
}
