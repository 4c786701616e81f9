//! Prepared statements by protocol over changing upstreams.
//!
//! Three maps: the pool's [`Catalogue`] gives every distinct statement one identity; a client's
//! [`ClientStatements`] says which of them its names mean; and `held` says which of them an upstream
//! has. Nothing here reads or writes messages.

use std::{
    borrow::Borrow,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ahash::{HashMap, HashSet};
use parking_lot::Mutex;

use super::statement::{Facts, scan};

/// Statements that nobody uses are forgotten when a catalogue is larger than this.
const CATALOGUE_MAX: usize = 10_000;
/// The same for the bytes of their texts.
const CATALOGUE_BYTES_MAX: usize = 32 << 20;
/// The largest buffer that a client keeps for its next unnamed statement.
const SPARE_BYTES_MAX: usize = 4096;

/// How a statement was prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// By Parse.
    Protocol,
    /// By `PREPARE`; on upstreams it has the client's own name only.
    Sql,
}

/// One distinct statement: its text, its parameter types, and the name it has on upstreams.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) id: u64,
    pub(super) form: Form,
    /// What the parameters were that its text was understood under.
    pub(super) dialect: u64,
    /// Its name on upstreams, unless the client's own is needed.
    pub(super) name: String,
    /// Text, terminator and types, as Parse carries them; or the text of `PREPARE`.
    pub(super) rest: Box<[u8]>,
    pub(super) facts: Facts,
    /// Some upstream has prepared it without an error.
    proven: AtomicBool,
}

impl Statement {
    /// A statement of one client's that SQL has prepared.
    pub(super) fn by_sql(dialect: u64, text: &[u8]) -> Arc<Self> {
        let facts = Facts {
            deeds: None,
            ..scan(text)
        };
        Arc::new(Self {
            id: 0,
            form: Form::Sql,
            dialect,
            name: String::new(),
            rest: text.into(),
            facts,
            proven: AtomicBool::new(false),
        })
    }

    /// An upstream has prepared it.
    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// Whether some upstream has prepared it.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }
}

/// The name that a statement has on upstreams.
pub(super) fn upstream_name(id: u64) -> String {
    format!("{NAME_PREFIX}{id}")
}

/// How our names begin.
pub(super) const NAME_PREFIX: &str = "pp_";

/// Whether a name is one that we may give.
pub(super) fn is_ours(name: &[u8]) -> bool {
    let number = name.strip_prefix(NAME_PREFIX.as_bytes());
    number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

/// Finds a statement by what Parse carries.
#[derive(Debug)]
struct ByText(Arc<Statement>);

impl Borrow<[u8]> for ByText {
    fn borrow(&self) -> &[u8] {
        &self.0.rest
    }
}

impl Hash for ByText {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (*self.0.rest).hash(state);
    }
}

impl PartialEq for ByText {
    fn eq(&self, other: &Self) -> bool {
        self.0.rest == other.0.rest
    }
}

impl Eq for ByText {}

/// The statements of one pool, by the dialect they were written in: literals and names mean other
/// things under another `search_path` or `DateStyle`.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    inner: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    dialects: HashMap<u64, HashSet<ByText>>,
    count: usize,
    bytes: usize,
    last_id: u64,
}

impl Catalogue {
    /// The statement of that text and those types.
    pub(super) fn find(&self, dialect: u64, text: &[u8], rest: &[u8]) -> Arc<Statement> {
        let mut inner = self.inner.lock();
        if let Some(found) = inner.dialects.get(&dialect).and_then(|set| set.get(rest)) {
            return Arc::clone(&found.0);
        }
        if !inner.has_room(rest.len()) {
            inner.forget_unused();
        }
        inner.last_id += 1;
        let statement = Arc::new(Statement {
            id: inner.last_id,
            form: Form::Protocol,
            dialect,
            name: upstream_name(inner.last_id),
            rest: rest.into(),
            facts: scan(text),
            proven: AtomicBool::new(false),
        });
        // Where all are in use, this one is its client's alone.
        if inner.has_room(rest.len()) {
            inner.count += 1;
            inner.bytes += rest.len();
            inner
                .dialects
                .entry(dialect)
                .or_default()
                .insert(ByText(Arc::clone(&statement)));
        }
        statement
    }

