//! What is held of a text, and what is left open of it.

use crate::postgres::statement::{Effects, digest};

/// Names of one transaction's that are kept to be judged later; with more, its session is asked.
const NAMES_MAX: usize = 4096;
/// How much of a name the server reads.
const NAME_BYTES_MAX: usize = 63;

/// What is to be judged again once more is known.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent notes of one transaction"
)]
pub(in crate::postgres) struct Open {
    /// The names in the texts.
    pub(super) words: Vec<u64>,
    /// Names that were called and that nobody knows.
    pub(super) strange: Vec<String>,
    /// There were more than are kept.
    pub(super) overflows: bool,
    /// Something was defined.
    pub(super) defines: bool,
    /// Functions were defined after a text had been judged.
    pub(in crate::postgres) overtaken: bool,
    /// A text of them has failed.
    pub(in crate::postgres) failed: bool,
}

impl Open {
    /// Both.
    pub(in crate::postgres) fn add(&mut self, other: Self) {
        self.words.extend(other.words);
        self.strange.extend(other.strange);
        self.overflows |= other.overflows;
        self.defines |= other.defines;
        self.bound();
    }

    /// A name in a text.
    pub(super) fn word(&mut self, digest: u64) {
        self.words.push(digest);
        self.bound();
    }

    /// A name that was called and that nobody knows.
    pub(super) fn stranger(&mut self, name: &[u8]) {
        let name = name.get(..NAME_BYTES_MAX).unwrap_or(name);
        self.strange
            .push(String::from_utf8_lossy(name).into_owned());
        self.word(digest(name));
    }

    /// Nothing in the texts runs functions.
    pub(super) fn forget_names(&mut self) {
        self.words.clear();
        self.strange.clear();
        self.overflows = false;
    }

    /// Whether there is nothing to be judged again.
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty() && !self.overflows && !self.defines
    }

    /// Whether what was known some time ago judges it as well.
    pub(super) fn can_do_with_aged(&self) -> bool {
        self.strange.is_empty() && !self.overflows && !self.defines && !self.overtaken
    }

    /// Many texts of one transaction have the same names.
    fn bound(&mut self) {
        if self.overflows || self.words.len() > NAMES_MAX {
            self.words.sort_unstable();
            self.words.dedup();
            self.strange.sort_unstable();
            self.strange.dedup();
            // Half of it must be free again, or all would be sorted for each name.
            self.overflows |= self.words.len() > NAMES_MAX / 2;
        }
        if self.overflows {
            self.words = Vec::new();
            self.strange = Vec::new();
        }
    }
}

/// What is held of a text.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent notes of one text"
)]
pub(in crate::postgres) struct Verdict {
    pub(in crate::postgres) effects: Effects,
    /// It may define functions.
    pub(in crate::postgres) redefines: bool,
    /// What is known is known to be out of date.
    pub(in crate::postgres) outdated: bool,
    /// Functions that are not known are perhaps not read as they are meant.
    pub(in crate::postgres) overlooked: bool,
    /// The same of those that are known.
    pub(in crate::postgres) misread: bool,
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
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of one text"
)]
pub(in crate::postgres) struct Case<'a> {
    pub(in crate::postgres) text: &'a [u8],
    /// It has more than one statement.
    pub(in crate::postgres) several: bool,
    /// It changes definitions.
    pub(in crate::postgres) defines: bool,
    /// Its own transaction has defined functions, which nobody else sees.
    pub(in crate::postgres) apart: bool,
    /// It runs a text that it puts together.
    pub(in crate::postgres) loose: bool,
    /// A block in it is read as it is meant only where `standard_conforming_strings` is on.
    pub(in crate::postgres) presumes: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_long_transaction_leaves_open_is_bounded() {
        let mut all = Open::default();
        for _ in 0..10_000 {
            let mut open = Open::default();
            for name in ["insert", "into", "t", "values"] {
                open.word(digest(name.as_bytes()));
            }
            open.stranger(b"lower");
            all.add(open);
        }
        assert!(!all.overflows && all.words.len() <= NAMES_MAX);
        assert!(all.strange.len() <= NAMES_MAX);
        for at in 0..10_000 {
            all.stranger(format!("f{at}").as_bytes());
        }
        assert!(all.overflows && all.words.is_empty() && all.strange.is_empty());
        assert!(!all.is_empty());
    }
}
