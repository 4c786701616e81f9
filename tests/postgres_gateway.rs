//! The PostgreSQL side against a real server, spoken to in raw messages.
//!
//! Reads `POLYPOOL_TEST_POSTGRES_URL`; without it, says so and passes.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a test may stop here"
)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use polypool::{
    auth::scram,
    crypto::{Keyring, Secret},
    net::{Listener, Stream, tls::ClientTls},
    pool,
    postgres::{Parts, Service, Settings},
    registry::{
        Actor, LimitDefaults, NewCredential, NewDatabase, NewProject, Passphrases, Registry, Scope,
        Traits, Vault,
    },
    session::{Admission, Board},
    shutdown::Shutdown,
    tenant::Role,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A gateway in front of the test server.
struct Gateway {
    address: SocketAddr,
    write: Secret,
    read: Secret,
    service: Arc<Service>,
    shutdown: Shutdown,
    _folder: tempfile::TempDir,
}

impl Gateway {
    async fn start() -> Option<Self> {
        let Ok(url) = std::env::var("POLYPOOL_TEST_POSTGRES_URL") else {
            println!("POLYPOOL_TEST_POSTGRES_URL is not set: nothing tested");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let settings = polypool::registry::Settings {
            data_dir: folder.path().to_owned(),
            ..Default::default()
        };
        let (keyring, _) = Keyring::load_or_create(&folder.path().join("keys")).unwrap();
        let vault = Vault::new(keyring, Passphrases::default(), false);
        let registry = Registry::open(&settings, vault, LimitDefaults::default())
            .await
            .unwrap();
        let actor = Actor::local();
        let database = NewDatabase {
            project: NewProject {
                project_ref: "demo".into(),
                name: None,
                organization: None,
            },
            name: Some("main".into()),
            kind: None,
            connection_string: Secret::from(url),
            slug: Some("main".into()),
            traits: Traits::default(),
        };
        registry.register(database, &actor).await.unwrap();
        let mut passwords = Vec::new();
        for (user, role) in [("app", Role::Write), ("reader", Role::Read)] {
            let new = NewCredential {
                scope: Scope::Project("demo".into()),
                user: user.into(),
                role,
                expires_at: None,
            };
            passwords.push(registry.issue(new, &actor).await.unwrap().password);
        }
        let shutdown = Shutdown::new();
        let service = Service::new(Parts {
            settings: Settings::default(),
            pool: pool::Settings::default(),
            budget: pool::Budget::new(10),
            admission: Admission::new(Arc::new(registry), Board::new()).unwrap(),
            shutdown: shutdown.clone(),
            client_tls: ClientTls::new(None, None).unwrap(),
            server_tls: None,
        });
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), 100).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&service);
        let serve = move |stream: Stream| Arc::clone(&serving).serve(stream);
        shutdown.spawn(
            "listener",
            listener.run(shutdown.clone(), "session", serve, |_| async {}),
        );
        let read = passwords.pop().unwrap();
        let write = passwords.pop().unwrap();
        Some(Self {
            address,
            write,
            read,
            service,
            shutdown,
            _folder: folder,
        })
    }

    async fn client(&self) -> Client {
        Client::log_in(self.address, "app.main", &self.write, &[])
            .await
            .unwrap()
    }

    /// Waits until no upstream is in use.
    async fn settle(&self) {
        for _ in 0..100 {
            let busy = |stats: &pool::PoolStats| stats.leased + stats.resetting + stats.dialing > 0;
            if !self.service.fleet().snapshot().iter().any(busy) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("an upstream is still in use");
    }
}

/// A client that writes and reads whole messages.
struct Client {
    socket: TcpStream,
}

