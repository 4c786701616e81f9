//! The account of the shared listener: who hears what, and who waits for which of its answers.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::Waker,
};

use bytes::{BufMut, BytesMut};
use tokio::time::Instant;

use super::{Channel, End, Member};
use crate::postgres::wire;

/// What one tenant's clients listen to, and what the upstream that does it was asked.
#[derive(Default)]
pub(super) struct State {
    /// A task owns the upstream, or opens one.
    is_running: bool,
    /// Messages that the task has not taken yet.
    outgoing: BytesMut,
    /// The task, if it waits for messages.
    task: Option<Waker>,
    /// What was asked and not answered: when, and who is to be told.
    asked: VecDeque<(Instant, Vec<Arc<Member>>)>,
    /// The last question asked has not been taken by the task.
    is_open: bool,
    channels: HashMap<Channel, Topic>,
    /// Members whose token is to come, and the channels that they hear from then on.
    joining: HashMap<u64, (Arc<Member>, Vec<Channel>)>,
    /// Server processes, and the keys of the clients that they work for.
    owners: HashMap<u32, u32>,
    /// The channel of tokens: nobody else can know it.
    own_channel: String,
}

#[derive(Default)]
struct Topic {
    members: HashMap<u64, Arc<Member>>,
    /// Members whose token is to come.
    joining: usize,
}

/// The server's answers end: what it said, if it did.
#[derive(Debug)]
pub(super) struct Lost(pub(super) Option<Arc<[u8]>>);

impl State {
    pub(super) fn own_channel(&self) -> &str {
        &self.own_channel
    }

    /// True: a task is to be started.
    pub(super) fn join(&mut self, member: &Arc<Member>, channels: &[Channel]) -> bool {
        let starts = !std::mem::replace(&mut self.is_running, true);
        let mut text = String::new();
        if starts {
            self.own_channel = format!("polypool {:016x}", random());
            push_command(&mut text, "LISTEN", self.own_channel.as_bytes());
        }
        for channel in channels {
            let topic = self.channels.entry(Arc::clone(channel)).or_default();
            if topic.joining == 0 && topic.members.is_empty() {
                push_command(&mut text, "LISTEN", channel);
            }
            topic.joining += 1;
        }
        let joining = (Arc::clone(member), channels.to_vec());
        self.joining.insert(member.id, joining);
        self.ask(&text, Some(member));
        starts
    }

    /// False: there is nobody to ask.
    pub(super) fn sync(&mut self, member: &Arc<Member>) -> bool {
        if self.is_running {
            match self.asked.back_mut() {
                // The question is not on its way yet, so its answer is late enough.
                Some((_, tell)) if self.is_open => tell.push(Arc::clone(member)),
                _ => self.ask("", Some(member)),
            }
        }
        self.is_running
    }

    pub(super) fn own(&mut self, process: u32, key: u32) -> bool {
        if self.is_running {
            self.owners.insert(process, key);
        }
        self.is_running
    }

    pub(super) fn owner(&self, process: u32) -> Option<u32> {
        self.owners.get(&process).copied()
    }

    pub(super) fn disown(&mut self, process: u32) {
        self.owners.remove(&process);
    }

