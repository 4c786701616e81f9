//! Which slot a command is for: the first key, and the hash of it.
//!
//! The first key is enough: that the others are in the same slot is checked by the server, in its own words.

use bytes::Bytes;

/// Hash slots of a cluster.
pub(in crate::redis) const SLOTS: usize = 16384;
/// The first words of commands without keys; everything else is taken to have its first key behind
/// its name, unless [`place`] says otherwise.
const KEYLESS: [&[u8]; 38] = [
    b"acl",
    b"auth",
    b"bgrewriteaof",
    b"bgsave",
    b"client",
    b"cluster",
    b"command",
    b"config",
    b"dbsize",
    b"debug",
    b"echo",
    b"failover",
    b"flushall",
    b"flushdb",
    b"function",
    b"hello",
    b"hotkeys",
    b"info",
    b"keys",
    b"lastsave",
    b"latency",
    b"lolwut",
    b"module",
    b"monitor",
    b"ping",
    b"psubscribe",
    b"publish",
    b"pubsub",
    b"punsubscribe",
    b"randomkey",
    b"role",
    b"save",
    b"scan",
    b"script",
    b"slowlog",
    b"subscribe",
    b"time",
    b"unsubscribe",
];

/// Where a command has its first key.
enum Place {
    Nowhere,
    /// At that word.
    Word(usize),
    /// Behind the number of keys, which is at that word.
    Counted(usize),
    /// Behind the word STREAMS.
    Streams,
}

/// The slot that a command is for; `None` when it has no key.
pub(in crate::redis) fn slot_of(words: &[Bytes]) -> Option<u16> {
    first_key(words).map(slot)
}

/// The slot of a key: of what is between the first `{` and the next `}`, unless that is nothing.
pub(in crate::redis) fn slot(key: &[u8]) -> u16 {
    let tag = memchr::memchr(b'{', key).and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = memchr::memchr(b'}', rest)?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    crc16(tag.unwrap_or(key)) & 0x3fff
}

fn first_key(words: &[Bytes]) -> Option<&[u8]> {
    let name = words.first()?.to_ascii_lowercase();
    let word = |at: usize| words.get(at).map(Bytes::as_ref);
    match place(&name) {
        Place::Nowhere => None,
        Place::Word(at) => word(at),
        Place::Counted(at) => {
            let none = word(at) == Some(b"0");
            word(at + 1).filter(|_| !none)
        }
        Place::Streams => {
            let at = words
                .iter()
                .position(|word| word.eq_ignore_ascii_case(b"streams"))?;
            word(at + 1)
        }
    }
}

fn place(name: &[u8]) -> Place {
    match name {
        b"lmpop" | b"sintercard" | b"zdiff" | b"zinter" | b"zintercard" | b"zmpop" | b"zunion"
        | b"msetex" => Place::Counted(1),
        b"blmpop" | b"bzmpop" | b"eval" | b"eval_ro" | b"evalsha" | b"evalsha_ro" | b"fcall"
        | b"fcall_ro" => Place::Counted(2),
        b"bitop" | b"memory" | b"object" | b"pfdebug" | b"xgroup" | b"xinfo" => Place::Word(2),
        b"migrate" => Place::Word(3),
        b"xread" | b"xreadgroup" => Place::Streams,
        _ if KEYLESS.contains(&name) => Place::Nowhere,
        _ => Place::Word(1),
    }
}

/// CRC-16/XMODEM, bit by bit: keys are short, and this is no hot path.
fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0_u16;
    for &byte in bytes {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<u16> {
        let words: Vec<_> = line
            .split(' ')
            .map(|word| Bytes::copy_from_slice(word.as_bytes()))
            .collect();
        slot_of(&words)
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
        assert_ne!(slot(b"foo{}{bar}"), slot(b""));
    }

    #[test]
    fn the_first_key_is_found_wherever_it_stands() {
        let foo = Some(12182);
        for line in [
            "GET foo",
            "BITOP AND foo b",
            "EVAL s 1 foo x",
            "ZUNION 2 foo b",
            "BLMPOP 0 1 foo LEFT",
            "XREAD COUNT 1 STREAMS foo 0",
            "OBJECT ENCODING foo",
            "XGROUP CREATE foo g $",
            "SPUBLISH foo m",
        ] {
            assert_eq!(of(line), foo, "{line}");
        }
        for line in [
            "PING",
            "EVAL s 0 foo",
            "SCRIPT LOAD foo",
            "PUBLISH foo m",
            "GET",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
