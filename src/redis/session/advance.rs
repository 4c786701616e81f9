//! The hot path: commands out of the buffer, as many as can go without waiting.
//!
//! Ordinary commands that stand together go to the trunk as one slice of the bytes as sent; only
//! the name of each is looked at.

use bytes::{Buf, BytesMut};

use super::{
    Next, Replies, Session,
    exclusive::{Job, Then},
    request::Request,
};
use crate::{
    redis::{
        cluster,
        commands::{Class, Command, Lookup},
        policy::{self, Verdict},
        refusal,
        subscriptions::Count,
        trunk::{Commands, Correct, Fate, Rejected, is_script},
        wire::{Decoder, Step},
    },
    telemetry::SessionEnd,
    tenant::Role,
};

/// Ordinary commands at the start of the buffer.
#[derive(Clone, Copy, Default)]
struct Run {
    bytes: usize,
    replies: usize,
    has_script: bool,
}

impl Session {
    /// Takes commands out of the buffer until something has to be waited for.
    pub(super) fn advance(&mut self) -> Next {
        let mut run = Run::default();
        let mut room = match self.room_for_commands() {
            Ok(room) => room,
            Err(next) => return next,
        };
        loop {
            // Asked each time: a RESET makes a stranger of the client.
            let limits = self.limits();
            let rest = self.input.get(run.bytes..).unwrap_or_default();
            let step = self.decoder.decode(rest, limits);
            if let Ok(Step::Command { bytes }) = step
                && run.replies < room
                && self.is_ordinary(rest)
            {
                run.bytes += bytes;
                run.replies += 1;
                run.has_script |= is_script(self.decoder.arg(rest, 0));
                continue;
            }
            room = room.saturating_sub(run.replies);
            let shipped = run.replies > 0;
            if let Err(next) = self.ship(std::mem::take(&mut run)) {
                return next;
            }
            let outcome = match step {
                Err(fault) => self.end_malformed(&fault),
                Ok(Step::More) => Err(Next::Input),
                Ok(Step::Empty { bytes }) => Ok(bytes),
                // Decoded again: its place in the buffer has moved, or there is room no longer.
                Ok(Step::Command { .. }) if shipped || room == 0 => {
                    match self.room_for_commands() {
                        Ok(now) => room = now,
                        Err(next) => return next,
                    }
                    continue;
                }
                Ok(Step::Command { bytes }) => {
                    let request = Request::read(&self.decoder, &self.input, bytes);
                    self.traffic.commands += 1;
                    self.dispatch(&request)
                }
            };
            match outcome {
                Ok(bytes) => self.input.advance(bytes),
                Err(next) => return next,
            }
        }
    }

    /// Whether the command just decoded goes over a trunk as it is.
    fn is_ordinary(&self, bytes: &[u8]) -> bool {
        let Some(member) = &self.member else {
            return false;
        };
        if self.held.is_some()
            || member.station.trunks().is_stuck()
            || self.is_routed()
            || self.queue.is_some()
            || self.is_modal()
            || self.replies != Replies::On
            || !self.decoder.is_canonical()
        {
            return false;
        }
        let second = (self.decoder.len() > 1).then(|| self.decoder.arg(bytes, 1));
        match self
            .service
            .commands()
            .lookup(self.decoder.arg(bytes, 0), second)
        {
            Lookup::Known(command)
                if command.class == Class::Shared
                    || (command.class == Class::Counted && !member.station.hub().is_in_use()) =>
            {
                self.last.set(command.row);
                let args = std::iter::empty();
                (!member.station.pause().is_on() || !command.may_replicate())
                    && policy::judge(command, member.role, args) == Verdict::Allowed
            }
            _ => false,
        }
    }

    /// Hands ordinary commands at the start of the buffer to the trunk.
    fn ship(&mut self, run: Run) -> Result<(), Next> {
        if run.replies == 0 {
            return Ok(());
        }
        // Taken out for the call only, which needs the rest of the session.
        let mut input = std::mem::take(&mut self.input);
        let bytes = input.get(..run.bytes).unwrap_or_default();
        let fate = Fate::Forward;
        let outcome = self.submit((bytes, run.has_script), run.replies, fate);
        match &outcome {
            Ok(()) => {
                input.advance(run.bytes);
                self.traffic.commands += u64::try_from(run.replies).unwrap_or(u64::MAX);
            }
            // Not taken: they are the next to be read again, once there is a trunk.
            Err(_) => self.decoder = Decoder::default(),
        }
        self.input = input;
        outcome
    }

