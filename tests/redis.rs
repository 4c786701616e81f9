//! The Redis side against a real server, in one process: order, isolation, loss, bounds.
//!
//! Needs `POLYPOOL_TEST_REDIS_URL`; without it the tests say so and pass, unless
//! `POLYPOOL_TEST_REQUIRED` is 1.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::format_push_string,
    clippy::string_slice,
    clippy::indexing_slicing,
    reason = "a test may stop here"
)]

use std::{cell::Cell, env, net::SocketAddr, sync::Arc, time::Duration};

use polypool::{
    crypto::{Keyring, Secret},
    net::{self, Stream, tls::ClientTls},
    pool,
    redis::{Parts, Service, Settings},
    registry::{
        self, Actor, LimitDefaults, NewCredential, NewDatabase, NewProject, Passphrases, Registry,
        Scope, Traits, Vault,
    },
    session::{Admission, Board},
    shutdown::Shutdown,
    tenant::{Role, Target},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::TcpListener,
    sync::watch,
    time::{Instant, sleep, timeout},
};

#[path = "redis/alone.rs"]
mod alone;
#[path = "redis/blocking.rs"]
mod blocking;
#[path = "redis/bond.rs"]
mod bond;
#[path = "redis/clients.rs"]
mod clients;
#[path = "redis/pubsub.rs"]
mod pubsub;
#[path = "redis/roles.rs"]
mod roles;
#[path = "redis/scripts.rs"]
mod scripts;

const KEY: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A gateway for one tenant, with a password of each role.
struct Gateway {
    address: SocketAddr,
    slug: String,
    passwords: [(Role, Secret); 3],
    target: Target,
    shutdown: Shutdown,
    _folder: tempfile::TempDir,
}

/// A way to the server that tests can break.
struct Bridge {
    port: u16,
    state: watch::Sender<Way>,
}

/// What a bridge does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// New ones wait; those that were open are closed.
    Held,
    /// All are closed at once.
    Broken,
}

/// A raw client.
struct Client {
    stream: Stream,
    input: Vec<u8>,
}

impl Gateway {
    /// `None`, said aloud, where there is no server and none is required.
    async fn start(name: &str) -> Option<Self> {
        let url = server_url()?;
        Some(Self::before(&url, &url, name).await)
    }

    /// With a way to its server that can be broken.
    async fn start_behind_bridge(name: &str) -> Option<(Self, Arc<Bridge>)> {
        let url = server_url()?;
        let target = Target::parse(&url).unwrap();
        let endpoint = target.endpoint().unwrap();
        let (host, port) = (endpoint.host.clone(), endpoint.port);
        let bridge = Bridge::open(host.clone(), port).await;
        let by_bridge = url.replace(
            &format!("{host}:{port}"),
            &format!("127.0.0.1:{}", bridge.port),
        );
        assert_ne!(by_bridge, url);
        Some((Self::before(&by_bridge, &url, name).await, bridge))
    }

    async fn before(url: &str, direct: &str, name: &str) -> Self {
        Self::within(&LimitDefaults::default(), url, direct, name).await
    }

    async fn within(limits: &LimitDefaults, url: &str, direct: &str, name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = registry::Settings {
            data_dir: folder.path().to_owned(),
            ..registry::Settings::default()
        };
        let vault = Vault::new(Keyring::parse(KEY).unwrap(), Passphrases::default(), false);
        let registry = Registry::open(&settings, vault, *limits).await.unwrap();
        let database = NewDatabase {
            project: NewProject {
                project_ref: "p".into(),
                name: None,
                organization: None,
            },
            name: Some(name.to_owned()),
            kind: None,
            connection_string: Secret::from(url.to_owned()),
            slug: None,
            traits: Traits::default(),
        };
        let row = registry.register(database, &Actor::local()).await.unwrap();
        let mut passwords = Vec::new();
        for role in [Role::Read, Role::Write, Role::Admin] {
            let new = NewCredential {
                scope: Scope::Database(row.id),
                user: role.label().to_owned(),
                role,
                expires_at: None,
            };
            let issued = registry.issue(new, &Actor::local()).await.unwrap();
            passwords.push((role, issued.password));
        }
        let shutdown = Shutdown::new();
        let service = Service::new(Parts {
            settings: Settings::default(),
            admission: Admission::new(Arc::new(registry), Board::new()).unwrap(),
            shutdown: shutdown.clone(),
            client_tls: ClientTls::new(None, None).unwrap(),
            server_tls: None,
            budget: pool::Budget::new(100),
            pool: pool::Settings::default(),
        })
        .unwrap();
        Self {
            address: listen(service).await,
            slug: row.slug,
            passwords: passwords.try_into().unwrap(),
            target: Target::parse(direct).unwrap(),
            shutdown,
            _folder: folder,
        }
    }

