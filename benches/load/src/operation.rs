//! What is asked of the server, as whole messages in which only a key changes, and what a right
//! answer is.

use bson::raw::RawBsonRef;
use bson::spec::BinarySubtype;
use bson::{Binary, RawDocument, RawDocumentBuf, rawdoc};
use clap::ValueEnum;

use crate::fault::Fault;
use crate::wire;

/// The collection that is read.
pub(crate) const DOCS: &str = "docs";
/// The collection that is written.
pub(crate) const INSERTS: &str = "inserts";
/// Documents that one `range` returns, in two batches of half as many.
const RANGE_DOCS: i64 = 100;
const BATCH_DOCS: i32 = 50;
/// Bytes of the text in an inserted document.
const INSERT_BYTES: usize = 160;
/// Stands in a template where the key goes; its bytes occur nowhere else in it.
const KEY_MARK: i64 = 0x6b65_795f_6d61_726b;
/// Stands in a template where the cursor's id goes.
const CURSOR_MARK: i64 = 0x6375_7273_6f72_5f5f;

/// What one client does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Operation {
    /// Finds one document by its id.
    Find,
    /// Inserts one document.
    Insert,
    /// Finds 100 documents in two batches: a find and one getMore.
    Range,
    /// Fills the collection that the others read, once, and ends.
    Load,
}

/// What a reply means for the operation under way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The operation is complete and right.
    Done,
    /// It goes on with one more request, which is now the outgoing one.
    More,
}

/// Where the keys of one client come from.
pub(crate) struct Keys {
    /// Documents in the collection that is read.
    pub(crate) docs: i64,
    /// The next key to insert, and the step to the one after it.
    pub(crate) next: i64,
    /// Distance of two keys that this client inserts, so that no two clients insert the same.
    pub(crate) step: i64,
    /// State of the generator that chooses what to find; never zero.
    pub(crate) seed: u64,
}

/// One client's requests.
pub(crate) struct Script {
    operation: Operation,
    keys: Keys,
    key: i64,
    first: Template,
    more: Template,
    asks_more: bool,
}

/// A message and the place in it that changes.
struct Template {
    message: Vec<u8>,
    offset: usize,
}

impl Script {
    /// The requests of `operation` on database `db`, in the logical session `session`.
    pub(crate) fn new(
        operation: Operation,
        db: &str,
        session: [u8; 16],
        keys: Keys,
    ) -> Result<Self, Fault> {
        let lsid = rawdoc! {
            "id": Binary { subtype: BinarySubtype::Uuid, bytes: session.to_vec() },
        };
        let first = match operation {
            Operation::Find | Operation::Load => rawdoc! {
                "find": DOCS, "filter": { "_id": KEY_MARK }, "limit": 1, "singleBatch": true,
                "lsid": lsid.clone(), "$db": db,
            },
            Operation::Range => rawdoc! {
                "find": DOCS, "filter": { "_id": { "$gte": KEY_MARK } }, "limit": RANGE_DOCS,
                "batchSize": BATCH_DOCS, "lsid": lsid.clone(), "$db": db,
            },
            Operation::Insert => rawdoc! {
                "insert": INSERTS, "ordered": true, "lsid": lsid.clone(), "$db": db,
                "documents": [{ "_id": KEY_MARK, "text": "x".repeat(INSERT_BYTES) }],
            },
        };
        let more = rawdoc! {
            "getMore": CURSOR_MARK, "collection": DOCS, "batchSize": BATCH_DOCS,
            "lsid": lsid, "$db": db,
        };
        Ok(Self {
            operation,
            keys,
            key: 0,
            first: Template::new(&first, KEY_MARK)?,
            more: Template::new(&more, CURSOR_MARK)?,
            asks_more: false,
        })
    }

    /// Begins the next operation: its request becomes the outgoing one.
    pub(crate) fn begin(&mut self, request_id: i32) {
        self.key = match self.operation {
            Operation::Insert => self.keys.insert(),
            Operation::Range => self.keys.choose(self.keys.docs - RANGE_DOCS + 1),
            Operation::Find | Operation::Load => self.keys.choose(self.keys.docs),
        };
        self.asks_more = false;
        self.first.set(request_id, self.key);
    }

    /// The message to send.
    pub(crate) fn outgoing(&self) -> &[u8] {
        if self.asks_more {
            &self.more.message
        } else {
            &self.first.message
        }
    }

    /// Judges the reply to the outgoing message; `next_id` is for a request that follows from it.
    pub(crate) fn judge(&mut self, reply: &RawDocument, next_id: i32) -> Result<Verdict, Fault> {
        match (self.operation, self.asks_more) {
            (Operation::Insert, _) => inserted(reply),
            (Operation::Find | Operation::Load, _) => {
                let batch = Batch::parse(reply, "firstBatch")?;
                batch.expect(1, self.key)?;
                batch.ended()
            }
            (Operation::Range, false) => {
                let batch = Batch::parse(reply, "firstBatch")?;
                batch.expect(i64::from(BATCH_DOCS), self.key)?;
                self.more.set(next_id, batch.open()?);
                self.asks_more = true;
                Ok(Verdict::More)
            }
            (Operation::Range, true) => {
                let batch = Batch::parse(reply, "nextBatch")?;
                let rest = RANGE_DOCS - i64::from(BATCH_DOCS);
                batch.expect(rest, self.key + i64::from(BATCH_DOCS))?;
                batch.ended()
            }
        }
    }
}

