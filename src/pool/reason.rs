//! Why upstreams are opened and closed: metric labels, closed sets.

/// Why an upstream is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenReason {
    /// A client waits for it.
    Demand,
    /// The pool keeps a minimum.
    IdleMin,
}

impl OpenReason {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::IdleMin => "idle_min",
        }
    }
}

/// Why an upstream is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Not used for long.
    Idle,
    /// Old enough.
    Lifetime,
    /// The registration changed.
    Retired,
    /// Another tenant needed the slot.
    Evicted,
    /// Found closed, or with stray bytes, while idle.
    Stale,
    /// The lease was dropped: the client left in the middle.
    Abandoned,
    /// Its state was beyond a reset.
    Dirty,
    /// The reset failed.
    ResetFailed,
    /// The upstream broke its protocol.
    ProtocolError,
    /// The connection failed.
    Lost,
    /// The gateway or the pool is shutting down.
    Draining,
}

impl CloseReason {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::Retired => "retired",
            Self::Evicted => "evicted",
            Self::Stale => "stale",
            Self::Abandoned => "abandoned",
            Self::Dirty => "dirty",
            Self::ResetFailed => "reset_failed",
            Self::ProtocolError => "protocol_error",
            Self::Lost => "lost",
            Self::Draining => "draining",
        }
    }
}
