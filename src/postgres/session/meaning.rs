//! What a text meant when its client prepared it, on whichever upstream it is prepared again.
//!
//! Constants are read, and names are looked up, when a statement is prepared. So it is shared with others
//! only where nothing but known parameters could have mattered, and it is prepared again under the
//! parameters of its Parse: they are set for the moment, and what the client has comes back behind it.

use std::sync::Arc;

use super::{
    Session,
    names::{LOADER, LOADER_REPLIES, Names, PIN, like},
};
use crate::postgres::{
    exchange::{Act, FAILED, IDLE, Reply, Undo},
    held::Presence,
    prepared::{Statement, upstream_name},
    refusal,
    settings::{CHANGED, Parameters},
    statement::{Facts, parameters, scan},
    upstream::Upstream,
    wire,
};

/// What is run around a Parse of ours.
#[derive(Default)]
pub(super) struct Surroundings {
    pub(super) before: Vec<String>,
    pub(super) after: Vec<String>,
}

/// How a statement is to be prepared again.
pub(super) enum Way {
    /// As it is.
    Plain,
    /// Under other parameters.
    Within(Surroundings),
    /// What the parameters are is not known, and they cannot be put aside: under these.
    Anyhow,
    /// Answers must come first.
    Wait,
}

/// Whether the upstream has a statement.
pub(super) enum Provided {
    Here(Arc<Statement>),
    /// Answers must come first.
    Wait,
    /// It is of no use: why.
    Refused(Box<[u8]>),
}

/// The savepoint of ours.
const SAVEPOINT: &str = "\"pp?load\"";

impl Session {
    /// The parameters under which texts are understood now, if they are known.
    pub(super) fn understanding(&self) -> Option<Arc<Parameters>> {
        let known = !self.state.shifted && !self.exchange.sets_parameters();
        known.then(|| Arc::clone(&self.wanted))
    }

    /// Whether a text may mean something to this client alone, whatever the parameters are: there are
    /// temporary tables, say, or definitions that are not committed.
    fn sees_apart(&self) -> bool {
        let state = &self.state;
        let pinned = state
            .pinned
            .is_some_and(|why| why != "listen" && why != PIN);
        let kept = state.kept.is_some_and(|why| why != "session_mode");
        state.suspect || state.defines.is_some() || pinned || kept
    }

    /// What a Parse prepares: shared with others if it means the same to them.
    pub(super) fn identify(&self, text: &[u8], rest: &[u8]) -> Arc<Statement> {
        let catalogue = &self.tenancy.catalogue;
        let under = self.understanding();
        if let Some(under) = under.as_ref().filter(|_| !self.sees_apart()) {
            return catalogue.find(under, text, rest);
        }
        let facts = scan(text);
        if facts.fixed {
            return catalogue.find(&Arc::default(), text, rest);
        }
        catalogue.alone(under, rest, facts)
    }

    /// A statement was prepared under parameters that only the server knows: asks for them.
    pub(super) fn ask_under(&mut self, statement: &Arc<Statement>) {
        let Some(lease) = self
            .lease
            .as_mut()
            .filter(|_| statement.under.get().is_none())
        else {
            return;
        };
        let out = &mut lease.upstream.peer.out;
        self.client.inbound.settle(out);
        wire::run_apart(out, LOADER, CHANGED.as_bytes());
        for reply in LOADER_REPLIES {
            let undo = match reply {
                Reply::Execute => Undo::Understand(Arc::clone(statement)),
                _ => Undo::Nothing,
            };
            self.exchange.expect(reply, Act::Swallow, undo);
        }
    }

    /// How to prepare again what was understood under these parameters.
    pub(super) fn way(&self, facts: &Facts, under: Option<&Arc<Parameters>>) -> Way {
        let Some(under) = under.filter(|_| !facts.fixed) else {
            return Way::Plain;
        };
        let now = self.understanding();
        if now
            .as_ref()
            .is_some_and(|now| now.dialect() == under.dialect())
        {
            return Way::Plain;
        }
        if !self.exchange.is_first_unit() {
            return Way::Wait;
        }
        if self.exchange.status() == FAILED {
            return Way::Plain;
        }
        if let Some(now) = now {
            return Way::Within(Surroundings {
                before: under.turning(&now),
                after: now.turning(under),
            });
        }
        if self.exchange.status() == IDLE || self.exchange.is_unit_open() {
            return Way::Anyhow;
        }
        let mut before = vec![format!("SAVEPOINT {SAVEPOINT}"), "RESET ALL".into()];
        before.extend(under.turning(&Parameters::default()));
        let after = ["ROLLBACK TO", "RELEASE"].map(|end| format!("{end} SAVEPOINT {SAVEPOINT}"));
        Way::Within(Surroundings {
            before,
            after: after.into(),
        })
    }