    /// Gives commands to the trunk, in their place after what is under way.
    pub(super) fn submit(
        &mut self,
        commands: (&[u8], bool),
        replies: usize,
        fate: Fate,
    ) -> Result<(), Next> {
        self.submit_as(commands, replies, fate, None)
    }

    fn submit_as(
        &mut self,
        (bytes, has_script): (&[u8], bool),
        replies: usize,
        fate: Fate,
        count: Option<Box<dyn Correct>>,
    ) -> Result<(), Next> {
        let commands = Commands {
            bytes,
            replies,
            database: self.database,
            fate,
            has_script,
        };
        if self.trunk.is_none() {
            let member = self.member.as_ref().ok_or(Next::End(SessionEnd::Goodbye))?;
            self.trunk = member.station.trunks().find(self.version, self.database);
        }
        let trunk = self.trunk.as_ref().ok_or(Next::Trunk)?;
        let submitted = match count {
            Some(count) => trunk.submit_counted(commands, &self.outbox, count),
            None => trunk.submit(commands, &self.outbox),
        };
        match submitted {
            Ok(()) => Ok(()),
            Err(Rejected::Full) => Err(Next::Room),
            Err(Rejected::Closed | Rejected::Stuck) => {
                let owed = self.outbox.standing().owed > 0;
                // What it still gives comes first; then another trunk carries the command.
                self.trunk = None;
                Err(if owed { Next::Settled(0) } else { Next::Trunk })
            }
        }
    }

    fn end_malformed(&mut self, fault: &impl std::error::Error) -> Result<usize, Next> {
        self.answer(|out, _| refusal::malformed(out, fault))?;
        self.input.clear();
        Err(Next::End(SessionEnd::Malformed))
    }

    /// Serves one command that is not ordinary; the bytes that it took from the buffer.
    ///
    /// # Errors
    /// What has to happen before the session goes on. Commands that are carried out by that have
    /// left the buffer; others are dispatched again.
    fn dispatch(&mut self, request: &Request) -> Result<usize, Next> {
        let Some(role) = self.member.as_ref().map(|member| member.role) else {
            return self.dispatch_stranger(request);
        };
        let service = std::sync::Arc::clone(&self.service);
        let lookup = service.commands().lookup(request.name(), request.second());
        let command = match lookup {
            Lookup::Known(command) => command,
            // `COMMAND` alone is a command, too.
            Lookup::MissingSubcommand(command) if command.takes(1) => {
                return self.share(request);
            }
            Lookup::MissingSubcommand(command) => {
                return self.decline(request, |out| refusal::wrong_arity(out, &command.name));
            }
            Lookup::UnknownSubcommand => return self.decline_subcommand(request),
            Lookup::Unknown => return self.dispatch_unknown(request, role),
        };
        self.last.set(command.row);
        match policy::judge(command, role, request.args()) {
            Verdict::Allowed => self.dispatch_known(request, command),
            Verdict::Denied => self.decline(request, |out| refusal::denied(out, &command.name)),
            Verdict::Never => self.decline(request, |out| refusal::unsupported(out, &command.name)),
        }
    }

