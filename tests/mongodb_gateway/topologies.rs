//! Upstreams that are more than one address: names in the DNS, and several routers.
//!
//! There is no `mongos` here. The routers are a relay in front of the test server that calls itself one, and answers
//! statements of transactions by itself, because a standalone server has none: what is shown is where requests go.
#![expect(
    clippy::disallowed_methods,
    reason = "name servers and relays are no part of the gateway"
)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Mutex,
};

use super::{
    Arc, AsyncReadExt, AsyncWriteExt, Document, Duration, RawDocumentBuf, Rig, Role, Wire,
    bounds::{Slow, in_use},
    mongodb, number, pool, rawdoc, section, session,
};

/// The records of one name: type and data.
type Zone = BTreeMap<String, Vec<(u16, Vec<u8>)>>;

const TXT: u16 = 16;
const SRV: u16 = 33;

/// A name server on loopback, for as long as the test's runtime lives.
async fn name_server(zone: Zone) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    detached(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let answer = answered(&query[..length], &zone);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    address
}

/// Of the test alone: it ends with the test's runtime.
fn detached(task: impl Future<Output = ()> + Send + 'static) {
    let _task = tokio::spawn(task);
}

fn labels(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

fn answered(query: &[u8], zone: &Zone) -> Vec<u8> {
    let mut name = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let length = usize::from(query[at]);
        name.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
        at += length + 1;
    }
    let question = &query[12..at + 5];
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let records: Vec<_> = zone
        .get(&name.join("."))
        .into_iter()
        .flatten()
        .filter(|(each, _)| *each == kind)
        .collect();
    let mut out = query[..2].to_vec();
    let counts = [0x8180, 1, u16::try_from(records.len()).unwrap(), 0, 0];
    out.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
    out.extend_from_slice(question);
    for (kind, data) in records {
        // The question's name, the type, class IN, and 30 seconds to live.
        out.extend_from_slice(&[0xC0, 12]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 1, 0, 0, 0, 30]);
        out.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        out.extend_from_slice(data);
    }
    out
}

fn srv(host: &str, port: u16) -> (u16, Vec<u8>) {
    let mut data = vec![0, 0, 0, 0];
    data.extend_from_slice(&port.to_be_bytes());
    data.extend(labels(host));
    (SRV, data)
}

fn txt(text: &str) -> (u16, Vec<u8>) {
    let length = u8::try_from(text.len()).unwrap();
    (TXT, [&[length], text.as_bytes()].concat())
}

#[tokio::test]
async fn names_stand_for_hosts_and_options() {
    if Rig::start().await.is_none() {
        return;
    }
    let url = url::Url::parse(&std::env::var("POLYPOOL_TEST_MONGODB_URL").unwrap()).unwrap();
    let (user, password) = (url.username(), url.password().unwrap());
    let port = url.port().unwrap();
    // The address is of the name's own domain, as the letter of the rule has it.
    let zone = |host: &str, text: Vec<(u16, Vec<u8>)>| {
        Zone::from([
            ("_mongodb._tcp.test.0.0.1".into(), vec![srv(host, port)]),
            ("test.0.0.1".into(), text),
        ])
    };
    for (zone, refused) in [
        // Where the user is comes from the DNS: without it the login would be tried at `app`.
        (zone("127.0.0.1", vec![txt("authSource=admin")]), None),
        (zone("127.0.0.1", vec![]), Some("Authentication failed")),
        (zone("127.0.1.1", vec![]), Some("not of the domain")),
        (
            zone("127.0.0.1", vec![txt("tls=false")]),
            Some("TXT record sets 'tls'"),
        ),
        (Zone::new(), Some("no hosts")),
    ] {
        let settings = mongodb::Settings {
            srv_servers: vec![name_server(zone).await],
            ..mongodb::Settings::default()
        };
        let url = format!("mongodb+srv://{user}:{password}@test.0.0.1/app?tls=false");
        let rig = Rig::start_with(url, settings, pool::Settings::default()).await;
        let mut wire = rig.login(Role::Write).await;
        let found = wire.ask(&rawdoc! { "find": "none", "$db": "app" }).await;
        match refused {
            None => assert_eq!(number(&found, "ok"), 1, "{found}"),
            Some(why) => {
                assert_eq!(number(&found, "code"), 6, "{found}");
                assert!(found.get_str("errmsg").unwrap().contains(why), "{found}");
            }
        }
        rig.end().await;
    }
}

