//! The gateway as a process of its own, a relay that can be cut, and raw clients of each protocol.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bson::doc;
use polypool::{auth::scram, crypto::Secret};
use serde_json::Value;
use tokio::time::Instant;

const WAIT_MAX: Duration = Duration::from_secs(20);

/// The real servers, by their URLs.
pub(crate) struct Servers {
    pub(crate) postgres: String,
    pub(crate) redis: String,
    pub(crate) mongodb: String,
}

impl Servers {
    /// `None`, said aloud, where there are none and none are required.
    pub(crate) fn find() -> Option<Self> {
        let get = |name: &str| env::var(format!("POLYPOOL_TEST_{name}_URL")).ok();
        let found = get("POSTGRES").zip(get("REDIS")).zip(get("MONGODB"));
        if found.is_none() {
            let required = env::var("POLYPOOL_TEST_REQUIRED").is_ok_and(|value| value == "1");
            assert!(
                !required,
                "POLYPOOL_TEST_POSTGRES_URL and the like are not set"
            );
            eprintln!("not run: no test servers (see tests/servers)");
        }
        let ((postgres, redis), mongodb) = found?;
        Some(Self {
            postgres,
            redis,
            mongodb,
        })
    }
}

/// One `polypool serve` with its own data directory and ports; ended when dropped.
pub(crate) struct Gateway {
    process: Child,
    pub(crate) data: tempfile::TempDir,
    pub(crate) postgres: SocketAddr,
    pub(crate) redis: SocketAddr,
    pub(crate) mongodb: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// Where nobody listens: below what the kernel gives to those who ask for any port, and each once.
fn free_address() -> SocketAddr {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = std::process::id().wrapping_mul(97);
        let next = next.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + next % COUNT).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

impl Gateway {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_as(&[], settings)
    }

    /// Started with those arguments, and those variables.
    pub(crate) fn start_as(arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let [postgres, redis, mongodb, admin] = [(); 4].map(|()| free_address());
        let log = fs::File::create(data.path().join("test.log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_polypool"))
            .arg("serve")
            .args(arguments)
            .env("POLYPOOL_DATA_DIR", data.path())
            .env("POLYPOOL_POSTGRES_LISTEN", postgres.to_string())
            .env("POLYPOOL_REDIS_LISTEN", redis.to_string())
            .env("POLYPOOL_MONGODB_LISTEN", mongodb.to_string())
            .env("POLYPOOL_ADMIN_LISTEN", admin.to_string())
            .env("POLYPOOL_LOG", "trace")
            .envs(settings.iter().copied())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let gateway = Self {
            process,
            data,
            postgres,
            redis,
            mongodb,
            admin,
        };
        let begun = Instant::now();
        while !gateway.is_ready() {
            assert!(begun.elapsed() < WAIT_MAX, "not ready:\n{}", gateway.log());
            thread::park_timeout(Duration::from_millis(20));
        }
        gateway
    }

    /// The scheduling policies of its threads, as `proc(5)` numbers them.
    pub(crate) fn scheduling(&self) -> BTreeSet<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        // A thread may end meanwhile.
        let stats =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        let policy = |stat: String| {
            let after_name = stat.rsplit(") ").next()?.to_owned();
            after_name.split(' ').nth(38)?.parse().ok()
        };
        stats.map(|stat| policy(stat).unwrap()).collect()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.get("/readyz")
            .is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
    }

    /// A plain HTTP request without a token; the whole answer as text.
    pub(crate) fn get(&self, path: &str) -> std::io::Result<String> {
        self.get_as(path, "")
    }

    pub(crate) fn get_as(&self, path: &str, token: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        let bearer = if token.is_empty() {
            String::new()
        } else {
            format!("Authorization: Bearer {token}\r\n")
        };
        let host = self.admin;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\n{bearer}Connection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    pub(crate) fn token(&self) -> String {
        let path = self.data.path().join("admin.token");
        fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// Runs the command line against this gateway; standard output parsed, and how it ended.
    pub(crate) fn cli(&self, arguments: &[&str]) -> (bool, Value, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_polypool"))
            .args(arguments)
            .arg("--json")
            .arg("--admin")
            .arg(format!("http://{}", self.admin))
            .env("POLYPOOL_DATA_DIR", self.data.path())
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let value = serde_json::from_str(&stdout).unwrap_or(Value::Null);
        (output.status.success(), value, format!("{stdout}{stderr}"))
    }

    /// Registers a database in project `demo`.
    pub(crate) fn add(&self, url: &str, name: &str) -> Value {
        let (fine, value, text) = self.cli(&["add", url, "--project", "demo", "--name", name]);
        assert!(fine, "add {name}: {text}\n{}", self.log());
        value
    }

    /// A credential of project `demo`: user and password.
    pub(crate) fn credential(&self, role: &str) -> (String, String) {
        let (fine, value, text) = self.cli(&[
            "credential",
            "issue",
            "--project",
            "demo",
            "--user",
            role,
            "--role",
            role,
        ]);
        assert!(fine, "credential: {text}");
        let part = |key: &str| value[key].as_str().unwrap().to_owned();
        (part("username"), part("password"))
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.data.path().join("test.log")).unwrap_or_default()
    }

    pub(crate) fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.data.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The process is ours and its end is the test's; there is nobody to tell of a failure.
        let _ended = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// A TCP relay to a server that the test can cut, to play an upstream that goes away.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    open: Arc<AtomicBool>,
    pumping: Arc<AtomicUsize>,
}

