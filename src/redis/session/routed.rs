//! A client whose database is a cluster: its commands find their nodes, its transactions wait here
//! until they are whole.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Next, Session, request::Request};
use crate::redis::{
    cluster::{Routed, Wish, slot_of},
    commands::{Class, Command},
    refusal::{self, Plain},
    trunk::Correct,
    wire,
};

/// The longest transaction, in bytes.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

/// A transaction that is not whole yet. It is sent in one piece, once the slot is known and EXEC has come.
pub(super) struct Queue {
    bytes: BytesMut,
    commands: usize,
    slot: Option<u16>,
    /// A command was refused here, so EXEC must fail.
    is_dirty: bool,
}

impl Queue {
    /// A transaction that cannot be carried out, whatever is queued.
    fn doomed() -> Self {
        Self {
            bytes: BytesMut::new(),
            commands: 1,
            slot: None,
            is_dirty: true,
        }
    }

    /// A command of it was refused: it cannot be carried out any more.
    pub(super) fn spoil(&mut self) {
        self.is_dirty = true;
    }
}

impl Session {
    /// Whether its database is a cluster.
    pub(super) fn is_routed(&self) -> bool {
        self.route.is_some()
    }

    fn wish(&self) -> Wish {
        Wish {
            version: self.version,
            is_silent: self.is_silent(),
        }
    }

    /// Sends a command to the nodes that have its keys.
    pub(super) fn route(&mut self, request: &Request) -> Result<usize, Next> {
        if request.name().eq_ignore_ascii_case(b"cluster") {
            // To its clients it is one server: the nodes' addresses lead past the gateway.
            return self.decline(request, |out| refusal::plain(out, Plain::NoCluster));
        }
        let Some(route) = &self.route else {
            return Err(Next::Trunk);
        };
        let routed = route.send(&request.words, self.wish());
        self.settle_routed(request, routed)
    }

    /// Sends a command whose reply is counts of subscribers.
    pub(super) fn route_counted(
        &mut self,
        request: &Request,
        count: Box<dyn Correct>,
    ) -> Result<usize, Next> {
        let Some(route) = &self.route else {
            return Err(Next::Trunk);
        };
        let routed = route.send_counted(&request.words, self.wish(), count);
        self.settle_routed(request, routed)
    }

    fn settle_routed(&mut self, request: &Request, routed: Routed) -> Result<usize, Next> {
        let owes = self.outbox.standing().owed > 0;
        match routed {
            Routed::Sent => {
                self.heard();
                Ok(request.bytes)
            }
            // Its own replies come first: that is as long as a crowded node can be waited for.
            Routed::Unknown | Routed::Crowded if owes => Err(Next::Settled(0)),
            Routed::Unknown => Err(Next::Trunk),
            Routed::Crowded => self.decline(request, |out| refusal::plain(out, Plain::Crowded)),
            Routed::Unserved => {
                self.decline(request, |out| refusal::plain(out, Plain::SlotUnserved))
            }
        }
    }

    /// MULTI outside a transaction and without a watch.
    pub(super) fn begin_queue(&mut self, request: &Request) -> Result<usize, Next> {
        self.answer(|out, _| wire::simple(out, "OK"))?;
        let mut bytes = BytesMut::new();
        bytes.put_slice(MULTI);
        self.queue = Some(Queue {
            bytes,
            commands: 1,
            slot: None,
            is_dirty: false,
        });
        Ok(request.bytes)
    }

    /// MULTI while the server is busy: it takes that, refuses what is queued, and so the EXEC.
    pub(super) fn begin_doomed(&mut self) -> Result<(), Next> {
        self.answer(|out, _| wire::simple(out, "OK"))?;
        self.queue = Some(Queue::doomed());
        Ok(())
    }

    /// Any command between MULTI and EXEC, after the policy has allowed it.
    pub(super) fn dispatch_queued(
        &mut self,
        request: &Request,
        command: &Command,
    ) -> Result<usize, Next> {
        let name = command.name.as_str();
        match (command.class, name) {
            (Class::Transaction, "exec") => return self.end_queue(request),
            (Class::Transaction, "discard") => {
                self.answer(|out, _| wire::simple(out, "OK"))?;
                self.queue = None;
                return Ok(request.bytes);
            }
            (Class::Transaction, "multi" | "watch") => {
                self.answer(|out, _| refusal::nested(out, name))?;
                return Ok(request.bytes);
            }
            (Class::Local, "quit" | "reset") => return self.dispatch_local(request, command),
            (
                Class::Transaction
                | Class::Shared
                | Class::Counted
                | Class::Wait
                | Class::Admin
                | Class::Filtered
                | Class::Blocking
                | Class::Stream,
                _,
            )
            | (Class::Local, "ping" | "echo") => {}
            _ => {
                return self.decline(request, |out| refusal::not_in_transaction(out, name));
            }
        }
        if !command.takes(request.words.len()) {
            return self.decline(request, |out| refusal::wrong_arity(out, name));
        }
        self.append_queued(request)
    }

    /// Queues a command of a transaction.
    pub(super) fn append_queued(&mut self, request: &Request) -> Result<usize, Next> {
        let Some(queue) = &self.queue else {
            return Ok(request.bytes);
        };
        let slot = slot_of(&request.words);
        // Those of a cluster only; without one nothing is queued here that could be carried out.
        let is_crossing =
            self.is_routed() && slot.is_some() && queue.slot.is_some() && slot != queue.slot;
        if is_crossing {
            return self.decline(request, |out| refusal::plain(out, Plain::CrossSlot));
        }
        if queue.bytes.len() + request.bytes > QUEUE_BYTES_MAX {
            return self.decline(request, |out| refusal::plain(out, Plain::Crowded));
        }
        self.answer(|out, _| wire::simple(out, "QUEUED"))?;
        if let Some(queue) = self.queue.as_mut().filter(|queue| !queue.is_dirty) {
            queue.slot = queue.slot.or(slot);
            queue.bytes.put_slice(&request.encoded());
            queue.commands += 1;
        }
        Ok(request.bytes)
    }

    fn end_queue(&mut self, request: &Request) -> Result<usize, Next> {
        let Some(queue) = self.queue.take() else {
            return Ok(request.bytes);
        };
        if queue.is_dirty {
            return self.decline(request, |out| refusal::plain(out, Plain::ExecAbort));
        }
        let mut bytes = queue.bytes.clone();
        bytes.put_slice(EXEC);
        let Some(route) = &self.route else {
            return Err(Next::Trunk);
        };
        let routed = route.one(
            (bytes.freeze(), queue.commands + 1),
            queue.slot,
            self.wish(),
        );
        let outcome = self.settle_routed(request, routed);
        if outcome.is_err() {
            // It is sent when EXEC is looked at again.
            self.queue = Some(queue);
        }
        outcome
    }

    /// Whether a command can run on the node that is held for a watch.
    pub(super) fn is_within_slot(&self, words: &[Bytes]) -> bool {
        match (self.slot, slot_of(words)) {
            (Some(held), Some(slot)) => !self.is_routed() || held == slot,
            _ => true,
        }
    }
}
