//! What the client sends: passed to the upstream, rewritten, or answered here.

use std::sync::Arc;

use super::{Need, Run, Session, Stop, names::Names, replies::no_transactions};
use crate::{
    fault::Refusal,
    postgres::{
        exchange::{Act, IDLE, Reply, Undo},
        policy, refusal,
        settings::Parameters,
        statement::Facts,
        upstream::Upstream,
        wire::{self, Frame},
    },
    tenant::Role,
};

/// Without a Sync, this much is collected before an upstream is taken for it.
const COLLECTED_BYTES_MAX: usize = 8 * 1024;
/// Messages under way at once; beyond, the client is not read.
const OUTSTANDING_MAX: usize = 10_000;

/// What became of a message.
pub(super) enum Step {
    /// It is taken care of.
    Done,
    /// More of it must come first.
    Incomplete,
    /// What earlier units did must be known first.
    Wait,
    /// The client says goodbye.
    Goodbye,
}

/// Whether the bytes hold a unit that is worth an upstream: up to a Sync, a Flush or a query, or much.
pub(super) fn unit_is_ready(unseen: &[u8], statement_bytes_max: usize) -> bool {
    let mut at = 0;
    loop {
        let rest = unseen.get(at..).unwrap_or_default();
        let Ok(Some(frame)) = wire::frontend_head(rest, statement_bytes_max) else {
            return at >= COLLECTED_BYTES_MAX;
        };
        let whole = frame.body(rest).is_some();
        match frame.tag {
            b'Q' | b'P' if !whole => return at >= COLLECTED_BYTES_MAX,
            b'Q' | b'F' | b'S' | b'H' => return true,
            _ if !whole => return unseen.len() >= COLLECTED_BYTES_MAX,
            _ => at += frame.bytes,
        }
    }
}

impl Session {
    /// Reads all that has come from the client, as far as it may go on.
    pub(super) fn digest_requests(&mut self) -> Result<Need, Stop> {
        loop {
            if self.request.left > 0 {
                if !self.run_on() {
                    return Ok(Need::Input);
                }
                continue;
            }
            let head = wire::frontend_head(self.client.inbound.unseen(), self.limits());
            let Some(frame) = head.map_err(Stop::Refused)? else {
                return Ok(Need::Input);
            };
            if self.lease.is_none() {
                match self.without_upstream(frame)? {
                    Some(need) => return Ok(need),
                    None => continue,
                }
            }
            // What may have changed the session is asked for before anything else runs in it; copy
            // data belongs to what runs.
            let copies = matches!(frame.tag, b'd' | b'c' | b'f');
            // A client that hears something has its units one by one: between them it is told.
            let one_by_one = self.state.suspect
                || self.state.weighing.sets
                || self.ears.as_ref().is_some_and(|ears| ears.hears());
            let busy = self.ears.as_ref().is_some_and(|ears| ears.is_busy());
            let begins = busy || self.exchange.is_between_units() && one_by_one;
            if !copies && (begins || self.exchange.outstanding() > OUTSTANDING_MAX) {
                return Ok(Need::Replies);
            }
            if self.exchange.is_quiet() {
                if !copies && !self.begin_hearing() {
                    return Ok(Need::Replies);
                }
                self.apply_parameters();
            }
            let naming = self.state.native && self.exchange.is_loading();
            if naming || self.bring_names() {
                return Ok(Need::Replies);
            }
            match self.request(frame)? {
                Step::Done => {}
                Step::Incomplete => return Ok(Need::Input),
                Step::Wait => return Ok(Need::Replies),
                Step::Goodbye => return Err(Stop::Goodbye),
            }
        }
    }

    /// The rest of a message that is not looked at; false if more of it must come.
    fn run_on(&mut self) -> bool {
        let count = self.request.left.min(self.client.inbound.unseen().len());
        if count == 0 {
            return false;
        }
        match &mut self.lease {
            Some(lease) if self.request.dropped => {
                self.client
                    .inbound
                    .skip(count, &mut lease.upstream.peer.out);
            }
            Some(_) => self.client.inbound.pass(count),
            None => self.client.inbound.skip(count, &mut bytes::BytesMut::new()),
        }
        self.request.left -= count;
        true
    }

    /// A message while there is no upstream; `None` if it is taken care of.
    fn without_upstream(&mut self, frame: Frame) -> Result<Option<Need>, Stop> {
        if frame.tag == b'X' {
            return Err(Stop::Goodbye);
        }
        // Copy data after a COPY that failed: the server leaves it out too.
        let stray = matches!(frame.tag, b'd' | b'c' | b'f');
        if self.refusing || stray {
            if frame.tag == b'S' {
                self.refusing = false;
                wire::ready(&mut self.client.out, IDLE);
            }
            self.request = Run {
                left: frame.bytes,
                dropped: true,
            };
            return Ok(None);
        }
        if self.answer_locally() {
            return Ok(None);
        }
        let ready = unit_is_ready(self.client.inbound.unseen(), self.limits());
        Ok(Some(if ready { Need::Lease } else { Need::Input }))
    }

