//! The rules: which words of which statements make it suspect.

use super::{
    body::Body,
    change::{self, Change},
    config::ConfigCall,
    deeds::{self, Deeds},
    escapes::unescape,
    fence::fence,
    plain, shift,
    token::{Escapes, Token, Tokens, Word},
};
use crate::postgres::{policy, prepared};

/// How many leading words of a statement are kept.
const LEAD_WORDS: usize = 4;
/// Why a session stays: the body of a DO may have done what cannot be asked for.
const BLOCK_PIN: &str = "do_block";

/// What a text may do to its session, as far as tokens tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent suspicions of one text"
)]
pub(crate) struct Facts {
    /// It may leave state behind in the session: parameters, locks, temporary objects and the like.
    pub(crate) touches_session: bool,
    /// It sets parameters of extensions for the session, of which it shows the names.
    pub(crate) sets_own: bool,
    /// It may change parameters that matter to texts, for its transaction or the session.
    pub(crate) shifts: bool,
    /// It means the same whatever the parameters are.
    pub(crate) fixed: bool,
    /// It gives the columns of a cursor or of another statement, which the server holds against nothing.
    pub(crate) borrows: bool,
    /// It may end such state, which matters while there is some.
    pub(crate) may_clean: bool,
    /// It leaves state behind that cannot be asked for: the reason.
    pub(crate) sticks: Option<&'static str>,
    /// It may change definitions, so that shared prepared statements are out of date.
    pub(crate) defines: bool,
    /// It could make a read-only session writable.
    pub(crate) lifts_read_only: bool,
    /// It reads what a sequence gave to this session before.
    pub(crate) recalls_sequence: bool,
    /// It advances a sequence by name.
    pub(crate) advances_sequence: bool,
    /// Only an administrator may do it: its name.
    pub(crate) admin_only: Option<&'static str>,
    /// What it does to the names of prepared statements.
    pub(crate) deeds: Option<Deeds>,
    /// It is one plain change of a parameter and nothing else.
    pub(crate) change: Option<Change>,
    /// The parameters that it resets before its last statement, `all` for all of them.
    pub(crate) resets: Vec<String>,
    /// It looks at the list of prepared statements.
    pub(crate) lists_statements: bool,
    /// It names a statement as we name them on upstreams.
    pub(crate) names_ours: bool,
    /// Parameters of extensions that it sets; the server does not list them, so their names are kept.
    pub(crate) parameters: Vec<String>,
    /// It has more than one statement.
    pub(crate) several: bool,
    /// It resets all parameters.
    pub(crate) resets_all: bool,
    /// It begins a transaction.
    pub(crate) begins: bool,
    /// It may change which channels its session listens to, or asks for them.
    pub(crate) listens: bool,
    /// It notifies.
    pub(crate) notifies: bool,
    /// It runs a text that it puts together, in which any function may be called.
    pub(crate) loose: bool,
    /// A statement follows one that resets all parameters or ends a transaction.
    pub(crate) goes_on: bool,
    /// It was read as it is meant only where `standard_conforming_strings` is on.
    pub(crate) presumes: bool,
    /// The same of a block in it.
    pub(crate) presumes_in_block: bool,
    /// It was read as it is meant only where no second byte of a letter is a sign.
    pub(crate) letters: bool,
    /// It may change how texts are read.
    pub(crate) requotes: bool,
}

impl Facts {
    /// Whether what it takes and gives, where it is prepared again, is to be held against what it was.
    pub(crate) fn keeps_shape(&self) -> bool {
        !self.fixed && !self.borrows
    }
}

/// What a text may do, as far as its tokens tell.
pub(crate) fn scan(text: &[u8]) -> Facts {
    plain::glance(text).unwrap_or_else(|| scan_fully(text))
}

/// Asks every rule.
pub(super) fn scan_fully(text: &[u8]) -> Facts {
    let mut facts = scan_as(Scan::default(), text);
    facts.touches_session |= facts.sets_own;
    facts.may_clean |= facts.sets_own;
    facts
}

/// The same of a text that a function's body runs; there, parameters of extensions alone make nothing suspect.
pub(super) fn scan_apart(text: &[u8]) -> Facts {
    scan_as(Scan::inner(), text)
}

