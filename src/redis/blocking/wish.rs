//! What a client that blocks waits for, told apart from how long it waits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::redis::wire::{self, Version};

/// What clients that wait together have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::redis) struct Wish {
    /// The database that it is meant for.
    pub(super) database: u32,
    /// The version that replies have to be in, where they cannot be rendered anew.
    pub(super) version: Option<Version>,
    pub(super) kind: Kind,
    /// The command, with nothing in the place of the timeout.
    words: Vec<Bytes>,
    /// That place.
    timeout_at: usize,
}

/// Who gets a reply, and what becomes of one that nobody is there to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Elements of lists from the left, for the first.
    PopLeft,
    /// Elements of lists from the right, for the first.
    PopRight,
    /// Members of sorted sets, for the first.
    PopScored,
    /// For the first; without it, the element is where the command has put it.
    Move,
    /// For the first; without it, the entries are pending for their consumer.
    Group,
    /// For everybody.
    Read,
}

impl Wish {
    /// Reads a blocking command, and how long its client wants to wait; no time is for ever.
    ///
    /// `None`: it is not one that can be shared, or one that the server has to refuse.
    pub(in crate::redis) fn parse(
        words: &[Bytes],
        database: u32,
        version: Version,
    ) -> Option<(Self, Option<Duration>)> {
        let last = words.len().checked_sub(1)?;
        let name = words.first()?.to_ascii_lowercase();
        let (timeout_at, kind) = match name.as_slice() {
            b"blpop" => (last, Kind::PopLeft),
            b"brpop" => (last, Kind::PopRight),
            b"bzpopmin" | b"bzpopmax" => (last, Kind::PopScored),
            b"brpoplpush" | b"blmove" => (last, Kind::Move),
            b"bzmpop" => (1, Kind::PopScored),
            b"blmpop" if pops_right(words)? => (1, Kind::PopRight),
            b"blmpop" => (1, Kind::PopLeft),
            b"xread" => (block_option(words)? + 1, Kind::Read),
            b"xreadgroup" => (block_option(words)? + 1, Kind::Group),
            _ => return None,
        };
        let is_stream = matches!(kind, Kind::Read | Kind::Group);
        let patience = patience(words.get(timeout_at)?, is_stream)?;
        let mut words = words.to_vec();
        *words.first_mut()? = Bytes::from(name);
        *words.get_mut(timeout_at)? = Bytes::new();
        let wish = Self {
            database,
            version: is_stream.then_some(version),
            kind,
            words,
            timeout_at,
        };
        Some((wish, patience))
    }

    /// The database that it is meant for.
    pub(in crate::redis) fn database(&self) -> u32 {
        self.database
    }

    /// The streams that are to be read from their ends, and where in the words each end is named.
    pub(in crate::redis) fn ends(&self) -> Vec<(usize, Bytes)> {
        let streams = |word: &Bytes| word.eq_ignore_ascii_case(b"streams");
        let Some(first) = self.words.iter().position(streams).map(|at| at + 1) else {
            return Vec::new();
        };
        let keys = self.words.len().saturating_sub(first) / 2;
        let names = (first..first + keys).filter_map(|at| {
            let is_end = self.kind == Kind::Read && self.words.get(at + keys)?.as_ref() == b"$";
            is_end.then(|| Some((at + keys, self.words.get(at)?.clone())))?
        });
        names.collect()
    }

    /// Names the end of a stream.
    pub(in crate::redis) fn set_end(&mut self, at: usize, end: Bytes) {
        if let Some(word) = self.words.get_mut(at) {
            *word = end;
        }
    }

    /// The command with that timeout, in whole seconds as every version of the server takes them.
    pub(super) fn command(&self, slice: Duration) -> BytesMut {
        self.with_timeout(match self.kind {
            Kind::Read | Kind::Group => slice.as_millis().to_string(),
            _ => slice.as_secs().to_string(),
        })
    }

    /// The command with what is left of its client's time.
    pub(in crate::redis) fn shortened(&self, left: Duration) -> Bytes {
        // Never 0, which would mean for ever.
        let left = left.max(Duration::from_millis(1));
        let timeout = match self.kind {
            Kind::Read | Kind::Group => left.as_millis().to_string(),
            _ => format!("{:.3}", left.as_secs_f64()),
        };
        self.with_timeout(timeout).freeze()
    }

