//! Prepared statements by protocol over changing upstreams.
//!
//! Three maps: the pool's [`Catalogue`] gives every distinct statement one identity; `named` says which
//! of them a client's names mean; and `held` says which of them an upstream has. Nothing here reads or
//! writes messages.

use std::{
    borrow::Borrow,
    hash::Hash,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use ahash::{HashMap, HashSet};
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use super::{
    settings::Parameters,
    statement::{Facts, scan},
};

/// Statements that nobody uses are forgotten when a catalogue is larger than this.
const CATALOGUE_MAX: usize = 10_000;
/// The same for the bytes of their texts.
const CATALOGUE_BYTES_MAX: usize = 32 << 20;

/// How a statement was prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// By Parse.
    Protocol,
    /// By `PREPARE`; on upstreams it has the client's own name only.
    Sql,
}

/// What a statement takes and gives: what an upstream tells when it is asked to describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// The types of its parameters: how many, and their OIDs, as messages carry them.
    pub(super) types: Option<Box<[u8]>>,
    /// A digest of its columns; `None` if it gives none.
    pub(super) columns: Option<u64>,
}

impl Shape {
    /// The shape of a statement whose definitions had changed before it could be asked for: no other is
    /// the same.
    pub(super) const OUT_OF_DATE: Self = Self {
        types: None,
        columns: Some(0),
    };

    /// The types, if it gives no columns.
    pub(super) fn types_alone(&self) -> Option<&[u8]> {
        self.types.as_deref().filter(|_| self.columns.is_none())
    }
}

