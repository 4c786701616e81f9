//! How sessions end, and what becomes of the upstream then.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{Besides, Phase, Session};
use crate::{
    fault::Refusal,
    pool::{CloseReason, Residue},
    postgres::{
        cancel,
        exchange::{Act, Reply, Undo},
        refusal, wire,
    },
    telemetry::SessionEnd,
};

/// How long a client may take to read our last words.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);
/// How long an upstream may take to finish what a vanished client began.
const RECOVER_MAX: Duration = Duration::from_secs(3);

/// Why a session stops.
#[derive(Debug)]
pub(in crate::postgres) enum Stop {
    /// The client says goodbye.
    Goodbye,
    /// The client closed or was lost.
    Vanished,
    /// The client broke a rule.
    Refused(Refusal),
    /// The upstream refused to go on: what it said.
    Failed(Box<[u8]>),
    /// The upstream broke the protocol.
    Broken(Refusal),
    /// The upstream was lost.
    UpstreamLost,
    /// Somebody ended the session.
    Killed,
    /// The gateway is ending.
    Draining,
    /// Something took longer than it may.
    Overdue(Phase),
    /// The shared listener was lost: what the server said, if it did.
    Unheard(Option<Arc<[u8]>>),
    /// More notifications wait for the client than may.
    Flooded,
}

impl Session {
    /// Says the last words, and gives the upstream back as far as that can be done.
    pub(super) async fn end(mut self: Box<Self>, stop: Stop) -> SessionEnd {
        let midway = self.lease.is_some() && !self.exchange.is_quiet();
        self.last_words(&stop).await;
        match &stop {
            Stop::UpstreamLost => self.release(Residue::Broken(CloseReason::Lost)).await,
            Stop::Broken(_) => {
                self.release(Residue::Broken(CloseReason::ProtocolError))
                    .await;
            }
            Stop::Failed(_) => self.release(Residue::Broken(CloseReason::Dirty)).await,
            Stop::Goodbye
            | Stop::Vanished
            | Stop::Refused(_)
            | Stop::Killed
            | Stop::Draining
            | Stop::Unheard(_)
            | Stop::Flooded
            | Stop::Overdue(_) => {
                self.recover().await;
            }
        }
        let meters = self.service.meters();
        match stop {
            Stop::Vanished if midway => SessionEnd::Vanished,
            Stop::Goodbye | Stop::Vanished => SessionEnd::Goodbye,
            Stop::Refused(refusal) => {
                meters.fault(refusal.kind(), refusal.side());
                match refusal {
                    Refusal::FrameTooLarge { .. } => SessionEnd::Limit,
                    _ => SessionEnd::Malformed,
                }
            }
            Stop::Broken(refusal) => {
                meters.fault(refusal.kind(), crate::fault::Side::Upstream);
                SessionEnd::UpstreamLost
            }
            Stop::Failed(_) | Stop::UpstreamLost | Stop::Unheard(_) => SessionEnd::UpstreamLost,
            Stop::Flooded => SessionEnd::SlowReader,
            Stop::Overdue(_) => SessionEnd::Limit,
            Stop::Killed => SessionEnd::Killed,
            Stop::Draining => SessionEnd::Draining,
        }
    }

    async fn last_words(&mut self, stop: &Stop) {
        // Into the middle of a message nothing can be said.
        if self.reply.left == 0 {
            if let Some(lease) = &mut self.lease {
                lease.upstream.peer.inbound.settle(&mut self.client.out);
            }
            let lost = self.lost();
            let out = &mut self.client.out;
            match stop {
                Stop::Goodbye | Stop::Vanished => out.clear(),
                Stop::Refused(refused) => refusal::fatal(out, refused),
                Stop::Failed(said) => out.extend_from_slice(said),
                // After the server's own last words ours would be one too many.
                Stop::UpstreamLost if self.state.failure.is_some() => {}
                Stop::Broken(_) | Stop::UpstreamLost => refusal::fatal(out, &lost),
                Stop::Unheard(Some(said)) => out.extend_from_slice(said),
                Stop::Unheard(None) => refusal::unheard(out),
                Stop::Flooded => {
                    refusal::flooded(out, self.service.settings.notifications_bytes_max);
                }
                Stop::Overdue(phase) => refusal::overdue(out, *phase),
                Stop::Killed => refusal::terminated(out),
                Stop::Draining => refusal::fatal(out, &Refusal::Draining),
            }
        }
        drop(timeout(LAST_WORDS_MAX, self.client.flush()).await);
    }

    /// The client is gone: ends what it began, so that the upstream can be used again.
    async fn recover(&mut self) {
        if self.lease.is_none() {
            return;
        }
        if self.exchange.is_busy() {
            match timeout(RECOVER_MAX, self.finish()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    return self.release(Residue::Broken(CloseReason::Abandoned)).await;
                }
            }
        }
        // What the client half said cannot be taken back.
        let half_said = self.lease.as_ref().is_some_and(|lease| {
            self.request.left > 0
                || self.reply.left > 0
                || self.client.inbound.passed() > 0
                || !lease.upstream.peer.out.is_empty()
        });
        let handing_over = self.ears.as_ref().is_some_and(|ears| ears.is_busy());
        let listens = handing_over || self.state.besides != Besides::Nothing;
        let clean = !self.has_open()
            && self.exchange.is_quiet()
            && self.pin().is_none()
            && !self.state.suspect
            && !self.state.weighing.sets
            && !listens;
        let residue = match (half_said, clean) {
            (true, _) => Residue::Broken(CloseReason::Abandoned),
            // No text makes the server forget what it has compiled.
            (false, _) if self.state.quotes.misread => Residue::Broken(CloseReason::Dirty),
            (false, true) => Residue::Clean,
            (false, false) => Residue::NeedsReset,
        };
        self.release(residue).await;
    }

    /// Cancels the query under way and reads to its end.
    async fn finish(&mut self) -> Result<(), Stop> {
        let Some(lease) = &mut self.lease else {
            return Ok(());
        };
        // Bytes of the client's that were not sent stay unsent.
        let partly_sent = self.request.left > 0
            || self.client.inbound.passed() > 0
            || !lease.upstream.peer.out.is_empty();
        cancel::send(&lease.upstream.cancel).await;
        if partly_sent {
            return Err(Stop::Vanished);
        }
        let upstream = &mut lease.upstream.peer;
        if self.exchange.copy_in() {
            wire::tagged(&mut upstream.out, b'f', |out| {
                out.extend_from_slice(b"client gone\0");
            });
            self.exchange.copy_done();
        }
        if self.exchange.is_unit_open() {
            wire::data(&mut upstream.out, b'S');
            self.exchange
                .expect(Reply::Sync, Act::Swallow, Undo::Nothing);
        }
        upstream.flush().await.map_err(|_| Stop::UpstreamLost)?;
        while self.exchange.is_busy() {
            self.digest_replies()?;
            self.client.out.clear();
            let Some(lease) = &mut self.lease else {
                return Ok(());
            };
            let upstream = &mut lease.upstream.peer;
            upstream.inbound.forget_passed();
            if self.exchange.is_busy() && !matches!(upstream.fill().await, Ok(1..)) {
                return Err(Stop::UpstreamLost);
            }
        }
        Ok(())
    }
}
