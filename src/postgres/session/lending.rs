//! Having an upstream: taking it, knowing when it may go, giving it back.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::{Besides, Run, Session, Stop, requests, weighing::Weighing};
use crate::{
    fault::{Effect, Refusal},
    pool::{CloseReason, Lease, Residue},
    postgres::{
        exchange::{Act, IDLE, Reply, Undo},
        flow::BUFFER_BYTES,
        refusal,
        servers::{ATTRS, Source},
        settings,
        upstream::Dialer,
        wire,
    },
    session::Standing,
    signal::Seldom,
};

impl Session {
    /// Takes an upstream for the unit in front, or a place in line; true if it has to wait there. Where neither can be
    /// had, the unit is answered.
    pub(super) async fn acquire(&mut self, killed: &mut Seldom<()>) -> Result<bool, Stop> {
        if self.place.is_some() {
            return Ok(true);
        }
        self.choose_server();
        if let Some(lease) = self.source.try_lease() {
            self.begin_lease(lease);
            return Ok(false);
        }
        match &self.source {
            Source::Single(pool) => match pool.stand_in_line() {
                Ok(place) => {
                    self.begin_waiting();
                    self.place = Some(place);
                }
                Err(error) => self.refuse_unit(&refusal::error_bytes(&error.refusal())),
            },
            Source::Several(several) => match several.unservable() {
                None => Box::pin(self.search(killed)).await?,
                Some(why) => {
                    self.refuse_unit(&refusal::unserved_bytes(&why));
                    self.forget_choice();
                }
            },
        }
        Ok(self.place.is_some())
    }

    fn begin_waiting(&self) {
        self.seat.set_standing(Standing::Waiting);
        self.desk.begin_waiting();
    }

    /// The unit in front needs no upstream after all.
    pub(super) fn leave_line(&mut self) {
        if self.place.take().is_some() {
            self.desk.end_waiting();
            self.seat.set_standing(Standing::Idle);
        }
    }

    /// Ready when the client does not stand in line any more.
    pub(super) fn poll_place(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(place) = &mut self.place else {
            return Poll::Pending;
        };
        let outcome = match Pin::new(place).poll(context) {
            Poll::Ready(Ok(lease)) => Ok(lease),
            Poll::Ready(Err(error)) => Err(refusal::error_bytes(&error.refusal())),
            Poll::Pending => {
                ready!(self.desk.poll_cancelled(context));
                Err(refusal::cancelled())
            }
        };
        self.place = None;
        self.end_wait(outcome);
        Poll::Ready(())
    }

    fn end_wait(&mut self, outcome: Result<Lease<Dialer>, Box<[u8]>>) {
        match outcome {
            Ok(lease) => self.begin_lease(lease),
            Err(said) => {
                self.desk.end_waiting();
                self.seat.set_standing(Standing::Idle);
                self.refuse_unit(&said);
            }
        }
    }

