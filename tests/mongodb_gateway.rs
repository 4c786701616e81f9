//! The MongoDB side against a real server, over the raw wire: what drivers do not show.
//!
//! `POLYPOOL_TEST_MONGODB_URL` names the server; without it these tests say so and pass, unless
//! `POLYPOOL_TEST_REQUIRED` is 1.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test may stop here"
)]

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bson::{Document, RawDocumentBuf, doc, rawdoc};
use polypool::{
    auth::scram::{Client as Scram, Mechanism},
    crypto::{Keyring, Secret},
    mongodb,
    net::{Listener, tls::ClientTls},
    pool::{self, Budget},
    registry::{
        Actor, Edit, LimitDefaults, NewCredential, NewDatabase, NewProject, Passphrases, Registry,
        Scope, Settings, Traits, Vault,
    },
    session::{Admission, Board},
    shutdown::Shutdown,
    tenant::Role,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    time::timeout,
};

#[path = "mongodb_gateway/bounds.rs"]
mod bounds;
#[path = "mongodb_gateway/elections.rs"]
mod elections;
#[path = "mongodb_gateway/events.rs"]
mod events;
#[path = "mongodb_gateway/logins.rs"]
mod logins;
#[path = "mongodb_gateway/topologies.rs"]
mod topologies;

const CHECKSUM_PRESENT: u32 = 1;
const MORE_TO_COME: u32 = 2;
const EXHAUST_ALLOWED: u32 = 1 << 16;
/// By their numbers on the wire, from 1.
const COMPRESSORS: [&str; 3] = ["snappy", "zlib", "zstd"];
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A gateway in front of the server, with a login of each role.
struct Rig {
    address: SocketAddr,
    service: Arc<mongodb::Service>,
    shutdown: Shutdown,
    passwords: Vec<(Role, Secret)>,
    _dir: tempfile::TempDir,
}

impl Rig {
    async fn start() -> Option<Self> {
        let Ok(url) = std::env::var("POLYPOOL_TEST_MONGODB_URL") else {
            let required = std::env::var("POLYPOOL_TEST_REQUIRED").is_ok_and(|value| value == "1");
            assert!(!required, "POLYPOOL_TEST_MONGODB_URL is not set");
            eprintln!("not run: no test server (see tests/servers)");
            return None;
        };
        Some(Self::start_for(url).await)
    }

    async fn start_for(url: String) -> Self {
        Self::start_with(url, mongodb::Settings::default(), pool::Settings::default()).await
    }

