//! What the upstream answers: passed to the client, kept back, or taken note of.

use std::sync::Arc;

use super::{
    Run, Session, Stop,
    columns::out_of_date,
    outcomes::{plain, reworded, undo},
};
use crate::{
    fault::Refusal,
    postgres::{
        exchange::{Act, Expect, IDLE, Undo},
        rank::{IN_HOT_STANDBY, READ_ONLY},
        refusal,
        settings::{Parameters, pair},
        statement::is_plain,
        upstream::Upstream,
        wire::{self, Frame},
    },
    tenant::Role,
};

/// Messages above this are not held to be looked at; those that matter are far shorter.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// The largest `ParameterDescription`: 65,535 types. No `RowDescription` is longer: 1,664 columns.
const SHAPE_BYTES_MAX: usize = wire::HEADER_BYTES + 2 + 65_535 * 4;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    Drop,
}

impl Session {
    /// Reads all that has come from the upstream.
    pub(super) fn digest_replies(&mut self) -> Result<(), Stop> {
        loop {
            self.say_made();
            let Some(lease) = &mut self.lease else {
                return Ok(());
            };
            let inbound = &mut lease.upstream.peer.inbound;
            if self.reply.left > 0 {
                let count = self.reply.left.min(inbound.unseen().len());
                if count == 0 {
                    return Ok(());
                }
                if self.reply.dropped {
                    inbound.skip(count, &mut self.client.out);
                } else {
                    inbound.pass(count);
                }
                self.reply.left -= count;
                continue;
            }
            let Some(frame) = wire::backend_head(inbound.unseen()).map_err(Stop::Broken)? else {
                return Ok(());
            };
            // Rows come in great numbers, and what becomes of one becomes of all.
            let rows = frame.tag == b'D' && !self.exchange.is_telling();
            let left = if rows || frame.tag == b'd' {
                wire::run_of(inbound.unseen(), frame)
            } else {
                frame.bytes
            };
            let Some(fate) = self.reply(frame)? else {
                return Ok(());
            };
            self.reply = Run {
                left,
                dropped: fate == Fate::Drop,
            };
        }
    }

    /// Answers that were given here and whose turn has come.
    pub(super) fn say_made(&mut self) {
        if self.reply.left > 0 {
            return;
        }
        while let Some(message) = self.exchange.next_made() {
            if let Some(lease) = &mut self.lease {
                lease.upstream.peer.inbound.settle(&mut self.client.out);
            }
            self.client.out.extend_from_slice(&message);
        }
    }

    /// One message; `None` if more of it must come first.
    fn reply(&mut self, frame: Frame) -> Result<Option<Fate>, Stop> {
        let Some(lease) = &mut self.lease else {
            return Ok(None);
        };
        let fate = fate_of(self.exchange.act());
        let looked_at = match frame.tag {
            b'Z' | b'S' | b'E' | b'C' | b'A' => true,
            b'D' => self.exchange.is_telling(),
            b'T' | b'n' | b't' => self.exchange.undo().is_some_and(Undo::hears_shape),
            _ => false,
        };
        let describes = matches!(frame.tag, b't' | b'T');
        let max = if describes {
            SHAPE_BYTES_MAX
        } else {
            BODY_BYTES_MAX
        };
        let long = frame.bytes > max;
        if long && frame.tag == b'E' {
            // That it is one matters more than what it says, and the rest need not be held.
            return Ok(Some(self.error(frame)));
        }
        if long && looked_at {
            match frame.tag {
                b'D' => self.state.findings.fail(),
                b't' | b'T' => self.state.described = None,
                _ => {}
            }
        }
        if !looked_at || long {
            return Ok(Some(plain(
                &mut self.exchange,
                &mut lease.upstream,
                frame.tag,
                fate,
            )));
        }
        let Upstream { peer, .. } = &*lease.upstream;
        let Some(body) = frame.body(peer.inbound.unseen()) else {
            return Ok(None);
        };
        match frame.tag {
            b'D' => {
                if matches!(self.exchange.act(), Act::Audit) {
                    self.state.findings.row(body);
                } else {
                    self.state.understood.extend(pair(body));
                }
                Ok(Some(fate))
            }
            b'A' => Ok(Some(self.notification(frame))),
            b't' => {
                self.described(frame);
                Ok(Some(fate))
            }
            b'T' | b'n' => {
                let columns = (frame.tag == b'T').then(|| wire::columns_digest(body));
                self.compare(columns);
                drop(self.exchange.answered(frame.tag));
                Ok(Some(fate))
            }
            b'S' => Ok(Some(self.status(frame, fate))),
            b'C' => Ok(Some(self.complete(frame, fate))),
            b'E' => Ok(Some(self.error(frame))),
            _ => {
                let status = body.first().copied().unwrap_or(IDLE);
                self.ready(status).map(Some)
            }
        }
    }

