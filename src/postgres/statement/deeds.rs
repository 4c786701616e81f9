//! What the statements of a text do to the names of prepared statements.
//!
//! Looked for only where the rules have seen one of the words; the rest is a scan of tokens again,
//! this time with names as they are written.

use std::sync::Arc;

use super::{
    Facts,
    token::{Token, Tokens},
};

/// The longest name that the server does not cut off.
const NAME_BYTES_MAX: usize = 63;

/// What one statement does to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deed {
    /// `PREPARE name …`.
    Prepare,
    /// `EXECUTE name`, also inside of EXPLAIN and CREATE TABLE AS.
    Execute(Arc<[u8]>),
    /// `DEALLOCATE name`.
    Deallocate(Arc<[u8]>),
    /// `DEALLOCATE ALL`, `DISCARD ALL`.
    DeallocateAll,
    /// One of these, with a name that cannot be told.
    Unclear,
}

/// The deeds of a text, in their order.
pub(crate) type Deeds = Arc<[Deed]>;

impl Facts {
    /// Whether the server itself must know the client's statements by their names.
    pub(crate) fn needs_names(&self) -> bool {
        self.lists_statements
            || self.deeds().any(|deed| match deed {
                Deed::Prepare | Deed::Execute(_) | Deed::Unclear => true,
                Deed::Deallocate(_) => self.several,
                Deed::DeallocateAll => false,
            })
    }

    /// The one name that it takes away, if it does nothing else.
    pub(crate) fn deallocates(&self) -> Option<&Arc<[u8]>> {
        match (self.deeds.as_deref(), self.several) {
            (Some([Deed::Deallocate(name)]), false) => Some(name),
            _ => None,
        }
    }

    /// Whether it may take all names away.
    pub(crate) fn deallocates_all(&self) -> bool {
        self.deeds().any(|deed| *deed == Deed::DeallocateAll)
    }

    /// What it does to names.
    pub(crate) fn deeds(&self) -> impl Iterator<Item = &Deed> {
        self.deeds.iter().flat_map(|deeds| deeds.iter())
    }
}

/// Reads a text.
pub(super) fn read(text: &[u8]) -> Deeds {
    let mut deeds = Vec::new();
    let mut reader = Reader::of(text);
    while let Some(statement) = reader.statement() {
        deeds.extend(deeds_of(&statement));
    }
    deeds.into()
}

/// A token where it stands.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) token: Token<'a>,
    /// As it is written.
    pub(super) raw: &'a [u8],
}

impl Piece<'_> {
    /// Whether it is this word, without quotes.
    pub(super) fn is(&self, word: &[u8]) -> bool {
        let quoted = self.raw.first() == Some(&b'"');
        matches!(self.token, Token::Word(found) if !quoted && found.as_bytes() == word)
    }

    /// The name that it is; `None` if it is none that can be told.
    pub(super) fn name(&self) -> Option<Arc<[u8]>> {
        let Token::Word(_) = self.token else {
            return None;
        };
        let name: Vec<u8> = match self.raw {
            [b'"', inner @ .., b'"'] => {
                let mut name = inner.to_vec();
                let mut last = 0;
                name.retain(|byte| {
                    let second = *byte == b'"' && last == b'"';
                    last = if second { 0 } else { *byte };
                    !second
                });
                name
            }
            plain => plain.to_ascii_lowercase(),
        };
        (!name.is_empty() && name.len() <= NAME_BYTES_MAX).then(|| name.into())
    }
}

/// Cuts a text into statements.
pub(super) struct Reader<'a> {
    text: &'a [u8],
    tokens: Tokens<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn of(text: &'a [u8]) -> Self {
        let tokens = Tokens::of(text);
        Self { text, tokens }
    }

    /// The pieces up to the next semicolon; `None` at the end.
    pub(super) fn statement(&mut self) -> Option<Vec<Piece<'a>>> {
        let mut pieces = Vec::new();
        let mut depth = 0_usize;
        loop {
            let Some(piece) = self.piece() else {
                return (!pieces.is_empty()).then_some(pieces);
            };
            match piece.token {
                Token::Sign(b'(') => depth += 1,
                Token::Sign(b')') => depth = depth.saturating_sub(1),
                // A rule's actions have semicolons between them.
                Token::Sign(b';') if depth == 0 => return Some(pieces),
                Token::Sign(_)
                | Token::Word(_)
                | Token::Text(_)
                | Token::Escaped(..)
                | Token::Doubt => {}
            }
            pieces.push(piece);
        }
    }

    /// Whether what was read so far is right only where `standard_conforming_strings` is on.
    pub(super) fn presumes(&self) -> bool {
        self.tokens.presumes()
    }

    /// The same of letters beyond ASCII.
    pub(super) fn letters(&self) -> bool {
        self.tokens.letters()
    }

    /// The next piece, semicolons included.
    pub(super) fn piece(&mut self) -> Option<Piece<'a>> {
        let from = self.text.len() - self.tokens.left_without_blank();
        let token = self.tokens.next()?;
        let to = self.text.len() - self.tokens.left();
        let raw = self.text.get(from..to)?;
        Some(Piece { token, raw })
    }
}

