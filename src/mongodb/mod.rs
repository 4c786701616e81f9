//! MongoDB: every request a unit, the gateway one mongos to its drivers.
//!
//! The rooms are those of every protocol; besides, `hello` answers what drivers ask first and their
//! monitors for ever, `topology` is what the gateway says of itself, `commands` the table that
//! `policy` judges by, `answers` the small commands that need no server, `plan` what is changed in a
//! request on its way, `preference` where a client wants to read, `servers` a tenant's servers and which one a
//! request goes to, `lending` how it comes by an upstream there, `cursors` whose a cursor is, `transactions` which nobody goes on with, `reply` what is changed in what comes back, `repeat` what is sent again because a server refused it for no longer being primary, `aftermath` what a vanished client
//! leaves behind, `ending` what ends a session from outside, `sessions` whose session ids are whose, `echoes` the ids of them that
//! come back, `deadline` what is left of a command's
//! time, `room` how much of large commands is here at once, and `intake` and `outlet` the two ends of
//! a socket.
//!
//! Cursors, sessions and transactions need no connection of their own on the server, so none is ever
//! pinned: a lease lasts for one request and its reply.

mod aftermath;
mod answers;
mod commands;
mod cursors;
mod deadline;
mod echoes;
mod ending;
mod exchange;
mod hello;
mod intake;
mod lending;
mod login;
mod outlet;
mod plan;
mod policy;
mod preference;
mod refusal;
mod repeat;
mod reply;
mod room;
mod servers;
mod service;
mod session;
mod sessions;
mod topology;
mod transactions;
mod upstream;
mod wire;

pub use service::{Parts, Service, Settings};
pub use upstream::{Dialer, Names, Upstream, probe};
