//! A blocking command asked once, without blocking: for a client whose time is over before it had an
//! upstream to block on.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Cluster,
    call::{Call, Sink},
};
use crate::{
    fault::{Effect, Refusal},
    redis::{blocking::Wish, wire::Version},
};

/// A reply that a client is to have. Dropped without being taken, what it has taken out of the database
/// goes back.
pub(in crate::redis) struct Gift {
    cluster: Arc<Cluster>,
    wish: Wish,
    slot: Option<u16>,
    version: Version,
    reply: Bytes,
}

impl Gift {
    /// The whole reply.
    pub(in crate::redis) fn reply(&self) -> &[u8] {
        &self.reply
    }

    /// The client has it.
    pub(in crate::redis) fn take(&mut self) {
        self.reply = Bytes::new();
    }
}

impl Drop for Gift {
    fn drop(&mut self) {
        let Some(undo) = self.wish.undo(&self.reply) else {
            return;
        };
        let (cluster, slot, version) = (Arc::clone(&self.cluster), self.slot, self.version);
        self.cluster.shutdown.spawn("redis-give-back", async move {
            match cluster.ask((undo.freeze(), 1), slot, version).await {
                Ok(answer) if !answer.starts_with(b"-") => {
                    tracing::debug!("put back what nobody was there to get");
                }
                _ => tracing::error!("the server did not take back what nobody was there to get"),
            }
        });
    }
}

impl Cluster {
    /// Asks for what a command waits for. The asking goes on if the client leaves meanwhile.
    pub(in crate::redis) async fn ask_at_once(
        self: &Arc<Self>,
        wish: Wish,
        slot: Option<u16>,
        version: Version,
    ) -> Result<Gift, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let cluster = Arc::clone(self);
        self.shutdown.spawn("redis-ask-at-once", async move {
            let (commands, replies) = wish.at_once(1);
            let asked = cluster.ask((commands.freeze(), replies), slot, version);
            let gift = asked.await.map(|reply| Gift {
                reply: Wish::outcomes(&[reply]).pop().unwrap_or_default(),
                cluster: Arc::clone(&cluster),
                wish,
                slot,
                version,
            });
            // Whoever has left meanwhile leaves the gift to its end.
            drop(sender.send(gift));
        });
        receiver.await.map_err(|_| Refusal::Draining)?
    }

    /// Sends commands of the gateway's own to the node of a slot; the last of the replies.
    async fn ask(
        self: &Arc<Self>,
        (bytes, replies): (Bytes, usize),
        slot: Option<u16>,
        version: Version,
    ) -> Result<Bytes, Refusal> {
        self.known().await?;
        let owner = self.owner(slot).ok_or_else(|| Refusal::UpstreamDown {
            cause: "no node of the cluster has this slot".into(),
        })?;
        let (answered, answer) = oneshot::channel();
        let call = Call {
            cluster: Arc::clone(self),
            bytes,
            replies,
            version,
            slot,
            sink: Sink::Own(Some(answered)),
            redirects: 0,
            count: None,
        };
        self.send(call, owner, false);
        answer.await.map_err(|_| Refusal::UpstreamLost {
            effect: Effect::Unknown,
        })
    }
}
