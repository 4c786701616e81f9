//! Cutting SQL text into tokens as PostgreSQL's scanner does, without understanding them.

/// The longest word that any rule of ours names; longer ones are told apart from all of them.
const WORD_BYTES_MAX: usize = 40;
/// What follows a string or a name of which it chooses the letter that escapes.
const UESCAPE: &[u8] = b"uescape";
/// Signs that are second bytes of letters in encodings that only clients have (`SJIS`, `BIG5`, `GBK`).
const SECOND: &[u8] = b"@[\\]^`{|}~";

/// A piece of SQL text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword or a name, folded to lower case.
    Word(Word),
    /// A string constant of any kind, without its quotes.
    Text(&'a [u8]),
    /// The same of one that stands for another text: for which one tells `unescape`.
    Escaped(&'a [u8], Escapes),
    /// Any other character.
    Sign(u8),
    /// A name or a string with Unicode escapes (`U&`), which stands for something else.
    Doubt,
}

/// What stands for something else in a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escapes {
    /// Two quotes for one.
    Quotes,
    /// Besides, backslashes and what follows them.
    Backslashes,
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
///
/// Strings end where the standard says, as they do while `standard_conforming_strings` is on.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent notes of one text"
)]
pub(super) struct Tokens<'a> {
    rest: &'a [u8],
    presumes: bool,
    letters: bool,
    /// The token before was a string with backslashes, which are escapes while `standard_conforming_strings` is off.
    slashed: bool,
    /// The token before was a string with escapes, and a string in the next line goes on with it.
    escapes: bool,
    /// A line has ended since the token before.
    breaks: bool,
}

impl<'a> Tokens<'a> {
    pub(super) fn of(text: &'a [u8]) -> Self {
        Self {
            rest: text,
            presumes: false,
            letters: false,
            slashed: false,
            escapes: false,
            breaks: false,
        }
    }

    /// Whether a string was seen that would end elsewhere while `standard_conforming_strings` is off.
    pub(super) fn presumes(&self) -> bool {
        self.presumes
    }

    /// Whether there was a letter beyond ASCII of which the second byte may be taken for a sign, or that may be written in
    /// two ways where it matters.
    pub(super) fn letters(&self) -> bool {
        self.letters
    }

    /// Whether the last token was a string that stands for another while `standard_conforming_strings` is off.
    pub(super) fn is_slashed(&self) -> bool {
        self.slashed
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
        #[cfg(test)]
        work::done(count);
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
            let blank = self.take(count);
            self.breaks |= memchr::memchr2(b'\n', b'\r', blank).is_some();
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
    fn quoted(&mut self, quote: u8, escapes: bool) -> &'a [u8] {
        self.take(1);
        let mut at = 0;
        while let Some(byte) = self.rest.get(at) {
            if *byte == b'\\' {
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
        text
    }

    /// A string in which backslashes escape only while `standard_conforming_strings` is off.
    fn string(&mut self) -> Token<'a> {
        let text = self.quoted(b'\'', false);
        self.slashed = memchr::memchr(b'\\', text).is_some();
        self.presumes |= text.ends_with(b"\\") || memchr::memmem::find(text, b"\\'").is_some();
        stands_for(text, Escapes::Quotes)
    }

    /// `E'…'`, or a string that goes on with it.
    fn escaped(&mut self) -> Token<'a> {
        let text = self.quoted(b'\'', true);
        self.escapes = true;
        self.letters |= memchr::memchr_iter(b'\\', text)
            .any(|at| at > 0 && text.get(at - 1).is_some_and(|byte| !byte.is_ascii()));
        stands_for(text, Escapes::Backslashes)
    }

    /// Behind `U&`; while `standard_conforming_strings` is off, the server takes no such string.
    fn unicode(&mut self, quote: u8) -> Token<'a> {
        let text = self.quoted(quote, false);
        let mut after = Tokens::of(self.rest);
        after.skip_blank();
        let follows = after.rest.get(..UESCAPE.len()).unwrap_or_default();
        let plain = quote == b'\''
            && !text.contains(&b'\\')
            && !after.rest.starts_with(b"'")
            && !follows.eq_ignore_ascii_case(UESCAPE);
        if plain {
            Token::Text(text)
        } else {
            Token::Doubt
        }
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
        self.letters |= !tag.is_ascii();
        let end = memchr::memmem::find(self.rest, tag).unwrap_or(self.rest.len());
        let text = self.take(end);
        self.take(length);
        Token::Text(text)
    }

    /// A name or a number as far as it goes.
    fn take_word(&mut self) -> &'a [u8] {
        let length = self.rest.iter().take_while(|byte| is_word(**byte)).count();
        let word = self.take(length);
        let signs = self.rest.first().is_some_and(|sign| SECOND.contains(sign));
        self.letters |= signs && word.last().is_some_and(|byte| !byte.is_ascii());
        word
    }

    fn word(&mut self) -> Token<'a> {
        let word = self.take_word();
        match (word, self.rest.first()) {
            (b"e" | b"E", Some(b'\'')) => self.escaped(),
            (b"b" | b"B" | b"x" | b"X", Some(b'\'')) => Token::Text(self.quoted(b'\'', false)),
            (b"n" | b"N", Some(b'\'')) => self.string(),
            (b"u" | b"U", Some(b'&')) => match self.rest.get(1).copied() {
                Some(quote @ (b'\'' | b'"')) => {
                    self.take(1);
                    self.unicode(quote)
                }
                _ => Token::Word(Word::folded(word)),
            },
            _ => Token::Word(Word::folded(word)),
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blank();
        let first = *self.rest.first()?;
        self.slashed = false;
        let goes_on = std::mem::take(&mut self.escapes) & std::mem::take(&mut self.breaks);
        Some(match first {
            b'\'' if goes_on => self.escaped(),
            b'\'' => self.string(),
            b'"' => Token::Word(Word::folded(self.quoted(b'"', false))),
            b'$' => self.dollar(),
            byte if byte.is_ascii_digit() => {
                self.take_word();
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

/// A string that escapes something, if there is anything in it that does.
fn stands_for(text: &[u8], escapes: Escapes) -> Token<'_> {
    let special = match escapes {
        Escapes::Quotes => memchr::memchr(b'\'', text),
        Escapes::Backslashes => memchr::memchr2(b'\'', b'\\', text),
    };
    if special.is_some() {
        Token::Escaped(text, escapes)
    } else {
        Token::Text(text)
    }
}

/// Bytes above 127 are letters to PostgreSQL's scanner.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

/// How much was read, so that tests see what takes more than it should on a slow machine too.
#[cfg(test)]
pub(super) mod work {
    use std::cell::Cell;

    thread_local! {
        static STEPS: Cell<usize> = const { Cell::new(0) };
    }

    /// So many bytes or pieces were looked at.
    pub(in crate::postgres::statement) fn done(count: usize) {
        STEPS.set(STEPS.get() + count);
    }

    /// What this takes.
    pub(in crate::postgres::statement) fn of(run: impl FnOnce()) -> usize {
        let before = STEPS.get();
        run();
        STEPS.get() - before
    }
}
