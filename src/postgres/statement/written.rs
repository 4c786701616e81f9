//! The names that a function's body writes to: what it runs under any other was given to it.

use ahash::HashSet;

use super::{
    body::OPENERS,
    deeds::Piece,
    mentions::{bare, digest},
    token::Token,
};

/// The names that a body writes to: by assignments, defaults, INTO and loops.
pub(super) fn written_in(pieces: &[Piece<'_>]) -> HashSet<u64> {
    let mut written = HashSet::default();
    let (mut starts, mut first, mut takes, mut listed) = (true, None, false, false);
    for piece in pieces {
        #[cfg(test)]
        super::token::work::done(1);
        let is = |words: &[&[u8]]| words.iter().any(|word| piece.is(word));
        let word = matches!(piece.token, Token::Word(_)).then(|| digest(bare(piece.raw)));
        if std::mem::take(&mut starts) {
            first = word;
        }
        // Another name for something that was given.
        if is(&[b"alias"]) {
            first = None;
        }
        if is(&[b"default"]) || piece.token == Token::Sign(b'=') {
            written.extend(first);
        }
        let begins = is(&[b"into", b"strict", b"for", b"foreach"]);
        if takes && !begins {
            written.extend(word);
        }
        listed = takes || listed && piece.token == Token::Sign(b',');
        takes = begins || listed && !takes;
        starts = piece.token == Token::Sign(b';') || is(&OPENERS);
    }
    written
}
