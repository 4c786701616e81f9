//! Cutting SQL text into tokens as PostgreSQL's scanner does, without understanding them.

/// The longest word that any rule of ours names; longer ones are told apart from all of them.
const WORD_BYTES_MAX: usize = 40;

/// A piece of SQL text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword or a name, folded to lower case.
    Word(Word),
    /// A string constant of any kind, without its quotes.
    Text(&'a [u8]),
    /// Any other character.
    Sign(u8),
    /// Something whose end cannot be told without knowing the session (backslashes, `U&`).
    Doubt,
}

/// A word in lower case, kept without allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    bytes: [u8; WORD_BYTES_MAX],
    length: u8,
}

impl Word {
    fn folded(text: &[u8]) -> Self {
        let mut word = Self {
            bytes: [0; WORD_BYTES_MAX],
            length: 0,
        };
        if text.len() <= WORD_BYTES_MAX {
            for (to, from) in word.bytes.iter_mut().zip(text) {
                *to = from.to_ascii_lowercase();
            }
            word.length = u8::try_from(text.len()).unwrap_or(0);
        }
        word
    }

    /// The word; empty if it is longer than any rule's.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }
}

/// The tokens of a text; comments and white space are left out.
pub(super) struct Tokens<'a> {
    rest: &'a [u8],
}

impl<'a> Tokens<'a> {
    pub(super) fn of(text: &'a [u8]) -> Self {
        Self { rest: text }
    }

    /// How much of the text is left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// The same from the next token on.
    pub(super) fn left_without_blank(&mut self) -> usize {
        self.skip_blank();
        self.rest.len()
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self
            .rest
            .split_at_checked(count)
            .unwrap_or((self.rest, &[]));
        self.rest = tail;
        head
    }

    fn skip_blank(&mut self) {
        loop {
            let blank = self
                .rest
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace() || **byte == 11);
            let count = blank.count();
            self.take(count);
            if self.rest.starts_with(b"--") {
                let end = memchr::memchr2(b'\n', b'\r', self.rest);
                self.take(end.unwrap_or(self.rest.len()));
            } else if self.rest.starts_with(b"/*") {
                self.skip_comment();
            } else if count == 0 {
                return;
            }
        }
    }

    /// Comments nest.
    fn skip_comment(&mut self) {
        let mut depth = 0_usize;
        while !self.rest.is_empty() {
            if self.rest.starts_with(b"/*") {
                depth += 1;
                self.take(2);
            } else if self.rest.starts_with(b"*/") {
                depth -= 1;
                self.take(2);
            } else {
                self.take(1);
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// A text in quotes; doubled quotes stand for one, backslashes escape only if `escapes`.
    fn quoted(&mut self, quote: u8, escapes: bool) -> (&'a [u8], bool) {
        self.take(1);
        let (mut at, mut backslash) = (0, false);
        while let Some(byte) = self.rest.get(at) {
            if *byte == b'\\' {
                backslash = true;
                at += if escapes { 2 } else { 1 };
            } else if *byte != quote {
                at += 1;
            } else if self.rest.get(at + 1) == Some(&quote) {
                at += 2;
            } else {
                break;
            }
        }
        let text = self.take(at);
        self.take(1);
        (text, backslash)
    }

    /// `$tag$ … $tag$`, or just a sign.
    fn dollar(&mut self) -> Token<'a> {
        let tag = self
            .rest
            .iter()
            .skip(1)
            .take_while(|byte| is_word(**byte) && **byte != b'$');
        let length = tag.count() + 2;
        let digit = self.rest.get(1).is_some_and(u8::is_ascii_digit);
        if digit || self.rest.get(length - 1) != Some(&b'$') {
            self.take(1);
            return Token::Sign(b'$');
        }
        let tag = self.take(length);
        let end = memchr::memmem::find(self.rest, tag).unwrap_or(self.rest.len());
        let text = self.take(end);
        self.take(length);
        Token::Text(text)
    }

    fn word(&mut self) -> Token<'a> {
        let length = self.rest.iter().take_while(|byte| is_word(**byte)).count();
        let word = self.take(length);
        match (word, self.rest.first()) {
            (b"e" | b"E", Some(b'\'')) => Token::Text(self.quoted(b'\'', true).0),
            (b"b" | b"B" | b"x" | b"X" | b"n" | b"N", Some(b'\'')) => {
                Token::Text(self.quoted(b'\'', false).0)
            }
            (b"u" | b"U", Some(b'&')) if matches!(self.rest.get(1), Some(b'\'' | b'"')) => {
                self.take(1);
                let quote = self.rest.first().copied().unwrap_or(b'"');
                self.quoted(quote, false);
                Token::Doubt
            }
            _ => Token::Word(Word::folded(word)),
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blank();
        let first = *self.rest.first()?;
        Some(match first {
            b'\'' => match self.quoted(b'\'', false) {
                // With standard_conforming_strings off the string would end elsewhere.
                (text, true)
                    if text.ends_with(b"\\") || memchr::memmem::find(text, b"\\'").is_some() =>
                {
                    Token::Doubt
                }
                (text, _) => Token::Text(text),
            },
            b'"' => Token::Word(Word::folded(self.quoted(b'"', false).0)),
            b'$' => self.dollar(),
            byte if byte.is_ascii_digit() => {
                let length = self.rest.iter().take_while(|byte| is_word(**byte)).count();
                self.take(length);
                Token::Sign(b'0')
            }
            byte if is_word(byte) => self.word(),
            byte => {
                self.take(1);
                Token::Sign(byte)
            }
        })
    }
}

/// Bytes above 127 are letters to PostgreSQL's scanner.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}
