//! A tenant whose database is a Redis cluster, served to clients that know nothing of clusters.
//!
//! `keys` says which slot a command is for, `map` which node has it, `call` carries the command there
//! and after it when the slot has moved, `lane` puts the replies of one client into the order of its
//! commands, `join` makes one reply of several, `once` asks for a client that can block no longer. Connections are counted by the tenant's pool as
//! always: one trunk for each master, one for subscriptions, the rest for leases.

mod call;
mod join;
mod keys;
mod lane;
mod map;
mod nodes;
mod once;
mod route;
mod upkeep;

pub(super) use keys::{slot, slot_of};
pub(super) use nodes::Cluster;
pub(super) use route::{Route, Routed, Wish};

/// A node of the cluster, for as long as the station lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(usize);

impl NodeId {
    /// That place in the map.
    #[cfg(test)]
    pub(super) const fn of(number: usize) -> Self {
        Self(number)
    }

    /// As a number that cursors can hold.
    const fn number(self) -> u64 {
        self.0 as u64
    }
}
