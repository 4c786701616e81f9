//! Rendering the replies that are ours, in the client's version of the protocol.

use bytes::{BufMut, BytesMut};

/// A nil that is an array in RESP2, such as the timeout of a blocking pop.
pub(in crate::redis) const NULL_ARRAY: [&[u8]; 2] = [b"*-1\r\n", b"_\r\n"];

/// The version of RESP that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(in crate::redis) enum Version {
    /// What every connection begins with.
    #[default]
    Resp2,
    /// With maps, sets, doubles and pushes.
    Resp3,
}

impl Version {
    /// The number that `HELLO` takes.
    pub(in crate::redis) const fn number(self) -> u8 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }

    /// One of two, by version.
    pub(in crate::redis) const fn pick<T: Copy>(self, choices: [T; 2]) -> T {
        let [two, three] = choices;
        match self {
            Self::Resp2 => two,
            Self::Resp3 => three,
        }
    }
}

/// `+text`.
pub(in crate::redis) fn simple(out: &mut BytesMut, text: &str) {
    line(out, b'+', text.as_bytes());
}

/// `:value`.
pub(in crate::redis) fn integer(out: &mut BytesMut, value: u64) {
    line(out, b':', value.to_string().as_bytes());
}

/// `$length`, the bytes.
pub(in crate::redis) fn bulk(out: &mut BytesMut, bytes: &[u8]) {
    line(out, b'$', bytes.len().to_string().as_bytes());
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

/// A text for people: verbatim in RESP3.
pub(in crate::redis) fn verbatim(out: &mut BytesMut, version: Version, text: &str) {
    match version {
        Version::Resp2 => bulk(out, text.as_bytes()),
        Version::Resp3 => {
            line(out, b'=', (text.len() + 4).to_string().as_bytes());
            out.put_slice(b"txt:");
            out.put_slice(text.as_bytes());
            out.put_slice(b"\r\n");
        }
    }
}

/// The head of a set, which RESP2 has as an array.
pub(in crate::redis) fn set(out: &mut BytesMut, version: Version, elements: usize) {
    line(
        out,
        version.pick([b'*', b'~']),
        elements.to_string().as_bytes(),
    );
}

/// The head of an array.
pub(in crate::redis) fn array(out: &mut BytesMut, elements: usize) {
    line(out, b'*', elements.to_string().as_bytes());
}

/// The head of a map: a flat array in RESP2.
pub(in crate::redis) fn map(out: &mut BytesMut, version: Version, pairs: usize) {
    match version {
        Version::Resp2 => array(out, pairs * 2),
        Version::Resp3 => line(out, b'%', pairs.to_string().as_bytes()),
    }
}

/// The head of a push: an array in RESP2.
pub(in crate::redis) fn push(out: &mut BytesMut, version: Version, elements: usize) {
    let kind = version.pick([b'*', b'>']);
    line(out, kind, elements.to_string().as_bytes());
}

/// A command as a RESP array.
pub(in crate::redis) fn encode_command<W: AsRef<[u8]>>(out: &mut impl BufMut, words: &[W]) {
    out.put_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        let word = word.as_ref();
        out.put_slice(format!("${}\r\n", word.len()).as_bytes());
        out.put_slice(word);
        out.put_slice(b"\r\n");
    }
}

fn line(out: &mut BytesMut, kind: u8, text: &[u8]) {
    out.reserve(text.len() + 3);
    out.put_u8(kind);
    out.put_slice(text);
    out.put_slice(b"\r\n");
}
