//! Rows, opened: a database as a [`Tenant`] with its own user, a credential as an [`Account`].

use std::{fmt, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::sync::OnceCell;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    crypto::Secret,
    protocol::Protocol,
    tenant::{Account, Role, ScramVerifier, Tenant, TenantId, TenantLimits},
};

/// Iterations of the own user's verifier; the same as everywhere, so that it cannot be told apart.
const ITERATIONS: u32 = 4096;
/// Bytes of its salt, likewise.
const SALT_BYTES: usize = 28;
/// The user that Redis means when none is given.
const REDIS_DEFAULT_USER: &str = "default";

/// The limits that apply where a registration sets none.
#[derive(Debug, Clone, Copy)]
pub struct LimitDefaults {
    /// Of `PostgreSQL` databases.
    pub postgres: TenantLimits,
    /// Of Redis servers.
    pub redis: TenantLimits,
    /// Of `MongoDB` deployments.
    pub mongodb: TenantLimits,
}

impl LimitDefaults {
    /// The limits of a protocol.
    pub const fn of(&self, protocol: Protocol) -> TenantLimits {
        match protocol {
            Protocol::Postgres => self.postgres,
            Protocol::Redis => self.redis,
            Protocol::Mongodb => self.mongodb,
        }
    }
}

impl Default for LimitDefaults {
    fn default() -> Self {
        Self {
            postgres: TenantLimits::of(Protocol::Postgres),
            redis: TenantLimits::of(Protocol::Redis),
            mongodb: TenantLimits::of(Protocol::Mongodb),
        }
    }
}

/// A database that clients can be sent to.
pub(super) struct Record {
    pub(super) tenant: Arc<Tenant>,
    /// Whether the upstream's own user may log in.
    pub(super) own_user_allowed: bool,
    own: OnceCell<Option<ScramVerifier>>,
}

impl Record {
    pub(super) fn new(tenant: Tenant, own_user_allowed: bool) -> Self {
        Self {
            tenant: Arc::new(tenant),
            own_user_allowed,
            own: OnceCell::new(),
        }
    }

    pub(super) fn is(&self, id: Uuid, version: u64) -> bool {
        self.tenant.id.0 == id && self.tenant.generation.0 == version
    }

    /// The upstream's own user, if it is of that name and may log in.
    ///
    /// # Cancel safety
    /// Safe; an abandoned derivation is done again.
    pub(super) async fn own_account(
        &self,
        user: &str,
        salt_key: &Zeroizing<[u8; 32]>,
    ) -> Option<Account> {
        let password = self.tenant.target.password.as_ref()?;
        if !self.own_user_allowed || self.own_user()? != user {
            return None;
        }
        let verifier = self
            .own
            .get_or_init(|| derive(password.clone(), self.own_salt(user, salt_key)))
            .await
            .clone()?;
        Some(Account {
            user: user.to_owned(),
            // It could do anything by connecting directly.
            role: Role::Admin,
            verifier,
            credential: None,
            password: Some(password.clone()),
        })
    }

    fn own_user(&self) -> Option<&str> {
        match (&self.tenant.target.user, self.tenant.protocol) {
            (Some(user), _) => Some(user),
            (None, Protocol::Redis) => Some(REDIS_DEFAULT_USER),
            (None, Protocol::Postgres | Protocol::Mongodb) => None,
        }
    }

    /// The same after every restart and in every gateway of this keyring, so that clients may keep
    /// their salted password.
    fn own_salt(&self, user: &str, salt_key: &Zeroizing<[u8; 32]>) -> Vec<u8> {
        let mut block = Zeroizing::new([0; 64]);
        for (to, from) in block.iter_mut().zip(salt_key.iter()) {
            *to = *from;
        }
        let mut mac = <Hmac<Sha256> as KeyInit>::new((&*block).into());
        mac.update(self.tenant.id.0.as_bytes());
        mac.update(user.as_bytes());
        mac.finalize()
            .into_bytes()
            .into_iter()
            .take(SALT_BYTES)
            .collect()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Record({} {})",
            self.tenant.slug, self.tenant.generation.0
        )
    }
}

/// A millisecond of CPU, kept off the reactor.
async fn derive(password: Secret, salt: Vec<u8>) -> Option<ScramVerifier> {
    let work = move || ScramVerifier::derive_with(password.expose(), salt, ITERATIONS);
    tokio::task::spawn_blocking(work).await.ok()
}

/// An issued credential of a database, or of a whole project.
#[derive(Debug)]
pub(super) struct CredentialRecord {
    pub(super) account: Account,
    pub(super) database: Option<TenantId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_users_look_like_unknown_ones() {
        let mock = ScramVerifier::mock("x", &[0; 32]);
        assert_eq!((mock.iterations, mock.salt.len()), (ITERATIONS, SALT_BYTES));
    }
}