    /// The statement of that text and those types, if somebody prepared it.
    pub(super) fn known(&self, dialect: u64, rest: &[u8]) -> Option<Arc<Statement>> {
        let inner = self.inner.lock();
        inner
            .dialects
            .get(&dialect)?
            .get(rest)
            .map(|found| Arc::clone(&found.0))
    }

    /// Gives new identities from now on: definitions changed, so old plans may give other columns.
    ///
    /// Clients keep what they have prepared, and see what a direct connection would show them.
    pub(super) fn renew(&self) {
        let mut inner = self.inner.lock();
        inner.dialects.clear();
        inner.count = 0;
        inner.bytes = 0;
    }
}

impl Entries {
    fn has_room(&self, more_bytes: usize) -> bool {
        self.count < CATALOGUE_MAX && self.bytes + more_bytes <= CATALOGUE_BYTES_MAX
    }

    fn forget_unused(&mut self) {
        self.dialects.retain(|_, set| {
            set.retain(|entry| Arc::strong_count(&entry.0) > 1);
            !set.is_empty()
        });
        self.count = self.dialects.values().map(HashSet::len).sum();
        let texts = self.dialects.values().flatten();
        self.bytes = texts.map(|entry| entry.0.rest.len()).sum();
    }
}

/// What one client has prepared.
#[derive(Debug, Default)]
pub(super) struct ClientStatements {
    named: Names,
    /// The unnamed statement's Parse, for upstreams that do not have it.
    unnamed: Option<Unnamed>,
    /// A buffer that the next unnamed statement reuses.
    spare: Vec<u8>,
    serial: u64,
    /// Tells the list of names from what it was earlier.
    edition: u64,
}

/// What a client's names mean.
#[derive(Debug, Default)]
pub(super) struct Names {
    found: HashMap<Arc<[u8]>, Named>,
    bytes: usize,
    /// How many of them SQL has prepared.
    by_sql: usize,
}

impl Names {
    /// What a name means.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.found.get(name).map(|named| &named.statement)
    }
}

/// What a client's name means.
#[derive(Debug)]
struct Named {
    statement: Arc<Statement>,
    /// The unit of the exchange in which it was given.
    unit: u64,
}

/// The unnamed statement of a client.
#[derive(Debug)]
pub(super) struct Unnamed {
    pub(super) rest: Vec<u8>,
    pub(super) facts: Facts,
    /// Tells it from the client's earlier ones.
    pub(super) serial: u64,
    /// The unit in which its Parse was sent last.
    pub(super) unit: u64,
}

impl ClientStatements {
    pub(super) fn find(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.named.found.get(name).map(|named| &named.statement)
    }

    /// The same, with the name to keep.
    pub(super) fn find_named(&self, name: &[u8]) -> Option<(&Arc<[u8]>, &Arc<Statement>)> {
        let (name, named) = self.named.found.get_key_value(name)?;
        Some((name, &named.statement))
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = (Arc<[u8]>, Arc<Statement>)> {
        let found = self.named.found.iter();
        found.map(|(name, named)| (Arc::clone(name), Arc::clone(&named.statement)))
    }

    /// The unit in which a name was given.
    pub(super) fn unit_of(&self, name: &[u8]) -> Option<u64> {
        self.named.found.get(name).map(|named| named.unit)
    }

    /// How many there are, and the bytes of their texts.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.named.found.len(), self.named.bytes)
    }

