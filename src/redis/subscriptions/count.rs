//! How many hear a message: the server counts the gateway once, whoever listens behind it.
//!
//! The counts of `PUBLISH`, `SPUBLISH` and `PUBSUB NUMSUB` (and `SHARDNUMSUB`) are corrected when their
//! replies pass: the gateway's own subscription is taken off and its clients are added. Inside a transaction
//! or a script they are the server's. `PUBSUB NUMPAT`, `CHANNELS` and `SHARDCHANNELS` speak of names, and
//! are right as they are.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{Hub, Kind, glob, state::Topic};
use crate::redis::{trunk::Correct, wire};

/// A reply that holds counts of subscribers.
pub(in crate::redis) struct Count {
    hub: Arc<Hub>,
    asked: Asked,
}

/// What was asked.
enum Asked {
    /// To publish on a channel.
    Publish(Kind, Bytes),
    /// For the subscribers of channels.
    Subscribers(Kind),
}

impl Count {
    /// What `words` ask for; `None` when the server's own counts are the truth.
    pub(in crate::redis) fn of(hub: &Arc<Hub>, name: &str, words: &[Bytes]) -> Option<Self> {
        if !hub.is_in_use() {
            return None;
        }
        let asked = match name {
            "publish" => Asked::Publish(Kind::Channel, words.get(1)?.clone()),
            "spublish" => Asked::Publish(Kind::Shard, words.get(1)?.clone()),
            "pubsub|numsub" => Asked::Subscribers(Kind::Channel),
            "pubsub|shardnumsub" => Asked::Subscribers(Kind::Shard),
            _ => return None,
        };
        let hub = Arc::clone(hub);
        Some(Self { hub, asked })
    }
}

impl Correct for Count {
    /// The reply with the counts as they are; `None` when it holds none, as an error does.
    fn correct(&self, reply: &[u8]) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        match &self.asked {
            Asked::Publish(kind, channel) => {
                let heard = wire::number_of(reply)?;
                wire::integer(&mut out, self.hub.hearers(*kind, channel, heard));
            }
            Asked::Subscribers(kind) => {
                let items = wire::items(reply)?;
                wire::array(&mut out, items.len());
                for pair in items.chunks_exact(2) {
                    let [name, count] = pair else { return None };
                    let channel = wire::strings(name).into_iter().next()?;
                    out.extend_from_slice(name);
                    let count = wire::number_of(count)?;
                    wire::integer(&mut out, self.hub.subscribers(*kind, channel, count));
                }
            }
        }
        Some(out)
    }
}

impl Hub {
    /// Who hears a message that the server has given to so many.
    fn hearers(&self, kind: Kind, channel: &Bytes, counted: i64) -> u64 {
        let state = self.state.lock();
        let exact = state.topics.get(&(kind, channel.clone()));
        let patterns = state.topics.iter().filter(|((other, pattern), _)| {
            kind == Kind::Channel && *other == Kind::Pattern && glob::matches(pattern, channel)
        });
        let patterns = patterns.map(|(_, topic)| topic);
        corrected(counted, exact.into_iter().chain(patterns))
    }

    /// Who is subscribed to a channel to which the server counts so many.
    fn subscribers(&self, kind: Kind, channel: Bytes, counted: i64) -> u64 {
        let state = self.state.lock();
        corrected(counted, state.topics.get(&(kind, channel)).into_iter())
    }
}

fn corrected<'a>(counted: i64, topics: impl Iterator<Item = &'a Topic>) -> u64 {
    let mut others = u64::try_from(counted).unwrap_or_default();
    let mut own = 0;
    // What the server has not confirmed it does not count either.
    for topic in topics.filter(|topic| topic.is_confirmed()) {
        others = others.saturating_sub(1);
        own += topic.members.len();
    }
    others + u64::try_from(own).unwrap_or_default()
}