fn scan_as(mut scan: Scan, text: &[u8]) -> Facts {
    let mut tokens = Tokens::of(text);
    while let Some(token) = tokens.next() {
        scan.see(token);
        if tokens.is_slashed() && scan.leads(b"do") {
            scan.presume();
        }
    }
    scan.end();
    scan.facts.presumes |= tokens.presumes();
    scan.facts.letters |= tokens.letters();
    scan.facts.fixed &= !scan.facts.several;
    // What was only suspected by a word is read now.
    if scan.facts.change.take().is_some() {
        if scan.facts.several {
            scan.facts.resets = change::resets(text);
        } else {
            scan.facts.change = change::read(text);
        }
    }
    if scan.facts.deeds.take().is_some() {
        scan.facts.deeds = Some(deeds::read(text)).filter(|deeds| !deeds.is_empty());
    }
    scan.facts
}

/// A scan under way, token by token.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent notes of one statement"
)]
pub(super) struct Scan {
    pub(super) facts: Facts,
    lead: Vec<Word>,
    pub(super) last: Option<Word>,
    /// A COPY whose FROM or TO came last: a string next is a file of the server.
    copy_target: bool,
    statements: usize,
    started: bool,
    /// A statement was seen that resets all parameters or ends a transaction.
    fenced: bool,
    /// The name that a SET sets, until its `=` or TO.
    pub(super) target: Option<String>,
    /// How many parameters of extensions were set before this statement.
    set_before: usize,
    pub(super) config: Option<ConfigCall>,
    /// The statement has the word UPDATE.
    updates: bool,
    /// The body of a DO came last: a string next goes on with it.
    in_block: bool,
    /// The text has names or strings that stand for others.
    doubt: bool,
    /// The text is part of a body.
    is_inner: bool,
}

impl Scan {
    /// Of a text that is part of a function's body.
    pub(super) fn inner() -> Self {
        Self {
            is_inner: true,
            ..Self::default()
        }
    }

    pub(super) fn see(&mut self, token: Token<'_>) {
        self.see_config(token);
        self.see_target(token);
        self.see_path(token);
        let goes_on = std::mem::take(&mut self.in_block);
        match token {
            Token::Sign(b';') => {
                self.end_statement();
                return;
            }
            Token::Sign(b'(') => self.call(),
            Token::Text(_) | Token::Escaped(..) if self.copy_target => {
                self.facts.admin_only = Some("COPY with a file of the server");
            }
            Token::Text(_) | Token::Escaped(..) if goes_on => {
                self.facts.sticks = Some(BLOCK_PIN);
                self.in_block = true;
            }
            Token::Text(body) if self.leads(b"do") => self.block(body),
            Token::Escaped(body, escapes) if self.leads(b"do") => {
                // Names in it are not told from others by how they are written.
                self.facts.loose |= escapes == Escapes::Backslashes;
                self.block(&unescape(body, escapes));
            }
            Token::Sign(_) | Token::Text(_) | Token::Escaped(..) => {}
            Token::Doubt => self.doubt = true,
            Token::Word(word) => {
                self.word(word);
                return;
            }
        }
        if !self.started {
            self.start_statement();
        }
        self.last = None;
        self.copy_target = false;
    }

    fn start_statement(&mut self) {
        self.started = true;
        self.statements += 1;
        self.facts.several = self.statements > 1;
        self.facts.goes_on |= self.fenced;
    }

    fn word(&mut self, word: Word) {
        if !self.started {
            self.start_statement();
        }
        let last = self.last.replace(word);
        let last = last.as_ref().map_or(&b""[..], Word::as_bytes);
        let copying = self.leads(b"copy");
        match word.as_bytes() {
            b"temp" | b"temporary" => {
                self.facts.touches_session |= matches!(
                    last,
                    b"create" | b"local" | b"global" | b"replace" | b"into" | b"or"
                );
            }
            b"pg_prepared_statements" | b"pg_prepared_statement" => {
                self.facts.lists_statements = true;
            }
            b"pg_listening_channels" => self.facts.listens = true,
            b"execute" if self.leads(b"explain") || self.leads(b"create") => {
                self.facts.deeds = Some(Deeds::default());
            }
            b"update" => self.updates = true,
            // Its rules set parameters.
            b"pg_settings" if self.updates => {
                self.facts.touches_session = true;
                self.facts.shifts = true;
                self.facts.requotes = true;
            }
            b"hold" => self.facts.touches_session |= last == b"with",
            b"write" => self.facts.lifts_read_only |= last == b"read",
            b"transaction_read_only" | b"default_transaction_read_only" => {
                self.facts.lifts_read_only |= !self.leads(b"show");
            }
            b"program" if copying && matches!(last, b"from" | b"to") => {
                self.facts.admin_only = Some("COPY with a program");
            }
            name if name.starts_with(b"pg_temp") => self.facts.touches_session = true,
            name if matches!(last, b"execute" | b"deallocate" | b"prepare") => {
                self.facts.names_ours |= prepared::is_ours(name);
            }
            _ => {}
        }
        self.copy_target = copying && matches!(word.as_bytes(), b"from" | b"to");
        if self.lead.is_empty() && word.as_bytes() == b"set" {
            self.target = Some(String::new());
        }
        if self.lead.len() < LEAD_WORDS {
            self.lead.push(word);
        }
    }