    pub(super) fn insert(&mut self, name: &[u8], statement: Arc<Statement>, unit: u64) {
        self.remove(name);
        self.edition += 1;
        self.named.bytes += statement.rest.len();
        self.named.by_sql += usize::from(statement.form == Form::Sql);
        let named = Named { statement, unit };
        self.named.found.insert(name.into(), named);
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Arc<Statement>> {
        let old = self.named.found.remove(name)?;
        self.edition += 1;
        self.named.bytes -= old.statement.rest.len();
        self.named.by_sql -= usize::from(old.statement.form == Form::Sql);
        Some(old.statement)
    }

    /// Which list of names this is, of all that this client has had.
    pub(super) fn edition(&self) -> u64 {
        self.edition
    }

    /// Whether SQL has prepared some of them.
    pub(super) fn holds_sql(&self) -> bool {
        self.named.by_sql > 0
    }

    /// Whether all that SQL has prepared was understood under these parameters.
    pub(super) fn fits(&self, dialect: u64) -> bool {
        let mut found = self.named.found.values();
        !self.holds_sql()
            || found.all(|named| {
                named.statement.form == Form::Protocol || named.statement.dialect == dialect
            })
    }

    /// All names are gone (`DEALLOCATE ALL`, `DISCARD ALL`); gives them, to be put back perhaps.
    pub(super) fn take_named(&mut self) -> Names {
        self.edition += 1;
        std::mem::take(&mut self.named)
    }

    /// The names are what they were.
    pub(super) fn restore_named(&mut self, names: Names) {
        self.edition += 1;
        self.named = names;
    }

    pub(super) fn unnamed(&self) -> Option<&Unnamed> {
        self.unnamed.as_ref()
    }

    /// A new unnamed statement, of that unit; its serial.
    pub(super) fn set_unnamed(&mut self, rest: &[u8], facts: Facts, unit: u64) -> u64 {
        self.forget_unnamed();
        self.serial += 1;
        let mut buffer = std::mem::take(&mut self.spare);
        buffer.extend_from_slice(rest);
        self.unnamed = Some(Unnamed {
            rest: buffer,
            facts,
            serial: self.serial,
            unit,
        });
        self.serial
    }

    /// Takes the unnamed statement out, to be put back perhaps.
    pub(super) fn take_unnamed(&mut self) -> Option<Unnamed> {
        self.unnamed.take()
    }

    /// The unnamed statement is what it was.
    pub(super) fn restore_unnamed(&mut self, unnamed: Option<Unnamed>) {
        self.forget_unnamed();
        self.unnamed = unnamed;
    }

    /// The unnamed statement is sent again.
    pub(super) fn resend_unnamed(&mut self, unit: u64) {
        if let Some(unnamed) = &mut self.unnamed {
            unnamed.unit = unit;
        }
    }

    /// The Parse of that serial was not carried out; false if there was another since.
    pub(super) fn undo_unnamed(&mut self, serial: u64) -> bool {
        let current = self.unnamed().is_some_and(|held| held.serial == serial);
        if current {
            self.forget_unnamed();
        }
        current
    }

    pub(super) fn forget_unnamed(&mut self) {
        if let Some(unnamed) = self.unnamed.take() {
            self.spare = unnamed.rest;
            self.spare.clear();
            if self.spare.capacity() > SPARE_BYTES_MAX {
                self.spare = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_has_one_identity_per_dialect() {
        let catalogue = Catalogue::default();
        let one = catalogue.find(0, b"select 1", b"select 1\0\0\0");
        assert_eq!(catalogue.find(0, b"select 1", b"select 1\0\0\0").id, one.id);
        assert_ne!(catalogue.find(1, b"select 1", b"select 1\0\0\0").id, one.id);
        assert_ne!(
            catalogue
                .find(0, b"select 1", b"select 1\0\0\x01\0\0\0\x17")
                .id,
            one.id
        );
        catalogue.renew();
        assert_ne!(catalogue.find(0, b"select 1", b"select 1\0\0\0").id, one.id);
    }

    #[test]
    fn a_full_catalogue_forgets_what_nobody_uses() {
        let catalogue = Catalogue::default();
        let large = vec![b'x'; CATALOGUE_BYTES_MAX];
        let used = catalogue.find(0, b"", &large);
        let alone = catalogue.find(0, b"", b"select 1");
        assert!(catalogue.known(0, b"select 1").is_none());
        drop((used, alone));
        catalogue.find(0, b"", b"select 1");
        assert!(catalogue.known(0, b"select 1").is_some());
        assert!(catalogue.known(0, &large).is_none());
    }

    #[test]
    fn a_client_counts_what_it_holds() {
        let catalogue = Catalogue::default();
        let mut client = ClientStatements::default();
        client.insert(b"a", catalogue.find(0, b"select 1", b"select 1\0\0\0"), 0);
        assert_eq!(client.size(), (1, 11));
        client.remove(b"a");
        assert_eq!(client.size(), (0, 0));
    }
}
