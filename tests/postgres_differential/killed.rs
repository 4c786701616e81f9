//! A client that is gone in the middle of something leaves nothing behind.

use std::{io::Write, path::Path, process::Command, sync::Arc, time::Duration};

use polypool::{
    auth::scram,
    net::tls::{ServerFiles, ServerTls},
    postgres::Settings,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    gateway::{Database, Gateway, server_url},
    wire::{Client, bind, execute, flush, message, parse, query},
};

/// What a client has sent and read when it is killed.
enum Step {
    Send(Vec<u8>),
    /// Reads until a message of this type.
    Until(u8),
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn states() -> Vec<(&'static str, Vec<Step>)> {
    use Step::{Send, Until};
    let begun = |text: &str| {
        vec![
            Send(query(
                "begin; set local work_mem = '9MB'; select pg_advisory_xact_lock(1)",
            )),
            Until(b'Z'),
            Send(query(text)),
        ]
    };
    let with = |mut steps: Vec<Step>, more: Vec<Step>| {
        steps.extend(more);
        steps
    };
    let half = |message: Vec<u8>| Send(message[..message.len() - 3].to_vec());
    let suspended = [
        parse("", "select generate_series(1, 100)"),
        bind("p", "", &[]),
        execute("p", 2),
        flush(),
    ];
    let large = [
        query("select pg_sleep(60)"),
        query("select 1").repeat(20_000),
    ];
    vec![
        ("idle", vec![]),
        (
            "mid simple query",
            vec![half(query("set work_mem = '9MB'"))],
        ),
        (
            "mid simple query in a transaction",
            with(
                begun("select 1"),
                vec![Until(b'Z'), half(query("select 2"))],
            ),
        ),
        ("running", with(begun("select pg_sleep(60)"), vec![])),
        ("mid parse", vec![half(parse("a", "select 1"))]),
        (
            "mid bind",
            vec![Send(parse("a", "select 1")), half(bind("", "a", &[]))],
        ),
        (
            "mid execute",
            vec![
                Send([parse("a", "set work_mem = '9MB'"), bind("", "a", &[])].concat()),
                half(execute("", 0)),
            ],
        ),
        (
            "mid bind of a large value",
            vec![
                Send(parse("a", "select $1::text")),
                half(bind("", "a", &[&"x".repeat(100_000)])),
            ],
        ),
        (
            "between Flush and Sync",
            vec![
                Send(
                    [
                        parse("", "set work_mem = '9MB'"),
                        bind("", "", &[]),
                        execute("", 0),
                        flush(),
                    ]
                    .concat(),
                ),
                Until(b'C'),
            ],
        ),
        (
            "in a transaction",
            with(begun("set work_mem = '8MB'"), vec![Until(b'Z')]),
        ),
        (
            "in a failed transaction",
            with(begun("selec"), vec![Until(b'Z')]),
        ),
        (
            "copying in",
            vec![
                Send(query("copy kept from stdin")),
                Until(b'G'),
                Send(message(b'd', b"1\n2\n")),
            ],
        ),
        (
            "mid copy data",
            vec![
                Send(query("copy kept from stdin")),
                Until(b'G'),
                half(message(b'd', b"1\n2\n")),
            ],
        ),
        (
            "copying out",
            vec![
                Send(query(
                    "copy (select repeat('x', 1000) from generate_series(1, 1000000)) to stdout",
                )),
                Until(b'd'),
            ],
        ),
        (
            "a portal suspended",
            vec![Send(suspended.concat()), Until(b's')],
        ),
        (
            "pinned by a temporary table",
            vec![Send(query("create temp table t as select 1")), Until(b'Z')],
        ),
        (
            "pinned by a lock",
            vec![Send(query("select pg_advisory_lock(1)")), Until(b'Z')],
        ),
        (
            "listening",
            vec![Send(query("listen somewhere")), Until(b'Z')],
        ),
        (
            "pinned by a cursor",
            vec![
                Send(query("declare c cursor with hold for select 1")),
                Until(b'Z'),
            ],
        ),
        (
            "with a role",
            vec![Send(query("set role diff_one")), Until(b'Z')],
        ),
        (
            "with parameters",
            vec![Send(query("set work_mem = '9MB'")), Until(b'Z')],
        ),
        (
            "much unread behind a running query",
            vec![Send(large.concat())],
        ),
    ]
}

#[tokio::test]
async fn a_client_killed_at_any_moment_leaves_nothing() {
    let Some(url) = server_url() else {
        return;
    };
    crate::gateway::roles().await;
    let database = Database::create(format!("killed_{}", std::process::id())).await;
    let gateway = Gateway::start(&url, &database.name, 1).await;
    let mut other = gateway.client().await;
    other.must("create table kept (a int)").await;
    for (state, steps) in states() {
        let mut client = gateway.client().await;
        for step in steps {
            match step {
                // What nobody reads is not waited for.
                Step::Send(bytes) => {
                    let write = client.socket.write_all(&bytes);
                    drop(tokio::time::timeout(Duration::from_millis(300), write).await);
                }
                Step::Until(tag) => while client.read().await.tag != tag {},
            }
        }
        drop(client);
        nothing_is_left(&gateway, &mut other, state).await;
    }
    let at = gateway.app.address.clone();
    let startup = message(b'x', &196_608_u32.to_be_bytes())[1..].to_vec();
    for (state, bytes) in [("mid start-up", &startup[..6]), ("before start-up", &[])] {
        let mut socket = TcpStream::connect(&at).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        drop(socket);
        nothing_is_left(&gateway, &mut other, state).await;
    }
    killed_in_login(&gateway, &mut other).await;
    killed_in_line(&gateway, &mut other).await;
    drop(gateway);
    killed_in_handshake(&url, &database.name).await;
    database.drop().await;
}

/// What a client of a login has sent and read when it is killed; no upstream is needed for any of it.
async fn killed_in_login(gateway: &Gateway, other: &mut Client) {
    let account = &gateway.app;
    let request = |code: u32| [8_u32.to_be_bytes(), code.to_be_bytes()].concat();
    let (mut user, mut secret) = (b"user\0".to_vec(), String::new());
    user.extend(
        [
            account.user.as_bytes(),
            b"\0database\0",
            account.database.as_bytes(),
            b"\0",
        ]
        .concat(),
    );
    user.extend(b"options\0-c work_mem=9MB\0\0");
    let startup = message(b'x', &[&196_608_u32.to_be_bytes()[..], &user].concat())[1..].to_vec();
    // Up to which step the login goes: its message is sent in part, or whole, or its answer is read.
    for (step, last) in (0..6).flat_map(|step| [0, 1, 2].map(|last| (step, last))) {
        let leases = || gateway.service.fleet().snapshot()[0].leased;
        assert_eq!(leases(), 0);
        let mut client = Client {
            socket: TcpStream::connect(&account.address).await.unwrap(),
            key: (0, 0),
            parameters: Vec::new(),
        };
        let (scram, first) = scram::Client::begin("").unwrap();
        let mut scram = Some(scram);
        for at in 0..=step {
            let sent = match at {
                0 => request(80_877_103),
                1 => request(80_877_104),
                2 => startup.clone(),
                3 => {
                    let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                    message(
                        b'p',
                        &[b"SCRAM-SHA-256\0", &length[..], first.as_bytes()].concat(),
                    )
                }
                4 => {
                    let answer = scram
                        .take()
                        .unwrap()
                        .answer(&secret, &account.password, None);
                    message(b'p', answer.unwrap().message.as_bytes())
                }
                _ => query("begin"),
            };
            let end = sent.len() - usize::from(at == step && last == 0);
            client.socket.write_all(&sent[..end]).await.unwrap();
            if at == step && last < 2 {
                break;
            }
            match at {
                0 | 1 => assert_eq!(client.socket.read_u8().await.unwrap(), b'N'),
                3 => secret = String::from_utf8(client.read().await.body[4..].to_vec()).unwrap(),
                4 => while client.read().await.tag != b'Z' {},
                _ => drop(client.read().await),
            }
            if at < 5 {
                assert_eq!(leases(), 0, "step {at}");
            }
        }
        drop(client);
        nothing_is_left(gateway, other, &format!("login, step {step}, {last}")).await;
    }
}

/// A certificate of this test's own, and who believes in it.
fn certified(folder: &Path) -> (ServerTls, ClientConfig) {
    let files = ServerFiles {
        certificate: folder.join("own.pem"),
        key: folder.join("own.key"),
        client_roots: None,
    };
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE -keyout own.key -out own.pem";
    let made = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(&files.certificate).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (ServerTls::load(&files).unwrap(), config)
}

/// A client of a TLS handshake, asked for or direct, that has sent a part of its hello, of its last message, or of the
/// start-up packet behind it.
async fn killed_in_handshake(url: &str, database: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (server_tls, config) = certified(folder.path());
    let gateway = Gateway::start_as(url, database, 1, Settings::default(), Some(server_tls)).await;
    let mut other = gateway.client().await;
    let ask = [8_u32.to_be_bytes(), 80_877_103_u32.to_be_bytes()].concat();
    let startup = message(b'x', &196_608_u32.to_be_bytes())[1..].to_vec();
    let cases = (0..2).flat_map(|direct| (0..3).map(move |flight| (direct == 1, flight)));
    for ((direct, flight), quarters) in
        cases.flat_map(|case| (0..=4).map(move |quarters| (case, quarters)))
    {
        let state = format!("TLS handshake, direct {direct}, {quarters}/4 of message {flight}");
        let mut socket = TcpStream::connect(&gateway.app.address).await.unwrap();
        let mut config = config.clone();
        if direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        } else {
            socket.write_all(&ask).await.unwrap();
            assert_eq!(socket.read_u8().await.unwrap(), b'S');
        }
        let name = "localhost".try_into().unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        for at in 0..=flight {
            if at == 2 {
                tls.writer().write_all(&startup).unwrap();
            }
            while !tls.wants_write() {
                let mut read = vec![0; 16 * 1024];
                let count = socket.read(&mut read).await.unwrap();
                assert_ne!(count, 0, "{state}");
                tls.read_tls(&mut &read[..count]).unwrap();
                tls.process_new_packets().unwrap();
            }
            let mut bytes = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut bytes).unwrap();
            }
            let quarters = if at == flight { quarters } else { 4 };
            let end = bytes.len() * quarters / 4;
            socket.write_all(&bytes[..end]).await.unwrap();
        }
        assert_eq!(tls.is_handshaking(), flight == 0, "{state}");
        drop(socket);
        nothing_is_left(&gateway, &mut other, &state).await;
    }
}