    async fn start_with(
        url: String,
        settings: mongodb::Settings,
        pool_settings: pool::Settings,
    ) -> Self {
        let mongodb_settings = settings;
        let dir = tempfile::tempdir().unwrap();
        let (keyring, _) = Keyring::load_or_create(&dir.path().join("keys")).unwrap();
        let settings = Settings {
            data_dir: dir.path().into(),
            ..Settings::default()
        };
        let vault = Vault::new(keyring, Passphrases::default(), false);
        let registry = Registry::open(&settings, vault, LimitDefaults::default())
            .await
            .unwrap();
        let actor = Actor::local();
        let new = NewDatabase {
            project: NewProject {
                project_ref: "acme".into(),
                name: None,
                organization: None,
            },
            name: Some("docs".into()),
            kind: None,
            connection_string: Secret::from(url),
            slug: Some("docs".into()),
            traits: Traits {
                max_upstream: Edit::To(2),
                ..Traits::default()
            },
        };
        let row = registry.register(new, &actor).await.unwrap();
        let mut passwords = Vec::new();
        for role in [Role::Read, Role::Write, Role::Admin] {
            let scope = Scope::Database(row.id);
            let user = role.label().to_owned();
            let new = NewCredential {
                scope,
                user,
                role,
                expires_at: None,
            };
            passwords.push((role, registry.issue(new, &actor).await.unwrap().password));
        }
        let shutdown = Shutdown::new();
        let service = mongodb::Service::new(mongodb::Parts {
            settings: mongodb_settings,
            pool: pool_settings,
            budget: Budget::new(100),
            admission: Admission::new(Arc::new(registry), Board::new()).unwrap(),
            shutdown: shutdown.clone(),
            client_tls: ClientTls::new(None, None).unwrap(),
            server_tls: None,
        });
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), 100).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&service);
        let serve = move |stream| Arc::clone(&serving).serve(stream);
        let run = listener.run(shutdown.clone(), "session", serve, |_| async {});
        shutdown.spawn("listener", run);
        Self {
            address,
            service,
            shutdown,
            passwords,
            _dir: dir,
        }
    }

    async fn connect(&self) -> Wire {
        let socket = TcpSocket::new_v4().unwrap();
        Wire {
            socket: socket.connect(self.address).await.unwrap(),
            next: 100,
        }
    }

    async fn login(&self, role: Role) -> Wire {
        let mut wire = self.connect().await;
        let password = &self
            .passwords
            .iter()
            .find(|(each, _)| *each == role)
            .unwrap()
            .1;
        let last = wire
            .login(&format!("{}.docs", role.label()), password)
            .await;
        assert_eq!(number(&last, "ok"), 1, "{last}");
        wire
    }

    /// Waits until no upstream is in use; the count of those that are open.
    async fn quiet(&self) -> usize {
        let quiet = async {
            loop {
                let stats = self.service.fleet().snapshot();
                if stats
                    .iter()
                    .all(|pool| pool.leased + pool.dialing + pool.resetting == 0)
                {
                    return stats.iter().map(|pool| pool.idle).sum();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(WAIT_MAX, quiet).await.expect("a lease leaked")
    }

    async fn end(self) {
        assert_eq!(self.shutdown.run_down(WAIT_MAX).await, Vec::<&str>::new());
    }
}

/// A client over the raw wire.
struct Wire {
    socket: tokio::net::TcpStream,
    next: i32,
}

struct Reply {
    id: i32,
    response_to: i32,
    opcode: i32,
    flags: u32,
    body: Document,
}

impl Wire {
    async fn login(&mut self, user: &str, password: &Secret) -> Document {
        self.login_by(Mechanism::Sha256, user, password).await
    }

    async fn login_by(&mut self, mechanism: Mechanism, user: &str, password: &Secret) -> Document {
        let (scram, first) = Scram::begin_as(mechanism, user).unwrap();
        let payload = |text: &str| bson::Binary {
            subtype: bson::spec::BinarySubtype::Generic,
            bytes: text.as_bytes().to_vec(),
        };
        let start = rawdoc! {
            "saslStart": 1, "mechanism": mechanism.label(), "payload": payload(&first),
            "options": { "skipEmptyExchange": true }, "$db": "admin",
        };
        let started = self.ask(&start).await;
        if number(&started, "ok") != 1 {
            return started;
        }
        let first = String::from_utf8(started.get_binary_generic("payload").unwrap().clone());
        let finish = scram.answer(&first.unwrap(), password, None).unwrap();
        let proof = rawdoc! {
            "saslContinue": 1, "conversationId": 1, "payload": payload(&finish.message),
            "$db": "admin",
        };
        self.ask(&proof).await
    }

    async fn ask(&mut self, body: &RawDocumentBuf) -> Document {
        let id = self.send(0, &section(body)).await;
        let reply = self.receive().await.expect("closed");
        assert_eq!((reply.response_to, reply.opcode), (id, 2013));
        reply.body
    }

    async fn send(&mut self, flags: u32, sections: &[u8]) -> i32 {
        self.next += 1;
        let bytes = message(self.next, flags, sections);
        self.socket.write_all(&bytes).await.unwrap();
        self.next
    }

    /// The next reply; `None` when the connection is closed.
    async fn receive(&mut self) -> Option<Reply> {
        timeout(WAIT_MAX, self.read_reply())
            .await
            .expect("no reply in time")
    }

    /// Asks compressed; the answer, and by which compressor it came.
    async fn ask_packed(
        &mut self,
        compressor: &str,
        body: &RawDocumentBuf,
    ) -> (Document, Option<&'static str>) {
        self.next += 1;
        let plain = message(self.next, 0, &section(body));
        let packed = pack(compressor, &plain[16..]);
        let mut request = plain[..16].to_vec();
        request.extend_from_slice(&2013_i32.to_le_bytes());
        let size = i32::try_from(plain.len() - 16).unwrap();
        request.extend_from_slice(&size.to_le_bytes());
        let place = COMPRESSORS.iter().position(|name| *name == compressor);
        request.push(u8::try_from(place.unwrap() + 1).unwrap());
        request.extend_from_slice(&packed);
        let length = i32::try_from(request.len()).unwrap();
        request[..4].copy_from_slice(&length.to_le_bytes());
        request[12..16].copy_from_slice(&2012_i32.to_le_bytes());
        self.socket.write_all(&request).await.unwrap();
        let (header, rest) = timeout(WAIT_MAX, self.read_raw()).await.unwrap().unwrap();
        let word =
            |bytes: &[u8], at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(word(&header, 8), self.next);
        let (by, rest) = match word(&header, 12) {
            2013 => (None, rest),
            2012 => {
                assert_eq!(word(&rest, 0), 2013);
                let by = COMPRESSORS[usize::from(rest[8]) - 1];
                let size = usize::try_from(word(&rest, 4)).unwrap();
                (Some(by), unpack(by, &rest[9..], size))
            }
            other => unreachable!("opcode {other}"),
        };
        let body = RawDocumentBuf::from_bytes(rest[5..].to_vec()).unwrap();
        (Document::try_from(&*body).unwrap(), by)
    }

    async fn read_raw(&mut self) -> Option<([u8; 16], Vec<u8>)> {
        let mut header = [0; 16];
        self.socket.read_exact(&mut header).await.ok()?;
        let length = i32::from_le_bytes(header[..4].try_into().unwrap());
        let mut rest = vec![0; usize::try_from(length).unwrap() - 16];
        self.socket.read_exact(&mut rest).await.ok()?;
        Some((header, rest))
    }

    async fn read_reply(&mut self) -> Option<Reply> {
        let (header, rest) = self.read_raw().await?;
        let word = |at: usize| i32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let flags = u32::from_le_bytes(rest[..4].try_into().unwrap());
        let body = match word(12) {
            2013 => &rest[5..],
            1 => &rest[20..],
            other => unreachable!("opcode {other}"),
        };
        let checksum = if word(12) == 2013 && flags & CHECKSUM_PRESENT != 0 {
            4
        } else {
            0
        };
        let body = RawDocumentBuf::from_bytes(body[..body.len() - checksum].to_vec()).unwrap();
        Some(Reply {
            id: word(4),
            response_to: word(8),
            opcode: word(12),
            flags,
            body: Document::try_from(&*body).unwrap(),
        })
    }
}

fn pack(compressor: &str, bytes: &[u8]) -> Vec<u8> {
    match compressor {
        "snappy" => snap::raw::Encoder::new().compress_vec(bytes).unwrap(),
        "zlib" => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        _ => zstd::bulk::compress(bytes, 3).unwrap(),
    }
}

fn unpack(compressor: &str, bytes: &[u8], size: usize) -> Vec<u8> {
    let out = match compressor {
        "snappy" => snap::raw::Decoder::new().decompress_vec(bytes).unwrap(),
        "zlib" => {
            let mut out = Vec::new();
            let mut decoder = flate2::read::ZlibDecoder::new(bytes);
            decoder.read_to_end(&mut out).unwrap();
            out
        }
        _ => zstd::bulk::decompress(bytes, size).unwrap(),
    };
    assert_eq!(out.len(), size);
    out
}

fn message(id: i32, flags: u32, sections: &[u8]) -> Vec<u8> {
    let checksum = if flags & CHECKSUM_PRESENT == 0 { 0 } else { 4 };
    let length = i32::try_from(20 + sections.len() + checksum).unwrap();
    let mut out = Vec::new();
    for word in [length, id, 0, 2013] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(sections);
    if checksum > 0 {
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    }
    out
}

fn section(body: &RawDocumentBuf) -> Vec<u8> {
    [&[0], body.as_bytes()].concat()
}

fn sequence(name: &str, documents: &[RawDocumentBuf]) -> Vec<u8> {
    let documents: Vec<u8> = documents
        .iter()
        .flat_map(|document| document.as_bytes().to_vec())
        .collect();
    let size = i32::try_from(5 + name.len() + documents.len()).unwrap();
    [
        &[1],
        &size.to_le_bytes()[..],
        name.as_bytes(),
        &[0],
        &documents,
    ]
    .concat()
}

fn number(document: &Document, field: &str) -> i64 {
    match document.get(field) {
        Some(bson::Bson::Int32(number)) => i64::from(*number),
        Some(bson::Bson::Int64(number)) => *number,
        #[expect(clippy::cast_possible_truncation, reason = "small whole numbers")]
        Some(bson::Bson::Double(number)) => *number as i64,
        _ => -1,
    }
}

fn session() -> RawDocumentBuf {
    let id = bson::Binary {
        subtype: bson::spec::BinarySubtype::Uuid,
        bytes: uuid::Uuid::new_v4().as_bytes().to_vec(),
    };
    rawdoc! { "id": id }
}

#[tokio::test]
async fn hello_is_one_mongos_before_any_login() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let mut wire = rig.connect().await;
    let hello = rawdoc! { "hello": 1, "helloOk": true, "client": {"application": {"name": "x"}}, "$db": "admin" };
    let reply = wire.ask(&hello).await;
    assert_eq!(reply.get_str("msg").unwrap(), "isdbgrid");
    assert!(reply.get_bool("helloOk").unwrap());
    assert!(reply.get("serviceId").is_none() && reply.get("compression").is_none());
    assert_eq!(number(&wire.ask(&hello).await, "code"), 186);
    for name in ["admin.nobody", "admin.read.docs"] {
        let asked = rawdoc! { "hello": 1, "saslSupportedMechs": name, "$db": "admin" };
        let mechanisms = wire.ask(&asked).await;
        assert_eq!(mechanisms.get_array("saslSupportedMechs").unwrap().len(), 1);
    }
    let balanced = rawdoc! { "hello": 1, "loadBalanced": true, "$db": "admin" };
    assert!(wire.ask(&balanced).await.get_object_id("serviceId").is_ok());
    let find = rawdoc! { "find": "c", "$db": "app" };
    let refused = wire.ask(&find).await;
    assert_eq!(number(&refused, "code"), 13);
    assert_eq!(
        refused.get_str("errmsg").unwrap(),
        "command find requires authentication"
    );
    rig.end().await;
}

#[tokio::test]
async fn legacy_hello_is_answered_in_its_own_kind() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let mut wire = rig.connect().await;
    for (command, field, expected) in [("isMaster", "ismaster", None), ("find", "code", Some(352))]
    {
        let mut body = RawDocumentBuf::new();
        body.append(bson::raw::CString::try_from(command).unwrap(), 1);
        let mut out = Vec::new();
        let length = i32::try_from(16 + 4 + 11 + 8 + body.as_bytes().len()).unwrap();
        for word in [length, 7, 0, 2004, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(b"admin.$cmd\0\0\0\0\0\xff\xff\xff\xff");
        out.extend_from_slice(body.as_bytes());
        wire.socket.write_all(&out).await.unwrap();
        let reply = wire.receive().await.unwrap();
        assert_eq!((reply.opcode, reply.response_to), (1, 7));
        match expected {
            Some(code) => assert_eq!(number(&reply.body, field), code),
            None => assert!(reply.body.get_bool(field).unwrap()),
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn awaited_hello_streams_until_the_gateway_drains() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let mut wire = rig.connect().await;
    let first = wire.ask(&rawdoc! { "hello": 1, "$db": "admin" }).await;
    let version = first.get_document("topologyVersion").unwrap();
    let process = version.get_object_id("processId").unwrap();
    let half = rawdoc! { "hello": 1, "maxAwaitTimeMS": 10, "$db": "admin" };
    assert_eq!(number(&wire.ask(&half).await, "code"), 31368);
    let awaiting = rawdoc! {
        "hello": 1, "topologyVersion": { "processId": process, "counter": 0_i64 },
        "maxAwaitTimeMS": 50, "$db": "admin",
    };
    let mut answered = wire.send(EXHAUST_ALLOWED, &section(&awaiting)).await;
    for _ in 0..3 {
        let reply = wire.receive().await.unwrap();
        assert_eq!((reply.response_to, reply.flags), (answered, MORE_TO_COME));
        answered = reply.id;
    }
    rig.shutdown.begin_drain();
    let last = loop {
        let reply = wire.receive().await.unwrap();
        assert_eq!(reply.response_to, answered);
        answered = reply.id;
        if reply.flags == 0 {
            break reply;
        }
    };
    let version = last.body.get_document("topologyVersion").unwrap();
    assert_eq!(version.get_i64("counter").unwrap(), 1);
    assert!(wire.receive().await.is_none());
    rig.end().await;
}

#[tokio::test]
async fn wrong_logins_get_one_answer() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let wrong = Secret::from("wrong".to_owned());
    for user in ["write.docs", "nobody.docs", "write.nowhere", "write", ""] {
        let mut wire = rig.connect().await;
        let refused = wire.login(user, &wrong).await;
        assert_eq!(number(&refused, "code"), 18, "{user}: {refused}");
        assert_eq!(refused.get_str("errmsg").unwrap(), "Authentication failed.");
    }
    let mut wire = rig.connect().await;
    let payload = bson::Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes: Vec::new(),
    };
    let plain =
        rawdoc! { "saslStart": 1, "mechanism": "PLAIN", "payload": payload, "$db": "admin" };
    assert_eq!(number(&wire.ask(&plain).await, "code"), 334);
    rig.end().await;
}

#[tokio::test]
async fn bad_frames_close_the_connection_and_nothing_else() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let ping = section(&rawdoc! { "ping": 1, "$db": "admin" });
    let good = message(1, 0, &ping);
    let patched = |at: usize, word: i32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        bytes
    };
    let mut checksum = message(1, CHECKSUM_PRESENT, &ping);
    *checksum.last_mut().unwrap() ^= 1;
    let before_login = patched(0, 70_000);
    for bytes in [
        patched(0, -1),
        patched(0, 15),
        patched(0, 48_000_001),
        before_login,
        patched(12, 2012),
        patched(12, 2001),
        patched(16, 1 << 5),
        checksum,
    ] {
        let mut wire = rig.connect().await;
        wire.socket.write_all(&bytes).await.unwrap();
        assert!(wire.receive().await.is_none());
    }
    let mut wire = rig.connect().await;
    wire.socket
        .write_all(&message(5, CHECKSUM_PRESENT, &ping))
        .await
        .unwrap();
    assert_eq!(number(&wire.receive().await.unwrap().body, "ok"), 1);
    rig.end().await;
}

