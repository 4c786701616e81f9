//! Which statements may change what the texts after them mean.

/// Parameters that change no text's meaning: how long it may take, what is shown beside its outcome.
///
/// How a value is written (`extra_float_digits`, `bytea_output`) is none of these: plans keep constants
/// that were made from values by casts.
use super::Facts;

const PLAIN: [&[u8]; 13] = [
    b"application_name",
    b"client_min_messages",
    b"default_transaction_deferrable",
    b"default_transaction_isolation",
    b"default_transaction_read_only",
    b"idle_in_transaction_session_timeout",
    b"idle_session_timeout",
    b"in_hot_standby",
    b"lock_timeout",
    b"maintenance_work_mem",
    b"polypool.target_session_attrs",
    b"statement_timeout",
    b"work_mem",
];

/// Statements of which only the words count when they are prepared: nothing in them is looked up, and no
/// constant is read, before they run.
const FIXED: [&[u8]; 28] = [
    b"abort",
    b"alter",
    b"analyze",
    b"begin",
    b"checkpoint",
    b"close",
    b"cluster",
    b"commit",
    b"deallocate",
    b"discard",
    b"drop",
    b"end",
    b"grant",
    b"listen",
    b"lock",
    b"notify",
    b"reindex",
    b"release",
    b"reset",
    b"revoke",
    b"rollback",
    b"savepoint",
    b"set",
    b"show",
    b"start",
    b"truncate",
    b"unlisten",
    b"vacuum",
];

/// The parameter that says what backslashes in strings are.
pub(crate) const CONFORMING: &str = "standard_conforming_strings";
/// The parameter that says what letters are.
pub(crate) const ENCODING: &str = "client_encoding";

/// Whether a parameter, by its name in lower case, says how texts are read; empty is in doubt.
pub(super) fn is_of_reading(name: &[u8]) -> bool {
    name.is_empty()
        || [CONFORMING, ENCODING]
            .iter()
            .any(|one| one.as_bytes() == name)
}

/// Whether a statement may change how texts are read, by its first words.
fn requotes(words: [&[u8]; 3]) -> bool {
    let named = |name: &[u8]| is_of_reading(name) || name == b"names";
    match words {
        [b"reset", name, _] => name == b"all" || named(name),
        [b"discard", what, _] => what == b"all",
        [b"do" | b"call" | b"load", ..] => true,
        [b"set", b"local" | b"session", name] | [b"set", name, _] => named(name),
        _ => false,
    }
}

/// Whether a parameter, by its name in lower case, changes no text's meaning.
pub(crate) fn is_plain(name: &[u8]) -> bool {
    PLAIN.contains(&name)
}

/// What a statement with these first words does to the meaning of texts, and what its own depends on.
pub(super) fn look(facts: &mut Facts, words: [&[u8]; 3]) {
    facts.shifts |= shifts(words);
    facts.requotes |= requotes(words);
    facts.fixed |= is_fixed(words[0], words[1]);
    facts.borrows |= matches!(words[0], b"fetch" | b"execute");
}

/// Whether a statement with these first words means the same whatever the parameters are.
fn is_fixed(first: &[u8], second: &[u8]) -> bool {
    // Others that CREATE may not run beside anything else.
    let creates = first == b"create" && matches!(second, b"database" | b"index" | b"unique");
    creates || FIXED.contains(&first)
}

/// Whether a statement may change parameters that matter, by its first words.
fn shifts(words: [&[u8]; 3]) -> bool {
    match words {
        [b"reset" | b"discard" | b"do" | b"call", ..] => true,
        [b"set", b"transaction" | b"constraints", _] | [b"set", b"session", b"characteristics"] => {
            false
        }
        [b"set", b"local" | b"session", name] | [b"set", name, _] => !is_plain(name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::scan;

    #[test]
    fn what_may_change_a_meaning_shifts() {
        for text in [
            "set datestyle = 'SQL, DMY'",
            "set local search_path = x",
            "set time zone 'UTC'",
            "select 1; reset all",
            "do $$ begin end $$",
            "select set_config('timezone', $1, true)",
            "select set_config($1, $2, true)",
            "select set_config('work_mem', set_config('timezone', 'UTC', true), true)",
            "set extra_float_digits = 0",
        ] {
            assert!(scan(text.as_bytes()).shifts, "{text}");
        }
        for text in [
            "set local statement_timeout = 5",
            "set work_mem to '3MB'",
            "set transaction isolation level serializable",
            "set constraints all deferred",
            "set session characteristics as transaction read only",
            "select set_config('lock_timeout', '5', true)",
            "select 'set local x = 1'",
        ] {
            assert!(!scan(text.as_bytes()).shifts, "{text}");
        }
    }

    #[test]
    fn only_words_alone_are_fixed() {
        for (text, fixed) in [
            ("begin", true),
            ("Commit;", true),
            ("show TimeZone", true),
            ("begin; select '1/2/3'::date", false),
            ("create index concurrently i on t (a)", true),
            ("create table t as select '1/2/3'::date", false),
            ("select 1", false),
            ("declare c cursor for select 1", false),
            ("", false),
        ] {
            assert_eq!(scan(text.as_bytes()).fixed, fixed, "{text}");
        }
    }
}
