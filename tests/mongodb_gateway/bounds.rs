//! What one client cannot do to others: their sessions, their time, their upstreams, their room.

use super::{
    AsyncWriteExt, Document, Duration, RawDocumentBuf, Rig, Role, WAIT_MAX, Wire, message, mongodb,
    number, pool, rawdoc, section, session,
};

fn cursor(reply: &Document) -> i64 {
    let cursor = reply.get_document("cursor").unwrap();
    cursor.get_i64("id").unwrap()
}

/// A collection of one document.
pub(super) struct Slow(&'static str);

impl Slow {
    pub(super) async fn fill(wire: &mut Wire, name: &'static str) -> Self {
        wire.ask(&rawdoc! { "drop": name, "$db": "app" }).await;
        let insert = rawdoc! { "insert": name, "documents": [{ "_id": 1 }], "$db": "app" };
        assert_eq!(number(&wire.ask(&insert).await, "n"), 1);
        Self(name)
    }

    /// A read that takes the server that long.
    pub(super) fn read(&self, millis: u32, time_max: Option<i32>) -> RawDocumentBuf {
        let mut find = rawdoc! {
            "find": self.0, "filter": { "$where": format!("sleep({millis}) || true") },
        };
        if let Some(time_max) = time_max {
            find.append(bson::cstr!("maxTimeMS"), time_max);
        }
        find.append(bson::cstr!("$db"), "app");
        find
    }
}

/// Waits until that many upstreams are in use.
pub(super) async fn in_use(rig: &Rig, count: usize) {
    let busy = |rig: &Rig| -> usize {
        rig.service
            .fleet()
            .snapshot()
            .iter()
            .map(|pool| pool.leased)
            .sum()
    };
    while busy(rig) < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn sessions_are_their_logins_own() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let mut wire = rig.login(Role::Write).await;
    wire.ask(&rawdoc! { "drop": "sessions", "$db": "app" })
        .await;
    let insert = rawdoc! { "insert": "sessions", "documents": [{}, {}, {}, {}], "$db": "app" };
    assert_eq!(number(&wire.ask(&insert).await, "n"), 4);
    let session = session();
    let find = rawdoc! {
        "find": "sessions", "batchSize": 1, "lsid": session.clone(), "$db": "app",
    };
    let id = cursor(&wire.ask(&find).await);
    let more = |session: RawDocumentBuf| {
        rawdoc! {
            "getMore": id, "collection": "sessions", "batchSize": 1, "lsid": session, "$db": "app",
        }
    };
    // The server knows the session by another id, so nobody can name it by this one.
    let kill = rawdoc! { "killSessions": [session.clone()], "$db": "admin" };
    let mut admin = rig.login(Role::Admin).await;
    assert_eq!(number(&admin.ask(&kill).await, "ok"), 1);
    let still = wire.ask(&more(session)).await;
    assert_eq!(number(&still, "ok"), 1, "its session was ended: {still}");
    let strange = wire.ask(&more(super::session())).await;
    assert_eq!(number(&strange, "code"), 13, "{strange}");
    let inner = rawdoc! { "find": "c", "lsid": { "id": 1, "uid": 1 }, "$db": "app" };
    assert_eq!(number(&wire.ask(&inner).await, "code"), 13);
    wire.ask(&rawdoc! { "drop": "sessions", "$db": "app" })
        .await;
    rig.end().await;
}

#[tokio::test]
async fn time_waited_here_is_the_clients_time() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let mut wire = rig.login(Role::Write).await;
    let slow = Slow::fill(&mut wire, "deadlines").await;
    // Both upstreams are taken for a while.
    let (mut first, mut second) = (rig.login(Role::Read).await, rig.login(Role::Read).await);
    first.send(0, &section(&slow.read(1500, None))).await;
    second.send(0, &section(&slow.read(1500, None))).await;
    in_use(&rig, 2).await;
    let short = wire.ask(&slow.read(0, Some(300))).await;
    assert_eq!(number(&short, "code"), 50, "{short}");
    let leased = rig
        .service
        .fleet()
        .snapshot()
        .iter()
        .map(|pool| pool.leased)
        .sum::<usize>();
    assert_eq!(leased, 2, "it waited for an upstream");
    // It waits for more than a second of its two, and would need more than what is left.
    let long = wire.ask(&slow.read(1500, Some(2000))).await;
    assert_eq!(number(&long, "code"), 50, "{long}");
    for busy in [&mut first, &mut second] {
        assert_eq!(number(&busy.receive().await.unwrap().body, "ok"), 1);
    }
    wire.ask(&rawdoc! { "drop": "deadlines", "$db": "app" })
        .await;
    rig.end().await;
}