impl Relay {
    pub(crate) fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicBool::new(true));
        let gate = Arc::clone(&open);
        let pumping = Arc::new(AtomicUsize::new(0));
        let pumps = Arc::clone(&pumping);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !gate.load(Ordering::SeqCst) {
                    drop(client);
                    continue;
                }
                let server = TcpStream::connect(&to).unwrap();
                for (from, into) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server, client),
                ] {
                    let (gate, pumps) = (Arc::clone(&gate), Arc::clone(&pumps));
                    pumps.fetch_add(1, Ordering::SeqCst);
                    thread::spawn(move || {
                        pump(from, into, &gate);
                        pumps.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        });
        Self {
            address,
            open,
            pumping,
        }
    }

    /// Cuts what runs and refuses what comes; no byte passes after this returns.
    pub(crate) fn cut(&self) {
        self.open.store(false, Ordering::SeqCst);
        while self.pumping.load(Ordering::SeqCst) > 0 {
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    pub(crate) fn mend(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

fn pump(mut from: TcpStream, mut into: TcpStream, gate: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut bytes = [0; 16 * 1024];
    while gate.load(Ordering::SeqCst) {
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                if into.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(_) => break,
        }
    }
    for side in [from, into] {
        // Either side may be gone already.
        drop(side.shutdown(Shutdown::Both));
    }
}

/// A connection whose reads end the test when nothing comes.
pub(crate) struct Raw(TcpStream);

impl Raw {
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        Self(stream)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // A peer that has closed already is what some tests are about.
        drop(self.0.write_all(bytes));
    }

    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn line(&mut self) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n") {
            bytes.extend(self.exactly(1));
        }
        String::from_utf8(bytes).unwrap().trim_end().to_owned()
    }

    /// Everything until the peer closes; a reset counts as closed.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("not closed: {error}, after {bytes:?}"),
        }
        bytes
    }

    /// One PostgreSQL message: its type and body.
    pub(crate) fn postgres_message(&mut self) -> (u8, Vec<u8>) {
        let head = self.exactly(5);
        let length = u32::from_be_bytes(head[1..5].try_into().unwrap());
        (head[0], self.exactly(length as usize - 4))
    }

    pub(crate) fn postgres_send(&mut self, kind: u8, body: &[u8]) {
        let length = u32::try_from(body.len() + 4).unwrap();
        let mut message = vec![kind];
        message.extend(length.to_be_bytes());
        message.extend(body);
        self.send(&message);
    }
}

pub(crate) fn postgres_startup(user: &str, database: &str) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", user, "database", database] {
        body.extend(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let mut message = u32::try_from(body.len() + 4)
        .unwrap()
        .to_be_bytes()
        .to_vec();
    message.extend(body);
    message
}

/// Logs in with SCRAM; `Err` is the SQLSTATE that came instead.
pub(crate) fn postgres_login(
    to: SocketAddr,
    user: &str,
    database: &str,
    password: &str,
) -> Result<Raw, String> {
    let mut raw = Raw::connect(to);
    raw.send(&postgres_startup(user, database));
    let (client, first) = scram::Client::begin("").unwrap();
    let secret = Secret::from(password.to_owned());
    let (mut client, mut finish) = (Some(client), None);
    loop {
        let (kind, body) = raw.postgres_message();
        match (
            kind,
            body.first_chunk::<4>()
                .map(|code| u32::from_be_bytes(*code)),
        ) {
            (b'R', Some(10)) => {
                let mut answer = b"SCRAM-SHA-256\0".to_vec();
                answer.extend(u32::try_from(first.len()).unwrap().to_be_bytes());
                answer.extend(first.as_bytes());
                raw.postgres_send(b'p', &answer);
            }
            (b'R', Some(11)) => {
                let text = std::str::from_utf8(&body[4..]).unwrap();
                let answer = client.take().unwrap().answer(text, &secret, None).unwrap();
                raw.postgres_send(b'p', answer.message.as_bytes());
                finish = Some(answer);
            }
            (b'R', Some(12)) => {
                let text = std::str::from_utf8(&body[4..]).unwrap();
                finish.take().unwrap().check(text).unwrap();
            }
            (b'E', _) => return Err(postgres_code(&body)),
            (b'Z', _) => return Ok(raw),
            _ => {}
        }
    }
}

