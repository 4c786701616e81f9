//! One client's replies in the order of its commands, whichever nodes they come from.
//!
//! Also keeps commands for one slot on one way while any of them is under way: sent to two nodes,
//! the later could be carried out first.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::NodeId;
use crate::redis::outbox::{Ending, Outbox, Output};

/// The clients that got something and are to be flushed.
pub(super) type Touched = Vec<Arc<Outbox>>;

/// The places of one client's commands.
pub(in crate::redis) struct Lane {
    outbox: Arc<Outbox>,
    state: Mutex<State>,
    /// Replies that may wait for earlier ones, in bytes.
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    places: VecDeque<Place>,
    /// The ticket of the place at the front.
    front: u64,
    /// Bytes that wait.
    waiting: usize,
    ways: HashMap<u16, Way>,
}

#[derive(Default)]
struct Place {
    bytes: Output,
    is_done: bool,
    /// The client has a part of it.
    is_begun: bool,
    is_silent: bool,
    slot: Option<u16>,
}

/// Where commands for a slot go while any of them is under way.
struct Way {
    count: usize,
    latest: u64,
    node: NodeId,
}

impl Lane {
    pub(in crate::redis) fn new(outbox: Arc<Outbox>, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            outbox,
            state: Mutex::default(),
            bytes_max,
        })
    }

    /// A place for a command, and the node that it must go to.
    pub(super) fn enter(
        &self,
        way: Option<(u16, NodeId)>,
        is_silent: bool,
    ) -> (u64, Option<NodeId>) {
        self.outbox.owe(1);
        let mut state = self.state.lock();
        let ticket = state.front + state.places.len() as u64;
        state.places.push_back(Place {
            is_silent,
            slot: way.map(|(slot, _)| slot),
            ..Place::default()
        });
        let node = way.map(|(slot, node)| {
            let way = state.ways.entry(slot).or_insert(Way {
                count: 0,
                latest: ticket,
                node,
            });
            way.count += 1;
            way.latest = ticket;
            way.node
        });
        (ticket, node)
    }

    /// An answer of the gateway's own, in its place behind what is owed.
    pub(in crate::redis) fn answer(&self, bytes: &[u8]) {
        let mut touched = Touched::new();
        let (ticket, _) = self.enter(None, false);
        self.finish(ticket, bytes, &mut touched);
        flush(touched);
    }

    /// A command was sent on to another node; those after it follow.
    pub(super) fn moved(&self, ticket: u64, slot: u16, node: NodeId) {
        let mut state = self.state.lock();
        if let Some(way) = state.ways.get_mut(&slot)
            && way.latest == ticket
        {
            way.node = node;
        }
    }

    /// The node that a part of a split command must go to; to be followed by [`Lane::release`].
    pub(super) fn hold(&self, slot: u16, node: NodeId) -> NodeId {
        let mut state = self.state.lock();
        let way = state.ways.entry(slot).or_insert(Way {
            count: 0,
            latest: u64::MAX,
            node,
        });
        way.count += 1;
        way.node
    }

    /// A part of a split command is through.
    pub(super) fn release(&self, slot: u16) {
        self.state.lock().leave(slot);
    }

    /// The beginning of a long reply.
    pub(super) fn part(&self, ticket: u64, bytes: &[u8], touched: &mut Touched) {
        let mut state = self.state.lock();
        if let Some(place) = state.place(ticket) {
            place.bytes.append(bytes);
            state.waiting += bytes.len();
        }
        self.hand_out(&mut state, touched);
    }

    /// The end of a reply, or the whole of it.
    pub(super) fn finish(&self, ticket: u64, bytes: &[u8], touched: &mut Touched) {
        let mut state = self.state.lock();
        let Some(place) = state.place(ticket) else {
            return;
        };
        place.bytes.append(bytes);
        place.is_done = true;
        let slot = place.slot;
        state.waiting += bytes.len();
        if let Some(slot) = slot {
            state.leave(slot);
        }
        self.hand_out(&mut state, touched);
    }

    /// The rest of a reply will not come; `error` is said instead, if none of it was handed on.
    pub(super) fn fail(&self, ticket: u64, error: &[u8], touched: &mut Touched) {
        let mut state = self.state.lock();
        let Some(place) = state.place(ticket) else {
            return;
        };
        let (cut, dropped) = (place.is_begun, place.bytes.len());
        place.bytes = Output::default();
        state.waiting -= dropped;
        drop(state);
        if cut {
            self.outbox.end(Ending::Cut);
        }
        self.finish(ticket, error, touched);
    }

    fn hand_out(&self, state: &mut State, touched: &mut Touched) {
        while let Some(place) = state.places.front_mut() {
            if place.bytes.is_empty() && !place.is_done {
                break;
            }
            let (is_done, is_silent) = (place.is_done, place.is_silent);
            place.is_begun = !is_silent;
            state.waiting -= place.bytes.len();
            if is_silent {
                place.bytes = Output::default();
            }
            let mut piece = place.bytes.pop();
            while let Some(now) = piece.take().or(is_done.then(Bytes::new)) {
                piece = place.bytes.pop();
                let replies = usize::from(is_done && piece.is_none());
                if self.outbox.deliver(&now, replies) {
                    touched.push(Arc::clone(&self.outbox));
                }
                if replies > 0 {
                    break;
                }
            }
            if !is_done {
                break;
            }
            state.places.pop_front();
            state.front += 1;
        }
        if state.waiting == 0 {
            return;
        }
        // The reply under way is let through, whatever of it waits for the client.
        let is_midway = state.places.front().is_some_and(|place| place.is_begun);
        let taken = if is_midway {
            0
        } else {
            self.outbox.standing().waiting
        };
        if state.waiting + taken > self.bytes_max {
            self.outbox.end(Ending::Slow);
        }
    }
}

impl State {
    fn place(&mut self, ticket: u64) -> Option<&mut Place> {
        let at = usize::try_from(ticket.checked_sub(self.front)?).ok()?;
        self.places.get_mut(at)
    }

    fn leave(&mut self, slot: u16) {
        if let Some(way) = self.ways.get_mut(&slot) {
            way.count -= 1;
            if way.count == 0 {
                self.ways.remove(&slot);
            }
        }
    }
}

/// Lets every client that got something have it.
pub(super) fn flush(touched: Touched) {
    for client in touched {
        client.flush();
    }
}
