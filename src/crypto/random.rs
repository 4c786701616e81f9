//! Randomness for keys, nonces and issued passwords.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::{CryptoError, Secret};

/// The letters of a public part: no separator, nothing that needs an escape in a URL.
const LABEL_LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// `N` random bytes.
///
/// # Errors
/// When the operating system has none to give.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| CryptoError::Randomness)?;
    Ok(bytes)
}

/// A secret text of 256 random bits: 43 characters of base64url.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn random_text() -> Result<Secret, CryptoError> {
    let bytes = Zeroizing::new(random_bytes::<32>()?);
    Ok(Secret::from(URL_SAFE_NO_PAD.encode(*bytes)))
}

/// A public text of 40 random bits: 8 lower-case letters and digits.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn random_label() -> Result<String, CryptoError> {
    let bytes = random_bytes::<8>()?;
    let letter = |byte: &u8| LABEL_LETTERS.get(usize::from(byte % 32)).copied();
    Ok(bytes.iter().filter_map(letter).map(char::from).collect())
}
