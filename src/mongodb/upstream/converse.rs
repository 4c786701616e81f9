//! Commands that the gateway itself asks of an upstream.

use std::io;

use bson::{RawDocument, RawDocumentBuf};
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;

use super::super::{
    intake::Intake,
    wire::{
        Element, Elements, Header, MESSAGE_BYTES_MAX, Message, Opcode, WireFault, encode_message,
    },
};
use crate::net::Stream;

/// The number that the gateway's own requests bear.
const OWN_REQUEST: i32 = 0x706F_6F6C;

/// Why a command of ours got no good answer.
#[derive(Debug, Error)]
pub(crate) enum ConverseError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The answer is not MongoDB's protocol.
    #[error("the answer is not MongoDB's protocol: {0}")]
    Wire(#[from] WireFault),
    /// The server says no.
    #[error("{message} (code {code})")]
    Refused {
        /// The server's error code.
        code: i64,
        /// The server's words.
        message: String,
    },
}

/// A server's good answer.
#[derive(Debug)]
pub(crate) struct Answer(RawDocumentBuf);

impl Answer {
    /// A top-level field.
    pub(crate) fn field(&self, name: &str) -> Option<Element<'_>> {
        find(self.0.as_bytes(), name)
    }
}

/// Sends one command, and reads its reply whole.
///
/// # Cancel safety
/// Not safe: the connection must be closed when this is dropped in the middle.
pub(crate) async fn converse(
    stream: &mut Stream,
    intake: &mut Intake,
    command: &RawDocument,
) -> Result<Answer, ConverseError> {
    let mut request = Vec::new();
    encode_message(&mut request, OWN_REQUEST, 0, 0, command.as_bytes());
    stream.write_all(&request).await?;
    stream.flush().await?;
    let header = loop {
        let header = Header::parse(intake.pending(), MESSAGE_BYTES_MAX)?;
        let missing = header.map_or(0, |header| {
            header.length.saturating_sub(intake.pending().len())
        });
        if let Some(header) = header
            && missing == 0
        {
            break header;
        }
        if intake.fill(stream, missing).await? == 0 {
            return Err(ConverseError::Closed);
        }
    };
    let reply = intake.pending().get(..header.length).unwrap_or_default();
    let answer = answer_of(reply, &header);
    intake.consume(header.length);
    answer
}

fn answer_of(reply: &[u8], header: &Header) -> Result<Answer, ConverseError> {
    if header.opcode != Opcode::Message || header.response_to != OWN_REQUEST {
        return Err(WireFault::Layout("not the reply to our request").into());
    }
    let body = Message::reply_body(reply, header)?;
    let is_ok = find(body, "ok").is_some_and(|ok| ok.truth());
    if !is_ok {
        let code = find(body, "code").and_then(|code| code.integer());
        let message = find(body, "errmsg").and_then(|text| text.text().map(str::to_owned));
        return Err(ConverseError::Refused {
            code: code.unwrap_or_default(),
            message: message.unwrap_or_default(),
        });
    }
    let document = RawDocumentBuf::from_bytes(body.to_vec())
        .map_err(|_| WireFault::Bson("the reply's document is wrong"))?;
    Ok(Answer(document))
}

fn find<'a>(document: &'a [u8], name: &str) -> Option<Element<'a>> {
    Elements::new(document).ok()?.find(name.as_bytes())
}
