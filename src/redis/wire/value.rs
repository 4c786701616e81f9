//! A reply as a value: for our own questions to a server, never for what passes.

use bytes::Bytes;
use memchr::memchr;

use super::number;

/// Lists inside lists; what is asked here stays far below.
const DEPTH_MAX: usize = 16;

/// A reply, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::redis) enum Value {
    /// None.
    Nil,
    /// A string of any kind.
    Text(Bytes),
    /// An error, with its code.
    Error(Bytes),
    /// An integer.
    Integer(i64),
    /// An array, a set, a push, or a map with its keys and values in turn.
    List(Vec<Value>),
}

impl Value {
    /// Reads a whole frame; `None` when it is not one.
    pub(in crate::redis) fn read(frame: &Bytes) -> Option<Self> {
        let mut at = 0;
        element(frame, &mut at, 0)
    }

    /// Its elements, if it is a list.
    pub(in crate::redis) fn list(&self) -> Option<&[Value]> {
        match self {
            Self::List(list) => Some(list),
            Self::Nil | Self::Text(_) | Self::Error(_) | Self::Integer(_) => None,
        }
    }

    /// Its text, if it is one.
    pub(in crate::redis) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => std::str::from_utf8(text).ok(),
            Self::Nil | Self::Error(_) | Self::Integer(_) | Self::List(_) => None,
        }
    }

    /// Its number, if it is one, as an integer or as text.
    pub(in crate::redis) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Text(text) => number::parse(text),
            Self::Nil | Self::Error(_) | Self::List(_) => None,
        }
    }
}

fn element(frame: &Bytes, at: &mut usize, depth: usize) -> Option<Value> {
    let rest = frame.get(*at..)?;
    let (&kind, after) = rest.split_first()?;
    let end = memchr(b'\r', after)?;
    let line = frame.slice(*at + 1..*at + 1 + end);
    *at += end + 3;
    match kind {
        b'+' | b',' | b'(' | b'#' => Some(Value::Text(line)),
        b'-' => Some(Value::Error(line)),
        b'_' => Some(Value::Nil),
        b':' => number::parse(&line).map(Value::Integer),
        b'$' | b'=' | b'!' => string(frame, at, number::parse(&line)?),
        b'*' | b'~' | b'>' | b'%' => list(frame, at, depth, (kind, number::parse(&line)?)),
        _ => None,
    }
}

fn string(frame: &Bytes, at: &mut usize, length: i64) -> Option<Value> {
    let Ok(length) = usize::try_from(length) else {
        return Some(Value::Nil);
    };
    let end = at.checked_add(length)?;
    frame.get(*at..end)?;
    let text = frame.slice(*at..end);
    *at = end.checked_add(2)?;
    Some(Value::Text(text))
}

fn list(frame: &Bytes, at: &mut usize, depth: usize, head: (u8, i64)) -> Option<Value> {
    let (kind, count) = head;
    let Ok(count) = usize::try_from(count) else {
        return Some(Value::Nil);
    };
    let count = if kind == b'%' {
        count.checked_mul(2)?
    } else {
        count
    };
    if depth >= DEPTH_MAX {
        return None;
    }
    // Not reserved ahead: the count is the peer's, the bytes are what is really there.
    let mut elements = Vec::new();
    for _ in 0..count {
        elements.push(element(frame, at, depth + 1)?);
    }
    Some(Value::List(elements))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frame: &'static [u8]) -> Option<Value> {
        Value::read(&Bytes::from_static(frame))
    }

    #[test]
    fn nested_replies_are_read() {
        let value = read(b"*3\r\n:5\r\n*2\r\n$2\r\nab\r\n$-1\r\n%1\r\n+k\r\n,1.5\r\n").unwrap();
        let list = value.list().unwrap();
        assert_eq!(list[0].integer(), Some(5));
        assert_eq!(list[1].list().unwrap()[0].text(), Some("ab"));
        assert_eq!(list[1].list().unwrap()[1], Value::Nil);
        assert_eq!(list[2].list().unwrap()[1].text(), Some("1.5"));
        assert_eq!(read(b"*-1\r\n"), Some(Value::Nil));
        assert_eq!(read(b"-ERR x\r\n"), Some(Value::Error("ERR x".into())));
    }

    #[test]
    fn what_is_cut_or_too_deep_is_none() {
        let whole = b"*2\r\n$2\r\nab\r\n:7\r\n";
        for end in 0..whole.len() - 1 {
            let cut = Bytes::from_static(&whole[..end]);
            assert!(Value::read(&cut).is_none(), "{end}");
        }
        let deep = "*1\r\n".repeat(DEPTH_MAX + 1) + ":1\r\n";
        assert_eq!(Value::read(&Bytes::from(deep)), None);
        assert_eq!(read(b"*4000000000\r\n:1\r\n"), None);
    }
}