impl Client {
    /// Logs in; the error is what the gateway said.
    async fn log_in(
        address: SocketAddr,
        user: &str,
        password: &Secret,
        parameters: &[(&str, &str)],
    ) -> Result<Self, String> {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for (name, value) in [("user", user)].iter().chain(parameters) {
            body.extend([name.as_bytes(), &[0], value.as_bytes(), &[0]].concat());
        }
        body.push(0);
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        socket
            .write_all(&[&length[..], &body].concat())
            .await
            .unwrap();
        let mut client = Self { socket };
        let (mut scram, first) = {
            let (scram, first) = scram::Client::begin("").unwrap();
            (Some(scram), first)
        };
        loop {
            let (tag, body) = client.read().await;
            match (tag, body.get(..4).unwrap_or_default()) {
                (b'R', [0, 0, 0, 10]) => {
                    let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                    let parts = [b"SCRAM-SHA-256\0", &length[..], first.as_bytes()];
                    client.send(&message(b'p', &parts.concat())).await;
                }
                (b'R', [0, 0, 0, 11]) => {
                    let said = std::str::from_utf8(&body[4..]).unwrap();
                    let answer = scram.take().unwrap().answer(said, password, None).unwrap();
                    client.send(&message(b'p', answer.message.as_bytes())).await;
                }
                (b'E', _) => return Err(code(&body)),
                (b'Z', _) => return Ok(client),
                _ => {}
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    async fn read(&mut self) -> (u8, Vec<u8>) {
        let tag = self.socket.read_u8().await.expect("the gateway closed");
        let length = self.socket.read_u32().await.unwrap();
        let mut body = vec![0; length as usize - 4];
        self.socket.read_exact(&mut body).await.unwrap();
        (tag, body)
    }

    /// Reads to `ReadyForQuery`: the types, with errors as codes, and the first column of rows.
    async fn unit(&mut self) -> (String, Vec<String>) {
        let (mut types, mut rows) = (String::new(), Vec::new());
        loop {
            let (tag, body) = self.read().await;
            match tag {
                b'S' | b'N' => continue,
                b'D' => rows.push(String::from_utf8_lossy(&body[6..]).into_owned()),
                b'E' => types.push_str(&code(&body)),
                _ => {}
            }
            types.push(char::from(tag));
            if tag == b'Z' {
                types.push(char::from(body[0]));
                return (types, rows);
            }
        }
    }

    async fn query(&mut self, text: &str) -> (String, Vec<String>) {
        self.send(&query(text)).await;
        self.unit().await
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag][..], &length, body].concat()
}

fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), &[0]].concat())
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    message(
        b'P',
        &[name.as_bytes(), &[0], text.as_bytes(), &[0, 0, 0]].concat(),
    )
}

/// Bind, Execute and Sync.
fn run(name: &str) -> Vec<u8> {
    let bind = message(b'B', &[&[0], name.as_bytes(), &[0; 7]].concat());
    [bind, message(b'E', &[0; 5]), message(b'S', &[])].concat()
}

/// The SQLSTATE of an error.
fn code(body: &[u8]) -> String {
    let mut fields = body.split(|byte| *byte == 0);
    let field = fields.find(|field| field.first() == Some(&b'C')).unwrap();
    String::from_utf8_lossy(&field[1..]).into_owned()
}

#[tokio::test]
async fn a_prepared_statement_follows_its_client() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let mut client = gateway.client().await;
    client
        .send(&[parse("s", "select 41 + 1"), run("s")].concat())
        .await;
    assert_eq!(client.unit().await, ("12DCZI".into(), vec!["42".into()]));
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = gateway.client().await;
        other.query("begin").await;
        others.push(other);
        client.send(&run("s")).await;
        assert_eq!(client.unit().await, ("2DCZI".into(), vec!["42".into()]));
    }
    client
        .send(&[parse("s", "select 1"), run("s")].concat())
        .await;
    assert_eq!(client.unit().await.0, "42P05EZI");
    client.send(&run("unknown")).await;
    assert_eq!(client.unit().await.0, "26000EZI");
}

#[tokio::test]
async fn what_a_failed_unit_prepared_is_not_there() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let mut client = gateway.client().await;
    let failing = [parse("", "selec"), parse("a", "select 1"), run("a")].concat();
    let again = [parse("a", "select 2"), run("a")].concat();
    client.send(&[failing, run("a"), again].concat()).await;
    assert_eq!(client.unit().await.0, "42601EZI");
    assert_eq!(client.unit().await.0, "26000EZI");
    assert_eq!(client.unit().await, ("12DCZI".into(), vec!["2".into()]));
}