    /// Waits for an upstream where there are several servers, one of which has to be found first.
    async fn search(&mut self, killed: &mut Seldom<()>) -> Result<(), Stop> {
        self.begin_waiting();
        let client = &mut self.client;
        // A client that only waits may go away; one that goes on sending is not read for ever.
        let vanished = async {
            loop {
                let full = client.inbound.unseen().len() > BUFFER_BYTES;
                if full {
                    std::future::pending::<()>().await;
                }
                if !matches!(client.fill().await, Ok(1..)) {
                    return;
                }
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = self.source.lease() => outcome.map_err(|why| refusal::unserved_bytes(&why)),
            () = std::future::poll_fn(|context| self.desk.poll_cancelled(context)) => Err(refusal::cancelled()),
            () = vanished => return Err(Stop::Vanished),
            () = std::future::poll_fn(|context| killed.poll(context)) => return Err(Stop::Killed),
        };
        self.end_wait(outcome);
        Ok(())
    }

    fn begin_lease(&mut self, lease: Lease<Dialer>) {
        self.seat.set_standing(Standing::Active);
        self.desk.attach(&lease.upstream.cancel);
        self.exchange.renew();
        self.state.nameless = false;
        self.state.changed = None;
        self.state.changed_unnamed = false;
        self.state.outdated.clear();
        self.state.weighing = Weighing::default();
        self.tenancy.routines.age(tokio::time::Instant::now());
        self.lease = Some(lease);
        self.tell_place();
    }

    /// Where there are several servers: what the client asks of the next one.
    fn choose_server(&mut self) {
        if let Source::Several(several) = &mut self.source {
            if self.ears.as_ref().is_some_and(|ears| ears.hears()) {
                several.want_primary();
            } else {
                several.want(self.role, &self.wanted);
            }
        }
    }

    /// What no server will ever do for, chosen where it could not be refused at once: told, it counts no more, or not even
    /// what takes it back would be served.
    fn forget_choice(&mut self) {
        self.wanted = match self.startup.find(ATTRS) {
            Some(began) => self.wanted.overlaid(std::iter::once((ATTRS, began))),
            None => self.wanted.without(ATTRS),
        };
    }

    /// Whether the client asks for another kind of server than it did when it was given this one.
    fn is_misplaced(&self) -> bool {
        let Source::Several(several) = &self.source else {
            return false;
        };
        let hears = self.ears.as_ref().is_some_and(|ears| ears.hears());
        !hears && several.wants_otherwise(self.role, &self.wanted)
    }

    /// Where there are several servers, or the only one was promoted: how the place differs from the one before.
    fn tell_place(&mut self) {
        let Some(lease) = &self.lease else {
            return;
        };
        let upstream = &lease.upstream;
        let greeting;
        let reported = match &self.source {
            Source::Several(_) => &upstream.reported,
            Source::Single(_) if !self.tenancy.was_promoted() => return,
            Source::Single(_) => {
                greeting = self.tenancy.greeting().unwrap_or_default();
                &greeting
            }
        };
        for (name, value) in reported {
            if self.told.find(name) == Some(value) {
                continue;
            }
            // What the client has set, or somebody before it, is about to be put right.
            let known = name.to_ascii_lowercase();
            let set = self.wanted.find(&known).or(upstream.known.find(&known));
            if set.is_none() && self.told.tell(name, value) {
                wire::parameter_status(&mut self.client.out, name, value);
            }
        }
    }

    /// What the session asks for may now be more than its only server.
    pub(super) fn mind_servers(&mut self) {
        if matches!(self.source, Source::Single(_)) && self.wanted.find(ATTRS).is_some() {
            self.source.split(self.service.means(&self.tenancy));
        }
    }

    /// Answers a unit for which there is no upstream: an error, and readiness at its end.
    fn refuse_unit(&mut self, said: &[u8]) {
        let Self { client, .. } = self;
        client.out.extend_from_slice(said);
        let simple = client
            .inbound
            .unseen()
            .first()
            .is_some_and(|tag| matches!(tag, b'Q' | b'F'));
        let head = wire::frontend_head(client.inbound.unseen(), usize::MAX);
        match head {
            Ok(Some(frame)) if simple => {
                self.request = Run {
                    left: frame.bytes,
                    dropped: true,
                };
                wire::ready(&mut client.out, IDLE);
            }
            _ => self.refusing = true,
        }
    }

    /// With nothing under way: asks what a suspect unit left behind, or lets the upstream go.
    pub(super) async fn settle(&mut self) -> Result<(), Stop> {
        let Some(lease) = &self.lease else {
            return Ok(());
        };
        let settled = self.exchange.is_quiet()
            && self.request.left == 0
            && self.reply.left == 0
            && self.client.inbound.passed() == 0
            && lease.upstream.peer.out.is_empty();
        if !settled {
            return Ok(());
        }
        if self.has_open() {
            Box::pin(self.learn()).await?;
        }
        let asks = self.state.suspect || self.state.weighing.sets;
        if let Some(lease) = self.lease.as_mut().filter(|_| asks) {
            let upstream = &mut lease.upstream;
            let state = &mut self.state;
            state.weighing.asks_own = !state.suspect && !state.unlisted.is_empty();
            let text = if state.weighing.asks_own {
                settings::own(state.unlisted.iter())
            } else {
                settings::audit(state.unlisted.iter(), state.native)
            };
            wire::query(&mut upstream.peer.out, &text);
            upstream.unnamed = None;
            self.exchange
                .expect(Reply::Query, Act::Audit, Undo::Nothing);
            return Ok(());
        }
        if self.ears.as_ref().is_some_and(|ears| ears.is_busy()) {
            return Ok(());
        }
        let more = requests::unit_is_ready(self.client.inbound.unseen(), self.limits())
            && !self.is_misplaced();
        if self.pin().is_none() && !more && self.end_hearing() {
            let residue = if self.state.besides == Besides::Stray {
                Residue::NeedsReset
            } else {
                Residue::Clean
            };
            self.release(residue).await;
        }
        Ok(())
    }

    /// Why the upstream must stay.
    pub(super) fn pin(&self) -> Option<&'static str> {
        let names = (self.state.native && !self.statements.fits(self.wanted.dialect()))
            .then_some(super::names::PIN);
        self.state.kept.or(self.state.pinned).or(names)
    }

    /// Gives the upstream back; the caller has proven that its exchange is over.
    pub(super) async fn release(&mut self, residue: Residue) {
        if let Some(mut lease) = self.lease.take() {
            self.state.native = false;
            // A client that reads slowly keeps the bytes, not the upstream.
            lease.upstream.peer.inbound.settle(&mut self.client.out);
            lease.upstream.status = self.exchange.status();
            self.state.besides = Besides::Nothing;
            let late = self.desk.detach().await;
            let residue = if late {
                // A request to cancel could come when somebody else has it.
                Residue::Broken(CloseReason::Abandoned)
            } else if lease.upstream.peer.inbound.is_empty() {
                residue
            } else {
                // Bytes that nobody asked for, such as the server's last words.
                Residue::Broken(CloseReason::Stale)
            };
            lease.give_back(residue);
            self.seat.set_standing(Standing::Idle);
            let tally = std::mem::take(&mut self.tally);
            self.service.count(&self.seat, &tally);
        }
    }

    /// The upstream that is needed is lost: what the client hears.
    pub(super) fn lost(&self) -> Refusal {
        let effect = if self.exchange.is_busy() {
            Effect::Unknown
        } else {
            Effect::None
        };
        Refusal::UpstreamLost { effect }
    }

    pub(super) fn limits(&self) -> usize {
        self.service.settings.statement_bytes_max
    }
}
