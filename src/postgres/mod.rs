//! PostgreSQL clients and upstreams.

mod policy;
mod statement;
mod wire;
