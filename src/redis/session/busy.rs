//! A server that is busy with a script, or that holds writes back: what must not wait behind others.

use bytes::Bytes;

use super::{Session, request::Request};
use crate::redis::commands::{Class, Command};

/// What becomes of the tenant's writes.
pub(super) enum Writes {
    /// They are held back, as these words of a `CLIENT PAUSE` say.
    Paused(Vec<Bytes>),
    /// They are held back no longer.
    Resumed,
}

impl Session {
    /// Whether it is for a server that is busy with a script, and takes little else, or holds writes back.
    pub(super) fn goes_aside(&self, command: &Command) -> bool {
        match command.name.as_str() {
            "script|kill" | "function|kill" => true,
            "client|unpause" => !self.is_routed(),
            "function|stats" | "shutdown" => self.is_server_busy(),
            _ => false,
        }
    }

    /// Whether the server holds back a write, so that it must not go over a trunk.
    pub(super) fn is_held_back(&self, request: &Request, command: &Command) -> bool {
        let Some(member) = self.member.as_ref().filter(|_| !self.is_routed()) else {
            return false;
        };
        let blocks = command.class == Class::Stream && request.has_block();
        member.station.pause().is_on() && command.may_replicate() && !blocks
    }

    /// Notes that the tenant's writes will be held back. Inside a transaction it is a little early, which
    /// only costs the others a lease.
    pub(super) fn note_pause(&mut self, request: &Request, command: &Command) {
        if command.name == "client|pause"
            && let Some(member) = &self.member
            && member.station.pause().begin(&request.words)
            && let Some(held) = self.held.as_mut().filter(|held| held.in_multi)
        {
            held.writes = Some(Writes::Paused(request.words.clone()));
        }
    }

    /// Notes what the server has done to the tenant's writes. Of their end nothing may be noted before, or
    /// one would be held up on a trunk.
    pub(super) fn note_writes(&self, writes: &Writes) {
        if let Some(member) = &self.member {
            let pause = member.station.pause();
            match writes {
                Writes::Paused(words) => {
                    pause.begin(words);
                }
                Writes::Resumed => pause.end(),
            }
        }
    }

    /// Whether what could be answered here goes to the server: it is busy, or somebody is told of every
    /// command that it gets.
    pub(super) fn is_passed_on(&self) -> bool {
        let member = self.member.as_ref();
        let is_told = member.is_some_and(|member| member.station.has_audience());
        let is_free = self.held.is_none() && !self.is_modal() && !self.is_routed();
        (is_told && is_free) || self.is_server_busy()
    }

    /// Whether a script keeps the server from serving, as far as is known: it is for the server to say.
    pub(super) fn is_server_busy(&self) -> bool {
        let member = self.member.as_ref();
        let is_stuck = member.is_some_and(|member| member.station.trunks().is_stuck());
        is_stuck && self.held.is_none() && !self.is_modal() && !self.is_routed()
    }
}
