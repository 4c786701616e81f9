//! Commands that need an upstream of the client's own for as long as they run.

use std::{task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout};

use super::{Held, Over, Session, attend::Wait, bond::Bind, busy::Writes, request::Request};
use crate::{
    fault::{Effect, Refusal},
    pool::{CloseReason, Residue},
    redis::{
        blocking::Wish,
        commands::Command,
        exchange::Exchange,
        refusal,
        wire::{self, Version},
    },
    telemetry::SessionEnd,
};

/// A wait that is shorter than this is not taken off a command's own timeout.
const WAIT_NOTICED: Duration = Duration::from_millis(5);

/// What an upstream of the client's own is for.
pub(super) enum Job {
    /// A blocking command that others may wait for, too, and how long it may block.
    Share(Wish, Option<Duration>),
    /// Any other blocking command, and what it waits for if its time is known.
    Block(Bytes, Option<(Wish, Duration)>),
    /// WAIT or WAITAOF.
    Wait(Bytes),
    /// A command that may leave anything behind.
    Alone(Bytes),
    /// A command that a busy server takes.
    Aside(Bytes),
    /// `CLIENT UNPAUSE`.
    Resume(Bytes),
    /// WATCH or MULTI, after which the upstream is held.
    Hold {
        /// The command.
        command: Bytes,
        /// Whether it is MULTI.
        is_multi: bool,
    },
    /// A command about the upstream that is held for the session.
    Bind(Bind),
    /// A command on the upstream that is held.
    Held {
        /// The command.
        command: Bytes,
        /// What it does to the hold.
        then: Then,
    },
}

/// What becomes of the upstream that is held after a command on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It is held on.
    Keep,
    /// If the command is accepted, commands are queued from now on.
    Queue,
    /// If the command is accepted, it is on that database, or will be after EXEC.
    Select(u32),
    /// If the command is accepted, writes are held back no longer, or will not be after EXEC.
    Resume,
    /// Anything may be left on it.
    Taint,
    /// Nothing is left on it.
    Release,
    /// The transaction could not be carried out: the client hears that instead of the reply.
    Abort,
}

impl Job {
    /// A command that must not wait behind others.
    pub(super) fn aside(request: &Request, command: &Command) -> Self {
        match command.name.as_str() {
            "client|unpause" => Self::Resume(request.encoded()),
            _ => Self::Aside(request.encoded()),
        }
    }

    /// A blocking command of a client in that version and on that database.
    ///
    /// In a cluster each waits for itself, on the node that has its keys.
    pub(super) fn block(
        request: &Request,
        (version, database): (Version, u32),
        is_routed: bool,
    ) -> Self {
        match Wish::parse(&request.words, database, version) {
            Some((wish, patience)) if !is_routed => Self::Share(wish, patience),
            Some((wish, patience)) => {
                Self::Block(request.encoded(), patience.map(|time| (wish, time)))
            }
            None => Self::Block(request.encoded(), None),
        }
    }
}

impl Session {
    /// Carries out a job; nothing is owed to the client, and its command has left the buffer.
    pub(super) async fn run_exclusive(&mut self, job: Job) -> Result<(), Over> {
        match job {
            Job::Share(wish, patience) => {
                self.pinned("blocking");
                self.wait_in_line(wish, patience).await?;
            }
            Job::Block(command, patience) => {
                self.pinned("blocking");
                self.block(command, patience).await?;
            }
            Job::Wait(command) => {
                self.pinned("wait");
                self.wait_for_replicas(command).await?;
            }
            Job::Alone(command) => {
                if let Some(mut exchange) = self.lease(Wait::Queued).await?
                    && self.relay(&mut exchange, command, Wait::Brief).await?
                {
                    exchange.give_back(Residue::Broken(CloseReason::Dirty));
                }
            }
            Job::Aside(command) => {
                self.ask_aside(command).await?;
            }
            Job::Resume(command) => {
                if self.ask_aside(command).await? {
                    self.note_writes(&Writes::Resumed);
                }
            }
            Job::Hold { command, is_multi } => self.begin_hold(command, is_multi).await?,
            Job::Bind(bind) => {
                self.pinned("session");
                self.bind(bind).await?;
            }
            Job::Held { command, then } => self.continue_held(command, then).await?,
        }
        self.heard();
        Ok(())
    }

