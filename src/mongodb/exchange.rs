//! One request and its reply: a lease, the bytes there, the bytes back.
//!
//! Ids and bytes pass untouched, for an upstream serves one request at a time. Small messages cross
//! in one read and one write each way; large ones stream through a bounded buffer.

use std::{future::poll_fn, io, pin::pin, sync::Arc, task::Poll, time::Duration};

use bson::rawdoc;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    aftermath,
    ending::Ending,
    lending::Loan,
    outlet,
    plan::Plan,
    refusal::ErrorReply,
    repeat::Refused,
    reply::{self, CursorTail, Incoming},
    servers::{Server, Version},
    session::{Flow, Session},
    upstream::{Dialer, Era, ServerKind, converse},
    wire::{Compressor, Header, bears_checksum, pack, pack_reply, renew_checksum},
};
use crate::{
    fault::{Effect, FaultKind, Refusal, Side},
    net::Stream,
    pool::{CloseReason, Lease, Residue},
    telemetry::SessionEnd,
};

/// Bytes of buffer that an idle upstream keeps.
const UPSTREAM_KEPT_BYTES: usize = 16 * 1024;
/// Larger messages are passed on as they are, because compressing them needs all of them at hand.
const PACKED_BYTES_MAX: usize = 256 * 1024;
/// How long an upstream may stand still in the middle of a reply.
const STALL_MAX: Duration = Duration::from_secs(30);

/// How the sending of a request ended.
enum Sent {
    /// All of it is with the upstream.
    All,
    /// The upstream failed before it had all of it, so it cannot have run.
    Failed,
}

impl Session {
    /// Passes one request on, and its reply back.
    pub(super) async fn exchange(&mut self, mut plan: Plan) -> Flow {
        plan.edit(self.intake.pending_mut());
        let cursor_server = plan.cursor_server();
        let mut turn = match &cursor_server {
            Some(server) if plan.waits() => {
                Some(Box::pin(self.take_turn(&mut plan, server)).await?)
            }
            _ => None,
        };
        self.pin(&mut plan);
        loop {
            let Some(mut loan) = self.dispatch(&mut plan).await? else {
                return Flow::Continue(());
            };
            self.note_transaction(&plan, &loan.server);
            if !plan.wants_reply {
                return self.settle(&plan, loan.lease).await;
            }
            let upstream = &mut loan.lease.upstream;
            let whole_bytes_max = match self.reply_by {
                None => reply::WHOLE_BYTES_MAX,
                Some(_) => PACKED_BYTES_MAX,
            };
            let incoming =
                poll_fn(|context| reply::poll_incoming(context, upstream, whole_bytes_max));
            let incoming = self.attend(incoming).await;
            // Others may wait while this client is handed what came.
            drop(turn.take());
            return match incoming {
                Ok(Incoming::Whole(header)) => {
                    if let Some(refused) = self.deliver(&plan, loan, header).await?
                        && Box::pin(self.outlast(&mut plan, refused)).await?
                    {
                        continue;
                    }
                    Flow::Continue(())
                }
                Ok(Incoming::Large(header)) => Box::pin(self.stream(&plan, loan, header)).await,
                Ok(Incoming::Lost) => {
                    loan.lease.give_back(Residue::Broken(CloseReason::Lost));
                    Box::pin(self.lost_exchange(&mut plan, Effect::Unknown)).await
                }
                Ok(Incoming::Broken) => self.break_off(loan.lease),
                Err(interrupt) => {
                    let request = self.intake.pending().get(..plan.left_bytes());
                    aftermath::follow(&self.service.shutdown, &plan, request, loan.lease);
                    Flow::Break(interrupt.end())
                }
            };
        }
    }

    /// Sends the request to whom it has to go to; nothing, if it was refused here.
    async fn dispatch(&mut self, plan: &mut Plan) -> Flow<Option<Loan>> {
        let mut is_second = false;
        loop {
            let mut loan = match self.lend(plan).await? {
                Ok(loan) => loan,
                Err(error) => {
                    Box::pin(self.give_up(plan, &error)).await?;
                    return Flow::Continue(None);
                }
            };
            match self.pass_on(plan, &mut loan.lease).await? {
                Sent::All => return Flow::Continue(Some(loan)),
                Sent::Failed => loan.lease.give_back(Residue::Broken(CloseReason::Lost)),
            }
            // A pooled connection may have died unseen; it is replaced once.
            if is_second || plan.is_partly_gone() {
                Box::pin(self.lost_exchange(plan, Effect::None)).await?;
                return Flow::Continue(None);
            }
            is_second = true;
        }
    }

