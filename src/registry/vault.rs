//! The one place that opens and seals connection strings.

use uuid::Uuid;

use crate::{
    crypto::{self, CryptoError, Keyring, Secret},
    tenant::{DatabaseType, Target},
};

/// The passphrases of ciphertexts that crypto-js made, by type; the first is the fallback.
#[derive(Debug, Default)]
pub struct Passphrases {
    /// `PG_META_CRYPTO_KEY`.
    pub postgres: Option<Secret>,
    /// `REDIS_CRYPTO_KEY`.
    pub redis: Option<Secret>,
    /// `MONGODB_CRYPTO_KEY`.
    pub mongodb: Option<Secret>,
}

/// The keys and rules by which stored connection strings are read.
#[derive(Debug)]
pub struct Vault {
    keyring: Keyring,
    passphrases: Passphrases,
    /// Whether rows with clear text, as older Studios wrote them, are read.
    plaintext_allowed: bool,
}

impl Vault {
    /// A vault that seals under the keyring's newest key.
    pub const fn new(keyring: Keyring, passphrases: Passphrases, plaintext_allowed: bool) -> Self {
        Self {
            keyring,
            passphrases,
            plaintext_allowed,
        }
    }

    pub(super) const fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    pub(super) fn seal(&self, row: Uuid, plain: &Secret) -> Result<String, CryptoError> {
        crypto::seal(&self.keyring, row, plain)
    }

    /// Opens the connection string of a row and parses it.
    ///
    /// # Errors
    /// [`CryptoError::Undecryptable`] also when what comes out is no URL of the row's type: in the
    /// legacy format that is the only sign of a wrong passphrase.
    pub(super) fn open(
        &self,
        row: Uuid,
        kind: DatabaseType,
        stored: &str,
    ) -> Result<Target, CryptoError> {
        if crypto::is_sealed(stored) {
            let plain = crypto::open(&self.keyring, row, stored)?;
            return parse(kind, &plain).ok_or(CryptoError::Undecryptable);
        }
        if crypto::is_legacy(stored) {
            return self
                .passphrases_of(kind)
                .filter_map(|passphrase| crypto::open_legacy(passphrase, stored).ok())
                .find_map(|plain| parse(kind, &plain))
                .ok_or(CryptoError::Undecryptable);
        }
        if self.plaintext_allowed {
            let plain = Secret::from(stored.to_owned());
            if let Some(target) = parse(kind, &plain) {
                tracing::warn!(database = %row, "the connection string is stored in clear text");
                return Ok(target);
            }
        }
        Err(CryptoError::Undecryptable)
    }

    fn passphrases_of(&self, kind: DatabaseType) -> impl Iterator<Item = &Secret> {
        let own = match kind {
            DatabaseType::Postgres | DatabaseType::BunApi => None,
            DatabaseType::Redis => self.passphrases.redis.as_ref(),
            DatabaseType::Mongodb => self.passphrases.mongodb.as_ref(),
        };
        own.into_iter().chain(&self.passphrases.postgres)
    }
}

fn parse(kind: DatabaseType, plain: &Secret) -> Option<Target> {
    Target::parse(plain.expose())
        .ok()
        .filter(|target| target.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    /// "redis url with db number" of the corpus.
    const LEGACY: &str = "U2FsdGVkX1/q8tbWOMrLBJ4MRTwWEgvrsztBqDTJSoo6qk9G6HwUhhreahuYok0DCL47R95/hEhevxahFIT/CL0EsZLZwxh1IjwgabyVg+w=";

    fn vault(redis: &str, postgres: &str) -> Vault {
        let passphrases = Passphrases {
            postgres: Some(Secret::from(postgres.to_owned())),
            redis: Some(Secret::from(redis.to_owned())),
            mongodb: None,
        };
        Vault::new(Keyring::parse(KEY).unwrap(), passphrases, false)
    }

    #[test]
    fn legacy_text_opens_by_its_type_or_the_fallback() {
        let right = "your-32-char-encryption-key";
        for vault in [vault(right, "other"), vault("other", right)] {
            let target = vault
                .open(Uuid::nil(), DatabaseType::Redis, LEGACY)
                .unwrap();
            assert_eq!(target.database.as_deref(), Some("0"));
        }
        let wrong = vault("other", "another");
        assert!(
            wrong
                .open(Uuid::nil(), DatabaseType::Redis, LEGACY)
                .is_err()
        );
        assert!(
            vault(right, "x")
                .open(Uuid::nil(), DatabaseType::Mongodb, LEGACY)
                .is_err()
        );
    }

    #[test]
    fn clear_text_opens_only_where_allowed() {
        let text = "redis://h";
        assert!(
            vault("a", "b")
                .open(Uuid::nil(), DatabaseType::Redis, text)
                .is_err()
        );
        let lax = Vault::new(Keyring::parse(KEY).unwrap(), Passphrases::default(), true);
        assert!(lax.open(Uuid::nil(), DatabaseType::Redis, text).is_ok());
        assert!(lax.open(Uuid::nil(), DatabaseType::Postgres, text).is_err());
    }
}
