//! Subscriptions: one upstream for all subscribers of a tenant, fanned out; in a cluster one for each node
//! that has shard channels which somebody is subscribed to.
//!
//! The first subscriber of a channel or pattern makes the gateway subscribe; it is told so once the
//! server has confirmed, because what it publishes next must reach it. Later ones are told at once.
//! What the server sends behind its confirmation is heard by all who have waited for that.
//! When the upstream is lost everything is subscribed again; what was published in between is lost,
//! as it is for a client that reconnects by itself.

mod count;
mod entrants;
mod glob;
mod nodes;
mod state;
mod subscriber;
mod task;

pub(super) use count::Count;
pub(super) use nodes::Nodes;
pub(super) use subscriber::{Counts, Subscriber};

use std::{
    collections::hash_map::Entry,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use self::state::{Key, Place, State, Topic};
use super::{cluster::slot, outbox::Outbox, upstream::Dialer, wire::Version};
use crate::{fault::Refusal, pool::Pool, shutdown::Shutdown};

/// How long a subscriber waits for the server to confirm the next of its topics.
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
    /// The nodes, if the database is a cluster.
    nodes: Option<Nodes>,
    state: Mutex<State>,
    /// Something was confirmed or failed.
    changed: Notify,
    /// Somebody is subscribed to something, or was a moment ago.
    in_use: AtomicBool,
}

/// Who gets the messages.
#[derive(Clone)]
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
        Self::of_answer(name.as_bytes())
    }

    /// The same of the server's answer to one, which has its name.
    fn of_answer(name: &[u8]) -> Option<(Self, bool)> {
        [Self::Channel, Self::Pattern, Self::Shard]
            .into_iter()
            .find_map(|kind| {
                let (begin, end) = kind.commands();
                let begins = name == begin.as_bytes();
                (begins || name == end.as_bytes()).then_some((kind, begins))
            })
    }
}

impl Hub {
    pub(super) fn new(
        pool: Arc<Pool<Dialer>>,
        shutdown: Shutdown,
        nodes: Option<Nodes>,
    ) -> Arc<Self> {
        Arc::new(Self {
            pool,
            shutdown,
            nodes,
            state: Mutex::default(),
            changed: Notify::new(),
            in_use: AtomicBool::new(false),
        })
    }

    /// Whether anybody may be subscribed to anything.
    pub(super) fn is_in_use(&self) -> bool {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Waits until it is known who has to be asked.
    async fn known(&self) -> Result<(), Refusal> {
        match &self.nodes {
            Some(nodes) => nodes.cluster.known().await,
            None => Ok(()),
        }
    }

    /// Who has to be asked for a topic: in a cluster the node of a shard channel's slot. All others have
    /// one node, the one that commands without keys go to, which counts those who hear them.
    fn place(&self, (kind, name): &Key) -> Result<Place, Refusal> {
        let Some(nodes) = &self.nodes else {
            return Ok(None);
        };
        let slot = (*kind == Kind::Shard).then(|| slot(name));
        let owner = nodes.cluster.owner(slot);
        owner.map(Some).ok_or_else(|| Refusal::UpstreamDown {
            cause: "no node of the cluster has this slot".into(),
        })
    }

    /// Asks the server for a topic unless it is asked for already, and has an upstream opened; the client is
    /// let in once that is confirmed.
    fn want(self: &Arc<Self>, key: Key, id: u64, entry: (Member, BytesMut)) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        let topic = match state.topics.entry(key.clone()) {
            Entry::Occupied(topic) => topic.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(Topic {
                at: self.place(&key)?,
                ..Topic::default()
            }),
        };
        let at = topic.at;
        if !topic.is_wanted {
            state.ask(&key, true);
        }
        self.see_to(&mut state, at);
        state.put_behind(key, id, entry);
        Ok(())
    }

    /// Has somebody own an upstream to that server.
    fn see_to(self: &Arc<Self>, state: &mut State, place: Place) {
        if !std::mem::replace(&mut state.desk(place).is_running, true) {
            self.in_use.store(true, Ordering::Relaxed);
            self.shutdown
                .spawn("redis-subscriptions", task::run(Arc::clone(self), place));
        }
    }

    /// A server has a topic no longer; `reply` may say where it is.
    fn follow(self: &Arc<Self>, key: &Key, from: Place, reply: &Bytes) {
        let Some((nodes, from)) = self.nodes.as_ref().zip(from) else {
            return;
        };
        let told = nodes.cluster.follow(reply, from);
        if told.is_none() {
            nodes.cluster.doubt();
        }
        let place = told.or_else(|| self.place(key).ok().flatten());
        let mut state = self.state.lock();
        if state.move_to(key, place.or(Some(from))) {
            self.see_to(&mut state, place.or(Some(from)));
        }
    }

    /// Notes that the upstream has ended. True: nobody needs another to this server.
    fn close(self: &Arc<Self>, place: Place, fault: Option<Refusal>) -> bool {
        let mut state = self.state.lock();
        state.close(place, fault);
        if self.nodes.is_some() {
            // What it had may be another's by now.
            let keys: Vec<Key> = state.topics.keys().cloned().collect();
            for key in keys {
                let at = state.topics.get(&key).map(|topic| topic.at);
                if at == Some(place)
                    && let Ok(now) = self.place(&key)
                    && now != place
                    && state.move_to(&key, now)
                {
                    self.see_to(&mut state, now);
                }
            }
        }
        let unused = !state.is_used(place) || self.shutdown.is_draining();
        state.desk(place).is_running = !unused;
        self.in_use.store(state.is_running(), Ordering::Relaxed);
        drop(state);
        self.changed.notify_waiters();
        unused
    }

    /// A client hears of its topics in another version from now on.
    fn switch<'n>(
        &self,
        names: impl Iterator<Item = &'n (Kind, Bytes)>,
        id: u64,
        version: Version,
    ) {
        let mut state = self.state.lock();
        for name in names {
            let topic = state.topics.get_mut(name);
            if let Some(member) = topic.and_then(|topic| topic.members.get_mut(&id)) {
                member.version = version;
            }
        }
    }

    /// Takes a client off a topic. True: the server is asked to end it.
    fn leave(&self, key: &Key, id: u64) -> bool {
        let mut state = self.state.lock();
        if let Some(topic) = state.topics.get_mut(key) {
            topic.members.remove(&id);
        }
        state.forget_unwanted(key);
        state.topics.get(key).is_some_and(Topic::is_ending)
    }

    /// Waits until the server has ended a topic, or somebody wants it again. False: that takes too long.
    async fn ended(&self, key: &Key) -> bool {
        let until = Instant::now() + CONFIRM_MAX;
        loop {
            let changed = self.changed.notified();
            let is_ending = self.state.lock().topics.get(key).map(Topic::is_ending);
            if is_ending != Some(true) {
                return true;
            }
            if timeout_at(until, changed).await.is_err() {
                return false;
            }
        }
    }
}
