//! Replies of several nodes made into one.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::lane::{Lane, Touched};
use crate::redis::{
    refusal,
    wire::{self, Scanner, Value},
};

/// How the replies to the parts of a command make one.
#[derive(Debug, Clone)]
pub(super) enum How {
    /// Integers: their sum.
    Sum,
    /// The first of them, if none is an error.
    First,
    /// Arrays, one behind the other.
    Concat,
    /// Arrays whose elements belong at these places.
    Places(Vec<Vec<usize>>),
    /// The first that is not nil.
    Found,
    /// The reply to `SCAN` of one node: a cursor, which is made to name the node.
    Cursor {
        /// What names the node: added to its cursor.
        node: u64,
        /// The cursor to go on with when this node is through; 0 when all are.
        next: u64,
        /// Nodes that a cursor can name.
        nodes_max: u64,
    },
}

/// A command that was split, and what has come of it.
pub(super) struct Join {
    name: String,
    how: How,
    parts: Mutex<(Vec<Option<Bytes>>, usize)>,
    lane: Arc<Lane>,
    ticket: u64,
}

impl Join {
    pub(super) fn new(name: String, how: How, parts: usize, place: (Arc<Lane>, u64)) -> Arc<Self> {
        let (lane, ticket) = place;
        Arc::new(Self {
            name,
            how,
            parts: Mutex::new((vec![None; parts], parts)),
            lane,
            ticket,
        })
    }

    /// The reply to one part, which was for that slot; the last makes the whole.
    pub(super) fn take(
        &self,
        (part, slot): (usize, Option<u16>),
        reply: &[u8],
        touched: &mut Touched,
    ) {
        if let Some(slot) = slot {
            self.lane.release(slot);
        }
        let mut parts = self.parts.lock();
        let (replies, left) = &mut *parts;
        if let Some(place @ None) = replies.get_mut(part) {
            *place = Some(Bytes::copy_from_slice(reply));
            *left -= 1;
        }
        if *left == 0 {
            let replies: Vec<Bytes> = replies.iter_mut().filter_map(Option::take).collect();
            drop(parts);
            self.lane
                .finish(self.ticket, &self.whole(&replies), touched);
        }
    }

    fn whole(&self, replies: &[Bytes]) -> Bytes {
        let errors: Vec<_> = replies
            .iter()
            .filter(|reply| reply.starts_with(b"-"))
            .collect();
        let mut out = BytesMut::new();
        match errors.first() {
            Some(first) if errors.len() == replies.len() => out.extend_from_slice(first),
            Some(first) => {
                refusal::partial(&mut out, &self.name, (errors.len(), replies.len()), first);
            }
            None => {
                if merge(&self.how, replies, &mut out).is_none() {
                    out.clear();
                    refusal::unmergeable(&mut out, &self.name);
                }
            }
        }
        out.freeze()
    }
}

fn merge(how: &How, replies: &[Bytes], out: &mut BytesMut) -> Option<()> {
    match how {
        How::Sum => {
            let mut sum = 0_u64;
            for reply in replies {
                let value = Value::read(reply)?.integer()?;
                sum += u64::try_from(value).ok()?;
            }
            wire::integer(out, sum);
        }
        How::First => out.extend_from_slice(replies.first()?),
        How::Found => {
            let nil = |reply: &&Bytes| !matches!(reply.as_ref(), b"$-1\r\n" | b"_\r\n");
            out.extend_from_slice(replies.iter().find(nil).or(replies.first())?);
        }
        How::Concat => {
            let lists = replies.iter().map(elements).collect::<Option<Vec<_>>>()?;
            wire::array(out, lists.iter().map(Vec::len).sum());
            for element in lists.iter().flatten() {
                out.extend_from_slice(element);
            }
        }
        How::Places(places) => {
            let total = places.iter().map(Vec::len).sum();
            let mut ordered = vec![Bytes::new(); total];
            for (reply, places) in replies.iter().zip(places) {
                let found = elements(reply)?;
                if found.len() != places.len() {
                    return None;
                }
                for (element, place) in found.into_iter().zip(places) {
                    *ordered.get_mut(*place)? = element;
                }
            }
            wire::array(out, total);
            for element in &ordered {
                out.extend_from_slice(element);
            }
        }
        How::Cursor {
            node,
            next,
            nodes_max,
        } => {
            let found = elements(replies.first()?)?;
            let [cursor, keys] = &found[..] else {
                return None;
            };
            let cursor: u64 = Value::read(cursor)?.text()?.parse().ok()?;
            let cursor = match cursor {
                0 => *next,
                inner => inner.checked_mul(*nodes_max)?.checked_add(*node)?,
            };
            wire::array(out, 2);
            wire::bulk(out, cursor.to_string().as_bytes());
            out.extend_from_slice(keys);
        }
    }
    Some(())
}

/// The elements of an array, as bytes.
fn elements(reply: &Bytes) -> Option<Vec<Bytes>> {
    let head = memchr::memchr(b'\n', reply)? + 1;
    if !matches!(reply.first(), Some(b'*' | b'~')) {
        return None;
    }
    let mut rest = reply.slice(head..);
    let mut found = Vec::new();
    let mut scanner = Scanner::default();
    while !rest.is_empty() {
        let frame = scanner.scan(&rest).ok()??;
        found.push(rest.split_to(frame.end));
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(how: &How, replies: &[&'static str]) -> Option<String> {
        let replies: Vec<_> = replies
            .iter()
            .map(|reply| Bytes::from_static(reply.as_bytes()))
            .collect();
        let mut out = BytesMut::new();
        merge(how, &replies, &mut out)?;
        Some(String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn parts_come_together_in_the_order_of_the_keys() {
        let how = How::Places(vec![vec![0, 2], vec![1]]);
        let whole = merged(&how, &["*2\r\n$1\r\na\r\n$-1\r\n", "*1\r\n$1\r\nb\r\n"]);
        assert_eq!(
            whole.as_deref(),
            Some("*3\r\n$1\r\na\r\n$1\r\nb\r\n$-1\r\n")
        );
        assert_eq!(merged(&how, &["*1\r\n:1\r\n", "*1\r\n:1\r\n"]), None);
    }

    #[test]
    fn numbers_are_added_and_lists_joined() {
        assert_eq!(
            merged(&How::Sum, &[":1\r\n", ":41\r\n"]).as_deref(),
            Some(":42\r\n")
        );
        let lists = ["*1\r\n$1\r\na\r\n", "*0\r\n", "*1\r\n$1\r\nb\r\n"];
        assert_eq!(
            merged(&How::Concat, &lists).as_deref(),
            Some("*2\r\n$1\r\na\r\n$1\r\nb\r\n")
        );
        assert_eq!(
            merged(&How::Found, &["$-1\r\n", "$1\r\nk\r\n"]).as_deref(),
            Some("$1\r\nk\r\n")
        );
    }

    #[test]
    fn cursors_name_their_node_and_end_with_the_last() {
        let how = |next| How::Cursor {
            node: 3,
            next,
            nodes_max: 1024,
        };
        let on = merged(&how(4), &["*2\r\n$2\r\n17\r\n*0\r\n"]);
        assert_eq!(on.as_deref(), Some("*2\r\n$5\r\n17411\r\n*0\r\n"));
        let last = merged(&how(0), &["*2\r\n$1\r\n0\r\n*0\r\n"]);
        assert_eq!(last.as_deref(), Some("*2\r\n$1\r\n0\r\n*0\r\n"));
    }
}