    /// `ParameterStatus`: the client hears it if it did not know.
    fn status(&mut self, frame: Frame, fate: Fate) -> Fate {
        let Some(lease) = &mut self.lease else {
            return fate;
        };
        let upstream = &mut lease.upstream;
        let Upstream {
            peer,
            reported,
            known,
            rank,
            ..
        } = &mut **upstream;
        let body = frame.body(peer.inbound.unseen()).unwrap_or_default();
        let Some((name, value)) = wire::status_pair(body) else {
            return fate;
        };
        if name == IN_HOT_STANDBY {
            *rank = None;
            self.tenancy.note_standby(value);
            self.source.promoted();
        }
        let pair = (name.to_owned(), value.to_owned());
        let before = reported.insert(pair.0.clone(), pair.1.clone());
        let ours = matches!(
            self.exchange.act(),
            Act::Settings | Act::Swallow | Act::Load
        );
        let announced = self.state.shifted || self.exchange.sets_parameters() || ours;
        if !announced && before.as_ref() != Some(&pair.1) && !is_plain(name.as_bytes()) {
            // No text told of it: a function has done it, or the server's own settings have changed.
            self.state.shifted = true;
            self.state.suspect = true;
        }
        let guarded = self.role == Role::Read && name == READ_ONLY;
        if guarded && fate == Fate::Pass {
            // A function of the tenant's may do what its text does not show: put it right again.
            *known = known.overlaid(std::iter::once((name, value)));
        }
        if matches!(self.exchange.act(), Act::Hold | Act::Restore) {
            return Fate::Drop;
        }
        if self.told.tell(&pair.0, &pair.1) {
            Fate::Pass
        } else {
            fate
        }
    }

    /// `CommandComplete`: some tags say that prepared statements are gone.
    fn complete(&mut self, frame: Frame, fate: Fate) -> Fate {
        let Some(lease) = &mut self.lease else {
            return fate;
        };
        let upstream = &mut lease.upstream;
        let body = frame
            .body(upstream.peer.inbound.unseen())
            .unwrap_or_default();
        let ours = matches!(self.exchange.act(), Act::Swallow | Act::Load);
        // By Execute, they were given up when it was sent.
        let by_query = matches!(self.exchange.undo(), Some(Undo::DeallocateAll));
        if !ours && by_query && matches!(body, b"DISCARD ALL\0" | b"DEALLOCATE ALL\0") {
            drop(self.statements.take_named());
            self.state.outdated.clear();
            upstream.statements.clear(self.exchange.outstanding() <= 1);
        } else if matches!(self.exchange.undo(), Some(Undo::TakeAll(_))) {
            // What was prepared since is held, and nothing else is there.
            upstream.statements.be_sure();
        } else if !ours && matches!(body, b"DISCARD ALL\0" | b"DEALLOCATE ALL\0") {
            upstream.statements.clear(false);
        }
        let listens = body == b"LISTEN\0" && self.state.kept.is_none();
        self.state.listened |= listens;
        self.completed();
        let Some(lease) = &mut self.lease else {
            return fate;
        };
        plain(&mut self.exchange, &mut lease.upstream, frame.tag, fate)
    }

