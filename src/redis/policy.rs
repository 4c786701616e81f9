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
    args: impl Iterator<Item = &'a [u8]>,
) -> Verdict {
    let reaches = match command.class {
        Class::Never => return Verdict::Never,
        Class::Admin | Class::Alone => role == Role::Admin,
        Class::Filtered => role == Role::Admin || args.skip(1).all(is_shown),
        Class::Shared
        | Class::Local
        | Class::Transaction
        | Class::Blocking
        | Class::Stream
        | Class::Subscribe
        | Class::Container => true,
    };
    let writes = command.access == Access::Write;
    if reaches && (role > Role::Read || !writes) {
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
            ("BLPOP k 0", Denied, Allowed, Allowed),
            ("FLUSHALL", Denied, Denied, Allowed),
            ("SHUTDOWN", Denied, Denied, Allowed),
            ("CONFIG SET save x", Denied, Denied, Allowed),
            ("CONFIG GET save", Allowed, Allowed, Allowed),
            ("CONFIG GET save requirepass", Denied, Denied, Allowed),
            ("CONFIG GET *", Denied, Denied, Allowed),
            ("SUBSCRIBE c", Allowed, Allowed, Allowed),
            ("PUBLISH c m", Denied, Allowed, Allowed),
            ("MONITOR", Never, Never, Never),
            ("PSYNC a b", Never, Never, Never),
        ] {
            assert_eq!(verdict(Role::Read, line), read, "read {line}");
            assert_eq!(verdict(Role::Write, line), write, "write {line}");
            assert_eq!(verdict(Role::Admin, line), admin, "admin {line}");
        }
    }

    #[test]
    fn names_of_http_are_poison() {
        assert!(is_poison(b"POST") && is_poison(b"Host:") && !is_poison(b"HOST"));
    }
}
