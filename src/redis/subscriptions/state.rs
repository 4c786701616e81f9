//! What is subscribed to, and what the servers have been asked. Pure: frames in, questions out.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Weak},
    task::Waker,
};

use bytes::{BufMut, Bytes, BytesMut};

use super::{Kind, Member, entrants::Entrant};
use crate::{
    fault::Refusal,
    redis::{
        cluster::NodeId,
        outbox::Outbox,
        wire::{self, Push, Version},
    },
};

/// How often a subscription is sent on before its servers are given time to agree.
const REDIRECTS_MAX: u8 = 8;

/// The node of a cluster that is asked; `None`: the only server.
pub(super) type Place = Option<NodeId>;
/// What is subscribed to.
pub(super) type Key = (Kind, Bytes);

#[derive(Default)]
pub(super) struct State {
    pub(super) topics: HashMap<Key, Topic>,
    pub(super) desks: HashMap<Place, Desk>,
    /// Clients that wait for topics, by their number.
    pub(super) entrants: HashMap<u64, Entrant>,
    /// Subscribers to whom so much is on its way that they may not leave it so for long.
    pub(super) slow: Vec<Weak<Outbox>>,
}

/// A channel or a pattern.
#[derive(Default)]
pub(super) struct Topic {
    pub(super) members: HashMap<u64, Member>,
    /// Clients that wait for the confirmation.
    pub(super) waiting: BTreeSet<u64>,
    /// Questions about it that the server has not answered.
    pub(super) asked: usize,
    /// The last question was to subscribe.
    pub(super) is_wanted: bool,
    /// Who is asked.
    pub(super) at: Place,
    /// How often it was sent on since it was last confirmed.
    pub(super) redirects: u8,
}

impl Topic {
    /// Whether the server has it, as long as the upstream is open.
    pub(super) fn is_confirmed(&self) -> bool {
        self.is_wanted && self.asked == 0 && self.redirects == 0
    }

    /// Whether the server has been asked to end it, and has not.
    pub(super) fn is_ending(&self) -> bool {
        !self.is_wanted && self.asked > 0
    }

    /// Notes that it is elsewhere.
    fn redirect(&mut self) -> Result<(), Fault> {
        self.redirects += 1;
        if self.redirects > REDIRECTS_MAX {
            return Err("the slots are moving");
        }
        Ok(())
    }
}

/// What one server is asked.
#[derive(Default)]
pub(super) struct Desk {
    /// Commands that are not written yet.
    pub(super) outgoing: BytesMut,
    /// What it has been asked and has not answered, in order, and whether that was to subscribe.
    asked: VecDeque<(Key, bool)>,
    /// Waits to be woken when there is something to write.
    pub(super) idle: Option<Waker>,
    /// The task that owns the upstream lives.
    pub(super) is_running: bool,
    /// Commands may be written: the upstream is open.
    pub(super) is_open: bool,
    /// Failures so far, and the last: whoever waits since before it is told.
    pub(super) failures: u64,
    pub(super) fault: Option<Refusal>,
}

/// What a frame came to.
pub(super) enum Taken {
    /// A message, handed out.
    Message,
    /// An answer: somebody may have waited for it.
    Answer,
    /// The server has the topic no longer, or has never had it; where it is, if it says so.
    Elsewhere(Key, Bytes),
}

/// The server does not keep to the protocol, or cannot serve; why.
pub(super) type Fault = &'static str;

impl State {
    /// The desk of a server.
    pub(super) fn desk(&mut self, place: Place) -> &mut Desk {
        self.desks.entry(place).or_default()
    }

    /// Puts a question to the server into the buffer, if the upstream is open.
    pub(super) fn ask(&mut self, key: &Key, is_wanted: bool) {
        let Some(topic) = self.topics.get_mut(key) else {
            return;
        };
        topic.is_wanted = is_wanted;
        let desk = self.desks.entry(topic.at).or_default();
        if !desk.is_open {
            // Everything wanted is asked for once it is.
            return;
        }
        topic.asked += 1;
        let (begin, end) = key.0.commands();
        let command = if is_wanted { begin } else { end };
        wire::encode_command(&mut desk.outgoing, &[command.as_bytes(), &key.1]);
        desk.asked.push_back((key.clone(), is_wanted));
        if let Some(task) = desk.idle.take() {
            task.wake();
        }
    }

    /// Ends the subscription to a topic that nobody has or waits for.
    pub(super) fn forget_unwanted(&mut self, key: &Key) {
        let Some(topic) = self.topics.get(key) else {
            return;
        };
        if !topic.members.is_empty() || !topic.waiting.is_empty() {
            return;
        }
        if topic.is_wanted {
            self.ask(key, false);
        }
        self.drop_settled(key);
    }

