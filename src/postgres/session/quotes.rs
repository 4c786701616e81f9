//! What backslashes in strings are: signs like others, or escapes.
//!
//! Texts are read as the standard says (`standard_conforming_strings` is on). Where that could matter to a text, it is
//! asked here what the upstream has last reported, and whether that still holds when the text is read there; where it
//! does not, or cannot be told, the text is in doubt.

use std::sync::Arc;

use super::{Session, meaning::Way, names::Names};
use crate::postgres::{
    prepared::Statement,
    refusal,
    settings::Parameters,
    statement::{CONFORMING, Effects, Facts, scan},
    upstream::{CONFORMS, conforms},
};

/// What may have been done to the parameter and is not reported yet.
#[derive(Default)]
pub(super) struct Quotes {
    /// The last unit in which it may be changed.
    unit: u64,
    /// A text of the transaction may change it, perhaps when a portal is executed or the transaction ends.
    later: bool,
    /// Functions that are not known yet were called while it was not known.
    overlooked: bool,
}

impl Session {
    /// Whether the next text that is sent is read as the standard says; `None` if answers must come first.
    fn reads_standard(&self) -> Option<bool> {
        let changed = self.state.quotes.unit;
        if !self.exchange.is_answered(changed) {
            return (changed == self.exchange.unit()).then_some(false);
        }
        let lease = self.lease.as_ref();
        Some(lease.is_some_and(|lease| conforms(&lease.upstream.reported)))
    }

    /// What a text may do if it is sent now; `None` if answers must come first.
    pub(super) fn scan_here(&self, text: &[u8]) -> Option<Facts> {
        let facts = scan(text);
        Some(if facts.presumes && !self.reads_standard()? {
            facts.doubted()
        } else {
            facts
        })
    }

    /// What a Parse prepares if it is sent now; `None` if answers must come first.
    pub(super) fn identify_here(&self, text: &[u8], rest: &[u8]) -> Option<Arc<Statement>> {
        let statement = self.identify(text, rest);
        if !statement.facts.presumes || self.reads_standard()? {
            return Some(statement);
        }
        let (under, facts) = (self.understanding(), statement.facts.doubted());
        Some(self.tenancy.catalogue.alone(under, rest, facts))
    }

    /// Whether a text may be prepared again in this way: it must be read as it was when it was permitted.
    pub(super) fn read_again(
        &mut self,
        facts: &Facts,
        way: &Way,
        under: Option<&Arc<Parameters>>,
    ) -> Names {
        if !facts.presumes {
            return Names::Ready;
        }
        let standard = match way {
            Way::Plain | Way::Anyhow => self.reads_standard(),
            Way::Within(_) => {
                let set = under.and_then(|under| under.find(CONFORMING));
                let lease = self.lease.as_ref();
                let begins = lease.is_some_and(|lease| lease.upstream.conforms);
                Some(set.map_or(begins, |value| value == CONFORMS))
            }
            Way::Wait => None,
        };
        match standard {
            Some(true) => Names::Ready,
            None => Names::Wait,
            Some(false) => {
                let facts = facts.doubted();
                if let Err(refused) = self.permit(&facts, b'P') {
                    return Names::Refused(refusal::error_bytes(&refused));
                }
                self.note(&facts);
                Names::Ready
            }
        }
    }

    /// Something is about to be sent that may change the parameter.
    pub(super) fn requote(&mut self) {
        self.state.quotes.unit = self.exchange.unit();
        self.state.quotes.later = true;
    }

    /// Takes note of what a text may do to the parameter.
    pub(super) fn note_quotes(&mut self, facts: &Facts) {
        if facts.requotes || self.state.quotes.later && facts.may_clean {
            self.requote();
        }
    }

    /// An Execute is about to be sent.
    pub(super) fn execute_quotes(&mut self) {
        if self.state.quotes.later {
            self.requote();
        }
    }

    /// No transaction is open, and nothing is under way.
    pub(super) fn rest_quotes(&mut self) {
        self.state.quotes.later = false;
    }

    /// Takes note of what functions may do to the parameter, and whether they are what they were taken for.
    pub(super) fn weigh_quotes(&mut self, effects: Effects, open: bool) -> Effects {
        if effects.shifts {
            self.requote();
        }
        if !open && !effects.presumes {
            return effects;
        }
        let standard = self.reads_standard() == Some(true);
        self.state.quotes.overlooked |= open && !standard;
        unless(standard, effects)
    }

    /// The same of functions that had not been known before.
    pub(super) fn learn_quotes(&mut self, effects: Effects) -> Effects {
        unless(!std::mem::take(&mut self.state.quotes.overlooked), effects)
    }
}

/// Where functions are not read as the standard says, they may do what cannot be asked for.
fn unless(standard: bool, effects: Effects) -> Effects {
    if standard || !effects.presumes {
        return effects;
    }
    Effects {
        sticks: Some("function"),
        ..effects.and(Effects::DOUBT)
    }
}