#[tokio::test]
async fn requests_pass_untouched_whatever_their_shape() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let mut wire = rig.login(Role::Write).await;
    wire.ask(&rawdoc! { "drop": "shapes", "$db": "app" }).await;
    let insert = section(&rawdoc! {
        "insert": "shapes", "lsid": session(), "txnNumber": 1_i64, "$db": "app",
    });
    let documents = |id: &str| sequence("documents", &[rawdoc! { "_id": id }]);
    for (id, flags, sections) in [
        (
            "body first",
            0,
            [insert.clone(), documents("body first")].concat(),
        ),
        (
            "body last",
            0,
            [documents("body last"), insert.clone()].concat(),
        ),
        (
            "checksum",
            CHECKSUM_PRESENT,
            [insert.clone(), documents("checksum")].concat(),
        ),
    ] {
        let sent = wire.send(flags, &sections).await;
        let reply = wire.receive().await.unwrap();
        assert_eq!(reply.response_to, sent, "{id}");
        assert_eq!(number(&reply.body, "n"), 1, "{id}: {}", reply.body);
        assert_eq!(
            reply.flags & CHECKSUM_PRESENT,
            flags & CHECKSUM_PRESENT,
            "{id}"
        );
    }
    // Cut at every byte, it is the same request.
    let cut = section(&rawdoc! { "count": "shapes", "$db": "app" });
    for byte in message(9, 0, &cut) {
        wire.socket.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(number(&wire.receive().await.unwrap().body, "n"), 3);
    // A large one streams both ways.
    let filler = "x".repeat(10_000_000);
    let large = [1, 2, 3].map(|id| rawdoc! { "_id": id, "filler": filler.as_str() });
    wire.send(0, &[insert, sequence("documents", &large)].concat())
        .await;
    assert_eq!(number(&wire.receive().await.unwrap().body, "n"), 3);
    let find = rawdoc! { "find": "shapes", "filter": {"_id": 2}, "$db": "app" };
    let found = wire.ask(&find).await;
    let batch = found
        .get_document("cursor")
        .unwrap()
        .get_array("firstBatch")
        .unwrap();
    assert_eq!(
        batch[0]
            .as_document()
            .unwrap()
            .get_str("filler")
            .unwrap()
            .len(),
        filler.len()
    );
    wire.ask(&rawdoc! { "drop": "shapes", "$db": "app" }).await;
    assert!(rig.quiet().await <= 2);
    rig.end().await;
}

