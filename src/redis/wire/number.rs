//! Decimal numbers as the server reads them (`string2ll`).

/// Digits of the largest `i64`; longer texts are refused before they could overflow.
const DIGITS_MAX: usize = 19;

/// Parses as the server does: no sign but `-`, no leading zero, no blank.
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] => (!negative).then_some(0),
        [] | [b'0', ..] => None,
        _ if digits.len() > DIGITS_MAX => None,
        _ => {
            let mut value: i64 = 0;
            for &digit in digits {
                if !digit.is_ascii_digit() {
                    return None;
                }
                let digit = i64::from(digit - b'0');
                value = value.checked_mul(10)?;
                value = if negative {
                    value.checked_sub(digit)?
                } else {
                    value.checked_add(digit)?
                };
            }
            Some(value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn numbers_are_read_as_the_server_reads_them() {
        assert_eq!(parse(b"0"), Some(0));
        assert_eq!(parse(b"12"), Some(12));
        assert_eq!(parse(b"-1"), Some(-1));
        assert_eq!(parse(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(parse(b"-9223372036854775808"), Some(i64::MIN));
        for wrong in [
            "",
            "-",
            "-0",
            "01",
            "+1",
            " 1",
            "1 ",
            "1x",
            "9223372036854775808",
        ] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
