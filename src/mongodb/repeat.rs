//! Requests that are sent again, because a server refused them for no longer being what it was.
//!
//! A router of a sharded cluster does so too, and as often. It is safe for reads, of which nothing was handed on, and for
//! writes that bear a number, which a set runs once however often they are sent. Drivers try again by themselves, but
//! once only, and not where the refusal is inside a reply that is good as a whole.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::{
    deadline::Deadline,
    outlet,
    plan::Plan,
    refusal::ErrorReply,
    servers::{Server, Version},
    session::{Flow, Session},
    wire::pack_reply,
};
use crate::telemetry::SessionEnd;

/// How often one request is sent again.
pub(super) const REPEATS_MAX: u8 = 3;

/// A reply that need not be the client's, if there is another server.
pub(super) struct Refused {
    /// The reply, fit to be handed on.
    pub(super) reply: Vec<u8>,
    /// Whose it is.
    pub(super) server: Arc<Server>,
    /// The order of its word, if it bears one.
    pub(super) said: Option<Version>,
}

impl Session {
    /// Waits for a server that will not refuse the request; false: the refusal is with the client.
    pub(super) async fn outlast(&mut self, plan: &mut Plan, refused: Box<Refused>) -> Flow<bool> {
        let Some(member) = &self.member else {
            return Flow::Break(SessionEnd::LoginFailed);
        };
        let servers = Arc::clone(&member.servers);
        let until = plan.deadline.as_deref().and_then(Deadline::at);
        let waiting = servers.outlast(&plan.route, &refused.server, refused.said);
        let is_over = match self.attend(in_time(until, waiting)).await {
            Ok(is_over) => is_over,
            Err(interrupt) => return Flow::Break(interrupt.end()),
        };
        if !is_over {
            self.hand_on(plan, &refused.reply).await?;
            return Flow::Continue(false);
        }
        tracing::debug!(peer = %self.client.peer(), "request sent again: its server was no longer primary");
        if let Some(deadline) = &plan.deadline {
            let message = self.intake.pending_mut();
            deadline.lower(plan.rewritten.as_deref_mut().unwrap_or(message));
        }
        plan.repeats += 1;
        plan.refused = Some(refused);
        Flow::Continue(true)
    }

    /// Nobody could be asked. What a server has answered before is more than we can say.
    pub(super) async fn give_up(&mut self, plan: &mut Plan, error: &ErrorReply) -> Flow {
        match plan.refused.take() {
            Some(refused) => self.hand_on(plan, &refused.reply).await,
            None => self.refuse_exchange(plan, error).await,
        }
    }

    async fn hand_on(&mut self, plan: &Plan, reply: &[u8]) -> Flow {
        let packed = self
            .reply_by
            .and_then(|compressor| pack_reply(reply, compressor));
        let read = self.finish_request(plan);
        self.count(read, reply.len());
        let bytes = packed.as_deref().unwrap_or(reply);
        match outlet::write_all(&mut self.client, bytes).await {
            Ok(()) => Flow::Continue(()),
            Err(_) => Flow::Break(SessionEnd::Vanished),
        }
    }
}

/// Whether it came true, within the time that the client gave.
async fn in_time(until: Option<Instant>, waiting: impl Future<Output = bool>) -> bool {
    match until {
        None => waiting.await,
        Some(until) => timeout_at(until, waiting).await.unwrap_or(false),
    }
}