#[tokio::test]
async fn wrong_commands_are_refused_in_the_servers_words() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let mut wire = rig.login(Role::Write).await;
    let mut refused = async |sections: Vec<u8>| {
        wire.send(0, &sections).await;
        number(&wire.receive().await.unwrap().body, "code")
    };
    let insert = section(&rawdoc! { "insert": "c", "$db": "app" });
    let documents = sequence("documents", &[rawdoc! { "a": 1 }]);
    assert_eq!(
        refused([insert.clone(), documents.clone(), documents].concat()).await,
        40431
    );
    assert_eq!(
        refused([insert.clone(), insert.clone()].concat()).await,
        40430
    );
    let pipeline = sequence("pipeline", &[rawdoc! { "$out": "x" }]);
    assert_eq!(refused([insert, pipeline].concat()).await, 40415);
    assert_eq!(
        refused(section(&rawdoc! { "Ping": 1, "$db": "app" })).await,
        59
    );
    assert_eq!(refused(section(&rawdoc! { "ping": 1 })).await, 40571);
    assert_eq!(
        refused(section(&rawdoc! { "ping": 1, "$db": "a.b" })).await,
        73
    );
    // `$db` twice: first app, then admin.
    let body = rawdoc! { "find": "system.users", "$db": "app" };
    let again = rawdoc! { "$db": "admin" };
    let elements = [
        &body.as_bytes()[4..body.as_bytes().len() - 1],
        &again.as_bytes()[4..],
    ]
    .concat();
    let length = i32::try_from(elements.len() + 4).unwrap();
    let doubled = [&[0], &length.to_le_bytes()[..], &elements].concat();
    assert_eq!(refused(doubled).await, 40413);
    rig.end().await;
}

