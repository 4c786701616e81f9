//! Set-up of the collections: what the finds read, and an empty place for the inserts.

use bson::{RawArrayBuf, RawDocumentBuf, rawdoc};

use crate::dialog::Dialog;
use crate::fault::Fault;
use crate::operation::DOCS;

/// Bytes of the text in a document, which makes it 1 KB.
const TEXT_BYTES: usize = 1_000;
/// Documents of one insert.
const BATCH_DOCS: i64 = 1_000;
const NAMESPACE_NOT_FOUND: i32 = 26;

/// Drops `collection`; it need not exist.
pub(crate) fn clear(dialog: &mut Dialog, db: &str, collection: &str) -> Result<(), Fault> {
    match dialog.ask(&rawdoc! { "drop": collection, "$db": db }) {
        Ok(_)
        | Err(Fault::Server {
            code: NAMESPACE_NOT_FOUND,
            ..
        }) => Ok(()),
        Err(fault) => Err(fault),
    }
}

/// Makes the collection that is read anew, with ids from 0 to `docs` - 1.
pub(crate) fn fill(dialog: &mut Dialog, db: &str, docs: i64) -> Result<(), Fault> {
    clear(dialog, db, DOCS)?;
    let text = "x".repeat(TEXT_BYTES);
    let mut next = 0;
    while next < docs {
        let end = docs.min(next + BATCH_DOCS);
        let reply = dialog.ask(&insert(db, next..end, &text))?;
        if reply.get_i32("n").ok().map(i64::from) != Some(end - next) {
            return Err(Fault::Answer(format!("not all inserted: {reply:?}")));
        }
        next = end;
    }
    Ok(())
}

fn insert(db: &str, keys: std::ops::Range<i64>, text: &str) -> RawDocumentBuf {
    let mut documents = RawArrayBuf::new();
    for key in keys {
        documents.push(rawdoc! { "_id": key, "text": text });
    }
    rawdoc! { "insert": DOCS, "documents": documents, "$db": db }
}
