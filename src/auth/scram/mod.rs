//! SCRAM-SHA-256 (RFC 5802, RFC 7677) and SCRAM-SHA-1, both roles, without sockets.
//!
//! The messages are texts; how they are wrapped is each protocol's matter, and so is whether channel
//! binding (`-PLUS`) is offered: PostgreSQL does, over TLS.

mod client;
mod mechanism;
mod message;
mod server;

pub use client::{Client, Finish, Salted};
pub use mechanism::{Mechanism, Verifier};
pub use message::{Binding, ClientFirst, ScramError};
pub use server::Server;

#[cfg(test)]
mod tests;
