//! Finding where a server's reply ends, in RESP2 and RESP3, without building it.
//!
//! Resumable: bytes already seen are not looked at again, and a reply of any size may be handed on
//! in pieces. Streamed strings and aggregates (`$?`, `*?`) are refused: Redis never sends them.

use memchr::memchr;
use thiserror::Error;

use super::number;

/// Aggregates inside aggregates. A script's table that holds itself comes with some 8000 levels
/// (`LUAI_MAXCSTACK`), where the server ends it with an error; its other replies stay far below.
const DEPTH_MAX: usize = 16_384;
/// The longest line of a simple type. Error replies can echo arguments, so this is generous.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Why bytes are not a reply; the upstream is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(in crate::redis) enum ReplyFault {
    /// An unknown first byte.
    #[error("unknown reply type 0x{0:02x}")]
    Type(u8),
    /// A length that is not a number, or negative where none may be.
    #[error("invalid length in a reply")]
    Length,
    /// Nested too deeply.
    #[error("reply nested too deeply")]
    Depth,
    /// A line without end.
    #[error("reply line too long")]
    Line,
    /// A line or a string that does not end in CR LF.
    #[error("reply without CRLF")]
    Crlf,
}

/// A whole reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::redis) struct Frame {
    /// Where it ends, from the start of the reply or of what has not been handed on yet.
    pub(in crate::redis) end: usize,
    /// Its type: `>` is a push, which answers no command. An attribute is not a type of its own.
    pub(in crate::redis) kind: u8,
}

/// An aggregate under way.
#[derive(Debug)]
struct Level {
    /// Elements still to come.
    left: u64,
    /// Whether it stands before an element instead of being one.
    is_attribute: bool,
}

/// Scans one reply after the other.
#[derive(Debug, Default)]
pub(in crate::redis) struct Scanner {
    /// The next byte to look at; beyond the buffer while a string is under way.
    at: usize,
    /// The type of the reply; `None` before its first byte.
    kind: Option<u8>,
    /// The aggregates under way, the outermost first.
    open: Vec<Level>,
    /// Whether a string's closing CR LF is next.
    closing: bool,
}

impl Scanner {
    /// Goes on with the reply at the start of `buffer`; a frame found ends it.
    pub(in crate::redis) fn scan(&mut self, buffer: &[u8]) -> Result<Option<Frame>, ReplyFault> {
        loop {
            if !self.closing && !self.element(buffer)? {
                return Ok(None);
            }
            if self.closing {
                match buffer.get(self.at..self.at + 2) {
                    None => return Ok(None),
                    Some(b"\r\n") => self.closing = false,
                    Some(_) => return Err(ReplyFault::Crlf),
                }
                self.at += 2;
            }
            if let Some(frame) = self.finish() {
                return Ok(Some(frame));
            }
        }
    }

    /// The type of the reply under way.
    pub(in crate::redis) fn kind(&self) -> Option<u8> {
        self.kind
    }

    /// The first `bytes` of the buffer were handed on; the rest moves to its start.
    pub(in crate::redis) fn moved(&mut self, bytes: usize) {
        self.at = self.at.saturating_sub(bytes);
    }

    /// How many bytes of `buffer` belong to this reply for certain and need not be kept for scanning.
    pub(in crate::redis) fn settled(&self, buffer: &[u8]) -> usize {
        self.at.min(buffer.len())
    }

    /// Reads one element's line; `false` when it is not all there.
    fn element(&mut self, buffer: &[u8]) -> Result<bool, ReplyFault> {
        let rest = buffer.get(self.at..).unwrap_or_default();
        let Some((&kind, after)) = rest.split_first() else {
            return Ok(false);
        };
        let Some(end) = memchr(b'\r', after) else {
            return if rest.len() > LINE_BYTES_MAX {
                Err(ReplyFault::Line)
            } else {
                Ok(false)
            };
        };
        let line = after.get(..end).unwrap_or_default();
        match after.get(end + 1) {
            None => return Ok(false),
            Some(b'\n') => {}
            Some(_) => return Err(ReplyFault::Crlf),
        }
        self.at += end + 3;
        self.begin(kind, line)?;
        Ok(true)
    }

    fn begin(&mut self, kind: u8, line: &[u8]) -> Result<(), ReplyFault> {
        if self.open.is_empty() && kind != b'|' {
            self.kind = Some(kind);
        }
        match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => Ok(()),
            b'$' | b'!' | b'=' => match number::parse(line) {
                Some(-1) if kind == b'$' => Ok(()),
                length => {
                    let length = length.and_then(|length| usize::try_from(length).ok());
                    self.at = length
                        .and_then(|length| self.at.checked_add(length))
                        .ok_or(ReplyFault::Length)?;
                    self.closing = true;
                    Ok(())
                }
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => self.open(kind, number::parse(line)),
            other => Err(ReplyFault::Type(other)),
        }
    }

    fn open(&mut self, kind: u8, count: Option<i64>) -> Result<(), ReplyFault> {
        let count = match count {
            Some(-1) if kind == b'*' => 0,
            Some(count) => u64::try_from(count).map_err(|_| ReplyFault::Length)?,
            None => return Err(ReplyFault::Length),
        };
        let is_attribute = kind == b'|';
        let pairs = kind == b'%' || is_attribute;
        let elements = count.checked_mul(if pairs { 2 } else { 1 });
        // One more, because `finish` counts the aggregate's own line as an element.
        let left = elements
            .and_then(|elements| elements.checked_add(1))
            .ok_or(ReplyFault::Length)?;
        if self.open.len() >= DEPTH_MAX {
            return Err(ReplyFault::Depth);
        }
        if left > 1 || is_attribute {
            self.open.push(Level { left, is_attribute });
        }
        Ok(())
    }

    /// Counts an element; the frame, if it was the last.
    fn finish(&mut self) -> Option<Frame> {
        while let Some(level) = self.open.last_mut() {
            level.left -= 1;
            if level.left > 0 {
                return None;
            }
            let is_attribute = level.is_attribute;
            self.open.pop();
            if is_attribute {
                return None;
            }
        }
        let kind = self.kind.take()?;
        let end = std::mem::take(&mut self.at);
        Some(Frame { end, kind })
    }
}