    /// Sends the request, streaming what has not arrived yet.
    async fn pass_on(&mut self, plan: &mut Plan, lease: &mut Lease<Dialer>) -> Flow<Sent> {
        if lease.upstream.kind == ServerKind::Standalone {
            let removed = plan.strip_retry_fields(self.intake.pending_mut());
            self.intake.consume(removed);
        }
        let packed = self.packed(plan, lease.upstream.compressor);
        let upstream = &mut lease.upstream.stream;
        if let Some(bytes) = packed.as_ref().or(plan.rewritten.as_ref()) {
            return Flow::Continue(sent(&outlet::write_all(upstream, bytes).await));
        }
        loop {
            let known = self.intake.pending();
            let left = plan.left_bytes();
            let here = known.get(..left.min(known.len())).unwrap_or_default();
            if outlet::write_all(upstream, here).await.is_err() {
                return Flow::Continue(Sent::Failed);
            }
            let count = here.len();
            if count == left {
                return Flow::Continue(Sent::All);
            }
            // Small requests stay until they are answered; of large ones what is sent is gone.
            self.intake.consume(count);
            plan.passed(count);
            self.read_more(plan.left_bytes()).await?;
        }
    }

    /// The request as an upstream that takes it compressed gets it; large ones stream as they are.
    fn packed(&self, plan: &Plan, compressor: Option<Compressor>) -> Option<Vec<u8>> {
        let compressor = compressor.filter(|_| plan.may_pack)?;
        let whole = match &plan.rewritten {
            Some(bytes) => bytes,
            None if plan.is_partly_gone() => return None,
            None => self.intake.pending().get(..plan.left_bytes())?,
        };
        (whole.len() <= PACKED_BYTES_MAX).then(|| pack(whole, compressor))?
    }

    /// Hands over a reply that is here whole; the upstream goes back before a slow client can
    /// make it wait. A refusal that need not be the client's is handed to the caller instead.
    async fn deliver(
        &mut self,
        plan: &Plan,
        loan: Loan,
        header: Header,
    ) -> Flow<Option<Box<Refused>>> {
        let Loan {
            server,
            mut lease,
            heard,
        } = loan;
        if header.response_to != plan.header.request_id {
            return self.break_off(lease);
        }
        let intake = &mut lease.upstream.intake;
        let bytes = intake
            .pending_mut()
            .get_mut(..header.length)
            .unwrap_or_default();
        let Ok(reading) = reply::mend(bytes, &header, &self.service.topology) else {
            return self.break_off(lease);
        };
        if let Some(servers) = self.echoing(plan)
            && servers.echoes.restore(bytes)
        {
            renew_checksum(bytes);
        }
        if let Some(change) = reading.change {
            // Of one that says no order another server has to show it. What a failpoint says is no news, for one, and
            // for the client to hear.
            let is_news = change.said.is_none_or(|said| said.is_after(heard));
            self.note_change(&server, change.said, &lease.upstream.era);
            if change.refuses && is_news && plan.may_repeat() {
                let reply = reading.anew.unwrap_or_else(|| bytes.to_vec());
                intake.consume(header.length);
                give_back(lease);
                let refused = Refused {
                    reply,
                    server,
                    said: change.said,
                };
                return Flow::Continue(Some(Box::new(refused)));
            }
        }
        self.note_cursor(plan, &server, reading.cursor, reading.code);
        let bytes = reading.anew.as_deref().unwrap_or(bytes);
        let packed = self
            .reply_by
            .and_then(|compressor| pack_reply(bytes, compressor));
        let bytes = packed.as_deref().unwrap_or(bytes);
        let written = outlet::write_now(&mut self.client, bytes).await;
        let rest = match &written {
            Ok(written) => bytes.get(*written..).unwrap_or_default().to_vec(),
            Err(_) => Vec::new(),
        };
        let read = self.finish_request(plan);
        self.count(read, header.length);
        intake.consume(header.length);
        give_back(lease);
        if written.is_err() || outlet::write_all(&mut self.client, &rest).await.is_err() {
            return Flow::Break(SessionEnd::Vanished);
        }
        Flow::Continue(None)
    }

    /// Hands over a large reply as it comes.
    async fn stream(&mut self, plan: &Plan, loan: Loan, header: Header) -> Flow {
        let Loan {
            server, mut lease, ..
        } = loan;
        if header.response_to != plan.header.request_id {
            return self.break_off(lease);
        }
        let mut rest = header.length;
        let known = lease.upstream.intake.pending();
        let mut tail = CursorTail::begin(known);
        // A checksum that follows them forbids other ids: it is not known before all has passed.
        let echoing = self.echoing(plan).filter(|_| !bears_checksum(known));
        let until = Instant::now() + self.service.settings.reply_wait_max;
        loop {
            let upstream = &mut lease.upstream;
            let known = upstream.intake.pending_mut();
            let length = rest.min(known.len());
            let here = known.get_mut(..length).unwrap_or_default();
            let count = match &echoing {
                Some(servers) => servers.echoes.restore_piece(here, length == rest),
                None => length,
            };
            let here = here.get(..count).unwrap_or_default();
            tail.pass(here);
            let handing_on = hand_on(&mut self.client, &mut self.ending, here);
            match timeout_at(until, handing_on).await {
                Ok(outcome) => outcome?,
                // Others wait for its upstream.
                Err(_) => return Flow::Break(SessionEnd::Limit),
            }
            upstream.intake.consume(count);
            rest -= count;
            if rest == 0 {
                break;
            }
            let fill = upstream.intake.fill(&mut upstream.stream, rest);
            match timeout(STALL_MAX, fill).await {
                Ok(Ok(count)) if count > 0 => {}
                // Half a reply is with the client: only a closed connection tells it so.
                _ => return Flow::Break(SessionEnd::UpstreamLost),
            }
        }
        self.note_cursor(plan, &server, tail.id(), 0);
        let read = self.finish_request(plan);
        self.count(read, header.length);
        give_back(lease);
        Flow::Continue(())
    }