#[tokio::test]
async fn roles_hold_wherever_a_command_reaches() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let foreign = doc! { "$lookup": { "from": { "db": "local", "coll": "oplog.rs" }, "as": "x", "pipeline": [] } };
    let stages = |stage: Document| {
        let body = doc! { "aggregate": "c", "pipeline": [stage], "cursor": {}, "$db": "app" };
        RawDocumentBuf::try_from(&body).unwrap()
    };
    let mut read = rig.login(Role::Read).await;
    let mut write = rig.login(Role::Write).await;
    for body in [
        rawdoc! { "insert": "c", "documents": [{}], "$db": "app" },
        rawdoc! { "drop": "c", "$db": "app" },
        rawdoc! { "mapReduce": "c", "map": "", "reduce": "", "out": "x", "$db": "app" },
        stages(doc! { "$out": "x" }),
        stages(doc! { "$merge": { "into": "x" } }),
    ] {
        assert_eq!(number(&read.ask(&body).await, "code"), 13, "{body:?}");
    }
    for body in [
        rawdoc! { "find": "system.users", "$db": "admin" },
        rawdoc! { "find": "oplog.rs", "$db": "local" },
        rawdoc! { "dropDatabase": 1, "$db": "app" },
        rawdoc! { "createUser": "x", "pwd": "x", "roles": [], "$db": "app" },
        rawdoc! { "renameCollection": "app.c", "to": "admin.c", "$db": "admin" },
        rawdoc! { "mapReduce": "c", "map": "", "reduce": "", "out": {"replace": "x", "db": "local"}, "$db": "app" },
        stages(doc! { "$out": { "db": "config", "coll": "x" } }),
        stages(doc! { "$merge": { "into": { "db": "admin", "coll": "x" } } }),
        stages(doc! { "$listLocalSessions": { "allUsers": true } }),
        stages(doc! { "$facet": { "a": [foreign.clone()] } }),
        stages(foreign),
        rawdoc! { "_isSelf": 1, "$db": "app" },
    ] {
        assert_eq!(number(&write.ask(&body).await, "code"), 13, "{body:?}");
    }
    let listing = rawdoc! { "listDatabases": 1, "nameOnly": true, "$db": "admin" };
    let shown = write.ask(&listing).await;
    for database in shown.get_array("databases").unwrap() {
        let name = database.as_document().unwrap().get_str("name").unwrap();
        assert!(!["admin", "local", "config"].contains(&name));
    }
    let mut admin = rig.login(Role::Admin).await;
    let status = rawdoc! { "serverStatus": 1, "$db": "admin" };
    assert_eq!(number(&admin.ask(&status).await, "ok"), 1);
    rig.end().await;
}

