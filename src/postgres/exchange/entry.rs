//! What was asked, one entry for each message that will be answered.

use std::{collections::BTreeSet, sync::Arc};

use crate::postgres::{
    named::{Names, Unnamed},
    prepared::Statement,
};

/// What ends an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) enum Reply {
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    /// `ReadyForQuery`, for Sync.
    Sync,
    /// `ReadyForQuery`, for a simple query or a function call.
    Query,
    /// Nothing: it was answered here.
    Made,
}

/// What happens to the answer.
#[derive(Debug)]
pub(in crate::postgres) enum Act {
    /// It is the client's.
    Forward,
    /// It is the answer to a message of ours.
    Swallow,
    /// We answered already: this message, when its turn comes.
    Say(&'static [u8]),
    /// The same, of a message made for the moment.
    Tell(Box<[u8]>),
    /// The message was made to fail; the client hears this error instead of the upstream's.
    Replace(Box<[u8]>),
    /// It is the answer to a message of ours, and so is an error.
    Load,
    /// It is the client's, but for its end: parameters are put right first.
    Hold,
    /// Parameters were put right after what the client reset; the end of its answer.
    Restore,
    /// Parameters were applied.
    Settings,
    /// The upstream was asked for the state of its session.
    Audit,
    /// The upstream was asked for the columns of a statement; that it fails may be the answer.
    Look,
}

/// What is to be taken back if the message was never carried out, or to be noted once it was.
#[derive(Debug)]
pub(in crate::postgres) enum Undo {
    Nothing,
    /// A client's name for a statement, and whether its Parse was sent.
    Prepare {
        name: Box<[u8]>,
        statement: Arc<Statement>,
        sent: bool,
    },
    /// A statement that we sent.
    Load(u64),
    /// A statement of one client's, of which the answer tells the parameters that it was prepared under.
    Understand(Arc<Statement>),
    /// A statement of which the answer tells the shape, and the client's name for it if it is the
    /// client that has just prepared it.
    Shape(Arc<Statement>, Option<Box<[u8]>>),
    /// The same of one that others have prepared, looked at anew for the client's name.
    Again(Arc<Statement>, Box<[u8]>),
    /// A statement of which the answer tells whether it still has the shape that is known.
    Compare(Arc<Statement>),
    /// A statement that gets the client's name on the upstream, of which the answer tells the shape.
    Named(Arc<[u8]>, Arc<Statement>),
    /// The client's unnamed statement of that serial, of which the answer tells the shape.
    Columns(u64),
    /// The same, before it is used where it was prepared again.
    CompareUnnamed(u64),
    /// A statement that we closed.
    Evict(u64),
    /// A client's name that it closed.
    Close {
        name: Box<[u8]>,
        statement: Arc<Statement>,
    },
    /// The client's unnamed statement of that serial: its own Parse, or ours for it.
    Unnamed {
        serial: u64,
        own: bool,
        /// The one before, in case that this one is skipped.
        before: Option<Box<Unnamed>>,
    },
    /// The client's unnamed statement, which it closed.
    CloseUnnamed(Option<Box<Unnamed>>),
    /// A statement that is used, and the client's name for it.
    Use(u64, Arc<[u8]>),
    /// Statements get the client's names on the upstream.
    Native,
    /// A name of the client's stands on the upstream for a moment.
    Lent,
    /// A name that the client gives up by an Execute.
    Take(Arc<[u8]>, Arc<Statement>),
    /// All the client's names, which it gives up so.
    TakeAll(Box<Names>),
    /// What is noted of the client's own names that it gives up on the upstream.
    GiveUp(Box<GivenUp>),
    /// A simple query that takes a name away, once it is carried out.
    Deallocate(Arc<[u8]>),
    /// A simple query that may take all names away, which its answer tells.
    DeallocateAll,
    /// A parameter that is set or reset, and whether it was.
    Set(Box<(String, Option<String>)>, bool),
}

/// What was known of the client's own names on an upstream before it gave them up.
#[derive(Debug, Default)]
pub(in crate::postgres) struct GivenUp {
    /// Those that were out of date.
    pub(in crate::postgres) outdated: BTreeSet<Arc<[u8]>>,
    /// Those that were as they had been looked at last.
    pub(in crate::postgres) seen: BTreeSet<Arc<[u8]>>,
    /// That which was not, and of which nothing is held any more.
    pub(in crate::postgres) renamed: Option<Arc<[u8]>>,
    /// That which a Close takes away.
    pub(in crate::postgres) closed: Option<(Box<[u8]>, Arc<Statement>)>,
}

impl Undo {
    /// Whether the answer's shape of a statement is taken note of.
    pub(in crate::postgres) fn hears_shape(&self) -> bool {
        matches!(
            self,
            Self::Shape(..)
                | Self::Again(..)
                | Self::Compare(_)
                | Self::Named(..)
                | Self::Columns(_)
                | Self::CompareUnnamed(_)
        )
    }
}

/// One message that will be answered.
#[derive(Debug)]
pub(in crate::postgres) struct Expect {
    pub(in crate::postgres) reply: Reply,
    pub(in crate::postgres) act: Act,
    pub(in crate::postgres) undo: Undo,
}

impl Expect {
    /// Whether the answer tells if a statement is what its client knows, before it is used.
    pub(in crate::postgres) fn compares(&self) -> bool {
        matches!(
            self.undo,
            Undo::Compare(_) | Undo::Again(..) | Undo::CompareUnnamed(_)
        )
    }
}