    async fn client(&self, role: Role) -> Client {
        let mut client = Client::connect(self.address).await;
        let (_, password) = self.passwords.iter().find(|(of, _)| *of == role).unwrap();
        let login = format!("{}.{}", role.label(), self.slug);
        client.send(&["AUTH", &login, password.expose()]).await;
        client.expect("+OK\r\n").await;
        client
    }

    /// A connection to the server itself.
    async fn direct(&self) -> Client {
        let endpoint = self.target.endpoint().unwrap();
        let address = net::Address {
            host: &endpoint.host,
            port: endpoint.port,
        };
        let stream = net::dial(address, WAIT_MAX).await.unwrap();
        let mut client = Client {
            stream,
            input: Vec::new(),
        };
        if let Some(password) = &self.target.password {
            let user = self.target.user.as_deref().unwrap_or("default");
            client.send(&["AUTH", user, password.expose()]).await;
            client.expect("+OK\r\n").await;
        }
        client
    }

    /// How many of the gateway's connections the server has blocked.
    async fn blocked(&self, direct: &mut Client) -> usize {
        let name = format!("name=polypool-{} ", self.slug);
        let list = direct.ask(&["CLIENT", "LIST"]).await;
        let own = list.lines().filter(|line| line.contains(&name));
        own.filter(|line| line.contains(" flags=b ")).count()
    }

    /// The ids of the gateway's connections, as the server lists them.
    async fn upstreams(&self, direct: &mut Client) -> Vec<String> {
        let name = format!("name=polypool-{} ", self.slug);
        let list = direct.ask(&["CLIENT", "LIST"]).await;
        let own = list.lines().filter(|line| line.contains(&name));
        own.map(|line| {
            line.split("id=")
                .nth(1)
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect()
    }
}

/// `None`, said aloud, where there is no server and none is required.
fn server_url() -> Option<String> {
    if let Ok(url) = env::var("POLYPOOL_TEST_REDIS_URL") {
        return Some(url);
    }
    let required = env::var("POLYPOOL_TEST_REQUIRED").is_ok_and(|value| value == "1");
    assert!(!required, "POLYPOOL_TEST_REDIS_URL is not set");
    eprintln!("not run: no test servers (see tests/servers)");
    None
}

impl Bridge {
    async fn open(host: String, port: u16) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bridge = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            state: watch::Sender::new(Way::Open),
        });
        let (tasks, state) = (Shutdown::new(), bridge.state.subscribe());
        tasks.clone().spawn("test-bridge", async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut state, host) = (state.clone(), host.clone());
                tasks.spawn("test-crossing", async move {
                    let way = *state.wait_for(|way| *way != Way::Held).await.unwrap();
                    if way == Way::Broken {
                        return;
                    }
                    let address = net::Address { host: &host, port };
                    let mut far = net::dial(address, WAIT_MAX).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.wait_for(|way| *way != Way::Open) => {}
                    }
                });
            }
        });
        bridge
    }

    fn set(&self, way: Way) {
        self.state.send_replace(way);
    }
}