    /// Whether somebody needs that server.
    pub(super) fn is_used(&self, place: Place) -> bool {
        self.topics.values().any(|topic| topic.at == place)
    }

    /// Whether any server is asked, or was a moment ago.
    pub(super) fn is_running(&self) -> bool {
        self.desks.values().any(|desk| desk.is_running)
    }

    /// A new upstream knows of nothing: everything wanted is asked for again.
    pub(super) fn reopen(&mut self, place: Place) {
        let desk = self.desk(place);
        desk.is_open = true;
        desk.outgoing.clear();
        desk.asked.clear();
        let mut wanted = Vec::new();
        for (key, topic) in self
            .topics
            .iter_mut()
            .filter(|(_, topic)| topic.at == place)
        {
            topic.asked = 0;
            wanted.push(key.clone());
        }
        for key in wanted {
            self.ask(&key, true);
        }
    }

    /// The upstream has ended: what only waited to be ended is ended now.
    pub(super) fn close(&mut self, place: Place, fault: Option<Refusal>) {
        let desk = self.desk(place);
        desk.is_open = false;
        desk.idle = None;
        if fault.is_some() {
            desk.failures += 1;
            desk.fault = fault;
        }
        self.topics
            .retain(|_, topic| topic.at != place || topic.is_wanted);
        for topic in self.topics.values_mut().filter(|topic| topic.at == place) {
            topic.asked = 0;
            topic.redirects = 0;
        }
    }

    /// Has a topic asked for at another server. False: nobody wants it any longer.
    pub(super) fn move_to(&mut self, key: &Key, place: Place) -> bool {
        let Some(topic) = self.topics.get_mut(key) else {
            return false;
        };
        if !topic.is_wanted || topic.asked > 0 {
            return false;
        }
        topic.at = place;
        self.ask(key, true);
        true
    }

    /// Takes one frame that a server has sent.
    pub(super) fn take(
        &mut self,
        place: Place,
        frame: &[u8],
        touched: &mut Vec<Arc<Outbox>>,
    ) -> Result<Taken, Fault> {
        let Some(push) = Push::read(frame) else {
            return self.take_error(place, frame);
        };
        let kind = match push.kind {
            b"message" => Kind::Channel,
            b"pmessage" => Kind::Pattern,
            b"smessage" => Kind::Shard,
            _ => return self.take_answer(place, &push),
        };
        let key = (kind, Bytes::copy_from_slice(push.topic));
        if let Some(topic) = self.topics.get(&key) {
            // One copy for all who hear it in the same version; the read buffer is not kept for it.
            let (mut old, mut new) = (None, None);
            for member in topic.members.values() {
                let message = match member.version {
                    Version::Resp2 => old.get_or_insert_with(|| message(b'*', frame)),
                    Version::Resp3 => new.get_or_insert_with(|| message(b'>', frame)),
                };
                if member.outbox.publish(message) {
                    touched.push(Arc::clone(&member.outbox));
                }
            }
        }
        Ok(Taken::Message)
    }

    fn take_answer(&mut self, place: Place, push: &Push<'_>) -> Result<Taken, Fault> {
        let Some(kind_begins) = Kind::of_answer(push.kind) else {
            return Err("not an answer");
        };
        let desk = self.desk(place);
        let is_asked = desk.asked.front().is_some_and(|((kind, name), begins)| {
            (*kind, *begins) == kind_begins && name == push.topic
        });
        if is_asked {
            if let Some(key) = self.answered(place)
                && let Some(topic) = self.topics.get_mut(&key)
            {
                topic.redirects = 0;
                self.let_all_in(&key);
            }
            return Ok(Taken::Answer);
        }
        if kind_begins != (Kind::Shard, false) {
            return Err("an answer that nobody asked for");
        }
        // The slot has moved away, and all who were subscribed to it here are told.
        let key = (Kind::Shard, Bytes::copy_from_slice(push.topic));
        if let Some(topic) = self.topics.get_mut(&key) {
            topic.redirect()?;
        }
        Ok(Taken::Elsewhere(key, Bytes::new()))
    }

    fn take_error(&mut self, place: Place, frame: &[u8]) -> Result<Taken, Fault> {
        if frame.first() != Some(&b'-') {
            return Err("not a message");
        }
        if frame.starts_with(b"-CLUSTERDOWN") || frame.starts_with(b"-TRYAGAIN") {
            return Err("the cluster cannot serve");
        }
        let Some(key) = self.answered(place) else {
            return Ok(Taken::Answer);
        };
        let Some(topic) = self.topics.get_mut(&key) else {
            return Ok(Taken::Answer);
        };
        if frame.starts_with(b"-MOVED") && place.is_some() {
            topic.redirect()?;
            return Ok(Taken::Elsewhere(key, Bytes::copy_from_slice(frame)));
        }
        // The server does not allow this topic: whoever waits for it finds it gone.
        self.topics.remove(&key);
        Ok(Taken::Answer)
    }