    /// The body of a DO; one inside of another is not read, as they could be nested without end.
    fn block(&mut self, text: &[u8]) {
        self.in_block = true;
        let facts = &mut self.facts;
        if self.is_inner {
            facts.sticks = Some(BLOCK_PIN);
            return;
        }
        let mut body = Body::default();
        body.read(text);
        facts.sets_own |= body.effects.sets;
        facts.loose |= body.loose;
        facts.letters |= body.letters;
        facts.parameters.append(&mut body.parameters);
        facts.sticks = body.effects.sticks.map(|_| BLOCK_PIN).or(facts.sticks);
        if body.effects.presumes {
            self.presume();
        }
    }

    /// A body is another where strings are read otherwise when it runs, which is after what comes before it.
    fn presume(&mut self) {
        self.facts.presumes_in_block = true;
        if self.facts.requotes {
            self.facts.sticks = Some(BLOCK_PIN);
        }
    }

    pub(super) fn leads(&self, first: &[u8]) -> bool {
        self.lead
            .first()
            .is_some_and(|word| word.as_bytes() == first)
    }

    /// The text ends.
    pub(super) fn end(&mut self) {
        self.end_statement();
        if self.doubt {
            self.facts = self.facts.unread("text with U& escapes");
        }
    }

    pub(super) fn end_statement(&mut self) {
        self.target = None;
        self.updates = false;
        self.end_call();
        let set = self.facts.parameters.len();
        let own = std::mem::replace(&mut self.set_before, set) < set;
        let lead = std::mem::take(&mut self.lead);
        let word = |at: usize| lead.get(at).map_or(&b""[..], Word::as_bytes);
        if matches!(word(0), b"set" | b"reset" | b"discard") {
            self.facts.change = Some(Change::ResetAll);
        }
        let deeds: [&[u8]; 4] = [b"prepare", b"execute", b"deallocate", b"discard"];
        if deeds.contains(&word(0)) {
            self.facts.deeds = Some(Deeds::default());
        }
        // Of blocks, only the usual language can be read.
        if (word(0), word(1)) == (b"do", b"language") && word(2) != b"plpgsql" {
            self.facts.sticks = Some(BLOCK_PIN);
        }
        let facts = &mut self.facts;
        shift::look(facts, [word(0), word(1), word(2)]);
        // In bodies, what is executed is a text, which is read.
        facts.requotes |= word(0) == b"execute" && !self.is_inner;
        self.fenced |= fence(facts, word(0), word(1));
        let admin_only = policy::admin_statement(word(0), word(1), word(2));
        facts.admin_only = admin_only.or(facts.admin_only);
        match word(0) {
            b"set" => match word(1) {
                b"local" | b"constraints" | b"transaction" => {}
                b"session" if word(2) == b"characteristics" => {
                    facts.touches_session = true;
                }
                _ if own => facts.sets_own = true,
                _ => facts.touches_session = true,
            },
            b"do" | b"call" => {
                facts.touches_session = true;
                facts.listens = true;
                facts.lifts_read_only = true;
                facts.defines = true;
            }
            b"reset" | b"discard" => {
                facts.touches_session = true;
                facts.listens |= word(0) == b"discard";
                facts.may_clean = true;
            }
            b"listen" => {
                facts.touches_session = true;
                facts.listens = true;
            }
            b"notify" => facts.notifies = true,
            b"load" => facts.sticks = Some("LOAD"),
            b"insert" => facts.advances_sequence = true,
            b"unlisten" => {
                facts.listens = true;
                facts.may_clean = true;
            }
            b"deallocate" | b"close" | b"commit" | b"end" | b"rollback" | b"abort" => {
                facts.may_clean = true;
            }
            b"drop" | b"alter" => {
                facts.may_clean = true;
                facts.defines = true;
            }
            b"create" => facts.defines = true,
            _ => {}
        }
        facts.may_clean |= facts.touches_session;
        self.last = None;
        self.copy_target = false;
        self.started = false;
    }
}
