//! Cutting a client's bytes into commands, with the server's own rules and error texts.
//!
//! Stricter than the server in one point: it skips two bytes after each line and each argument
//! without looking at them. Bytes that are forwarded as sent must mean the same to everybody, so
//! here they must be CR LF.

use std::ops::Range;

use memchr::{memchr, memchr2};
use thiserror::Error;

use super::{inline, number};

/// The longest line: an inline command, or a count (`PROTO_INLINE_MAX_SIZE`).
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Arguments that are remembered between commands without allocating anew.
const ARGS_KEPT_MAX: usize = 64;

/// What a client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::redis) struct Limits {
    /// Arguments of a command.
    pub(in crate::redis) args_max: usize,
    /// Bytes of an argument (`proto-max-bulk-len`).
    pub(in crate::redis) arg_bytes_max: usize,
    /// Whether these are the limits of a client that has not logged in; the error texts differ.
    pub(in crate::redis) before_login: bool,
}

impl Limits {
    /// What the server allows before authentication.
    pub(in crate::redis) const BEFORE_LOGIN: Self = Self {
        args_max: 10,
        arg_bytes_max: 16 * 1024,
        before_login: true,
    };
}

/// Why a client's bytes are not RESP; the client is told and closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(in crate::redis) enum RequestFault {
    /// The count of arguments.
    #[error("Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// The count of arguments before login.
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// The length of an argument.
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    /// The length of an argument before login.
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// An argument does not begin with `$`.
    #[error("Protocol error: expected '$', got '{}'", printable(*.0))]
    ExpectedBulk(u8),
    /// A count without end.
    #[error("Protocol error: too big mbulk count string")]
    CountLine,
    /// A length without end.
    #[error("Protocol error: too big bulk count string")]
    LengthLine,
    /// An inline command without end.
    #[error("Protocol error: too big inline request")]
    InlineLine,
    /// An inline command with an open quote.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// Something else where a line or an argument ends.
    #[error("Protocol error: expected CRLF")]
    ExpectedCrlf,
}

/// As the server cleans what it echoes in an error line.
fn printable(byte: u8) -> char {
    if byte == b'\r' || byte == b'\n' {
        ' '
    } else {
        char::from(byte)
    }
}

/// What the decoder found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::redis) enum Step {
    /// One command, `bytes` long.
    Command {
        /// Its length in the buffer.
        bytes: usize,
    },
    /// Nothing that is answered (`\r\n`, `*0`, `*-1`), `bytes` long.
    Empty {
        /// Its length in the buffer.
        bytes: usize,
    },
    /// More bytes are needed.
    More,
}

/// Cuts commands out of a buffer whose start does not move while a command is incomplete.
#[derive(Debug, Default)]
pub(in crate::redis) struct Decoder {
    /// Where to go on, from the start of the command.
    at: usize,
    /// Arguments still to come; `None` before the count.
    left: Option<usize>,
    /// The length of the argument under way, once its line has been read.
    length: Option<usize>,
    args: Vec<Range<usize>>,
    /// The words of an inline command, which are not in the buffer as they are meant.
    inline: Option<Vec<Vec<u8>>>,
}

impl Decoder {
    /// Goes on cutting the command at the start of `buffer`.
    ///
    /// After [`Step::Command`] the arguments can be read until the next call, which begins anew.
    pub(in crate::redis) fn decode(
        &mut self,
        buffer: &[u8],
        limits: Limits,
    ) -> Result<Step, RequestFault> {
        if self.left.is_none() {
            self.begin();
            match buffer.first() {
                None => return Ok(Step::More),
                Some(b'*') => match self.read_count(buffer, limits)? {
                    None => return Ok(Step::More),
                    Some(0) => return Ok(Step::Empty { bytes: self.at }),
                    Some(count) => self.left = Some(count),
                },
                Some(_) => return self.read_inline(buffer),
            }
        }
        let mut left = self.left.unwrap_or_default();
        while left > 0 {
            if !self.read_argument(buffer, limits)? {
                self.left = Some(left);
                return Ok(Step::More);
            }
            left -= 1;
        }
        self.left = None;
        Ok(Step::Command { bytes: self.at })
    }

    /// The number of arguments, the name included.
    pub(in crate::redis) fn len(&self) -> usize {
        match &self.inline {
            Some(words) => words.len(),
            None => self.args.len(),
        }
    }

    /// The argument at `index` of the command last found in `buffer`; empty beyond the last.
    pub(in crate::redis) fn arg<'a>(&'a self, buffer: &'a [u8], index: usize) -> &'a [u8] {
        match &self.inline {
            Some(words) => words.get(index).map(Vec::as_slice),
            None => self
                .args
                .get(index)
                .and_then(|range| buffer.get(range.clone())),
        }
        .unwrap_or_default()
    }

