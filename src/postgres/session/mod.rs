//! One client's life after its login: one task that owns the upstream while it has one.
//!
//! `requests` reads what the client sends, `replies` what the upstream answers; both only move bytes
//! between buffers and keep the account (`exchange`). Here is the loop around them: all four
//! directions are polled together, so that no full buffer on one side can stop the other.

mod changes;
mod channels;
mod columns;
mod concluding;
mod deadlines;
mod ears;
mod ending;
mod lending;
mod local;
mod meaning;
mod names;
mod native;
mod outcomes;
mod quotes;
mod replies;
mod requests;
mod statements;
mod told;
mod transfer;
mod unnamed;
mod weighing;

use std::{collections::BTreeSet, sync::Arc, task::Poll};

pub(super) use deadlines::Phase;
pub(super) use ending::Stop;
pub(super) use names::TEMPORARY;
pub(super) use replies::demanded;
pub(super) use told::Told;

use deadlines::Deadlines;
use ears::Ears;
use quotes::Quotes;
use transfer::Watch;
use weighing::Weighing;

use super::{
    cancel::OwnDesk,
    exchange::Exchange,
    flow::Peer,
    named::ClientStatements,
    servers::Source,
    service::Service,
    settings::{Findings, Parameters},
    statement::Facts,
    tenancy::Tenancy,
    upstream::Dialer,
};
use crate::{
    pool::{Lease, Waiting},
    session::{Seat, Standing},
    signal::Seldom,
    telemetry::SessionEnd,
    tenant::{PoolMode, Role},
};

/// What a login makes a session of.
pub(super) struct Newcomer {
    pub(super) source: Source,
    pub(super) tenancy: Arc<Tenancy>,
    pub(super) seat: Seat,
    pub(super) role: Role,
    pub(super) desk: OwnDesk,
    /// The parameters that the client began with, to which `RESET` returns.
    pub(super) startup: Arc<Parameters>,
    pub(super) told: Told,
    /// The user that upstreams log in as.
    pub(super) login: String,
    /// The upstream stays with the client for ever, and why.
    pub(super) kept: Option<&'static str>,
}

/// A logged-in client.
pub(super) struct Session {
    service: Arc<Service>,
    client: Peer,
    source: Source,
    tenancy: Arc<Tenancy>,
    seat: Seat,
    role: Role,
    desk: OwnDesk,
    login: String,
    startup: Arc<Parameters>,
    wanted: Arc<Parameters>,
    told: Told,
    statements: ClientStatements,
    /// Portals whose statements do something to names or parameters.
    portals: Vec<(Box<[u8]>, Facts)>,
    exchange: Exchange,
    lease: Option<Lease<Dialer>>,
    /// The place in line, while none is free.
    place: Option<Waiting<Dialer>>,
    /// What is left of a message of the client's, of which the head was seen.
    request: Run,
    /// What is left of a message of the upstream's.
    reply: Run,
    state: State,
    /// Everything up to the client's next Sync is left out: its unit was refused.
    refusing: bool,
    draining: bool,
    /// Sees the end of a client that is not read.
    watch: Option<Watch>,
    /// Transactions are refused: the upstream changes hands after each statement.
    by_statement: bool,
    deadlines: Option<Box<Deadlines>>,
    /// What the shared listener hears for the client.
    ears: Option<Box<Ears>>,
    tally: Tally,
}

/// What is known of the state that the client's session holds on its upstream.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent notes of one session"
)]
struct State {
    /// A statement may have changed it since it was last asked for.
    suspect: bool,
    /// Found by asking: the upstream must stay.
    pinned: Option<&'static str>,
    /// Cannot be asked for: the upstream must stay until the client leaves.
    kept: Option<&'static str>,
    findings: Findings,
    /// Parameters of extensions that the client has set; the server does not list them.
    unlisted: BTreeSet<String>,
    /// Applying parameters failed: what the server said.
    failure: Option<Box<[u8]>>,
    /// The upstream knows the client's statements by the client's names, and messages pass as they are.
    native: bool,
    /// The upstream could not be given the client's names.
    nameless: bool,
    /// Parameters that a statement was prepared under, as the upstream tells them.
    understood: Vec<(String, String)>,
    /// A statement that would give other columns on the upstream than its client knows.
    changed: Option<u64>,
    /// The same of the unnamed statement.
    changed_unnamed: bool,
    /// The client's names for statements that would give other columns here than it knows.
    outdated: BTreeSet<Arc<[u8]>>,
    /// Some of them may be right again: all are to be looked at anew.
    relooks: bool,
    /// The client's names for statements that may be others than when they were last looked at.
    renamed: BTreeSet<Arc<[u8]>>,
    /// The types of the parameters of a statement that is being described.
    described: Option<Box<[u8]>>,
    /// A text may have changed parameters, or what names mean, since the transaction began.
    shifted: bool,
    /// A statement that was to be there for a text could not be prepared: what the server said.
    unloaded: Option<Box<[u8]>>,
    /// The last unit in which definitions may have changed.
    defines: Option<u64>,
    weighing: Weighing,
    quotes: Quotes,
    besides: Besides,
    /// No shared listener could be had: the upstream listens.
    unshared: bool,
    /// The transaction has listened.
    listened: bool,
}