#[tokio::test]
async fn who_does_not_read_a_large_reply_gives_its_upstream_up() {
    if Rig::start().await.is_none() {
        return;
    }
    let url = std::env::var("POLYPOOL_TEST_MONGODB_URL").unwrap();
    let settings = mongodb::Settings {
        reply_wait_max: Duration::from_millis(300),
        ..mongodb::Settings::default()
    };
    let rig = Rig::start_with(url, settings, pool::Settings::default()).await;
    let mut wire = rig.login(Role::Write).await;
    wire.ask(&rawdoc! { "drop": "unread", "$db": "app" }).await;
    let text = "x".repeat(12_000_000);
    let insert = rawdoc! {
        "insert": "unread", "documents": [{ "_id": 1, "text": text.as_str() }], "$db": "app",
    };
    assert_eq!(number(&wire.ask(&insert).await, "n"), 1);
    let find = rawdoc! { "find": "unread", "$db": "app" };
    let mut slow = [rig.login(Role::Read).await, rig.login(Role::Read).await];
    for each in &mut slow {
        each.send(0, &section(&find)).await;
    }
    let counted = wire.ask(&rawdoc! { "count": "unread", "$db": "app" }).await;
    assert_eq!(number(&counted, "n"), 1);
    rig.quiet().await;
    for each in &mut slow {
        // What was on the way is there, the rest is not.
        assert!(each.receive().await.is_none());
    }
    // Who reads gets all of it.
    let mut reader = rig.login(Role::Read).await;
    assert_eq!(number(&reader.ask(&find).await, "ok"), 1);
    wire.ask(&rawdoc! { "drop": "unread", "$db": "app" }).await;
    rig.end().await;
}

#[tokio::test]
async fn large_commands_wait_for_room_and_small_ones_do_not() {
    if Rig::start().await.is_none() {
        return;
    }
    let url = std::env::var("POLYPOOL_TEST_MONGODB_URL").unwrap();
    let settings = mongodb::Settings {
        request_bytes_max: 1_000_000,
        ..mongodb::Settings::default()
    };
    let rig = Rig::start_with(url, settings, pool::Settings::default()).await;
    let mut wire = rig.login(Role::Write).await;
    wire.ask(&rawdoc! { "drop": "room", "$db": "app" }).await;
    let text = "x".repeat(600_000);
    let large = |id: i32| {
        rawdoc! {
            "insert": "room", "documents": [{ "_id": id, "text": text.as_str() }], "$db": "app",
        }
    };
    // The body holds the document, so it cannot stream.
    let whole = message(7, 0, &section(&large(1)));
    let mut slow = rig.login(Role::Write).await;
    slow.socket.write_all(&whole[..100_000]).await.unwrap();
    let mut second = rig.login(Role::Write).await;
    // The first has its room once its beginning was read; the second then has to wait.
    tokio::time::sleep(Duration::from_millis(200)).await;
    second.send(0, &section(&large(2))).await;
    let waits = tokio::time::timeout(Duration::from_millis(300), second.read_reply()).await;
    assert!(waits.is_err(), "there was room for both");
    let small = rawdoc! { "insert": "room", "documents": [{ "_id": 3 }], "$db": "app" };
    assert_eq!(number(&wire.ask(&small).await, "n"), 1);
    slow.socket.write_all(&whole[100_000..]).await.unwrap();
    for each in [&mut slow, &mut second] {
        let reply = tokio::time::timeout(WAIT_MAX, each.receive())
            .await
            .unwrap();
        assert_eq!(number(&reply.unwrap().body, "n"), 1);
    }
    wire.ask(&rawdoc! { "drop": "room", "$db": "app" }).await;
    rig.end().await;
}
