//! Having an upstream: taking it, knowing when it may go, giving it back.

use bytes::BytesMut;

use super::{Besides, Run, Session, Stop, requests};
use crate::{
    fault::{Effect, Refusal},
    pool::{CloseReason, Lease, Residue},
    postgres::{
        exchange::{Act, IDLE, Reply, Undo},
        flow::BUFFER_BYTES,
        rank::{IN_HOT_STANDBY, READ_ONLY},
        refusal::{self, Severity},
        servers::{ATTRS, Source},
        settings,
        upstream::Dialer,
        wire,
    },
    session::Standing,
    signal::Seldom,
};

impl Session {
    /// Gets an upstream, or answers the unit that needs one with why there is none.
    pub(super) async fn acquire(&mut self, killed: &mut Seldom<()>) -> Result<(), Stop> {
        self.choose_server();
        let lease = match self.source.try_lease() {
            Some(lease) => lease,
            None => match Box::pin(self.wait_in_line(killed)).await? {
                Some(lease) => lease,
                None => return Ok(()),
            },
        };
        self.seat.set_standing(Standing::Active);
        self.desk.attach(&lease.upstream.cancel);
        self.exchange.renew();
        self.state.nameless = false;
        self.state.changed = None;
        self.lease = Some(lease);
        self.tell_place();
        Ok(())
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

    /// Whether the client asks for another kind of server than it did when it was given this one.
    fn is_misplaced(&self) -> bool {
        let Source::Several(several) = &self.source else {
            return false;
        };
        let hears = self.ears.as_ref().is_some_and(|ears| ears.hears());
        !hears && several.wants_otherwise(self.role, &self.wanted)
    }

    /// Where there are several servers: how the one that the client has now differs from the one before.
    fn tell_place(&mut self) {
        let (Source::Several(_), Some(lease)) = (&self.source, &self.lease) else {
            return;
        };
        let upstream = &lease.upstream;
        for name in [IN_HOT_STANDBY, READ_ONLY] {
            let set = self.wanted.find(name).or(upstream.known.find(name));
            if let Some(value) = upstream.reported.get(name)
                && set.is_none()
                && self.told.tell(name, value)
            {
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

    async fn wait_in_line(
        &mut self,
        killed: &mut Seldom<()>,
    ) -> Result<Option<Lease<Dialer>>, Stop> {
        self.seat.set_standing(Standing::Waiting);
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
        let mut said = BytesMut::new();
        tokio::select! {
            biased;
            outcome = self.source.lease() => match outcome {
                Ok(lease) => return Ok(Some(lease)),
                Err(unserved) => refusal::unserved(&mut said, Severity::Error, &unserved),
            },
            () = self.desk.cancelled() => refusal::cancelled(&mut said),
            () = vanished => return Err(Stop::Vanished),
            () = std::future::poll_fn(|context| killed.poll(context)) => return Err(Stop::Killed),
        }
        self.seat.set_standing(Standing::Idle);
        self.refuse_unit(&said);
        Ok(None)
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
    pub(super) async fn settle(&mut self) {
        let Some(lease) = &mut self.lease else {
            return;
        };
        let settled = self.exchange.is_quiet()
            && self.request.left == 0
            && self.reply.left == 0
            && self.client.inbound.passed() == 0
            && lease.upstream.peer.out.is_empty();
        if !settled {
            return;
        }
        if self.state.suspect {
            let upstream = &mut lease.upstream;
            wire::query(
                &mut upstream.peer.out,
                &settings::audit(self.state.unlisted.iter(), self.state.native),
            );
            upstream.unnamed = None;
            self.exchange
                .expect(Reply::Query, Act::Audit, Undo::Nothing);
            return;
        }
        if self.ears.as_ref().is_some_and(|ears| ears.is_busy()) {
            return;
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