    /// Gives up subscribers that have been slow for too long.
    pub(super) fn look_at_clock(&mut self) {
        self.slow.retain(|client| {
            let client = client.upgrade();
            client.is_some_and(|client| client.look_at_clock())
        });
    }

    /// Forgets a topic that is unwanted, once the server has nothing more to say of it.
    fn drop_settled(&mut self, key: &Key) {
        let topic = self.topics.get(key);
        if topic.is_some_and(|topic| !topic.is_wanted && topic.asked == 0) {
            self.topics.remove(key);
        }
    }

    /// The server has answered its oldest question.
    fn answered(&mut self, place: Place) -> Option<Key> {
        let (key, _) = self.desk(place).asked.pop_front()?;
        if let Some(topic) = self.topics.get_mut(&key) {
            topic.asked = topic.asked.saturating_sub(1);
        }
        self.drop_settled(&key);
        Some(key)
    }
}

/// A message as a client of one version hears it.
fn message(kind: u8, frame: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(frame.len());
    message.put_u8(kind);
    message.put_slice(frame.get(1..).unwrap_or_default());
    message.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &'static str) -> Key {
        (Kind::Shard, Bytes::from_static(name.as_bytes()))
    }

    /// One topic that is subscribed to at the first of two nodes.
    fn subscribed(name: &'static str) -> (State, Place, Place) {
        let (first, second) = (Some(NodeId::of(0)), Some(NodeId::of(1)));
        let mut state = State::default();
        for place in [first, second] {
            state.reopen(place);
        }
        let topic = state.topics.entry(key(name)).or_default();
        topic.at = first;
        topic.waiting.insert(1);
        state.ask(&key(name), true);
        let taken = state.take(first, &answer("ssubscribe", name), &mut Vec::new());
        assert!(matches!(taken, Ok(Taken::Answer)));
        assert!(state.topics[&key(name)].is_confirmed());
        (state, first, second)
    }

    fn answer(kind: &str, name: &str) -> Vec<u8> {
        let (a, b) = (kind.len(), name.len());
        format!(">3\r\n${a}\r\n{kind}\r\n${b}\r\n{name}\r\n:1\r\n").into_bytes()
    }

    #[test]
    fn a_topic_follows_its_slot_to_another_node() {
        let (mut state, first, second) = subscribed("a");
        let told = state.take(first, &answer("sunsubscribe", "a"), &mut Vec::new());
        assert!(matches!(told, Ok(Taken::Elsewhere(gone, _)) if gone == key("a")));
        assert!(!state.topics[&key("a")].is_confirmed());
        assert!(state.move_to(&key("a"), first), "the map is not yet new");
        let told = state.take(first, b"-MOVED 15495 h:2\r\n", &mut Vec::new());
        assert!(
            matches!(told, Ok(Taken::Elsewhere(gone, text)) if gone == key("a") && !text.is_empty())
        );
        state.desk(second).outgoing.clear();
        assert!(state.move_to(&key("a"), second));
        let asked = "*2\r\n$10\r\nssubscribe\r\n$1\r\na\r\n";
        assert_eq!(&*state.desk(second).outgoing, asked.as_bytes());
        assert!(!state.is_used(first) && state.is_used(second));
    }

    #[test]
    fn nodes_that_send_each_other_a_topic_are_given_time() {
        let (mut state, first, _) = subscribed("a");
        let ends = (0..20).position(|_| {
            state.move_to(&key("a"), first);
            let moved = b"-MOVED 15495 h:1\r\n";
            state.take(first, moved, &mut Vec::new()).is_err()
        });
        assert_eq!(ends, Some(usize::from(REDIRECTS_MAX)));
        state.close(first, None);
        assert!(state.is_used(first), "it is asked for again");
    }

    #[test]
    fn answers_out_of_order_are_no_answers() {
        let (mut state, first, _) = subscribed("a");
        let stray = answer("ssubscribe", "b");
        assert!(state.take(first, &stray, &mut Vec::new()).is_err());
        let down = b"-CLUSTERDOWN The cluster is down\r\n";
        assert!(state.take(first, down, &mut Vec::new()).is_err());
    }

    #[test]
    fn an_end_that_was_asked_for_is_no_move() {
        let (mut state, first, _) = subscribed("a");
        state.topics.get_mut(&key("a")).unwrap().waiting.clear();
        state.forget_unwanted(&key("a"));
        let told = state.take(first, &answer("sunsubscribe", "a"), &mut Vec::new());
        assert!(matches!(told, Ok(Taken::Answer)));
        assert!(state.topics.is_empty());
    }
}
