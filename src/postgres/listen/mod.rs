//! LISTEN for many clients by one upstream of a tenant, beside its pool.
//!
//! A client's LISTEN runs where all of its statements run, by the server's own rules, whatever it
//! stands in; once its transaction has been committed the session asks its upstream which channels it
//! listens to (`settings`). Those are handed over to the shared listener without a gap: both listen, a
//! token is notified, and since notifications have one order for all, what comes before the token is
//! taken from the session's upstream and what comes after it from the shared one.
//!
//! `state` is the account of channels and answers, pure; `member` is where a client's notifications
//! wait; `task` owns the upstream. What a session does with all this is in `session/ears`.

mod member;
mod state;
mod task;

use std::sync::Arc;

use parking_lot::Mutex;

pub(super) use member::{End, Member};
pub(super) use state::push_command;

use self::state::State;
use super::{servers::Servers, upstream::Dialer};
use crate::{pool::Pool, shutdown::Shutdown};

/// A channel's name.
pub(super) type Channel = Arc<[u8]>;

/// What one tenant's clients listen to.
#[derive(Default)]
pub(super) struct Hub {
    state: Mutex<State>,
}

/// What it takes to open a shared listener.
pub(super) struct Means {
    /// The pool of one that it comes from.
    pub(super) pool: Arc<Pool<Dialer>>,
    /// Where there are several servers.
    pub(super) servers: Option<Arc<Servers>>,
    pub(super) shutdown: Shutdown,
}

impl Hub {
    /// Has the shared listener hear these channels, opening it if there is none; the member is told
    /// when it does. What comes is the member's only from its token on.
    pub(super) fn join(self: &Arc<Self>, member: &Arc<Member>, channels: &[Channel], means: Means) {
        let starts = self.state.lock().join(member, channels);
        if starts {
            let shutdown = means.shutdown.clone();
            let task = task::run(Arc::clone(self), means);
            shutdown.spawn("postgres-listener", task);
        }
    }

    /// The text that notifies a member's token, for an upstream that listens to the member's channels.
    pub(super) fn token(&self, member: &Member) -> String {
        let state = self.state.lock();
        let channel = state.own_channel();
        format!("LISTEN \"{channel}\";NOTIFY \"{channel}\", '{}'", member.id)
    }

    /// Whether a channel is the one that tokens are notified on.
    pub(super) fn is_own(&self, channel: &[u8]) -> bool {
        self.state.lock().own_channel().as_bytes() == channel
    }

    /// The member is told once everything has been handed out that was notified before.
    /// False: nobody listens.
    pub(super) fn sync(&self, member: &Arc<Member>) -> bool {
        self.state.lock().sync(member)
    }

    /// What the server process notifies from now on comes from a client with that key.
    /// False: nobody listens, and nothing is noted.
    pub(super) fn own(&self, process: u32, key: u32) -> bool {
        self.state.lock().own(process, key)
    }

    /// The key of the client that the process works for.
    pub(super) fn owner(&self, process: u32) -> Option<u32> {
        self.state.lock().owner(process)
    }

    /// The process is nobody's any more.
    pub(super) fn disown(&self, process: u32) {
        self.state.lock().disown(process);
    }

    /// The member hears these channels no longer.
    pub(super) fn leave<'c>(&self, member: &Member, channels: impl Iterator<Item = &'c Channel>) {
        self.state.lock().leave(member, channels);
    }
}
