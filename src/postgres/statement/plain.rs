//! A first look at a text: most have nothing in them that a rule names, and need no more than this.
//!
//! It errs to one side only: where it judges, the rules would say the same.

use super::Facts;

/// What a statement may begin with to be judged here.
const LEADS: [&[u8]; 6] = [
    b"select", b"update", b"delete", b"insert", b"with", b"values",
];

/// The words, beyond the first, that rules about such statements name.
const WORDS: [&[u8]; 13] = [
    b"currval",
    b"default_transaction_read_only",
    b"hold",
    b"lastval",
    b"nextval",
    b"program",
    b"set_config",
    b"setseed",
    b"setval",
    b"temp",
    b"temporary",
    b"transaction_read_only",
    b"write",
];

/// Words that begin so may be a rule's, whatever follows.
const PREFIXES: [&[u8]; 4] = [b"pg_", b"pp_", b"lo_", b"dblink"];

/// Longer words are not told apart by the rules either, and are left to them.
const WORD_BYTES_MAX: usize = 32;

/// By the first letter of a word: the lengths of the listed words that begin with it.
const LENGTHS: [u64; 26] = lengths();

#[expect(
    clippy::indexing_slicing,
    reason = "at compile time, where a wrong index stops the build"
)]
const fn lengths() -> [u64; 26] {
    let mut lengths = [0; 26];
    let mut at = 0;
    while at < WORDS.len() {
        let word = WORDS[at];
        lengths[(word[0] - b'a') as usize] |= 1 << word.len();
        at += 1;
    }
    lengths
}

/// The facts of a text that is one everyday statement; `None` if the rules must be asked.
pub(super) fn glance(text: &[u8]) -> Option<Facts> {
    let (mut rest, mut lead) = (text, None);
    while let Some((&first, tail)) = rest.split_first() {
        rest = match first {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                let (word, after) = split_word(rest);
                // `E'…'` and the like have rules of their own.
                if may_be_ruled(word) || matches!(after.first(), Some(b'\'' | b'&' | b'"')) {
                    return None;
                }
                if lead.is_none() {
                    let mut leads = LEADS.iter();
                    lead = Some(*leads.find(|lead| lead.eq_ignore_ascii_case(word))?);
                }
                after
            }
            b'0'..=b'9' => split_word(rest).1,
            b'$' if tail.first().is_some_and(u8::is_ascii_digit) => split_word(tail).1,
            b'\'' | b'"' => {
                let (quoted, after) = tail.split_at(memchr::memchr(first, tail)?);
                if memchr::memchr(b'\\', quoted).is_some() || first == b'"' && may_be_ruled(quoted)
                {
                    return None;
                }
                after.get(1..).unwrap_or_default()
            }
            b';' if !tail.trim_ascii().is_empty() => return None,
            b'-' if tail.first() == Some(&b'-') => return None,
            b'/' if tail.first() == Some(&b'*') => return None,
            b'$' | b'\\' | 0x80.. => return None,
            _ => tail,
        };
    }
    Some(Facts {
        advances_sequence: lead? == b"insert",
        ..Facts::default()
    })
}

/// A word, or a number with what clings to it, up to a letter beyond ASCII.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
    let length = text.iter().position(|byte| !is_word(byte));
    text.split_at(length.unwrap_or(text.len()))
}

fn may_be_ruled(word: &[u8]) -> bool {
    let Some(first) = word.first().map(u8::to_ascii_lowercase) else {
        return false;
    };
    if word.len() > WORD_BYTES_MAX {
        return true;
    }
    let letter = usize::from(first.wrapping_sub(b'a'));
    let lengths = LENGTHS.get(letter).copied().unwrap_or_default();
    let listed = lengths & (1 << word.len()) != 0
        && WORDS.iter().any(|listed| listed.eq_ignore_ascii_case(word));
    listed
        || matches!(first, b'p' | b'l' | b'd')
            && PREFIXES.iter().any(|prefix| {
                word.get(..prefix.len())
                    .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
            })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::facts::scan_fully, *};

    #[test]
    fn everyday_statements_are_judged_at_a_glance() {
        for text in [
            "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
            "select \"u\".\"id\", count(*) from \"users\" as \"u\" where \"u\".\"name\" = $1 limit $2",
            "UPDATE t SET a = 'it''s' WHERE b <> 1.5e3",
            "INSERT INTO t (a) VALUES ($1) RETURNING id",
        ] {
            assert_eq!(
                glance(text.as_bytes()),
                Some(scan_fully(text.as_bytes())),
                "{text}"
            );
        }
    }

    /// Pieces that texts are made of: every word of every rule, and what could hide or join them.
    fn pieces() -> Vec<String> {
        let sources = [
            include_str!("facts.rs"),
            include_str!("calls.rs"),
            include_str!("shift.rs"),
            include_str!("../policy.rs"),
            include_str!("../prepared.rs"),
        ];
        let mut pieces: Vec<String> = Vec::new();
        for source in sources {
            // Every string literal of the rules, whatever it is for.
            for (at, part) in source.split('"').enumerate() {
                if at % 2 == 1 && part.len() <= 64 && !part.contains(['\n', '\\']) {
                    pieces.push(part.to_owned());
                }
            }
        }
        let others = [
            "select",
            "x",
            "1",
            "$1",
            "'",
            "''",
            "\"",
            "(",
            ")",
            ",",
            ".",
            ";",
            "--",
            "/*",
            "*/",
            "\n",
            "$$",
            "$a$",
            "E'",
            "U&'",
            "u&\"",
            "=",
            "to",
            "true",
            "pp_1",
            "pg_temp_3",
            "é",
            "\\",
            "dblink_connect_u",
            "pg_advisory_lock",
            "set_config('a.b', 'c', false)",
        ];
        pieces.extend(others.map(str::to_owned));
        pieces
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn what_is_judged_at_a_glance_is_as_the_rules_say(
            words in prop::collection::vec(
                (prop::sample::select(pieces()), prop::sample::select(vec!["", " "]), any::<bool>()),
                0..9,
            )
        ) {
            let mut text = String::new();
            for (word, gap, loud) in words {
                text.push_str(&if loud { word.to_uppercase() } else { word });
                text.push_str(gap);
            }
            if let Some(facts) = glance(text.as_bytes()) {
                prop_assert_eq!(scan_fully(text.as_bytes()), facts, "{}", text);
            }
        }
    }

    #[test]
    fn every_word_of_the_rules_is_judged_as_they_say() {
        for word in pieces() {
            for text in [
                word.clone(),
                format!("{word} x to y"),
                format!("{word} all"),
                format!("{word}('a.b', 'c', false)"),
                format!("select {word}(1)"),
                format!("create {word} table x"),
                format!("declare c cursor with {word} for select 1"),
                format!("copy t from {word} 'x'"),
                format!("begin read {word}"),
                format!("select 1 as {word} from \"{word}\""),
                format!("with x as ({word} 1) select {word}"),
                format!("select 1 into {word} x"),
                format!("insert into {word} values (1)"),
            ] {
                if let Some(facts) = glance(text.as_bytes()) {
                    assert_eq!(scan_fully(text.as_bytes()), facts, "{text}");
                }
            }
        }
    }
}
