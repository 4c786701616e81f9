//! The 16 bytes before every message.

use super::WireFault;

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 16;
/// The largest message of the protocol (`maxMessageSizeBytes`).
pub(crate) const MESSAGE_BYTES_MAX: usize = 48_000_000;

/// Flag bit 0 of `OP_MSG`: a CRC-32C ends the message.
pub(crate) const CHECKSUM_PRESENT: u32 = 1;
/// Flag bit 1 of `OP_MSG`: of a request, no reply is wanted; of a reply, another one follows.
pub(crate) const MORE_TO_COME: u32 = 1 << 1;
/// Flag bit 16 of `OP_MSG`: the client can take several replies to one request.
pub(crate) const EXHAUST_ALLOWED: u32 = 1 << 16;

/// The operations that are spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// The reply to a legacy query.
    Reply,
    /// A legacy query; only its hello is left.
    Query,
    /// Another message, compressed.
    Compressed,
    /// Everything else.
    Message,
}

impl Opcode {
    /// The number on the wire.
    pub(crate) const fn code(self) -> i32 {
        match self {
            Self::Reply => 1,
            Self::Query => 2004,
            Self::Compressed => 2012,
            Self::Message => 2013,
        }
    }

    const fn of(code: i32) -> Option<Self> {
        match code {
            1 => Some(Self::Reply),
            2004 => Some(Self::Query),
            2012 => Some(Self::Compressed),
            2013 => Some(Self::Message),
            _ => None,
        }
    }
}

/// A message's header, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of the whole message, this header included.
    pub(crate) length: usize,
    /// The sender's number of the message.
    pub(crate) request_id: i32,
    /// The number of the message that it answers.
    pub(crate) response_to: i32,
    /// What it is.
    pub(crate) opcode: Opcode,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` when not all of it is there yet.
    pub(crate) fn parse(bytes: &[u8], length_max: usize) -> Result<Option<Self>, WireFault> {
        let Some(raw) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let word = |at: usize| i32_at(raw, at).unwrap_or_default();
        let announced = word(0);
        let length = usize::try_from(announced)
            .ok()
            .filter(|length| (HEADER_BYTES..=length_max).contains(length))
            .ok_or(WireFault::Length {
                bytes: i64::from(announced),
                max: length_max,
            })?;
        let code = word(12);
        Ok(Some(Self {
            length,
            request_id: word(4),
            response_to: word(8),
            opcode: Opcode::of(code).ok_or(WireFault::Opcode(code))?,
        }))
    }

    /// Writes a header; the length is patched by whoever knows it.
    pub(super) fn put(out: &mut Vec<u8>, request_id: i32, response_to: i32, opcode: Opcode) {
        out.extend_from_slice(&0_i32.to_le_bytes());
        out.extend_from_slice(&request_id.to_le_bytes());
        out.extend_from_slice(&response_to.to_le_bytes());
        out.extend_from_slice(&opcode.code().to_le_bytes());
    }
}

/// The little-endian 32-bit number at a place.
pub(super) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes
        .get(at..)?
        .first_chunk::<4>()
        .map(|raw| i32::from_le_bytes(*raw))
}

/// The length at a place, if it is not negative.
pub(crate) fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(i32_at(bytes, at)?).ok()
}

/// Overwrites four bytes with a number; out of range it does nothing.
pub(super) fn patch_i32(bytes: &mut [u8], at: usize, value: i32) {
    if let Some(slot) = bytes
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<4>())
    {
        *slot = value.to_le_bytes();
    }
}