    async fn begin_hold(&mut self, command: Bytes, is_multi: bool) -> Result<(), Over> {
        self.pinned(if is_multi { "multi" } else { "watch" });
        match self.leased(Wait::Queued).await? {
            Ok(mut exchange) => {
                if self.relay(&mut exchange, command, Wait::Brief).await? {
                    self.hold(exchange, is_multi);
                    return Ok(());
                }
            }
            Err(refusal) if is_multi && refusal::is_busy(&refusal) => {
                // Nothing is owed, so that it cannot fail.
                return self
                    .begin_doomed()
                    .map_err(|_| Over(SessionEnd::UpstreamLost));
            }
            Err(refusal) => self.say(|out, _| refusal::refuse(out, &refusal)),
        }
        self.hang_up().await
    }

    /// Sends a command that a busy server takes, past everybody who has to wait. False: it was refused.
    async fn ask_aside(&mut self, command: Bytes) -> Result<bool, Over> {
        let Some(member) = &self.member else {
            return Ok(false);
        };
        let (station, version) = (std::sync::Arc::clone(&member.station), self.version);
        let asked = self.attended(Wait::Queued, async move {
            station.aside(version, &command).await
        });
        let asked = asked.await?;
        self.say(|out, _| match &asked {
            Ok(reply) => out.extend_from_slice(reply),
            Err(refusal) => refusal::refuse(out, refusal),
        });
        Ok(asked.is_ok_and(|reply| !reply.starts_with(b"-")))
    }

    fn pinned(&self, reason: &'static str) {
        self.service.meters().pinned(reason);
    }

    async fn block(
        &mut self,
        command: Bytes,
        patience: Option<(Wish, Duration)>,
    ) -> Result<(), Over> {
        let began = Instant::now();
        let (lease, command) = match patience {
            None => (self.lease(Wait::Blocked).await?, command),
            Some((wish, time)) => match timeout(time, self.lease(Wait::Blocked)).await {
                Ok(lease) if began.elapsed() > WAIT_NOTICED => {
                    (lease?, wish.shortened(time.saturating_sub(began.elapsed())))
                }
                Ok(lease) => (lease?, command),
                // Nobody has asked the server yet.
                Err(_) => return self.ask_at_once(wish).await,
            },
        };
        let Some(mut exchange) = lease else {
            return Ok(());
        };
        if self.relay(&mut exchange, command, Wait::Blocked).await? {
            exchange.give_back(Residue::Clean);
        }
        Ok(())
    }

    /// Waits until everything that the client has written has reached replicas, or the disk.
    ///
    /// The server waits for the last write of the connection that asks, and the client's writes went over
    /// others. All of them have been answered; so a write of our own, which changes nothing, comes
    /// after them in what is replicated, and stands for them.
    async fn wait_for_replicas(&mut self, command: Bytes) -> Result<(), Over> {
        let home = match &self.member {
            Some(member) => member.station.home().to_string(),
            None => return Ok(()),
        };
        let Some(mut exchange) = self.lease(Wait::Queued).await? else {
            return Ok(());
        };
        let mut mark = BytesMut::new();
        wire::encode_command(&mut mark, &["SWAPDB", &home, &home]);
        let marked = self.exchange(&mut exchange, mark.freeze(), true, Wait::Brief);
        if marked.await?.is_err() {
            return self.lost(&exchange);
        }
        if !exchange.is_accepted() {
            self.say(|out, _| refusal::plain(out, refusal::Plain::WaitUnmarked));
            exchange.release();
            return Ok(());
        }
        if self.relay(&mut exchange, command, Wait::Blocked).await? {
            exchange.give_back(Residue::Clean);
        }
        Ok(())
    }

    async fn continue_held(&mut self, command: Bytes, then: Then) -> Result<(), Over> {
        let Some(mut held) = self.held.take() else {
            return Ok(());
        };
        if then == Then::Abort {
            // Its own reply is not for the client.
            if self
                .exchange(&mut held.exchange, command, true, Wait::Brief)
                .await?
                .is_ok()
            {
                self.say(|out, _| refusal::plain(out, refusal::Plain::ExecAbort));
                return self.let_go(held).await;
            }
            return self.lost(&held.exchange);
        }
        if !self.relay(&mut held.exchange, command, Wait::Brief).await? {
            // What was watched and queued is gone with it: the client has to begin anew.
            return Err(Over(SessionEnd::UpstreamLost));
        }
        let is_accepted = held.exchange.is_accepted();
        held.queued += i64::from(held.in_multi && is_accepted);
        held.is_tainted |= then == Then::Taint;
        match then {
            Then::Select(database) if is_accepted && held.in_multi => held.will_select(database),
            Then::Select(database) if is_accepted => self.enter_database(&mut held, database),
            Then::Resume if is_accepted && held.in_multi => held.writes = Some(Writes::Resumed),
            Then::Resume if is_accepted => self.note_writes(&Writes::Resumed),
            Then::Release => return self.let_go(held).await,
            Then::Queue => {
                held.in_multi = is_accepted;
                held.queued = 0;
            }
            Then::Keep | Then::Taint | Then::Abort | Then::Select(_) | Then::Resume => {}
        }
        self.held = Some(held);
        Ok(())
    }