#[tokio::test]
async fn parameters_follow_their_client_and_nobody_else() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let options = [("options", "-c work_mem=3MB"), ("TimeZone", "CET")];
    let mut client = Client::log_in(gateway.address, "app.main", &gateway.write, &options)
        .await
        .unwrap();
    let mut other = gateway.client().await;
    client
        .query("set my.own = 'x'; set search_path to pg_catalog")
        .await;
    for (text, mine) in [
        ("show work_mem", "3MB"),
        ("show timezone", "CET"),
        ("show search_path", "pg_catalog"),
        ("select current_setting('my.own', true)", "x"),
    ] {
        assert_eq!(client.query(text).await.1, [mine]);
        assert_ne!(other.query(text).await.1, [mine]);
        assert_eq!(client.query(text).await.1, [mine]);
    }
    client.query("set work_mem = '5MB'").await;
    client.query("reset all").await;
    assert_eq!(client.query("show work_mem").await.1, ["3MB"]);
    let bad = [("options", "-c work_mem=much")];
    let refused = Client::log_in(gateway.address, "app.main", &gateway.write, &bad).await;
    assert_eq!(refused.err().unwrap(), "22023");
}

#[tokio::test]
async fn a_reader_may_listen_and_notify() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let login = Client::log_in(gateway.address, "reader.main", &gateway.read, &[]);
    let (mut reader, mut client) = (login.await.unwrap(), gateway.client().await);
    assert_eq!(reader.query("listen readers").await.0, "CZI");
    // What it has no upstream for any more, it hears all the same.
    let in_use = || {
        let pools = gateway.service.fleet().snapshot();
        pools
            .iter()
            .any(|pool| pool.server.is_none() && pool.leased > 0)
    };
    while in_use() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(client.query("notify readers, 'x'").await.0, "CZI");
    assert!(reader.read().await.1.ends_with(b"readers\0x\0"));
    assert_eq!(reader.query("notify readers").await.0, "CAZI");
    assert_eq!(
        reader.query("create table written (a int)").await.0,
        "25006EZI"
    );
}

#[tokio::test]
async fn session_state_pins_until_it_is_gone() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let (mut client, mut other) = (gateway.client().await, gateway.client().await);
    let pid = "select pg_backend_pid()::text";
    client.query("create temp table mine (a int)").await;
    let own = client.query(pid).await.1;
    assert_ne!(other.query(pid).await.1, own);
    assert_eq!(client.query("select count(*) from mine").await.1, ["0"]);
    assert_eq!(other.query("select from mine").await.0, "42P01EZI");
    client.query("drop table mine").await;
    gateway.settle().await;
    client.query("select pg_advisory_lock(7)").await;
    drop(client);
    gateway.settle().await;
    assert_eq!(
        other.query("select pg_try_advisory_xact_lock(7)").await.1,
        ["t"]
    );
}

#[tokio::test]
async fn a_vanished_client_leaves_no_transaction() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let open = "select count(*) from pg_stat_activity where pid <> pg_backend_pid() \
                and xact_start is not null and query like '%vanish-7f3a%'";
    for last in ["select 'vanish-7f3a'", "select pg_sleep(60), 'vanish-7f3a'"] {
        let mut client = gateway.client().await;
        client.query("begin").await;
        client.send(&query(last)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(client);
        gateway.settle().await;
        assert_eq!(gateway.client().await.query(open).await.1, ["0"], "{last}");
    }
}

#[tokio::test]
async fn roles_are_enforced() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let mut reader = Client::log_in(gateway.address, "reader.main", &gateway.read, &[])
        .await
        .unwrap();
    for text in [
        "begin read write",
        "set default_transaction_read_only = off",
        "select set_config('transaction_read_only', 'off', true)",
        "reset all; create table x (a int)",
        "do $$ begin end $$",
    ] {
        assert_eq!(reader.query(text).await.0, "42501EZI", "{text}");
    }
    assert_eq!(reader.query("create table x (a int)").await.0, "25006EZI");
    assert_eq!(reader.query("select 1").await.1, ["1"]);
    let mut writer = gateway.client().await;
    assert_eq!(writer.query("begin").await.0, "CZT");
    assert_eq!(
        writer.query("alter system set work_mem = 1").await.0,
        "42501EZE"
    );
    assert_eq!(writer.query("rollback").await.0, "CZI");
}

