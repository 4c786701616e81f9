//! The nodes: their trunks, leases on them, and the map of slots, asked for anew when in doubt.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    NodeId,
    call::{Call, Redirect},
    lane::{self, Touched},
    map::{self, Map},
};
use crate::{
    fault::Refusal,
    pool::{CloseReason, Lease, Pool, Residue},
    redis::{
        settings::Settings,
        trunk::{self, Errand, Patience, Trunk},
        upstream::{Dialer, Reign},
    },
    shutdown::Shutdown,
    tenant::Endpoint,
};

/// Commands for a node that cannot be reached yet, in bytes; beyond, they are refused.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One tenant's cluster.
pub(in crate::redis) struct Cluster {
    pub(super) pool: Arc<Pool<Dialer>>,
    dialer: Dialer,
    pub(super) shutdown: Shutdown,
    patience: Patience,
    pub(super) map: Mutex<Map>,
    pub(super) nodes: Mutex<HashMap<NodeId, Arc<Node>>>,
    /// Somebody doubts the map.
    pub(super) doubt: Arc<Notify>,
    /// The map was asked for; the last failure, if it could not be had.
    pub(super) refreshed: Notify,
    pub(super) fault: Mutex<Option<Refusal>>,
    /// Which master is asked next.
    turn: Mutex<usize>,
    /// Connections that the tenant may have.
    upstream_max: usize,
    /// Somebody looks after the map.
    pub(super) is_running: Mutex<bool>,
    /// Something was sent since it was last looked at.
    pub(super) is_used: AtomicBool,
    pub(super) server: Mutex<Arc<str>>,
}

/// One node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) endpoint: Endpoint,
    pub(super) state: Mutex<NodeState>,
}

pub(super) struct NodeState {
    pub(super) trunk: Option<Arc<Trunk>>,
    is_opening: bool,
    waiting: VecDeque<Errand>,
    waiting_bytes: usize,
    /// For as long as it is a master with slots.
    pub(super) reign: Arc<Reign>,
}

impl Cluster {
    pub(in crate::redis) fn new(
        pool: Arc<Pool<Dialer>>,
        dialer: Dialer,
        settings: &Settings,
        shutdown: Shutdown,
    ) -> Arc<Self> {
        Arc::new(Self {
            dialer,
            shutdown,
            patience: Patience::of(settings),
            map: Mutex::default(),
            nodes: Mutex::default(),
            doubt: Arc::default(),
            refreshed: Notify::new(),
            upstream_max: pool.tenant().limits.upstream_max,
            turn: Mutex::new(0),
            fault: Mutex::new(None),
            is_running: Mutex::new(false),
            is_used: AtomicBool::new(true),
            server: Mutex::new(Arc::from("")),
            pool,
        })
    }

    /// Whether it is known where the slots are.
    pub(in crate::redis) fn is_known(&self) -> bool {
        let map = self.map.lock();
        map.is_known() && map.masters < self.upstream_max
    }

    /// How many masters there are.
    pub(in crate::redis) fn count(&self) -> usize {
        let nodes = self.nodes.lock();
        let open = |node: &&Arc<Node>| {
            node.state
                .lock()
                .trunk
                .as_ref()
                .is_some_and(|trunk| !trunk.is_closed())
        };
        nodes.values().filter(open).count()
    }

    /// Waits until it is known where the slots are.
    pub(in crate::redis) async fn known(self: &Arc<Self>) -> Result<(), Refusal> {
        loop {
            let refreshed = self.refreshed.notified();
            if self.is_known() {
                return Ok(());
            }
            *self.fault.lock() = None;
            self.doubt();
            refreshed.await;
            if let Some(fault) = self.fault.lock().clone() {
                return Err(fault);
            }
            let (masters, max) = (self.map.lock().masters, self.upstream_max);
            if masters >= max {
                // One for each, and one for whatever needs one for itself.
                return Err(Refusal::UpstreamDown {
                    cause: format!(
                        "the cluster has {masters} masters, for which {max} connections are too few"
                    ),
                });
            }
        }
    }

