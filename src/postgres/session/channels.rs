//! Which channels a client listens to: asked of its upstream, handed over, shown again.
//!
//! What may change the list, or look at it, runs on an upstream that has been made to listen to the
//! same channels; afterwards the upstream is asked what has become of them. So savepoints, failed
//! commits and the bodies of DO count for what the server makes of them.

use std::collections::BTreeSet;

use super::{
    Besides, Session, Stop,
    ears::{Handover, Question},
    names::Names,
    replies::Fate,
};
use crate::{
    fault::Refusal,
    postgres::{
        exchange::{Act, IDLE},
        listen::{Channel, Means, push_command},
        refusal,
        statement::{Deed, Facts},
        wire::{self, Frame},
    },
    tenant::PoolMode,
};

impl Session {
    /// The upstream has told which channels it listens to; gives the reason for a pin.
    pub(super) fn hear(
        &mut self,
        channels: Vec<Channel>,
        pin: Option<&'static str>,
    ) -> Option<&'static str> {
        let shows = self.state.besides == Besides::Shown;
        if let Some(ears) = self.ears.as_mut().filter(|_| shows) {
            let (stay, gone) = std::mem::take(&mut ears.heard)
                .into_iter()
                .partition(|channel| channels.contains(channel));
            ears.heard = stay;
            let gone: BTreeSet<Channel> = gone;
            ears.hub.leave(&ears.member, gone.iter());
        }
        let heard = self.ears.as_ref().map(|ears| &ears.heard);
        let is_new = |channel: &Channel| heard.is_none_or(|heard| !heard.contains(channel));
        let new: Vec<Channel> = channels.into_iter().filter(is_new).collect();
        if new.is_empty() {
            self.state.unshared = false;
            return pin;
        }
        let servers = self.source.servers();
        // The shared listener is where writes go; of several primaries the client may be on another one.
        let apart = servers.as_ref().zip(self.lease.as_ref());
        let apart = apart.is_some_and(|(all, lease)| all.have_moved(&lease.upstream.cancel));
        if pin.is_some() || self.state.kept.is_some() || apart || !self.may_share(&new) {
            return pin.or(Some("listen"));
        }
        let means = Means {
            pool: self.service.fleet().aside(&self.source.tenant()),
            servers,
            shutdown: self.service.shutdown.clone(),
        };
        let ears = self.ears();
        ears.handover = Handover::Asked;
        ears.asked = Some(Question::Join);
        ears.hub.join(&ears.member, &new, means);
        ears.joining = new;
        None
    }

    fn may_share(&self, new: &[Channel]) -> bool {
        let greeting = self.tenancy.greeting();
        let encoding = greeting.as_ref().and_then(|all| all.get("client_encoding"));
        let heard = self.ears.as_ref().map_or(0, |ears| ears.heard.len());
        !self.state.unshared
            && self.source.tenant().limits.pool_mode != PoolMode::Session
            && heard + new.len() <= self.service.settings.listen_channels_max
            && self.told.find("client_encoding") == encoding.map(String::as_str)
            && new.iter().all(|name| std::str::from_utf8(name).is_ok())
    }

    /// There is no shared listener to be had: the upstream stays, and goes on listening.
    pub(super) fn keep_listening(&mut self) {
        if self.ears.as_ref().is_some_and(|ears| ears.owes_ready) {
            self.say_ready();
        }
        self.ears = None;
        self.state.unshared = true;
        self.state.pinned = Some("listen");
        self.service.meters().pinned("listen");
    }

    /// `NotificationResponse` of the session's own upstream.
    pub(super) fn notification(&mut self, frame: Frame) -> Fate {
        let Some(lease) = &mut self.lease else {
            return Fate::Drop;
        };
        let upstream = &mut lease.upstream;
        let body = frame.body(upstream.peer.inbound.unseen());
        let Some((process, rest)) = body.and_then(<[u8]>::split_first_chunk::<4>) else {
            return Fate::Drop;
        };
        let channel = wire::split_cstr(rest).map_or(rest, |(channel, _)| channel);
        if let Some(ears) = &mut self.ears {
            if ears.handover == Handover::Sent && ears.hub.is_own(channel) {
                ears.handover = Handover::Cut;
                return Fate::Drop;
            }
            let cut = ears.handover == Handover::Cut;
            if ears.heard.contains(channel)
                || cut && ears.joining.iter().any(|joining| **joining == *channel)
            {
                return Fate::Drop;
            }
        }
        if self.state.kept.is_none() && self.state.pinned.is_none() && !self.state.suspect {
            let shows = self.state.besides == Besides::Shown;
            let ending = shows || matches!(self.exchange.act(), Act::Settings);
            if !self.ears.as_ref().is_some_and(|ears| ears.is_busy()) {
                // Unless it is the client's that ends, some function listens here, for nobody.
                if !ending {
                    self.state.besides = Besides::Stray;
                }
                return Fate::Drop;
            }
        }
        let process = u32::from_be_bytes(*process);
        // What the client sent itself comes from the process that it knows.
        let known = if process == upstream.cancel.pid {
            Some(self.desk.key().0)
        } else {
            self.tenancy.hub.owner(process)
        };
        let Some(key) = known else {
            return Fate::Pass;
        };
        let rest = rest.to_vec();
        upstream.peer.inbound.settle(&mut self.client.out);
        wire::tagged(&mut self.client.out, b'A', |out| {
            out.extend_from_slice(&key.to_be_bytes());
            out.extend_from_slice(&rest);
        });
        Fate::Drop
    }

    /// Once the token has come on both ways, the listener alone is heard.
    pub(super) fn finish_handover(&mut self) -> Result<(), Stop> {
        let Some(ears) = &mut self.ears else {
            return Ok(());
        };
        let sent = matches!(ears.handover, Handover::Sent | Handover::Cut);
        if !sent || !self.exchange.is_quiet() {
            return Ok(());
        }
        if ears.handover == Handover::Sent {
            // The server has not notified what it said that it would.
            return Err(Stop::Unheard(None));
        }
        if ears.member.take_joined() {
            ears.heard.extend(std::mem::take(&mut ears.joining));
            ears.handover = Handover::Rest;
            self.state.pinned = None;
            self.state.besides = Besides::Nothing;
        }
        Ok(())
    }

    /// Before a text that changes the list of channels, or looks at it, the upstream gets the list.
    pub(super) fn show_channels(&mut self, facts: &Facts) -> Names {
        let Some(ears) = self.ears.as_ref().filter(|ears| ears.hears()) else {
            return Names::Ready;
        };
        let listens = facts.listens || self.runs_what_listens(facts);
        if self.state.besides != Besides::Nothing || !listens && !facts.begins {
            return Names::Ready;
        }
        if self.exchange.status() != IDLE || self.exchange.is_unit_open() {
            if !listens {
                return Names::Ready;
            }
            let what = "LISTEN, UNLISTEN or a list of channels in a transaction that began within \
                        a pipeline";
            let refused = Refusal::Unsupported { what: what.into() };
            return Names::Refused(refusal::error_bytes(&refused));
        }
        if !self.exchange.is_first_unit() {
            return Names::Wait;
        }
        let mut text = String::new();
        for channel in &ears.heard {
            push_command(&mut text, "LISTEN", channel);
        }
        self.state.besides = Besides::Shown;
        self.run_aside(&text);
        Names::Ready
    }

    fn runs_what_listens(&self, facts: &Facts) -> bool {
        facts.deeds().any(|deed| match deed {
            Deed::Execute(name) => {
                let found = self.statements.find(name);
                found.is_some_and(|statement| statement.facts.listens)
            }
            Deed::Unclear => {
                let mut all = self.statements.all();
                all.any(|(_, statement)| statement.facts.listens)
            }
            Deed::Prepare | Deed::Deallocate(_) | Deed::DeallocateAll => false,
        })
    }
}
