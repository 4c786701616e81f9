//! Reading what crypto-js wrote: OpenSSL's salted format with MD5 key derivation and AES-256-CBC.
//!
//! The format has no authentication: a wrong passphrase shows only in padding and UTF-8, and passes
//! both for about one text in tens of thousands. Callers must also check that the text is a URL of
//! the row's type. Nothing is ever written in this format.

use aes::Aes256;
use base64::{Engine, engine::general_purpose::STANDARD};
use cbc::{
    Decryptor,
    cipher::{BlockModeDecrypt, KeyIvInit, block_padding::NoPadding},
};
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::{CryptoError, Secret};

const MAGIC: &[u8] = b"Salted__";
/// How every such text begins: the magic in base64.
const PREFIX: &str = "U2FsdGVkX1";
const SALT_BYTES: usize = 8;
const BLOCK_BYTES: usize = 16;

/// Whether a stored text is of this form.
pub fn is_legacy(stored: &str) -> bool {
    stored.trim_start().starts_with(PREFIX)
}

/// Opens a text that `CryptoJS.AES.encrypt(text, passphrase)` made. The passphrase is used as text,
/// even where it looks like hexadecimal digits.
///
/// # Errors
/// Always [`CryptoError::Undecryptable`]: no oracle.
pub fn open_legacy(passphrase: &Secret, stored: &str) -> Result<Secret, CryptoError> {
    decrypt(passphrase.expose().as_bytes(), stored).ok_or(CryptoError::Undecryptable)
}

fn decrypt(passphrase: &[u8], stored: &str) -> Option<Secret> {
    let packed: String = stored
        .chars()
        .filter(|letter| !letter.is_ascii_whitespace())
        .collect();
    let raw = STANDARD.decode(packed).ok()?;
    let (salt, ciphertext) = raw.strip_prefix(MAGIC)?.split_at_checked(SALT_BYTES)?;
    if ciphertext.is_empty() || !ciphertext.len().is_multiple_of(BLOCK_BYTES) {
        return None;
    }
    let derived = derive(passphrase, salt);
    let (key, iv) = derived.split_at_checked(32)?;
    let cipher = Decryptor::<Aes256>::new_from_slices(key, iv).ok()?;
    let mut plain = Zeroizing::new(ciphertext.to_vec());
    cipher.decrypt_padded::<NoPadding>(&mut plain).ok()?;
    let text = std::str::from_utf8(unpad(&plain)?).ok()?;
    Some(Secret::from(text.to_owned()))
}

/// `EVP_BytesToKey` with MD5 and one round: 32 bytes of key, 16 of initialisation vector.
fn derive(passphrase: &[u8], salt: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(48));
    let mut last: Zeroizing<Vec<u8>> = Zeroizing::new(Vec::new());
    for _ in 0..3 {
        let mut digest = Md5::new();
        digest.update(&*last);
        digest.update(passphrase);
        digest.update(salt);
        last = Zeroizing::new(digest.finalize().to_vec());
        out.extend_from_slice(&last);
    }
    out
}

/// PKCS#7, strictly: every byte of the padding counts.
fn unpad(plain: &[u8]) -> Option<&[u8]> {
    let count = usize::from(*plain.last()?);
    if count == 0 || count > BLOCK_BYTES {
        return None;
    }
    let (text, padding) = plain.split_at_checked(plain.len().checked_sub(count)?)?;
    padding
        .iter()
        .all(|byte| usize::from(*byte) == count)
        .then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../tests/corpus/cryptojs.json")).unwrap()
    }

    fn field<'a>(vector: &'a Value, name: &str) -> &'a str {
        vector[name].as_str().unwrap()
    }

    #[test]
    fn every_text_of_crypto_js_opens() {
        let vectors = vectors();
        for vector in vectors["positive"].as_array().unwrap() {
            let passphrase = Secret::from(field(vector, "passphrase").to_owned());
            let ciphertext = field(vector, "ciphertext");
            assert!(is_legacy(ciphertext));
            let opened = open_legacy(&passphrase, ciphertext).unwrap();
            assert_eq!(
                opened.expose(),
                field(vector, "plaintext"),
                "{}",
                field(vector, "name")
            );
        }
    }

    #[test]
    fn what_must_be_refused_is_and_line_breaks_are_not() {
        let vectors = vectors();
        for vector in vectors["must_refuse"].as_array().unwrap() {
            let passphrase = Secret::from(field(vector, "passphrase").to_owned());
            let outcome = open_legacy(&passphrase, field(vector, "ciphertext"));
            let accept = field(vector, "gateway_must").starts_with("accept: ");
            assert_eq!(outcome.is_ok(), accept, "{}", field(vector, "name"));
        }
    }

    #[test]
    fn wrong_passphrases_give_no_url() {
        let vectors = vectors();
        let ciphertext = field(&vectors["positive"][4], "ciphertext");
        for attempt in 0..2000 {
            let passphrase = Secret::from(format!("wrong {attempt}"));
            if let Ok(text) = open_legacy(&passphrase, ciphertext) {
                assert!(!text.expose().contains("://"));
            }
        }
    }
}