pub(crate) fn postgres_code(error: &[u8]) -> String {
    let field = error
        .split(|byte| *byte == 0)
        .find_map(|field| field.strip_prefix(b"C"));
    String::from_utf8(field.unwrap().to_vec()).unwrap()
}

/// Runs a simple query; the SQLSTATE of its error, if it had one, once it is ready again.
pub(crate) fn postgres_query(raw: &mut Raw, sql: &str) -> Result<Vec<Vec<u8>>, String> {
    raw.postgres_send(b'Q', format!("{sql}\0").as_bytes());
    let (mut rows, mut code) = (Vec::new(), None);
    loop {
        match raw.postgres_message() {
            (b'D', body) => rows.push(body),
            (b'E', body) => code = Some(postgres_code(&body)),
            (b'Z', _) => return code.map_or(Ok(rows), Err),
            _ => {}
        }
    }
}

pub(crate) fn redis_command(parts: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        bytes.extend(format!("${}\r\n{part}\r\n", part.len()).into_bytes());
    }
    bytes
}

pub(crate) fn redis_login(to: SocketAddr, user: &str, password: &str) -> Result<Raw, String> {
    let mut raw = Raw::connect(to);
    raw.send(&redis_command(&["AUTH", user, password]));
    match raw.line() {
        ok if ok == "+OK" => Ok(raw),
        error => Err(error),
    }
}

/// One `OP_MSG` with a document as its body.
pub(crate) fn mongodb_message(document: &bson::Document) -> Vec<u8> {
    let body = document.to_vec().unwrap();
    let length = i32::try_from(16 + 5 + body.len()).unwrap();
    let mut message = Vec::new();
    for part in [length, 7, 0, 2013] {
        message.extend(part.to_le_bytes());
    }
    message.extend([0; 5]);
    message.extend(body);
    message
}

pub(crate) fn mongodb_run(raw: &mut Raw, document: &bson::Document) -> bson::Document {
    raw.send(&mongodb_message(document));
    let head = raw.exactly(16);
    let length = i32::from_le_bytes(head[..4].try_into().unwrap());
    let body = raw.exactly(usize::try_from(length).unwrap() - 16);
    bson::Document::from_reader(&body[5..]).unwrap()
}

/// A login whose proof is ready to be sent.
pub(crate) struct Proof {
    finish: scram::Finish,
    conversation: bson::Bson,
}

fn payload(text: &str) -> bson::Binary {
    let subtype = bson::spec::BinarySubtype::Generic;
    bson::Binary {
        subtype,
        bytes: text.as_bytes().to_vec(),
    }
}

fn said(reply: &bson::Document) -> String {
    String::from_utf8(reply.get_binary_generic("payload").unwrap().clone()).unwrap()
}

/// Logs in with SCRAM-SHA-256; `Err` is the code that came instead.
pub(crate) fn mongodb_login(to: SocketAddr, user: &str, password: &str) -> Result<Raw, i32> {
    let (mut raw, proof) = mongodb_begin_login(to, user, password)?;
    mongodb_finish_login(&mut raw, &proof)?;
    Ok(raw)
}

/// Says hello and exchanges the first messages of a login.
pub(crate) fn mongodb_begin_login(
    to: SocketAddr,
    user: &str,
    password: &str,
) -> Result<(Raw, Proof), i32> {
    let mut raw = Raw::connect(to);
    let hello = mongodb_run(&mut raw, &doc! { "hello": 1, "$db": "admin" });
    assert_eq!(hello.get_str("msg").unwrap(), "isdbgrid");
    let (client, first) = scram::Client::begin(user).unwrap();
    let start = doc! {
        "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": payload(&first),
        "options": { "skipEmptyExchange": true }, "$db": "admin",
    };
    let reply = mongodb_run(&mut raw, &start);
    if let Ok(code) = reply.get_i32("code") {
        return Err(code);
    }
    let secret = Secret::from(password.to_owned());
    let finish = client.answer(&said(&reply), &secret, None).unwrap();
    let conversation = reply.get("conversationId").unwrap().clone();
    Ok((
        raw,
        Proof {
            finish,
            conversation,
        },
    ))
}

/// Sends the proof.
pub(crate) fn mongodb_finish_login(raw: &mut Raw, proof: &Proof) -> Result<(), i32> {
    let go_on = doc! {
        "saslContinue": 1, "conversationId": proof.conversation.clone(),
        "payload": payload(&proof.finish.message), "$db": "admin",
    };
    let reply = mongodb_run(raw, &go_on);
    if let Ok(code) = reply.get_i32("code") {
        return Err(code);
    }
    proof.finish.check(&said(&reply)).unwrap();
    Ok(())
}
