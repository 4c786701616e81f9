//! `CLIENT TRACKING`, `CLIENT NO-TOUCH ON` and `MONITOR`: what is the state of a connection, or a stream of
//! its own, has an upstream of its own for as long as the session lasts.
//!
//! Only some of the leases may be kept so, that waits and transactions go on.

use std::{sync::Arc, task::Poll};

use bytes::Bytes;

use super::{
    Held, Next, Over, Session,
    attend::Wait,
    exclusive::{Job, Then},
    request::Request,
};
use crate::{
    pool::Residue,
    redis::{
        commands::Command,
        refusal::{self, Plain},
        wire,
    },
    telemetry::SessionEnd,
};

/// Why an upstream is kept for the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bond {
    /// The server keeps state of this client.
    State,
    /// The server tells it of every command.
    Monitor,
}

impl Session {
    /// Commands that make state of the connection, or speak of it.
    pub(super) fn dispatch_bond(
        &mut self,
        request: &Request,
        command: &Command,
    ) -> Result<usize, Next> {
        let mut words = request.words.iter().skip(3);
        if words.any(|word| word.eq_ignore_ascii_case(b"redirect")) {
            // The server's numbers of clients are not ours.
            return self.decline(request, |out| {
                refusal::unsupported(out, "client tracking with redirect");
            });
        }
        let name = command.name.as_str();
        if self.is_routed() {
            // A node would tell of its own keys only.
            return self.decline(request, |out| refusal::unsupported(out, name));
        }
        if let Some(held) = &self.held {
            if held.bond.is_none() {
                return self.decline(request, |out| refusal::not_in_transaction(out, name));
            }
            let (command, then) = (request.encoded(), Then::Keep);
            return self.exclusively(request, Job::Held { command, then });
        }
        let bond = match name {
            "monitor" => Bond::Monitor,
            "client|caching" => {
                return self.decline(request, |out| refusal::plain(out, Plain::NotTracking));
            }
            _ if request.word(2).eq_ignore_ascii_case(b"off") => {
                self.answer(|out, _| wire::simple(out, "OK"))?;
                return Ok(request.bytes);
            }
            _ => Bond::State,
        };
        let name = command.name.clone();
        let command = request.encoded();
        self.exclusively(
            request,
            Job::Bind {
                command,
                name,
                bond,
            },
        )
    }

    /// Takes an upstream for the rest of the session.
    pub(super) async fn bind(
        &mut self,
        command: Bytes,
        name: &str,
        bond: Bond,
    ) -> Result<(), Over> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        let Some(place) = member.station.keep() else {
            self.say(|out, _| refusal::no_upstream(out, name));
            return Ok(());
        };
        let Some(mut exchange) = self.lease(Wait::Queued).await? else {
            return Ok(());
        };
        exchange.listen(bond == Bond::Monitor);
        if !self.relay(&mut exchange, command, Wait::Brief).await? {
            return Ok(());
        }
        if !exchange.is_accepted() {
            exchange.give_back(Residue::NeedsReset);
            return Ok(());
        }
        self.held = Some(Held {
            exchange,
            in_multi: false,
            is_dirty: false,
            queued: 0,
            bond: Some((bond, place)),
        });
        Ok(())
    }

    /// Whether an upstream is held for the session, and not for a transaction at the moment.
    pub(super) fn is_listening(&self) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| held.bond.is_some() && !held.in_multi)
    }

    /// Whether it is told of every command.
    pub(super) fn is_monitoring(&self) -> bool {
        let bond = self.held.as_ref().and_then(|held| held.bond.as_ref());
        bond.is_some_and(|(bond, _)| *bond == Bond::Monitor)
    }

    /// Waits for bytes from the client, and hands on what the server tells it meanwhile.
    pub(super) async fn listen(&mut self) -> Result<(), Over> {
        let bytes_max = self.service.settings().request_bytes_max;
        if self.input.len() >= bytes_max {
            return Err(Over(SessionEnd::Limit));
        }
        self.count_traffic();
        self.show();
        let before = (self.input.len(), self.is_draining);
        std::future::poll_fn(|context| {
            let outbox = Arc::clone(&self.outbox);
            if let Some(held) = &mut self.held
                && let Err(fault) = held.exchange.poll_told(context, &outbox)
            {
                // What it was tracking is gone: the client has to begin anew.
                tracing::debug!(%fault, "lost what a client listens to");
                return Poll::Ready(Err(Over(SessionEnd::UpstreamLost)));
            }
            self.poll_client(context, None, bytes_max)?;
            let came = (self.input.len(), self.is_draining) != before || self.has_ended;
            if came {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        })
        .await
    }
}
