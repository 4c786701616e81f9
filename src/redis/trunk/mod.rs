//! Trunks: upstreams that many clients share by pipelining.
//!
//! A session puts its commands into the trunk's inbox and goes on; the trunk's task writes what has
//! gathered from all of them in one system call, reads replies in large pieces, cuts them by frame
//! and hands them to the clients in the order of the commands. One write for many clients is what
//! makes the server cheaper than with direct connections.
//!
//! # Invariants
//! * Every command keeps its place in the queue until its reply has been cut, whether or not its
//!   client still lives.
//! * A trunk is always read: a slow client costs its own output buffer, never the trunk.
//! * Only commands that leave no state on a connection come here; the database number is the one
//!   exception, and is set by a `SELECT` of ours whose reply nobody sees.

mod asked;
mod link;
mod scripts;
mod set;
mod task;

pub(super) use scripts::is_script;
pub(super) use set::{Trunks, open};
pub(super) use task::Patience;

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use self::scripts::{Scripts, Stuck};
use super::{
    outbox::Outbox,
    wire::{self, Version},
};
use crate::fault::{Effect, Refusal};

/// Commands gathered for a trunk beyond this wait outside, so that a stuck server bounds memory.
const INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that are worth a write of their own, however much is under way.
const BATCH_BYTES: usize = 64 * 1024;
/// What makes a node take a command for a slot that it is only getting.
const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";
/// Gathering buffers larger than this are given back.
const INBOX_BYTES_KEPT_MAX: usize = 1024 * 1024;

/// Commands whose replies somebody else than a client gets.
pub(super) struct Errand {
    /// As RESP arrays.
    pub(super) bytes: Bytes,
    /// How many replies they will have.
    pub(super) replies: usize,
    /// The version of their replies.
    pub(super) version: Version,
    /// Whether the node is asked for a key of a slot that it is only getting.
    pub(super) asking: bool,
    /// Who gets the replies.
    pub(super) recipient: Box<dyn Recipient>,
}

/// Who gets replies instead of a client; clients that got something are put into `touched`.
pub(super) trait Recipient: Send {
    /// One whole reply, or the rest of it.
    fn reply(&mut self, bytes: &[u8], touched: &mut Vec<Arc<Outbox>>);
    /// The beginning of a long reply. False: it is wanted as a whole.
    fn part(&mut self, bytes: &[u8], touched: &mut Vec<Arc<Outbox>>) -> bool;
    /// The upstream was lost.
    fn lost(&mut self, effect: Effect, touched: &mut Vec<Arc<Outbox>>);
    /// It was not sent.
    fn refused(&mut self, refusal: &Refusal, touched: &mut Vec<Arc<Outbox>>);
}

/// Puts a reply right before a client gets it.
pub(super) trait Correct: Send {
    /// What a whole reply should be; `None`: what it is.
    fn correct(&self, reply: &[u8]) -> Option<BytesMut>;
}

/// The handle by which sessions use a trunk.
pub(super) struct Trunk {
    version: Version,
    scripts: Scripts,
    inbox: Arc<Mutex<Inbox>>,
}

/// Commands on their way to a server, all of one client and contiguous.
#[derive(Clone, Copy)]
pub(super) struct Commands<'a> {
    /// As RESP arrays.
    pub(super) bytes: &'a [u8],
    /// How many replies they will have.
    pub(super) replies: usize,
    /// The database that they are meant for.
    pub(super) database: u32,
    /// What becomes of their replies.
    pub(super) fate: Fate,
    /// Whether a script is among them, behind which the others may have to wait for long.
    pub(super) has_script: bool,
}

/// What becomes of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The client gets it.
    Forward,
    /// The client has asked for silence.
    Drop,
    /// If it is no error the database is selected; the client gets it or not.
    Select {
        /// The database.
        database: u32,
        /// Whether the client has asked for silence.
        is_silent: bool,
    },
}

