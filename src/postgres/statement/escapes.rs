//! What strings with doubled quotes, or with escapes (`E'…'`), stand for.

use super::token::Escapes;

/// The characters behind a backslash that stand for others.
const LETTERS: [(u8, u8); 5] = [
    (b'b', 8),
    (b'f', 12),
    (b'n', b'\n'),
    (b'r', b'\r'),
    (b't', b'\t'),
];

/// The text that such a string stands for, given what is between its quotes.
///
/// Of what the server refuses, anything is made.
pub(super) fn unescape(text: &[u8], escapes: Escapes) -> Vec<u8> {
    let (mut found, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((&first, tail)) = rest.split_first() {
        rest = match (first, tail.split_first()) {
            (b'\'', Some((b'\'', after))) => {
                found.push(b'\'');
                after
            }
            (b'\\', Some((&kind, after))) if escapes == Escapes::Backslashes => {
                escape(&mut found, kind, after)
            }
            _ => {
                found.push(first);
                tail
            }
        };
    }
    found
}

/// What follows a backslash; gives what is left.
fn escape<'a>(found: &mut Vec<u8>, kind: u8, after: &'a [u8]) -> &'a [u8] {
    let digits_max = match kind {
        b'0'..=b'7' | b'x' => 2,
        b'u' => 4,
        b'U' => 8,
        other => {
            let letter = LETTERS.iter().find(|(letter, _)| *letter == other);
            found.push(letter.map_or(other, |(_, stands)| *stands));
            return after;
        }
    };
    let base = if kind.is_ascii_digit() { 8 } else { 16 };
    let digits = after.iter().take(digits_max);
    let digits = digits.map_while(|digit| char::from(*digit).to_digit(base));
    let first = char::from(kind).to_digit(8).unwrap_or(0);
    let (mut value, mut count) = (first, 0);
    for digit in digits {
        value = value.wrapping_mul(base).wrapping_add(digit);
        count += 1;
    }
    let whole = base == 8 || count > 0;
    let [byte, ..] = value.to_le_bytes();
    match kind {
        _ if !whole => found.push(kind),
        b'u' | b'U' => {
            let letter = char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER);
            found.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
        _ => found.push(byte),
    }
    after.get(count..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Escapes, unescape};

    #[test]
    fn escapes_stand_for_what_the_server_makes_of_them() {
        for (text, stands) in [
            ("s\\145t", "set"),
            ("s\\x65t", "set"),
            ("s\\u0065t \\U000000e9", "set \u{e9}"),
            ("it''s\\'s", "it's's"),
            ("a\\nb\\\\n\\q", "a\nb\\nq"),
            ("\\xg\\1234", "xgS4"),
            ("\\", "\\"),
        ] {
            let found = unescape(text.as_bytes(), Escapes::Backslashes);
            assert_eq!(found, stands.as_bytes(), "{text}");
        }
        assert_eq!(unescape(b"it''s \\n", Escapes::Quotes), b"it's \\n");
    }
}
