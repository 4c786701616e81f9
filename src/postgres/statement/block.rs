//! What the body of a DO leaves in its session that cannot be asked for.

use super::token::{Token, Tokens, Word};

/// Why the body holds its session, if it does: it may set a parameter that the server does not list.
pub(super) fn sticks(body: &[u8]) -> Option<&'static str> {
    let (mut last, mut found) = (None, None);
    for token in Tokens::of(body) {
        let word = match token {
            Token::Word(word) => Some(word),
            Token::Sign(_) | Token::Text(_) | Token::Doubt => None,
        };
        let name = word.as_ref().map_or(&b""[..], Word::as_bytes);
        let set = last
            .as_ref()
            .is_some_and(|last: &Word| last.as_bytes() == b"set");
        if matches!(name, b"set_config" | b"execute" | b"setseed") || set && name == b"session" {
            found = Some("do_block");
        }
        last = word;
    }
    found
}
