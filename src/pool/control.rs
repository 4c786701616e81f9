//! A pool as operators see it: its counts, and what they may ask of it.

use super::{Dial, Pool, PoolStats, core::Core, shell::Part};

/// What stands for the server of a pool of one beside a tenant's own.
const ASIDE: &str = "aside";

impl<D: Dial> Pool<D> {
    /// The counts of this moment.
    pub fn stats(&self) -> PoolStats {
        let tenant = self.tenant();
        let core = self.core.lock();
        PoolStats {
            tenant: tenant.id,
            slug: tenant.slug.clone(),
            project: tenant.project.clone(),
            server: match &self.part {
                Part::Whole => None,
                Part::Server(server) => Some(server.to_string()),
                Part::Aside => Some(ASIDE.to_owned()),
            },
            idle: core.idle(),
            leased: core.leased(),
            dialing: core.dialing(),
            resetting: core.resetting(),
            waiting: core.waiting(),
            max: core.max(),
            leases: core.leases(),
            paused: core.is_paused(),
            fault: core.fault().map(ToString::to_string),
        }
    }

    /// How much it is in use: upstreams, and who waits for one.
    pub fn busy(&self) -> usize {
        let core = self.core.lock();
        core.leased() + core.waiting()
    }

    /// Holds back new leases; those in use go on.
    pub fn pause(&self) {
        self.step(|core, now, orders| core.pause(true, now, orders));
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.step(|core, now, orders| core.pause(false, now, orders));
    }

    /// What was heard elsewhere says that the way is open again: an outage is not waited out.
    pub fn reopen(&self) {
        self.step(Core::reopen);
    }

    /// Closes every upstream there is, now or when it comes back; new ones are opened as needed.
    pub fn reconnect(&self) {
        self.step(Core::renew);
    }
}
