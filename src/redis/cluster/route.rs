//! From a client's command to calls: to one node, to several, to all.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{
    Cluster, NodeId,
    call::{Call, Sink},
    join::{How, Join},
    keys::{slot, slot_of},
    lane::Lane,
    map::NODES_MAX,
};
use crate::redis::{
    outbox::Outbox,
    trunk::Correct,
    wire::{self, Version},
};

/// One client's way into its cluster.
pub(in crate::redis) struct Route {
    cluster: Arc<Cluster>,
    lane: Arc<Lane>,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::redis) enum Routed {
    /// It is on its way.
    Sent,
    /// It is not known where the slots are.
    Unknown,
    /// Its node has as much to do as it may.
    Crowded,
    /// No node has its slot.
    Unserved,
}

/// How a client wants its replies.
#[derive(Clone, Copy)]
pub(in crate::redis) struct Wish {
    pub(in crate::redis) version: Version,
    pub(in crate::redis) is_silent: bool,
}

/// What a command needs.
enum Plan {
    One(Option<u16>),
    /// Parts, each for its slot.
    Split(How, Vec<(u16, Bytes)>),
    /// Every master.
    All(How),
    /// One master, by the cursor.
    Scan(u64),
}

impl Route {
    pub(in crate::redis) fn new(
        cluster: Arc<Cluster>,
        outbox: Arc<Outbox>,
        bytes_max: usize,
    ) -> Self {
        Self {
            cluster,
            lane: Lane::new(outbox, bytes_max),
        }
    }

    /// An answer of the gateway's own, behind what is owed.
    pub(in crate::redis) fn answer(&self, bytes: &[u8]) {
        self.lane.answer(bytes);
    }

    /// Sends a command to where its keys are.
    pub(in crate::redis) fn send(&self, words: &[Bytes], wish: Wish) -> Routed {
        if !self.cluster.is_known() {
            return Routed::Unknown;
        }
        match plan(words) {
            Plan::One(slot) => self.one((encoded(words), 1), slot, wish),
            Plan::Split(how, parts) => self.split(words, how, parts, wish),
            Plan::All(how) => self.all(words, how, wish),
            Plan::Scan(cursor) => self.scan(words, cursor, wish),
        }
    }

    /// Sends a command whose reply is counts of subscribers.
    pub(in crate::redis) fn send_counted(
        &self,
        words: &[Bytes],
        wish: Wish,
        count: Box<dyn Correct>,
    ) -> Routed {
        self.enter((encoded(words), 1), slot_of(words), wish, Some(count))
    }

    /// Sends commands, of whose replies the last counts, in one piece.
    pub(in crate::redis) fn one(
        &self,
        commands: (Bytes, usize),
        slot: Option<u16>,
        wish: Wish,
    ) -> Routed {
        self.enter(commands, slot, wish, None)
    }

    fn enter(
        &self,
        (bytes, replies): (Bytes, usize),
        slot: Option<u16>,
        wish: Wish,
        count: Option<Box<dyn Correct>>,
    ) -> Routed {
        if !self.cluster.is_known() {
            return Routed::Unknown;
        }
        let Some(owner) = self.cluster.owner(slot) else {
            return Routed::Unserved;
        };
        if self.cluster.is_crowded(owner) {
            return Routed::Crowded;
        }
        let (ticket, node) = self
            .lane
            .enter(slot.map(|slot| (slot, owner)), wish.is_silent);
        let sink = Sink::Place(Arc::clone(&self.lane), ticket);
        let mut call = self.call(bytes, replies, (slot, wish.version), sink);
        call.count = count;
        self.cluster.send(call, node.unwrap_or(owner), false);
        Routed::Sent
    }

    fn split(&self, words: &[Bytes], how: How, parts: Vec<(u16, Bytes)>, wish: Wish) -> Routed {
        let mut ways = Vec::new();
        for (slot, bytes) in parts {
            let Some(owner) = self.cluster.owner(Some(slot)) else {
                return Routed::Unserved;
            };
            if self.cluster.is_crowded(owner) {
                return Routed::Crowded;
            }
            ways.push((Some(slot), owner, bytes));
        }
        self.fan_out(words, how, ways, wish)
    }

    fn all(&self, words: &[Bytes], how: How, wish: Wish) -> Routed {
        let bytes = encoded(words);
        let masters = self.cluster.masters();
        let ways = masters.into_iter().map(|node| (None, node, bytes.clone()));
        self.fan_out(words, how, ways.collect(), wish)
    }

    /// A cursor is a node's own, times [`NODES_MAX`] and more, plus one more than the node's place.
    fn scan(&self, words: &[Bytes], cursor: u64, wish: Wish) -> Routed {
        let nodes_max = NODES_MAX as u64 + 1;
        let masters = self.cluster.masters();
        let from = (cursor % nodes_max).saturating_sub(1);
        // A node that is master no longer is passed over: its keys are on others now.
        let Some(node) = masters.iter().find(|node| node.number() >= from) else {
            return Routed::Unserved;
        };
        let inner = if node.number() == from {
            cursor / nodes_max
        } else {
            0
        };
        let next = masters.iter().find(|next| next.number() > node.number());
        let how = How::Cursor {
            node: node.number() + 1,
            next: next.map_or(0, |next| next.number() + 1),
            nodes_max,
        };
        let mut words = words.to_vec();
        if let Some(word) = words.get_mut(1) {
            *word = Bytes::from(inner.to_string());
        }
        let ways = vec![(None, *node, encoded(&words))];
        self.fan_out(&words, how, ways, wish)
    }