    /// Whether the bytes as sent are the command's canonical form.
    pub(in crate::redis) fn is_canonical(&self) -> bool {
        self.inline.is_none()
    }

    /// Bytes that the buffer must hold before anything more can be said, as far as is known.
    pub(in crate::redis) fn wanted(&self) -> usize {
        match self.length {
            Some(length) => self.at.saturating_add(length).saturating_add(2),
            None => 0,
        }
    }

    fn begin(&mut self) {
        self.at = 0;
        self.length = None;
        self.inline = None;
        self.args.clear();
        if self.args.capacity() > ARGS_KEPT_MAX {
            self.args = Vec::new();
        }
    }

    /// Reads `*<count>\r\n`; a count of nothing is 0.
    fn read_count(&mut self, buffer: &[u8], limits: Limits) -> Result<Option<usize>, RequestFault> {
        let Some(line) = self.line(buffer, RequestFault::CountLine)? else {
            return Ok(None);
        };
        let count = number::parse(line.get(1..).unwrap_or_default())
            .filter(|count| *count <= i64::from(i32::MAX))
            .ok_or(RequestFault::MultibulkLength)?;
        let count = usize::try_from(count).unwrap_or(0);
        if count > limits.args_max {
            return Err(if limits.before_login {
                RequestFault::UnauthenticatedMultibulkLength
            } else {
                RequestFault::MultibulkLength
            });
        }
        self.at = line.len() + 2;
        Ok(Some(count))
    }

    /// Reads `$<length>\r\n<bytes>\r\n`; `false` when it is not all there.
    fn read_argument(&mut self, buffer: &[u8], limits: Limits) -> Result<bool, RequestFault> {
        let length = match self.length {
            Some(length) => length,
            None => match self.read_length(buffer, limits)? {
                Some(length) => length,
                None => return Ok(false),
            },
        };
        let end = self.at + length;
        match buffer.get(end..end + 2) {
            Some(b"\r\n") => {
                self.args.push(self.at..end);
                self.at = end + 2;
                self.length = None;
                Ok(true)
            }
            Some(_) => Err(RequestFault::ExpectedCrlf),
            None => {
                self.length = Some(length);
                Ok(false)
            }
        }
    }

    fn read_length(
        &mut self,
        buffer: &[u8],
        limits: Limits,
    ) -> Result<Option<usize>, RequestFault> {
        match buffer.get(self.at) {
            // The server looks for the whole line first; the first byte decides all the same.
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => return Err(RequestFault::ExpectedBulk(*other)),
        }
        let Some(line) = self.line(buffer, RequestFault::LengthLine)? else {
            return Ok(None);
        };
        let length = number::parse(line.get(1..).unwrap_or_default())
            .and_then(|length| usize::try_from(length).ok())
            .ok_or(RequestFault::BulkLength)?;
        if length > limits.arg_bytes_max {
            return Err(if limits.before_login {
                RequestFault::UnauthenticatedBulkLength
            } else {
                RequestFault::BulkLength
            });
        }
        self.at += line.len() + 2;
        Ok(Some(length))
    }

    /// The line at `self.at` without its CR LF.
    fn line<'b>(
        &self,
        buffer: &'b [u8],
        endless: RequestFault,
    ) -> Result<Option<&'b [u8]>, RequestFault> {
        let rest = buffer.get(self.at..).unwrap_or_default();
        let Some(end) = memchr(b'\r', rest) else {
            return if rest.len() > LINE_BYTES_MAX {
                Err(endless)
            } else {
                Ok(None)
            };
        };
        match rest.get(end + 1) {
            None => Ok(None),
            Some(b'\n') => Ok(rest.get(..end)),
            Some(_) => Err(RequestFault::ExpectedCrlf),
        }
    }

    fn read_inline(&mut self, buffer: &[u8]) -> Result<Step, RequestFault> {
        // The server's search ends at a NUL, as C strings do.
        let line = match memchr2(b'\n', 0, buffer) {
            Some(end) if buffer.get(end) == Some(&b'\n') => buffer.get(..end).unwrap_or_default(),
            _ if buffer.len() > LINE_BYTES_MAX => return Err(RequestFault::InlineLine),
            _ => return Ok(Step::More),
        };
        let bytes = line.len() + 1;
        let words = inline::split(line.strip_suffix(b"\r").unwrap_or(line))
            .ok_or(RequestFault::UnbalancedQuotes)?;
        if words.is_empty() {
            return Ok(Step::Empty { bytes });
        }
        self.inline = Some(words);
        Ok(Step::Command { bytes })
    }
}