    fn dispatch_known(&mut self, request: &Request, command: &Command) -> Result<usize, Next> {
        let is_served_here = !matches!(
            command.class,
            Class::Shared
                | Class::Counted
                | Class::Admin
                | Class::Filtered
                | Class::Stream
                | Class::Alone
        );
        if (is_served_here || self.is_modal()) && !command.takes(request.words.len()) {
            return self.reject(request, |out| refusal::wrong_arity(out, &command.name));
        }
        if self.is_modal()
            && command.class != Class::Subscribe
            && !["ping", "quit", "reset"].contains(&command.name.as_str())
        {
            return self.reject(request, |out| refusal::subscribed(out, &command.name));
        }
        self.note_pause(request, command);
        if self.queue.is_some() {
            return self.dispatch_queued(request, command);
        }
        if self.held.is_some() {
            return self.dispatch_held(request, command);
        }
        match command.class {
            _ if self.goes_aside(command) => {
                self.exclusively(request, Job::aside(request, command))
            }
            Class::Shared | Class::Counted | Class::Admin | Class::Stream
                if self.is_held_back(request, command) =>
            {
                self.exclusively(request, Job::Block(request.encoded(), None))
            }
            Class::Counted => self.share_counted(request, command),
            Class::Shared | Class::Admin | Class::Filtered => self.share(request),
            Class::Stream if !request.has_block() => self.share(request),
            Class::Blocking | Class::Stream => {
                let place = (self.version, self.database);
                let job = Job::block(request, place, self.is_routed());
                self.exclusively(request, job)
            }
            Class::Wait if self.is_routed() => {
                self.decline(request, |out| refusal::unsupported(out, &command.name))
            }
            Class::Wait => self.exclusively(request, Job::Wait(request.encoded())),
            Class::Alone => self.exclusively(request, Job::Alone(request.encoded())),
            Class::Local => self.dispatch_local(request, command),
            Class::Transaction => self.dispatch_transaction(request, command),
            Class::Subscribe => self.dispatch_subscribe(request, command),
            Class::Monitor => self.dispatch_bond(request, command),
            Class::Never | Class::Container => {
                self.decline(request, |out| refusal::unsupported(out, &command.name))
            }
        }
    }

    fn dispatch_unknown(&mut self, request: &Request, role: Role) -> Result<usize, Next> {
        let unknown = |out: &mut BytesMut| {
            refusal::unknown_command(out, request.name(), request.args());
        };
        if policy::is_poison(request.name()) {
            self.answer(|out, _| unknown(out))?;
            self.input.clear();
            return Err(Next::End(SessionEnd::Malformed));
        }
        if !policy::may_send_unknown(role)
            || request.name().is_empty()
            || self.queue.is_some()
            || self.is_modal()
            || self.is_monitoring()
        {
            return self.decline(request, unknown);
        }
        if self.held.is_some() {
            return self.continue_with(request, request.encoded(), Then::Taint);
        }
        self.exclusively(request, Job::Alone(request.encoded()))
    }

    /// Sends one command over the trunk.
    pub(super) fn share(&mut self, request: &Request) -> Result<usize, Next> {
        if self.queue.is_some() {
            return self.append_queued(request);
        }
        if self.is_routed() {
            return self.route(request);
        }
        let fate = if self.is_silent() {
            Fate::Drop
        } else {
            Fate::Forward
        };
        let command = (&request.encoded()[..], is_script(request.name()));
        self.submit(command, 1, fate)?;
        self.heard();
        Ok(request.bytes)
    }

    /// Sends one command over the trunk whose reply is counts of subscribers.
    fn share_counted(&mut self, request: &Request, command: &Command) -> Result<usize, Next> {
        let hub = self.member.as_ref().map(|member| member.station.hub());
        let count = hub.and_then(|hub| Count::of(hub, &command.name, &request.words));
        let Some(count) = count.filter(|_| !self.is_silent()) else {
            return self.share(request);
        };
        if self.is_routed() {
            return self.route_counted(request, Box::new(count));
        }
        let count = Box::new(count);
        self.submit_as((&request.encoded(), false), 1, Fate::Forward, Some(count))?;
        Ok(request.bytes)
    }

    /// Refuses one command; a transaction that it belongs to cannot be carried out any more.
    pub(super) fn decline(
        &mut self,
        request: &Request,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<usize, Next> {
        self.answer(|out, _| write(out))?;
        if let Some(queue) = &mut self.queue {
            queue.spoil();
        }
        if let Some(held) = &mut self.held {
            held.is_dirty |= held.in_multi;
        }
        Ok(request.bytes)
    }

    /// Leaves the trunk for an upstream of the client's own, once nothing is owed.
    pub(super) fn exclusively(&mut self, request: &Request, job: Job) -> Result<usize, Next> {
        if self.outbox.standing().owed > 0 {
            return Err(Next::Settled(0));
        }
        self.input.advance(request.bytes);
        if self.held.is_none() {
            self.slot = cluster::slot_of(&request.words);
        }
        Err(Next::Exclusive(job))
    }

    /// One command has been answered or silenced.
    pub(super) fn heard(&mut self) {
        if self.replies == Replies::SkipNext {
            self.replies = Replies::On;
        }
    }
}
