//! Reading the arguments of a call of `set_config(name, value, is_local)`.

use super::token::Token;

/// A call that is being read.
pub(super) struct ConfigCall {
    depth: usize,
    arguments: usize,
    /// The first argument, if it is a plain constant.
    pub(super) name: Option<String>,
    /// The argument under way is the constant `true`.
    is_true: bool,
    /// Tokens of the argument under way.
    tokens: usize,
    /// How much of `::text` follows the first argument.
    cast: usize,
}

impl ConfigCall {
    /// Behind the opening parenthesis.
    pub(super) fn opened() -> Self {
        Self {
            depth: 1,
            arguments: 0,
            name: None,
            is_true: false,
            tokens: 0,
            cast: 0,
        }
    }

    /// The first argument, if it is over and a plain constant.
    pub(super) fn named(&self) -> Option<&str> {
        self.name.as_deref().filter(|_| self.arguments > 0)
    }

    /// Whether the change is for the transaction only, once the call is read.
    pub(super) fn is_local(&self) -> bool {
        self.arguments == 2 && self.is_true
    }

    /// Takes the next token in; true if it ends the call.
    pub(super) fn see(&mut self, token: Token<'_>) -> bool {
        self.tokens += 1;
        match token {
            Token::Sign(b'(') => self.depth += 1,
            Token::Sign(b')') => {
                self.depth -= 1;
                if self.depth == 0 {
                    return true;
                }
            }
            Token::Sign(b',') if self.depth == 1 => {
                // The server's own way to write it has a cast.
                let plain = self.tokens == 2 || (self.tokens, self.cast) == (5, 3);
                if self.arguments == 0 && !plain {
                    self.name = None;
                }
                self.arguments += 1;
                self.tokens = 0;
                self.is_true = false;
            }
            Token::Text(text) if self.arguments == 0 && self.tokens == 1 => {
                let plain = !text.contains(&b'\\') && !text.contains(&b'\'');
                let name = std::str::from_utf8(text).ok().filter(|_| plain);
                self.name = name.map(str::to_ascii_lowercase);
            }
            Token::Sign(b':') if self.arguments == 0 => self.cast += 1,
            Token::Word(word) if self.arguments == 0 && word.as_bytes() == b"text" => {
                self.cast += 1;
            }
            Token::Word(word) if self.tokens == 1 => self.is_true = word.as_bytes() == b"true",
            Token::Sign(_)
            | Token::Text(_)
            | Token::Escaped(..)
            | Token::Word(_)
            | Token::Doubt => {
                self.is_true = false;
            }
        }
        false
    }
}
