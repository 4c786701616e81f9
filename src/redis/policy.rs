//! Who may use which command: roles over the command table.
//!
//! Pure. Denial by default: what the table calls dangerous is for the role admin, what it does not
//! know is for those who may write, and a few commands are for nobody.

use super::commands::{Access, Class, Command};
use crate::tenant::Role;

/// Parameters of the server that clients look at, harmless to show to everybody.
const CONFIG_SHOWN: [&str; 8] = [
    "appendonly",
    "databases",
    "maxmemory",
    "maxmemory-policy",
    "notify-keyspace-events",
    "proto-max-bulk-len",
    "save",
    "timeout",
];

/// What the policy says of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may run.
    Allowed,
    /// The role does not reach.
    Denied,
    /// Nobody may, here.
    Never,
}

/// Judges a known command; `args` are the words after its name, subcommand included.
pub(super) fn judge<'a>(
    command: &Command,
    role: Role,
    mut args: impl Iterator<Item = &'a [u8]>,
) -> Verdict {
    let reaches = match command.class {
        Class::Never => return Verdict::Never,
        Class::Admin | Class::Alone | Class::Monitor => role == Role::Admin,
        Class::Filtered => role == Role::Admin || args.by_ref().skip(1).all(is_shown),
        Class::Shared
        | Class::Counted
        | Class::Local
        | Class::Transaction
        | Class::Blocking
        | Class::Wait
        | Class::Stream
        | Class::Subscribe
        | Class::Container => true,
    };
    // Only who may not write is looked at more closely.
    let writes = role == Role::Read
        && command.access == Access::Write
        && !(is_script(command) && declares_no_writes(args));
    if reaches && !writes {
        Verdict::Allowed
    } else {
        Verdict::Denied
    }
}

/// Whether a role may send what the table does not know.
pub(super) fn may_send_unknown(role: Role) -> bool {
    role > Role::Read
}

/// Names at which a server drops the connection, and with it everybody's replies on a trunk.
pub(super) fn is_poison(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// Whether its first argument is a script's text.
fn is_script(command: &Command) -> bool {
    command.name == "eval"
}

/// Whether a script's own first line says that it does not write: the server holds it to that, and
/// servers that do not know such lines do not run it.
fn declares_no_writes<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> bool {
    let Some(line) = args.next().and_then(|script| script.strip_prefix(b"#!")) else {
        return false;
    };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // Anything that the server could read otherwise is no declaration.
    if line.iter().any(|byte| matches!(byte, b'"' | b'\'' | b'\\')) {
        return false;
    }
    let words = line.split(u8::is_ascii_whitespace);
    let mut flags = words.filter_map(|word| word.strip_prefix(b"flags="));
    let (Some(flags), None) = (flags.next(), flags.next()) else {
        return false;
    };
    flags
        .split(|byte| *byte == b',')
        .any(|flag| flag == b"no-writes")
}

fn is_shown(parameter: &[u8]) -> bool {
    CONFIG_SHOWN
        .iter()
        .any(|shown| parameter.eq_ignore_ascii_case(shown.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::commands::{Commands, Lookup};

    fn verdict(role: Role, line: &str) -> Verdict {
        let table = Commands::load().unwrap();
        let words: Vec<_> = line.split(' ').map(str::as_bytes).collect();
        match table.lookup(words[0], words.get(1).copied()) {
            Lookup::Known(command) => judge(command, role, words[1..].iter().copied()),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn roles_reach_as_far_as_they_say() {
        use Verdict::{Allowed, Denied, Never};
        for (line, read, write, admin) in [
            ("GET k", Allowed, Allowed, Allowed),
            ("SET k v", Denied, Allowed, Allowed),
            ("EVAL s 0", Denied, Allowed, Allowed),
            ("EVAL_RO s 0", Allowed, Allowed, Allowed),
            ("EVALSHA 1f 0", Denied, Allowed, Allowed),
            ("FCALL f 0", Denied, Allowed, Allowed),
            ("FCALL_RO f 0", Allowed, Allowed, Allowed),
            ("SORT k STORE d", Denied, Allowed, Allowed),
            ("SORT_RO k", Allowed, Allowed, Allowed),
            ("GEORADIUS k 1 1 1 m STORE d", Denied, Allowed, Allowed),
            ("BITFIELD k SET u8 0 1", Denied, Allowed, Allowed),
            ("XREADGROUP GROUP g c STREAMS s >", Denied, Allowed, Allowed),
            ("GETEX k PERSIST", Denied, Allowed, Allowed),
            ("OBJECT ENCODING k", Allowed, Allowed, Allowed),
            ("SCRIPT LOAD s", Denied, Allowed, Allowed),
            ("FUNCTION LOAD s", Denied, Allowed, Allowed),
            ("CLIENT KILL TYPE normal", Denied, Allowed, Allowed),
            ("BLPOP k 0", Denied, Allowed, Allowed),
            ("FLUSHALL", Denied, Denied, Allowed),
            ("SHUTDOWN", Denied, Denied, Allowed),
            ("CONFIG SET save x", Denied, Denied, Allowed),
            ("CONFIG GET save", Allowed, Allowed, Allowed),
            ("CONFIG GET save requirepass", Denied, Denied, Allowed),
            ("CONFIG GET *", Denied, Denied, Allowed),
            ("SUBSCRIBE c", Allowed, Allowed, Allowed),
            ("PUBLISH c m", Denied, Allowed, Allowed),
            ("MONITOR", Denied, Denied, Allowed),
            ("PSYNC a b", Never, Never, Never),
        ] {
            assert_eq!(verdict(Role::Read, line), read, "read {line}");
            assert_eq!(verdict(Role::Write, line), write, "write {line}");
            assert_eq!(verdict(Role::Admin, line), admin, "admin {line}");
        }
    }

    #[test]
    fn scripts_that_declare_no_writes_are_for_readers() {
        let table = Commands::load().unwrap();
        let Lookup::Known(eval) = table.lookup(b"EVAL", None) else {
            panic!()
        };
        for (script, verdict) in [
            (&b"#!lua flags=no-writes\nreturn 1"[..], Verdict::Allowed),
            (
                b"#!lua name=x flags=allow-stale,no-writes\nreturn 1",
                Verdict::Allowed,
            ),
            (b"#!lua\nreturn 1 -- flags=no-writes", Verdict::Denied),
            (b"#!lua flags=allow-oom\nreturn 1", Verdict::Denied),
            (b"-- #!lua flags=no-writes\nreturn 1", Verdict::Denied),
            (b"#!lua flags=no-writes flags=allow-oom\n", Verdict::Denied),
            (b"#!lua \"flags=x flags=no-writes\"\n", Verdict::Denied),
            (b"return 1", Verdict::Denied),
        ] {
            let args = [script, b"0"];
            assert_eq!(judge(eval, Role::Read, args.into_iter()), verdict);
        }
    }

    #[test]
    fn names_of_http_are_poison() {
        assert!(is_poison(b"POST") && is_poison(b"Host:") && !is_poison(b"HOST"));
    }
}
