//! A logged-in connection to a tenant's server, as the pool keeps it.
//!
//! `connect` reaches the server, `dial` logs in, `probe` tries that; here is what it knows of its session, and how it is cleaned and closed.

mod connect;
mod dial;
mod probe;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Buf;
use tokio::io::AsyncWriteExt;

pub(super) use connect::{Way, open};
pub use dial::Dialer;
pub use probe::probe;

use super::{
    cancel::CancelTarget,
    exchange::IDLE,
    flow::Peer,
    held::UpstreamStatements,
    rank::{IN_HOT_STANDBY, QUESTION, Rank},
    refusal,
    settings::{Parameters, pair},
    statement::{CONFORMING, ENCODING, Facts},
    wire,
};
use crate::pool;

/// The longest message that is held whole outside of a session.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Rows that are looked at before others have their turn.
const ROWS_AT_ONCE: usize = 32;
/// The same in bytes.
const ROW_BYTES_AT_ONCE: usize = 64 * 1024;

/// What `standard_conforming_strings` is where backslashes in strings are signs like others.
pub(super) const CONFORMS: &str = "on";

/// The encodings in which second bytes of letters may be signs of ASCII; all others that there are servers have too.
const OF_CLIENTS: [&str; 7] = [
    "BIG5",
    "GB18030",
    "GBK",
    "JOHAB",
    "SHIFT_JIS_2004",
    "SJIS",
    "UHC",
];

/// How a session reads texts, as the server reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// Backslashes in strings are signs like others.
    pub(super) conforms: bool,
    /// No second byte of a letter is a sign.
    pub(super) letters: bool,
}

impl Reading {
    /// In doubt.
    pub(super) const DOUBT: Self = Self {
        conforms: false,
        letters: false,
    };

    pub(super) fn reported(reported: &BTreeMap<String, String>) -> Self {
        let conforms = reported.get(CONFORMING);
        let encoding = reported.get(ENCODING);
        Self {
            conforms: conforms.is_some_and(|value| value == CONFORMS),
            letters: encoding.is_some_and(|value| !OF_CLIENTS.contains(&value.as_str())),
        }
    }

    /// Whether a text is read in this way as it was read here.
    pub(super) fn suits(self, facts: &Facts) -> bool {
        (self.conforms || !facts.presumes) && (self.letters || !facts.letters)
    }
}

/// One connection to a server.
pub struct Upstream {
    pub(super) peer: Peer,
    /// Where and with what key its queries are cancelled.
    pub(super) cancel: Arc<CancelTarget>,
    /// What the server reported last.
    pub(super) reported: BTreeMap<String, String>,
    /// The parameters that its session holds.
    pub(super) known: Arc<Parameters>,
    pub(super) statements: UpstreamStatements,
    /// Whose unnamed statement it has: the client, and that client's serial.
    pub(super) unnamed: Option<(u64, u64)>,
    /// The transaction status when it was last ready.
    pub(super) status: u8,
    /// How it read texts when it logged in.
    pub(super) began: Reading,
    /// What its server is, if that is known and nothing has been said since that it changed.
    pub(super) rank: Option<Rank>,
}

/// A message as it was read outside of a session.
pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) body: Vec<u8>,
}

impl Upstream {
    /// Runs a text of ours and waits for its end.
    ///
    /// # Errors
    /// [`Failed::Answer`] with the server's error, [`Failed::Lost`] if the connection is no good.
    pub(super) async fn run(&mut self, text: &str) -> Result<(), Failed> {
        self.rows(text, |_| {}).await
    }

    /// Asks the server what it is.
    pub(super) async fn ask_rank(&mut self) -> Result<Option<Rank>, Failed> {
        self.unnamed = None;
        let mut answer = None;
        self.rows(QUESTION, |row| answer = pair(row)).await?;
        self.rank = answer.as_ref().map(Rank::answered);
        Ok(self.rank)
    }

