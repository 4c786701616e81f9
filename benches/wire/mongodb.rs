//! Requests as a session judges them.
#[path = "../../src/mongodb/wire/mod.rs"]
mod wire;

use bson::{Document, RawDocument, doc};

use super::measure;

pub(super) fn run() {
    let find = doc! {
        "find": "bench", "filter": { "_id": 17 }, "limit": 1, "singleBatch": true,
        "lsid": { "id": bson::Uuid::new() }, "$db": "app",
    };
    let documents: Vec<_> = (0..100)
        .map(|n| doc! { "_id": n, "text": "x".repeat(200) })
        .collect();
    let insert = doc! { "insert": "bench", "documents": documents, "ordered": true, "$db": "app" };
    for (name, body) in [("find", find), ("insert of 100", insert)] {
        let body = body.to_vec().unwrap();
        let mut message = Vec::new();
        for part in [i32::try_from(body.len() + 21).unwrap(), 1, 0, 2013] {
            message.extend(part.to_le_bytes());
        }
        message.extend([0; 5]);
        message.extend(&body);
        measure(&format!("mongodb {name}: polypool walk"), 1, || {
            let header = wire::Header::parse(&message, 48_000_000).unwrap().unwrap();
            usize::from(
                wire::Message::parse(&message, &header)
                    .unwrap()
                    .wants_reply(),
            )
        });
        measure(
            &format!("mongodb {name}: bson RawDocument, all fields"),
            1,
            || {
                let raw = RawDocument::from_bytes(&body).unwrap();
                usize::from(raw.iter().all(|field| field.is_ok()))
            },
        );
        measure(&format!("mongodb {name}: bson Document"), 1, || {
            usize::from(!Document::from_reader(body.as_slice()).unwrap().is_empty())
        });
    }
}
