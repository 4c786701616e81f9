//! How many values a text takes.

use super::{deeds::Reader, token::Token};

/// The number of a text's parameters, of which so many types are declared.
pub(crate) fn parameters(text: &[u8], declared: usize) -> usize {
    let mut most = declared;
    let mut reader = Reader::of(text);
    while let Some(pieces) = reader.statement() {
        for pair in pieces.windows(2) {
            if let [sign, number] = pair
                && (sign.token, number.token) == (Token::Sign(b'$'), Token::Sign(b'0'))
            {
                let number = std::str::from_utf8(number.raw).unwrap_or_default();
                most = most.max(number.parse().unwrap_or(0));
            }
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::parameters;

    #[test]
    fn the_highest_number_counts() {
        for (text, count) in [
            ("select 1", 0),
            ("select $1::text, $12, $2", 12),
            ("select '$3', \"$4\", $$ $5 $$, $6 -- $7", 6),
            ("", 0),
        ] {
            assert_eq!(parameters(text.as_bytes(), 0), count, "{text}");
        }
        assert_eq!(parameters(b"select $1", 2), 2);
    }
}
