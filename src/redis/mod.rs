//! Redis: many clients over few upstreams, each with the connection state that is its own.
//!
//! The rooms are those of every protocol: `wire`, `login`, `session`, `exchange`, `upstream`,
//! `policy`, `refusal`. Redis' own: `trunk` (shared pipelined upstreams), `subscriptions` (one upstream
//! for all subscribers), `blocking` (clients that wait for the same), `outbox` (what is on its way to a client), `presence`
//! (what clients see of each other), `redirect` (invalidations for another client), `pause` (writes that the server holds back), `commands` (the table of what each command needs), `cluster` (many nodes that look
//! like one server), `station` (what the clients of one tenant share), `service` and `settings`. No pool accounting and no
//! registry here.

mod blocking;
mod cluster;
mod commands;
mod exchange;
mod login;
mod outbox;
mod pause;
mod policy;
mod presence;
mod redirect;
mod refusal;
mod service;
mod session;
mod settings;
mod station;
mod subscriptions;
mod trunk;
mod upstream;
mod wire;

pub use commands::TableFault;
pub use service::{Parts, Service};
pub use settings::Settings;
pub use upstream::{Dialer, Upstream, probe};
