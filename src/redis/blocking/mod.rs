//! Blocking commands that share: any number of clients that wait for the same are one wait upstream.
//!
//! Clients with the same command on the same keys (and database) stand in one line, in the order in
//! which they came. One lease waits for the first of them; what it gets is handed to the first that
//! is still there. Each client's own timeout is kept here; when it is over, the client is told so
//! once the server has been asked for it, which takes as long as the server takes: in a pause of writes,
//! to its end. Where more lines wait than leases may be held, the lines take turns: see [`task`].
//!
//! # What is not lost
//! * An element that the server has handed out is offered to the first client in line. Its session looks
//!   whether the client is still connected, and takes it or not; what is not taken goes to the
//!   next, and with nobody in line back to the end of the key that it came from (`LPUSH`, `RPUSH`,
//!   `ZADD NX`). What `BLMOVE` has moved stays where the command has put it, and what `XREADGROUP` has
//!   delivered stays pending for its consumer, as after the death of a client that was served.
//! * A wait that nobody needs any longer is ended by `CLIENT UNBLOCK` from a trunk, never by closing
//!   the connection: its reply tells whether there was an element after all.
//! * What no one can save: an element on its way when the connection to the server is lost, or in the
//!   memory of a gateway that is killed (`kill -9`): the elements of replies not yet passed on, at
//!   most [`task::BATCH_MAX`] a line. A client connected directly loses its element in the same two
//!   moments; who cannot bear it uses `BLMOVE` or a stream with a group.

mod ending;
mod task;
mod wish;

pub(super) use wish::Wish;

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{station::Station, wire::Version};
use crate::fault::Refusal;

/// The lines of one tenant.
#[derive(Default)]
pub(super) struct Shares {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    shares: HashMap<Wish, Arc<Share>>,
    /// Who waits in which line, by the gateway's number of the client.
    clients: HashMap<u64, (Arc<Share>, u64)>,
}

/// One line.
struct Share {
    wish: Wish,
    /// Which the first client speaks.
    version: Version,
    station: Arc<Station>,
    line: Mutex<Line>,
    /// For the task: somebody came or left, or something came back.
    changed: Notify,
}

#[derive(Default)]
struct Line {
    /// In the order of their tickets.
    queue: VecDeque<Waiter>,
    /// Replies that nobody has, the oldest first.
    unclaimed: VecDeque<Bytes>,
    next: u64,
    is_running: bool,
}

struct Waiter {
    ticket: u64,
    sender: oneshot::Sender<Outcome>,
    /// Its time is over: it waits for the server to say that there was nothing.
    is_late: bool,
}

/// What a wait came to.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// The server's reply, in the version of the upstream.
    Reply(Bytes),
    /// There is no upstream to wait on.
    Refused(Refusal),
    /// Its time is over and the server had nothing, or another client has ended the wait as if so.
    Expired,
    /// Another client has ended the wait with an error.
    Unblocked,
}

/// A client's place in a line; dropped, it has left, and what it was handed goes on to the next.
pub(super) struct Ticket {
    share: Arc<Share>,
    client: u64,
    number: u64,
    receiver: oneshot::Receiver<Outcome>,
}

impl Shares {
    /// Gives a client its place in the line for `wish`.
    pub(super) fn join(
        &self,
        station: &Arc<Station>,
        wish: &Wish,
        (client, version): (u64, Version),
    ) -> Ticket {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        let make = || Share::new(wish.clone(), version, Arc::clone(station));
        let share = Arc::clone(state.shares.entry(wish.clone()).or_insert_with(make));
        let number = share.enter(sender);
        state.clients.insert(client, (Arc::clone(&share), number));
        Ticket {
            share,
            client,
            number,
            receiver,
        }
    }

    /// Whether a client stands in a line.
    pub(super) fn is_waiting(&self, client: u64) -> bool {
        let found = self.state.lock().clients.get(&client).cloned();
        found.is_some_and(|(share, number)| share.line.lock().place(number).is_some())
    }

    /// Ends another client's wait (`CLIENT UNBLOCK`), if it waits.
    pub(super) fn unblock(&self, client: u64, outcome: Outcome) {
        let found = self.state.lock().clients.get(&client).cloned();
        let Some((share, number)) = found else { return };
        let waiter = share.line.lock().leave(number);
        if let Some(waiter) = waiter {
            share.changed.notify_one();
            // Who has just left does not need to be told.
            drop(waiter.sender.send(outcome));
        }
    }

    /// Forgets a line in which nobody stands. False: somebody does.
    fn forget(&self, share: &Arc<Share>) -> bool {
        let mut state = self.state.lock();
        let mut line = share.line.lock();
        if !line.is_empty() {
            return false;
        }
        line.is_running = false;
        if state
            .shares
            .get(&share.wish)
            .is_some_and(|known| Arc::ptr_eq(known, share))
        {
            state.shares.remove(&share.wish);
        }
        true
    }
}

