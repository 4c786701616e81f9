//! The bodies of the few messages that are looked at.

use std::hash::{Hash, Hasher};

/// A Parse message's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parse<'a> {
    /// The statement's name; empty for the unnamed one.
    pub(crate) name: &'a [u8],
    /// The text, without its terminator.
    pub(crate) text: &'a [u8],
    /// Text, terminator and parameter types: all that follows the name.
    pub(crate) rest: &'a [u8],
}

/// The head of a Bind message's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bind<'a> {
    /// The portal's name; empty for the unnamed one.
    pub(crate) portal: &'a [u8],
    /// The statement's name; empty for the unnamed one.
    pub(crate) statement: &'a [u8],
}

impl Bind<'_> {
    /// The bytes of the body that the two names take, with their terminators.
    pub(crate) fn names_bytes(&self) -> usize {
        self.portal.len() + self.statement.len() + 2
    }
}

/// Splits a zero-terminated text off the head.
pub(crate) fn split_cstr(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, body)?;
    Some((body.get(..end)?, body.get(end + 1..)?))
}

/// Reads a Parse message; `None` if it is not one.
pub(crate) fn parse(body: &[u8]) -> Option<Parse<'_>> {
    let (name, rest) = split_cstr(body)?;
    let (text, types) = split_cstr(rest)?;
    let (&[high, low], oids) = types.split_first_chunk::<2>()?;
    let count = usize::from(u16::from_be_bytes([high, low]));
    (oids.len() == count * 4).then_some(Parse { name, text, rest })
}

/// Reads the names at the head of a Bind message, of which the rest may be missing.
pub(crate) fn bind(body: &[u8]) -> Option<Bind<'_>> {
    let (portal, rest) = split_cstr(body)?;
    let (statement, _) = split_cstr(rest)?;
    Some(Bind { portal, statement })
}

/// How many values a Bind message's body brings, as far as it is there.
pub(crate) fn bound_values(body: &[u8]) -> Option<u16> {
    let (_, rest) = split_cstr(body)?;
    let (_, rest) = split_cstr(rest)?;
    let (formats, rest) = rest.split_first_chunk::<2>()?;
    let rest = rest.get(2 * usize::from(u16::from_be_bytes(*formats))..)?;
    let (count, _) = rest.split_first_chunk::<2>()?;
    Some(u16::from_be_bytes(*count))
}

/// Reads a Describe or Close message: `S` or `P`, and the name.
pub(crate) fn named(body: &[u8]) -> Option<(u8, &[u8])> {
    let (kind, rest) = body.split_first()?;
    let (name, end) = split_cstr(rest)?;
    (end.is_empty() && matches!(kind, b'S' | b'P')).then_some((*kind, name))
}

/// Reads a `ParameterStatus` message: name and value.
pub(crate) fn status_pair(body: &[u8]) -> Option<(&str, &str)> {
    let (name, rest) = split_cstr(body)?;
    let (value, _) = split_cstr(rest)?;
    Some((
        std::str::from_utf8(name).ok()?,
        std::str::from_utf8(value).ok()?,
    ))
}

/// The fields of an `ErrorResponse` or `NoticeResponse`: letter and text.
pub(crate) fn error_fields(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let (letter, tail) = rest.split_first()?;
        if *letter == 0 {
            return None;
        }
        let (text, tail) = split_cstr(tail)?;
        rest = tail;
        Some((*letter, text))
    })
}

/// Tells apart what the bodies of `RowDescription` say of columns: names, types and modifiers.
pub(crate) fn columns_digest(body: &[u8]) -> u64 {
    let mut hasher = ahash::AHasher::default();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some((name, tail)) = split_cstr(rest) {
        // Which table's column it is, and its format here, do not matter.
        let Some((numbers, after)) = tail.split_first_chunk::<18>() else {
            break;
        };
        (name, numbers.get(6..16)).hash(&mut hasher);
        rest = after;
    }
    hasher.finish()
}

/// The columns of a `DataRow`; `None` for a null and for what is cut off.
pub(crate) fn fields_of_row(body: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = body.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            rest = tail;
            return Some(None);
        };
        let (field, tail) = tail.split_at_checked(length)?;
        rest = tail;
        Some(Some(field))
    })
}
