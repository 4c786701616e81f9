//! The hash of a certificate to which a login can be bound: `tls-server-end-point` of RFC 5929.

use sha2::{Digest, Sha256, Sha384, Sha512};

/// The hash that the certificate's own signature uses, as DER writes its algorithm; SHA-256 stands for the
/// weaker ones.
const ALGORITHMS: [(&[u8], Hash); 10] = [
    // 1.2.840.113549.1.1: RSA with MD5, SHA-1, SHA-256, SHA-384, SHA-512.
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04", Hash::Sha256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", Hash::Sha256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", Hash::Sha256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c", Hash::Sha384),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d", Hash::Sha512),
    // 1.2.840.10045.4: ECDSA with SHA-1, SHA-256, SHA-384, SHA-512.
    (b"\x2a\x86\x48\xce\x3d\x04\x01", Hash::Sha256),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x02", Hash::Sha256),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x03", Hash::Sha384),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x04", Hash::Sha512),
    // 2.16.840.1.101.3.4.3.2: DSA with SHA-256.
    (b"\x60\x86\x48\x01\x65\x03\x04\x03\x02", Hash::Sha256),
];

const SEQUENCE: u8 = 0x30;
const OBJECT_ID: u8 = 0x06;

#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// The certificate's hash; `None` for algorithms that define none (Ed25519) or name it elsewhere (RSA-PSS).
pub(super) fn hash(certificate: &[u8]) -> Option<Box<[u8]>> {
    let algorithm = signature_algorithm(certificate)?;
    let (_, hash) = ALGORITHMS.iter().find(|(id, _)| *id == algorithm)?;
    Some(match hash {
        Hash::Sha256 => Sha256::digest(certificate).as_slice().into(),
        Hash::Sha384 => Sha384::digest(certificate).as_slice().into(),
        Hash::Sha512 => Sha512::digest(certificate).as_slice().into(),
    })
}

/// `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { algorithm, … }, signature }`.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (inside, _) = element(certificate, SEQUENCE)?;
    let (_, rest) = element(inside, SEQUENCE)?;
    let (algorithm, _) = element(rest, SEQUENCE)?;
    Some(element(algorithm, OBJECT_ID)?.0)
}

/// The DER element at the head: what is in it, and what follows.
fn element(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.len() > 3 {
            return None;
        }
        let length = bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (length, rest)
    };
    (*tag == wanted).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate in outline: what is signed, the algorithm, the signature.
    fn outline(algorithm: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, inside: &[u8]| {
            let length = u8::try_from(inside.len()).unwrap();
            [&[tag, 0x81, length][..], inside].concat()
        };
        let signed = wrap(SEQUENCE, &[7; 130]);
        let algorithm = wrap(SEQUENCE, &wrap(OBJECT_ID, algorithm));
        wrap(SEQUENCE, &[signed, algorithm, vec![3, 1, 0]].concat())
    }

    #[test]
    fn hash_follows_the_signature() {
        let lengths = ALGORITHMS.map(|(id, _)| hash(&outline(id)).unwrap().len());
        assert_eq!(lengths, [32, 32, 32, 48, 64, 32, 32, 48, 64, 32]);
        let sha384 = outline(ALGORITHMS[3].0);
        assert_eq!(&*hash(&sha384).unwrap(), Sha384::digest(&sha384).as_slice());
        assert!(
            hash(&outline(b"\x2b\x65\x70")).is_none(),
            "Ed25519 has no hash"
        );
    }

    #[test]
    fn what_is_cut_off_has_none() {
        let whole = outline(ALGORITHMS[2].0);
        assert!((0..whole.len()).all(|end| hash(&whole[..end]).is_none()));
        assert!(hash(b"\x30\x84\xff\xff\xff\xff").is_none());
    }
}