impl Ticket {
    /// Ready when the wait is over.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.receiver)
            .poll(context)
            .map(|outcome| outcome.unwrap_or(Outcome::Refused(Refusal::Draining)))
    }

    /// Says that the client's time is over. The wait goes on until the server has been asked for it.
    pub(super) fn expire(&self) {
        self.share.line.lock().expire(self.number);
        self.share.changed.notify_one();
    }

    /// Gives back a reply that the client could not take.
    pub(super) fn give_back(&self, reply: Bytes) {
        self.share.give_back(reply);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.share
            .station
            .shares()
            .state
            .lock()
            .clients
            .remove(&self.client);
        if self.share.line.lock().leave(self.number).is_some() {
            self.share.changed.notify_one();
            return;
        }
        // It was chosen meanwhile; after this nothing more can be sent to it.
        self.receiver.close();
        if let Ok(Outcome::Reply(reply)) = self.receiver.try_recv() {
            self.share.give_back(reply);
        }
    }
}

impl Share {
    fn new(wish: Wish, version: Version, station: Arc<Station>) -> Arc<Self> {
        Arc::new(Self {
            wish,
            version,
            station,
            line: Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn enter(self: &Arc<Self>, sender: oneshot::Sender<Outcome>) -> u64 {
        let mut line = self.line.lock();
        let ticket = line.next;
        line.next += 1;
        line.queue.push_back(Waiter {
            ticket,
            sender,
            is_late: false,
        });
        self.serve(line);
        ticket
    }

    fn give_back(self: &Arc<Self>, reply: Bytes) {
        let mut line = self.line.lock();
        line.unclaimed.push_front(reply);
        self.serve(line);
    }

    /// Has a task look after the line.
    fn serve(self: &Arc<Self>, mut line: parking_lot::MutexGuard<'_, Line>) {
        if !std::mem::replace(&mut line.is_running, true) {
            let share = Arc::clone(self);
            self.station
                .shutdown()
                .spawn("redis-blocking", task::run(share));
        }
        drop(line);
        self.changed.notify_one();
    }

    /// Hands what nobody has to whoever waits, the first to the first.
    fn deal(&self) {
        loop {
            let mut line = self.line.lock();
            let Some(reply) = line.unclaimed.pop_front() else {
                return;
            };
            let Some(waiter) = line.queue.pop_front() else {
                line.unclaimed.push_front(reply);
                return;
            };
            // Under the lock, so that whoever leaves knows whether it was handed something.
            if let Err(Outcome::Reply(reply)) = waiter.sender.send(Outcome::Reply(reply)) {
                line.unclaimed.push_front(reply);
            }
        }
    }

    /// Tells everybody in line the same.
    fn tell_all(&self, outcome: &Outcome) {
        for waiter in std::mem::take(&mut self.line.lock().queue) {
            // Who has just left does not need to be told.
            drop(waiter.sender.send(outcome.clone()));
        }
    }

    /// Tells the first in line.
    fn tell_first(&self, outcome: Outcome) {
        if let Some(waiter) = self.line.lock().queue.pop_front() {
            drop(waiter.sender.send(outcome));
        }
    }

    /// Tells those whose time is over the same; of the line, only who came before `before`.
    fn tell_late(&self, before: u64, outcome: &Outcome) {
        let mut line = self.line.lock();
        let mut kept = VecDeque::with_capacity(line.queue.len());
        for waiter in line.queue.drain(..) {
            if waiter.is_late && waiter.ticket < before {
                // Who has just left does not need to be told.
                drop(waiter.sender.send(outcome.clone()));
            } else {
                kept.push_back(waiter);
            }
        }
        line.queue = kept;
    }

    fn waiting(&self) -> usize {
        self.line.lock().queue.len()
    }

    /// How far back in the line stands the last whose time is over; 0: there is none.
    fn late(&self) -> usize {
        let line = self.line.lock();
        let last = line.queue.iter().rposition(|waiter| waiter.is_late);
        last.map_or(0, |place| place + 1)
    }

    /// The number that the next to come will have.
    fn next(&self) -> u64 {
        self.line.lock().next
    }
}

impl Line {
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.unclaimed.is_empty()
    }

    fn place(&self, ticket: u64) -> Option<usize> {
        let place = |waiter: &Waiter| waiter.ticket;
        self.queue.binary_search_by_key(&ticket, place).ok()
    }

    fn expire(&mut self, ticket: u64) {
        let waiter = self.place(ticket).and_then(|at| self.queue.get_mut(at));
        if let Some(waiter) = waiter {
            waiter.is_late = true;
        }
    }

    fn leave(&mut self, ticket: u64) -> Option<Waiter> {
        self.queue.remove(self.place(ticket)?)
    }
}