/// What a relay calls itself.
#[derive(Clone, Copy)]
enum Guise {
    /// A router.
    Router,
    /// The primary of a set of one, at that address.
    Primary(SocketAddr),
}

impl Guise {
    fn hello(self) -> RawDocumentBuf {
        let mut hello = rawdoc! {
            "ismaster": true, "isWritablePrimary": true, "maxWireVersion": 17, "minWireVersion": 0,
            "maxBsonObjectSize": 16_777_216,
        };
        match self {
            Self::Router => hello.append(bson::cstr!("msg"), "isdbgrid"),
            Self::Primary(address) => {
                let address = address.to_string();
                let version = rawdoc! { "processId": bson::oid::ObjectId::from_bytes([7; 12]), "counter": 1_i64 };
                hello.append(bson::cstr!("setName"), "alone");
                hello.append(bson::cstr!("hosts"), bson::rawbson!([address.as_str()]));
                hello.append(bson::cstr!("me"), address);
                hello.append(bson::cstr!("topologyVersion"), version);
            }
        }
        hello.append(bson::cstr!("ok"), 1.0);
        hello
    }
}

/// A command, and the number of its transaction.
type Seen = (String, Option<i64>);

/// A relay that calls itself a router.
struct Router {
    address: SocketAddr,
    /// The commands that came, each with its transaction.
    seen: Arc<Mutex<Vec<Seen>>>,
    is_down: Arc<AtomicBool>,
}

impl Router {
    async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let router = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            is_down: Arc::default(),
        };
        let (seen, is_down) = (Arc::clone(&router.seen), Arc::clone(&router.is_down));
        detached(async move {
            while let Ok((client, _)) = listener.accept().await {
                let upstream = TcpStream::connect(server).await.unwrap();
                let ends = (client, upstream);
                let relay = relay(Guise::Router, ends, Arc::clone(&seen), Arc::clone(&is_down));
                detached(async move {
                    let _ended: Option<()> = relay.await;
                });
            }
        });
        router
    }

    async fn count(&self, command: &str) -> usize {
        let seen = self.seen.lock().await;
        seen.iter().filter(|(name, _)| name == command).count()
    }

    async fn transactions(&self) -> BTreeMap<i64, usize> {
        let mut counts = BTreeMap::new();
        for transaction in self
            .seen
            .lock()
            .await
            .iter()
            .filter_map(|(_, number)| *number)
        {
            *counts.entry(transaction).or_default() += 1;
        }
        counts
    }
}

async fn whole_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 16];
    stream.read_exact(&mut bytes).await.ok()?;
    let length = i32::from_le_bytes(*bytes.first_chunk::<4>()?);
    bytes.resize(usize::try_from(length).ok()?, 0);
    stream.read_exact(&mut bytes[16..]).await.ok()?;
    Some(bytes)
}

