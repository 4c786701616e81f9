//! What can go wrong, classified: who is to blame, how it is counted, and what a client may hear.
//!
//! [`Fault`] is for us (logs and metrics); [`Refusal`] is the closed list of things a client may be
//! told. Each protocol words a refusal in its own `refusal.rs`, and nowhere else. `Fault` is not
//! implemented for `anyhow::Error` on purpose: an unclassified error must not reach a session.

use std::{fmt, time::Duration};

/// On whose side a fault lies: whom an operator should talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The application, or the network between it and us.
    Client,
    /// The tenant's database, or the network between us and it.
    Upstream,
    /// polypool itself, or what it depends on.
    Gateway,
}

impl Side {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Gateway => "gateway",
        }
    }
}

/// The kind of a fault: a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The client broke its protocol.
    Malformed,
    /// The client asked for what is not offered.
    Unsupported,
    /// Login failed.
    Credentials,
    /// A role or policy forbids it.
    Permission,
    /// A bound was reached: clients, queue, size, rate.
    Limit,
    /// Something took longer than its deadline.
    Timeout,
    /// The peer went away.
    Disconnect,
    /// The upstream cannot be reached, or was lost.
    Upstream,
    /// The registry cannot be read.
    Registry,
    /// The gateway is shutting down.
    Draining,
    /// A bug of ours.
    Internal,
}

impl FaultKind {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::Credentials => "credentials",
            Self::Permission => "permission",
            Self::Limit => "limit",
            Self::Timeout => "timeout",
            Self::Disconnect => "disconnect",
            Self::Upstream => "upstream",
            Self::Registry => "registry",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }
}

/// An error that knows how it is counted and on whose side it lies.
pub trait Fault: std::error::Error {
    /// The kind, for metrics.
    fn kind(&self) -> FaultKind;
    /// The side, for metrics and for whoever reads the log.
    fn side(&self) -> Side;
}

/// Something a client may be told, in no protocol's words yet.
///
/// # Invariants
/// Holds no secret, no name of another tenant, and no address of an upstream's host beyond what the
/// tenant itself registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Unknown tenant, unknown user or wrong password: one answer for the three.
    LoginRejected,
    /// Too many failed logins from this address or for this tenant.
    LoginThrottled {
        /// When it makes sense to try again.
        retry_after: Duration,
    },
    /// The login names a project that has several databases of this type.
    TenantAmbiguous {
        /// The names it could mean; told to a proven login only.
        names: Vec<String>,
    },
    /// Two signals (login, server name, option) name different tenants.
    TenantContradiction {
        /// What the first signal says.
        first: String,
        /// What the second signal says.
        second: String,
    },
    /// The client has not logged in yet.
    LoginRequired,
    /// The connection limit of the gateway or the tenant is reached.
    TooManyClients {
        /// The limit.
        max: usize,
    },
    /// The tenant's queue for an upstream is full.
    QueueFull {
        /// The bound of the queue.
        max: usize,
    },
    /// No upstream became free in time.
    QueueTimeout {
        /// How long the client waited.
        waited: Duration,
    },
    /// The upstream cannot be reached or refuses us.
    UpstreamDown {
        /// Why, in words fit for the tenant.
        cause: String,
    },
    /// The upstream was lost while the client's operation was under way.
    UpstreamLost {
        /// Whether the operation may have taken effect.
        effect: Effect,
    },
    /// The tenant is paused by an operator.
    Paused,
    /// The gateway is shutting down.
    Draining,
    /// The registry cannot be read and the tenant is not in its cache.
    RegistryDown,
    /// A frame is larger than the limit.
    FrameTooLarge {
        /// The announced size in bytes.
        bytes: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The client's bytes are not the protocol.
    Malformed {
        /// What is wrong with them.
        what: &'static str,
    },
    /// A capability that is not offered here.
    Unsupported {
        /// Its name, as the client would know it.
        what: String,
    },
    /// The credential's role or the tenant's policy forbids it.
    NotPermitted {
        /// The command or operation.
        what: String,
    },
    /// Something took longer than its limit.
    TimedOut {
        /// What did.
        what: &'static str,
    },
    /// A bug of ours; the log has the rest.
    Internal,
}

