//! Texts that run no function, told by their first words.

use super::{deeds::Reader, mentions::first_word};

/// Of these nothing is run, whatever follows.
const PLAIN: [&[u8]; 11] = [
    b"abort",
    b"begin",
    b"commit",
    b"end",
    b"release",
    b"reset",
    b"rollback",
    b"savepoint",
    b"set",
    b"show",
    b"start",
];
/// Of these nothing is run when they are defined, renamed or dropped.
const DEFINED: [&[u8]; 7] = [
    b"function",
    b"policy",
    b"procedure",
    b"routine",
    b"rule",
    b"trigger",
    b"view",
];

/// Whether a text of one statement only calls a procedure.
pub(crate) fn is_call(text: &[u8]) -> bool {
    first_word(text).is_some_and(|first| first.is(b"call"))
}

/// Whether a text of one statement runs no function, but for what answers to definitions.
pub(crate) fn is_inert(text: &[u8]) -> bool {
    let mut reader = Reader::of(text);
    let mut next = || reader.piece();
    let Some(first) = next() else {
        return true;
    };
    if PLAIN.iter().any(|word| first.is(word)) {
        return true;
    }
    if ![&b"create"[..], b"alter", b"drop"]
        .iter()
        .any(|word| first.is(word))
    {
        return false;
    }
    let mut what = next();
    if what.is_some_and(|word| word.is(b"or")) {
        what = next().and_then(|_| next());
    }
    what.is_some_and(|what| DEFINED.iter().any(|word| what.is(word)))
}

#[cfg(test)]
mod tests {
    use super::is_inert;

    #[test]
    fn what_runs_a_function_is_not_inert() {
        for text in [
            "begin",
            " COMMIT;",
            "create or replace function f() returns int language sql as 'select 1'",
            "drop view v",
            "",
        ] {
            assert!(is_inert(text.as_bytes()), "{text}");
        }
        for text in [
            "select 1",
            "create table t as select f()",
            "alter table t add a int default f()",
            "create materialized view v as select f()",
            "create or",
            "truncate t",
        ] {
            assert!(!is_inert(text.as_bytes()), "{text}");
        }
    }
}
