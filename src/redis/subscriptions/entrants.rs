//! Clients on their way into topics.
//!
//! A client is a subscriber from the very frame on by which the server confirms its topic: what is
//! published right behind is heard by everybody whom the server has counted.

use std::{collections::VecDeque, sync::Arc};

use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};

use super::{
    CONFIRM_MAX, Hub, Member,
    state::{Key, Place, State},
};
use crate::fault::Refusal;

/// A client that has asked for topics and has not been told of all of them.
pub(super) struct Entrant {
    member: Member,
    /// What is still to come, in the order in which it was named, each with its acknowledgement.
    left: VecDeque<(Key, BytesMut)>,
}

/// The wait of a client until it is in; dropped, it waits no longer.
pub(super) struct Entering<'a> {
    hub: &'a Arc<Hub>,
    id: u64,
}

/// Where a client stands that is not in yet.
struct Standing {
    /// How many topics are still to come.
    left: usize,
    /// Who is asked for the next, how often that one has failed, and how it did last.
    place: Place,
    failures: u64,
    fault: Option<Refusal>,
}

impl State {
    /// Puts a client behind a topic, and lets it in if it has nothing to wait for.
    pub(super) fn put_behind(
        &mut self,
        key: Key,
        id: u64,
        (member, acknowledgement): (Member, BytesMut),
    ) {
        if let Some(topic) = self.topics.get_mut(&key) {
            topic.waiting.insert(id);
        }
        let entrant = self.entrants.entry(id).or_insert_with(|| Entrant {
            member,
            left: VecDeque::new(),
        });
        entrant.left.push_back((key, acknowledgement));
        self.let_in(id);
    }

    /// Lets everybody in who has waited for a topic.
    pub(super) fn let_all_in(&mut self, key: &Key) {
        let Some(topic) = self.topics.get(key) else {
            return;
        };
        for id in topic.waiting.clone() {
            self.let_in(id);
        }
    }

    /// Lets a client in as far as servers have confirmed what it has asked for.
    fn let_in(&mut self, id: u64) {
        let Some(entrant) = self.entrants.get_mut(&id) else {
            return;
        };
        while let Some((key, acknowledgement)) = entrant.left.front() {
            let Some(topic) = self.topics.get_mut(key) else {
                return;
            };
            // While it is closed nothing has been asked, so that nothing is confirmed either.
            let is_open = self.desks.get(&topic.at).is_some_and(|desk| desk.is_open);
            if !is_open || !topic.is_confirmed() {
                return;
            }
            entrant.member.outbox.append(acknowledgement);
            topic.members.insert(id, entrant.member.clone());
            topic.waiting.remove(&id);
            entrant.left.pop_front();
        }
        self.entrants.remove(&id);
    }

    /// Where a client stands; nothing if it is in, and an error if the server does not allow the next topic.
    fn standing(&mut self, id: u64) -> Result<Option<Standing>, Refusal> {
        let Some(entrant) = self.entrants.get(&id) else {
            return Ok(None);
        };
        let Some((key, _)) = entrant.left.front() else {
            return Ok(None);
        };
        let Some(topic) = self.topics.get(key) else {
            return Err(Refusal::NotPermitted {
                what: key.0.commands().0.into(),
            });
        };
        let desk = self.desks.entry(topic.at).or_default();
        Ok(Some(Standing {
            left: entrant.left.len(),
            place: topic.at,
            failures: desk.failures,
            fault: desk.fault.clone(),
        }))
    }

    /// A client waits no longer; how many topics it has not got.
    fn turn_away(&mut self, id: u64) -> usize {
        let Some(entrant) = self.entrants.remove(&id) else {
            return 0;
        };
        for (key, _) in &entrant.left {
            if let Some(topic) = self.topics.get_mut(key) {
                topic.waiting.remove(&id);
            }
            self.forget_unwanted(key);
        }
        entrant.left.len()
    }
}

impl<'a> Entering<'a> {
    pub(super) fn new(hub: &'a Arc<Hub>, id: u64) -> Self {
        Self { hub, id }
    }

    /// Asks for one more topic; the acknowledgement is heard once the server has confirmed it.
    pub(super) fn ask(&self, key: Key, entry: (Member, BytesMut)) -> Result<(), Refusal> {
        self.hub.want(key, self.id, entry)
    }

    /// Gives up what has not been confirmed; how many topics that are.
    pub(super) fn give_up(&self) -> usize {
        self.hub.state.lock().turn_away(self.id)
    }

