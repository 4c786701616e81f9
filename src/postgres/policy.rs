//! What a role may do: the table of statements and functions kept for administrators.
//!
//! It looks at text, so it guards against mistakes and plain misuse; the hard border is what the
//! upstream's own user may do.

use super::statement::Facts;
use crate::{fault::Refusal, tenant::Role};

/// Statements by their first words; an empty second word stands for any.
const ADMIN_STATEMENTS: &[(&str, &str, &str)] = &[
    ("alter", "system", "ALTER SYSTEM"),
    ("create", "role", "CREATE ROLE"),
    ("create", "user", "CREATE USER"),
    ("create", "group", "CREATE GROUP"),
    ("create", "database", "CREATE DATABASE"),
    ("create", "tablespace", "CREATE TABLESPACE"),
    ("create", "subscription", "CREATE SUBSCRIPTION"),
    ("alter", "role", "ALTER ROLE"),
    ("alter", "user", "ALTER USER"),
    ("alter", "group", "ALTER GROUP"),
    ("alter", "database", "ALTER DATABASE"),
    ("drop", "role", "DROP ROLE"),
    ("drop", "user", "DROP USER"),
    ("drop", "group", "DROP GROUP"),
    ("drop", "database", "DROP DATABASE"),
    ("drop", "tablespace", "DROP TABLESPACE"),
    ("drop", "owned", "DROP OWNED"),
    ("reassign", "owned", "REASSIGN OWNED"),
    ("checkpoint", "", "CHECKPOINT"),
    ("load", "", "LOAD"),
];

/// Functions that reach the server's files or the server itself.
const ADMIN_FUNCTIONS: &[&str] = &[
    "lo_export",
    "lo_import",
    "pg_create_physical_replication_slot",
    "pg_drop_replication_slot",
    "pg_file_write",
    "pg_ls_archive_statusdir",
    "pg_ls_dir",
    "pg_ls_logdir",
    "pg_ls_tmpdir",
    "pg_ls_waldir",
    "pg_promote",
    "pg_read_binary_file",
    "pg_read_file",
    "pg_reload_conf",
    "pg_rotate_logfile",
    "pg_stat_file",
    "pg_switch_wal",
];

/// The name of an administrator's statement that begins with these words.
pub(crate) fn admin_statement(first: &[u8], second: &[u8], third: &[u8]) -> Option<&'static str> {
    if second == b"user" && third == b"mapping" {
        return None;
    }
    let mut rows = ADMIN_STATEMENTS.iter();
    rows.find(|(one, two, _)| {
        one.as_bytes() == first && (two.is_empty() || two.as_bytes() == second)
    })
    .map(|(_, _, name)| *name)
}

/// Whether a role may call a function by number (`FunctionCall`): those of large objects.
pub(crate) fn may_call(role: Role, function: u32) -> bool {
    // lo_open, lo_close, loread, lo_lseek, lo_tell, and with wide offsets.
    let reads = matches!(function, 952..=954 | 956 | 958 | 3170 | 3171);
    // lo_create, lowrite, lo_creat, lo_unlink, lo_truncate.
    let writes = matches!(function, 715 | 955 | 957 | 964 | 1004 | 3172);
    match role {
        Role::Admin => true,
        Role::Write => reads || writes,
        Role::Read => reads,
    }
}

/// The name of an administrator's function.
pub(crate) fn admin_function(name: &[u8]) -> Option<&'static str> {
    if !(name.starts_with(b"pg_") || name.starts_with(b"lo_")) {
        return None;
    }
    ADMIN_FUNCTIONS
        .iter()
        .find(|known| known.as_bytes() == name)
        .copied()
}

/// Whether a role may run a text of which these facts are known.
///
/// # Errors
/// A refusal that names what is not permitted.
pub(crate) fn check(role: Role, facts: &Facts) -> Result<(), Refusal> {
    let refused = |what: &str| {
        Err(Refusal::NotPermitted {
            what: what.to_owned(),
        })
    };
    match (role, facts.admin_only) {
        (Role::Admin, _) => return Ok(()),
        (Role::Read | Role::Write, Some(what)) => return refused(what),
        (Role::Read | Role::Write, None) => {}
    }
    if role == Role::Read {
        if facts.lifts_read_only {
            return refused("to leave read-only mode");
        }
        // In one text, what resets the session could be followed by what writes.
        if facts.goes_on {
            return refused("to go on after a reset or a transaction's end while read-only");
        }
        if facts.touches_session && facts.several && !facts.resets_all {
            return refused(
                "to change the session in a text of several statements while read-only",
            );
        }
    }
    Ok(())
}
