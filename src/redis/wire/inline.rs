//! Inline commands: a line of words, quoted as `sdssplitargs` quotes.

/// The words of a line; `None` when its quotes are not balanced.
pub(super) fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let blank = rest.iter().take_while(|byte| is_blank(**byte)).count();
        rest = rest.get(blank..).unwrap_or_default();
        if rest.is_empty() {
            return Some(words);
        }
        let (word, after) = cut_word(rest)?;
        words.push(word);
        rest = after;
    }
}

/// C's `isspace`, and the NUL that ends a C string.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0)
}

fn cut_word(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return Some((word, rest)),
            [byte, ..] if is_blank(*byte) => return Some((word, rest)),
            [b'"', after @ ..] => return cut_double_quoted(word, after),
            [b'\'', after @ ..] => return cut_single_quoted(word, after),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

fn cut_double_quoted(mut word: Vec<u8>, mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    loop {
        rest = match rest {
            [] => return None,
            [b'\\', b'x', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(hex(*high) << 4 | hex(*low));
                after
            }
            [b'\\', byte, after @ ..] => {
                word.push(match byte {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                after
            }
            [b'"', after @ ..] => return end_of_quote(word, after),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

fn cut_single_quoted(mut word: Vec<u8>, mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    loop {
        rest = match rest {
            [] => return None,
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                after
            }
            [b'\'', after @ ..] => return end_of_quote(word, after),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

/// A closing quote must be followed by a blank or the end.
fn end_of_quote(word: Vec<u8>, rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    match rest.first() {
        Some(byte) if !is_blank(*byte) => None,
        _ => Some((word, rest)),
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    fn words(line: &str) -> Option<Vec<String>> {
        let split = split(line.as_bytes())?;
        Some(
            split
                .iter()
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect(),
        )
    }

    #[test]
    fn quotes_are_read_as_the_server_reads_them() {
        assert_eq!(words("  SET  k v ").unwrap(), ["SET", "k", "v"]);
        assert_eq!(
            words(r#"SET k "a b\x41\n""#).unwrap(),
            ["SET", "k", "a bA\n"]
        );
        assert_eq!(words(r"SET k 'it\'s'").unwrap(), ["SET", "k", "it's"]);
        assert_eq!(words(r#"SET k """#).unwrap(), ["SET", "k", ""]);
        assert_eq!(words("").unwrap(), Vec::<String>::new());
        for unbalanced in [r#"SET k "a"#, "SET k 'a", r#"SET k "a"b"#, "SET 'a'b"] {
            assert_eq!(words(unbalanced), None, "{unbalanced}");
        }
    }
}