    /// The servers' version, empty while none has been reached.
    pub(in crate::redis) fn server(&self) -> Arc<str> {
        Arc::clone(&self.server.lock())
    }

    /// Has the map asked for anew.
    pub(in crate::redis) fn doubt(self: &Arc<Self>) {
        self.doubt.notify_one();
        self.note_use();
        if !std::mem::replace(&mut *self.is_running.lock(), true) {
            let cluster = Arc::clone(self);
            self.shutdown.spawn("redis-cluster", async move {
                let until = cluster.shutdown.clone();
                tokio::select! {
                    () = until.draining() => {}
                    () = cluster.look_after() => {}
                }
            });
        }
    }

    /// Notes that somebody uses it.
    pub(super) fn note_use(&self) {
        self.is_used.store(true, Ordering::Relaxed);
    }

    /// The master of a slot, or any.
    pub(in crate::redis) fn owner(&self, slot: Option<u16>) -> Option<NodeId> {
        let map = self.map.lock();
        match slot {
            Some(slot) => map.owner(slot),
            None => map.masters().first().copied(),
        }
    }

    /// Every master.
    pub(in crate::redis) fn masters(&self) -> Vec<NodeId> {
        self.map.lock().masters().into_iter().collect()
    }

    /// Whether a node has as much to do as it may.
    pub(super) fn is_crowded(&self, node: NodeId) -> bool {
        let node = self.node(node);
        let state = node.state.lock();
        state.waiting_bytes > WAITING_BYTES_MAX
            || state.trunk.as_ref().is_some_and(|trunk| trunk.is_full())
    }

    /// Where an error reply of a node leads to.
    pub(super) fn redirect_in(self: &Arc<Self>, reply: &[u8], node: NodeId) -> Option<Redirect> {
        if !reply.starts_with(b"-") {
            return None;
        }
        if reply.starts_with(b"-CLUSTERDOWN") {
            self.doubt();
        }
        map::redirect(reply, &self.node(node).endpoint)
    }

    /// Has the next upstream opened at a master, each time at another.
    pub(super) fn want_any(&self) {
        let mut turn = self.turn.lock();
        *turn = turn.wrapping_add(1);
        let masters = self.masters();
        let at = *turn % masters.len().max(1);
        if let Some(master) = masters.get(at) {
            let tenant = self.pool.tenant().id;
            self.dialer.want(tenant, &self.node(*master).endpoint);
        }
    }

    /// Notes that a slot has moved, and that others may have.
    pub(super) fn note_moved(self: &Arc<Self>, slot: u16, to: &Endpoint) -> NodeId {
        let node = {
            let mut map = self.map.lock();
            let node = map.node(to);
            map.moved(slot, node);
            node
        };
        self.doubt();
        node
    }

    /// Notes a redirection that came on a lease. False: the reply is none.
    pub(in crate::redis) fn note_redirect(self: &Arc<Self>, reply: &[u8]) -> bool {
        let nowhere = Endpoint {
            host: String::new(),
            port: 0,
        };
        match map::redirect(reply, &nowhere) {
            None => false,
            Some(Redirect::Moved(slot, to)) if !to.host.is_empty() => {
                self.note_moved(slot, &to);
                true
            }
            Some(_) => {
                self.doubt();
                true
            }
        }
    }

    /// The node that an error reply of another leads to; `None`: it leads nowhere.
    pub(in crate::redis) fn follow(self: &Arc<Self>, reply: &[u8], from: NodeId) -> Option<NodeId> {
        match self.redirect_in(reply, from)? {
            Redirect::Moved(slot, to) => Some(self.note_moved(slot, &to)),
            Redirect::Ask(_) => None,
        }
    }

    pub(super) fn node_at(&self, endpoint: &Endpoint) -> NodeId {
        self.map.lock().node(endpoint)
    }

