//! polypool: one gateway in front of PostgreSQL, Redis and MongoDB.
//!
//! The modules in the order in which a byte meets them; `ARCHITECTURE.md` walks the way of one for
//! each protocol. Layers import strictly downward, which `tests/tidy.rs` holds.

pub mod net;

pub mod session;

pub mod postgres;
pub mod redis;

pub mod mongodb;

pub mod auth;
pub mod registry;

pub mod tenant;

pub mod crypto;

pub mod pool;

pub mod admin;
pub mod cli;
pub mod config;
pub mod gateway;

pub mod telemetry;

pub mod fault;
pub mod protocol;
pub mod shutdown;
pub mod signal;
