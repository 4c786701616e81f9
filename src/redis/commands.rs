//! The table of commands: what each needs, from `commands.tsv`.
//!
//! Parsed once at start-up and passed by `Arc`. The lookup folds case while hashing and touches one
//! cache line of slots in the usual case; nothing is allocated.

use thiserror::Error;

/// The checked-in table; its head says where it comes from.
const TABLE: &str = include_str!("commands.tsv");
/// Slots of the hash table: a power of two, well above twice the number of commands.
const SLOTS: usize = 2048;
/// An empty slot.
const VACANT: u16 = u16::MAX;

/// What a command may do to data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// It reads.
    Read,
    /// It writes, or may.
    Write,
    /// It does neither.
    Neither,
}

/// How the gateway serves a command; `commands.tsv` explains each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Over a trunk.
    Shared,
    /// Over a trunk; the reply counts subscribers, and is corrected.
    Counted,
    /// Answered here.
    Local,
    /// MULTI and what belongs to it.
    Transaction,
    /// A lease for as long as it blocks.
    Blocking,
    /// Waits until the client's writes have reached replicas or the disk.
    Wait,
    /// Blocking with a BLOCK option, else shared.
    Stream,
    /// The SUBSCRIBE family.
    Subscribe,
    /// Shared for some arguments, else for the role admin only.
    Filtered,
    /// Shared, for the role admin only.
    Admin,
    /// A lease for the session, for the role admin only.
    Monitor,
    /// A lease that is closed afterwards, for the role admin only.
    Alone,
    /// Refused to everybody.
    Never,
    /// Has subcommands.
    Container,
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Command {
    /// The name in lower case, as error texts have it: `get`, `client|list`.
    pub(super) name: String,
    /// The exact number of words, or, negative, the least.
    pub(super) arity: i32,
    /// What it may do to data.
    pub(super) access: Access,
    /// How it is served.
    pub(super) class: Class,
    /// Its place in the table.
    pub(super) row: u16,
}

impl Command {
    /// Whether it may change what replicas have; one that reads may, for it keeps what it has counted.
    pub(super) fn may_replicate(&self) -> bool {
        self.access == Access::Write || self.name == "pfcount"
    }

    /// Whether that many words, the name included, are right.
    pub(super) fn takes(&self, words: usize) -> bool {
        let wanted = usize::try_from(self.arity.unsigned_abs()).unwrap_or(usize::MAX);
        if self.arity < 0 {
            words >= wanted
        } else {
            words == wanted
        }
    }
}

