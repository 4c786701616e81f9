//! The keys that seal: newest first, the others only open.

use std::{fmt, fs, io, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::{CryptoError, Secret, random_bytes};

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Characters of a key's id at most: it is written into every sealed text.
const KEY_ID_MAX: usize = 32;
/// People paste keys with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The encryption keys; the first seals, all open.
///
/// # Invariants
/// At least one key; ids are unique; never printed.
pub struct Keyring {
    newest: Key,
    older: Vec<Key>,
}

struct Key {
    id: String,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl Keyring {
    /// Reads `id:base64 of 32 bytes`, comma separated, newest first.
    ///
    /// # Errors
    /// Names the entry that is wrong, never its text.
    pub fn parse(text: &str) -> Result<Self, CryptoError> {
        let mut keys: Vec<Key> = Vec::new();
        for (index, entry) in text.trim().split(',').enumerate() {
            let bad = |why| CryptoError::BadKeys {
                position: index + 1,
                why,
            };
            let key = Key::parse(entry.trim()).map_err(bad)?;
            if keys.iter().any(|known| known.id == key.id) {
                return Err(bad("its id occurs twice"));
            }
            keys.push(key);
        }
        let mut keys = keys.into_iter();
        let newest = keys.next().ok_or(CryptoError::BadKeys {
            position: 1,
            why: "there is none",
        })?;
        Ok(Self {
            newest,
            older: keys.collect(),
        })
    }

    /// Reads the key file, or makes it with one fresh key and mode 0600. Tells whether it was made.
    ///
    /// # Errors
    /// When the file cannot be read, made, or does not hold keys.
    pub fn load_or_create(path: &Path) -> Result<(Self, bool), CryptoError> {
        let fault = |source| CryptoError::KeyFile {
            path: path.to_owned(),
            source,
        };
        match fs::read_to_string(path) {
            Ok(text) => Ok((Self::parse(&Zeroizing::new(text))?, false)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = fresh_key()?;
                create_private(path, text.expose().as_bytes()).map_err(fault)?;
                Ok((Self::parse(text.expose())?, true))
            }
            Err(error) => Err(fault(error)),
        }
    }

    /// The id of the key that seals.
    pub fn newest_id(&self) -> &str {
        &self.newest.id
    }

    pub(super) fn newest(&self) -> (&str, &[u8; KEY_BYTES]) {
        (&self.newest.id, &self.newest.bytes)
    }

    pub(super) fn key(&self, id: &str) -> Option<&[u8; KEY_BYTES]> {
        std::iter::once(&self.newest)
            .chain(&self.older)
            .find(|key| key.id == id)
            .map(|key| &*key.bytes)
    }

    /// A key for another purpose than sealing, the same after every restart as long as the oldest
    /// key stays in the ring.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; KEY_BYTES]> {
        let root = self.older.last().unwrap_or(&self.newest);
        // HMAC's own key is one block of 64 bytes; a shorter one is padded with zeros (RFC 2104).
        let mut block = Zeroizing::new([0; 64]);
        for (to, from) in block.iter_mut().zip(root.bytes.iter()) {
            *to = *from;
        }
        let mut mac = <Hmac<Sha256> as KeyInit>::new((&*block).into());
        mac.update(b"polypool/derive/");
        mac.update(purpose.as_bytes());
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Keyring(newest {}, {} older)",
            self.newest.id,
            self.older.len()
        )
    }
}

impl Key {
    fn parse(entry: &str) -> Result<Self, &'static str> {
        let (id, encoded) = entry.split_once(':').ok_or("it has no ':'")?;
        let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        if id.is_empty() || id.len() > KEY_ID_MAX || !id.chars().all(plain) {
            return Err("its id is not 1 to 32 letters, digits, '-' or '_'");
        }
        let mut decoded = Zeroizing::new(BASE64.decode(encoded).map_err(|_| "it is not base64")?);
        let bytes = <[u8; KEY_BYTES]>::try_from(decoded.as_slice())
            .map_err(|_| "it does not decode to 32 bytes")?;
        decoded.zeroize();
        Ok(Self {
            id: id.to_owned(),
            bytes: Zeroizing::new(bytes),
        })
    }
}

/// A fresh key in the form that [`Keyring::parse`] reads, with a random id.
fn fresh_key() -> Result<Secret, CryptoError> {
    let bytes = Zeroizing::new(random_bytes::<KEY_BYTES>()?);
    let id = super::random_label()?;
    let encoded = Zeroizing::new(BASE64.encode(*bytes));
    Ok(Secret::from(format!("k-{id}:{}\n", &*encoded)))
}

/// Makes a file that only its owner can read; fails when it is there already.
pub(crate) fn create_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const ONE: &str = "a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn first_key_seals_and_all_are_found() {
        let two = format!("b:{}, {ONE}", "/".repeat(42) + "8");
        let ring = Keyring::parse(&two).unwrap();
        assert_eq!(ring.newest_id(), "b");
        assert!(ring.key("a").is_some() && ring.key("c").is_none());
    }

    #[test]
    fn wrong_keys_are_named_by_position_only() {
        for bad in ["", "a", "a:!!", "a:AAEC", "ä:AAAA", ":AAAA"] {
            let error = Keyring::parse(&format!("{ONE},{bad}")).unwrap_err();
            assert!(
                matches!(error, CryptoError::BadKeys { position: 2, .. }),
                "{bad}"
            );
        }
        assert!(Keyring::parse(&format!("{ONE},{ONE}")).is_err());
    }

    #[test]
    fn derived_keys_differ_by_purpose_and_survive_rotation() {
        let old = Keyring::parse(ONE).unwrap();
        let rotated = Keyring::parse(&format!("b:{},{ONE}", "/".repeat(42) + "8")).unwrap();
        assert_eq!(old.derive("salt"), rotated.derive("salt"));
        assert_ne!(old.derive("salt"), old.derive("mock"));
    }

    #[test]
    fn key_file_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encryption.key");
        let (first, made) = Keyring::load_or_create(&path).unwrap();
        assert!(made);
        let (second, made) = Keyring::load_or_create(&path).unwrap();
        assert!(!made);
        assert_eq!(first.newest().1, second.newest().1);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let shown = format!("{first:?}");
        let text = fs::read_to_string(&path).unwrap();
        assert!(!shown.contains(text.trim().split_once(':').unwrap().1));
    }
}
