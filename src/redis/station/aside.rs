//! What a server takes while a script keeps it busy: the commands that end the script.

use bytes::Bytes;

use super::{Station, prepared};
use crate::{
    fault::{Effect, Refusal},
    pool::{CloseReason, Lease, Residue},
    redis::{upstream::Dialer, wire::Version},
};

impl Station {
    /// Asks a busy server what it takes nevertheless: on any database, and without a turn, which may be
    /// held by all those whom the script holds up. Of a cluster, each master until one has done it.
    pub(in crate::redis) async fn aside(
        &self,
        version: Version,
        command: &[u8],
    ) -> Result<Bytes, Refusal> {
        let Some(cluster) = &self.cluster else {
            if let Some((trunk, database)) = self.trunks.spare(version)
                && let Ok(answers) = trunk.converse(database, (command, 1))
            {
                return one(answers.await.ok());
            }
            let lease = self.pool.lease().await.map_err(|error| error.refusal())?;
            return ask_over(lease, version, command).await;
        };
        cluster.known().await?;
        let mut refused = None;
        for node in cluster.masters() {
            let lease = cluster.lease_on(node).await?;
            let reply = ask_over(lease, version, command).await?;
            if !reply.starts_with(b"-") {
                return Ok(reply);
            }
            refused.get_or_insert(reply);
        }
        one(Some(refused.into_iter().collect()))
    }
}

/// Asks over an upstream on the database that it is on.
async fn ask_over(
    lease: Lease<Dialer>,
    version: Version,
    command: &[u8],
) -> Result<Bytes, Refusal> {
    let database = lease.upstream.database;
    let mut lease = prepared(lease, version, database).await?;
    let replies = lease.upstream.converse(command, 1).await;
    lease.give_back(match &replies {
        Ok(_) => Residue::Clean,
        Err(_) => Residue::Broken(CloseReason::Lost),
    });
    one(replies.ok())
}

/// The reply, if it has come.
fn one(replies: Option<Vec<Bytes>>) -> Result<Bytes, Refusal> {
    let reply = replies.and_then(|mut replies| replies.pop());
    reply.ok_or(Refusal::UpstreamLost {
        effect: Effect::Unknown,
    })
}
