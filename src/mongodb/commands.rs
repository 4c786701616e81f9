//! The table of commands: what each is, who may use it, and on which databases.
//!
//! The data is `commands.tsv`; what is not in it is refused.

use ahash::AHashMap;

use crate::tenant::Role;

/// The table's text.
const TABLE: &str = include_str!("commands.tsv");

/// What a command does, as far as routing and endings care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Answered here, or before login.
    Handshake,
    /// Reads data.
    Read,
    /// Lists databases, of which a client sees its own.
    Listing,
    /// Goes on with a cursor.
    Cursor,
    /// Begins and ends sessions and transactions.
    Session,
    /// Changes data.
    Write,
    /// Changes collections and indexes.
    Define,
    /// Everything that only an administrator does.
    Administer,
    /// Never passed on.
    Internal,
}

impl Class {
    fn of(label: &str) -> Option<Self> {
        match label {
            "handshake" => Some(Self::Handshake),
            "read" => Some(Self::Read),
            "listing" => Some(Self::Listing),
            "cursor" => Some(Self::Cursor),
            "session" => Some(Self::Session),
            "write" => Some(Self::Write),
            "define" => Some(Self::Define),
            "maintain" | "diagnose" | "operate" | "users" | "replication" | "sharding" | "test" => {
                Some(Self::Administer)
            }
            "internal" => Some(Self::Internal),
            _ => None,
        }
    }
}

/// Who may use a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Anybody, before login too.
    Anybody,
    /// Logins of this role and above.
    From(Role),
    /// Nobody.
    Nobody,
}

impl Audience {
    fn of(label: &str) -> Option<Self> {
        match label {
            "none" => Some(Self::Anybody),
            "never" => Some(Self::Nobody),
            role => Role::parse(role).map(Self::From),
        }
    }

    /// Whether a login of that role may use it.
    pub(crate) fn admits(self, role: Role) -> bool {
        match self {
            Self::Anybody => true,
            Self::From(least) => role >= least,
            Self::Nobody => false,
        }
    }
}

/// One command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Command {
    /// What it does.
    pub(crate) class: Class,
    /// Who may use it.
    pub(crate) audience: Audience,
    /// Whether it may be sent to `admin` by logins that are confined to their databases.
    pub(crate) on_admin: bool,
}

/// All commands by name.
pub(crate) struct Commands(AHashMap<&'static [u8], Command>);

impl Commands {
    /// Reads the table that is part of the program.
    pub(crate) fn new() -> Self {
        Self(TABLE.lines().filter_map(parse_row).collect())
    }

    /// The command of exactly that name.
    pub(crate) fn find(&self, name: &[u8]) -> Option<Command> {
        self.0.get(name).copied()
    }
}

fn parse_row(line: &'static str) -> Option<(&'static [u8], Command)> {
    let mut columns = line.split('\t');
    let name = columns.next()?;
    let command = Command {
        class: Class::of(columns.next()?)?,
        audience: Audience::of(columns.next()?)?,
        on_admin: columns.next()? == "any",
    };
    Some((name.as_bytes(), command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_read() {
        let rows = TABLE.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(Commands::new().0.len(), rows);
    }

    #[test]
    fn names_are_exact() {
        let commands = Commands::new();
        assert_eq!(commands.find(b"find").unwrap().class, Class::Read);
        assert_eq!(commands.find(b"Find"), None);
        assert_eq!(commands.find(b"isMASTER"), None);
    }
}