/// One client has the only upstream; another waits for it, and is killed.
async fn killed_in_line(gateway: &Gateway, other: &mut Client) {
    let (mut first, mut second) = (gateway.client().await, gateway.client().await);
    first.must("begin").await;
    second.send(&query("insert into kept values (99)")).await;
    let waiting = || {
        let pools = gateway.service.fleet().snapshot();
        pools.iter().map(|pool| pool.waiting).sum::<usize>()
    };
    while waiting() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(second);
    while waiting() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    first.must("commit").await;
    nothing_is_left(gateway, other, "waiting in line").await;
}

pub(crate) async fn nothing_is_left(gateway: &Gateway, other: &mut Client, state: &str) {
    gateway.settle().await;
    let left = "select 'setting ' || name from pg_settings where source = 'session' \
        union all select 'lock' from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() \
        union all select 'transaction' from pg_stat_activity where datname = current_database() \
            and pid <> pg_backend_pid() and xact_start is not null \
        union all select 'temporary' from pg_class where relpersistence = 't' \
        union all select 'channel' from pg_listening_channels() \
        union all select 'cursor' from pg_cursors where name = 'c' \
        union all select 'role' where current_user <> session_user \
        union all select 'row' from kept";
    assert_eq!(other.must(left).await, [""; 0], "{state}");
}