    fn fan_out(
        &self,
        words: &[Bytes],
        how: How,
        ways: Vec<(Option<u16>, NodeId, Bytes)>,
        wish: Wish,
    ) -> Routed {
        let name = words
            .first()
            .map(|name| name.to_ascii_uppercase())
            .unwrap_or_default();
        let name = String::from_utf8_lossy(&name).into_owned();
        let (ticket, _) = self.lane.enter(None, wish.is_silent);
        let join = Join::new(name, how, ways.len(), (Arc::clone(&self.lane), ticket));
        for (part, (slot, owner, bytes)) in ways.into_iter().enumerate() {
            let node = slot.map_or(owner, |slot| self.lane.hold(slot, owner));
            let sink = Sink::Part(Arc::clone(&join), part);
            let call = self.call(bytes, 1, (slot, wish.version), sink);
            self.cluster.send(call, node, false);
        }
        Routed::Sent
    }

    fn call(&self, bytes: Bytes, replies: usize, of: (Option<u16>, Version), sink: Sink) -> Call {
        self.cluster.note_use();
        Call {
            cluster: Arc::clone(&self.cluster),
            bytes,
            replies,
            slot: of.0,
            version: of.1,
            sink,
            redirects: 0,
            count: None,
        }
    }
}

fn plan(words: &[Bytes]) -> Plan {
    let lower = |at: usize| {
        words
            .get(at)
            .map(|word| word.to_ascii_lowercase())
            .unwrap_or_default()
    };
    let (name, second) = (lower(0), lower(1));
    match (name.as_slice(), second.as_slice()) {
        (b"mset", _) if words.len() % 2 == 1 => split(words, 2, &name),
        (b"mget" | b"del" | b"unlink" | b"exists" | b"touch", _) => split(words, 1, &name),
        (b"dbsize", _) | (b"pubsub", b"numpat") => Plan::All(How::Sum),
        (b"keys", _) | (b"pubsub", b"channels" | b"shardchannels") => Plan::All(How::Concat),
        (b"randomkey", _) => Plan::All(How::Found),
        (b"flushall" | b"flushdb", _)
        | (b"script", b"load" | b"flush")
        | (b"function", b"load" | b"delete" | b"flush" | b"restore")
        | (b"config", b"set" | b"resetstat" | b"rewrite") => Plan::All(How::First),
        (b"scan", cursor) => match std::str::from_utf8(cursor).map(str::parse) {
            Ok(Ok(cursor)) => Plan::Scan(cursor),
            // The server says what is wrong with it.
            _ => Plan::One(None),
        },
        _ => Plan::One(slot_of(words)),
    }
}

/// One command for each slot, with its keys in the order of the client's.
fn split(words: &[Bytes], step: usize, name: &[u8]) -> Plan {
    let Some((first, keys)) = words.split_first() else {
        return Plan::One(None);
    };
    let mut slots: Vec<(u16, Vec<usize>, Vec<Bytes>)> = Vec::new();
    for (place, group) in keys.chunks(step).enumerate() {
        let Some(key) = group.first() else {
            continue;
        };
        let slot = slot(key);
        let at = slots
            .iter()
            .position(|(known, ..)| *known == slot)
            .unwrap_or_else(|| {
                slots.push((slot, Vec::new(), vec![first.clone()]));
                slots.len() - 1
            });
        if let Some((_, places, words)) = slots.get_mut(at) {
            places.push(place);
            words.extend_from_slice(group);
        }
    }
    if slots.len() < 2 {
        return Plan::One(slots.first().map(|(slot, ..)| *slot));
    }
    let how = match name {
        b"mget" => How::Places(slots.iter().map(|(_, places, _)| places.clone()).collect()),
        b"mset" => How::First,
        _ => How::Sum,
    };
    let parts = slots.iter().map(|(slot, _, words)| (*slot, encoded(words)));
    Plan::Split(how, parts.collect())
}

fn encoded(words: &[Bytes]) -> Bytes {
    let mut out = BytesMut::new();
    wire::encode_command(&mut out, words);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Bytes> {
        line.split(' ')
            .map(|word| Bytes::copy_from_slice(word.as_bytes()))
            .collect()
    }

    #[test]
    fn keys_of_many_slots_are_split_and_keep_their_places() {
        let Plan::Split(How::Places(places), parts) = plan(&words("MGET foo bar {foo}x")) else {
            panic!()
        };
        assert_eq!(places, [vec![0, 2], vec![1]]);
        assert_eq!(parts[0], (12182, encoded(&words("MGET foo {foo}x"))));
        let Plan::Split(How::First, parts) = plan(&words("mset foo 1 bar 2")) else {
            panic!()
        };
        assert_eq!(parts[1].1, encoded(&words("mset bar 2")));
    }

    #[test]
    fn what_one_node_can_do_goes_to_one() {
        for line in [
            "MGET foo {foo}x",
            "DEL foo",
            "MSET foo 1 bar",
            "GET foo",
            "MSETNX foo 1 bar 2",
        ] {
            assert!(
                matches!(plan(&words(line)), Plan::One(Some(12182))),
                "{line}"
            );
        }
        assert!(matches!(plan(&words("SCAN x")), Plan::One(None)));
        assert!(matches!(plan(&words("SCAN 5 COUNT 1")), Plan::Scan(5)));
        assert!(matches!(plan(&words("TIME")), Plan::One(None)));
    }
}