    /// The command so many times without blocking, and how many replies that will have.
    pub(in crate::redis) fn at_once(&self, many: usize) -> (BytesMut, usize) {
        let mut commands = BytesMut::new();
        wire::encode_command(&mut commands, &["MULTI"]);
        // Inside a transaction it does not block.
        let command = self.with_timeout("0".into());
        for _ in 0..many {
            commands.extend_from_slice(&command);
        }
        wire::encode_command(&mut commands, &["EXEC"]);
        (commands, many + 2)
    }

    /// What the replies to [`at_once`](Self::at_once) come to, each as the command alone would have been
    /// answered.
    pub(in crate::redis) fn outcomes(replies: &[Bytes]) -> Vec<Bytes> {
        let last = replies.last().cloned().unwrap_or_default();
        wire::items(&last).unwrap_or_else(|| {
            // Refused: why says the command, or else EXEC.
            let refused = replies.iter().find(|reply| reply.starts_with(b"-"));
            vec![refused.cloned().unwrap_or(last)]
        })
    }

    fn with_timeout(&self, timeout: String) -> BytesMut {
        let mut words = self.words.clone();
        if let Some(word) = words.get_mut(self.timeout_at) {
            *word = Bytes::from(timeout);
        }
        let mut out = BytesMut::new();
        wire::encode_command(&mut out, &words);
        out
    }

    /// The command that puts back what a reply has taken out; `None` where nothing is missing.
    pub(in crate::redis) fn undo(&self, reply: &[u8]) -> Option<BytesMut> {
        let found = wire::strings(reply);
        let (key, popped) = found
            .split_first()
            .filter(|(_, popped)| !popped.is_empty())?;
        let mut words: Vec<&[u8]> = Vec::new();
        match self.kind {
            Kind::PopLeft | Kind::PopRight => {
                let name: &[u8] = if self.kind == Kind::PopLeft {
                    b"LPUSH"
                } else {
                    b"RPUSH"
                };
                words.extend([name, key]);
                // What was taken first goes back last, to the very end.
                words.extend(popped.iter().rev().map(Bytes::as_ref));
            }
            Kind::PopScored => {
                // A member that has come back meanwhile has the newer score.
                words.extend([&b"ZADD"[..], key, b"NX"]);
                for pair in popped.chunks_exact(2) {
                    words.extend(pair.iter().rev().map(Bytes::as_ref));
                }
            }
            Kind::Move | Kind::Group | Kind::Read => return None,
        }
        let mut out = BytesMut::new();
        wire::encode_command(&mut out, &words);
        Some(out)
    }

    /// Whether it takes out members with scores, which older clients hear otherwise.
    pub(super) fn is_scored(&self) -> bool {
        self.kind == Kind::PopScored
    }

    /// Whether it takes something out for one client, so that many may be asked for at once.
    pub(super) fn is_pop(&self) -> bool {
        !matches!(self.kind, Kind::Group | Kind::Read)
    }
}

/// The end that BLMPOP names after its keys.
fn pops_right(words: &[Bytes]) -> Option<bool> {
    let keys: usize = std::str::from_utf8(words.get(2)?).ok()?.parse().ok()?;
    let end = words.get(keys.checked_add(3)?)?;
    Some(end.eq_ignore_ascii_case(b"right"))
}

/// Where the option BLOCK is among the words of XREAD or XREADGROUP.
fn block_option(words: &[Bytes]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += match words.get(at)?.to_ascii_lowercase().as_slice() {
            b"block" => return Some(at),
            b"group" => 3,
            b"count" | b"claim" => 2,
            b"noack" => 1,
            // STREAMS: names follow.
            _ => return None,
        };
    }
}

