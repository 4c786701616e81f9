//! How a request comes by its upstream: at once, or in line, with an eye on the client meanwhile.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::{Instant, timeout_at};

use super::{
    aftermath,
    deadline::Deadline,
    ending::Ending,
    intake::Intake,
    plan::{Aftermath, Plan},
    refusal::{ErrorReply, Standing},
    servers::{Route, Server, Servers, Turn, Unserved, Version, Waits},
    session::{Flow, Session},
    upstream::{Dialer, ServerKind},
};
use crate::{
    fault::Fault as _,
    net::Stream,
    pool::{CheckoutError, Lease},
    telemetry::SessionEnd,
};

/// Bytes that a client may send ahead while it waits.
const AHEAD_BYTES_MAX: usize = 64 * 1024;

/// What a wait ended with, besides what was waited for.
pub(super) enum Interrupt {
    /// The client is gone.
    Gone,
    /// The session has to end.
    Ended(SessionEnd),
}

impl Interrupt {
    /// What it makes of the session.
    pub(super) const fn end(self) -> SessionEnd {
        match self {
            Self::Gone => SessionEnd::Vanished,
            Self::Ended(end) => end,
        }
    }
}

/// An upstream, and the server that it leads to.
pub(super) struct Loan {
    /// Where.
    pub(super) server: Arc<Server>,
    /// The upstream.
    pub(super) lease: Lease<Dialer>,
    /// The order of what the server had said before the request went out.
    pub(super) heard: Option<Version>,
}

impl Loan {
    fn new(server: Arc<Server>, lease: Lease<Dialer>) -> Self {
        let heard = server.heard();
        Self {
            server,
            lease,
            heard,
        }
    }
}

impl Session {
    /// Of several routers, sends a statement of a transaction to the one that has it.
    pub(super) fn pin(&self, plan: &mut Plan) {
        if let (Some(transaction), Some(member), Route::Primary) =
            (&plan.transaction, &self.member, &plan.route)
            && member.servers.pins_transactions()
            && let Some(server) = member.servers.transactions.server_of(transaction)
        {
            plan.route = Route::Server(server);
        }
    }

    /// An upstream for a request, or why there is none.
    pub(super) async fn lend(&mut self, plan: &mut Plan) -> Flow<Result<Loan, ErrorReply>> {
        let Some(member) = &mut self.member else {
            return Flow::Break(SessionEnd::LoginFailed);
        };
        if member.servers.is_over() {
            member.servers = self.service.servers(&member.servers.tenant());
        }
        let servers = &member.servers;
        let server = match servers.try_lease(&plan.route) {
            Ok((server, lease)) => {
                if server.endpoint.is_none() && lease.upstream.kind == ServerKind::Member {
                    servers.doubt(&server);
                }
                return Flow::Continue(Ok(Loan::new(server, lease)));
            }
            Err(server) => server,
        };
        if let Some(server) = server
            && plan.deadline.is_none()
        {
            let outcome = match server.pool.stand_in_line() {
                Ok(waiting) => self.attend(waiting).await,
                Err(error) => Ok(Err(error)),
            };
            match outcome {
                Ok(Ok(lease)) => return Flow::Continue(Ok(Loan::new(server, lease))),
                // Another server may fit.
                Ok(Err(CheckoutError::DialFailed(_))) if server.endpoint.is_some() => {}
                Ok(Err(error)) => return Flow::Continue(Err(self.unserved(&error, plan))),
                Err(interrupt) => {
                    self.leave_line(plan);
                    return Flow::Break(interrupt.end());
                }
            }
        }
        // Rare next to the others, so it takes no room in every session.
        Box::pin(self.lend_in_time(plan)).await
    }

