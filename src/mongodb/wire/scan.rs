//! A one-pass scanner over the elements of one BSON document, borrowing everything.
//!
//! It finds where each element begins and ends and checks what that needs; what is inside nested
//! documents is left to whoever looks there. <https://bsonspec.org/spec.html>

use std::ops::Range;

use super::{
    WireFault,
    header::{i32_at, length_at},
};

/// The smallest document: its length and the closing NUL.
const DOCUMENT_BYTES_MIN: usize = 5;

/// The kinds of value that are looked into; all others are skipped over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A 64-bit float.
    Double,
    /// UTF-8 text.
    Text,
    /// A nested document.
    Document,
    /// An array: a document with the keys 0, 1, 2…
    Array,
    /// Bytes.
    Binary,
    /// A 12-byte id.
    ObjectId,
    /// True or false.
    Boolean,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// Nothing.
    Null,
    /// Any other.
    Other,
}

impl Kind {
    const fn of(tag: u8) -> Self {
        match tag {
            0x01 => Self::Double,
            0x02 => Self::Text,
            0x03 => Self::Document,
            0x04 => Self::Array,
            0x05 => Self::Binary,
            0x07 => Self::ObjectId,
            0x08 => Self::Boolean,
            0x0A => Self::Null,
            0x10 => Self::Int32,
            0x12 => Self::Int64,
            _ => Self::Other,
        }
    }
}

/// One element of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    /// What the value is.
    pub(crate) kind: Kind,
    /// The field's name, without its NUL.
    pub(crate) name: &'a [u8],
    /// The value's bytes as encoded, lengths included.
    pub(crate) value: &'a [u8],
    /// Where the element, tag and name included, is in its document.
    pub(crate) range: Range<usize>,
}

impl<'a> Element<'a> {
    /// The text, if it is one.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match self.kind {
            Kind::Text => {
                let body = self.value.get(4..self.value.len().checked_sub(1)?)?;
                std::str::from_utf8(body).ok()
            }
            _ => None,
        }
    }

    /// The number, if it is one that fits; floats are cut as the server cuts them.
    pub(crate) fn integer(&self) -> Option<i64> {
        match self.kind {
            Kind::Int32 => i32_at(self.value, 0).map(i64::from),
            Kind::Int64 => self.eight().map(i64::from_le_bytes),
            Kind::Double => {
                let float = f64::from_le_bytes(self.eight()?);
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "`as` saturates, and the server cuts the fraction too"
                )]
                float.is_finite().then_some(float as i64)
            }
            _ => None,
        }
    }

    /// Whether the server would take the value for true.
    pub(crate) fn truth(&self) -> bool {
        match self.kind {
            Kind::Boolean => self.value.first().is_some_and(|byte| *byte != 0),
            Kind::Int32 | Kind::Int64 => self.integer() != Some(0),
            Kind::Double => self.eight().map(f64::from_le_bytes) != Some(0.0),
            Kind::Null => false,
            _ => true,
        }
    }

    /// The nested document or array, if it is one.
    pub(crate) fn document(&self) -> Option<&'a [u8]> {
        matches!(self.kind, Kind::Document | Kind::Array).then_some(self.value)
    }

    /// The bytes of a binary value.
    pub(crate) fn binary(&self) -> Option<&'a [u8]> {
        match self.kind {
            Kind::Binary => self.value.get(5..),
            _ => None,
        }
    }

    fn eight(&self) -> Option<[u8; 8]> {
        self.value.first_chunk::<8>().copied()
    }
}

/// The elements of a document, in order; ends after the first fault.
#[derive(Debug, Clone)]
pub(crate) struct Elements<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Elements<'a> {
    /// Starts at the first element of the document that `bytes` holds exactly.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, WireFault> {
        if bytes.len() < DOCUMENT_BYTES_MIN || length_at(bytes, 0) != Some(bytes.len()) {
            return Err(WireFault::Bson("a document's length is wrong"));
        }
        match bytes.split_last() {
            Some((0, elements)) => Ok(Self {
                bytes: elements,
                at: 4,
            }),
            _ => Err(WireFault::Bson("a document does not end with NUL")),
        }
    }

    /// The element of that name, if it can be found.
    pub(crate) fn find(self, name: &[u8]) -> Option<Element<'a>> {
        self.map_while(Result::ok)
            .find(|element| element.name == name)
    }

    fn scan(&mut self, tag: u8) -> Result<Element<'a>, WireFault> {
        let start = self.at;
        let rest = self.bytes.get(start + 1..).unwrap_or_default();
        let name_bytes =
            memchr::memchr(0, rest).ok_or(WireFault::Bson("a field's name has no end"))?;
        let name = rest.get(..name_bytes).unwrap_or_default();
        let value = rest.get(name_bytes + 1..).unwrap_or_default();
        let value_bytes = value_length(tag, value)
            .ok_or(WireFault::Bson("a value is cut or of no known type"))?;
        let value = value
            .get(..value_bytes)
            .ok_or(WireFault::Bson("a value reaches beyond its document"))?;
        self.at = start + 1 + name_bytes + 1 + value_bytes;
        Ok(Element {
            kind: Kind::of(tag),
            name,
            value,
            range: start..self.at,
        })
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, WireFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let tag = *self.bytes.get(self.at)?;
        let element = self.scan(tag);
        if element.is_err() {
            self.at = self.bytes.len();
        }
        Some(element)
    }
}

/// Bytes of a value of that type at the start of `value`; `None` when it cannot be one.
fn value_length(tag: u8, value: &[u8]) -> Option<usize> {
    match tag {
        0x06 | 0x0A | 0x7F | 0xFF => Some(0),
        0x08 => value.first().filter(|byte| **byte <= 1).map(|_| 1),
        0x10 => Some(4),
        0x01 | 0x09 | 0x11 | 0x12 => Some(8),
        0x07 => Some(12),
        0x13 => Some(16),
        0x02 | 0x0D | 0x0E => text_length(value),
        0x03 | 0x04 => nested_length(value, DOCUMENT_BYTES_MIN),
        0x05 => length_at(value, 0)?.checked_add(5),
        0x0B => {
            let pattern = memchr::memchr(0, value)?;
            let options = memchr::memchr(0, value.get(pattern + 1..)?)?;
            Some(pattern + options + 2)
        }
        0x0C => text_length(value)?.checked_add(12),
        0x0F => nested_length(value, 14),
        _ => None,
    }
}

/// A length that counts itself out, then that many bytes of which the last is NUL.
fn text_length(value: &[u8]) -> Option<usize> {
    let end = length_at(value, 0)?.checked_add(4)?;
    (end > 4 && value.get(end - 1) == Some(&0)).then_some(end)
}

/// A length that counts itself in, and a NUL at the end.
fn nested_length(value: &[u8], least: usize) -> Option<usize> {
    let length = length_at(value, 0)?;
    (length >= least && value.get(length - 1) == Some(&0)).then_some(length)
}
