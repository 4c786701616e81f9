//! The map of slots, asked for anew when somebody doubts it, and now and then.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{
    Cluster,
    call::{Call, Sink},
    nodes::Node,
};
use crate::{
    fault::Refusal,
    pool::{CloseReason, Residue},
    redis::{
        upstream::Reign,
        wire::{Value, Version},
    },
    tenant::Endpoint,
};

/// How long a node may take to say where the slots are.
const ASK_MAX: Duration = Duration::from_secs(1);
/// How long the pool may take to lend an upstream for the question.
const LEASE_MAX: Duration = Duration::from_secs(5);
/// How often the map is asked for while nothing calls for it.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// How often it is asked for at most.
const REFRESH_PAUSE: Duration = Duration::from_millis(200);
/// The question that all nodes answer alike.
const SLOTS_QUESTION: &[u8] = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n";

impl Cluster {
    /// Keeps the map up to date as long as the cluster is used.
    pub(super) async fn look_after(self: &Arc<Self>) {
        loop {
            let is_doubted = timeout(REFRESH_EVERY, self.doubt.notified()).await.is_ok();
            if !is_doubted && !self.is_used.swap(false, Ordering::Relaxed) {
                // Not asked for: that alone would keep the trunks open.
                if self.count() > 0 {
                    continue;
                }
                *self.is_running.lock() = false;
                return;
            }
            let outcome = self.refresh().await;
            *self.fault.lock() = outcome.err();
            self.refreshed.notify_waiters();
            sleep(REFRESH_PAUSE).await;
        }
    }

    async fn refresh(self: &Arc<Self>) -> Result<(), Refusal> {
        // Nodes with a trunk first: they can be asked even when the pool has nothing left.
        let mut open: Vec<Arc<Node>> = self.nodes.lock().values().map(Arc::clone).collect();
        open.retain(|node| {
            node.state
                .lock()
                .trunk
                .as_ref()
                .is_some_and(|trunk| !trunk.is_closed())
        });
        for node in open {
            if let Some(value) = self.ask_slots(&node).await
                && self.adopt(&value, &node.endpoint)
            {
                return Ok(());
            }
        }
        self.want_any();
        let lease = timeout(LEASE_MAX, self.pool.lease()).await;
        let mut lease = lease
            .map_err(|_| Refusal::TimedOut {
                what: "cluster map",
            })?
            .map_err(|error| error.refusal())?;
        let question = ["CLUSTER", "SLOTS"];
        let answer = timeout(ASK_MAX, lease.upstream.ask(&question)).await;
        let asked = lease.upstream.endpoint.clone();
        if let (Ok(Ok(reply)), Some(asked)) = (&answer, asked) {
            *self.server.lock() = Arc::clone(&lease.upstream.server);
            let value = Value::read(reply);
            lease.give_back(Residue::Clean);
            if value.is_some_and(|value| self.adopt(&value, &asked)) {
                return Ok(());
            }
            return Err(Refusal::UpstreamDown {
                cause: "the node knows of no slots".into(),
            });
        }
        lease.give_back(Residue::Broken(CloseReason::Lost));
        Err(Refusal::UpstreamDown {
            cause: match answer {
                Ok(Err(fault)) => fault.to_string(),
                _ => "a node does not say where the slots are".into(),
            },
        })
    }

    async fn ask_slots(self: &Arc<Self>, node: &Node) -> Option<Value> {
        let (answered, answer) = oneshot::channel();
        let call = Call {
            cluster: Arc::clone(self),
            bytes: SLOTS_QUESTION.into(),
            replies: 1,
            version: Version::Resp3,
            slot: None,
            sink: Sink::Own(Some(answered)),
            redirects: 0,
            count: None,
        };
        self.send(call, node.id, false);
        let reply = timeout(ASK_MAX, answer).await.ok()?.ok()?;
        Value::read(&reply)
    }

    /// Takes over a map; masters that are none any longer end their reign.
    fn adopt(&self, reply: &Value, asked: &Endpoint) -> bool {
        let masters = {
            let mut map = self.map.lock();
            if !map.adopt(reply, asked) {
                return false;
            }
            map.masters()
        };
        let nodes: Vec<Arc<Node>> = self.nodes.lock().values().map(Arc::clone).collect();
        for node in nodes {
            if !masters.contains(&node.id) {
                let fresh = Arc::new(Reign::new(node.endpoint.clone(), Arc::clone(&self.doubt)));
                let ended = std::mem::replace(&mut node.state.lock().reign, fresh);
                ended.end();
            }
        }
        true
    }
}