    /// Waits for an upstream of whichever server fits, and no longer than the client gave the request.
    async fn lend_in_time(&mut self, plan: &mut Plan) -> Flow<Result<Loan, ErrorReply>> {
        let Some(member) = &self.member else {
            return Flow::Break(SessionEnd::LoginFailed);
        };
        let servers = Arc::clone(&member.servers);
        let until = plan.deadline.as_deref().and_then(Deadline::at);
        let leasing = lease_in_time(&servers, plan, until);
        match self.attend(leasing).await {
            Ok(None) => Flow::Continue(Err(ErrorReply::time_is_over())),
            Ok(Some(Ok((server, lease)))) => {
                if let Some(deadline) = &plan.deadline {
                    let message = self.intake.pending_mut();
                    deadline.lower(plan.rewritten.as_deref_mut().unwrap_or(message));
                }
                Flow::Continue(Ok(Loan::new(server, lease)))
            }
            Ok(Some(Err(Unserved::Checkout(error)))) => {
                Flow::Continue(Err(self.unserved(&error, plan)))
            }
            Ok(Some(Err(Unserved::NoMember(mode)))) => {
                Flow::Continue(Err(ErrorReply::no_member(mode)))
            }
            Err(interrupt) => {
                self.leave_line(plan);
                Flow::Break(interrupt.end())
            }
        }
    }

    fn unserved(&self, error: &CheckoutError, plan: &Plan) -> ErrorReply {
        let refusal = error.refusal();
        tracing::debug!(%refusal, "no upstream");
        self.service.meters().fault(error.kind(), error.side());
        ErrorReply::of(&refusal, plan.standing)
    }

    /// A turn to wait for data on a cursor's server; the wait that it allows is put into the plan.
    pub(super) async fn take_turn<'a>(
        &mut self,
        plan: &mut Plan,
        server: &'a Server,
    ) -> Flow<Turn<'a>> {
        let turn = match self.attend(server.turns.take()).await {
            Ok(turn) => turn,
            Err(interrupt) => {
                self.leave_line(plan);
                return Flow::Break(interrupt.end());
            }
        };
        let settings = &self.service.settings;
        let waits = Waits {
            whole: settings.await_max,
            short: settings.await_short,
        };
        let is_wanted = server.pool.stats().waiting > 0;
        let wait = turn.wait(plan.asked_wait, is_wanted, waits);
        plan.set_wait(self.intake.pending_mut(), wait);
        Flow::Continue(turn)
    }

    /// A cursor that waits for data is of no use to a client that is gone.
    fn leave_line(&self, plan: &Plan) {
        if let (Aftermath::KillCursor, Route::Server(server)) = (plan.aftermath, &plan.route) {
            let request = self.intake.pending().get(..plan.left_bytes());
            aftermath::kill(&self.service.shutdown, Arc::clone(&server.pool), request);
        }
    }

    /// Waits, with an eye on the client.
    pub(super) async fn attend<T>(
        &mut self,
        awaited: impl Future<Output = T>,
    ) -> Result<T, Interrupt> {
        let Self {
            client,
            intake,
            ending,
            ..
        } = self;
        let ahead_max = intake.pending().len() + AHEAD_BYTES_MAX;
        let mut awaited = pin!(awaited);
        poll_fn(|context| match awaited.as_mut().poll(context) {
            Poll::Ready(outcome) => Poll::Ready(Ok(outcome)),
            Poll::Pending => poll_interrupt(context, (client, intake), ending, ahead_max).map(Err),
        })
        .await
    }
}

/// An upstream for a request; nothing, if its time was over before.
async fn lease_in_time(
    servers: &Servers,
    plan: &Plan,
    until: Option<Instant>,
) -> Option<Result<(Arc<Server>, Lease<Dialer>), Unserved>> {
    let leasing = async {
        let outcome = servers.lease(&plan.route).await;
        match (&outcome, &plan.transaction, &plan.route, plan.standing) {
            // Any router can end it, by the token that the request bears.
            (
                Err(Unserved::Checkout(CheckoutError::DialFailed(_))),
                Some(transaction),
                Route::Server(_),
                Standing::EndsTransaction,
            ) => {
                servers.transactions.unpin(transaction);
                servers.lease(&Route::Primary).await
            }
            _ => outcome,
        }
    };
    match until {
        None => Some(leasing.await),
        Some(until) => timeout_at(until, leasing).await.ok(),
    }
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