/// Why a trunk did not take commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejected {
    /// It has ended; another is to be opened.
    Closed,
    /// Too much waits; see [`Trunk::poll_room`].
    Full,
    /// A script holds it up, or another database cannot be had while one holds up the server.
    Stuck,
}

/// What sessions and the trunk's task share.
struct Inbox {
    bytes: BytesMut,
    entries: Vec<Entry>,
    /// The database after the last command gathered.
    database: u32,
    /// The version after the last command gathered.
    version: Version,
    /// The task waits to be woken.
    idle: Option<Waker>,
    /// The task waits for a batch to end, or for this one to be worth it.
    full: Option<Waker>,
    /// Sessions that found it full.
    waiting: Vec<Waker>,
    closed: bool,
    /// Bytes gathered since the trunk was opened.
    gathered: u64,
    /// Where scripts begin in them, of those that the task has not taken over yet.
    scripts: VecDeque<u64>,
}

/// Replies that are owed, to whom.
struct Entry {
    to: Option<Arc<Outbox>>,
    left: usize,
    kind: Kind,
    /// Where its first byte is in all that was gathered: written or not, when the trunk is lost.
    begins: u64,
    /// It is the last that was written with others.
    ends_batch: bool,
}

enum Kind {
    Reply(Fate),
    /// A reply to a `SELECT` of ours: what follows is meant for that database.
    Select,
    /// A reply to a `HELLO` of ours, which must not be an error.
    Speak,
    /// A reply to a command of ours, whatever it is.
    Ignore,
    /// An answer of the gateway's own, which waits for its turn here.
    Local(Bytes),
    /// Replies that somebody else gets.
    Errand(Box<dyn Recipient>),
    /// A reply with counts of subscribers, which is corrected.
    Counted(Box<dyn Correct>),
    /// A reply to a question of ours.
    Answer(oneshot::Sender<Bytes>),
}

impl Trunk {
    fn new(version: Version, database: u32, stuck: Arc<Stuck>) -> Self {
        let inbox = Inbox {
            bytes: BytesMut::new(),
            entries: Vec::new(),
            database,
            version,
            idle: None,
            full: None,
            waiting: Vec::new(),
            closed: false,
            gathered: 0,
            scripts: VecDeque::new(),
        };
        Self {
            version,
            scripts: Scripts::new(stuck),
            inbox: Arc::new(Mutex::new(inbox)),
        }
    }

    /// Whether it takes no more commands.
    pub(super) fn is_closed(&self) -> bool {
        self.inbox.lock().closed
    }

    /// The database that what comes next finds it on.
    fn database(&self) -> u32 {
        self.inbox.lock().database
    }

    /// Whether a script holds up what is on it.
    fn is_stuck(&self) -> bool {
        self.scripts.is_stuck()
    }

    /// Takes commands of a client; replies to them are owed from now on.
    pub(super) fn submit(
        &self,
        commands: Commands<'_>,
        client: &Arc<Outbox>,
    ) -> Result<(), Rejected> {
        self.submit_as(commands, client, Kind::Reply(commands.fate))
    }

    /// Takes a command whose reply is counts of subscribers.
    pub(super) fn submit_counted(
        &self,
        command: Commands<'_>,
        client: &Arc<Outbox>,
        count: Box<dyn Correct>,
    ) -> Result<(), Rejected> {
        self.submit_as(command, client, Kind::Counted(count))
    }

    fn submit_as(
        &self,
        commands: Commands<'_>,
        client: &Arc<Outbox>,
        kind: Kind,
    ) -> Result<(), Rejected> {
        let mut inbox = self.inbox.lock();
        inbox.admit()?;
        // What is owed on it already comes first there, too.
        if self.is_stuck() && client.standing().owed == 0 {
            return Err(Rejected::Stuck);
        }
        self.select(&mut inbox, commands.database)?;
        client.owe(commands.replies);
        if commands.has_script {
            let begins = inbox.gathered;
            inbox.scripts.push_back(begins);
        }
        let to = Some(Arc::clone(client));
        inbox.push((to, kind), (commands.bytes, commands.replies));
        if matches!(commands.fate, Fate::Select { .. }) {
            // Whether the server liked it or not, the trunk is where it was afterwards.
            let database = inbox.database;
            inbox.select(database, Kind::Ignore);
        }
        rouse(inbox);
        Ok(())
    }

