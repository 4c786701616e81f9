//! One client's subscriptions, and what it hears of them.

use std::{collections::HashSet, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::task::consume_budget;

use super::{Hub, Kind, Member, entrants::Entering};
use crate::{
    fault::Refusal,
    redis::{
        outbox::Outbox,
        wire::{self, Version},
    },
};

/// One client's subscriptions; dropped, it has left them all.
pub(in crate::redis) struct Subscriber {
    hub: Arc<Hub>,
    id: u64,
    outbox: Arc<Outbox>,
    version: Version,
    topics: Topics,
}

/// What a client is subscribed to; counted as it is acknowledged.
#[derive(Default)]
struct Topics {
    names: HashSet<(Kind, Bytes)>,
    counts: Counts,
}

/// How many subscriptions a client has.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::redis) struct Counts {
    pub(in crate::redis) channels: usize,
    pub(in crate::redis) patterns: usize,
    pub(in crate::redis) shards: usize,
}

impl Subscriber {
    pub(in crate::redis) fn new(
        hub: Arc<Hub>,
        id: u64,
        outbox: Arc<Outbox>,
        version: Version,
    ) -> Self {
        Self {
            hub,
            id,
            outbox,
            version,
            topics: Topics::default(),
        }
    }

    /// How many subscriptions it has.
    pub(in crate::redis) fn counts(&self) -> Counts {
        self.topics.counts
    }

    /// Its client speaks another version from now on.
    pub(in crate::redis) fn switch(&mut self, version: Version) {
        self.version = version;
        let names = self.topics.names.iter();
        self.hub.switch(names, self.id, version);
    }

    /// Whether it has any subscription.
    pub(in crate::redis) fn is_empty(&self) -> bool {
        self.topics.names.is_empty()
    }

    /// Subscribes to each, and acknowledges each in turn.
    ///
    /// # Cancel safety
    /// Safe: what has been acknowledged stays.
    pub(in crate::redis) async fn subscribe(
        &mut self,
        kind: Kind,
        names: &[Bytes],
    ) -> Result<(), Refusal> {
        let hub = Arc::clone(&self.hub);
        hub.known().await?;
        let entering = Entering::new(&hub, self.id);
        let mut added = Vec::with_capacity(names.len());
        let mut outcome = Ok(());
        for name in names {
            // There may be a million of them, and others have to be served, too.
            consume_budget().await;
            added.push((name, self.topics.insert(kind, name)));
            let member = Member {
                outbox: Arc::clone(&self.outbox),
                version: self.version,
            };
            let ack = self.acknowledgement(kind.commands().0, Some(name), kind);
            outcome = entering.ask((kind, name.clone()), (member, ack));
            if outcome.is_err() {
                break;
            }
        }
        // One that could not even be asked for is not among those that are given up.
        let not_asked = usize::from(outcome.is_err());
        if outcome.is_ok() {
            outcome = entering.done().await;
        }
        let lost = entering.give_up() + not_asked;
        // What it had before it still has.
        for (name, _) in added.iter().rev().take(lost).filter(|(_, is_new)| *is_new) {
            self.topics.remove(kind, name);
        }
        outcome
    }

    /// Leaves some, or all of a kind, and acknowledges each once the server has ended what nobody else is
    /// subscribed to: it counts who hears what is published next.
    ///
    /// # Cancel safety
    /// Safe: what has been acknowledged is left.
    pub(in crate::redis) async fn unsubscribe(&mut self, kind: Kind, names: &[Bytes]) {
        let all: Vec<Bytes>;
        let names = if names.is_empty() {
            all = self.topics.of_kind(kind);
            &all
        } else {
            names
        };
        let (mut acks, mut ends) = (BytesMut::new(), Vec::new());
        for name in names {
            consume_budget().await;
            let key = (kind, name.clone());
            self.topics.remove(kind, name);
            acks.extend_from_slice(&self.acknowledgement(kind.commands().1, Some(name), kind));
            if self.hub.leave(&key, self.id) {
                ends.push(key);
            }
        }
        if names.is_empty() {
            acks = self.acknowledgement(kind.commands().1, None, kind);
        }
        for key in &ends {
            consume_budget().await;
            if !self.hub.ended(key).await {
                // It does not answer, so that the others would take as long.
                break;
            }
        }
        self.outbox.append(&acks);
    }

    /// `[command, name, count]`: channels and patterns count together, shard channels apart.
    fn acknowledgement(&self, command: &str, name: Option<&Bytes>, kind: Kind) -> BytesMut {
        let count = match kind {
            Kind::Channel | Kind::Pattern => {
                self.topics.counts.channels + self.topics.counts.patterns
            }
            Kind::Shard => self.topics.counts.shards,
        };
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
        for (kind, name) in std::mem::take(&mut self.topics.names) {
            self.hub.leave(&(kind, name), self.id);
        }
    }
}

impl Topics {
    /// Adds one. False: it was there.
    fn insert(&mut self, kind: Kind, name: &Bytes) -> bool {
        let is_new = self.names.insert((kind, name.clone()));
        *self.count(kind) += usize::from(is_new);
        is_new
    }

    fn remove(&mut self, kind: Kind, name: &Bytes) {
        let was_there = self.names.remove(&(kind, name.clone()));
        *self.count(kind) -= usize::from(was_there);
    }

    fn of_kind(&self, kind: Kind) -> Vec<Bytes> {
        let of_kind = self.names.iter().filter(|(other, _)| *other == kind);
        of_kind.map(|(_, name)| name.clone()).collect()
    }

    fn count(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Channel => &mut self.counts.channels,
            Kind::Pattern => &mut self.counts.patterns,
            Kind::Shard => &mut self.counts.shards,
        }
    }
}