#[tokio::test]
async fn writes_without_reply_stay_in_order() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let mut wire = rig.login(Role::Write).await;
    wire.ask(&rawdoc! { "drop": "silent", "$db": "app" }).await;
    for round in 1..=20 {
        let insert = section(&rawdoc! {
            "insert": "silent", "writeConcern": {"w": 0}, "$db": "app",
        });
        let documents = sequence("documents", &[rawdoc! { "_id": round }]);
        wire.send(MORE_TO_COME, &[insert, documents].concat()).await;
        let count = wire.ask(&rawdoc! { "count": "silent", "$db": "app" }).await;
        assert_eq!(number(&count, "n"), round);
    }
    // What is refused is refused in silence, too.
    let find = section(&rawdoc! { "find": "c", "$db": "admin" });
    wire.send(MORE_TO_COME, &find).await;
    let gone = wire.ask(&rawdoc! { "drop": "silent", "$db": "app" }).await;
    assert_eq!(number(&gone, "ok"), 1);
    rig.end().await;
}

#[tokio::test]
async fn vanished_clients_leak_no_lease() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let mut setup = rig.login(Role::Write).await;
    setup.ask(&rawdoc! { "drop": "slow", "$db": "app" }).await;
    let documents = [rawdoc! { "_id": 1 }, rawdoc! { "_id": 2 }];
    let insert = section(&rawdoc! { "insert": "slow", "$db": "app" });
    setup
        .send(0, &[insert, sequence("documents", &documents)].concat())
        .await;
    assert_eq!(number(&setup.receive().await.unwrap().body, "n"), 2);
    let slow = "sleep(300) || true";
    for body in [
        rawdoc! { "find": "slow", "filter": { "$where": slow }, "$db": "app" },
        rawdoc! {
            "update": "slow", "$db": "app",
            "updates": [{ "q": { "$where": slow }, "u": { "$set": { "done": 1 } }, "multi": true }],
        },
    ] {
        let mut wire = rig.login(Role::Write).await;
        wire.send(0, &section(&body)).await;
        let taken = async {
            while rig
                .service
                .fleet()
                .snapshot()
                .iter()
                .all(|pool| pool.leased == 0)
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(WAIT_MAX, taken).await.unwrap();
        drop(wire);
        rig.quiet().await;
    }
    let count = rawdoc! { "count": "slow", "query": { "done": 1 }, "$db": "app" };
    assert_eq!(
        number(&setup.ask(&count).await, "n"),
        2,
        "a write is let to its end"
    );
    setup.ask(&rawdoc! { "drop": "slow", "$db": "app" }).await;
    rig.end().await;
}

#[tokio::test]
async fn upstream_that_is_down_is_told_as_such() {
    let rig = Rig::start_for("mongodb://u:canary@127.0.0.1:1/app".to_owned()).await;
    let mut wire = rig.login(Role::Write).await;
    let mut insert = rawdoc! { "insert": "c", "documents": [{}], "lsid": session() };
    insert.append(bson::cstr!("txnNumber"), 1_i64);
    insert.append(bson::cstr!("$db"), "app");
    let refused = wire.ask(&insert).await;
    assert_eq!(number(&refused, "code"), 6, "{refused}");
    let labels = refused.get_array("errorLabels").unwrap();
    assert!(labels.contains(&"RetryableWriteError".into()));
    assert!(labels.contains(&"NoWritesPerformed".into()));
    assert!(!refused.to_string().contains("canary"));
    let find = wire.ask(&rawdoc! { "find": "c", "$db": "app" }).await;
    assert_eq!(number(&find, "code"), 6);
    assert!(find.get("errorLabels").is_none());
    rig.end().await;
}

