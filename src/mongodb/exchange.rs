//! One request and its reply: a lease, the bytes there, the bytes back.
//!
//! Ids and bytes pass untouched, for an upstream serves one request at a time. Small messages cross
//! in one read and one write each way; large ones stream through a bounded buffer.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use bson::rawdoc;
use tokio::time::timeout;

use super::{
    aftermath,
    ending::Ending,
    intake::Intake,
    outlet,
    plan::Plan,
    refusal::ErrorReply,
    reply::{self, Incoming, Mended},
    session::{Flow, Session},
    upstream::{Dialer, ServerKind, converse},
    wire::Header,
};
use crate::{
    fault::{Effect, FaultKind, Refusal, Side},
    net::Stream,
    pool::{CheckoutError, CloseReason, Lease, Residue},
    telemetry::SessionEnd,
};

/// Bytes that a client may send ahead while it waits for a reply.
const AHEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of buffer that an idle upstream keeps.
const UPSTREAM_KEPT_BYTES: usize = 16 * 1024;
/// How long an upstream may stand still in the middle of a reply.
const STALL_MAX: Duration = Duration::from_secs(30);

/// What a wait ended with, besides what was waited for.
enum Interrupt {
    /// The client is gone.
    Gone,
    /// The session has to end.
    Ended(SessionEnd),
}

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
        plan.edit(self.intake.pending_mut(), self.service.settings.await_max);
        let mut is_second = false;
        let mut lease = loop {
            let mut lease = match self.lease().await? {
                Ok(lease) => lease,
                Err(error) => return Box::pin(self.refuse_exchange(&plan, &error.refusal())).await,
            };
            match self.pass_on(&mut plan, &mut lease).await? {
                Sent::All => break lease,
                Sent::Failed => lease.give_back(Residue::Broken(CloseReason::Lost)),
            }
            // A pooled connection may have died unseen; it is replaced once.
            if is_second || plan.is_partly_gone() {
                let refusal = Refusal::UpstreamLost {
                    effect: Effect::None,
                };
                return Box::pin(self.refuse_exchange(&plan, &refusal)).await;
            }
            is_second = true;
        };
        if !plan.wants_reply {
            return self.settle(&plan, lease).await;
        }
        match self.incoming(&mut lease).await {
            Ok(Incoming::Whole(header)) => self.deliver(&plan, lease, header).await,
            Ok(Incoming::Large(header)) => Box::pin(self.stream(&plan, lease, header)).await,
            Ok(Incoming::Lost) => {
                lease.give_back(Residue::Broken(CloseReason::Lost));
                let refusal = Refusal::UpstreamLost {
                    effect: Effect::Unknown,
                };
                Box::pin(self.refuse_exchange(&plan, &refusal)).await
            }
            Ok(Incoming::Broken) => self.break_off(lease),
            Err(interrupt) => {
                let request = self.intake.pending().get(..plan.left_bytes());
                aftermath::follow(&self.service.shutdown, &plan, request, lease);
                Flow::Break(match interrupt {
                    Interrupt::Gone => SessionEnd::Vanished,
                    Interrupt::Ended(end) => end,
                })
            }
        }
    }

    /// An upstream, or why there is none; ends when the client leaves the line.
    async fn lease(&mut self) -> Flow<Result<Lease<Dialer>, CheckoutError>> {
        let Self {
            member,
            client,
            intake,
            ending,
            ..
        } = self;
        let Some(member) = member else {
            return Flow::Break(SessionEnd::LoginFailed);
        };
        if let Some(lease) = member.pool.try_lease() {
            return Flow::Continue(Ok(lease));
        }
        let ahead_max = intake.pending().len() + AHEAD_BYTES_MAX;
        let mut line = pin!(member.pool.lease());
        let waited = poll_fn(|context| match line.as_mut().poll(context) {
            Poll::Ready(outcome) => Poll::Ready(Ok(outcome)),
            Poll::Pending => poll_interrupt(context, (client, intake), ending, ahead_max).map(Err),
        });
        match waited.await {
            Ok(outcome) => Flow::Continue(outcome),
            Err(Interrupt::Gone) => Flow::Break(SessionEnd::Vanished),
            Err(Interrupt::Ended(end)) => Flow::Break(end),
        }
    }

    /// Sends the request, streaming what has not arrived yet.
    async fn pass_on(&mut self, plan: &mut Plan, lease: &mut Lease<Dialer>) -> Flow<Sent> {
        if lease.upstream.kind == ServerKind::Standalone {
            let removed = plan.strip_retry_fields(self.intake.pending_mut());
            self.intake.consume(removed);
        }
        let upstream = &mut lease.upstream.stream;
        if let Some(bytes) = &plan.rewritten {
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

    /// Waits for the reply, with an eye on the client.
    async fn incoming(&mut self, lease: &mut Lease<Dialer>) -> Result<Incoming, Interrupt> {
        let Self {
            client,
            intake,
            ending,
            ..
        } = self;
        let ahead_max = intake.pending().len() + AHEAD_BYTES_MAX;
        let upstream = &mut lease.upstream;
        poll_fn(|context| match reply::poll_incoming(context, upstream) {
            Poll::Ready(incoming) => Poll::Ready(Ok(incoming)),
            Poll::Pending => poll_interrupt(context, (client, intake), ending, ahead_max).map(Err),
        })
        .await
    }

    /// Hands over a reply that is here whole; the upstream goes back before a slow client can
    /// make it wait.
    async fn deliver(&mut self, plan: &Plan, mut lease: Lease<Dialer>, header: Header) -> Flow {
        if header.response_to != plan.header.request_id {
            return self.break_off(lease);
        }
        let intake = &mut lease.upstream.intake;
        let bytes = intake
            .pending_mut()
            .get_mut(..header.length)
            .unwrap_or_default();
        let Ok(mended) = reply::mend(bytes, &header, &self.service.topology) else {
            return self.break_off(lease);
        };
        if !matches!(mended, Mended::Fit) {
            lease.upstream.era.end();
        }
        let bytes = match &mended {
            Mended::Fit | Mended::StateChange => &*bytes,
            Mended::StateChangeAnew(anew) => anew,
        };
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
        Flow::Continue(())
    }

    /// Hands over a large reply as it comes.
    async fn stream(&mut self, plan: &Plan, mut lease: Lease<Dialer>, header: Header) -> Flow {
        if header.response_to != plan.header.request_id {
            return self.break_off(lease);
        }
        let mut rest = header.length;
        loop {
            let upstream = &mut lease.upstream;
            let known = upstream.intake.pending();
            let here = known.get(..rest.min(known.len())).unwrap_or_default();
            let count = here.len();
            hand_on(&mut self.client, &mut self.ending, here).await?;
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
        let read = self.finish_request(plan);
        self.count(read, header.length);
        give_back(lease);
        Flow::Continue(())
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
    fn finish_request(&mut self, plan: &Plan) -> usize {
        self.intake.consume(plan.left_bytes());
        plan.header.length
    }

    async fn refuse_exchange(&mut self, plan: &Plan, refusal: &Refusal) -> Flow {
        tracing::debug!(%refusal, "exchange refused");
        self.service.meters().fault(refusal.kind(), refusal.side());
        self.skip(plan.left_bytes()).await?;
        if !plan.wants_reply {
            return Flow::Continue(());
        }
        let error = ErrorReply::of(refusal, plan.standing);
        self.refuse(plan.header.request_id, &error).await
    }

    /// The upstream does not speak the protocol: nothing it said can be trusted.
    fn break_off(&self, lease: Lease<Dialer>) -> Flow {
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

/// Ready when there is nobody left to wait for. What the client sends meanwhile is kept.
fn poll_interrupt(
    context: &mut Context<'_>,
    (client, intake): (&mut Stream, &mut Intake),
    ending: &mut Ending,
    ahead_max: usize,
) -> Poll<Interrupt> {
    while intake.pending().len() < ahead_max {
        match intake.poll_fill(context, client, 0) {
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Interrupt::Gone),
            Poll::Ready(Ok(_)) => {}
            Poll::Pending => break,
        }
    }
    ending.poll_busy(context).map(Interrupt::Ended)
}
