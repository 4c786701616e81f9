//! The unnamed statement: kept here to be prepared again where an upstream does not have it.

use super::{
    Session,
    meaning::{Surroundings, Way},
    names::Names,
    requests::Step,
};
use crate::postgres::{
    exchange::{Act, Reply, Undo},
    refusal,
    statement::Facts,
    wire::{self, Frame},
};

impl Session {
    pub(super) fn parse_unnamed(&mut self, frame: Frame, facts: Facts) -> Step {
        if let Err(refused) = self.permit(&facts, b'P') {
            return self.refuse_message(frame, refusal::error_bytes(&refused));
        }
        match self.settle_names(&facts) {
            Names::Ready => {}
            Names::Wait => return Step::Wait,
            Names::Refused(said) => return self.refuse_message(frame, said),
        }
        let parse = frame
            .body(self.client.inbound.unseen())
            .and_then(wire::parse);
        let rest = parse.map_or(&[0; 3][..], |parse| parse.rest);
        // Skipped after an error, it leaves the one before as it was.
        let open = self.exchange.is_unit_open();
        if open && !self.is_unnamed_sure() {
            return Step::Wait;
        }
        let before = open.then(|| self.statements.take_unnamed()).flatten();
        let unit = self.exchange.unit();
        let under = self.understanding();
        let serial = self.statements.set_unnamed(rest, facts, under, unit);
        if let Some(lease) = &mut self.lease {
            lease.upstream.unnamed = Some((self.seat.id(), serial));
        }
        let undo = Undo::Unnamed {
            serial,
            own: true,
            before: before.map(Box::new),
        };
        self.exchange.expect(Reply::Parse, Act::Forward, undo);
        self.pass(frame)
    }

    /// Whether it is known if the unnamed statement's Parse is carried out.
    pub(super) fn is_unnamed_sure(&self) -> bool {
        let unnamed = self.statements.unnamed();
        unnamed.is_none_or(|unnamed| self.exchange.is_settled(unnamed.unit))
    }

    /// A Bind or Describe of the unnamed statement: makes sure that it is the client's own.
    pub(super) fn use_unnamed(&mut self, frame: Frame, reply: Reply) -> Step {
        let Some(unnamed) = self.statements.unnamed() else {
            // An earlier unit's Close of it may turn out to be skipped.
            if !self.exchange.is_first_unit() {
                return Step::Wait;
            }
            return self.refuse_run(frame, refusal::unknown_statement(b""));
        };
        // Where its Parse fails, the upstream may still have somebody else's.
        if !self.exchange.is_settled(unnamed.unit) || self.exchange.is_comparing() {
            return Step::Wait;
        }
        if std::mem::take(&mut self.state.changed_unnamed) {
            return self.refuse_run(frame, refusal::changed_columns());
        }
        // What gives no columns never gives any, whatever is defined.
        let told = unnamed.gives_columns();
        let serial = unnamed.serial;
        let text = wire::split_cstr(&unnamed.rest).map_or(&unnamed.rest[..], |(text, _)| text);
        let verdict = self.judge(text, &unnamed.facts);
        let (facts, under) = (unnamed.facts.clone(), unnamed.under.clone());
        match self.settle_names(&facts) {
            Names::Ready => {}
            Names::Wait => return Step::Wait,
            Names::Refused(said) => return self.refuse_run(frame, said),
        }
        if reply == Reply::Bind && self.is_out_of_date(b"", &facts) {
            return self.refuse_run(frame, refusal::changed_columns());
        }
        if reply == Reply::Describe
            && let Some(step) = self.describe_here(frame, b"")
        {
            return step;
        }
        let mine = Some((self.seat.id(), serial));
        let lease = self.lease.as_ref();
        if lease.is_some_and(|lease| lease.upstream.unnamed != mine) {
            let unnamed = self.statements.unnamed();
            let miscounted =
                unnamed.and_then(|unnamed| self.miscounted(b"", &unnamed.rest, unnamed.types()));
            if let Some(said) = miscounted {
                return self.refuse_run(frame, said);
            }
            let way = self.way(&facts, under.as_ref());
            match self.read_again(&facts, &way, under.as_ref()) {
                Names::Ready => {}
                Names::Wait => return Step::Wait,
                Names::Refused(said) => return self.refuse_run(frame, said),
            }
            let around = match way {
                Way::Plain | Way::Anyhow => Surroundings::default(),
                Way::Within(around) => around,
                Way::Wait => return Step::Wait,
            };
            self.run_around(&around.before, &Act::Swallow, || Undo::Nothing);
            self.parse_unnamed_again(serial);
            let compares = told && facts.keeps_shape();
            if compares {
                self.ask_unnamed_shape(serial);
            }
            self.run_around(&around.after, &Act::Swallow, || Undo::Nothing);
            if let Some(lease) = self.lease.as_mut().filter(|_| compares) {
                wire::data(&mut lease.upstream.peer.out, b'H');
                return Step::Wait;
            }
        }
        self.note(&facts);
        self.weigh(verdict);
        let undo = match reply {
            Reply::Describe => Undo::Columns(serial),
            _ => Undo::Nothing,
        };
        self.exchange.expect(reply, Act::Forward, undo);
        self.pass(frame)
    }

    fn parse_unnamed_again(&mut self, serial: u64) {
        let (Some(lease), Some(unnamed)) = (&mut self.lease, self.statements.unnamed()) else {
            return;
        };
        let upstream = &mut lease.upstream;
        self.client.inbound.settle(&mut upstream.peer.out);
        let out = &mut upstream.peer.out;
        wire::parse_with_types(out, b"", &unnamed.rest, unnamed.types());
        upstream.unnamed = Some((self.seat.id(), serial));
        self.statements.resend_unnamed(self.exchange.unit());
        let undo = Undo::Unnamed {
            serial,
            own: false,
            before: None,
        };
        self.exchange.expect(Reply::Parse, Act::Swallow, undo);
    }

    pub(super) fn bind_unnamed(&mut self, frame: Frame, portal: &[u8]) -> Step {
        let step = self.use_unnamed(frame, Reply::Bind);
        let matters = |facts: &Facts| facts.deeds.is_some() || facts.change.is_some();
        let unnamed = self.statements.unnamed().map(|held| &held.facts);
        // On the usual way, nothing is copied.
        if matches!(step, Step::Done) && (!self.portals.is_empty() || unnamed.is_some_and(matters))
        {
            let facts = unnamed.cloned().unwrap_or_default();
            self.open_portal(portal, &facts);
        }
        step
    }
}