async fn relay(
    guise: Guise,
    (mut client, mut upstream): (TcpStream, TcpStream),
    seen: Arc<Mutex<Vec<Seen>>>,
    is_down: Arc<AtomicBool>,
) -> Option<()> {
    loop {
        let request = whole_message(&mut client).await?;
        if is_down.load(Ordering::Relaxed) {
            return None;
        }
        let body = RawDocumentBuf::from_bytes(request[21..].to_vec()).ok()?;
        let body = Document::try_from(&*body).ok()?;
        let name = body.keys().next()?.clone();
        let in_transaction = body.contains_key("autocommit");
        let transaction = in_transaction.then(|| number(&body, "txnNumber"));
        seen.lock().await.push((name.clone(), transaction));
        let answer = if name == "isMaster" || name == "hello" {
            if body.contains_key("maxAwaitTimeMS") {
                // Nothing happens here that a monitor would have to be told.
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            Some(guise.hello())
        } else {
            in_transaction.then(|| rawdoc! { "n": 1, "ok": 1.0 })
        };
        let reply = match answer {
            None => {
                upstream.write_all(&request).await.ok()?;
                whole_message(&mut upstream).await?
            }
            Some(answer) => {
                let mut reply = super::message(1, 0, &section(&answer));
                reply[8..12].copy_from_slice(&request[4..8]);
                reply
            }
        };
        client.write_all(&reply).await.ok()?;
    }
}

/// A gateway in front of two routers.
struct Cluster {
    rig: Rig,
    routers: [Router; 2],
}

impl Cluster {
    async fn start() -> Option<Self> {
        let url = std::env::var("POLYPOOL_TEST_MONGODB_URL").ok()?;
        let parsed = url::Url::parse(&url).unwrap();
        let server = format!("{}:{}", parsed.host_str().unwrap(), parsed.port().unwrap());
        let address = server.parse().unwrap();
        let routers = [Router::start(address).await, Router::start(address).await];
        let both = format!("{},{}", routers[0].address, routers[1].address);
        let url = url.replace(&server, &both);
        let rig = Rig::start_for(format!("{url}&authMechanism=SCRAM-SHA-256")).await;
        Some(Self { rig, routers })
    }

    /// How many of that command each router has seen.
    async fn counts(&self, command: &str) -> [usize; 2] {
        [
            self.routers[0].count(command).await,
            self.routers[1].count(command).await,
        ]
    }

    /// A collection of five documents.
    async fn fill(&self, name: &str) -> Wire {
        let mut wire = self.rig.login(Role::Write).await;
        wire.ask(&rawdoc! { "drop": name, "$db": "app" }).await;
        let insert = rawdoc! { "insert": name, "documents": [{}, {}, {}, {}, {}], "$db": "app" };
        assert_eq!(number(&wire.ask(&insert).await, "n"), 5);
        wire
    }
}

#[tokio::test]
async fn routers_take_turns_and_cursors_stay_where_they_are() {
    if Rig::start().await.is_none() {
        return;
    }
    let cluster = Cluster::start().await.unwrap();
    let mut wire = cluster.fill("routed").await;
    let count = rawdoc! { "count": "routed", "$db": "app" };
    for _ in 0..10 {
        assert_eq!(number(&wire.ask(&count).await, "n"), 5);
    }
    assert_eq!(cluster.counts("count").await, [5, 5]);
    for turn in 0..4 {
        let find = rawdoc! { "find": "routed", "batchSize": 1, "$db": "app" };
        let (finds, more) = (
            cluster.counts("find").await,
            cluster.counts("getMore").await,
        );
        let opened = wire.ask(&find).await;
        let cursor = opened.get_document("cursor").unwrap();
        let next = rawdoc! {
            "getMore": cursor.get_i64("id").unwrap(), "collection": "routed", "batchSize": 1, "$db": "app",
        };
        for _ in 0..3 {
            assert_eq!(number(&wire.ask(&next).await, "ok"), 1);
        }
        let is_first = cluster.counts("find").await[0] - finds[0];
        let at_first = cluster.counts("getMore").await[0] - more[0];
        assert_eq!(at_first, 3 * is_first, "turn {turn}");
    }
    // One goes away: the other serves all but what was on its way to the first, over each of its connections.
    cluster.routers[0].is_down.store(true, Ordering::Relaxed);
    let mut served = 0;
    for _ in 0..20 {
        served += i64::from(number(&wire.ask(&count).await, "n") == 5);
    }
    assert!(served >= 16, "{served} of 20");
    wire.ask(&rawdoc! { "drop": "routed", "$db": "app" }).await;
    cluster.rig.end().await;
}

fn statement(name: &str, session: &RawDocumentBuf, transaction: i64) -> RawDocumentBuf {
    let mut body = RawDocumentBuf::new();
    body.append(bson::raw::CString::try_from(name).unwrap(), "pinned");
    body.append(bson::cstr!("lsid"), session.clone());
    body.append(bson::cstr!("txnNumber"), transaction);
    body.append(bson::cstr!("autocommit"), false);
    let database = if name == "commitTransaction" {
        "admin"
    } else {
        "app"
    };
    body.append(bson::cstr!("$db"), database);
    body
}

#[tokio::test]
async fn transactions_stay_with_the_router_that_knows_them() {
    if Rig::start().await.is_none() {
        return;
    }
    let cluster = Cluster::start().await.unwrap();
    let mut wire = cluster.fill("pinned").await;
    let session = session();
    for transaction in 1..=6_i64 {
        // Over several connections, and ended twice, as drivers do when they are not sure.
        let mut other = cluster.rig.login(Role::Write).await;
        let said = |name: &str| statement(name, &session, transaction);
        assert_eq!(number(&wire.ask(&said("insert")).await, "ok"), 1);
        assert_eq!(number(&other.ask(&said("update")).await, "ok"), 1);
        for _ in 0..2 {
            assert_eq!(number(&wire.ask(&said("commitTransaction")).await, "ok"), 1);
        }
        wire.ask(&rawdoc! { "count": "pinned", "$db": "app" }).await;
        wire.ask(&rawdoc! { "count": "pinned", "$db": "app" }).await;
    }
    let [first, second] = &cluster.routers;
    let parts = [first.transactions().await, second.transactions().await];
    let all: Vec<_> = parts.iter().flatten().collect();
    assert_eq!(all.len(), 6, "a transaction was torn apart: {parts:?}");
    assert!(
        all.iter().all(|(_, statements)| **statements == 4),
        "{parts:?}"
    );
    assert!(parts.iter().all(|part| !part.is_empty()), "{parts:?}");
    wire.ask(&rawdoc! { "drop": "pinned", "$db": "app" }).await;
    cluster.rig.end().await;
}

/// Serves relays at an address until it is told to stop; those that are open go on.
fn listen(at: SocketAddr, server: SocketAddr) -> (SocketAddr, tokio::task::AbortHandle) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(at).unwrap();
    let listener = socket.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = TcpStream::connect(server).await.unwrap();
            let relay = relay(
                Guise::Primary(address),
                (client, upstream),
                Arc::default(),
                Arc::default(),
            );
            detached(async move {
                let _ended: Option<()> = relay.await;
            });
        }
    });
    (address, serving.abort_handle())
}