    /// Before a unit begins: the upstream's session becomes the client's.
    fn apply_parameters(&mut self) {
        let Some(lease) = &mut self.lease else {
            return;
        };
        let Upstream {
            peer,
            known,
            unnamed,
            ..
        } = &mut *lease.upstream;
        if Arc::ptr_eq(known, &self.wanted) {
            return;
        }
        if let Some(text) = Parameters::difference(&self.wanted, known) {
            self.client.inbound.settle(&mut peer.out);
            wire::query(&mut peer.out, &text);
            *unnamed = None;
            let reading = super::quotes::is_reading_changed(known, &self.wanted);
            *known = Arc::clone(&self.wanted);
            if reading {
                self.reread();
            }
            self.exchange
                .expect(Reply::Query, Act::Settings, Undo::Nothing);
        } else {
            Parameters::unite(&mut self.wanted, known);
        }
    }

    fn request(&mut self, frame: Frame) -> Result<Step, Stop> {
        if self.exchange.is_skipping() && !matches!(frame.tag, b'S' | b'X') {
            self.request = Run {
                left: frame.bytes,
                dropped: true,
            };
            return Ok(Step::Done);
        }
        match frame.tag {
            b'Q' => self.query(frame),
            b'P' => self.parse(frame),
            b'B' => self.bind(frame),
            b'D' | b'C' => self.describe_or_close(frame),
            b'E' => Ok(self.execute(frame)),
            b'F' => self.call(frame),
            b'S' if self.exchange.copy_in() => Ok(self.pass(frame)),
            b'S' => Ok(self.forward(frame, Reply::Sync)),
            b'H' => Ok(self.pass(frame)),
            b'd' | b'c' | b'f' => {
                // Data that was sent ahead waits until it is asked for, or turns out to be stray.
                if !self.exchange.copy_in() && self.exchange.outstanding() > 0 {
                    return Ok(Step::Wait);
                }
                if frame.tag != b'd' {
                    self.exchange.copy_done();
                }
                let wanted = self.exchange.is_busy();
                self.request = Run {
                    left: frame.bytes,
                    dropped: !wanted,
                };
                Ok(Step::Done)
            }
            b'X' => Ok(Step::Goodbye),
            _ => Err(Stop::Refused(Refusal::Malformed {
                what: "unexpected message type",
            })),
        }
    }

    pub(super) fn pass(&mut self, frame: Frame) -> Step {
        self.request = Run {
            left: frame.bytes,
            dropped: false,
        };
        Step::Done
    }

    pub(super) fn forward(&mut self, frame: Frame, reply: Reply) -> Step {
        self.exchange.expect(reply, Act::Forward, Undo::Nothing);
        self.pass(frame)
    }

    fn query(&mut self, frame: Frame) -> Result<Step, Stop> {
        let Some(body) = frame.body(self.client.inbound.unseen()) else {
            return Ok(Step::Incomplete);
        };
        let Some((text, [])) = wire::split_cstr(body) else {
            return Err(malformed("invalid Query message"));
        };
        let Some(facts) = self.scan_here(text) else {
            return Ok(Step::Wait);
        };
        let verdict = self.judge(text, &facts);
        let names = facts.needs_names() || facts.deallocates().is_some();
        if names && !self.exchange.is_first_unit() {
            return Ok(Step::Wait);
        }
        self.statements.forget_unnamed();
        if let Some(lease) = &mut self.lease {
            lease.upstream.unnamed = None;
        }
        if let Err(refused) = self.permit(&facts, b'Q') {
            return Ok(self.refuse_query(frame, &refused));
        }
        match self.settle_names(&facts) {
            Names::Ready => {}
            Names::Wait => return Ok(Step::Wait),
            Names::Refused(said) => return Ok(self.replace_query(frame, said)),
        }
        if self.is_out_of_date(b"", &facts) {
            return Ok(self.replace_query(frame, refusal::changed_columns()));
        }
        if let Some(change) = &facts.change {
            return Ok(self.change(frame, &facts, change));
        }
        self.note(&facts);
        self.weigh(verdict);
        if let Some(name) = facts.deallocates() {
            return Ok(self.deallocate(frame, &facts, name));
        }
        let undo = if facts.deallocates_all() {
            Undo::DeallocateAll
        } else {
            self.give_up(&facts)
        };
        self.exchange.expect(Reply::Query, Act::Forward, undo);
        Ok(self.pass(frame))
    }