    /// Waits until servers have confirmed everything.
    pub(super) async fn done(&self) -> Result<(), Refusal> {
        let mut first: Option<Standing> = None;
        let mut until = Instant::now() + CONFIRM_MAX;
        loop {
            let changed = self.hub.changed.notified();
            let Some(now) = self.hub.state.lock().standing(self.id)? else {
                return Ok(());
            };
            match &first {
                Some(before) if (before.left, before.place) == (now.left, now.place) => {
                    if now.failures > before.failures
                        && let Some(fault) = now.fault
                    {
                        return Err(fault);
                    }
                }
                Some(before) => {
                    if before.left != now.left {
                        until = Instant::now() + CONFIRM_MAX;
                    }
                    first = Some(now);
                }
                None => first = Some(now),
            }
            if timeout_at(until, changed).await.is_err() {
                return Err(Refusal::TimedOut {
                    what: "subscription",
                });
            }
        }
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;
    use crate::{
        net::{self, Address, Stream},
        redis::{
            outbox::{Bounds, Outbox},
            settings::Settings,
            subscriptions::Kind,
            wire::Version,
        },
    };

    async fn client() -> (Member, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address {
            host: "127.0.0.1",
            port: listener.local_addr().unwrap().port(),
        };
        let client = net::dial(address, CONFIRM_MAX).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let bounds = Bounds::of(&Settings::default());
        let outbox = Outbox::new(Stream::plain(accepted).unwrap(), bounds);
        let version = Version::Resp3;
        (Member { outbox, version }, client)
    }

    fn key(name: &'static str) -> Key {
        (Kind::Channel, Bytes::from_static(name.as_bytes()))
    }

    /// A client that waits for topics at an open server; what it hears of each is `ack NAME`.
    fn entering(state: &mut State, member: &Member, names: &[&'static str]) {
        for name in names {
            state.topics.entry(key(name)).or_default();
            if !state.topics[&key(name)].is_wanted {
                state.ask(&key(name), true);
            }
            let ack = BytesMut::from(format!("ack {name} ").as_bytes());
            state.put_behind(key(name), 1, (member.clone(), ack));
        }
    }

    fn frame(state: &mut State, text: &str) {
        assert!(state.take(None, text.as_bytes(), &mut Vec::new()).is_ok());
    }

    fn confirm(name: &str) -> String {
        format!(">3\r\n$9\r\nsubscribe\r\n$1\r\n{name}\r\n:1\r\n")
    }

    fn message(name: &str) -> String {
        format!(">3\r\n$7\r\nmessage\r\n$1\r\n{name}\r\n$2\r\nhi\r\n")
    }

    async fn heard(member: &Member, mut client: Stream, bytes: usize) -> String {
        member.outbox.flush();
        let mut heard = vec![0; bytes];
        client.read_exact(&mut heard).await.unwrap();
        String::from_utf8(heard).unwrap()
    }

    #[tokio::test]
    async fn what_stands_right_behind_the_confirmation_is_heard() {
        let (member, client) = client().await;
        let mut state = State::default();
        state.reopen(None);
        entering(&mut state, &member, &["a"]);
        frame(&mut state, &message("a"));
        frame(&mut state, &confirm("a"));
        frame(&mut state, &message("a"));
        let expected = format!("ack a {}", message("a"));
        assert_eq!(heard(&member, client, expected.len()).await, expected);
        assert!(state.entrants.is_empty() && state.topics[&key("a")].waiting.is_empty());
    }

    #[tokio::test]
    async fn topics_are_entered_in_the_order_of_their_names() {
        let (member, client) = client().await;
        let mut state = State::default();
        state.reopen(None);
        let other = Member { ..member.clone() };
        state.topics.entry(key("b")).or_default();
        state.ask(&key("b"), true);
        frame(&mut state, &confirm("b"));
        entering(&mut state, &other, &["a", "b", "a"]);
        // It is not in yet: the acknowledgement of the first has to come first.
        frame(&mut state, &message("b"));
        frame(&mut state, &confirm("a"));
        frame(&mut state, &message("b"));
        let expected = format!("ack a ack b ack a {}", message("b"));
        assert_eq!(heard(&member, client, expected.len()).await, expected);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_waiting() {
        let (member, _client) = client().await;
        let mut state = State::default();
        state.reopen(None);
        entering(&mut state, &member, &["a", "b"]);
        frame(&mut state, &confirm("a"));
        assert_eq!(state.turn_away(1), 1, "b has not been confirmed");
        assert!(state.topics[&key("b")].is_ending());
        assert!(state.topics[&key("a")].members.contains_key(&1));
    }
}
