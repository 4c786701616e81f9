//! `OP_QUERY`, of which only the legacy hello is left.

use super::{
    Elements, Header, WireFault,
    header::{HEADER_BYTES, length_at},
};

/// A legacy query that asks a command.
#[derive(Debug, Clone)]
pub(crate) struct Query<'a> {
    /// The command's name: the first field's.
    pub(crate) command: &'a [u8],
    /// The command.
    pub(crate) body: &'a [u8],
}

impl<'a> Query<'a> {
    /// Reads a whole message.
    pub(crate) fn parse(bytes: &'a [u8], header: &Header) -> Result<Self, WireFault> {
        let cut = WireFault::Layout("a query is cut");
        let bytes = bytes.get(..header.length).ok_or(cut.clone())?;
        let namespace_at = HEADER_BYTES + 4;
        let rest = bytes.get(namespace_at..).ok_or(cut.clone())?;
        let namespace_bytes = memchr::memchr(0, rest).ok_or(cut.clone())?;
        let namespace = rest.get(..namespace_bytes).unwrap_or_default();
        // The numbers to skip and to return mean nothing for a command.
        let body_at = namespace_at + namespace_bytes + 1 + 8;
        let body_bytes = length_at(bytes, body_at).ok_or(cut.clone())?;
        let body = bytes
            .get(body_at..)
            .and_then(|rest| rest.get(..body_bytes))
            .ok_or(cut)?;
        if !namespace.ends_with(b".$cmd") {
            return Err(WireFault::Layout("a legacy query of a collection"));
        }
        // Read preference was once sent by wrapping the command.
        let body = unwrapped(body)?;
        let command = Elements::new(body)?
            .next()
            .ok_or(WireFault::Bson("an empty command"))??
            .name;
        Ok(Self { command, body })
    }
}

fn unwrapped(body: &[u8]) -> Result<&[u8], WireFault> {
    let first = Elements::new(body)?.next().transpose()?;
    match first {
        Some(element) if element.name == b"$query" || element.name == b"query" => {
            Ok(element.document().unwrap_or(body))
        }
        _ => Ok(body),
    }
}
