//! The rules for what a statement sets: the names of parameters, and the value of one.

use std::borrow::Cow;

use super::{escapes::unescape, facts::Scan, token::Token};

/// The temporary schema, whatever its number.
const TEMPORARY: &[u8] = b"pg_temp";

impl Scan {
    /// Reads the name that a SET sets: words with dots between them.
    pub(super) fn see_target(&mut self, token: Token<'_>) {
        let Some(mut name) = self.target.take() else {
            return;
        };
        match token {
            Token::Sign(b'.') => {
                name.push('.');
                self.target = Some(name);
                return;
            }
            Token::Word(word) if word.as_bytes() != b"to" => {
                if !name.ends_with('.') {
                    name.clear();
                }
                let part = std::str::from_utf8(word.as_bytes()).unwrap_or_default();
                if part.is_empty() {
                    // Longer than a word is kept, or not a text at all.
                    self.facts.sticks = Some("parameter");
                    return;
                }
                name.push_str(part);
                self.target = Some(name);
                return;
            }
            Token::Sign(_)
            | Token::Text(_)
            | Token::Escaped(..)
            | Token::Word(_)
            | Token::Doubt => {}
        }
        if name.contains('.') {
            self.facts.parameters.push(name);
        }
    }

    /// A path to temporary schemas makes what follows temporary without a word of it, also where it is set for the
    /// transaction only.
    pub(super) fn see_path(&mut self, token: Token<'_>) {
        if self.config.is_none() && !self.leads(b"set") {
            return;
        }
        let text = match token {
            Token::Text(text) => Cow::Borrowed(text),
            Token::Escaped(text, escapes) => Cow::Owned(unescape(text, escapes)),
            Token::Word(_) | Token::Sign(_) | Token::Doubt => return,
        };
        let mut parts = text.windows(TEMPORARY.len());
        self.facts.touches_session |= parts.any(|part| part.eq_ignore_ascii_case(TEMPORARY));
    }
}
