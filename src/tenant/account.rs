//! Who may use a tenant, and for what.

use std::fmt;

use super::{CredentialId, ScramVerifier};
use crate::crypto::Secret;

/// What a login may do, enforced at the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads only.
    Read,
    /// All data commands.
    Write,
    /// Also what the policy lists as dangerous.
    Admin,
}

impl Role {
    /// The name used in the registry, the API and the command line.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "read" => Some(Self::Read),
            "write" => Some(Self::Write),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A user that exists: an issued credential, or the upstream's own user.
#[derive(Debug, Clone)]
pub struct Account {
    /// The user's name, without the tenant part of the login.
    pub user: String,
    /// What it may do.
    pub role: Role,
    /// What proves it.
    pub verifier: ScramVerifier,
    /// The issued credential, or `None` for the upstream's own user.
    pub credential: Option<CredentialId>,
    /// The password in clear, known only of the upstream's own user.
    pub password: Option<Secret>,
}
