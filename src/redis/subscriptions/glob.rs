//! The server's glob patterns, as `PSUBSCRIBE` has them.

/// Whether a pattern matches the whole of `text`.
///
/// As the server: `?`, `*`, `[a-z]`, `[^a]`, and `\` before a character that stands for itself. Only the last
/// `*` is ever gone back to, so that no pattern takes longer than its length times the text's.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut rest, mut left) = (pattern, text);
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some(after) = rest.strip_prefix(b"*") {
            star = Some((after, left));
            rest = after;
            continue;
        }
        if left.is_empty() && rest.is_empty() {
            return true;
        }
        if let Some((&byte, others)) = left.split_first()
            && let Some(after) = one(rest, byte)
        {
            (rest, left) = (after, others);
            continue;
        }
        let Some((after, [_, others @ ..])) = star else {
            return false;
        };
        star = Some((after, others));
        (rest, left) = (after, others);
    }
}

/// What follows the first element of a pattern, if that matches `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => set(rest, byte),
        [b'\\', own, rest @ ..] | [own, rest @ ..] => (*own == byte).then_some(rest),
        [] => None,
    }
}

/// What follows a set of which the opening bracket has been read; one without an end goes to the pattern's.
fn set(set: &[u8], byte: u8) -> Option<&[u8]> {
    let (is_inverted, mut rest) = match set {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut is_in = false;
    loop {
        rest = match rest {
            [b'\\', own, after @ ..] => {
                is_in |= *own == byte;
                after
            }
            [b']', after @ ..] => {
                return (is_in != is_inverted).then_some(after);
            }
            [] => return (is_in != is_inverted).then_some(rest),
            [first, b'-', last, after @ ..] => {
                is_in |= (*first.min(last)..=*first.max(last)).contains(&byte);
                after
            }
            [own, after @ ..] => {
                is_in |= *own == byte;
                after
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_servers() {
        for (pattern, text, wanted) in [
            ("*", "", true),
            ("news.*", "news.art", true),
            ("news.*", "new.art", false),
            ("h?llo", "hallo", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hallo", true),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hallo", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            ("[\\]]", "]", true),
            ("a[b", "ab", true),
            ("", "", true),
            ("", "a", false),
            ("**", "abc", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                wanted,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn hostile_patterns_end_soon() {
        let pattern = "*a".repeat(2000);
        assert!(!matches(pattern.as_bytes(), "b".repeat(2000).as_bytes()));
    }
}
