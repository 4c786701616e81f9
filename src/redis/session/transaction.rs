//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! A transaction that is in the buffer as a whole goes over the trunk in one piece: nothing can come
//! between. Any other, and whatever follows a WATCH, has an upstream of its own until it is over.

use bytes::{Bytes, BytesMut};

use super::{
    Next, Replies, Session,
    exclusive::{Job, Then},
    local::database_number,
    request::Request,
};
use crate::redis::{
    commands::{Class, Command, Lookup},
    policy::{self, Verdict},
    refusal::{self, Plain},
    trunk::{Fate, is_script},
    wire::{self, Decoder, Step},
};

/// Commands of a transaction that goes in one piece; longer ones have an upstream of their own.
const BLOCK_COMMANDS_MAX: usize = 4096;

impl Session {
    /// MULTI and what belongs to it, outside a transaction and without a watch.
    pub(super) fn dispatch_transaction(
        &mut self,
        request: &Request,
        command: &Command,
    ) -> Result<usize, Next> {
        match command.name.as_str() {
            "exec" => self.decline(request, |out| refusal::plain(out, Plain::ExecWithoutMulti)),
            "discard" => self.decline(request, |out| {
                refusal::plain(out, Plain::DiscardWithoutMulti);
            }),
            "unwatch" => {
                self.answer(|out, _| wire::simple(out, "OK"))?;
                Ok(request.bytes)
            }
            "multi" if self.is_routed() => self.begin_queue(request),
            name => {
                let is_multi = name == "multi";
                // Only MULTI itself would be skipped, and the block has one fate.
                if is_multi
                    && self.replies != Replies::SkipNext
                    && let Some((bytes, replies, has_script)) = self.whole_transaction()
                {
                    return self.submit_transaction(bytes, replies, has_script);
                }
                self.exclusively(
                    request,
                    Job::Hold {
                        command: request.encoded(),
                        is_multi,
                    },
                )
            }
        }
    }