    /// A function that is called by number: nothing tells what it does to the session.
    fn call(&mut self, frame: Frame) -> Result<Step, Stop> {
        let body = wire::HEADER_BYTES..wire::HEADER_BYTES + 4;
        if frame.bytes < body.end {
            return Err(malformed("invalid FunctionCall message"));
        }
        let number = self.client.inbound.unseen().get(body);
        let Some(number) = number.and_then(|bytes| bytes.first_chunk::<4>()) else {
            return Ok(Step::Incomplete);
        };
        let number = u32::from_be_bytes(*number);
        if policy::may_call(self.role, number) {
            self.state.suspect = true;
            self.weigh_number(number);
            return Ok(self.forward(frame, Reply::Query));
        }
        let what = "a call of this function by number".into();
        self.refuse_query(Frame { bytes: 0, ..frame }, &Refusal::NotPermitted { what });
        self.request = Run {
            left: frame.bytes,
            dropped: true,
        };
        Ok(Step::Done)
    }

    /// Whether the client may run a text, here and now, in a message of that type.
    pub(super) fn permit(&self, facts: &Facts, tag: u8) -> Result<(), Refusal> {
        policy::check(self.role, facts)?;
        if self.by_statement && facts.begins {
            return Err(no_transactions());
        }
        // Alone, a reset is put right before anything else runs.
        let apart = tag == b'Q' && !facts.begins && self.exchange.is_unused();
        if self.role == Role::Read && facts.resets_all && !apart {
            let what = "to reset the session inside of a transaction while read-only";
            return Err(Refusal::NotPermitted { what: what.into() });
        }
        if facts.names_ours {
            let what = "to name a statement that polypool has prepared".into();
            return Err(Refusal::NotPermitted { what });
        }
        let names = facts.needs_names() || facts.deallocates().is_some();
        if names && tag == b'Q' && self.exchange.is_unit_open() && !self.state.native {
            let what = "a statement by name while messages before it have no Sync".into();
            return Err(Refusal::Unsupported { what });
        }
        let own = |name: &String| match name.as_str() {
            "all" => self.startup.iter().next().is_some(),
            name => self.startup.find(name).is_some(),
        };
        if facts.resets.iter().any(own) {
            let what =
                "to reset a parameter that the connection began with, and go on in the same text";
            return Err(Refusal::Unsupported { what: what.into() });
        }
        let alone = self.exchange.is_quiet() && self.pin().is_none();
        if facts.recalls_sequence && !facts.advances_sequence && alone {
            let what = "currval or lastval outside of the transaction that advanced the sequence";
            return Err(Refusal::Unsupported { what: what.into() });
        }
        Ok(())
    }

    /// Takes note of what a statement may do to the session.
    pub(super) fn note(&mut self, facts: &Facts) {
        self.remember_unlisted(facts.parameters.iter().cloned());
        if let Some(reason) = facts.sticks {
            self.keep(reason);
        }
        let pinned = self.state.pinned.is_some();
        if facts.notifies {
            self.claim();
        }
        if facts.listens && self.ears.as_ref().is_some_and(|ears| ears.hears()) {
            self.state.suspect = true;
        }
        self.note_names(facts);
        self.note_quotes(facts);
        self.state.shifted |= facts.shifts;
        self.state.suspect |= facts.touches_session || pinned && facts.may_clean;
        let defines = facts.defines.then(|| self.exchange.unit());
        self.state.defines = defines.or(self.state.defines);
    }

    /// In the place of a message that the client may not send: one that fails.
    fn refuse_query(&mut self, frame: Frame, refused: &Refusal) -> Step {
        self.replace_query(frame, refusal::error_bytes(refused))
    }

    pub(super) fn replace_query(&mut self, frame: Frame, said: Box<[u8]>) -> Step {
        let Some(lease) = &mut self.lease else {
            return Step::Done;
        };
        lease.upstream.unnamed = None;
        let out = &mut lease.upstream.peer.out;
        self.client.inbound.skip(frame.bytes, out);
        wire::query(out, "!");
        self.exchange
            .expect(Reply::Query, Act::Replace(said), Undo::Nothing);
        Step::Done
    }

    /// As [`Self::refuse_query`], in an extended unit: everything up to Sync is then skipped.
    pub(super) fn refuse_message(&mut self, frame: Frame, said: Box<[u8]>) -> Step {
        let Some(lease) = &mut self.lease else {
            return Step::Done;
        };
        let out = &mut lease.upstream.peer.out;
        self.client.inbound.skip(frame.bytes, out);
        // No statement has this name, so that the Bind fails in whatever state the server is.
        if wire::bind_with_name(out, b"", "pp?", 6).is_some() {
            out.extend_from_slice(&[0; 6]);
        }
        self.exchange
            .expect(Reply::Bind, Act::Replace(said), Undo::Nothing);
        Step::Done
    }
}

pub(super) fn malformed(what: &'static str) -> Stop {
    Stop::Refused(Refusal::Malformed { what })
}
