//! The names in a text: what it may call, and what it may use.
//!
//! Which of them are functions or tables is not told here; strings are looked into as well, for some
//! functions run what they are given.

use std::hash::Hasher;

use super::{
    deeds::{Piece, Reader},
    token::Token,
};

/// The server cuts longer names off.
const NAME_BYTES_MAX: usize = 63;
/// All names that may be written in another way here than there: other letters, quotes in them.
const OTHERS: u64 = 0;
/// How deep strings in strings are looked into.
const DEPTH_MAX: usize = 3;
/// Behind these, a name with a parenthesis is followed by names of columns.
const LISTS: [&[u8]; 5] = [b"into", b"as", b"references", b"copy", b"table"];

/// A name in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mention<'a> {
    /// Any word or name, as [`digest`] tells it.
    Word(u64),
    /// The word before was called like a function: its digest, and how it is written.
    Called(u64, &'a [u8]),
    /// Something that stands for another name.
    Doubt,
    /// A string, or a string in it, that is itself a text was read as it is meant only where
    /// `standard_conforming_strings` is on.
    Presumed,
}

/// Tells names apart, as the server folds and cuts them; two that differ by case only are one.
pub(crate) fn digest(name: &[u8]) -> u64 {
    let name = name.get(..NAME_BYTES_MAX).unwrap_or(name);
    if !name.is_ascii() || name.contains(&b'"') {
        return OTHERS;
    }
    let mut folded = [0; NAME_BYTES_MAX];
    for (to, from) in folded.iter_mut().zip(name) {
        *to = from.to_ascii_lowercase();
    }
    let mut hasher = ahash::AHasher::default();
    hasher.write(folded.get(..name.len()).unwrap_or_default());
    hasher.finish() | 1
}

/// Shows every name in a text, those in its strings too if `strings` says so. What is called in strings
/// shows where a string is known to be run: in DO.
pub(crate) fn mentions<'a>(text: &'a [u8], strings: bool, see: &mut dyn FnMut(Mention<'a>)) {
    let runs = first_word(text).is_some_and(|first| first.is(b"do"));
    let depth = if strings || runs { DEPTH_MAX } else { 0 };
    look(text, depth, &mut |mention, deep| {
        let shows = match mention {
            Mention::Called(..) => runs || !deep,
            Mention::Presumed => deep,
            Mention::Word(_) | Mention::Doubt => true,
        };
        if shows {
            see(mention);
        }
    });
}

fn look<'a>(text: &'a [u8], depth: usize, see: &mut dyn FnMut(Mention<'a>, bool)) {
    let mut reader = Reader::of(text);
    let (mut last, mut dotted, mut listed) = (None, false, false);
    let mut before_list = false;
    while let Some(piece) = reader.piece() {
        let mut word = None;
        match piece.token {
            Token::Word(_) => {
                let name = bare(piece.raw);
                let digest = digest(name);
                see(Mention::Word(digest), false);
                listed = if dotted { listed } else { before_list };
                before_list = LISTS.iter().any(|list| piece.is(list));
                word = Some((digest, name));
            }
            Token::Sign(b'(') => {
                if let Some((digest, name)) = last.filter(|_| !listed) {
                    see(Mention::Called(digest, name), false);
                }
            }
            Token::Text(inner) | Token::Escaped(inner, _) if depth > 0 => {
                look(inner, depth - 1, &mut |mention, _| see(mention, true));
            }
            Token::Doubt => see(Mention::Doubt, false),
            Token::Sign(_) | Token::Text(_) | Token::Escaped(..) => {}
        }
        dotted = piece.token == Token::Sign(b'.');
        before_list &= word.is_some();
        last = word;
    }
    if reader.presumes() {
        see(Mention::Presumed, false);
    }
}

/// A name without its quotes.
pub(super) fn bare(raw: &[u8]) -> &[u8] {
    match raw {
        [b'"', inner @ .., b'"'] => inner,
        plain => plain,
    }
}

/// The first word of a text.
pub(super) fn first_word(text: &[u8]) -> Option<Piece<'_>> {
    let first = Reader::of(text).piece()?;
    matches!(first.token, Token::Word(_)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        mentions(text.as_bytes(), true, &mut |mention| {
            if let Mention::Called(_, name) = mention {
                found.push(String::from_utf8_lossy(name).into_owned());
            }
        });
        found
    }

    fn names(text: &str, name: &str) -> bool {
        let mut found = false;
        mentions(text.as_bytes(), true, &mut |mention| {
            found |= mention == Mention::Word(digest(name.as_bytes()));
        });
        found
    }

    #[test]
    fn calls_are_told_from_lists_of_columns() {
        let text = "insert into s.t (a) select F(1), \"G h\" (2), s.k(3) from t as x(a)";
        assert_eq!(called(text), ["F", "G h", "k"]);
        assert_eq!(
            called("select 1 + (2), f, '(', $1 (x)"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn names_are_found_as_the_server_writes_them() {
        for text in [
            "select login_as(5)",
            "select \"LOGIN_AS\"(5)",
            "select a.Login_As (5)",
            "select query_to_xml('select login_as(5)', true, true, '')",
            "do $$ begin perform login_as(5); end $$",
            "update login_as set x = 1",
        ] {
            assert!(names(text, "login_as"), "{text}");
        }
        assert!(!names("select 1 -- login_as(5)", "login_as"));
        assert!(!names("select login_as2(5)", "login_as"));
        let (long, cut) = ("x".repeat(70), "x".repeat(63));
        assert!(names(&format!("select {long}()"), &cut));
        assert!(
            names("select \"f\u{fc}r\"()", "\u{fc}ber"),
            "all such are one"
        );
    }
}
