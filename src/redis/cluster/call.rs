//! A command on its way through a cluster: who gets its reply, and where it goes when it is sent on.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::{
    Cluster, NodeId,
    join::Join,
    lane::{Lane, Touched},
};
use crate::{
    fault::{Effect, Refusal},
    redis::{
        refusal,
        trunk::{Correct, Errand, Recipient},
        wire::Version,
    },
    tenant::Endpoint,
};

/// How often a command is sent on before its client is asked to try again.
const REDIRECTS_MAX: u8 = 8;

/// Who gets a reply.
pub(super) enum Sink {
    /// A client, in its place.
    Place(Arc<Lane>, u64),
    /// The whole that it is a part of.
    Part(Arc<Join>, usize),
    /// The gateway itself.
    Own(Option<oneshot::Sender<Bytes>>),
}

/// A command and what is to become of it.
pub(super) struct Call {
    pub(super) cluster: Arc<Cluster>,
    /// As RESP arrays: one, or a transaction from MULTI to EXEC.
    pub(super) bytes: Bytes,
    /// How many replies it has, of which the last counts.
    pub(super) replies: usize,
    pub(super) version: Version,
    pub(super) slot: Option<u16>,
    pub(super) sink: Sink,
    pub(super) redirects: u8,
    /// Corrects the counts of subscribers in the reply.
    pub(super) count: Option<Box<dyn Correct>>,
}

/// Where a node says that a slot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redirect {
    /// There from now on.
    Moved(u16, Endpoint),
    /// This key is there already; the slot is still here.
    Ask(Endpoint),
}

/// Waits on a trunk for the replies to a call.
struct Courier {
    call: Option<Call>,
    node: NodeId,
    left: usize,
    redirect: Option<Redirect>,
}

impl Call {
    /// Puts it into the form that a trunk takes.
    pub(super) fn errand(self, node: NodeId, asking: bool) -> Errand {
        Errand {
            bytes: self.bytes.clone(),
            replies: self.replies,
            version: self.version,
            asking,
            recipient: Box::new(Courier {
                left: self.replies,
                call: Some(self),
                node,
                redirect: None,
            }),
        }
    }

    fn finish(self, reply: &[u8], touched: &mut Touched) {
        let corrected = self.count.as_ref().and_then(|count| count.correct(reply));
        let reply = corrected.as_deref().unwrap_or(reply);
        match self.sink {
            Sink::Place(lane, ticket) => lane.finish(ticket, reply, touched),
            Sink::Part(join, part) => join.take((part, self.slot), reply, touched),
            Sink::Own(Some(asked)) => {
                // Whoever asked may have given up.
                drop(asked.send(Bytes::copy_from_slice(reply)));
            }
            Sink::Own(None) => {}
        }
    }

    /// Ends it with an error of ours.
    pub(super) fn refuse(self, refusal: &Refusal, touched: &mut Touched) {
        let mut error = BytesMut::new();
        refusal::refuse(&mut error, refusal);
        match self.sink {
            Sink::Place(lane, ticket) => lane.fail(ticket, &error, touched),
            Sink::Part(join, part) => join.take((part, self.slot), &error, touched),
            Sink::Own(_) => {}
        }
    }

    /// Sends it on, unless it has been sent on too often.
    fn follow(mut self, redirect: &Redirect, touched: &mut Touched) {
        self.redirects += 1;
        // A transaction cannot be asked for: ASKING is good for one command.
        let is_stuck = self.replies > 1 && matches!(redirect, Redirect::Ask(_));
        if is_stuck || self.redirects > REDIRECTS_MAX {
            let mut error = BytesMut::new();
            refusal::plain(&mut error, refusal::Plain::SlotMoving);
            return self.finish(&error, touched);
        }
        let cluster = Arc::clone(&self.cluster);
        match redirect {
            Redirect::Moved(slot, endpoint) => {
                let node = cluster.note_moved(*slot, endpoint);
                if let Sink::Place(lane, ticket) = &self.sink {
                    lane.moved(*ticket, *slot, node);
                }
                cluster.send(self, node, false);
            }
            Redirect::Ask(endpoint) => {
                let node = cluster.node_at(endpoint);
                cluster.send(self, node, true);
            }
        }
    }
}

impl Courier {
    /// What the replies, of which this is the last, come to: nothing was carried out, or a result.
    fn is_redirected(&self, last: &[u8]) -> bool {
        self.redirect.is_some()
            && (last.starts_with(b"-EXECABORT")
                || last.starts_with(b"-MOVED ")
                || last.starts_with(b"-ASK "))
    }
}

impl Recipient for Courier {
    fn reply(&mut self, bytes: &[u8], touched: &mut Touched) {
        self.left = self.left.saturating_sub(1);
        if self.redirect.is_none()
            && let Some(call) = &self.call
        {
            self.redirect = call.cluster.redirect_in(bytes, self.node);
        }
        if self.left > 0 {
            return;
        }
        let Some(call) = self.call.take() else {
            return;
        };
        match &self.redirect {
            Some(redirect) if self.is_redirected(bytes) => call.follow(redirect, touched),
            _ => call.finish(bytes, touched),
        }
    }

    fn part(&mut self, bytes: &[u8], touched: &mut Touched) -> bool {
        let call = self.call.as_ref().filter(|call| call.count.is_none());
        match call.map(|call| &call.sink) {
            Some(Sink::Place(lane, ticket)) if self.left == 1 => {
                lane.part(*ticket, bytes, touched);
                true
            }
            _ => false,
        }
    }

    fn lost(&mut self, effect: Effect, touched: &mut Touched) {
        self.refused(&Refusal::UpstreamLost { effect }, touched);
    }

    fn refused(&mut self, refusal: &Refusal, touched: &mut Touched) {
        if let Some(call) = self.call.take() {
            call.cluster.doubt();
            call.refuse(refusal, touched);
        }
    }
}