async fn listen(service: Arc<Service>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Shutdown::new();
    tasks.clone().spawn("test-listener", async move {
        while let Ok((socket, _)) = listener.accept().await {
            let stream = Stream::plain(socket).unwrap();
            tasks.spawn("test-session", Arc::clone(&service).serve(stream));
        }
    });
    address
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let host = address.ip().to_string();
        let address = net::Address {
            host: &host,
            port: address.port(),
        };
        let stream = net::dial(address, WAIT_MAX).await.unwrap();
        Self {
            stream,
            input: Vec::new(),
        }
    }

    async fn send(&mut self, words: &[&str]) {
        self.stream.write_all(&command(words)).await.unwrap();
    }

    /// Reads exactly these bytes.
    async fn expect(&mut self, wanted: &str) {
        while self.input.len() < wanted.len() {
            let read = timeout(WAIT_MAX, self.stream.read_buf(&mut self.input)).await;
            match read {
                Ok(Ok(bytes)) if bytes > 0 => {}
                other => panic!(
                    "wanted {wanted:?}, have {:?}, then {other:?}",
                    String::from_utf8_lossy(&self.input)
                ),
            }
        }
        let rest = self.input.split_off(wanted.len());
        let got = std::mem::replace(&mut self.input, rest);
        assert_eq!(String::from_utf8_lossy(&got), wanted);
    }

    /// One command and its bulk reply.
    async fn ask(&mut self, words: &[&str]) -> String {
        self.send(words).await;
        loop {
            let text = String::from_utf8_lossy(&self.input).into_owned();
            if let Some((head, rest)) = text.split_once("\r\n") {
                let length = head.strip_prefix('$').unwrap().parse::<usize>().unwrap();
                if rest.len() >= length + 2 {
                    self.input.drain(..head.len() + 2 + length + 2);
                    return rest[..length].to_owned();
                }
            }
            let read = timeout(WAIT_MAX, self.stream.read_buf(&mut self.input)).await;
            assert!(read.unwrap().unwrap() > 0, "closed");
        }
    }

    /// The next line, without its end.
    async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.input.drain(..end + 2).collect::<Vec<u8>>();
                return String::from_utf8_lossy(&line[..end]).into_owned();
            }
            let read = timeout(WAIT_MAX, self.stream.read_buf(&mut self.input)).await;
            assert!(read.unwrap().unwrap() > 0, "closed");
        }
    }

    /// One line, which is an error of the gateway.
    async fn expect_error(&mut self) {
        while !self.input.ends_with(b"\r\n") {
            let read = timeout(WAIT_MAX, self.stream.read_buf(&mut self.input)).await;
            assert!(read.unwrap().unwrap() > 0, "closed");
        }
        let text = String::from_utf8(std::mem::take(&mut self.input)).unwrap();
        assert!(
            text.starts_with("-ERR ") && text.lines().count() == 1,
            "{text}"
        );
    }

    async fn is_closed(&mut self) -> bool {
        let read = timeout(WAIT_MAX, self.stream.read_buf(&mut self.input))
            .await
            .unwrap();
        read.map_or(true, |bytes| bytes == 0)
    }
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    out.into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_come_in_the_order_of_commands_whatever_carries_them() {
    let Some(gateway) = Gateway::start("order").await else {
        return;
    };
    let mut clients = Vec::new();
    for id in 0..20 {
        let mut client = gateway.client(Role::Write).await;
        let key = format!("polypool:order:{id}");
        let mut sent = command(&["DEL", &key]);
        let mut wanted = String::new();
        for round in 1..=40 {
            let text = format!("{id}-{round}");
            sent.extend(command(&["INCR", &key]));
            sent.extend(command(&["PING", &text]));
            wanted.push_str(&format!(
                ":{}\r\n${}\r\n{text}\r\n",
                round * 3 - 2,
                text.len()
            ));
            sent.extend([command(&["MULTI"]), command(&["INCR", &key])].concat());
            sent.extend([command(&["EXEC"]), command(&["INCR", &key])].concat());
            wanted.push_str("+OK\r\n+QUEUED\r\n");
            wanted.push_str(&format!("*1\r\n:{}\r\n:{}\r\n", round * 3 - 1, round * 3));
            if round % 20 == 0 {
                sent.extend(command(&["BLPOP", "polypool:order:none", "0.01"]));
                wanted.push_str("*-1\r\n");
            }
        }
        sent.extend(command(&["DEL", &key]));
        wanted.push_str(":1\r\n");
        client.stream.write_all(&sent).await.unwrap();
        clients.push((client, wanted));
    }
    for (client, wanted) in &mut clients {
        while client.input.len() < 4 {
            assert!(client.stream.read_buf(&mut client.input).await.unwrap() > 0);
        }
        client.input.drain(..4); // the first DEL, which may have found something
        client.expect(wanted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_element_is_not_popped_for_a_client_that_has_gone() {
    let Some(gateway) = Gateway::start("gone").await else {
        return;
    };
    let mut client = gateway.client(Role::Write).await;
    client.send(&["DEL", "polypool:gone"]).await;
    client.expect(":0\r\n").await;
    let mut direct = gateway.direct().await;
    let mut blocked = gateway.client(Role::Write).await;
    blocked.send(&["BLPOP", "polypool:gone", "0"]).await;
    until(async || gateway.blocked(&mut direct).await == 1).await;
    drop(blocked);
    until(async || gateway.blocked(&mut direct).await == 0).await;
    client.send(&["RPUSH", "polypool:gone", "kept"]).await;
    client.expect(":1\r\n").await;
    client.send(&["LPOP", "polypool:gone"]).await;
    client.expect("$4\r\nkept\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_trunk_answers_each_command_and_is_opened_again() {
    let Some(gateway) = Gateway::start("lost").await else {
        return;
    };
    let mut client = gateway.client(Role::Write).await;
    client.send(&["SET", "polypool:lost", "1"]).await;
    client.expect("+OK\r\n").await;
    let mut direct = gateway.direct().await;
    for id in gateway.upstreams(&mut direct).await {
        direct.send(&["CLIENT", "KILL", "ID", &id]).await;
        direct.expect(":1\r\n").await;
    }
    // Whether the loss is noticed before or after: an error or the value, and then the value.
    until(async || {
        client.send(&["INCRBY", "polypool:lost", "0"]).await;
        client.expect("").await;
        let mut first = [0; 1];
        client.stream.read_exact(&mut first).await.unwrap();
        while !client.input.ends_with(b"\r\n") {
            client.stream.read_buf(&mut client.input).await.unwrap();
        }
        client.input.clear();
        first == *b":"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_clients_leave_room_and_time_out_by_themselves() {
    let Some(gateway) = Gateway::start("room").await else {
        return;
    };
    let mut blocked = Vec::new();
    for _ in 0..40 {
        let mut client = gateway.client(Role::Write).await;
        client.send(&["BLPOP", "polypool:room:none", "1"]).await;
        blocked.push(client);
    }
    let began = Instant::now();
    let mut free = gateway.client(Role::Write).await;
    free.send(&["PING"]).await;
    free.expect("+PONG\r\n").await;
    free.send(&["EXISTS", "polypool:room:none"]).await;
    free.expect(":0\r\n").await;
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "waited for the blocked"
    );
    let mut direct = gateway.direct().await;
    assert!(gateway.upstreams(&mut direct).await.len() <= 10);
    for client in &mut blocked {
        client.expect("*-1\r\n").await;
    }
    assert!(began.elapsed() < Duration::from_secs(3), "timeouts add up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let Some(gateway) = Gateway::start("slow").await else {
        return;
    };
    let mut slow = gateway.client(Role::Write).await;
    let value = "x".repeat(1 << 20);
    slow.send(&["SET", "polypool:slow", &value]).await;
    slow.expect("+OK\r\n").await;
    for _ in 0..64 {
        slow.send(&["GET", "polypool:slow"]).await;
    }
    let mut quick = gateway.client(Role::Write).await;
    for _ in 0..100 {
        quick.send(&["STRLEN", "polypool:slow"]).await;
        quick.expect(":1048576\r\n").await;
    }
    // What it was owed it still gets.
    for _ in 0..64 {
        slow.expect(&format!("$1048576\r\n{value}\r\n")).await;
    }
    quick.send(&["DEL", "polypool:slow"]).await;
    quick.expect(":1\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watched_keys_abort_the_transaction_of_their_watcher_only() {
    let Some(gateway) = Gateway::start("watch").await else {
        return;
    };
    let mut one = gateway.client(Role::Write).await;
    let mut other = gateway.client(Role::Write).await;
    for words in [
        &["SET", "polypool:watch", "1"][..],
        &["WATCH", "polypool:watch"],
        &["MULTI"],
    ] {
        one.send(words).await;
        one.expect("+OK\r\n").await;
    }
    other.send(&["INCR", "polypool:watch"]).await;
    other.expect(":2\r\n").await;
    one.send(&["INCR", "polypool:watch"]).await;
    one.expect("+QUEUED\r\n").await;
    one.send(&["EXEC"]).await;
    one.expect("*-1\r\n").await;
    one.send(&["MULTI"]).await;
    one.expect("+OK\r\n").await;
    one.send(&["FLUSHALL"]).await;
    one.expect("-NOPERM this user has no permissions to run the 'flushall' command\r\n")
        .await;
    one.send(&["EXEC"]).await;
    one.expect("-EXECABORT Transaction discarded because of previous errors.\r\n")
        .await;
    one.send(&["DEL", "polypool:watch"]).await;
    one.expect(":1\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_are_each_clients_own() {
    let Some(gateway) = Gateway::start("select").await else {
        return;
    };
    let mut one = gateway.client(Role::Write).await;
    let mut other = gateway.client(Role::Write).await;
    one.send(&["SELECT", "9"]).await;
    one.expect("+OK\r\n").await;
    one.send(&["SET", "polypool:select", "nine"]).await;
    one.expect("+OK\r\n").await;
    other.send(&["EXISTS", "polypool:select"]).await;
    other.expect(":0\r\n").await;
    one.send(&["GET", "polypool:select"]).await;
    one.expect("$4\r\nnine\r\n").await;
    one.send(&["DEL", "polypool:select"]).await;
    one.expect(":1\r\n").await;
    one.send(&["SELECT", "99999"]).await;
    one.expect("-ERR DB index is out of range\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_share_one_upstream_and_hear_their_own_version() {
    let Some(gateway) = Gateway::start("news").await else {
        return;
    };
    let mut old = gateway.client(Role::Read).await;
    old.send(&["SUBSCRIBE", "polypool:news"]).await;
    old.expect("*3\r\n$9\r\nsubscribe\r\n$13\r\npolypool:news\r\n:1\r\n")
        .await;
    let mut new = gateway.client(Role::Read).await;
    new.send(&["HELLO", "3"]).await;
    until_contains(&mut new, "modules\r\n*0\r\n").await;
    new.send(&["PSUBSCRIBE", "polypool:n*"]).await;
    new.expect(">3\r\n$10\r\npsubscribe\r\n$11\r\npolypool:n*\r\n:1\r\n")
        .await;
    let mut writer = gateway.client(Role::Write).await;
    writer.send(&["PUBLISH", "polypool:news", "hi"]).await;
    writer.expect(":2\r\n").await;
    old.expect("*3\r\n$7\r\nmessage\r\n$13\r\npolypool:news\r\n$2\r\nhi\r\n")
        .await;
    new.expect(
        ">4\r\n$8\r\npmessage\r\n$11\r\npolypool:n*\r\n$13\r\npolypool:news\r\n$2\r\nhi\r\n",
    )
    .await;
    old.send(&["UNSUBSCRIBE"]).await;
    old.expect("*3\r\n$11\r\nunsubscribe\r\n$13\r\npolypool:news\r\n:0\r\n")
        .await;
    old.send(&["EXISTS", "polypool:none"]).await;
    old.expect(":0\r\n").await;
}

const SUBSCRIBED: &str = "*3\r\n$9\r\nsubscribe\r\n$13\r\npolypool:lost\r\n:1\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_of_a_subscription_that_the_server_has_not() {
    let Some((gateway, bridge)) = Gateway::start_behind_bridge("ack").await else {
        return;
    };
    let mut first = gateway.client(Role::Read).await;
    first.send(&["SUBSCRIBE", "polypool:lost"]).await;
    first.expect(SUBSCRIBED).await;
    bridge.set(Way::Held);
    sleep(Duration::from_millis(200)).await;
    let mut second = gateway.client(Role::Read).await;
    second.send(&["SUBSCRIBE", "polypool:lost"]).await;
    let early = timeout(Duration::from_millis(500), second.expect(SUBSCRIBED)).await;
    assert!(early.is_err(), "told before the server was asked");
    bridge.set(Way::Open);
    second.expect(SUBSCRIBED).await;
    let mut direct = gateway.direct().await;
    direct.send(&["PUBLISH", "polypool:lost", "hi"]).await;
    direct.expect(":1\r\n").await;
    for client in [&mut first, &mut second] {
        client
            .expect("*3\r\n$7\r\nmessage\r\n$13\r\npolypool:lost\r\n$2\r\nhi\r\n")
            .await;
    }
}

// One thread: how often another client gets a turn is up to the session that subscribes.
#[tokio::test]
async fn many_subscriptions_are_counted_and_hold_nobody_up() {
    const NAMES: usize = 20_000;
    let Some(gateway) = Gateway::start("many").await else {
        return;
    };
    let names: Vec<String> = (0..NAMES).map(|at| format!("polypool:{at:05}")).collect();
    let mut client = gateway.client(Role::Read).await;
    let words: Vec<&str> = std::iter::once("SUBSCRIBE")
        .chain(names.iter().map(String::as_str))
        .collect();
    client.stream.write_all(&command(&words)).await.unwrap();
    let mut wanted = String::new();
    for (at, name) in names.iter().enumerate() {
        wanted.push_str(&format!("*3\r\n$9\r\nsubscribe\r\n$14\r\n{name}\r\n"));
        wanted.push_str(&format!(":{}\r\n", at + 1));
    }
    let mut other = gateway.client(Role::Read).await;
    let is_subscribed = Cell::new(false);
    let subscribing = async {
        client.expect(&wanted).await;
        is_subscribed.set(true);
    };
    let others = async {
        let mut answers = 0;
        while !is_subscribed.get() {
            other.send(&["PING"]).await;
            other.expect("+PONG\r\n").await;
            answers += 1;
        }
        answers
    };
    let ((), answers) = tokio::join!(subscribing, others);
    assert!(answers > 10, "only {answers} answers meanwhile");
    client.send(&["UNSUBSCRIBE"]).await;
    let last = "\r\n:0\r\n";
    while !client.input.ends_with(last.as_bytes()) {
        let read = timeout(WAIT_MAX, client.stream.read_buf(&mut client.input)).await;
        assert!(read.unwrap().unwrap() > 0, "closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_read_of_a_stream_never_holds_up_a_trunk() {
    let Some(gateway) = Gateway::start("group").await else {
        return;
    };
    let key = "polypool:group";
    let mut reader = gateway.client(Role::Write).await;
    reader
        .send(&["XGROUP", "CREATE", key, "streams", "$", "MKSTREAM"])
        .await;
    reader.expect("+OK\r\n").await;
    // The name of the group looks like the end of the options.
    let read = ["XREADGROUP", "GROUP", "streams", "me", "BLOCK", "2000"];
    reader
        .send(&[&read[..], &["STREAMS", key, ">"]].concat())
        .await;
    sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    for _ in 0..4 {
        let mut other = gateway.client(Role::Write).await;
        other.send(&["EXISTS", key]).await;
        other.expect(":1\r\n").await;
    }
    assert!(began.elapsed() < Duration::from_secs(1), "held up");
    reader.expect("*-1\r\n").await;
    reader.send(&["DEL", key]).await;
    reader.expect(":1\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_cannot_begin_closes_its_client() {
    let Some((gateway, bridge)) = Gateway::start_behind_bridge("bare").await else {
        return;
    };
    bridge.set(Way::Broken);
    for beginning in [
        command(&["MULTI"]),
        command(&["WATCH", "polypool:bare"]),
        [command(&["MULTI"]), command(&["INCR", "polypool:bare"])].concat(),
        [
            command(&["MULTI"]),
            command(&["INCR", "polypool:bare"]),
            command(&["EXEC"]),
        ]
        .concat(),
    ] {
        let mut client = gateway.client(Role::Write).await;
        client.stream.write_all(&beginning).await.unwrap();
        client.expect_error().await;
        assert!(client.is_closed().await, "what follows would run bare");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_blocked_client_is_seen_behind_what_it_sent() {
    let Some(gateway) = Gateway::start("behind").await else {
        return;
    };
    let mut direct = gateway.direct().await;
    for bytes in [1, 100_000] {
        let mut blocked = gateway.client(Role::Write).await;
        blocked.send(&["BLPOP", "polypool:behind", "0"]).await;
        until(async || gateway.blocked(&mut direct).await == 1).await;
        let ahead = vec![b'*'; bytes];
        blocked.stream.write_all(&ahead).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        drop(blocked);
        until(async || gateway.blocked(&mut direct).await == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_clients_that_block_or_wait_for_it() {
    let Some(gateway) = Gateway::start("drain").await else {
        return;
    };
    let mut waiting = Vec::new();
    // More than may have an upstream of their own.
    for _ in 0..20 {
        let mut client = gateway.client(Role::Write).await;
        client.send(&["BLPOP", "polypool:drain:none", "0"]).await;
        waiting.push(client);
    }
    waiting.push(Client::connect(gateway.address).await);
    sleep(Duration::from_millis(200)).await;
    gateway.shutdown.begin_drain();
    for client in &mut waiting {
        assert!(client.is_closed().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_longer_than_the_output_bound_is_delivered() {
    const BYTES: usize = 80 * 1024 * 1024;
    let Some(gateway) = Gateway::start("large").await else {
        return;
    };
    let mut client = gateway.client(Role::Write).await;
    let last = (BYTES - 1).to_string();
    client
        .send(&["SETRANGE", "polypool:large", &last, "x"])
        .await;
    client.expect(&format!(":{BYTES}\r\n")).await;
    client.send(&["GET", "polypool:large"]).await;
    // The server is faster than this client.
    sleep(Duration::from_millis(500)).await;
    let mut reply = vec![0; format!("${BYTES}\r\n").len() + BYTES + 2];
    let read = timeout(WAIT_MAX, client.stream.read_exact(&mut reply)).await;
    read.unwrap().unwrap();
    client.send(&["DEL", "polypool:large"]).await;
    client.expect(":1\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skipped_reply_is_only_one() {
    let Some(gateway) = Gateway::start("skip").await else {
        return;
    };
    let mut client = gateway.client(Role::Write).await;
    let sent = [
        command(&["CLIENT", "REPLY", "SKIP"]),
        command(&["MULTI"]),
        command(&["PING"]),
        command(&["EXEC"]),
    ];
    client.stream.write_all(&sent.concat()).await.unwrap();
    client.expect("+QUEUED\r\n*1\r\n+PONG\r\n").await;
    let subscribe = "*3\r\n$9\r\nsubscribe\r\n$13\r\npolypool:skip\r\n:1\r\n";
    client.send(&["CLIENT", "REPLY", "SKIP"]).await;
    client.send(&["SUBSCRIBE", "polypool:skip"]).await;
    client.expect(subscribe).await;
    client.send(&["PING"]).await;
    client.expect("*2\r\n$4\r\npong\r\n$0\r\n\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_logins_and_broken_frames_are_answered_as_the_server_does() {
    let Some(gateway) = Gateway::start("door").await else {
        return;
    };
    let mut client = Client::connect(gateway.address).await;
    client.send(&["GET", "k"]).await;
    client.expect("-NOAUTH Authentication required.\r\n").await;
    for login in ["write.door", "nobody.door", "write.nowhere"] {
        client.send(&["AUTH", login, "wrong"]).await;
        client
            .expect("-WRONGPASS invalid username-password pair or user is disabled.\r\n")
            .await;
    }
    client.stream.write_all(b"*1\r\n$20000\r\n").await.unwrap();
    client
        .expect("-ERR Protocol error: unauthenticated bulk length\r\n")
        .await;
    assert!(client.is_closed().await);
    let mut reader = gateway.client(Role::Read).await;
    reader.send(&["SET", "polypool:door", "1"]).await;
    reader
        .expect("-NOPERM this user has no permissions to run the 'set' command\r\n")
        .await;
    reader
        .stream
        .write_all(b"EXISTS polypool:door\r\nPOST / HTTP/1.1\r\n")
        .await
        .unwrap();
    reader.expect(":0\r\n-ERR unknown command 'POST'").await;
    let mut rest = Vec::new();
    timeout(WAIT_MAX, reader.stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_on_sending_hears_why_it_is_closed() {
    let Some(gateway) = Gateway::start("linger").await else {
        return;
    };
    for _ in 0..20 {
        let mut client = Client::connect(gateway.address).await;
        let mut flood = b"$\0".to_vec();
        flood.resize(1024 * 1024, b'x');
        client.stream.write_all(&flood).await.unwrap();
        let mut heard = Vec::new();
        // Cut off in the middle it would be told of a reset.
        let read = client.stream.read_to_end(&mut heard);
        timeout(WAIT_MAX, read).await.unwrap().unwrap();
        let heard = String::from_utf8(heard).unwrap();
        assert!(heard.starts_with("-ERR Protocol error: "), "{heard}");
    }
}

/// Asks again until the answer is yes.
async fn until(mut asked: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !asked().await {
        assert!(began.elapsed() < WAIT_MAX, "never");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn until_contains(client: &mut Client, wanted: &str) {
    while !String::from_utf8_lossy(&client.input).contains(wanted) {
        let read = timeout(WAIT_MAX, client.stream.read_buf(&mut client.input)).await;
        assert!(read.unwrap().unwrap() > 0, "closed");
    }
    client.input.clear();
}

/// The gateway's number of a client.
async fn id(client: &mut Client) -> String {
    client.send(&["CLIENT", "ID"]).await;
    while !client.input.ends_with(b"\r\n") {
        client.stream.read_buf(&mut client.input).await.unwrap();
    }
    let text = String::from_utf8(std::mem::take(&mut client.input)).unwrap();
    text.trim_start_matches(':').trim().to_owned()
}
