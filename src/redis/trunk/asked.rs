//! Questions of the gateway's own, which go over a trunk like everybody's commands.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::{Kind, Recipient, Rejected, Trunk, rouse};
use crate::{
    fault::{Effect, Refusal},
    redis::{outbox::Outbox, upstream::REPLY_BYTES_MAX, wire},
};

impl Trunk {
    /// Asks the server a question of the gateway's own; the reply, or nothing if the trunk is lost.
    pub(in crate::redis) fn ask<W: AsRef<[u8]>>(
        &self,
        database: u32,
        words: &[W],
    ) -> Result<oneshot::Receiver<Bytes>, Rejected> {
        let mut command = BytesMut::new();
        wire::encode_command(&mut command, words);
        let (sender, receiver) = oneshot::channel();
        self.put(database, (&command, 1), Kind::Answer(sender))?;
        Ok(receiver)
    }

    /// Sends commands of the gateway's own in one piece; so many replies, or nothing if the trunk is lost.
    pub(in crate::redis) fn converse(
        &self,
        database: u32,
        (commands, replies): (&[u8], usize),
    ) -> Result<oneshot::Receiver<Vec<Bytes>>, Rejected> {
        let (sender, receiver) = oneshot::channel();
        let collector = Collector {
            replies: Vec::with_capacity(replies),
            left: replies,
            sender: Some(sender),
        };
        let kind = Kind::Errand(Box::new(collector));
        self.put(database, (commands, replies), kind)?;
        Ok(receiver)
    }

    fn put(
        &self,
        database: u32,
        (commands, replies): (&[u8], usize),
        kind: Kind,
    ) -> Result<(), Rejected> {
        let mut inbox = self.inbox.lock();
        inbox.admit()?;
        self.select(&mut inbox, database)?;
        inbox.push((None, kind), (commands, replies));
        rouse(inbox);
        Ok(())
    }
}

/// Gathers the replies to several commands.
struct Collector {
    replies: Vec<Bytes>,
    left: usize,
    /// Dropped, it tells that the replies will not come.
    sender: Option<oneshot::Sender<Vec<Bytes>>>,
}

impl Recipient for Collector {
    fn reply(&mut self, bytes: &[u8], _: &mut Vec<Arc<Outbox>>) {
        self.replies.push(Bytes::copy_from_slice(bytes));
        self.left = self.left.saturating_sub(1);
        if self.left == 0
            && let Some(sender) = self.sender.take()
            && sender.send(std::mem::take(&mut self.replies)).is_err()
        {
            tracing::trace!("a question whose asker has gone");
        }
    }

    fn part(&mut self, bytes: &[u8], _: &mut Vec<Arc<Outbox>>) -> bool {
        let is_too_long = bytes.len() > REPLY_BYTES_MAX;
        if is_too_long {
            self.sender = None;
        }
        is_too_long
    }

    fn lost(&mut self, _: Effect, _: &mut Vec<Arc<Outbox>>) {
        self.sender = None;
    }

    fn refused(&mut self, _: &Refusal, _: &mut Vec<Arc<Outbox>>) {
        self.sender = None;
    }
}