    pub(super) fn leave<'c>(
        &mut self,
        member: &Member,
        channels: impl Iterator<Item = &'c Channel>,
    ) {
        let mut text = String::new();
        let joining = self.joining.remove(&member.id).map(|(_, joining)| joining);
        let mut leave = |channel: &Channel, joining: bool| {
            let Some(topic) = self.channels.get_mut(channel) else {
                return;
            };
            if joining {
                topic.joining -= 1;
            } else {
                topic.members.remove(&member.id);
            }
            if topic.joining == 0 && topic.members.is_empty() {
                self.channels.remove(channel);
                push_command(&mut text, "UNLISTEN", channel);
            }
        };
        joining
            .iter()
            .flatten()
            .for_each(|channel| leave(channel, true));
        channels.for_each(|channel| leave(channel, false));
        if self.is_running && !text.is_empty() {
            self.ask(&text, None);
        }
        let hears = |channel: &[u8]| {
            let topic = self.channels.get(channel);
            topic.is_some_and(|topic| topic.members.contains_key(&member.id))
        };
        member.forget(hears);
        if !self.is_used() {
            // It may end: the task looks at that.
            self.wake();
        }
    }

    /// Whether anybody hears something, or is about to.
    pub(super) fn is_used(&self) -> bool {
        !self.channels.is_empty()
    }

    /// Takes what is to be sent; leaves the task's waker where there is nothing.
    pub(super) fn take_outgoing(&mut self, into: &mut BytesMut, task: &Waker) {
        if self.outgoing.is_empty() {
            self.task = Some(task.clone());
        }
        self.is_open = false;
        std::mem::swap(into, &mut self.outgoing);
    }

    /// For how long the oldest question waits for its answer.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.asked.front().map(|(since, _)| *since)
    }

    /// Asks for a sign of life.
    pub(super) fn ping(&mut self) {
        if self.asked.is_empty() {
            self.ask("", None);
        }
    }

    /// Takes in a message of the server's.
    ///
    /// # Errors
    /// An error of the server's: nothing that is asked here should fail.
    pub(super) fn take(&mut self, tag: u8, body: &[u8]) -> Result<(), Lost> {
        match tag {
            b'A' => self.notified(body),
            b'Z' => {
                for member in self
                    .asked
                    .pop_front()
                    .into_iter()
                    .flat_map(|(_, tell)| tell)
                {
                    member.answer();
                }
            }
            b'E' => {
                let mut words = BytesMut::new();
                wire::tagged(&mut words, b'E', |out| out.put_slice(body));
                let fatal = wire::error_fields(body)
                    .any(|(letter, text)| letter == b'V' && matches!(text, b"FATAL" | b"PANIC"));
                return Err(Lost(fatal.then(|| Arc::from(words.as_ref()))));
            }
            _ => {}
        }
        Ok(())
    }

    fn notified(&mut self, body: &[u8]) {
        let Some((process, rest)) = body.split_first_chunk::<4>() else {
            return;
        };
        let Some((channel, payload)) = wire::split_cstr(rest) else {
            return;
        };
        if channel == self.own_channel.as_bytes() {
            self.token(payload);
            return;
        }
        let Some(topic) = self.channels.get(channel) else {
            return;
        };
        let process = u32::from_be_bytes(*process);
        let process = self.owner(process).unwrap_or(process);
        let mut message = BytesMut::with_capacity(wire::HEADER_BYTES + body.len());
        wire::tagged(&mut message, b'A', |out| {
            out.put_u32(process);
            out.put_slice(rest);
        });
        let message = message.freeze();
        for member in topic.members.values() {
            member.push(&message);
        }
    }

    /// A member's token: from here on its channels are heard for it.
    fn token(&mut self, payload: &[u8]) {
        let id = payload.strip_suffix(&[0]).unwrap_or(payload);
        let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
        let Some((member, channels)) = id.and_then(|id: u64| self.joining.remove(&id)) else {
            return;
        };
        for channel in channels {
            if let Some(topic) = self.channels.get_mut(&channel) {
                topic.joining -= 1;
                topic.members.insert(member.id, Arc::clone(&member));
            }
        }
        member.join();
    }

    /// The upstream has ended: everybody who relied on it is told.
    pub(super) fn close(&mut self, end: &End) {
        let state = std::mem::take(self);
        let waiting = state.asked.into_iter().flat_map(|(_, tell)| tell);
        let members = state.channels.into_values();
        let members = members.flat_map(|topic| topic.members.into_values());
        let joining = state.joining.into_values().map(|(member, _)| member);
        for member in waiting.chain(members).chain(joining) {
            member.end(end.clone());
        }
    }

    /// Ends, if nobody needs it. True: it has.
    pub(super) fn close_unused(&mut self) -> bool {
        let unused = !self.is_used() && self.asked.iter().all(|(_, tell)| tell.is_empty());
        if unused {
            *self = Self::default();
        }
        unused
    }

    fn ask(&mut self, text: &str, tell: Option<&Arc<Member>>) {
        wire::query(&mut self.outgoing, text);
        let tell = tell.into_iter().map(Arc::clone).collect();
        self.asked.push_back((Instant::now(), tell));
        self.is_open = true;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

/// The channel of a `NotificationResponse`.
pub(super) fn channel_of(message: &[u8]) -> Option<&[u8]> {
    let rest = message.get(wire::HEADER_BYTES + 4..)?;
    wire::split_cstr(rest).map(|(channel, _)| channel)
}

/// The statement that begins or ends listening to a channel. Its name comes from the server, and is
/// in its encoding.
pub(in crate::postgres) fn push_command(text: &mut String, command: &str, channel: &[u8]) {
    if !text.is_empty() {
        text.push(';');
    }
    text.push_str(command);
    text.push_str(" \"");
    text.push_str(&String::from_utf8_lossy(channel).replace('"', "\"\""));
    text.push('"');
}

/// Without randomness from the system only the name is easier to guess.
fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        state: State,
        sent: String,
    }

    impl Scene {
        /// What the task sends now.
        fn sent(&mut self) -> &str {
            let mut out = BytesMut::new();
            self.state.take_outgoing(&mut out, Waker::noop());
            self.sent.clear();
            while out.len() > wire::HEADER_BYTES {
                let length = u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize;
                let body = out.split_to(length + 1);
                let text = String::from_utf8_lossy(&body[5..length]).into_owned();
                let own = format!("LISTEN \"{}\";", self.state.own_channel);
                self.sent.push_str(&text.replace(&own, ""));
                self.sent.push('|');
            }
            &self.sent
        }

        fn notified(&mut self, process: u32, channel: &str, payload: &str) {
            let texts = [channel.as_bytes(), &[0], payload.as_bytes(), &[0]].concat();
            let body = [&process.to_be_bytes()[..], &texts].concat();
            self.state.take(b'A', &body).unwrap();
        }

        fn join(&mut self, member: &Arc<Member>, channel: &str) {
            self.state.join(member, &[channel.as_bytes().into()]);
        }

        fn token(&mut self, member: &Member) {
            let own = self.state.own_channel.clone();
            self.notified(1, &own, &member.id.to_string());
        }
    }

    fn scene() -> Scene {
        Scene {
            state: State::default(),
            sent: String::new(),
        }
    }

    fn heard(member: &Member) -> Vec<(u32, String)> {
        let messages = std::iter::from_fn(|| member.pop());
        let read = |message: bytes::Bytes| {
            let process = u32::from_be_bytes(message[5..9].try_into().unwrap());
            let text = String::from_utf8_lossy(&message[9..message.len() - 1]);
            (process, text.replace('\0', " "))
        };
        messages.map(read).collect()
    }

    #[test]
    fn a_member_hears_from_its_token_on() {
        let (mut scene, one, two) = (scene(), Member::new(1, 1000), Member::new(2, 1000));
        scene.join(&one, "a");
        scene.join(&two, "a");
        assert_eq!(scene.sent(), "LISTEN \"a\"||");
        scene.state.take(b'Z', b"I").unwrap();
        assert!(one.take_answer() && !two.take_answer());
        scene.token(&one);
        assert!(one.take_joined() && !two.take_joined());
        scene.notified(7, "a", "1");
        scene.token(&two);
        scene.state.own(7, 70);
        scene.notified(7, "a", "2");
        scene.state.disown(7);
        scene.notified(7, "a", "3");
        let all = [(7, "a 1".into()), (70, "a 2".into()), (7, "a 3".into())];
        assert_eq!(heard(&one), all);
        assert_eq!(heard(&two), all[1..]);
    }

    #[test]
    fn the_last_to_leave_ends_a_channel() {
        let (mut scene, one, two) = (scene(), Member::new(1, 1000), Member::new(2, 1000));
        let channel: Channel = b"a\"b"[..].into();
        for member in [&one, &two] {
            scene.join(member, "a\"b");
            scene.token(member);
        }
        assert_eq!(scene.sent(), "LISTEN \"a\"\"b\"||");
        scene.notified(7, "a\"b", "unread");
        scene.state.leave(&one, [&channel].into_iter());
        assert!(heard(&one).is_empty() && scene.state.is_used());
        assert_eq!(scene.sent(), "");
        scene.state.leave(&two, [&channel].into_iter());
        assert_eq!(scene.sent(), "UNLISTEN \"a\"\"b\"|");
        assert!(!scene.state.is_used());
        assert!(one.take_joined());
        // One that leaves before its token has come counts as well.
        scene.join(&one, "c");
        scene.state.leave(&one, [].into_iter());
        assert_eq!(scene.sent(), "LISTEN \"c\"|UNLISTEN \"c\"|");
        scene.token(&one);
        assert!(!one.take_joined());
    }

    #[test]
    fn one_question_serves_all_who_ask_before_it_is_sent() {
        let (mut scene, one, two) = (scene(), Member::new(1, 1000), Member::new(2, 1000));
        assert!(!scene.state.sync(&one), "there is nobody to ask");
        scene.join(&one, "a");
        scene.sent();
        scene.state.take(b'Z', b"I").unwrap();
        one.take_answer();
        assert!(scene.state.sync(&one) && scene.state.sync(&two));
        assert_eq!(scene.sent(), "|");
        assert!(scene.state.sync(&one));
        assert_eq!(scene.sent(), "|");
        scene.state.take(b'Z', b"I").unwrap();
        assert!(one.take_answer() && two.take_answer());
        scene.state.take(b'Z', b"I").unwrap();
        assert!(one.take_answer() && !two.take_answer());
    }

    #[test]
    fn what_waits_is_bounded_and_a_loss_is_told() {
        let (mut scene, one, two) = (scene(), Member::new(1, 30), Member::new(2, 1000));
        for member in [&one, &two] {
            scene.join(member, "a");
            scene.token(member);
        }
        for _ in 0..3 {
            scene.notified(7, "a", "x");
        }
        assert!(matches!(one.ended(), Some(End::Full)) && heard(&one).is_empty());
        assert_eq!(heard(&two).len(), 3);
        let fatal = b"SFATAL\0VFATAL\0C57P01\0Mgone\0\0";
        let Err(Lost(Some(said))) = scene.state.take(b'E', fatal) else {
            panic!("it is the server's last word");
        };
        assert_eq!(&said[5..], fatal);
        scene.state.close(&End::Lost(Some(said)));
        assert!(matches!(two.ended(), Some(End::Lost(Some(_)))));
        assert!(!scene.state.sync(&two));
    }
}