/// One distinct statement: its text, its parameter types, and the name it has on upstreams.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) id: u64,
    pub(super) form: Form,
    /// Tells apart what the parameters were that its text was understood under.
    pub(super) dialect: u64,
    /// These parameters, once they are known.
    pub(super) under: OnceLock<Arc<Parameters>>,
    /// What it takes and gives, once an upstream has told.
    pub(super) shape: OnceLock<Shape>,
    /// No other client has it: what its text meant depends on more than these.
    pub(super) private: bool,
    /// Its name on upstreams, unless the client's own is needed.
    pub(super) name: String,
    /// Text, terminator and types, as Parse carries them; or the text of `PREPARE`.
    pub(super) rest: Box<[u8]>,
    pub(super) facts: Facts,
    /// The edition of what is known of functions in which it did nothing by them.
    pub(super) harmless: AtomicU64,
    /// Some upstream has prepared it without an error.
    proven: AtomicBool,
    /// When its text was last found to have its shape, in milliseconds of the catalogue's time.
    looked_at: AtomicU64,
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
            under: OnceLock::new(),
            shape: OnceLock::new(),
            private: true,
            name: String::new(),
            rest: text.into(),
            facts,
            harmless: AtomicU64::new(0),
            proven: AtomicBool::new(false),
            looked_at: AtomicU64::new(0),
        })
    }

    /// An upstream tells its shape; false if it is not the one that is known.
    pub(super) fn has_shape(&self, shape: &Shape) -> bool {
        self.shape.get_or_init(|| shape.clone()) == shape
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
#[derive(Debug)]
pub(super) struct Catalogue {
    inner: Mutex<Entries>,
    began: Instant,
    fresh_for: Duration,
}

#[derive(Debug, Default)]
struct Entries {
    dialects: HashMap<u64, HashSet<ByText>>,
    count: usize,
    bytes: usize,
    last_id: u64,
    epoch: u64,
}

impl Catalogue {
    /// An empty one, in which what is known of a statement counts so long where nothing tells of a change.
    pub(super) fn new(fresh_for: Duration) -> Self {
        Self {
            inner: Mutex::default(),
            began: Instant::now(),
            fresh_for,
        }
    }

    /// A text was just found to have the shape that is known.
    pub(super) fn look(&self, statement: &Statement) {
        let now = self.began.elapsed().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        statement.looked_at.store(now, Ordering::Relaxed);
    }

    /// Whether what is known of a statement is to be looked at again before it is told to somebody else.
    pub(super) fn is_aged(&self, statement: &Statement) -> bool {
        let looked_at = Duration::from_millis(statement.looked_at.load(Ordering::Relaxed));
        statement.facts.keeps_shape()
            && self.began.elapsed() > looked_at.saturating_add(self.fresh_for)
    }

    /// The statement of that text and those types, understood under these parameters.
    pub(super) fn find(&self, under: &Arc<Parameters>, text: &[u8], rest: &[u8]) -> Arc<Statement> {
        let dialect = under.dialect();
        let mut inner = self.inner.lock();
        if let Some(found) = inner.dialects.get(&dialect).and_then(|set| set.get(rest)) {
            return Arc::clone(&found.0);
        }
        if !inner.has_room(rest.len()) {
            inner.forget_unused();
        }
        let (facts, under) = (scan(text), Some(Arc::clone(under)));
        let mut statement = inner.enter(under, rest, facts);
        statement.private = false;
        let statement = Arc::new(statement);
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

    /// A statement of one client's, which nobody else ever finds.
    pub(super) fn alone(
        &self,
        under: Option<Arc<Parameters>>,
        rest: &[u8],
        facts: Facts,
    ) -> Arc<Statement> {
        Arc::new(self.inner.lock().enter(under, rest, facts))
    }

    /// The same statement, of one client's alone.
    pub(super) fn own(&self, statement: &Statement) -> Arc<Statement> {
        let (under, facts) = (statement.under.get().cloned(), statement.facts.clone());
        let mut own = self.inner.lock().enter(under, &statement.rest, facts);
        own.shape.clone_from(&statement.shape);
        Arc::new(own)
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

    /// How often definitions have changed, as far as is known.
    pub(super) fn epoch(&self) -> u64 {
        self.inner.lock().epoch
    }

    /// Gives new identities from now on: definitions changed, so old plans may give other columns.
    ///
    /// Clients keep what they have prepared, and see what a direct connection would show them.
    pub(super) fn renew(&self) {
        self.inner.lock().renew();
    }

    /// A statement does not give any more what is known of it: definitions have changed since, unless
    /// nobody finds it any more.
    pub(super) fn outdate(&self, statement: &Statement) {
        let mut inner = self.inner.lock();
        let set = inner.dialects.get(&statement.dialect);
        let found = set.and_then(|set| set.get(&*statement.rest));
        if found.is_some_and(|found| found.0.id == statement.id) {
            inner.renew();
        }
    }
}

impl Entries {
    /// A new statement with a number of its own.
    fn enter(&mut self, under: Option<Arc<Parameters>>, rest: &[u8], facts: Facts) -> Statement {
        self.last_id += 1;
        Statement {
            id: self.last_id,
            form: Form::Protocol,
            dialect: under.as_ref().map_or(0, |under| under.dialect()),
            under: under.map_or_else(OnceLock::new, OnceLock::from),
            shape: OnceLock::new(),
            private: true,
            name: upstream_name(self.last_id),
            rest: rest.into(),
            facts,
            harmless: AtomicU64::new(0),
            proven: AtomicBool::new(false),
            looked_at: AtomicU64::new(0),
        }
    }

    fn renew(&mut self) {
        self.dialects.clear();
        self.epoch += 1;
        self.count = 0;
        self.bytes = 0;
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_has_one_identity_per_dialect() {
        let catalogue = Catalogue::new(Duration::from_mins(1));
        let pairs = [("datestyle".to_owned(), "German".to_owned())];
        let (plain, other) = (Arc::default(), Parameters::from_pairs(pairs));
        let one = catalogue.find(&plain, b"select 1", b"select 1\0\0\0");
        assert_eq!(
            catalogue.find(&plain, b"select 1", b"select 1\0\0\0").id,
            one.id
        );
        assert_ne!(
            catalogue.find(&other, b"select 1", b"select 1\0\0\0").id,
            one.id
        );
        assert_ne!(
            catalogue
                .find(&plain, b"select 1", b"select 1\0\0\x01\0\0\0\x17")
                .id,
            one.id
        );
        let alone = catalogue.alone(None, b"select 1\0\0\0", Facts::default());
        assert!(alone.private && alone.id != one.id);
        assert_eq!(
            catalogue.find(&plain, b"select 1", b"select 1\0\0\0").id,
            one.id
        );
        catalogue.renew();
        assert_ne!(
            catalogue.find(&plain, b"select 1", b"select 1\0\0\0").id,
            one.id
        );
    }

    #[test]
    fn only_what_is_found_outdates_the_rest() {
        let (catalogue, plain) = (Catalogue::new(Duration::from_mins(1)), Arc::default());
        let old = catalogue.find(&plain, b"select 1", b"select 1\0\0\0");
        catalogue.outdate(&old);
        let new = catalogue.find(&plain, b"select 1", b"select 1\0\0\0");
        assert_ne!(new.id, old.id);
        catalogue.outdate(&old);
        catalogue.outdate(&catalogue.own(&new));
        let found = catalogue.find(&plain, b"select 1", b"select 1\0\0\0");
        assert_eq!(found.id, new.id);
    }

    #[test]
    fn a_full_catalogue_forgets_what_nobody_uses() {
        let (catalogue, plain) = (Catalogue::new(Duration::from_mins(1)), Arc::default());
        let large = vec![b'x'; CATALOGUE_BYTES_MAX];
        let used = catalogue.find(&plain, b"", &large);
        let alone = catalogue.find(&plain, b"", b"select 1");
        assert!(catalogue.known(0, b"select 1").is_none());
        drop((used, alone));
        catalogue.find(&plain, b"", b"select 1");
        assert!(catalogue.known(0, b"select 1").is_some());
        assert!(catalogue.known(0, &large).is_none());
    }
}
