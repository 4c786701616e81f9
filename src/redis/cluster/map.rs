//! Which node has which slot, as the nodes tell.

use std::collections::BTreeSet;

use super::{NodeId, call::Redirect, keys::SLOTS};
use crate::{redis::wire::Value, tenant::Endpoint};

/// Nodes that are remembered; more than a cluster has in its life.
pub(super) const NODES_MAX: usize = 1000;

/// The nodes and their slots.
#[derive(Default)]
pub(super) struct Map {
    /// Never shortened: a [`NodeId`] is a place in it.
    pub(super) nodes: Vec<Endpoint>,
    slots: Vec<Option<NodeId>>,
    /// How many masters the nodes have told of.
    pub(super) masters: usize,
}

impl Map {
    /// Whether it is known where anything is.
    pub(super) fn is_known(&self) -> bool {
        !self.slots.is_empty()
    }

    /// The master that has a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<NodeId> {
        self.slots.get(usize::from(slot)).copied().flatten()
    }

    /// Every master that has slots, in the order of their ids.
    pub(super) fn masters(&self) -> BTreeSet<NodeId> {
        self.slots.iter().copied().flatten().collect()
    }

    /// The node at an address.
    pub(super) fn node(&mut self, endpoint: &Endpoint) -> NodeId {
        let found = self.nodes.iter().position(|node| node == endpoint);
        NodeId(found.unwrap_or_else(|| {
            if self.nodes.len() < NODES_MAX {
                self.nodes.push(endpoint.clone());
            }
            self.nodes.len() - 1
        }))
    }

    /// Notes where one slot is.
    pub(super) fn moved(&mut self, slot: u16, to: NodeId) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = Some(to);
        }
    }

    /// Takes over a reply to `CLUSTER SLOTS` by the node at `asked`. False: it is none.
    pub(super) fn adopt(&mut self, reply: &Value, asked: &Endpoint) -> bool {
        let mut slots = vec![None; SLOTS];
        let mut any = false;
        for range in reply.list().unwrap_or_default() {
            let Some([from, to, master, ..]) = range.list() else {
                return false;
            };
            let range = (from.integer(), to.integer());
            let (Some(from), Some(to)) = range else {
                return false;
            };
            let bounds = (usize::try_from(from), usize::try_from(to));
            let (Ok(from), Ok(to)) = bounds else {
                return false;
            };
            let Some(endpoint) = endpoint_of(master, asked) else {
                continue;
            };
            let node = self.node(&endpoint);
            for slot in slots.iter_mut().take(to.saturating_add(1)).skip(from) {
                *slot = Some(node);
                any = true;
            }
        }
        if any {
            self.slots = slots;
            self.masters = self.masters().len();
        }
        any
    }
}

/// `[host, port, ...]`; a host that the node does not know is the one that was asked.
fn endpoint_of(node: &Value, asked: &Endpoint) -> Option<Endpoint> {
    let [host, port, ..] = node.list()? else {
        return None;
    };
    Some(Endpoint {
        host: named(host.text().unwrap_or_default(), asked),
        port: u16::try_from(port.integer()?).ok()?,
    })
}

fn named(host: &str, asked: &Endpoint) -> String {
    if host.is_empty() || host == "?" {
        asked.host.clone()
    } else {
        host.to_owned()
    }
}

/// Reads `-MOVED slot host:port` and `-ASK slot host:port`.
pub(super) fn redirect(reply: &[u8], asked: &Endpoint) -> Option<Redirect> {
    if !reply.starts_with(b"-MOVED ") && !reply.starts_with(b"-ASK ") {
        return None;
    }
    let text = std::str::from_utf8(reply).ok()?;
    let mut words = text.trim_end().split(' ');
    let is_moved = words.next() == Some("-MOVED");
    let slot = words.next()?.parse().ok()?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    let endpoint = Endpoint {
        host: named(host, asked),
        port: port.parse().ok()?,
    };
    Some(if is_moved {
        Redirect::Moved(slot, endpoint)
    } else {
        Redirect::Ask(endpoint)
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn at(port: u16) -> Endpoint {
        Endpoint {
            host: "h".into(),
            port,
        }
    }

    #[test]
    fn slots_are_read_and_moved() {
        let reply = "*2\r\n*3\r\n:0\r\n:99\r\n*2\r\n$1\r\nh\r\n:1\r\n*3\r\n:100\r\n:16383\r\n*2\r\n$0\r\n\r\n:2\r\n";
        let value = Value::read(&Bytes::from_static(reply.as_bytes())).unwrap();
        let mut map = Map::default();
        assert!(!map.is_known() && map.owner(0).is_none());
        assert!(map.adopt(&value, &at(7)));
        assert_eq!(
            (map.owner(99), map.owner(100)),
            (Some(NodeId(0)), Some(NodeId(1)))
        );
        assert_eq!(map.nodes, [at(1), at(2)]);
        let third = map.node(&at(3));
        map.moved(5, third);
        assert_eq!(map.owner(5), Some(NodeId(2)));
        assert_eq!(map.masters().len(), 3);
        assert!(!map.adopt(&Value::List(Vec::new()), &at(7)));
        assert!(map.is_known(), "what was known is kept");
    }

    #[test]
    fn redirections_name_a_node() {
        let moved = redirect(b"-MOVED 12182 h:2\r\n", &at(1));
        assert_eq!(moved, Some(Redirect::Moved(12182, at(2))));
        assert_eq!(
            redirect(b"-ASK 7 :2\r\n", &at(1)),
            Some(Redirect::Ask(at(2)))
        );
        for other in [
            &b"+OK\r\n"[..],
            b"-MOVED\r\n",
            b"-MOVED x h:1\r\n",
            b"-ERR MOVED 1 h:1\r\n",
        ] {
            assert_eq!(redirect(other, &at(1)), None);
        }
    }
}
