//! What a session hears by the tenant's shared listener, and when it hands it on.
//!
//! The channels (`channels`) were found by asking the upstream on which the client's LISTEN was
//! committed; the upstream stays until they are handed over. From then on their notifications come from
//! the shared listener, and are handed on as a server does it: when nothing is under way, or before the
//! `ReadyForQuery` that ends a transaction, with all that was notified before.

use std::{collections::BTreeSet, sync::Arc};

use super::{Besides, Session, Stop, replies::Fate};
use crate::{
    fault::Refusal,
    postgres::{
        exchange::{Act, IDLE, Reply, Undo},
        flow::BUFFER_BYTES,
        listen::{Channel, End, Hub, Member},
        wire,
    },
};

/// What the shared listener hears for one client.
pub(super) struct Ears {
    pub(super) hub: Arc<Hub>,
    pub(super) member: Arc<Member>,
    /// The channels whose notifications come from there.
    pub(super) heard: BTreeSet<Channel>,
    /// Channels that are being handed over.
    pub(super) joining: Vec<Channel>,
    pub(super) handover: Handover,
    /// What the listener was asked, and has not answered.
    pub(super) asked: Option<Question>,
    /// The client's unit is over, but what was notified before it ended may still be on its way.
    pub(super) owes_ready: bool,
    /// The server process that works for the client, as the listener knows.
    pub(super) process: Option<u32>,
}

/// How far channels have been handed over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Handover {
    /// There are none to be.
    Rest,
    /// The listener is to listen to them.
    Asked,
    /// Both do; the token is on its way to both.
    Sent,
    /// It has come to the session's upstream, which is not heard any more.
    Cut,
}

/// What the listener's answer is waited for with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// To listen to more channels.
    Join,
    /// Before a client begins: what its upstream notified for others is told apart.
    Begin,
    /// Before its unit ends.
    Ready,
    /// Before its upstream goes to others.
    Release,
}

impl Ears {
    /// Whether the client must wait, and its upstream stay.
    pub(super) fn is_busy(&self) -> bool {
        self.asked.is_some() || self.owes_ready || self.handover != Handover::Rest
    }

    /// Whether the shared listener hears anything for the client.
    pub(super) fn hears(&self) -> bool {
        !self.heard.is_empty()
    }

    /// Whether notifications wait.
    pub(super) fn has_mail(&self) -> bool {
        self.member.has_mail()
    }

    pub(super) fn member(&self) -> &Member {
        &self.member
    }

    /// False: there is nobody to ask.
    fn ask(&mut self, question: Question) -> bool {
        let asked = self.hub.sync(&self.member);
        self.asked = asked.then_some(question);
        asked
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.hub.leave(&self.member, self.heard.iter());
        if let Some(process) = self.process {
            self.hub.disown(process);
        }
    }
}

impl Session {
    pub(super) fn ears(&mut self) -> &mut Ears {
        self.ears.get_or_insert_with(|| {
            let bytes_max = self.service.settings.notifications_bytes_max;
            Box::new(Ears {
                hub: Arc::clone(&self.tenancy.hub),
                member: Member::new(self.seat.id(), bytes_max),
                heard: BTreeSet::new(),
                joining: Vec::new(),
                handover: Handover::Rest,
                asked: None,
                owes_ready: false,
                process: None,
            })
        })
    }

    /// Goes on with what waited for the listener, and hands on what it has heard.
    pub(super) fn attend(&mut self) -> Result<(), Stop> {
        let Some(ears) = &mut self.ears else {
            return Ok(());
        };
        match ears.member.ended() {
            None => {}
            Some(End::Full) => return Err(Stop::Flooded),
            // The upstream listens still, so nothing is missed.
            Some(End::Lost(_)) if !ears.hears() && ears.handover == Handover::Asked => {
                self.keep_listening();
                return Ok(());
            }
            Some(End::Lost(_)) if !ears.hears() && ears.handover == Handover::Rest => {
                ears.asked = None;
                ears.process = None;
            }
            Some(End::Lost(said)) => return Err(Stop::Unheard(said)),
        }
        if ears.asked.is_some() && ears.member.take_answer() {
            self.answered()?;
        }
        self.finish_handover()?;
        self.end_unit()?;
        self.hand_on(BUFFER_BYTES)?;
        if self.ears.as_ref().is_some_and(|ears| {
            !ears.hears() && !ears.is_busy() && ears.process.is_none() && !ears.has_mail()
        }) {
            self.ears = None;
        }
        Ok(())
    }

    fn answered(&mut self) -> Result<(), Stop> {
        let (Some(ears), Some(lease)) = (&mut self.ears, &mut self.lease) else {
            return Ok(());
        };
        let process = lease.upstream.cancel.pid;
        match ears.asked.take() {
            Some(Question::Join) => {
                let token = ears.hub.token(&ears.member);
                ears.handover = Handover::Sent;
                self.run_aside(&token);
                self.run_aside("UNLISTEN *");
            }
            Some(Question::Begin) => {
                let own = ears.hub.own(process, self.desk.key().0);
                ears.process = own.then_some(process);
            }
            Some(Question::Ready) => {
                self.hand_on(usize::MAX)?;
                self.say_ready();
            }
            Some(Question::Release) => {
                ears.hub.disown(process);
                ears.process = None;
            }
            None => {}
        }
        Ok(())
    }