/// The deeds of one statement.
fn deeds_of<'a>(statement: &'a [Piece<'a>]) -> impl Iterator<Item = Deed> + 'a {
    let at = |index: usize| statement.get(index);
    let is = move |index: usize, word: &[u8]| at(index).is_some_and(|piece| piece.is(word));
    let name = move |index: usize| at(index).and_then(Piece::name);
    let two_phase = is(1, b"transaction")
        && at(2).is_some_and(|piece| {
            matches!(
                piece.token,
                Token::Text(_) | Token::Escaped(..) | Token::Doubt
            )
        });
    let lead = if is(0, b"prepare") && !two_phase {
        Some(Deed::Prepare)
    } else if is(0, b"discard") {
        is(1, b"all").then_some(Deed::DeallocateAll)
    } else if is(0, b"deallocate") {
        let place = if is(1, b"prepare") && at(2).is_some() {
            2
        } else {
            1
        };
        let named = || name(place).map_or(Deed::Unclear, Deed::Deallocate);
        Some(if is(place, b"all") {
            Deed::DeallocateAll
        } else {
            named()
        })
    } else {
        None
    };
    let leads: [&[u8]; 3] = [b"execute", b"explain", b"create"];
    let runs = leads.into_iter().any(|lead| is(0, lead));
    let pairs = statement.windows(2).filter(move |_| runs);
    let runs = pairs.filter_map(|pair| match pair {
        // Of a trigger's EXECUTE FUNCTION the next word is no name.
        [execute, next]
            if execute.is(b"execute") && !next.is(b"function") && !next.is(b"procedure") =>
        {
            Some(next.name().map_or(Deed::Unclear, Deed::Execute))
        }
        _ => None,
    });
    lead.into_iter().chain(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        let deeds = read(text.as_bytes());
        let show = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let lines = deeds.iter().map(|deed| match deed {
            Deed::Prepare => "prepare".to_owned(),
            Deed::Execute(name) => format!("execute {}", show(name)),
            Deed::Deallocate(name) => format!("deallocate {}", show(name)),
            Deed::DeallocateAll => "deallocate (all)".to_owned(),
            Deed::Unclear => "unclear".to_owned(),
        });
        lines.collect()
    }

    #[test]
    fn names_are_read_as_the_server_reads_them() {
        assert_eq!(said(" PREPARE P1 (int) AS select $1; "), ["prepare"]);
        assert_eq!(
            said("select 1;; prepare \"A \"\"b\" as select ';' ; execute \"P \"\"2\" (1)"),
            ["prepare", "execute P \"2"]
        );
        assert_eq!(said("/* x */ deallocate prepare x"), ["deallocate x"]);
        assert_eq!(said("deallocate prepare"), ["deallocate prepare"]);
        assert_eq!(said("deallocate \"all\""), ["deallocate all"]);
        assert_eq!(said("explain (costs off) execute P"), ["execute p"]);
        assert_eq!(said("create table t as execute p"), ["execute p"]);
        assert_eq!(said("prepare transaction as select 1").len(), 1);
        assert_eq!(
            said("deallocate all; DEALLOCATE PREPARE ALL; discard all"),
            ["deallocate (all)"; 3]
        );
    }

    #[test]
    fn what_names_no_statement_is_left_alone() {
        assert!(said("prepare transaction 'x'; discard plans; reset all").is_empty());
        assert!(said("select 'execute p'; /* execute q */").is_empty());
        assert!(said("create trigger t after insert on x execute function f()").is_empty());
    }

    #[test]
    fn a_name_in_doubt_is_told() {
        assert_eq!(said(&format!("execute {}", "x".repeat(64))), ["unclear"]);
    }
}