    /// Refuses a command before it is looked at any further; of EXEC the server says so in other words.
    pub(super) fn reject(
        &mut self,
        request: &Request,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<usize, Next> {
        if !request.name().eq_ignore_ascii_case(b"exec") {
            return self.decline(request, write);
        }
        if self.held.as_ref().is_some_and(|held| held.in_multi) {
            // The server has to know, too: with this the transaction is over.
            let (command, then) = (request.encoded(), Then::Release);
            return self.exclusively(request, Job::Held { command, then });
        }
        self.decline(request, |out| refusal::exec_rejected(out, write))
    }

    /// Any command while an upstream is held, after the policy has allowed it.
    pub(super) fn dispatch_held(
        &mut self,
        request: &Request,
        command: &Command,
    ) -> Result<usize, Next> {
        let Some(held) = &self.held else {
            return Ok(request.bytes);
        };
        let (in_multi, is_dirty) = (held.in_multi, held.is_dirty);
        if !self.is_within_slot(&request.words) {
            return self.decline(request, |out| refusal::plain(out, Plain::CrossSlot));
        }
        let name = command.name.as_str();
        if self.is_monitoring() && !["quit", "reset", "ping"].contains(&name) {
            return self.decline(request, |out| refusal::plain(out, Plain::Monitoring));
        }
        let then = match (command.class, name, in_multi) {
            (Class::Transaction, "exec", true) if is_dirty => {
                return self.continue_with(request, Bytes::from_static(DISCARD), Then::Abort);
            }
            (Class::Transaction, "exec" | "discard", true)
            | (Class::Transaction, "unwatch", false) => Then::Release,
            (Class::Transaction, "multi" | "watch", true) => {
                self.answer(|out, _| refusal::nested(out, name))?;
                return Ok(request.bytes);
            }
            (Class::Transaction, "exec", false) => {
                return self.decline(request, |out| refusal::plain(out, Plain::ExecWithoutMulti));
            }
            (Class::Transaction, "discard", false) => {
                return self.decline(request, |out| {
                    refusal::plain(out, Plain::DiscardWithoutMulti);
                });
            }
            (Class::Transaction, "multi", false) => Then::Queue,
            (Class::Local, "select", _) if !self.is_routed() => {
                // What is no number the server refuses by itself.
                let number = database_number(request.word(1));
                let database = number.and_then(|number| u32::try_from(number).ok());
                database.map_or(Then::Keep, Then::Select)
            }
            (_, "client|unpause", _) => Then::Resume,
            (Class::Local, "ping" | "echo", _) if self.is_in_step() => Then::Keep,
            // Inside a transaction nothing blocks; while only watching it would.
            (
                Class::Transaction
                | Class::Shared
                | Class::Counted
                | Class::Admin
                | Class::Filtered
                | Class::Blocking
                | Class::Stream,
                _,
                _,
            )
            | (Class::Wait, _, true) => Then::Keep,
            (Class::Alone, _, _) => Then::Taint,
            (Class::Local, "quit" | "reset", _) | (Class::Local, _, false) => {
                return self.dispatch_local(request, command);
            }
            (Class::Local | Class::Subscribe | Class::Monitor, _, true) => {
                return self.decline(request, |out| refusal::not_in_transaction(out, name));
            }
            (Class::Subscribe, _, false) => return self.dispatch_subscribe(request, command),
            (Class::Never | Class::Container | Class::Wait | Class::Monitor, _, _) => {
                return self.decline(request, |out| refusal::unsupported(out, name));
            }
        };
        self.continue_with(request, request.encoded(), then)
    }

    pub(super) fn continue_with(
        &mut self,
        request: &Request,
        command: Bytes,
        then: Then,
    ) -> Result<usize, Next> {
        self.exclusively(request, Job::Held { command, then })
    }

    /// The bytes and commands of a transaction that begins here, ends in the buffer, and may go as
    /// it is.
    fn whole_transaction(&self) -> Option<(usize, usize, bool)> {
        let member = self.member.as_ref()?;
        if member.station.pause().is_on() {
            return None;
        }
        let role = member.role;
        let mut decoder = Decoder::default();
        let (mut bytes, mut commands, mut has_script) = (0, 0, false);
        while commands < BLOCK_COMMANDS_MAX {
            let rest = self.input.get(bytes..)?;
            let step = decoder.decode(rest, self.limits()).ok()?;
            let Step::Command { bytes: length } = step else {
                return None;
            };
            if !decoder.is_canonical() {
                return None;
            }
            let name = decoder.arg(rest, 0);
            let second = (decoder.len() > 1).then(|| decoder.arg(rest, 1));
            let Lookup::Known(command) = self.service.commands().lookup(name, second) else {
                return None;
            };
            let args = (1..decoder.len()).map(|at| decoder.arg(rest, at));
            if policy::judge(command, role, args) != Verdict::Allowed {
                return None;
            }
            bytes += length;
            commands += 1;
            has_script |= is_script(name);
            match (command.class, command.name.as_str()) {
                (Class::Transaction, "exec" | "discard") if decoder.len() == 1 => {
                    return Some((bytes, commands, has_script));
                }
                (Class::Transaction, "multi") if commands == 1 && decoder.len() == 1 => {}
                // What they do to the writes of others has to be noted.
                (_, "client|pause" | "client|unpause") => return None,
                // Nothing blocks inside a transaction; the rest is queued as it is.
                (
                    Class::Shared
                    | Class::Counted
                    | Class::Admin
                    | Class::Filtered
                    | Class::Blocking
                    | Class::Stream
                    | Class::Wait,
                    _,
                )
                | (Class::Local, "ping" | "echo") => {}
                _ => return None,
            }
        }
        None
    }

    fn submit_transaction(
        &mut self,
        bytes: usize,
        replies: usize,
        has_script: bool,
    ) -> Result<usize, Next> {
        let input = std::mem::take(&mut self.input);
        let fate = if self.is_silent() {
            Fate::Drop
        } else {
            Fate::Forward
        };
        let block = input.get(..bytes).unwrap_or_default();
        let outcome = self.submit((block, has_script), replies, fate);
        self.input = input;
        outcome?;
        self.heard();
        Ok(bytes)
    }
}

/// As a RESP array.
const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";
