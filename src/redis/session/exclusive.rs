//! Commands that need an upstream of the client's own for as long as they run.

use std::{task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::{Held, Over, Session, advance::Request, attend::Wait};
use crate::{
    fault::{Effect, Refusal},
    pool::{CloseReason, Residue},
    redis::{
        exchange::Exchange,
        refusal,
        wire::{self, NULL_ARRAY},
    },
    telemetry::SessionEnd,
};

/// A wait that is shorter than this is not taken off a command's own timeout.
const WAIT_NOTICED: Duration = Duration::from_millis(5);

/// What an upstream of the client's own is for.
pub(super) enum Job {
    /// A blocking command, and how long it may block.
    Block(Bytes, Option<Patience>),
    /// A command that may leave anything behind.
    Alone(Bytes),
    /// WATCH or MULTI, after which the upstream is held.
    Hold {
        /// The command.
        command: Bytes,
        /// Whether it is MULTI.
        is_multi: bool,
    },
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
    /// Nothing is left on it.
    Release,
    /// The transaction could not be carried out: the client hears that instead of the reply.
    Abort,
}

/// A blocking command's own timeout.
pub(super) struct Patience {
    words: Vec<Bytes>,
    /// Which word it is.
    at: usize,
    /// Seconds or milliseconds.
    in_millis: bool,
    /// When it ends.
    until: Instant,
}

impl Job {
    /// A blocking command.
    pub(super) fn block(request: &Request) -> Self {
        Self::Block(request.encoded(), Patience::of(request))
    }
}

impl Patience {
    /// The timeout of a command, unless it waits for ever or says nothing sensible.
    fn of(request: &Request) -> Option<Self> {
        let name = request.name().to_ascii_lowercase();
        let last = request.words.len().checked_sub(1)?;
        let (at, in_millis) = match name.as_slice() {
            b"blpop" | b"brpop" | b"brpoplpush" | b"blmove" | b"bzpopmin" | b"bzpopmax" => {
                (last, false)
            }
            b"blmpop" | b"bzmpop" => (1, false),
            b"xread" | b"xreadgroup" => (block_option(request)? + 1, true),
            _ => return None,
        };
        let number: f64 = std::str::from_utf8(request.word(at)).ok()?.parse().ok()?;
        let seconds = if in_millis { number / 1000.0 } else { number };
        let time = Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|time| !time.is_zero())?;
        let until = Instant::now().checked_add(time)?;
        Some(Self {
            words: request.words.clone(),
            at,
            in_millis,
            until,
        })
    }

    /// The command with what is left of its timeout.
    fn shortened(&self) -> Bytes {
        let left = self.until.saturating_duration_since(Instant::now());
        // Never 0, which would mean for ever.
        let left = left.max(Duration::from_millis(1));
        let text = if self.in_millis {
            left.as_millis().to_string()
        } else {
            format!("{:.3}", left.as_secs_f64())
        };
        let mut words = self.words.clone();
        if let Some(word) = words.get_mut(self.at) {
            *word = Bytes::from(text);
        }
        let mut out = BytesMut::new();
        wire::encode_command(&mut out, &words);
        out.freeze()
    }
}

/// Where the option BLOCK is among the words of XREAD or XREADGROUP.
fn block_option(request: &Request) -> Option<usize> {
    let mut at = 1;
    loop {
        at += match request.word(at).to_ascii_lowercase().as_slice() {
            b"block" => return Some(at),
            b"group" => 3,
            b"count" | b"claim" => 2,
            b"noack" => 1,
            // STREAMS: names follow.
            _ => return None,
        };
    }
}

impl Session {
    /// Carries out a job; nothing is owed to the client, and its command has left the buffer.
    pub(super) async fn run_exclusive(&mut self, job: Job) -> Result<(), Over> {
        match job {
            Job::Block(command, patience) => {
                self.pinned("blocking");
                self.block(command, patience).await?;
            }
            Job::Alone(command) => {
                if let Some(mut exchange) = self.lease(Wait::Queued).await?
                    && self.relay(&mut exchange, command, Wait::Brief).await?
                {
                    exchange.give_back(Residue::Broken(CloseReason::Dirty));
                }
            }
            Job::Hold { command, is_multi } => {
                self.pinned(if is_multi { "multi" } else { "watch" });
                if let Some(mut exchange) = self.lease(Wait::Queued).await?
                    && self.relay(&mut exchange, command, Wait::Brief).await?
                {
                    self.hold(exchange, is_multi);
                } else {
                    return self.hang_up().await;
                }
            }
            Job::Held { command, then } => self.continue_held(command, then).await?,
        }
        self.heard();
        Ok(())
    }

    fn pinned(&self, reason: &'static str) {
        self.service.meters().pinned(reason);
    }

    async fn block(&mut self, command: Bytes, patience: Option<Patience>) -> Result<(), Over> {
        let began = Instant::now();
        let lease = if let Some(patience) = &patience {
            let Ok(lease) = timeout_at(patience.until, self.lease(Wait::Blocked)).await else {
                // As if it had blocked on the server and nothing had come.
                self.say(|out, version| out.extend_from_slice(version.pick(NULL_ARRAY)));
                return Ok(());
            };
            lease?
        } else {
            self.lease(Wait::Blocked).await?
        };
        let Some(mut exchange) = lease else {
            return Ok(());
        };
        let command = match &patience {
            Some(patience) if began.elapsed() > WAIT_NOTICED => patience.shortened(),
            _ => command,
        };
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
                held.exchange.release();
                return Ok(());
            }
            return self.lost(&held.exchange);
        }
        if !self.relay(&mut held.exchange, command, Wait::Brief).await? {
            // What was watched and queued is gone with it: the client has to begin anew.
            return Err(Over(SessionEnd::UpstreamLost));
        }
        match then {
            Then::Release => held.exchange.release(),
            Then::Queue => {
                held.in_multi = held.exchange.is_accepted();
                self.held = Some(held);
            }
            Then::Keep | Then::Abort => self.held = Some(held),
        }
        Ok(())
    }

    fn hold(&mut self, exchange: Exchange, is_multi: bool) {
        if exchange.is_accepted() {
            self.held = Some(Held {
                exchange,
                in_multi: is_multi,
                is_dirty: false,
            });
        } else {
            // The server itself has refused WATCH or MULTI: nothing is watched.
            exchange.give_back(Residue::NeedsReset);
        }
    }

    /// An upstream of the client's own; `None`: the client has been told why not.
    async fn lease(&mut self, wait: Wait) -> Result<Option<Exchange>, Over> {
        let Some(member) = &self.member else {
            return Err(Over(SessionEnd::UpstreamLost));
        };
        let station = std::sync::Arc::clone(&member.station);
        let (version, database) = (self.version, self.database);
        let leased = match self.attended(wait, station.turn()).await? {
            Ok(permit) => {
                let lease = station.lease(permit, (version, database), self.slot);
                self.attended(Wait::Brief, lease).await?
            }
            Err(refusal) => Err(refusal),
        };
        match leased {
            Ok(exchange) => Ok(Some(exchange)),
            Err(refusal) => {
                self.say(|out, _| refusal::refuse(out, &refusal));
                Ok(None)
            }
        }
    }

    /// Sends one command and hands on its reply. False: the upstream was lost, and the client told.
    async fn relay(
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

    async fn exchange(
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
    fn lost(&mut self, exchange: &Exchange) -> Result<(), Over> {
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
    fn say(&mut self, write: impl FnOnce(&mut BytesMut, wire::Version)) {
        if !self.is_silent() {
            let version = self.version;
            self.outbox.append(|out| write(out, version));
        }
    }
}
