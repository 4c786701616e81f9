//! What clients are told of each other: events of change streams.

use super::{
    Document, RawDocumentBuf, Role, doc,
    elections::{Answer, FakeSet, asked},
    number, rawdoc, session,
};

/// The batch of a reply.
fn batch(reply: &Document) -> Vec<&Document> {
    let cursor = reply.get_document("cursor").unwrap();
    let batch = ["firstBatch", "nextBatch"]
        .iter()
        .find_map(|name| cursor.get_array(name).ok());
    let batch = batch.unwrap().iter();
    batch.map(|event| event.as_document().unwrap()).collect()
}

#[tokio::test]
async fn events_name_sessions_as_their_clients_know_them() {
    let set = FakeSet::start([]).await;
    let rig = set.rig().await;
    let mut wire = rig.login(Role::Write).await;
    let lsid = session();
    let own = Document::try_from(&*lsid).unwrap();
    let insert = rawdoc! {
        "insert": "c", "documents": [{ "_id": 1 }], "lsid": lsid.clone(), "txnNumber": 1_i64,
        "startTransaction": true, "autocommit": false, "$db": "app",
    };
    let commit = rawdoc! {
        "commitTransaction": 1, "lsid": lsid.clone(), "txnNumber": 1_i64, "autocommit": false,
        "$db": "admin",
    };
    for command in [insert, commit] {
        assert_eq!(number(&asked(&mut wire, &command).await, "ok"), 1);
    }
    let told = set.seen().await[0].1.get_document("lsid").unwrap().clone();
    assert_ne!(told, own);

    let watch = rawdoc! {
        "aggregate": "c", "pipeline": [{ "$changeStream": {} }], "cursor": {}, "$db": "app",
    };
    let more = rawdoc! { "getMore": 77_i64, "collection": "c", "$db": "app" };
    let find = rawdoc! { "find": "c", "$db": "app" };
    // The larger pass while they come.
    for bytes in [10, 100_000, 1_000_000] {
        let document = doc! { "text": "x".repeat(bytes) };
        let event =
            |lsid: &Document| doc! { "fullDocument": document.clone(), "lsid": lsid.clone() };
        let ask = async |wire: &mut _, command: &RawDocumentBuf, batch: &str| {
            let mut cursor = doc! { batch: [event(&told), event(&told)] };
            cursor.insert("id", if batch == "nextBatch" { 0_i64 } else { 77 });
            cursor.insert("ns", "app.c");
            let answer = Answer::only_said(doc! { "cursor": cursor, "ok": 1.0 });
            set.follow([answer]).await;
            asked(wire, command).await
        };
        for (command, name) in [(&watch, "firstBatch"), (&more, "nextBatch")] {
            let reply = ask(&mut wire, command, name).await;
            assert_eq!(batch(&reply), [&event(&own), &event(&own)]);
        }
        // What is only stored is nobody's session.
        let reply = ask(&mut wire, &find, "firstBatch").await;
        assert_eq!(batch(&reply), [&event(&told), &event(&told)]);
    }
    rig.end().await;
}