/// Opens a cursor that waits for data on a capped collection; its id.
async fn open_tail(wire: &mut Wire, session: &bson::Bson) -> i64 {
    let find = RawDocumentBuf::try_from(&doc! {
        "find": "tailed", "tailable": true, "awaitData": true, "lsid": session.clone(), "$db": "app",
    });
    let opened = wire.ask(&find.unwrap()).await;
    let cursor = opened.get_document("cursor").expect("no cursor");
    cursor.get_i64("id").unwrap()
}

fn next_batch(id: i64, session: &bson::Bson) -> RawDocumentBuf {
    let body = doc! {
        "getMore": id, "collection": "tailed", "maxTimeMS": 60_000, "lsid": session.clone(), "$db": "app",
    };
    RawDocumentBuf::try_from(&body).unwrap()
}

fn own_session() -> bson::Bson {
    let id = bson::Binary {
        subtype: bson::spec::BinarySubtype::Uuid,
        bytes: uuid::Uuid::new_v4().as_bytes().to_vec(),
    };
    bson::Bson::Document(doc! { "id": id })
}

#[tokio::test]
async fn requests_that_wait_for_data_take_turns_and_leave_room() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let mut writer = rig.login(Role::Write).await;
    writer
        .ask(&rawdoc! { "drop": "tailed", "$db": "app" })
        .await;
    let create = rawdoc! { "create": "tailed", "capped": true, "size": 100_000, "$db": "app" };
    assert_eq!(number(&writer.ask(&create).await, "ok"), 1);
    let insert = |n: i32| rawdoc! { "insert": "tailed", "documents": [{ "n": n }], "$db": "app" };
    assert_eq!(number(&writer.ask(&insert(0)).await, "n"), 1);
    // The pool has two upstreams, so requests that wait may hold one.
    let mut tails = Vec::new();
    for _ in 0..6 {
        let mut wire = rig.login(Role::Write).await;
        let session = own_session();
        let id = open_tail(&mut wire, &session).await;
        wire.send(0, &section(&next_batch(id, &session))).await;
        tails.push((wire, id, session));
    }
    for _ in 0..30 {
        let find = rawdoc! { "count": "tailed", "$db": "app" };
        let asked = tokio::time::Instant::now();
        assert_eq!(number(&writer.ask(&find).await, "n"), 1);
        let took = asked.elapsed();
        assert!(
            took < Duration::from_secs(1),
            "an ordinary request waited {took:?}"
        );
    }
    assert_eq!(number(&writer.ask(&insert(1)).await, "n"), 1);
    for (wire, id, session) in &mut tails {
        loop {
            let reply = wire.receive().await.expect("closed").body;
            assert_eq!(number(&reply, "ok"), 1, "{reply}");
            let batch = reply
                .get_document("cursor")
                .unwrap()
                .get_array("nextBatch")
                .unwrap();
            if let Some(first) = batch.first() {
                assert_eq!(number(first.as_document().unwrap(), "n"), 1);
                break;
            }
            wire.send(0, &section(&next_batch(*id, session))).await;
        }
    }
    // Clients that leave while they wait leave neither a lease nor a place in the line.
    for (wire, id, session) in &mut tails {
        wire.send(0, &section(&next_batch(*id, session))).await;
    }
    drop(tails);
    assert_eq!(
        number(
            &writer.ask(&rawdoc! { "ping": 1, "$db": "app" }).await,
            "ok"
        ),
        1
    );
    rig.quiet().await;
    writer
        .ask(&rawdoc! { "drop": "tailed", "$db": "app" })
        .await;
    rig.end().await;
}

