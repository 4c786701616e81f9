//! Reading what a subscription sends: the first two words of a push, or of a RESP2 array.

use memchr::memchr;

use super::number;

/// The head of a message or of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::redis) struct Push<'a> {
    /// `message`, `subscribe` and so on.
    pub(in crate::redis) kind: &'a [u8],
    /// The channel or pattern that it is about.
    pub(in crate::redis) topic: &'a [u8],
}

impl<'a> Push<'a> {
    /// Reads a whole frame; `None` when it is something else.
    pub(in crate::redis) fn read(frame: &'a [u8]) -> Option<Self> {
        let (head, rest) = line(frame)?;
        if !matches!(head.first(), Some(b'>' | b'*')) {
            return None;
        }
        let (kind, rest) = bulk(rest)?;
        let (topic, _) = bulk(rest)?;
        Some(Self { kind, topic })
    }
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(b'\r', bytes)?;
    Some((bytes.get(..end)?, bytes.get(end + 2..)?))
}

fn bulk(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = line(bytes)?;
    let length = usize::try_from(number::parse(head.strip_prefix(b"$")?)?).ok()?;
    Some((rest.get(..length)?, rest.get(length.checked_add(2)?..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_their_topic() {
        let frame = b">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$1\r\nm\r\n";
        let push = Push::read(frame).unwrap();
        assert_eq!((push.kind, push.topic), (&b"message"[..], &b"ch"[..]));
        let ack = b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n";
        assert_eq!(Push::read(ack).unwrap().topic, b"a");
    }

    #[test]
    fn other_frames_are_none() {
        for frame in [
            &b"+OK\r\n"[..],
            b"*0\r\n",
            b">1\r\n+pong\r\n",
            b"*2\r\n$9\r\nxx",
            b"",
        ] {
            assert_eq!(Push::read(frame), None);
        }
    }
}
