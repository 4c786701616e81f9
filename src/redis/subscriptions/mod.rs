//! Subscriptions: one upstream for all subscribers of a tenant, fanned out.
//!
//! The first subscriber of a channel or pattern makes the gateway subscribe; it is told so once the
//! server has confirmed, because what it publishes next must reach it. Later ones are told at once.
//! When the upstream is lost everything is subscribed again; what was published in between is lost,
//! as it is for a client that reconnects by itself.

mod task;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::Waker,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};

use super::{
    outbox::Outbox,
    upstream::Dialer,
    wire::{self, Version},
};
use crate::{fault::Refusal, pool::Pool, shutdown::Shutdown};

/// How long a subscriber waits for the server to confirm.
const CONFIRM_MAX: Duration = Duration::from_secs(10);

/// What can be subscribed to; the three have names of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// `SUBSCRIBE`.
    Channel,
    /// `PSUBSCRIBE`.
    Pattern,
    /// `SSUBSCRIBE`.
    Shard,
}

/// The subscriptions of one tenant.
pub(super) struct Hub {
    pool: Arc<Pool<Dialer>>,
    shutdown: Shutdown,
    state: Mutex<State>,
    /// Something was confirmed or failed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    topics: HashMap<(Kind, Bytes), Topic>,
    /// Commands that are not written yet.
    outgoing: BytesMut,
    /// What the server has been asked and has not answered, in order.
    asked: VecDeque<(Kind, Bytes)>,
    /// Waits to be woken when there is something to write.
    idle: Option<Waker>,
    /// The task that owns the upstream lives.
    is_running: bool,
    /// Commands may be written: the upstream is open.
    is_open: bool,
    /// Failures so far, and the last: whoever waits since before it is told.
    failures: u64,
    fault: Option<Refusal>,
}

/// A channel or a pattern.
#[derive(Default)]
struct Topic {
    members: HashMap<u64, Member>,
    /// Clients that wait for the confirmation.
    waiting: usize,
    /// Questions about it that the server has not answered.
    asked: usize,
    /// The last question was to subscribe.
    is_wanted: bool,
}

/// Who gets the messages.
struct Member {
    outbox: Arc<Outbox>,
    version: Version,
}

/// One client's subscriptions; dropped, it has left them all.
pub(super) struct Subscriber {
    hub: Arc<Hub>,
    id: u64,
    outbox: Arc<Outbox>,
    version: Version,
    /// In the order of subscribing, by kind.
    topics: Vec<(Kind, Bytes)>,
}

impl Kind {
    /// The commands that begin and end a subscription.
    const fn commands(self) -> (&'static str, &'static str) {
        match self {
            Self::Channel => ("subscribe", "unsubscribe"),
            Self::Pattern => ("psubscribe", "punsubscribe"),
            Self::Shard => ("ssubscribe", "sunsubscribe"),
        }
    }

    /// The kind that a command of the family is about, and whether it subscribes.
    pub(super) fn of_command(name: &str) -> Option<(Self, bool)> {
        [Self::Channel, Self::Pattern, Self::Shard]
            .into_iter()
            .find_map(|kind| {
                let (begin, end) = kind.commands();
                (name == begin || name == end).then_some((kind, name == begin))
            })
    }
}

impl Hub {
    pub(super) fn new(pool: Arc<Pool<Dialer>>, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self {
            pool,
            shutdown,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Asks the server for a topic unless it is asked for already, and has an upstream opened.
    fn want(self: &Arc<Self>, kind: Kind, name: &Bytes) {
        let mut state = self.state.lock();
        let topic = state.topics.entry((kind, name.clone())).or_default();
        topic.waiting += 1;
        if !topic.is_wanted {
            state.ask(kind, name, true);
        }
        if !state.is_running {
            state.is_running = true;
            self.shutdown
                .spawn("redis-subscriptions", task::run(Arc::clone(self)));
        }
    }

    /// Waits until the server has confirmed; then `join` runs before any message can be delivered.
    async fn confirmed(
        &self,
        kind: Kind,
        name: &Bytes,
        join: impl FnOnce(&mut Topic),
    ) -> Result<(), Refusal> {
        let failures = self.state.lock().failures;
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state.lock();
                if state.failures > failures
                    && let Some(fault) = &state.fault
                {
                    return Err(fault.clone());
                }
                match state.topics.get_mut(&(kind, name.clone())) {
                    Some(topic) if topic.is_wanted && topic.asked == 0 => {
                        join(topic);
                        return Ok(());
                    }
                    Some(_) => {}
                    None => {
                        return Err(Refusal::NotPermitted {
                            what: kind.commands().0.into(),
                        });
                    }
                }
            }
            if timeout(CONFIRM_MAX, changed).await.is_err() {
                return Err(Refusal::TimedOut {
                    what: "subscription",
                });
            }
        }
    }

    /// A client waits no longer.
    fn waited(&self, kind: Kind, name: &Bytes) {
        let mut state = self.state.lock();
        if let Some(topic) = state.topics.get_mut(&(kind, name.clone())) {
            topic.waiting = topic.waiting.saturating_sub(1);
        }
        state.forget_unwanted(kind, name);
    }

    fn leave(&self, kind: Kind, name: &Bytes, id: u64) {
        let mut state = self.state.lock();
        if let Some(topic) = state.topics.get_mut(&(kind, name.clone())) {
            topic.members.remove(&id);
        }
        state.forget_unwanted(kind, name);
    }
}