#[tokio::test]
async fn cursors_are_their_logins_own() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let mut wire = rig.login(Role::Write).await;
    wire.ask(&rawdoc! { "drop": "owned", "$db": "app" }).await;
    let insert = rawdoc! { "insert": "owned", "documents": [{}, {}, {}, {}], "$db": "app" };
    assert_eq!(number(&wire.ask(&insert).await, "n"), 4);
    let opened = wire
        .ask(&rawdoc! { "find": "owned", "batchSize": 1, "$db": "app" })
        .await;
    let id = opened
        .get_document("cursor")
        .unwrap()
        .get_i64("id")
        .unwrap();
    let more = |id: i64| {
        rawdoc! { "getMore": id, "collection": "owned", "batchSize": 1, "$db": "app" }
    };
    let kill = |id: i64| rawdoc! { "killCursors": "owned", "cursors": [id], "$db": "app" };
    // Another connection of the same login goes on with it; another login cannot touch it.
    let mut again = rig.login(Role::Write).await;
    assert_eq!(number(&again.ask(&more(id)).await, "ok"), 1);
    let mut other = rig.login(Role::Read).await;
    for body in [more(id), kill(id)] {
        assert_eq!(number(&other.ask(&body).await, "code"), 13);
    }
    assert_eq!(number(&other.ask(&more(id + 1)).await, "code"), 43);
    let killed = other.ask(&kill(id + 1)).await;
    let unfound = killed.get_array("cursorsNotFound").unwrap();
    assert_eq!(unfound, &vec![bson::Bson::Int64(id + 1)]);
    let killed = wire.ask(&kill(id)).await;
    let gone = killed.get_array("cursorsKilled").unwrap();
    assert_eq!(gone, &vec![bson::Bson::Int64(id)]);
    assert_eq!(number(&wire.ask(&more(id)).await, "code"), 43);
    wire.ask(&rawdoc! { "drop": "owned", "$db": "app" }).await;
    rig.end().await;
}

#[tokio::test]
async fn upstreams_are_spoken_to_compressed_where_the_registration_says_so() {
    if Rig::start().await.is_none() {
        return;
    }
    let url = std::env::var("POLYPOOL_TEST_MONGODB_URL").unwrap();
    for compressor in COMPRESSORS {
        let rig = Rig::start_for(format!("{url}&compressors={compressor}")).await;
        let mut wire = rig.login(Role::Admin).await;
        let status = rawdoc! { "serverStatus": 1, "$db": "admin" };
        let unpacked = |status: &Document| {
            let network = status.get_document("network").unwrap();
            let all = network.get_document("compression").unwrap();
            let one = all.get_document(compressor).unwrap();
            number(one.get_document("decompressor").unwrap(), "bytesIn")
        };
        let before = unpacked(&wire.ask(&status).await);
        wire.ask(&rawdoc! { "drop": "packed", "$db": "app" }).await;
        let text = "lorem ipsum ".repeat(10_000);
        let insert = rawdoc! {
            "insert": "packed", "documents": [{ "_id": 1, "text": text.as_str() }], "$db": "app",
        };
        assert_eq!(number(&wire.ask(&insert).await, "n"), 1);
        let found = wire.ask(&rawdoc! { "find": "packed", "$db": "app" }).await;
        let batch = found
            .get_document("cursor")
            .unwrap()
            .get_array("firstBatch")
            .unwrap();
        assert_eq!(
            batch[0].as_document().unwrap().get_str("text").unwrap(),
            text
        );
        let bytes = unpacked(&wire.ask(&status).await) - before;
        assert!(bytes > 0, "{compressor}: the server unpacked {bytes} bytes");
        wire.ask(&rawdoc! { "drop": "packed", "$db": "app" }).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn clients_and_upstreams_are_compressed_at_once_each_in_its_own_way() {
    let Ok(url) = std::env::var("POLYPOOL_TEST_MONGODB_URL") else {
        return;
    };
    // Small, whole in the gateway's hands, and of a size that streams where nothing is compressed.
    let texts = [10, 8_000, 24_000].map(|times| "lorem ipsum ".repeat(times));
    for upstream in COMPRESSORS {
        let rig = Rig::start_for(format!("{url}&compressors={upstream}")).await;
        let mut wire = rig.login(Role::Write).await;
        for client in COMPRESSORS {
            let hello = rawdoc! { "hello": 1, "compression": [client], "$db": "admin" };
            let agreed = wire.ask(&hello).await;
            assert_eq!(
                agreed.get_array("compression").unwrap(),
                &vec![client.into()]
            );
            let drop = rawdoc! { "drop": "twice", "$db": "app" };
            wire.ask_packed(client, &drop).await;
            for (id, text) in (0_i32..).zip(&texts) {
                let insert = rawdoc! {
                    "insert": "twice", "documents": [{ "_id": id, "text": text.as_str() }],
                    "$db": "app",
                };
                let (inserted, _) = wire.ask_packed(client, &insert).await;
                assert_eq!(number(&inserted, "n"), 1, "{inserted}");
                // However short it is, it is sent on compressed, for else the server's reply is not either.
                let find = rawdoc! { "find": "twice", "filter": { "_id": id }, "$db": "app" };
                let (found, by) = wire.ask_packed(client, &find).await;
                assert_eq!(by, Some(client), "behind {upstream}");
                let cursor = found.get_document("cursor").unwrap();
                let batch = cursor.get_array("firstBatch").unwrap();
                let document = batch[0].as_document().unwrap();
                assert_eq!(document.get_str("text").unwrap(), text);
            }
            // What came compressed must not make a later reply so that was asked for plainly.
            assert_eq!(number(&wire.ask(&drop).await, "ok"), 1);
        }
        rig.end().await;
    }
}
