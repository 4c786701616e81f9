//! How the server reads a text: what backslashes in strings are, signs like others or escapes, and what letters are.
//!
//! Texts are read as the standard says (`standard_conforming_strings` is on), and as if no second byte of a letter were a
//! sign, which is so in all encodings but those that only clients have. Where that could matter to a text, it is asked
//! here what the upstream has last reported, and whether that still holds when the text is read there; where it does not,
//! or cannot be told, the text is in doubt.

use std::sync::Arc;

use super::{Session, meaning::Way, names::Names};
use crate::postgres::{
    prepared::Statement,
    refusal,
    routines::Verdict,
    settings::Parameters,
    statement::{CONFORMING, ENCODING, Effects, Facts, QUOTES_PIN, scan},
    upstream::{CONFORMS, Reading},
};

/// What may have been done to these parameters and is not reported yet.
#[derive(Default)]
pub(super) struct Quotes {
    /// The last unit in which they may be changed.
    unit: u64,
    /// A text of the transaction may change them, perhaps when a portal is executed or the transaction ends.
    later: bool,
    /// Functions that are not known yet were called while they were not known.
    pub(super) overlooked: bool,
    /// Functions may have been read otherwise, and the server's session keeps what it has made of them.
    pub(super) misread: bool,
}

impl Session {
    /// Whether the next text that is sent is read as it is read here; `None` if answers must come first.
    fn reads_plainly(&self, facts: &Facts) -> Option<bool> {
        if !facts.depends() {
            return Some(true);
        }
        Some(self.reading()?.suits(facts))
    }

    /// How the next text that is sent is read; `None` if answers must come first.
    fn reading(&self) -> Option<Reading> {
        let changed = self.state.quotes.unit;
        if changed == self.exchange.unit() {
            return Some(Reading::DOUBT);
        }
        // Once a transaction has changed it, whatever follows may take it back unseen: any error, or a cursor's next row.
        let settled = if self.state.quotes.later {
            self.exchange.is_first_unit()
        } else {
            self.exchange.is_answered(changed)
        };
        if !settled {
            return None;
        }
        let lease = self.lease.as_ref();
        Some(lease.map_or(Reading::DOUBT, |lease| {
            Reading::reported(&lease.upstream.reported)
        }))
    }

    /// What a text may do if it is sent now; `None` if answers must come first.
    pub(super) fn scan_here(&self, text: &[u8]) -> Option<Facts> {
        let facts = scan(text);
        Some(if self.reads_plainly(&facts)? {
            facts
        } else {
            facts.doubted()
        })
    }

    /// What a Parse prepares if it is sent now; `None` if answers must come first.
    pub(super) fn identify_here(&self, text: &[u8], rest: &[u8]) -> Option<Arc<Statement>> {
        let statement = self.identify(text, rest);
        if self.reads_plainly(&statement.facts)? {
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
        let plainly = match way {
            Way::Plain | Way::Anyhow => self.reads_plainly(facts),
            Way::Within(_) => Some(self.read_within(under).suits(facts)),
            Way::Wait => None,
        };
        match plainly {
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

    /// The same of a text as it is, where answers are not waited for.
    pub(super) fn is_read_again(&mut self, facts: &Facts) -> bool {
        matches!(self.read_again(facts, &Way::Plain, None), Names::Ready)
    }

    /// Whether it is known how the next text is read, or known to be in doubt.
    pub(super) fn knows_reading(&self) -> bool {
        self.reading().is_some()
    }

    /// How texts are read under these parameters.
    fn read_within(&self, under: Option<&Arc<Parameters>>) -> Reading {
        let lease = self.lease.as_ref();
        let began = lease.map_or(Reading::DOUBT, |lease| lease.upstream.began);
        let set = |name| under.and_then(|under| under.find(name));
        let utf8 = |value: &str| {
            ["utf8", "utf-8"]
                .iter()
                .any(|one| one.eq_ignore_ascii_case(value))
        };
        Reading {
            conforms: set(CONFORMING).map_or(began.conforms, |value| value == CONFORMS),
            letters: set(ENCODING).map_or(began.letters, utf8),
        }
    }

    /// Something is about to be sent that may change how texts are read.
    pub(super) fn requote(&mut self) {
        self.reread();
        self.state.quotes.later = true;
    }

    /// The same for the session, by a text of ours that is all of its unit.
    pub(super) fn reread(&mut self) {
        self.state.quotes.unit = self.exchange.unit();
    }

    /// Takes note of what a text may do to these parameters.
    pub(super) fn note_quotes(&mut self, facts: &Facts) {
        self.state.quotes.misread |= facts.sticks == Some(QUOTES_PIN);
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

    /// What functions may do, given how they are read if they run next.
    pub(super) fn read_effects(&self, effects: Effects) -> Effects {
        if !effects.presumes {
            return effects;
        }
        unless(!effects.shifts && self.conforms(), effects)
    }

    /// The same of a verdict on a text, which may change how they are read before they run.
    pub(super) fn read_verdict(&self, verdict: Verdict, facts: &Facts) -> Verdict {
        if !verdict.effects.presumes && verdict.open.is_none() {
            return verdict;
        }
        let standard = !facts.requotes && self.conforms();
        let effects = unless(standard && !verdict.effects.shifts, verdict.effects);
        Verdict {
            overlooked: verdict.open.is_some() && !standard,
            misread: effects != verdict.effects,
            effects,
            ..verdict
        }
    }

    /// Whether functions are read as the standard says. They are read when they run: what a transaction has bound before
    /// may change it until then.
    fn conforms(&self) -> bool {
        !self.state.quotes.later && self.reading().is_some_and(|reading| reading.conforms)
    }

    /// The same of functions that had not been known before.
    pub(super) fn learn_quotes(&mut self, effects: Effects) -> Effects {
        let overlooked = std::mem::take(&mut self.state.quotes.overlooked);
        let standard = !overlooked && !effects.shifts;
        self.state.quotes.misread |= effects.presumes && !standard;
        unless(standard, effects)
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

/// Whether a session with other parameters reads texts otherwise.
pub(super) fn is_reading_changed(known: &Parameters, wanted: &Parameters) -> bool {
    let mut names = [CONFORMING, ENCODING].into_iter();
    names.any(|name| known.find(name) != wanted.find(name))
}
