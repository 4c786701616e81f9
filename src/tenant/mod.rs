//! The nouns of a registered database: who it is, where it is, what bounds it, who may use it.
//!
//! No I/O and no storage here; `registry` makes these, everybody above reads them.

mod account;
mod attrs;
mod id;
mod limits;
mod target;
mod tls;
mod verifier;

pub use account::{Account, Role};
pub use attrs::{Balance, SessionAttrs};
pub use id::{CredentialId, Generation, TenantId};
pub use limits::{PoolMode, TenantLimits, Timeouts};
pub use target::{DatabaseType, Endpoint, Sentinel, Target, TargetError};
pub use tls::TlsMode;
pub use verifier::ScramVerifier;
pub(crate) use verifier::{hmac, salted_password};

use crate::protocol::Protocol;

/// One registered database, as sessions and pools use it.
///
/// Cheap to share (`Arc<Tenant>`); a changed registration makes a new one with another
/// [`Generation`], and pools retire the connections of the old.
#[derive(Debug)]
pub struct Tenant {
    /// The row's id: the key of its pool.
    pub id: TenantId,
    /// The `ref` of the project that owns it.
    pub project: String,
    /// Its name within the project.
    pub name: String,
    /// Its name within the gateway, a DNS label.
    pub slug: String,
    /// The protocol that it speaks.
    pub protocol: Protocol,
    /// Where it is and how to log in there.
    pub target: Target,
    /// What bounds its use.
    pub limits: TenantLimits,
    /// Which version of the registration this is.
    pub generation: Generation,
}
