//! What the statements of a text do to names that a client takes along: statements prepared by SQL.
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
    /// `PREPARE name …`: the statement's own text.
    Prepare(Arc<[u8]>, Arc<[u8]>),
    /// `EXECUTE name`, also inside of EXPLAIN and CREATE TABLE AS.
    Execute(Arc<[u8]>),
    /// `DEALLOCATE name`.
    Deallocate(Arc<[u8]>),
}

impl Deed {
    /// The name that it is about.
    pub(crate) fn name(&self) -> &Arc<[u8]> {
        match self {
            Self::Prepare(name, _) | Self::Execute(name) | Self::Deallocate(name) => name,
        }
    }
}

/// The deeds of a text, each with the number of its statement among those that the server answers.
pub(crate) type Deeds = Arc<[(usize, Deed)]>;

impl Facts {
    /// Whether it matters to the text which statements exist under which names.
    pub(crate) fn names_statements(&self) -> bool {
        self.deeds.is_some() || self.lists_statements
    }
}

/// Reads a text; `None` if a name in it cannot be told.
pub(super) fn read(text: &[u8]) -> Option<Deeds> {
    let mut deeds = Vec::new();
    let mut reader = Reader::of(text);
    let mut number = 0;
    while let Some(statement) = reader.statement() {
        if statement.is_empty() {
            continue;
        }
        let (Some(first), Some(last)) = (statement.first(), statement.last()) else {
            continue;
        };
        let own = text.get(first.from..last.to)?;
        for deed in deeds_of(&statement, own) {
            deeds.push((number, deed?));
        }
        number += 1;
    }
    if let [(_, Deed::Prepare(_, own))] = &mut deeds[..]
        && number == 1
    {
        // Alone, the server keeps the text as it came.
        *own = text.into();
    }
    Some(deeds.into())
}

/// A token where it stands.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) token: Token<'a>,
    from: usize,
    to: usize,
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
                Token::Sign(_) | Token::Word(_) | Token::Text(_) | Token::Doubt => {}
            }
            pieces.push(piece);
        }
    }

    fn piece(&mut self) -> Option<Piece<'a>> {
        let from = self.text.len() - self.tokens.left_without_blank();
        let token = self.tokens.next()?;
        let to = self.text.len() - self.tokens.left();
        let raw = self.text.get(from..to)?;
        Some(Piece {
            token,
            from,
            to,
            raw,
        })
    }
}

/// The deeds of one statement; an inner `None` is a name that cannot be told.
fn deeds_of<'a>(
    statement: &'a [Piece<'a>],
    own: &'a [u8],
) -> impl Iterator<Item = Option<Deed>> + 'a {
    let at = |index: usize| statement.get(index);
    let is = move |index: usize, word: &[u8]| at(index).is_some_and(|piece| piece.is(word));
    let name = move |index: usize| at(index).and_then(Piece::name);
    let two_phase = is(1, b"transaction")
        && at(2).is_some_and(|piece| matches!(piece.token, Token::Text(_) | Token::Doubt));
    let lead = if is(0, b"prepare") && !two_phase {
        Some(name(1).map(|name| Deed::Prepare(name, own.into())))
    } else if is(0, b"deallocate") {
        let place = if is(1, b"prepare") && at(2).is_some() {
            2
        } else {
            1
        };
        // All of them: the server's answer tells.
        (!is(place, b"all")).then(|| name(place).map(Deed::Deallocate))
    } else {
        None
    };
    let leads: [&[u8]; 3] = [b"execute", b"explain", b"create"];
    let runs = leads.into_iter().any(|lead| is(0, lead));
    let pairs = statement.windows(2).filter(move |_| runs);
    let runs = pairs.filter_map(|pair| match pair {
        // Of EXECUTE FUNCTION and GRANT EXECUTE ON the next word is no name; it does no harm.
        [execute, next] if execute.is(b"execute") && matches!(next.token, Token::Word(_)) => {
            Some(next.name().map(Deed::Execute))
        }
        _ => None,
    });
    lead.into_iter().chain(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        let deeds = read(text.as_bytes()).unwrap();
        let show = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let lines = deeds.iter().map(|(number, deed)| match deed {
            Deed::Prepare(name, text) => format!("{number} prepare {}: {}", show(name), show(text)),
            Deed::Execute(name) => format!("{number} execute {}", show(name)),
            Deed::Deallocate(name) => format!("{number} deallocate {}", show(name)),
        });
        lines.collect()
    }

    #[test]
    fn names_are_read_as_the_server_reads_them() {
        assert_eq!(
            said(" PREPARE P1 (int) AS select $1; "),
            ["0 prepare p1:  PREPARE P1 (int) AS select $1; "]
        );
        assert_eq!(
            said("select 1;; prepare \"A \"\"b\" as select ';' ; execute p2 (1)"),
            [
                "1 prepare A \"b: prepare \"A \"\"b\" as select ';'",
                "2 execute p2"
            ]
        );
        assert_eq!(said("/* x */ deallocate prepare x"), ["0 deallocate x"]);
        assert_eq!(said("deallocate prepare"), ["0 deallocate prepare"]);
        assert_eq!(said("deallocate \"all\""), ["0 deallocate all"]);
        assert_eq!(said("explain (costs off) execute p"), ["0 execute p"]);
        assert_eq!(said("prepare transaction as select 1").len(), 1);
    }

    #[test]
    fn what_names_no_statement_is_left_alone() {
        assert!(said("deallocate all; DEALLOCATE PREPARE ALL").is_empty());
        assert!(said("prepare transaction 'x'").is_empty());
        assert!(said("select 'execute p'; /* execute q */").is_empty());
    }

    #[test]
    fn a_name_in_doubt_is_told() {
        let long = format!("execute {}", "x".repeat(64));
        assert!(read(long.as_bytes()).is_none());
    }
}
