//! Bodies of functions in languages that are not read: what is in quotes may be SQL.

use std::borrow::Cow;

use super::{
    body::{Body, CHANGES},
    config::ConfigCall,
    mentions::digest,
    token::{Token, Tokens},
};

/// How much of a text counts whose end is not known.
const HEAD_BYTES_MAX: usize = 512;
/// What runs a text, in languages that are not read.
const RUNS: [&[u8]; 11] = [
    b"execute",
    b"exec",
    b"query",
    b"prepare",
    b"cursor",
    b"spi_exec",
    b"spi_exec_query",
    b"spi_execp",
    b"spi_query",
    b"spi_prepare",
    b"exec_query",
];

impl Body {
    /// A body in such a language.
    pub(super) fn skim(&mut self, text: &[u8]) {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let (mut rest, mut assembles) = (text, false);
        while let Some(at) = rest.iter().position(is_word) {
            let (gap, tail) = rest.split_at(at);
            let mut signs = gap.iter().filter(|byte| !byte.is_ascii_whitespace());
            let before = signs.next_back().copied().unwrap_or(b' ');
            let length = tail
                .iter()
                .position(|byte| !is_word(byte))
                .unwrap_or(tail.len());
            let (word, after) = tail.split_at(length);
            self.mentions.push(digest(word));
            let is = |words: &[&[u8]]| words.iter().any(|known| known.eq_ignore_ascii_case(word));
            let quoted = matches!(before, b'"' | b'\'' | b'`' | b';');
            if is(&[b"set_config"]) {
                self.configured(after);
            } else if quoted && is(&CHANGES) {
                let head = head(tail);
                let end = head
                    .iter()
                    .position(|byte| *byte == before && before != b';');
                self.constant(
                    head.get(..end.unwrap_or(head.len())).unwrap_or_default(),
                    false,
                );
            } else if is(&RUNS) {
                assembles |= self.called(after);
            }
            rest = after;
        }
        if assembles {
            let strings = text.split(|byte| is_quote(*byte)).skip(1);
            self.assembled(strings.map(Cow::Borrowed));
        }
    }

    /// A call of `set_config` somewhere in a string.
    fn configured(&mut self, after: &[u8]) {
        let mut tokens = Tokens::of(head(after));
        if tokens.next() != Some(Token::Sign(b'(')) {
            return;
        }
        let mut call = ConfigCall::opened();
        let whole = tokens.any(|token| call.see(token));
        self.effects.shifts = true;
        self.requotes = true;
        if whole && call.is_local() {
            return;
        }
        match call.name.filter(|_| whole) {
            Some(name) => self.set_named(name),
            None => self.stick(),
        }
    }

    /// A call of what may run a text; true if the text is no constant.
    fn called(&mut self, after: &[u8]) -> bool {
        let Some(arguments) = after.trim_ascii_start().strip_prefix(b"(") else {
            return false;
        };
        self.loose = true;
        let first = arguments.trim_ascii_start().first();
        !first.is_some_and(|first| is_quote(*first))
    }
}

fn head(text: &[u8]) -> &[u8] {
    text.get(..HEAD_BYTES_MAX).unwrap_or(text)
}

fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b'`')
}
