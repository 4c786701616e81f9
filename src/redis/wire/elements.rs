//! Looking into the few replies that the gateway itself has to understand. Whole frames only.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr;

use super::{Scanner, number, render};

/// Whether a reply says that there is nothing, in either version.
pub(in crate::redis) fn is_null(reply: &[u8]) -> bool {
    reply.starts_with(b"_") || reply.starts_with(b"*-1") || reply.starts_with(b"$-1")
}

/// The strings and numbers of a reply in their order, however deep; the rest is passed over.
pub(in crate::redis) fn strings(reply: &[u8]) -> Vec<Bytes> {
    let mut found = Vec::new();
    walk(reply, |element| match element {
        Element::Bulk(text) | Element::Line(b'+' | b':' | b',' | b'(', text) => {
            found.push(Bytes::copy_from_slice(text));
        }
        Element::Line(..) => {}
    });
    found
}

/// The elements of an array, each a whole reply; `None` when it is no array.
pub(in crate::redis) fn items(reply: &[u8]) -> Option<Vec<Bytes>> {
    let (head, mut rest) = line(reply)?;
    let count = usize::try_from(number::parse(head.strip_prefix(b"*")?)?).ok()?;
    let mut found = Vec::with_capacity(count.min(rest.len()));
    for _ in 0..count {
        let frame = Scanner::default().scan(rest).ok()??;
        let (item, after) = rest.split_at_checked(frame.end)?;
        found.push(Bytes::copy_from_slice(item));
        rest = after;
    }
    Some(found)
}

/// The number in a reply that is an integer.
pub(in crate::redis) fn number_of(reply: &[u8]) -> Option<i64> {
    let (head, _) = line(reply)?;
    number::parse(head.strip_prefix(b":")?)
}

/// The reply of a blocking pop in RESP2, from one in either version: scores are strings there, and
/// nothing is an array.
pub(in crate::redis) fn for_resp2(reply: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(reply.len() + 16);
    walk(reply, |element| match element {
        Element::Bulk(text) | Element::Line(b',', text) => render::bulk(&mut out, text),
        Element::Line(b'_', _) => out.put_slice(b"*-1\r\n"),
        Element::Line(kind, text) => {
            out.put_u8(kind);
            out.put_slice(text);
            out.put_slice(b"\r\n");
        }
    });
    out
}

/// One part of a reply.
enum Element<'a> {
    /// The bytes of a string.
    Bulk(&'a [u8]),
    /// The first byte of a line and the rest of it: simple types, and the heads of aggregates.
    Line(u8, &'a [u8]),
}

fn walk<'a>(mut reply: &'a [u8], mut visit: impl FnMut(Element<'a>)) {
    while let Some((head, rest)) = line(reply) {
        let Some((&kind, text)) = head.split_first() else {
            return;
        };
        reply = rest;
        let length = number::parse(text).and_then(|length| usize::try_from(length).ok());
        match (kind, length) {
            (b'$' | b'=' | b'!', Some(length)) => {
                let Some((bulk, after)) = rest.split_at_checked(length) else {
                    return;
                };
                visit(Element::Bulk(bulk));
                reply = after.get(2..).unwrap_or_default();
            }
            _ => visit(Element::Line(kind, text)),
        }
    }
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(b'\r', bytes)?;
    Some((bytes.get(..end)?, bytes.get(end + 2..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_found_at_any_depth() {
        let reply = b"*2\r\n$1\r\nk\r\n*1\r\n*2\r\n$2\r\na\r\r\n,1.5\r\n";
        assert_eq!(strings(reply), [&b"k"[..], b"a\r", b"1.5"]);
        assert!(strings(b"*-1\r\n").is_empty());
    }

    #[test]
    fn pops_are_rendered_for_resp2() {
        for (reply, wanted) in [
            (
                &b"*3\r\n$1\r\nk\r\n$1\r\nm\r\n,1.5\r\n"[..],
                &b"*3\r\n$1\r\nk\r\n$1\r\nm\r\n$3\r\n1.5\r\n"[..],
            ),
            (b"_\r\n", b"*-1\r\n"),
            (
                b"*2\r\n$1\r\nk\r\n$0\r\n\r\n",
                b"*2\r\n$1\r\nk\r\n$0\r\n\r\n",
            ),
            (b"-WRONGTYPE x\r\n", b"-WRONGTYPE x\r\n"),
        ] {
            assert_eq!(for_resp2(reply), wanted);
        }
    }

    #[test]
    fn items_are_whole_replies() {
        let reply = b"*3\r\n_\r\n*2\r\n$1\r\nk\r\n$1\r\nv\r\n-ERR x\r\n";
        assert_eq!(
            items(reply).unwrap(),
            [
                &b"_\r\n"[..],
                b"*2\r\n$1\r\nk\r\n$1\r\nv\r\n",
                b"-ERR x\r\n"
            ]
        );
        assert_eq!(items(b"+OK\r\n"), None);
        assert_eq!(items(b"*1\r\n"), None);
    }

    #[test]
    fn nonsense_does_no_harm() {
        for nonsense in [
            &b"$9\r\nx"[..],
            b"\r\n",
            b"*99999999999\r\n",
            b"$5\r\nabc\r\n",
            b"",
        ] {
            strings(nonsense);
            for_resp2(nonsense);
            assert_eq!(items(nonsense), None);
        }
    }
}
