//! A raw client: whole messages, nothing hidden.

use std::time::Duration;

use polypool::{auth::scram, crypto::Secret};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// What no answer may take longer than.
const PATIENCE: Duration = Duration::from_secs(10);

/// A message of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

/// How to log in.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) address: String,
    pub(crate) user: String,
    pub(crate) password: Secret,
    pub(crate) database: String,
}

pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    /// The process id and the secret of its key.
    pub(crate) key: (u32, u32),
    /// The parameters of the greeting, and every change since.
    pub(crate) parameters: Vec<(String, String)>,
}

impl Client {
    pub(crate) async fn log_in(
        account: &Account,
        parameters: &[(&str, &str)],
    ) -> Result<Self, String> {
        timeout(PATIENCE, Self::try_log_in(account, parameters))
            .await
            .expect("the login hangs")
    }

    async fn try_log_in(account: &Account, parameters: &[(&str, &str)]) -> Result<Self, String> {
        let mut socket = TcpStream::connect(&account.address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        let own = [("user", &*account.user), ("database", &*account.database)];
        for (name, value) in own.iter().chain(parameters) {
            body.extend([name.as_bytes(), &[0], value.as_bytes(), &[0]].concat());
        }
        body.push(0);
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        socket
            .write_all(&[&length[..], &body].concat())
            .await
            .unwrap();
        let mut client = Self {
            socket,
            key: (0, 0),
            parameters: Vec::new(),
        };
        let (scram, first) = scram::Client::begin("").unwrap();
        let mut scram = Some(scram);
        loop {
            let Some(Message { tag, body }) = client.next().await else {
                return Err("closed".into());
            };
            match (tag, body.get(..4).unwrap_or_default()) {
                (b'R', [0, 0, 0, 10]) => {
                    let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                    let parts = [b"SCRAM-SHA-256\0", &length[..], first.as_bytes()];
                    client.send(&message(b'p', &parts.concat())).await;
                }
                (b'R', [0, 0, 0, 11]) => {
                    let said = std::str::from_utf8(&body[4..]).unwrap();
                    let scram = scram.take().unwrap();
                    let answer = scram.answer(said, &account.password, None).unwrap();
                    client.send(&message(b'p', answer.message.as_bytes())).await;
                }
                (b'S', _) => {
                    let mut parts = body.split(|byte| *byte == 0).map(String::from_utf8_lossy);
                    let pair = (parts.next().unwrap(), parts.next().unwrap());
                    client.parameters.push((pair.0.into(), pair.1.into()));
                }
                (b'K', _) => {
                    let word = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().unwrap());
                    client.key = (word(0), word(4));
                }
                (b'E', _) => return Err(code(&body)),
                (b'Z', _) => return Ok(client),
                _ => {}
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.socket.write_all(bytes))
            .await
            .expect("nobody reads")
            .unwrap();
    }

    /// The next message; `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let tag = self.socket.read_u8().await.ok()?;
        let length = self.socket.read_u32().await.ok()?;
        let mut body = vec![0; length as usize - 4];
        self.socket.read_exact(&mut body).await.ok()?;
        Some(Message { tag, body })
    }

    /// The next message, which must come soon.
    pub(crate) async fn read(&mut self) -> Message {
        let next = timeout(PATIENCE, self.next()).await;
        next.expect("no answer").expect("the connection was closed")
    }

    /// Reads to `ReadyForQuery`: the types, with errors as codes, and the first column of rows.
    pub(crate) async fn unit(&mut self) -> (String, Vec<String>) {
        let (mut types, mut rows) = (String::new(), Vec::new());
        loop {
            let Message { tag, body } = self.read().await;
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

    pub(crate) async fn query(&mut self, text: &str) -> (String, Vec<String>) {
        self.send(&query(text)).await;
        self.unit().await
    }

    /// Runs a text that must succeed.
    pub(crate) async fn must(&mut self, text: &str) -> Vec<String> {
        let (types, rows) = self.query(text).await;
        assert!(
            !types.contains('E') || types.ends_with("CZE"),
            "{text}: {types}"
        );
        rows
    }
}

pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag][..], &length, body].concat()
}

pub(crate) fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), &[0]].concat())
}

pub(crate) fn parse(name: &str, text: &str) -> Vec<u8> {
    message(
        b'P',
        &[name.as_bytes(), &[0], text.as_bytes(), &[0, 0, 0]].concat(),
    )
}

/// A Bind of texts as parameters, results as text.
pub(crate) fn bind(portal: &str, name: &str, values: &[&str]) -> Vec<u8> {
    let mut body = [portal.as_bytes(), &[0], name.as_bytes(), &[0, 0, 0]].concat();
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

/// The same of binary parameters.
pub(crate) fn bind_binary(portal: &str, name: &str, values: &[&[u8]]) -> Vec<u8> {
    let mut body = [portal.as_bytes(), &[0], name.as_bytes(), &[0, 0, 1, 0, 1]].concat();
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(*value);
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

pub(crate) fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(
        b'E',
        &[portal.as_bytes(), &[0], &rows.to_be_bytes()].concat(),
    )
}

/// A Describe or Close (`tag`) of a statement or portal (`kind`).
pub(crate) fn named(tag: u8, kind: u8, name: &str) -> Vec<u8> {
    message(tag, &[&[kind], name.as_bytes(), &[0]].concat())
}

pub(crate) fn sync() -> Vec<u8> {
    message(b'S', b"")
}

pub(crate) fn flush() -> Vec<u8> {
    message(b'H', b"")
}

/// Bind, Execute and Sync of a statement without parameters.
pub(crate) fn run(name: &str) -> Vec<u8> {
    [bind("", name, &[]), execute("", 0), sync()].concat()
}

/// The SQLSTATE of an error.
pub(crate) fn code(body: &[u8]) -> String {
    let mut fields = body.split(|byte| *byte == 0);
    let field = fields.find(|field| field.first() == Some(&b'C')).unwrap();
    String::from_utf8_lossy(&field[1..]).into_owned()
}