impl State {
    /// Puts a question to the server into the buffer, if the upstream is open.
    fn ask(&mut self, kind: Kind, name: &Bytes, is_wanted: bool) {
        let Some(topic) = self.topics.get_mut(&(kind, name.clone())) else {
            return;
        };
        topic.is_wanted = is_wanted;
        if !self.is_open {
            // Everything wanted is asked for once it is.
            return;
        }
        topic.asked += 1;
        let (begin, end) = kind.commands();
        let command = if is_wanted { begin } else { end };
        wire::encode_command(&mut self.outgoing, &[command.as_bytes(), name]);
        self.asked.push_back((kind, name.clone()));
        if let Some(task) = self.idle.take() {
            task.wake();
        }
    }

    /// Ends the subscription to a topic that nobody has or waits for.
    fn forget_unwanted(&mut self, kind: Kind, name: &Bytes) {
        let Some(topic) = self.topics.get(&(kind, name.clone())) else {
            return;
        };
        if !topic.members.is_empty() || topic.waiting > 0 {
            return;
        }
        if topic.is_wanted {
            self.ask(kind, name, false);
        }
        self.drop_settled(kind, name);
    }

    /// Forgets a topic that is unwanted, once the server has nothing more to say of it.
    fn drop_settled(&mut self, kind: Kind, name: &Bytes) {
        let key = (kind, name.clone());
        if self
            .topics
            .get(&key)
            .is_some_and(|topic| !topic.is_wanted && topic.asked == 0)
        {
            self.topics.remove(&key);
        }
    }

    /// The server has answered its oldest question.
    fn answered(&mut self) -> Option<(Kind, Bytes)> {
        let (kind, name) = self.asked.pop_front()?;
        if let Some(topic) = self.topics.get_mut(&(kind, name.clone())) {
            topic.asked = topic.asked.saturating_sub(1);
        }
        self.drop_settled(kind, &name);
        Some((kind, name))
    }
}

impl Subscriber {
    pub(super) fn new(hub: Arc<Hub>, id: u64, outbox: Arc<Outbox>, version: Version) -> Self {
        Self {
            hub,
            id,
            outbox,
            version,
            topics: Vec::new(),
        }
    }

    /// Whether it has any subscription.
    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Subscribes to each, and acknowledges each in turn.
    ///
    /// # Cancel safety
    /// Safe: what has been acknowledged stays.
    pub(super) async fn subscribe(&mut self, kind: Kind, names: &[Bytes]) -> Result<(), Refusal> {
        let hub = Arc::clone(&self.hub);
        for name in names {
            hub.want(kind, name);
        }
        let mut waits: VecDeque<Wait<'_>> = names
            .iter()
            .map(|name| Wait {
                hub: &hub,
                kind,
                name,
            })
            .collect();
        while let Some(wait) = waits.pop_front() {
            let key = (kind, wait.name.clone());
            if !self.topics.contains(&key) {
                self.topics.push(key);
            }
            let ack = self.acknowledgement(kind.commands().0, Some(wait.name), kind);
            let member = Member {
                outbox: Arc::clone(&self.outbox),
                version: self.version,
            };
            let (id, outbox) = (self.id, Arc::clone(&self.outbox));
            let confirmed = hub
                .confirmed(kind, wait.name, |topic| {
                    // Under the lock of the hub: no message can come before it.
                    outbox.append(|out| out.extend_from_slice(&ack));
                    topic.members.insert(id, member);
                })
                .await;
            if let Err(refusal) = confirmed {
                self.topics
                    .retain(|topic| *topic != (kind, wait.name.clone()));
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// Leaves some, or all of a kind, and acknowledges each.
    pub(super) fn unsubscribe(&mut self, kind: Kind, names: &[Bytes]) {
        let all: Vec<Bytes>;
        let names = if names.is_empty() {
            let of_kind = self.topics.iter().filter(|(other, _)| *other == kind);
            all = of_kind.map(|(_, name)| name.clone()).collect();
            &all
        } else {
            names
        };
        for name in names {
            self.topics.retain(|topic| *topic != (kind, name.clone()));
            self.hub.leave(kind, name, self.id);
            let ack = self.acknowledgement(kind.commands().1, Some(name), kind);
            self.outbox.append(|out| out.extend_from_slice(&ack));
        }
        if names.is_empty() {
            let ack = self.acknowledgement(kind.commands().1, None, kind);
            self.outbox.append(|out| out.extend_from_slice(&ack));
        }
    }

    /// `[command, name, count]`: channels and patterns count together, shard channels apart.
    fn acknowledgement(&self, command: &str, name: Option<&Bytes>, kind: Kind) -> BytesMut {
        let is_shard = kind == Kind::Shard;
        let count = self
            .topics
            .iter()
            .filter(|(other, _)| (*other == Kind::Shard) == is_shard)
            .count();
        let mut out = BytesMut::new();
        wire::push(&mut out, self.version, 3);
        wire::bulk(&mut out, command.as_bytes());
        match name {
            Some(name) => wire::bulk(&mut out, name),
            None => out.extend_from_slice(self.version.pick([b"$-1\r\n", b"_\r\n"])),
        }
        wire::integer(&mut out, u64::try_from(count).unwrap_or(u64::MAX));
        out
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        for (kind, name) in std::mem::take(&mut self.topics) {
            self.hub.leave(kind, &name, self.id);
        }
    }
}

/// The wait for a confirmation; dropped, it is over.
struct Wait<'a> {
    hub: &'a Hub,
    kind: Kind,
    name: &'a Bytes,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.hub.waited(self.kind, self.name);
    }
}