/// What the name of a command stands for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lookup<'t> {
    /// A command, or the subcommand of a container.
    Known(&'t Command),
    /// A container with a subcommand that the table does not have.
    UnknownSubcommand,
    /// A container without a subcommand.
    MissingSubcommand(&'t Command),
    /// Not in the table.
    Unknown,
}

/// Why the table cannot be read: a mistake in the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line} of the command table: {why}")]
pub struct TableFault {
    line: usize,
    why: &'static str,
}

/// All commands.
#[derive(Debug)]
pub(super) struct Commands {
    rows: Vec<Command>,
    slots: Vec<u16>,
}

impl Commands {
    /// Reads the checked-in table.
    pub(super) fn load() -> Result<Self, TableFault> {
        Self::parse(TABLE)
    }

    fn parse(text: &str) -> Result<Self, TableFault> {
        let mut table = Self {
            rows: Vec::new(),
            slots: vec![VACANT; SLOTS],
        };
        for (at, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            let fault = |why| TableFault { line: at + 1, why };
            let command = parse_row(line).map_err(fault)?;
            table.insert(command).map_err(fault)?;
        }
        Ok(table)
    }

    /// What the first words of a command stand for; `second` is empty when there is none.
    pub(super) fn lookup(&self, first: &[u8], second: Option<&[u8]>) -> Lookup<'_> {
        let Some(command) = self.find(first, &[]) else {
            return Lookup::Unknown;
        };
        if command.class != Class::Container {
            return Lookup::Known(command);
        }
        match second {
            None => Lookup::MissingSubcommand(command),
            // An empty word would find the container itself.
            Some([]) => Lookup::UnknownSubcommand,
            Some(second) => match self.find(first, second) {
                Some(found) => Lookup::Known(found),
                None => Lookup::UnknownSubcommand,
            },
        }
    }

    /// The name in a row.
    pub(super) fn name(&self, row: u16) -> Option<&str> {
        let command = self.rows.get(usize::from(row))?;
        Some(&command.name)
    }

    /// The row of a container's subcommand or, with an empty `sub`, of a command.
    fn find(&self, name: &[u8], sub: &[u8]) -> Option<&Command> {
        let mut slot = hash(name, sub);
        loop {
            let row = *self.slots.get(slot)?;
            if row == VACANT {
                return None;
            }
            let command = self.rows.get(usize::from(row))?;
            if is_named(command, name, sub) {
                return Some(command);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    fn insert(&mut self, mut command: Command) -> Result<(), &'static str> {
        let row = u16::try_from(self.rows.len()).map_err(|_| "too many rows")?;
        command.row = row;
        if self.rows.len() * 2 >= SLOTS {
            return Err("too many rows");
        }
        let (name, sub) = match command.name.split_once('|') {
            Some((name, sub)) => (name.as_bytes(), sub.as_bytes()),
            None => (command.name.as_bytes(), &[][..]),
        };
        if self.find(name, sub).is_some() {
            return Err("named twice");
        }
        let mut slot = hash(name, sub);
        while let Some(found) = self.slots.get_mut(slot) {
            if *found == VACANT {
                *found = row;
                break;
            }
            slot = (slot + 1) % SLOTS;
        }
        self.rows.push(command);
        Ok(())
    }
}

fn is_named(command: &Command, name: &[u8], sub: &[u8]) -> bool {
    let own = command.name.as_bytes();
    if sub.is_empty() {
        return own.eq_ignore_ascii_case(name);
    }
    own.len() == name.len() + 1 + sub.len()
        && own
            .get(..name.len())
            .is_some_and(|part| part.eq_ignore_ascii_case(name))
        && own.get(name.len()) == Some(&b'|')
        && own
            .get(name.len() + 1..)
            .is_some_and(|part| part.eq_ignore_ascii_case(sub))
}

/// FNV-1a over the words with letters folded, cut to the table's size.
fn hash(name: &[u8], sub: &[u8]) -> usize {
    const OFFSET: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    // A name is client input: nothing longer than a command's can match, so no more is hashed.
    let words = name.iter().take(32).chain(sub.iter().take(32));
    let hash = words.fold(OFFSET, |hash, byte| {
        (hash ^ u32::from(byte | 0x20)).wrapping_mul(PRIME)
    });
    usize::try_from(hash ^ (hash >> 15)).unwrap_or_default() % SLOTS
}

fn parse_row(line: &str) -> Result<Command, &'static str> {
    let mut columns = line.split('\t');
    let mut next = || columns.next().ok_or("a column is missing");
    let name = next()?.to_ascii_lowercase().replace(' ', "|");
    let arity = next()?.parse().map_err(|_| "the arity is not a number")?;
    let access = match next()? {
        "read" => Access::Read,
        "write" => Access::Write,
        "neither" => Access::Neither,
        _ => return Err("unknown access"),
    };
    let class = match next()? {
        "shared" => Class::Shared,
        "counted" => Class::Counted,
        "local" => Class::Local,
        "transaction" => Class::Transaction,
        "blocking" => Class::Blocking,
        "wait" => Class::Wait,
        "stream" => Class::Stream,
        "subscribe" => Class::Subscribe,
        "filtered" => Class::Filtered,
        "admin" => Class::Admin,
        "alone" => Class::Alone,
        "monitor" => Class::Monitor,
        "never" => Class::Never,
        "container" => Class::Container,
        _ => return Err("unknown class"),
    };
    Ok(Command {
        name,
        arity,
        access,
        class,
        row: VACANT,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(first: &str, second: Option<&str>) -> Option<Class> {
        let table = Commands::load().unwrap();
        match table.lookup(first.as_bytes(), second.map(str::as_bytes)) {
            Lookup::Known(command) => Some(command.class),
            _ => None,
        }
    }

    #[test]
    fn every_row_is_found_in_any_case() {
        let table = Commands::load().unwrap();
        assert!(table.rows.len() > 400);
        for row in &table.rows {
            let (name, sub) = row.name.split_once('|').unwrap_or((&row.name, ""));
            let found = table
                .find(name.to_ascii_uppercase().as_bytes(), sub.as_bytes())
                .unwrap();
            assert_eq!(found.name, row.name);
        }
    }

    #[test]
    fn subcommands_have_their_own_class() {
        assert_eq!(known("Set", None), Some(Class::Shared));
        assert_eq!(known("client", Some("ID")), Some(Class::Local));
        assert_eq!(known("CLIENT", Some("PAUSE")), Some(Class::Admin));
        assert_eq!(known("CLIENT", Some("NEWS")), None);
        assert_eq!(known("BLPOP", None), Some(Class::Blocking));
        let table = Commands::load().unwrap();
        assert!(matches!(
            table.lookup(b"client|id", None),
            Lookup::Unknown | Lookup::Known(_)
        ));
        assert!(matches!(table.lookup(b"FOO", None), Lookup::Unknown));
        assert!(matches!(
            table.lookup(b"CONFIG", None),
            Lookup::MissingSubcommand(_)
        ));
        assert!(matches!(
            table.lookup(b"CONFIG", Some(b"NEWS")),
            Lookup::UnknownSubcommand
        ));
        assert!(matches!(
            table.lookup(b"CONFIG", Some(b"")),
            Lookup::UnknownSubcommand
        ));
    }

    #[test]
    fn arity_counts_the_name() {
        let table = Commands::load().unwrap();
        let Lookup::Known(get) = table.lookup(b"GET", None) else {
            panic!()
        };
        assert!(get.takes(2) && !get.takes(1) && !get.takes(3));
        let Lookup::Known(del) = table.lookup(b"DEL", None) else {
            panic!()
        };
        assert!(del.takes(2) && del.takes(9) && !del.takes(1));
    }

    #[test]
    fn mistakes_in_the_table_name_their_line() {
        let fault = Commands::parse("GET\t2\tread\tshared\nGET\t2\tread\tshared\n").unwrap_err();
        assert_eq!(
            fault.to_string(),
            "line 2 of the command table: named twice"
        );
        assert!(Commands::parse("GET\t2\tread\n").is_err());
    }
}
