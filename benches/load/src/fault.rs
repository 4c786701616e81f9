//! What can go wrong in a run. A fault of set-up ends the program; a fault in the loop is counted.

use std::io;

/// Everything that makes a request, or the whole run, fail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The socket failed or was closed by the other side.
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    /// The bytes that arrived are no reply to what was asked.
    #[error("wire: {0}")]
    Wire(String),
    /// A document in a reply, or one of ours, is no BSON.
    #[error("bson: {0}")]
    Bson(String),
    /// The server answered with an error.
    #[error("server: code {code}: {message}")]
    Server {
        /// The server's error code.
        code: i32,
        /// The server's own words.
        message: String,
    },
    /// The reply is well formed and `ok`, but not what the operation must return.
    #[error("answer: {0}")]
    Answer(String),
    /// The login did not end as SCRAM demands.
    #[error("login: {0}")]
    Login(String),
}
