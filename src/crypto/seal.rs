//! Sealing: `v1.<key id>.<nonce>.<ciphertext and tag>`, AES-256-GCM, base64url without padding.
//!
//! The id of the row is the associated data, so that a sealed text moved to another row does not
//! open there.

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::{CryptoError, Keyring, Secret, random_bytes};

/// Bytes of a nonce; random, which is safe for 2^32 seals under one key.
const NONCE_BYTES: usize = 12;
const VERSION: &str = "v1";

/// Seals a secret for the row of this id, under the newest key.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn seal(keyring: &Keyring, row: Uuid, plain: &Secret) -> Result<String, CryptoError> {
    let (key_id, key) = keyring.newest();
    let nonce = random_bytes::<NONCE_BYTES>()?;
    let payload = Payload {
        msg: plain.expose().as_bytes(),
        aad: row.as_bytes(),
    };
    let sealed = Aes256Gcm::new(key.into())
        .encrypt(&nonce.into(), payload)
        .map_err(|_| CryptoError::Undecryptable)?;
    Ok(format!(
        "{VERSION}.{key_id}.{}.{}",
        URL_SAFE_NO_PAD.encode(nonce),
        URL_SAFE_NO_PAD.encode(sealed)
    ))
}

/// Opens what [`seal`] made for the row of this id.
///
/// # Errors
/// [`CryptoError::UnknownKey`] when the key is gone, else [`CryptoError::Undecryptable`].
pub fn open(keyring: &Keyring, row: Uuid, sealed: &str) -> Result<Secret, CryptoError> {
    let (key_id, nonce, ciphertext) = split(sealed).ok_or(CryptoError::Undecryptable)?;
    let key = keyring
        .key(key_id)
        .ok_or_else(|| CryptoError::UnknownKey(key_id.to_owned()))?;
    let decode = |text| {
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| CryptoError::Undecryptable)
    };
    let nonce = <[u8; NONCE_BYTES]>::try_from(decode(nonce)?.as_slice())
        .map_err(|_| CryptoError::Undecryptable)?;
    let ciphertext = decode(ciphertext)?;
    let payload = Payload {
        msg: &ciphertext,
        aad: row.as_bytes(),
    };
    let plain = Aes256Gcm::new(key.into())
        .decrypt(&nonce.into(), payload)
        .map_err(|_| CryptoError::Undecryptable)?;
    String::from_utf8(plain)
        .map(Secret::from)
        .map_err(|_| CryptoError::Undecryptable)
}

/// Whether a stored text is of this form.
pub fn is_sealed(stored: &str) -> bool {
    split(stored).is_some()
}

/// The id of the key that a stored text was sealed under.
pub fn sealed_under(stored: &str) -> Option<&str> {
    split(stored).map(|(key_id, ..)| key_id)
}

fn split(stored: &str) -> Option<(&str, &str, &str)> {
    let mut parts = stored.split('.');
    let found = match (parts.next()?, parts.next()?, parts.next()?, parts.next()?) {
        (VERSION, key_id, nonce, ciphertext) => (key_id, nonce, ciphertext),
        _ => return None,
    };
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(id: &str, fill: char) -> Keyring {
        Keyring::parse(&format!("{id}:{}8=", fill.to_string().repeat(42))).unwrap()
    }

    #[test]
    fn sealed_text_opens_for_its_row_only() {
        let keys = ring("k1", 'A');
        let row = Uuid::from_u128(7);
        let sealed = seal(&keys, row, &Secret::from("redis://:canary@h".to_owned())).unwrap();
        assert!(sealed.starts_with("v1.k1.") && !sealed.contains("canary"));
        assert_eq!(
            open(&keys, row, &sealed).unwrap().expose(),
            "redis://:canary@h"
        );
        assert!(open(&keys, Uuid::from_u128(8), &sealed).is_err());
        assert!(matches!(
            open(&ring("k2", 'A'), row, &sealed),
            Err(CryptoError::UnknownKey(_))
        ));
        assert!(matches!(
            open(&ring("k1", 'B'), row, &sealed),
            Err(CryptoError::Undecryptable)
        ));
    }

    #[test]
    fn any_changed_character_keeps_it_shut() {
        let keys = ring("k1", 'A');
        let row = Uuid::from_u128(7);
        let sealed = seal(&keys, row, &Secret::from("x".repeat(26))).unwrap();
        for at in 0..sealed.len() {
            let mut other = sealed.clone().into_bytes();
            other[at] = if other[at] == b'Q' { b'g' } else { b'Q' };
            assert!(
                open(&keys, row, &String::from_utf8(other).unwrap()).is_err(),
                "at {at}"
            );
        }
        assert!(open(&keys, row, "v1.k1.AAAA").is_err());
        assert!(open(&keys, row, &format!("{sealed}.x")).is_err());
    }
}