#[tokio::test]
async fn logins_that_fail_say_so_in_one_way() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let wrong = Secret::from("wrong".to_owned());
    for (user, password) in [
        ("app.main", &wrong),
        ("nobody.main", &gateway.write),
        ("app.nowhere", &gateway.write),
    ] {
        let refused = Client::log_in(gateway.address, user, password, &[]).await;
        assert_eq!(refused.err().unwrap(), "28P01", "{user}");
    }
    for (name, value, code) in [
        ("replication", "database", "0A000"),
        ("database", "polypool", "3D000"),
        ("database", "elsewhere", "3D000"),
    ] {
        let asked = [(name, value)];
        let refused = Client::log_in(gateway.address, "app.main", &gateway.write, &asked).await;
        assert_eq!(refused.err().unwrap(), code, "{name}={value}");
    }
}

/// A step that must not take for ever.
async fn soon<T>(step: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, step).await.expect("it hangs")
}

#[tokio::test]
async fn copy_data_goes_to_the_copy_that_asks_for_it() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let mut client = gateway.client().await;
    let data = [message(b'd', b"1\n2\n"), message(b'c', b"")].concat();
    client.query("begin").await;
    // From here on, what the transaction did to its session is to be asked for.
    client.query("create temp table s (a int)").await;
    client
        .send(&[&query("copy s from stdin")[..], &data].concat())
        .await;
    assert_eq!(soon(client.unit()).await.0, "GCZT");
    let copy = [parse("", "copy s from stdin"), run("")].concat();
    let (ahead, sync) = (copy.len() - 5, message(b'S', b""));
    // With a Sync that the server leaves out while it copies, and without.
    for copy in [&copy[..], &copy[..ahead]] {
        client.send(&[copy, &data, &sync].concat()).await;
        assert_eq!(soon(client.unit()).await.0, "12GCZT");
    }
    assert_eq!(
        client.query("select count(*) from s").await,
        ("TDCZT".into(), vec!["6".into()])
    );
    client
        .send(&[&query("copy nothing from stdin")[..], &data].concat())
        .await;
    assert_eq!(soon(client.unit()).await.0, "42P01EZE");
    assert_eq!(client.query("rollback").await.0, "CZI");
    gateway.settle().await;
}

#[tokio::test]
async fn a_reader_cannot_leave_read_only_mode() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let mut reader = Client::log_in(gateway.address, "reader.main", &gateway.read, &[])
        .await
        .unwrap();
    for text in [
        "begin; reset all",
        "reset all; select 1",
        "commit; create table x (a int)",
        "select 1; rollback; create table x (a int)",
    ] {
        assert_eq!(reader.query(text).await.0, "42501EZI", "{text}");
    }
    assert_eq!(reader.query("begin").await.0, "CZT");
    assert_eq!(reader.query("reset all").await.0, "42501EZE");
    assert_eq!(reader.query("rollback").await.0, "CZI");
    for text in ["reset all", "discard all"] {
        reader.send(&[parse("", text), run("")].concat()).await;
        assert_eq!(reader.unit().await.0, "42501EZI", "{text}");
    }
    // What pools of drivers send when a connection is given back to them.
    let tidy = "select pg_advisory_unlock_all(); close all; unlisten *; reset all;";
    for text in ["reset all", "discard all", tidy] {
        assert!(reader.query(text).await.0.ends_with("CZI"), "{text}");
        assert_eq!(reader.query("create table x (a int)").await.0, "25006EZI");
    }
    assert_eq!(reader.query("begin; select 1; commit").await.0, "CTDCCZI");
}

#[tokio::test]
async fn functions_are_called_by_number_for_large_objects_only() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let mut reader = Client::log_in(gateway.address, "reader.main", &gateway.read, &[])
        .await
        .unwrap();
    let mut writer = gateway.client().await;
    // One argument of four bytes in binary, and so is the result.
    let call = |function: u32| {
        let rest: &[u8] = &[0, 1, 0, 1, 0, 1, 0, 0, 0, 4, 255, 255, 255, 255, 0, 1];
        message(b'F', &[&function.to_be_bytes()[..], rest].concat())
    };
    let (creat, import) = (957, 764);
    writer.query("begin").await;
    writer.send(&call(creat)).await;
    assert_eq!(writer.unit().await.0, "VZT");
    writer.send(&call(import)).await;
    assert_eq!(writer.unit().await.0, "42501EZE");
    reader.send(&call(creat)).await;
    assert_eq!(reader.unit().await.0, "42501EZI");
    writer.query("rollback").await;
    assert_eq!(writer.query("select 1").await.1, ["1"]);
}

