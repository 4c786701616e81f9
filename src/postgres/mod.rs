//! PostgreSQL clients and upstreams.
//!
//! The rooms that every protocol has: `wire` (bytes), `login`, `session` (one client's life),
//! `exchange` (the account of what was asked and answered), `upstream` (dialling, cleaning,
//! closing), `policy` (roles), `refusal` (the only speller of SQLSTATEs), `service` (what the
//! gateway starts). And PostgreSQL's own: `flow` (a socket and its buffers), `prepared` (statements
//! over changing upstreams), `named` (those of one client) and `held` (those that one upstream has),
//! `statement` (what a text may do to its session), `settings` (what a session holds), `tenancy` (what the sessions of a tenant
//! share), `servers` (which of several) and `rank` (what one of them is), `routines` (what the database's functions do to sessions), `listen` (LISTEN for many clients by one upstream), `console` (the database `polypool`), `cancel` (keys ours and theirs).

mod cancel;
mod console;
mod exchange;
mod flow;
mod held;
mod listen;
mod login;
mod named;
mod policy;
mod prepared;
mod rank;
mod refusal;
mod routines;
mod servers;
mod service;
mod session;
mod settings;
mod statement;
mod tenancy;
mod upstream;
mod wire;

pub use console::{Action, Operator, PoolView, Reply};
pub use service::{Parts, Service, Settings};
pub use upstream::{Dialer, Upstream, probe};