#[tokio::test]
async fn member_that_could_not_be_dialled_is_looked_at_again_at_once() {
    if Rig::start().await.is_none() {
        return;
    }
    let url = std::env::var("POLYPOOL_TEST_MONGODB_URL").unwrap();
    let parsed = url::Url::parse(&url).unwrap();
    let server = format!("{}:{}", parsed.host_str().unwrap(), parsed.port().unwrap());
    let address = server.parse().unwrap();
    let (member, serving) = listen("127.0.0.1:0".parse().unwrap(), address);
    let url = url.replace(&server, &member.to_string());
    let url = format!("{url}&authMechanism=SCRAM-SHA-256&replicaSet=alone");
    let rig = Rig::start_for(url).await;
    let count = rawdoc! { "count": "none", "$db": "app" };
    let mut first = rig.login(Role::Write).await;
    let slow = Slow::fill(&mut first, "members").await;
    let mut second = rig.login(Role::Read).await;
    // While the only upstream is busy a second cannot be opened for a moment; the monitor hears nothing of it.
    first.send(0, &section(&slow.read(1500, None))).await;
    in_use(&rig, 1).await;
    serving.abort();
    let began = tokio::time::Instant::now();
    second.send(0, &section(&count)).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let (_, _serving) = listen(member, address);
    let answer = second.receive().await.unwrap().body;
    assert_eq!(number(&answer, "ok"), 1, "{answer}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    rig.end().await;
}