    fn hold(&mut self, exchange: Exchange, is_multi: bool) {
        if exchange.is_accepted() {
            self.held = Some(Held {
                in_multi: is_multi,
                ..Held::new(exchange)
            });
        } else {
            // The server itself has refused WATCH or MULTI: nothing is watched.
            exchange.give_back(Residue::NeedsReset);
        }
    }

    /// An upstream of the client's own; `None`: the client has been told why not.
    pub(super) async fn lease(&mut self, wait: Wait) -> Result<Option<Exchange>, Over> {
        match self.leased(wait).await? {
            Ok(exchange) => Ok(Some(exchange)),
            Err(refusal) => {
                self.say(|out, _| refusal::refuse(out, &refusal));
                Ok(None)
            }
        }
    }

    async fn leased(&mut self, wait: Wait) -> Result<Result<Exchange, Refusal>, Over> {
        let Some(member) = &self.member else {
            return Err(Over(SessionEnd::UpstreamLost));
        };
        let station = std::sync::Arc::clone(&member.station);
        let (version, database) = (self.version, self.database);
        match self.attended(wait, station.turn()).await? {
            Ok(permit) => {
                let lease = station.lease(permit, (version, database), self.slot);
                self.attended(Wait::Brief, lease).await
            }
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Sends one command and hands on its reply. False: the upstream was lost, and the client told.
    pub(super) async fn relay(
        &mut self,
        exchange: &mut Exchange,
        command: Bytes,
        wait: Wait,
    ) -> Result<bool, Over> {
        let is_silent = self.is_silent();
        let outcome = self.exchange(exchange, command, is_silent, wait).await?;
        if outcome.is_err() {
            self.lost(exchange)?;
        }
        Ok(outcome.is_ok())
    }

    pub(super) async fn exchange(
        &mut self,
        exchange: &mut Exchange,
        command: Bytes,
        is_silent: bool,
        wait: Wait,
    ) -> Result<Result<(), ()>, Over> {
        exchange.begin(command, 1);
        std::future::poll_fn(|context| {
            let outbox = std::sync::Arc::clone(&self.outbox);
            loop {
                let turn = exchange.poll(context, &outbox, is_silent);
                // A client that leaves ends the exchange: its upstream closes with it.
                // Once a reply has begun to come it is no longer waited for.
                let has_come = turn.is_ready() || exchange.is_cut();
                let wait = if has_come { Wait::Brief } else { wait };
                let standing = self.poll_attended(context, wait)?;
                match turn {
                    Poll::Ready(Ok(())) => return Poll::Ready(Ok(Ok(()))),
                    Poll::Ready(Err(fault)) => {
                        tracing::debug!(%fault, "exchange failed");
                        return Poll::Ready(Ok(Err(())));
                    }
                    // It had stopped for the client's sake, who has taken everything since.
                    Poll::Pending if exchange.is_held_back() && standing.waiting == 0 => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Tells the client that its upstream was lost in the middle of a command.
    pub(super) fn lost(&mut self, exchange: &Exchange) -> Result<(), Over> {
        if exchange.is_cut() {
            // A part of a reply cannot be taken back.
            return Err(Over(SessionEnd::UpstreamLost));
        }
        let refusal = Refusal::UpstreamLost {
            effect: Effect::Unknown,
        };
        self.say(|out, _| refusal::refuse(out, &refusal));
        Ok(())
    }

    /// An answer of the gateway's own while nothing is owed.
    pub(super) fn say(&mut self, write: impl FnOnce(&mut BytesMut, Version)) {
        if !self.is_silent() {
            let mut answer = BytesMut::new();
            write(&mut answer, self.version);
            self.outbox.append(&answer);
        }
    }
}
