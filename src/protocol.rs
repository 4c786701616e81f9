//! Which wire protocol is meant: the closed set every label, table and setting is keyed by.
//!
//! Nothing here knows how a protocol works; that is in `postgres`, `redis` and `mongodb`.

use std::fmt;

/// One of the wire protocols that clients speak to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// PostgreSQL's frontend/backend protocol, version 3.
    Postgres,
    /// Redis' RESP2 and RESP3.
    Redis,
    /// MongoDB's wire protocol (`OP_MSG` and the legacy hello).
    Mongodb,
}

impl Protocol {
    /// Every protocol, in the order in which listeners are opened.
    pub const ALL: [Self; 3] = [Self::Postgres, Self::Redis, Self::Mongodb];

    /// The name used in metrics, logs, the registry and settings.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Mongodb => "mongodb",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
