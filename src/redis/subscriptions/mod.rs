//! Subscriptions: one upstream for all subscribers of a tenant, fanned out.
//!
//! The first subscriber of a channel or pattern makes the gateway subscribe; it is told so once the
//! server has confirmed, because what it publishes next must reach it. Later ones are told at once.
//! When the upstream is lost everything is subscribed again; what was published in between is lost,
//! as it is for a client that reconnects by itself.

mod count;
mod glob;
mod subscriber;
mod task;

pub(super) use count::Count;
pub(super) use subscriber::{Counts, Subscriber};

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
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
    /// Somebody is subscribed to something, or was a moment ago.
    in_use: AtomicBool,
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
    /// Subscribers to whom so much is on its way that they may not leave it so for long.
    slow: Vec<Weak<Outbox>>,
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
            in_use: AtomicBool::new(false),
        })
    }

    /// Whether anybody may be subscribed to anything.
    pub(super) fn is_in_use(&self) -> bool {
        self.in_use.load(Ordering::Relaxed)
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
            self.in_use.store(true, Ordering::Relaxed);
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
                // While it is closed nothing has been asked, so that nothing is confirmed either.
                let is_open = state.is_open;
                match state.topics.get_mut(&(kind, name.clone())) {
                    Some(topic) if is_open && topic.is_wanted && topic.asked == 0 => {
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