    /// Runs a text of ours that cannot fail but with the connection.
    pub(super) fn run_aside(&mut self, text: &str) {
        if let Some(lease) = &mut self.lease {
            let upstream = &mut lease.upstream;
            self.client.inbound.settle(&mut upstream.peer.out);
            wire::query(&mut upstream.peer.out, text);
            upstream.unnamed = None;
            self.exchange
                .expect(Reply::Query, Act::Settings, Undo::Nothing);
        }
    }

    /// The end of a unit that is kept back: what was notified before it comes first.
    fn end_unit(&mut self) -> Result<(), Stop> {
        let Some(ears) = &mut self.ears else {
            return Ok(());
        };
        // What the unit did to the list must be known.
        let settled = self.exchange.is_quiet() && !self.state.suspect && ears.asked.is_none();
        if ears.owes_ready && settled && !ears.ask(Question::Ready) {
            self.hand_on(usize::MAX)?;
            self.say_ready();
        }
        Ok(())
    }

    pub(super) fn say_ready(&mut self) {
        if let (Some(ears), Some(lease)) = (&mut self.ears, &mut self.lease) {
            ears.owes_ready = false;
            lease.upstream.peer.inbound.settle(&mut self.client.out);
            wire::ready(&mut self.client.out, IDLE);
        }
    }

    /// Keeps the end of the client's unit back, if it may have to hear something first.
    pub(super) fn keep_ready(&mut self, status: u8) -> Fate {
        let hears = self.ears.as_ref().is_some_and(|ears| ears.hears());
        // A LISTEN is over when what is notified from then on comes in the usual way.
        if status == IDLE && (std::mem::take(&mut self.state.listened) || hears) {
            self.ears().owes_ready = true;
            return Fate::Drop;
        }
        Fate::Pass
    }

    /// Hands on what waits, if this is the time; what goes beyond the bound waits on.
    fn hand_on(&mut self, out_max: usize) -> Result<(), Stop> {
        let Some(ears) = &mut self.ears else {
            return Ok(());
        };
        if !ears.has_mail() || self.refusing || self.reply.left > 0 {
            return Ok(());
        }
        // Called with all that waits, it is the end of a unit.
        let ends = out_max == usize::MAX;
        if let Some(lease) = &mut self.lease {
            let quiet = self.exchange.is_quiet() && !self.state.suspect;
            if !quiet || ears.handover != Handover::Rest || ears.owes_ready && !ends {
                return Ok(());
            }
            lease.upstream.peer.inbound.settle(&mut self.client.out);
        }
        let greeting = self.tenancy.greeting();
        let encoding = greeting.as_ref().and_then(|all| all.get("client_encoding"));
        let foreign = self.told.find("client_encoding") != encoding.map(String::as_str);
        while self.client.out.len() < out_max {
            let Some(message) = ears.member.pop() else {
                break;
            };
            let text = message.get(wire::HEADER_BYTES + 4..).unwrap_or_default();
            if foreign && !text.is_ascii() {
                let what = "a notification in another client_encoding than the server's".into();
                return Err(Stop::Refused(Refusal::Unsupported { what }));
            }
            self.client.out.extend_from_slice(&message);
        }
        Ok(())
    }

    /// Before a client's unit begins on an upstream; false: the listener's answer must come first.
    pub(super) fn begin_hearing(&mut self) -> bool {
        match &mut self.ears {
            None => true,
            Some(ears) if !ears.hears() || ears.process.is_some() => true,
            Some(ears) => !ears.ask(Question::Begin),
        }
    }

    /// A text may notify: the listener is to know for whom.
    pub(super) fn claim(&mut self) {
        let Some(lease) = &self.lease else {
            return;
        };
        let process = lease.upstream.cancel.pid;
        let claimed = self
            .ears
            .as_ref()
            .is_some_and(|ears| ears.process.is_some());
        if !claimed && self.tenancy.hub.own(process, self.desk.key().0) {
            self.ears().process = Some(process);
        }
    }

    /// Before an upstream goes to others; false: something must be answered first.
    pub(super) fn end_hearing(&mut self) -> bool {
        if let Some(ears) = &mut self.ears
            && let Some(process) = ears.process
        {
            // A client that listens has heard all that it notified itself when its unit ended.
            if !ears.hears() && ears.ask(Question::Release) {
                return false;
            }
            ears.hub.disown(process);
            ears.process = None;
        }
        if self.state.besides == Besides::Shown {
            self.state.besides = Besides::Nothing;
            self.run_aside("UNLISTEN *");
            return false;
        }
        true
    }
}
