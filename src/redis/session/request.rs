//! One command with its words copied, for everything but the hot path.

use bytes::{Bytes, BytesMut};

use crate::redis::wire::{self, Decoder};

/// A command.
pub(super) struct Request {
    /// The words; the first is the name.
    pub(super) words: Vec<Bytes>,
    /// Its length in the buffer.
    pub(super) bytes: usize,
}

impl Request {
    /// Copies the command just decoded.
    pub(super) fn read(decoder: &Decoder, buffer: &[u8], bytes: usize) -> Self {
        let words = (0..decoder.len()).map(|at| Bytes::copy_from_slice(decoder.arg(buffer, at)));
        Self {
            words: words.collect(),
            bytes,
        }
    }

    /// The name as sent.
    pub(super) fn name(&self) -> &[u8] {
        self.word(0)
    }

    /// The word at that place; empty beyond the last.
    pub(super) fn word(&self, at: usize) -> &[u8] {
        self.words.get(at).map(Bytes::as_ref).unwrap_or_default()
    }

    /// The word after the name.
    pub(super) fn second(&self) -> Option<&[u8]> {
        self.words.get(1).map(Bytes::as_ref)
    }

    /// The words after the name.
    pub(super) fn args(&self) -> impl Iterator<Item = &[u8]> {
        self.words.iter().skip(1).map(Bytes::as_ref)
    }

    /// As a RESP array.
    pub(super) fn encoded(&self) -> Bytes {
        let mut out = BytesMut::new();
        wire::encode_command(&mut out, &self.words);
        out.freeze()
    }

    /// Whether a stream may be read with the option to wait for more.
    pub(super) fn has_block(&self) -> bool {
        // It may as well be the name of a key or a group; that costs a lease. An option that was
        // missed would hold up everybody on the trunk.
        self.args().any(|word| word.eq_ignore_ascii_case(b"block"))
    }
}