    /// As [`Self::run`], with each row that it gives: the body of a `DataRow`.
    ///
    /// # Errors
    /// The same.
    pub(super) async fn rows(
        &mut self,
        text: &str,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Failed> {
        wire::query(&mut self.peer.out, text);
        self.peer
            .flush()
            .await
            .map_err(|error| Failed::Lost(error.to_string()))?;
        let (mut outcome, mut count, mut bytes) = (Ok(()), 0_usize, 0_usize);
        loop {
            let message = read_message(&mut self.peer).await.map_err(Failed::Lost)?;
            match message.tag {
                b'E' => outcome = Err(Failed::Answer(message.body)),
                b'D' => {
                    each(&message.body);
                    (count, bytes) = (count + 1, bytes + message.body.len());
                    if count >= ROWS_AT_ONCE || bytes >= ROW_BYTES_AT_ONCE {
                        (count, bytes) = (0, 0);
                        tokio::task::yield_now().await;
                    }
                }
                b'S' => self.note_status(&message.body),
                b'Z' => {
                    self.status = message.body.first().copied().unwrap_or(IDLE);
                    return outcome;
                }
                _ => {}
            }
        }
    }

    /// Gives the session these parameters.
    pub(super) async fn apply(&mut self, wanted: &Arc<Parameters>) -> Result<(), Failed> {
        if let Some(text) = wanted.difference(&self.known) {
            self.unnamed = None;
            self.run(&text).await?;
        }
        self.known = Arc::clone(wanted);
        Ok(())
    }

    /// Takes in a `ParameterStatus`.
    pub(super) fn note_status(&mut self, body: &[u8]) {
        if let Some((name, value)) = wire::status_pair(body) {
            if name == IN_HOT_STANDBY {
                self.rank = None;
            }
            match self.reported.get_mut(name) {
                Some(held) if held == value => {}
                Some(held) => value.clone_into(held),
                None => drop(self.reported.insert(name.to_owned(), value.to_owned())),
            }
        }
    }
}

/// Why a text of ours did not run.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server refused it: the body of its `ErrorResponse`.
    Answer(Vec<u8>),
    /// The connection is no good any more.
    Lost(String),
}

impl Failed {
    /// In words.
    pub(super) fn cause(&self) -> String {
        match self {
            Self::Answer(body) => refusal::upstream_error(body).1,
            Self::Lost(cause) => cause.clone(),
        }
    }
}

impl pool::Upstream for Upstream {
    fn is_open(&mut self) -> bool {
        self.peer.inbound.is_empty() && self.peer.stream.is_quiet()
    }

    async fn reset(&mut self) -> Result<(), String> {
        if self.status != IDLE {
            self.run("ROLLBACK")
                .await
                .map_err(|failed| failed.cause())?;
        }
        self.run("DISCARD ALL")
            .await
            .map_err(|failed| failed.cause())?;
        self.known = Arc::default();
        self.statements.clear(true);
        self.unnamed = None;
        Ok(())
    }

    async fn close(mut self) {
        self.peer.out.clear();
        wire::data(&mut self.peer.out, b'X');
        if self.peer.flush().await.is_ok() {
            drop(self.peer.stream.shutdown().await);
        }
    }
}

/// Reads one whole message.
///
/// # Cancel safety
/// Safe: a message is taken out only when it is whole.
pub(super) async fn read_message(peer: &mut Peer) -> Result<Message, String> {
    loop {
        let unseen = peer.inbound.unseen();
        let frame = wire::backend_head(unseen).map_err(|refusal| refusal.to_string())?;
        if let Some(frame) = frame {
            if frame.bytes > MESSAGE_BYTES_MAX {
                return Err(format!(
                    "the server sent a message of {} bytes",
                    frame.bytes
                ));
            }
            if let Some(body) = frame.body(unseen) {
                let message = Message {
                    tag: frame.tag,
                    body: body.to_vec(),
                };
                peer.inbound.skip(frame.bytes, &mut bytes::BytesMut::new());
                return Ok(message);
            }
        }
        match peer.fill().await {
            Ok(0) => return Err("the server closed the connection".into()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The first word of a body, which tells what kind of authentication is meant.
fn split_word(body: &[u8]) -> (u32, &[u8]) {
    let mut rest = body;
    let code = rest.try_get_u32().unwrap_or(u32::MAX);
    (code, rest)
}