/// A timeout as the server would take it. What is in doubt is for the server to judge.
#[expect(clippy::option_option, reason = "no timeout, and no valid one")]
fn patience(word: &[u8], in_millis: bool) -> Option<Option<Duration>> {
    let text = std::str::from_utf8(word).ok()?;
    let time = if in_millis {
        let millis = text
            .parse::<u64>()
            .ok()
            .filter(|millis| millis.to_string() == text)?;
        Duration::from_millis(millis)
    } else {
        let is_plain = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
        let seconds: f64 = text.parse().ok().filter(|_| is_plain)?;
        Duration::try_from_secs_f64(seconds).ok()?
    };
    // Further than the clock goes, and than the server counts.
    Instant::now().checked_add(time)?;
    i64::try_from(time.as_millis()).ok()?;
    Some((!time.is_zero()).then_some(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<(Wish, Option<Duration>)> {
        let words: Vec<Bytes> = line
            .split(' ')
            .map(|word| Bytes::copy_from_slice(word.as_bytes()))
            .collect();
        Wish::parse(&words, 0, Version::Resp2)
    }

    fn wish(line: &str) -> Wish {
        parse(line).unwrap().0
    }

    fn encoded(line: &str) -> BytesMut {
        let mut out = BytesMut::new();
        wire::encode_command(&mut out, &line.split(' ').collect::<Vec<_>>());
        out
    }

    #[test]
    fn the_same_wish_with_other_timeouts_is_shared() {
        assert_eq!(wish("BLPOP a b 1"), wish("blpop a b 0.25"));
        assert_ne!(wish("BLPOP a b 1"), wish("BLPOP b a 1"));
        assert_ne!(wish("BLPOP a 1"), wish("BRPOP a 1"));
        assert_eq!(
            wish("BLMPOP 3 1 k LEFT COUNT 2").command(Duration::from_secs(10)),
            encoded("blmpop 10 1 k LEFT COUNT 2")
        );
        assert_eq!(
            wish("XREAD COUNT 1 BLOCK 5 STREAMS s 0").command(Duration::from_secs(1)),
            encoded("xread COUNT 1 BLOCK 1000 STREAMS s 0")
        );
    }

    #[test]
    fn timeouts_that_the_server_must_judge_are_not_shared() {
        for line in [
            "BLPOP a -1",
            "BLPOP a x",
            "BLPOP a inf",
            "BLPOP a 1e400",
            "BLPOP",
            "XREAD BLOCK -1 STREAMS s 0",
            "XREAD BLOCK 1.5 STREAMS s 0",
            "BLMPOP 1 x k LEFT",
            "BLMPOP 1 9 k LEFT",
            "XREAD STREAMS block 0",
        ] {
            assert!(parse(line).is_none(), "{line}");
        }
        assert_eq!(parse("BLPOP a 0").unwrap().1, None);
        assert_eq!(
            parse("BLPOP a 0.5").unwrap().1,
            Some(Duration::from_millis(500))
        );
    }

    #[test]
    fn what_was_taken_goes_back_where_it_came_from() {
        let popped = b"*2\r\n$1\r\nk\r\n$1\r\nv\r\n";
        assert_eq!(
            wish("BLPOP k 0").undo(popped).unwrap(),
            encoded("LPUSH k v")
        );
        assert_eq!(
            wish("BRPOP k 0").undo(popped).unwrap(),
            encoded("RPUSH k v")
        );
        let many = b"*2\r\n$1\r\nk\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n";
        assert_eq!(
            wish("BLMPOP 0 1 k LEFT").undo(many).unwrap(),
            encoded("LPUSH k b a")
        );
        assert_eq!(
            wish("BLMPOP 0 1 k right").undo(many).unwrap(),
            encoded("RPUSH k b a")
        );
        let scored = b"*3\r\n$1\r\nk\r\n$1\r\nm\r\n,1.5\r\n";
        assert_eq!(
            wish("BZPOPMIN k 0").undo(scored).unwrap(),
            encoded("ZADD k NX 1.5 m")
        );
        assert_eq!(wish("BLMOVE a b LEFT RIGHT 0").undo(b"$1\r\nv\r\n"), None);
    }

    #[test]
    fn ends_of_streams_are_named() {
        let mut wish = wish("XREAD BLOCK 0 STREAMS a b c $ 0 $");
        assert_eq!(wish.ends(), [(7, Bytes::from("a")), (9, Bytes::from("c"))]);
        wish.set_end(7, Bytes::from("1-1"));
        assert_eq!(
            wish.command(Duration::from_secs(1)),
            encoded("xread BLOCK 1000 STREAMS a b c 1-1 0 $")
        );
    }
}