/// What is known of an operation whose upstream was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It was never sent.
    None,
    /// It was sent; nobody knows whether it ran.
    Unknown,
}

impl Refusal {
    /// The kind under which this refusal is counted.
    pub const fn kind(&self) -> FaultKind {
        match self {
            Self::LoginRejected | Self::LoginThrottled { .. } | Self::LoginRequired => {
                FaultKind::Credentials
            }
            Self::TenantAmbiguous { .. }
            | Self::TenantContradiction { .. }
            | Self::Malformed { .. } => FaultKind::Malformed,
            Self::TooManyClients { .. } | Self::QueueFull { .. } | Self::FrameTooLarge { .. } => {
                FaultKind::Limit
            }
            Self::QueueTimeout { .. } | Self::TimedOut { .. } => FaultKind::Timeout,
            Self::UpstreamDown { .. } | Self::UpstreamLost { .. } => FaultKind::Upstream,
            Self::Paused | Self::Draining => FaultKind::Draining,
            Self::RegistryDown => FaultKind::Registry,
            Self::Unsupported { .. } => FaultKind::Unsupported,
            Self::NotPermitted { .. } => FaultKind::Permission,
            Self::Internal => FaultKind::Internal,
        }
    }

    /// The side on which the cause lies.
    pub const fn side(&self) -> Side {
        match self {
            Self::LoginRejected
            | Self::LoginThrottled { .. }
            | Self::LoginRequired
            | Self::TenantAmbiguous { .. }
            | Self::TenantContradiction { .. }
            | Self::FrameTooLarge { .. }
            | Self::Malformed { .. }
            | Self::Unsupported { .. }
            | Self::NotPermitted { .. } => Side::Client,
            Self::UpstreamDown { .. } | Self::UpstreamLost { .. } => Side::Upstream,
            Self::TooManyClients { .. }
            | Self::QueueFull { .. }
            | Self::QueueTimeout { .. }
            | Self::Paused
            | Self::Draining
            | Self::RegistryDown
            | Self::TimedOut { .. }
            | Self::Internal => Side::Gateway,
        }
    }
}

/// The plain sentence that protocols build their own message from.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoginRejected => f.write_str("invalid user name or password"),
            Self::LoginThrottled { retry_after } => write!(
                f,
                "too many failed logins; try again in {} s",
                retry_after.as_secs().max(1)
            ),
            Self::TenantAmbiguous { names } => write!(
                f,
                "the project has several databases of this type; name one of: {}",
                names.join(", ")
            ),
            Self::TenantContradiction { first, second } => {
                write!(
                    f,
                    "the connection names two databases: {first} and {second}"
                )
            }
            Self::LoginRequired => f.write_str("authentication required"),
            Self::TooManyClients { max } => {
                write!(f, "max number of clients reached (limit {max})")
            }
            Self::QueueFull { max } => {
                write!(
                    f,
                    "too many clients wait for an upstream connection (limit {max})"
                )
            }
            Self::QueueTimeout { waited } => write!(
                f,
                "no upstream connection became free within {} ms",
                waited.as_millis()
            ),
            Self::UpstreamDown { cause } => write!(f, "the database cannot be reached: {cause}"),
            Self::UpstreamLost {
                effect: Effect::None,
            } => {
                f.write_str("the connection to the database was lost before the operation was sent")
            }
            Self::UpstreamLost {
                effect: Effect::Unknown,
            } => f.write_str(
                "the connection to the database was lost; the operation may have taken effect",
            ),
            Self::Paused => f.write_str("the database is paused by an operator"),
            Self::Draining => f.write_str("the gateway is shutting down"),
            Self::RegistryDown => f.write_str("the registry of databases cannot be read"),
            Self::FrameTooLarge { bytes, max } => {
                write!(f, "message of {bytes} bytes exceeds the limit of {max}")
            }
            Self::Malformed { what } => write!(f, "protocol error: {what}"),
            Self::Unsupported { what } => write!(f, "{what} is not supported by this gateway"),
            Self::NotPermitted { what } => write!(f, "not permitted: {what}"),
            Self::TimedOut { what } => write!(f, "timed out: {what}"),
            Self::Internal => f.write_str("internal error of the gateway"),
        }
    }
}