    /// The server is not, or no longer, what it was taken for.
    fn note_change(&self, server: &Server, said: Option<Version>, era: &Era) {
        if server.endpoint.is_none() {
            era.end();
        } else if let Some(member) = &self.member {
            member.servers.suspect(server, said);
        }
    }

    /// Keeps the table of cursors: what a reply opened, went on with or closed.
    fn note_cursor(&self, plan: &Plan, server: &Arc<Server>, id: Option<i64>, code: i64) {
        let Some(member) = &self.member else {
            return;
        };
        let cursors = &member.servers.cursors;
        match (plan.cursor, id) {
            (Some(cursor), Some(0)) => cursors.close(cursor.id),
            (Some(cursor), None) if ErrorReply::is_cursor_gone(code) => cursors.close(cursor.id),
            (None, Some(opened)) if opened != 0 => {
                cursors.open(opened, &member.login, server, plan.opens);
            }
            _ => {}
        }
        for killed in &plan.killed {
            cursors.close(*killed);
        }
    }

    /// After a request without a reply: the answer to a ping proves that the server is through with
    /// it, so the client's next request cannot overtake it on another upstream.
    async fn settle(&mut self, plan: &Plan, mut lease: Lease<Dialer>) -> Flow {
        let read = self.finish_request(plan);
        self.count(read, 0);
        let ping = rawdoc! { "ping": 1, "$db": "admin" };
        let upstream = &mut lease.upstream;
        let asked = converse(&mut upstream.stream, &mut upstream.intake, &ping);
        match timeout(STALL_MAX, asked).await {
            Ok(Ok(_)) => give_back(lease),
            lost => {
                tracing::debug!(
                    timed_out = lost.is_err(),
                    "upstream lost after a write without reply"
                );
                lease.give_back(Residue::Broken(CloseReason::Lost));
            }
        }
        Flow::Continue(())
    }

    /// Takes what is left of the request off the intake; its size.
    pub(super) fn finish_request(&mut self, plan: &Plan) -> usize {
        self.intake.consume(plan.left_bytes());
        plan.header.length
    }

    /// The upstream was lost in the middle.
    async fn lost_exchange(&mut self, plan: &mut Plan, effect: Effect) -> Flow {
        let refusal = Refusal::UpstreamLost { effect };
        self.service.meters().fault(refusal.kind(), refusal.side());
        let error = ErrorReply::of(&refusal, plan.standing);
        match effect {
            Effect::None => self.give_up(plan, &error).await,
            Effect::Unknown => self.refuse_exchange(plan, &error).await,
        }
    }

    pub(super) async fn refuse_exchange(&mut self, plan: &Plan, error: &ErrorReply) -> Flow {
        self.skip(plan.left_bytes()).await?;
        if !plan.wants_reply {
            return Flow::Continue(());
        }
        self.refuse(plan.header.request_id, error).await
    }

    /// The upstream does not speak the protocol: nothing it said can be trusted.
    fn break_off<T>(&self, lease: Lease<Dialer>) -> Flow<T> {
        lease.give_back(Residue::Broken(CloseReason::ProtocolError));
        self.service
            .meters()
            .fault(FaultKind::Upstream, Side::Upstream);
        Flow::Break(SessionEnd::UpstreamLost)
    }
}

fn sent(outcome: &io::Result<()>) -> Sent {
    match outcome {
        Ok(()) => Sent::All,
        Err(_) => Sent::Failed,
    }
}

/// Writes to a client, which may take its time but not keep itself from being ended.
async fn hand_on(client: &mut Stream, ending: &mut Ending, bytes: &[u8]) -> Flow {
    let mut write = pin!(outlet::write_all(client, bytes));
    poll_fn(|context| match write.as_mut().poll(context) {
        Poll::Ready(Ok(())) => Poll::Ready(Flow::Continue(())),
        Poll::Ready(Err(_)) => Poll::Ready(Flow::Break(SessionEnd::Vanished)),
        Poll::Pending => ending.poll_busy(context).map(Flow::Break),
    })
    .await
}

/// Gives an upstream back whose reply was read to the end; bytes beyond it make it unusable.
pub(super) fn give_back(mut lease: Lease<Dialer>) {
    let intake = &mut lease.upstream.intake;
    let residue = if intake.pending().is_empty() {
        intake.release(UPSTREAM_KEPT_BYTES);
        Residue::Clean
    } else {
        Residue::Broken(CloseReason::ProtocolError)
    };
    lease.give_back(residue);
}
