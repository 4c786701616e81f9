//! What one client has prepared: its names for statements, and its unnamed statement.

use std::sync::Arc;

use ahash::HashMap;

use super::{
    prepared::{Form, Shape, Statement},
    settings::Parameters,
    statement::Facts,
};

/// The largest buffer that a client keeps for its next unnamed statement.
const SPARE_BYTES_MAX: usize = 4096;

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
    /// Names that were given without asking the server, and not used since: when that was, in the
    /// catalogue's time.
    unproven: HashMap<Box<[u8]>, u64>,
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
    /// Its place among the client's names, by the time when they were given.
    order: u64,
}

/// The unnamed statement of a client.
#[derive(Debug)]
pub(super) struct Unnamed {
    pub(super) rest: Vec<u8>,
    pub(super) facts: Facts,
    /// The parameters that it was understood under, if they are known.
    pub(super) under: Option<Arc<Parameters>>,
    /// Tells it from the client's earlier ones.
    pub(super) serial: u64,
    /// The unit in which its Parse was sent last.
    pub(super) unit: u64,
    /// What its client was told that it takes and gives.
    pub(super) shape: Option<Shape>,
}

impl Unnamed {
    /// The types of its parameters, if its client was told.
    pub(super) fn types(&self) -> Option<&[u8]> {
        self.shape.as_ref()?.types.as_deref()
    }

    /// Whether its client was told that it gives columns.
    pub(super) fn gives_columns(&self) -> bool {
        let shape = self.shape.as_ref();
        shape.is_some_and(|shape| shape.columns.is_some())
    }
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

    /// All of them, as they were given.
    pub(super) fn in_order(&self) -> Vec<(Arc<[u8]>, Arc<Statement>)> {
        let mut named: Vec<_> = self.named.found.iter().collect();
        named.sort_unstable_by_key(|(_, named)| named.order);
        let pairs = named.into_iter();
        pairs
            .map(|(name, named)| (Arc::clone(name), Arc::clone(&named.statement)))
            .collect()
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
        let order = self.edition;
        let named = Named {
            statement,
            unit,
            order,
        };
        self.named.found.insert(name.into(), named);
    }

    /// A name was given without asking the server.
    pub(super) fn believe(&mut self, name: &[u8], epoch: u64) {
        self.unproven.insert(name.into(), epoch);
    }

    /// A name is used; when it was given, if the server was not asked then and this is its first use.
    pub(super) fn first_use(&mut self, name: &[u8]) -> Option<u64> {
        if self.unproven.is_empty() {
            return None;
        }
        self.unproven.remove(name)
    }

    /// When a name was given, if the server was not asked then and it was not used since.
    pub(super) fn believed(&self, name: &[u8]) -> Option<u64> {
        self.unproven.get(name).copied()
    }

    /// The same statement, of this client alone; unless the name means another one by now.
    pub(super) fn replace(&mut self, name: &[u8], old: &Statement, own: Arc<Statement>) {
        let named = self.named.found.get_mut(name);
        if let Some(named) = named.filter(|named| std::ptr::eq(Arc::as_ptr(&named.statement), old))
        {
            named.statement = own;
        }
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Arc<Statement>> {
        let old = self.named.found.remove(name)?;
        self.first_use(name);
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
        self.unproven.clear();
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
    pub(super) fn set_unnamed(
        &mut self,
        rest: &[u8],
        facts: Facts,
        under: Option<Arc<Parameters>>,
        unit: u64,
    ) -> u64 {
        self.forget_unnamed();
        self.serial += 1;
        let mut buffer = std::mem::take(&mut self.spare);
        buffer.extend_from_slice(rest);
        self.unnamed = Some(Unnamed {
            rest: buffer,
            facts,
            under,
            serial: self.serial,
            unit,
            shape: None,
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

    /// An upstream tells the shape of the unnamed statement of that serial; false if its client was told
    /// another.
    pub(super) fn unnamed_has(&mut self, serial: u64, shape: &Shape) -> bool {
        let unnamed = self.unnamed.as_mut();
        let Some(unnamed) = unnamed.filter(|unnamed| unnamed.serial == serial) else {
            return true;
        };
        let told = unnamed.shape.get_or_insert_with(|| shape.clone());
        told == shape
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
    use super::{super::prepared::Catalogue, *};

    #[test]
    fn a_client_counts_what_it_holds() {
        let catalogue = Catalogue::new(std::time::Duration::from_mins(1));
        let mut client = ClientStatements::default();
        let statement = catalogue.find(&Arc::default(), b"select 1", b"select 1\0\0\0");
        client.insert(b"a", statement, 0);
        assert_eq!(client.size(), (1, 11));
        client.remove(b"a");
        assert_eq!(client.size(), (0, 0));
    }
}