    /// Before a Bind or Describe: makes sure that the upstream has a statement, and gives what it is
    /// there.
    pub(super) fn provide(&mut self, name: &[u8], statement: Arc<Statement>) -> Provided {
        if self.exchange.is_comparing() {
            return Provided::Wait;
        }
        let statement = if self.state.changed.take() == Some(statement.id) {
            let catalogue = &self.tenancy.catalogue;
            let epoch = catalogue.epoch();
            catalogue.outdate(&statement);
            if self.statements.first_use(name) != Some(epoch) {
                return Provided::Refused(refusal::changed_columns());
            }
            // What others knew of it was out of date when the client prepared it; it knows nothing yet.
            self.prepared_anew(name, &statement)
        } else {
            statement
        };
        let unit = self.exchange.unit();
        let Some(lease) = self.lease.as_mut() else {
            return Provided::Wait;
        };
        if lease.upstream.statements.presence(statement.id, unit) == Presence::Here {
            self.statements.first_use(name);
            return Provided::Here(statement);
        }
        let types = statement
            .shape
            .get()
            .and_then(|shape| shape.types.as_deref());
        if let Some(said) = self.miscounted(name, &statement.rest, types) {
            return Provided::Refused(said);
        }
        let way = self.way(&statement.facts, statement.under.get());
        match self.read_again(&statement.facts, &way, statement.under.get()) {
            Names::Ready => {}
            Names::Wait => return Provided::Wait,
            Names::Refused(said) => return Provided::Refused(said),
        }
        let apart = matches!(way, Way::Anyhow) || self.sees_apart() && !statement.facts.fixed;
        let around = match way {
            Way::Plain | Way::Anyhow => Surroundings::default(),
            Way::Within(around) => around,
            Way::Wait => return Provided::Wait,
        };
        // Others must not come by what it means here.
        let statement = if apart && !statement.private {
            let own = self.tenancy.catalogue.own(&statement);
            self.statements.replace(name, &statement, Arc::clone(&own));
            own
        } else {
            statement
        };
        self.run_around(&around.before, &Act::Swallow, || Undo::Nothing);
        self.load(&statement, self.kept_types(name, &statement));
        let compares = statement.shape.get().is_some() && statement.facts.keeps_shape();
        if compares {
            self.ask_shape(&statement, Undo::Compare(Arc::clone(&statement)));
        } else if statement.facts.keeps_shape() {
            self.ask_shape(&statement, Undo::Shape(Arc::clone(&statement), None));
        }
        self.run_around(&around.after, &Act::Swallow, || Undo::Nothing);
        if !compares {
            self.statements.first_use(name);
            return Provided::Here(statement);
        }
        // Before it runs it must be known that it gives what its client was told.
        if let Some(lease) = &mut self.lease {
            wire::data(&mut lease.upstream.peer.out, b'H');
        }
        Provided::Wait
    }

    /// Makes sure that the upstream has a statement, with these types of parameters if they are given; the
    /// answers are swallowed.
    pub(super) fn load(&mut self, statement: &Statement, types: Option<&[u8]>) {
        let Some(lease) = &mut self.lease else {
            return;
        };
        let Upstream {
            peer, statements, ..
        } = &mut *lease.upstream;
        let unit = self.exchange.unit();
        match statements.presence(statement.id, unit) {
            Presence::Here => return,
            Presence::Absent => self.client.inbound.settle(&mut peer.out),
            Presence::Doubtful => {
                self.client.inbound.settle(&mut peer.out);
                wire::close_statement(&mut peer.out, statement.name.as_bytes());
                self.exchange
                    .expect(Reply::Close, Act::Swallow, Undo::Nothing);
            }
        }
        let max = self.service.settings.upstream_statements_max;
        if let Some(oldest) = statements.sent(statement.id, unit, max) {
            wire::close_statement(&mut peer.out, upstream_name(oldest).as_bytes());
            self.exchange
                .expect(Reply::Close, Act::Swallow, Undo::Evict(oldest));
        }
        let (name, rest) = (statement.name.as_bytes(), &statement.rest);
        wire::parse_with_types(&mut peer.out, name, rest, types);
        self.exchange
            .expect(Reply::Parse, Act::Swallow, Undo::Load(statement.id));
    }

    /// A Bind in a transaction that has failed, of what cannot be prepared there any more: the server
    /// counts its values before it looks at the transaction.
    pub(super) fn miscounted(
        &self,
        name: &[u8],
        rest: &[u8],
        known: Option<&[u8]>,
    ) -> Option<Box<[u8]>> {
        let bind = self.client.inbound.unseen().strip_prefix(b"B")?;
        if self.exchange.status() != FAILED {
            return None;
        }
        let values = wire::bound_values(bind.get(wire::HEADER_BYTES - 1..)?)?;
        let (text, declared) = wire::split_cstr(rest)?;
        let count = |types: &[u8]| {
            let count = types.first_chunk::<2>();
            count.map_or(0, |count| u16::from_be_bytes(*count).into())
        };
        let wanted = known.map_or_else(|| parameters(text, count(declared)), count);
        let values = usize::from(values);
        (values != wanted).then(|| refusal::miscounted(name, values, wanted))
    }

    /// Runs texts of ours in the unit under way.
    pub(super) fn run_around(&mut self, texts: &[String], act: &Act, undo: impl Fn() -> Undo) {
        let Some(lease) = &mut self.lease else {
            return;
        };
        let out = &mut lease.upstream.peer.out;
        for text in texts {
            self.client.inbound.settle(out);
            wire::run_apart(out, LOADER, text.as_bytes());
            for reply in LOADER_REPLIES {
                self.exchange.expect(reply, like(act), undo());
            }
        }
    }

    /// A statement that only this client had is closed: the upstream need not keep it.
    pub(super) fn unload(&mut self, statement: &Statement) {
        let Some(lease) = &mut self.lease else {
            return;
        };
        let upstream = &mut lease.upstream;
        if statement.private && upstream.statements.forget(statement.id) {
            self.client.inbound.settle(&mut upstream.peer.out);
            wire::close_statement(&mut upstream.peer.out, statement.name.as_bytes());
            self.exchange
                .expect(Reply::Close, Act::Swallow, Undo::Evict(statement.id));
        }
    }
}
