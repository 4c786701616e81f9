//! Message headers: which message starts here, how long it is, and whether that is allowed.

use crate::fault::Refusal;

/// The bytes of a header: the type and the length.
pub(crate) const HEADER_BYTES: usize = 5;
/// The longest message that PostgreSQL itself can make or take (`MaxAllocSize`, with room for a header).
const MESSAGE_BYTES_MAX: u32 = 0x4000_0000;
/// Names, passwords and reasons; PostgreSQL allows more, no driver needs it.
const SHORT_BYTES_MAX: u32 = 64 * 1024;

/// A message at the head of a buffer, of which perhaps only the header has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The message's type.
    pub(crate) tag: u8,
    /// Its whole length: type, length and body.
    pub(crate) bytes: usize,
}

impl Frame {
    /// The body, if the whole message is at the head of `buffer`.
    pub(crate) fn body<'a>(&self, buffer: &'a [u8]) -> Option<&'a [u8]> {
        buffer.get(HEADER_BYTES..self.bytes)
    }
}

/// The message that a client sends next; `None` until its header is there.
///
/// # Errors
/// For types that no client sends, and for lengths outside of what the type allows.
pub(crate) fn frontend_head(
    buffer: &[u8],
    statement_bytes_max: usize,
) -> Result<Option<Frame>, Refusal> {
    let Some((tag, length)) = header(buffer) else {
        return Ok(None);
    };
    let max = match tag {
        b'Q' | b'P' => u32::try_from(statement_bytes_max).unwrap_or(MESSAGE_BYTES_MAX),
        b'B' | b'd' | b'F' => MESSAGE_BYTES_MAX,
        b'D' | b'C' | b'E' | b'p' | b'f' => SHORT_BYTES_MAX,
        b'S' | b'H' | b'X' | b'c' => 4,
        _ => {
            return Err(Refusal::Malformed {
                what: "invalid frontend message type",
            });
        }
    };
    checked(tag, length, max).map(Some)
}

/// The message that a server sends next; `None` until its header is there. Unknown types pass.
///
/// # Errors
/// For lengths outside of what the type allows.
pub(crate) fn backend_head(buffer: &[u8]) -> Result<Option<Frame>, Refusal> {
    let Some((tag, length)) = header(buffer) else {
        return Ok(None);
    };
    let max = if tag == b'Z' { 5 } else { MESSAGE_BYTES_MAX };
    checked(tag, length, max).map(Some)
}

/// The bytes of a message and of all right behind it that have its type, the last of which may not be whole; `buffer`
/// begins with it.
pub(crate) fn run_of(buffer: &[u8], first: Frame) -> usize {
    let mut at = first.bytes;
    loop {
        let rest = buffer.get(at..).unwrap_or_default();
        match backend_head(rest) {
            Ok(Some(next)) if next.tag == first.tag => at += next.bytes,
            _ => return at,
        }
    }
}

fn header(buffer: &[u8]) -> Option<(u8, u32)> {
    let (&[tag, a, b, c, d], _) = buffer.split_first_chunk::<HEADER_BYTES>()?;
    Some((tag, u32::from_be_bytes([a, b, c, d])))
}

fn checked(tag: u8, length: u32, max: u32) -> Result<Frame, Refusal> {
    if length < 4 || i32::try_from(length).is_err() {
        return Err(Refusal::Malformed {
            what: "invalid message length",
        });
    }
    if length > max {
        return Err(Refusal::FrameTooLarge {
            bytes: u64::from(length),
            max: u64::from(max),
        });
    }
    Ok(Frame {
        tag,
        bytes: length as usize + 1,
    })
}
