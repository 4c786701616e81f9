//! One logged-in connection to a Redis server, as the pool keeps it.
//!
//! Every reply that it is asked for is read before it is given back; what a connection looks like
//! in between (database number, version of the protocol) is remembered, and changed when the next
//! user needs it otherwise.

mod dial;
mod probe;
mod reign;
mod sentinel;

pub use dial::Dialer;
pub(super) use dial::database_of;
pub use probe::probe;
pub(super) use reign::Reign;

use std::{io, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::wire::{self, ReplyFault, Scanner, Version};
use crate::{
    net::Stream,
    pool::{self, CloseReason, Residue},
    tenant::Endpoint,
};

/// The longest reply to one of our own questions; `INFO` is a few kilobytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// The longest reply to what is asked on behalf of clients: the longest string, and then some.
pub(super) const REPLY_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// How a server begins to say that a script keeps it from serving.
const BUSY: &str = "BUSY ";
/// Room for a reply to one of our own questions.
const ANSWER_BYTES: usize = 4096;

/// Why a question of ours got no answer.
#[derive(Debug, Error)]
pub(super) enum AskFault {
    /// The connection failed.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// The server closed it.
    #[error("the server closed the connection")]
    Closed,
    /// It is not RESP.
    #[error("not a Redis server: {0}")]
    Reply(#[from] ReplyFault),
    /// The answer has no end.
    #[error("answer too long")]
    TooLong,
    /// The server answered with an error.
    #[error("{0}")]
    Refused(String),
}

impl AskFault {
    /// What becomes of the upstream: a server that is busy has changed nothing.
    pub(super) fn residue(&self) -> Residue {
        match self {
            Self::Refused(text) if text.starts_with(BUSY) => Residue::Clean,
            _ => Residue::Broken(CloseReason::Dirty),
        }
    }
}

/// A connection that is logged in.
#[derive(Debug)]
pub struct Upstream {
    pub(super) stream: Stream,
    /// Bytes read and not used yet; empty between exchanges.
    pub(super) input: BytesMut,
    /// The protocol version it is switched to.
    pub(super) version: Version,
    /// The database it has selected.
    pub(super) database: u32,
    /// Whether the server knows `HELLO`.
    pub(super) speaks_hello: bool,
    /// The server's version, as it says.
    pub(super) server: Arc<str>,
    /// Where it leads to.
    pub(super) endpoint: Option<Endpoint>,
    /// The reign in which it was opened, where masters change.
    pub(super) reign: Option<Arc<Reign>>,
    /// By which number the server knows it, once it has been asked.
    number: Number,
}

/// The server's number of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    /// It has not been asked for.
    Unasked,
    /// The server does not tell, or does not let us end the waits of others.
    Unusable,
    /// The number.
    Known(u64),
}

impl Upstream {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            version: Version::Resp2,
            database: 0,
            speaks_hello: false,
            server: Arc::from(""),
            endpoint: None,
            reign: None,
            number: Number::Unasked,
        }
    }

    /// By which number another connection can end its wait; `None` where the server forbids that.
    pub(super) async fn number(&mut self) -> Result<Option<u64>, AskFault> {
        if self.number == Number::Unasked {
            self.number = self.ask_number().await?;
        }
        Ok(match self.number {
            Number::Known(number) => Some(number),
            Number::Unasked | Number::Unusable => None,
        })
    }

    /// The server's number of it.
    pub(super) async fn own_number(&mut self) -> Result<u64, AskFault> {
        let reply = self.ask(&["CLIENT", "ID"]).await?;
        let number = wire::number_of(&reply).and_then(|number| u64::try_from(number).ok());
        number.ok_or_else(|| AskFault::Refused("CLIENT ID is no number".to_owned()))
    }

    async fn ask_number(&mut self) -> Result<Number, AskFault> {
        let number = match self.ask(&["CLIENT", "ID"]).await {
            Ok(reply) => wire::number_of(&reply).and_then(|number| u64::try_from(number).ok()),
            Err(AskFault::Refused(_)) => None,
            Err(fault) => return Err(fault),
        };
        let Some(number) = number else {
            return Ok(Number::Unusable);
        };
        // On itself it does nothing, but it tells whether it may be used.
        match self.ask(&["CLIENT", "UNBLOCK", &number.to_string()]).await {
            Ok(_) => Ok(Number::Known(number)),
            Err(AskFault::Refused(_)) => Ok(Number::Unusable),
            Err(fault) => Err(fault),
        }
    }

    /// Sends commands and reads that many replies to them, errors too.
    pub(super) async fn converse(
        &mut self,
        commands: &[u8],
        replies: usize,
    ) -> Result<Vec<Bytes>, AskFault> {
        self.stream.write_all(commands).await?;
        self.stream.flush().await?;
        let mut answers = Vec::with_capacity(replies);
        while answers.len() < replies {
            answers.push(self.answer(REPLY_BYTES_MAX).await?);
        }
        Ok(answers)
    }

    /// Sends one command and reads its whole reply; an error reply is a fault.
    pub(super) async fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Result<Bytes, AskFault> {
        self.tell(words).await?;
        let reply = self.answer(ANSWER_BYTES_MAX).await?;
        match reply.strip_prefix(b"-") {
            Some(text) => Err(AskFault::Refused(
                String::from_utf8_lossy(text).trim().to_owned(),
            )),
            None => Ok(reply),
        }
    }

    /// Brings version and database to what the next user needs, each only if it differs.
    pub(super) async fn prepare(
        &mut self,
        version: Version,
        database: u32,
    ) -> Result<(), AskFault> {
        if self.version != version {
            self.ask(&["HELLO", &version.number().to_string()]).await?;
            self.version = version;
        }
        if self.database != database {
            self.ask(&["SELECT", &database.to_string()]).await?;
            self.database = database;
        }
        Ok(())
    }

    /// Sends one command.
    pub(super) async fn tell<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Result<(), AskFault> {
        let mut request = BytesMut::new();
        wire::encode_command(&mut request, words);
        self.stream.write_all(&request).await?;
        self.stream.flush().await?;
        Ok(())
    }

    async fn answer(&mut self, bytes_max: usize) -> Result<Bytes, AskFault> {
        loop {
            let frame = self.frame(bytes_max).await?;
            // A push answers nothing.
            if frame.first() != Some(&b'>') {
                return Ok(frame);
            }
        }
    }

    /// The next frame, whatever it is.
    ///
    /// # Cancel safety
    /// Safe: what has been read is looked at again.
    pub(super) async fn frame(&mut self, bytes_max: usize) -> Result<Bytes, AskFault> {
        let mut scanner = Scanner::default();
        loop {
            if let Some(frame) = scanner.scan(&self.input)? {
                return Ok(self.input.split_to(frame.end).freeze());
            }
            if self.input.len() > bytes_max {
                return Err(AskFault::TooLong);
            }
            self.input.reserve(ANSWER_BYTES);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(AskFault::Closed);
            }
        }
    }
}

impl pool::Upstream for Upstream {
    fn is_open(&mut self) -> bool {
        let is_over = self.reign.as_ref().is_some_and(|reign| reign.is_over());
        // An unasked-for byte would be taken for the next user's reply.
        !is_over && !self.input.has_remaining() && self.stream.is_quiet()
    }

    async fn reset(&mut self) -> Result<(), String> {
        match self.ask(&["DISCARD"]).await {
            Ok(_) | Err(AskFault::Refused(_)) => {}
            Err(fault) => return Err(fault.to_string()),
        }
        self.ask(&["UNWATCH"])
            .await
            .map_err(|fault| fault.to_string())?;
        Ok(())
    }

    async fn close(mut self) {
        // Closing is the goodbye; a server that hangs is not waited for beyond the pool's bound.
        if let Err(error) = self.stream.shutdown().await {
            tracing::trace!(%error, "upstream was closed already");
        }
    }
}