#[tokio::test]
async fn what_follows_an_error_is_left_out_up_to_sync() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let mut client = gateway.client().await;
    let failing = [parse("", "selec"), message(b'H', b"")].concat();
    client.send(&failing).await;
    while soon(client.read()).await.0 != b'E' {}
    let ignored = [parse("a", "select 1"), query("select 2"), run("a")].concat();
    client.send(&ignored).await;
    assert_eq!(soon(client.unit()).await.0, "ZI");
    gateway.settle().await;
    // The same with everything under way at once.
    let at_once = [&failing[..], &ignored, &run("a"), &query("select 3")].concat();
    client.send(&at_once).await;
    assert_eq!(soon(client.unit()).await.0, "42601EZI");
    assert_eq!(soon(client.unit()).await.0, "26000EZI");
    assert_eq!(soon(client.unit()).await.1, ["3"]);
    gateway.settle().await;
}

#[tokio::test]
async fn nobody_runs_a_statement_of_somebody_else() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let (mut one, mut other) = (gateway.client().await, gateway.client().await);
    one.send(&[parse("", "select 'own'"), run("")].concat())
        .await;
    assert_eq!(one.unit().await.1, ["own"]);
    gateway.settle().await;
    let describe = [message(b'D', b"S\0"), message(b'S', b"")].concat();
    for unit in [run(""), describe] {
        other.send(&unit).await;
        assert_eq!(other.unit().await.0, "26000EZI");
    }
    // Its own Parse is skipped in a unit that fails, and what it left out is used in the next.
    let skipped = [parse("x", "selec"), parse("", "select 1")].concat();
    other.send(&[skipped, run(""), run("")].concat()).await;
    assert_eq!(other.unit().await.0, "42601EZI");
    assert_eq!(other.unit().await.0, "26000EZI");
    one.send(&run("")).await;
    assert_eq!(one.unit().await.1, ["own"]);
    one.send(&[parse("named", "select 'own'"), run("named")].concat())
        .await;
    assert_eq!(one.unit().await.1, ["own"]);
    for text in [
        "execute pp_1",
        "deallocate \"pp_1\"",
        "explain execute pp_1",
    ] {
        assert_eq!(other.query(text).await.0, "42501EZI", "{text}");
        other.send(&[parse("", text), run("")].concat()).await;
        assert_eq!(other.unit().await.0, "42501EZI", "{text}");
    }
}

#[tokio::test]
async fn a_long_error_is_an_error() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let mut client = gateway.client().await;
    let name = "x".repeat(40_000);
    let failing = [
        parse("a", "select ($1::text || $2::text)::int"),
        message(
            b'B',
            &[
                b"\0a\0\0\0\0\x02".as_slice(),
                &40_000_u32.to_be_bytes(),
                name.as_bytes(),
                &[0, 0, 0, 0, 0, 0],
            ]
            .concat(),
        ),
        message(b'E', &[0; 5]),
        parse("b", "select 1"),
        message(b'S', b""),
    ]
    .concat();
    client.send(&failing).await;
    assert_eq!(soon(client.unit()).await.0, "122P02EZI");
    // What the error voided is not there.
    client.send(&run("b")).await;
    assert_eq!(soon(client.unit()).await.0, "26000EZI");
    gateway.settle().await;
}

#[tokio::test]
async fn a_drain_ends_clients_that_keep_an_upstream() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let (mut pinned, mut working) = (gateway.client().await, gateway.client().await);
    pinned.query("create temp table mine (a int)").await;
    working.query("begin").await;
    gateway.shutdown.begin_drain();
    let (tag, body) = soon(pinned.read()).await;
    assert_eq!((tag, code(&body).as_str()), (b'E', "57P01"));
    assert_eq!(working.query("select 1").await.1, ["1"]);
    working.send(&query("commit")).await;
    assert_eq!(soon(working.unit()).await.0, "CZI");
    assert_eq!(soon(working.read()).await.0, b'E');
}