    /// `ErrorResponse`: what was asked up to the next Sync is void.
    fn error(&mut self, frame: Frame) -> Fate {
        self.keep_names();
        let Some(lease) = &mut self.lease else {
            return Fate::Pass;
        };
        let upstream = &mut lease.upstream;
        let unseen = upstream.peer.inbound.unseen();
        let body = frame.body(unseen).unwrap_or_default();
        let whole = unseen.get(..frame.bytes).unwrap_or_default();
        if let Some(Undo::Use(_, name)) = self.exchange.undo()
            && let Some(statement) = self.statements.find(name)
            && refusal::is_stale_plan(body)
        {
            self.tenancy.catalogue.outdate(statement);
        }
        if refusal::is_read_only(body) {
            self.source.doubt();
        }
        let late = out_of_date(&self.exchange, body);
        let mut said = None;
        let fate = match self.exchange.act() {
            Act::Settings => {
                self.state.failure = Some(whole.into());
                Fate::Drop
            }
            Act::Audit => {
                self.state.findings.fail();
                Fate::Drop
            }
            Act::Replace(bytes) => {
                said = Some(bytes.clone());
                Fate::Drop
            }
            Act::Load => {
                self.state.unloaded = Some(whole.into());
                Fate::Drop
            }
            Act::Look | Act::Restore => Fate::Drop,
            Act::Forward | Act::Swallow | Act::Say(_) | Act::Tell(_) | Act::Hold => {
                said = reworded(&self.exchange, whole);
                said.as_ref().map_or(Fate::Pass, |_| Fate::Drop)
            }
        };
        self.state.fail();
        let unknown = refusal::is_unknown_statement(body);
        if is_fatal(body) {
            self.state.failure = Some(whole.into());
        }
        if let Some(said) = said {
            upstream.peer.inbound.settle(&mut self.client.out);
            self.client.out.extend_from_slice(&said);
        }
        if !unknown && matches!(self.exchange.undo(), Some(Undo::Deallocate(_))) {
            // What bears the name for it is still there.
            upstream.statements.clear(false);
        }
        let mut void = self.exchange.failed();
        if unknown && let Some(Undo::Use(id, _)) = void.last().map(|failed| &failed.undo) {
            upstream.statements.doubt(*id);
        }
        if let Some(Expect { undo, .. }) = void.last_mut()
            && let Undo::Unnamed { before, .. } = undo
        {
            // The one that failed has taken the place of what was there.
            *before = None;
        }
        for expect in void {
            undo(expect, &mut self.state, &mut self.statements, upstream);
        }
        if let Some((name, statement)) = late {
            self.is_late(&name, &statement);
        }
        fate
    }

    /// `ReadyForQuery`: a unit is over.
    fn ready(&mut self, status: u8) -> Result<Fate, Stop> {
        self.mind_end(status);
        let ended = self.exchange.ready(status);
        if self.by_statement && status != IDLE {
            return Err(Stop::Refused(no_transactions()));
        }
        self.tally.units += 1;
        if status == IDLE {
            self.defined();
        }
        let state = &mut self.state;
        if status == IDLE && self.exchange.is_quiet() {
            self.portals.clear();
            state.shifted &= state.suspect || state.weighing.sets;
            self.rest_quotes();
        }
        let ended = ended.map(|expect| {
            if !matches!(
                expect.act,
                Act::Load | Act::Settings | Act::Audit | Act::Look
            ) {
                self.state.unloaded = None;
            }
            if let Undo::Set(pair, true) = expect.undo {
                self.parameter_set(&pair.0, pair.1.as_deref(), status);
            }
            expect.act
        });
        match ended {
            Some(Act::Settings) => match self.state.failure.take() {
                Some(said) => Err(Stop::Failed(said)),
                None => Ok(Fate::Drop),
            },
            Some(Act::Audit) => {
                self.conclude();
                Ok(Fate::Drop)
            }
            Some(Act::Swallow | Act::Hold | Act::Load | Act::Look) => Ok(Fate::Drop),
            Some(Act::Restore) => {
                self.tell_parameters();
                Ok(self.keep_ready(status))
            }
            Some(Act::Forward | Act::Say(_) | Act::Tell(_) | Act::Replace(_)) | None => {
                Ok(self.keep_ready(status))
            }
        }
    }
}

/// In pool mode `statement` the next statement may run on another upstream.
pub(super) fn no_transactions() -> Refusal {
    let what = "a transaction block in pool mode statement".to_owned();
    Refusal::Unsupported { what }
}

fn fate_of(act: &Act) -> Fate {
    match act {
        Act::Forward | Act::Replace(_) | Act::Say(_) | Act::Tell(_) | Act::Hold => Fate::Pass,
        Act::Swallow | Act::Load | Act::Restore | Act::Settings | Act::Audit | Act::Look => {
            Fate::Drop
        }
    }
}

fn is_fatal(body: &[u8]) -> bool {
    let mut fields = wire::error_fields(body);
    fields.any(|(letter, text)| letter == b'V' && matches!(text, b"FATAL" | b"PANIC"))
}

/// The parameters of a session, with what its role demands.
pub(in crate::postgres) fn demanded(role: Role, wanted: Arc<Parameters>) -> Arc<Parameters> {
    match role {
        Role::Read => wanted.overlaid(std::iter::once((READ_ONLY, "on"))),
        Role::Write | Role::Admin => wanted,
    }
}
