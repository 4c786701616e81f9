//! SCRAM-SHA-256 (RFC 5802, RFC 7677), both roles, without sockets.
//!
//! The messages are texts; how they are wrapped is each protocol's matter. Channel binding (`-PLUS`)
//! is not offered yet, so a client that says it would have used it (`y`) is right to go on.

mod client;
mod message;
mod server;

pub use client::{Client, Finish, Salted};
pub use message::{ClientFirst, ScramError};
pub use server::Server;

#[cfg(test)]
mod tests;