impl Keys {
    fn insert(&mut self) -> i64 {
        let key = self.next;
        self.next = self.next.wrapping_add(self.step);
        key
    }

    /// A key below `end`, by xorshift.
    fn choose(&mut self, end: i64) -> i64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        i64::try_from(self.seed >> 1).unwrap_or(0) % end.max(1)
    }
}

impl Template {
    fn new(body: &RawDocumentBuf, mark: i64) -> Result<Self, Fault> {
        let message = wire::message(body);
        let mark = mark.to_le_bytes();
        let offset = message
            .windows(mark.len())
            .position(|window| window == mark)
            .ok_or_else(|| Fault::Bson("a template without its mark".into()))?;
        Ok(Self { message, offset })
    }

    fn set(&mut self, request_id: i32, value: i64) {
        wire::set_request_id(&mut self.message, request_id);
        wire::patch(&mut self.message, self.offset, &value.to_le_bytes());
    }
}

/// A cursor's reply: its id and the batch that came.
struct Batch {
    cursor_id: i64,
    docs: i64,
    first_key: Option<i64>,
}

impl Batch {
    fn parse(reply: &RawDocument, field: &str) -> Result<Self, Fault> {
        let wrong = |error: bson::error::Error| Fault::Answer(error.to_string());
        let cursor = reply.get_document("cursor").map_err(wrong)?;
        let mut batch = Self {
            cursor_id: cursor.get_i64("id").map_err(wrong)?,
            docs: 0,
            first_key: None,
        };
        for element in cursor.get_array(field).map_err(wrong)? {
            let element = element.map_err(wrong)?;
            if let (None, RawBsonRef::Document(document)) = (batch.first_key, element) {
                batch.first_key = Some(document.get_i64("_id").map_err(wrong)?);
            }
            batch.docs += 1;
        }
        Ok(batch)
    }

    fn expect(&self, docs: i64, first_key: i64) -> Result<(), Fault> {
        if self.docs == docs && self.first_key == Some(first_key) {
            return Ok(());
        }
        Err(Fault::Answer(format!(
            "{} documents from {:?} where {docs} from {first_key} were asked",
            self.docs, self.first_key
        )))
    }

    fn ended(&self) -> Result<Verdict, Fault> {
        match self.cursor_id {
            0 => Ok(Verdict::Done),
            id => Err(Fault::Answer(format!("cursor {id} is left open"))),
        }
    }

    fn open(&self) -> Result<i64, Fault> {
        match self.cursor_id {
            0 => Err(Fault::Answer("the cursor ended after one batch".into())),
            id => Ok(id),
        }
    }
}

fn inserted(reply: &RawDocument) -> Result<Verdict, Fault> {
    match reply.get_i32("n") {
        Ok(1) => Ok(Verdict::Done),
        _ => Err(Fault::Answer(format!("not inserted: {reply:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(operation: Operation) -> Script {
        let keys = Keys {
            docs: 1_000,
            next: 5,
            step: 2,
            seed: 1,
        };
        Script::new(operation, "bench", [7; 16], keys).unwrap()
    }

    fn batch(field: &str, cursor: i64, first: i64, docs: i64) -> RawDocumentBuf {
        let keys = (first..first + docs).map(|key| bson::doc! { "_id": key });
        let keys: Vec<_> = keys.collect();
        let reply = bson::doc! { "cursor": { "id": cursor, field: keys }, "ok": 1.0 };
        RawDocumentBuf::try_from(&reply).unwrap()
    }

    #[test]
    fn find_wants_the_document_it_asked_for() {
        let mut script = script(Operation::Find);
        script.begin(1);
        let right = batch("firstBatch", 0, script.key, 1);
        assert_eq!(script.judge(&right, 2).unwrap(), Verdict::Done);
        for wrong in [
            batch("firstBatch", 0, script.key + 1, 1),
            batch("firstBatch", 0, 0, 0),
            batch("firstBatch", 9, script.key, 1),
        ] {
            assert!(script.judge(&wrong, 2).is_err());
        }
    }

    #[test]
    fn range_goes_on_with_its_cursor_and_then_begins_anew() {
        let mut script = script(Operation::Range);
        script.begin(1);
        let first = batch("firstBatch", 77, script.key, 50);
        assert_eq!(script.judge(&first, 2).unwrap(), Verdict::More);
        let cursor = 77_i64.to_le_bytes();
        assert!(script.outgoing().windows(8).any(|bytes| bytes == cursor));
        let second = batch("nextBatch", 0, script.key + 50, 50);
        assert_eq!(script.judge(&second, 3).unwrap(), Verdict::Done);
        script.begin(3);
        assert_eq!(script.outgoing(), script.first.message);
    }

    #[test]
    fn inserted_keys_step_and_are_checked() {
        let mut script = script(Operation::Insert);
        script.begin(1);
        assert_eq!(script.key, 5);
        script.begin(2);
        assert_eq!(script.key, 7);
        assert!(script.judge(&rawdoc! { "n": 1, "ok": 1.0 }, 3).is_ok());
        assert!(script.judge(&rawdoc! { "n": 0, "ok": 1.0 }, 3).is_err());
    }
}