    /// Sends a call to a node, in its turn behind what was sent there before.
    pub(super) fn send(self: &Arc<Self>, call: Call, to: NodeId, asking: bool) {
        let node = self.node(to);
        let errand = call.errand(to, asking);
        let mut state = node.state.lock();
        let carried = match &state.trunk {
            Some(trunk) if state.waiting.is_empty() => trunk.carry(errand),
            _ => Err(errand),
        };
        let Err(errand) = carried else {
            return;
        };
        state.trunk = None;
        state.waiting_bytes += errand.bytes.len();
        state.waiting.push_back(errand);
        if !std::mem::replace(&mut state.is_opening, true) {
            let (cluster, node) = (Arc::clone(self), Arc::clone(&node));
            self.shutdown.spawn("redis-cluster-node", async move {
                cluster.open(&node).await;
            });
        }
    }

    /// An upstream at the master of a slot, or at any node.
    pub(in crate::redis) async fn lease(
        self: &Arc<Self>,
        slot: Option<u16>,
    ) -> Result<Lease<Dialer>, Refusal> {
        self.known().await?;
        self.note_use();
        let owner = self.owner(slot).ok_or_else(|| Refusal::UpstreamDown {
            cause: "no node of the cluster has this slot".into(),
        })?;
        self.lease_at(&self.node(owner)).await
    }

    /// An upstream at that node.
    pub(in crate::redis) async fn lease_on(
        self: &Arc<Self>,
        node: NodeId,
    ) -> Result<Lease<Dialer>, Refusal> {
        self.note_use();
        self.lease_at(&self.node(node)).await
    }

    async fn lease_at(self: &Arc<Self>, node: &Node) -> Result<Lease<Dialer>, Refusal> {
        self.dialer.want(self.pool.tenant().id, &node.endpoint);
        let mut lease = self.pool.lease().await.map_err(|error| error.refusal())?;
        let reign = Arc::clone(&node.state.lock().reign);
        if lease.upstream.endpoint.as_ref() != Some(&node.endpoint) {
            // A slot of the pool is good for any node: what it was used for is closed first.
            match self
                .dialer
                .move_to(&self.pool.tenant(), &mut lease.upstream, &node.endpoint)
                .await
            {
                Ok(()) => {}
                Err(fault) => {
                    lease.give_back(Residue::Broken(CloseReason::Lost));
                    self.doubt();
                    return Err(Refusal::UpstreamDown {
                        cause: fault.to_string(),
                    });
                }
            }
        }
        lease.upstream.reign = Some(reign);
        Ok(lease)
    }

    fn node(&self, id: NodeId) -> Arc<Node> {
        let mut nodes = self.nodes.lock();
        Arc::clone(nodes.entry(id).or_insert_with(|| {
            let map = self.map.lock();
            let endpoint = map.nodes.get(id.0).cloned().unwrap_or(Endpoint {
                host: String::new(),
                port: 0,
            });
            Arc::new(Node {
                id,
                state: Mutex::new(NodeState {
                    trunk: None,
                    is_opening: false,
                    waiting: VecDeque::new(),
                    waiting_bytes: 0,
                    reign: Arc::new(Reign::new(endpoint.clone(), Arc::clone(&self.doubt))),
                }),
                endpoint,
            })
        }))
    }

    /// Opens a node's trunk and sends what has waited for it.
    async fn open(self: &Arc<Self>, node: &Node) {
        loop {
            let lease = match self.lease_at(node).await {
                Ok(lease) => lease,
                Err(refusal) => return self.give_up(node, &refusal),
            };
            let trunk = trunk::open(
                lease,
                (self.patience, false),
                Arc::default(),
                &self.shutdown,
            );
            let mut state = node.state.lock();
            state.waiting_bytes = 0;
            while let Some(errand) = state.waiting.pop_front() {
                if let Err(errand) = trunk.carry(errand) {
                    state.waiting.push_front(errand);
                    break;
                }
            }
            if state.waiting.is_empty() {
                state.trunk = Some(trunk);
                state.is_opening = false;
                return;
            }
        }
    }

    fn give_up(self: &Arc<Self>, node: &Node, refusal: &Refusal) {
        let mut touched = Touched::new();
        let waiting = {
            let mut state = node.state.lock();
            state.is_opening = false;
            state.waiting_bytes = 0;
            std::mem::take(&mut state.waiting)
        };
        for mut errand in waiting {
            errand.recipient.refused(refusal, &mut touched);
        }
        lane::flush(touched);
        self.doubt();
    }
}