    /// Has what comes next find that database.
    fn select(&self, inbox: &mut Inbox, database: u32) -> Result<(), Rejected> {
        if inbox.database == database {
            return Ok(());
        }
        if self.scripts.is_any_stuck() {
            // The server would refuse it, and what follows it could run after the script.
            return Err(Rejected::Stuck);
        }
        inbox.select(database, Kind::Select);
        Ok(())
    }

    /// Takes an errand; back if it is closed.
    pub(super) fn carry(&self, errand: Errand) -> Result<(), Errand> {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            return Err(errand);
        }
        if inbox.version != errand.version {
            inbox.speak(errand.version);
        }
        if errand.asking {
            inbox.push((None, Kind::Ignore), (ASKING, 1));
        }
        let kind = Kind::Errand(errand.recipient);
        inbox.push((None, kind), (&errand.bytes, errand.replies));
        rouse(inbox);
        Ok(())
    }

    /// Whether as much waits as may.
    pub(super) fn is_full(&self) -> bool {
        self.inbox.lock().bytes.len() >= INBOX_BYTES_MAX
    }

    /// Ready when commands can be submitted, or the trunk is closed.
    pub(super) fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        let mut inbox = self.inbox.lock();
        if inbox.closed || inbox.bytes.len() < INBOX_BYTES_MAX {
            return Poll::Ready(());
        }
        inbox.waiting.push(context.waker().clone());
        Poll::Pending
    }

    /// Queues an answer of the gateway's own behind the replies that the client is owed.
    pub(super) fn submit_local(&self, answer: Bytes, client: &Arc<Outbox>) -> Result<(), Rejected> {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            return Err(Rejected::Closed);
        }
        client.owe(1);
        let to = Some(Arc::clone(client));
        inbox.push((to, Kind::Local(answer)), (&[], 1));
        rouse(inbox);
        Ok(())
    }
}

/// Tells the task of what has come, if it has to be told.
fn rouse(mut inbox: MutexGuard<'_, Inbox>) {
    let task = inbox.due();
    drop(inbox);
    if let Some(task) = task {
        task.wake();
    }
}

impl Inbox {
    /// The task, if it has to be told of what has come.
    fn due(&mut self) -> Option<Waker> {
        if self.bytes.len() >= BATCH_BYTES {
            self.full.take().or_else(|| self.idle.take())
        } else {
            self.idle.take()
        }
    }

    /// Whether it takes commands.
    fn admit(&self) -> Result<(), Rejected> {
        if self.closed {
            return Err(Rejected::Closed);
        }
        if self.bytes.len() >= INBOX_BYTES_MAX {
            return Err(Rejected::Full);
        }
        Ok(())
    }

    /// Puts commands behind all others, with what becomes of so many replies.
    fn push(&mut self, (to, kind): (Option<Arc<Outbox>>, Kind), (bytes, replies): (&[u8], usize)) {
        self.entries.push(Entry {
            to,
            left: replies,
            kind,
            begins: self.gathered,
            ends_batch: false,
        });
        self.bytes.extend_from_slice(bytes);
        self.gathered += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    }

    fn select(&mut self, database: u32, kind: Kind) {
        let mut bytes = BytesMut::new();
        wire::encode_command(&mut bytes, &["SELECT", &database.to_string()]);
        self.push((None, kind), (&bytes, 1));
        self.database = database;
    }

    /// Switches the version of what follows.
    fn speak(&mut self, version: Version) {
        let mut bytes = BytesMut::new();
        wire::encode_command(&mut bytes, &["HELLO", &version.number().to_string()]);
        self.push((None, Kind::Speak), (&bytes, 1));
        self.version = version;
    }
}