impl State {
    /// What was being told is not told to its end.
    fn fail(&mut self) {
        self.understood.clear();
        self.described = None;
        self.weighing.fail();
    }
}

/// What the upstream listens to besides what the client has made it listen to.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Besides {
    #[default]
    Nothing,
    /// What the shared listener hears, for the client to look at or to end.
    Shown,
    /// What nobody knows of.
    Stray,
}

/// The rest of a message, which goes on or is left out without being looked at.
#[derive(Clone, Copy, Default)]
struct Run {
    left: usize,
    dropped: bool,
}

/// What was moved since it was last counted.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) units: u64,
    pub(super) client_read: u64,
    pub(super) client_written: u64,
    pub(super) upstream_read: u64,
    pub(super) upstream_written: u64,
}

/// What reading the client's messages came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// More bytes of the client's.
    Input,
    /// An upstream.
    Lease,
    /// Answers of the upstream's, before another unit may begin.
    Replies,
}

impl Session {
    /// Boxed, because futures hold twice what they take by value.
    pub(super) fn new(service: Arc<Service>, client: Peer, newcomer: Newcomer) -> Box<Self> {
        let names = newcomer.startup.iter().map(|(name, _)| name.to_owned());
        let unlisted = names.filter(|name| name.contains('.')).collect();
        let limits = newcomer.source.tenant().limits;
        newcomer.seat.set_standing(Standing::Idle);
        let deadlines = Deadlines::new(limits.timeouts.or(service.settings.timeouts()));
        let state = State {
            kept: newcomer.kept,
            unlisted,
            ..State::default()
        };
        Box::new(Self {
            service,
            client,
            source: newcomer.source,
            tenancy: newcomer.tenancy,
            seat: newcomer.seat,
            role: newcomer.role,
            desk: newcomer.desk,
            login: newcomer.login,
            wanted: Arc::clone(&newcomer.startup),
            startup: newcomer.startup,
            told: newcomer.told,
            statements: ClientStatements::default(),
            portals: Vec::new(),
            exchange: Exchange::default(),
            lease: None,
            place: None,
            request: Run::default(),
            reply: Run::default(),
            state,
            refusing: false,
            draining: false,
            watch: None,
            by_statement: limits.pool_mode == PoolMode::Statement,
            deadlines,
            ears: None,
            tally: Tally::default(),
        })
    }

    /// Serves the client until it leaves or must.
    pub(super) async fn run(mut self: Box<Self>) -> SessionEnd {
        let stop = match self.serve().await {
            Ok(never) => match never {},
            Err(stop) => stop,
        };
        // What happens once, or seldom, is boxed: a session that does nothing must be small.
        Box::pin(self.end(stop)).await
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, Stop> {
        let killed = self.seat.end_token();
        let shutdown = self.service.shutdown.clone();
        let mut killed = Seldom::new(killed.cancelled_owned());
        let mut draining = Seldom::new(async move { shutdown.draining().await });
        loop {
            self.digest_replies()?;
            self.attend()?;
            self.settle().await?;
            let need = self.digest_requests()?;
            self.say_made();
            if need != Need::Lease {
                self.leave_line();
            } else if !self.acquire(&mut killed).await? {
                continue;
            }
            // Requests may have been answered here without asking anything of the upstream.
            self.settle().await?;
            self.rest()?;
            std::future::poll_fn(|context| {
                if killed.poll(context).is_ready() {
                    return Poll::Ready(Err(Stop::Killed));
                }
                if !self.draining && draining.poll(context).is_ready() {
                    self.draining = true;
                    return Poll::Ready(Ok(()));
                }
                if self.place.is_some() {
                    if self.poll_place(context).is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                } else if let Poll::Ready(stop) = self.poll_overdue(context) {
                    return Poll::Ready(Err(stop));
                }
                if let Some(ears) = &self.ears
                    && ears.member().poll_news(context).is_ready()
                {
                    return Poll::Ready(Ok(()));
                }
                self.poll_transfer(context, need)
            })
            .await?;
        }
    }

    /// Between exchanges: memory goes back, and a gateway that is ending says so.
    fn rest(&mut self) -> Result<(), Stop> {
        // An upstream that stays with the client between exchanges does not keep the gateway up.
        let used = self.lease.as_ref().is_some_and(|lease| {
            !self.exchange.is_quiet()
                || self.request.left > 0
                || self.reply.left > 0
                || !lease.upstream.peer.out.is_empty()
        });
        if used {
            return Ok(());
        }
        if self.draining && self.client.inbound.is_empty() && !self.refusing {
            return Err(Stop::Draining);
        }
        if self.lease.is_none() {
            self.client.inbound.release();
        }
        Ok(())
    }
}
