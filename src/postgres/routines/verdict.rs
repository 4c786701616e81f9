//! What is held of a text, and what is left open of it.

use crate::postgres::statement::Effects;

/// What is to be judged again once more is known.
#[derive(Debug, Default)]
pub(in crate::postgres) struct Open {
    /// The names in the texts.
    pub(super) words: Vec<u64>,
    /// Names that were called and that nobody knows.
    pub(super) strange: Vec<String>,
    /// Something was defined.
    pub(super) defines: bool,
    /// A text of them has failed.
    pub(in crate::postgres) failed: bool,
}

impl Open {
    /// Both.
    pub(in crate::postgres) fn add(&mut self, other: Self) {
        self.words.extend(other.words);
        self.strange.extend(other.strange);
        self.defines |= other.defines;
    }
}

/// What is held of a text.
#[derive(Debug, Default)]
pub(in crate::postgres) struct Verdict {
    pub(in crate::postgres) effects: Effects,
    /// It may define functions.
    pub(in crate::postgres) redefines: bool,
    /// What is known is known to be out of date.
    pub(in crate::postgres) outdated: bool,
    pub(in crate::postgres) open: Option<Box<Open>>,
    /// When it was given.
    pub(in crate::postgres) epoch: u64,
}

impl Verdict {
    /// Nothing is suspected, and nothing is left to be asked.
    pub(super) fn is_harmless(&self) -> bool {
        self.effects.is_none() && !self.redefines && self.open.is_none()
    }
}

/// A text to be judged.
#[derive(Clone, Copy)]
pub(in crate::postgres) struct Case<'a> {
    pub(in crate::postgres) text: &'a [u8],
    /// It has more than one statement.
    pub(in crate::postgres) several: bool,
    /// It changes definitions.
    pub(in crate::postgres) defines: bool,
    /// Its own transaction has defined functions, which nobody else sees.
    pub(in crate::postgres) apart: bool,
}
