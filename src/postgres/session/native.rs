//! Sessions whose statements bear the client's own names on the upstream: giving them these names
//! there, passing messages as they are, and hearing from the server what has become of the names.

use std::sync::Arc;

use super::{
    Session, State,
    meaning::{Surroundings, Way},
    names::{LOADER, LOADER_REPLIES, Names, PIN, like},
    requests::Step,
};
use crate::{
    fault::Refusal,
    postgres::{
        exchange::{Act, FAILED, GivenUp, Reply, SETTLED, Undo},
        named::ClientStatements,
        prepared::{Form, Statement, is_ours, upstream_name},
        refusal,
        settings::Prepared,
        statement::{Deed, Facts, scan},
        wire::{self, Frame},
    },
};

impl State {
    /// Names that were to be given up stay what they were.
    pub(super) fn keep_names(&mut self, given: GivenUp, statements: &mut ClientStatements) {
        self.outdated.extend(given.outdated);
        self.renamed.retain(|name| !given.seen.contains(name));
        self.renamed.extend(given.renamed);
        if let Some((name, statement)) = given.closed {
            statements.insert(&name, statement, SETTLED);
        }
    }
}

impl Session {
    /// Gives the client's statements their names on the upstream, in a unit of ours if none is open;
    /// whether its end must be waited for.
    pub(super) fn enter_names(&mut self, alone: bool) -> bool {
        let owner = (self.seat.id(), self.statements.edition());
        let lease = self.lease.as_ref();
        let named = lease.is_some_and(|lease| lease.upstream.statements.is_named_by(owner));
        let there = self.state.native || named;
        // What is named before it is known how it is read would be left out.
        if !there && !self.knows_reading() {
            let all = self.statements.in_order();
            if all.iter().any(|(_, statement)| statement.facts.depends()) {
                return true;
            }
        }
        let Some(lease) = &mut self.lease else {
            return false;
        };
        let statements = &mut lease.upstream.statements;
        self.state.native = true;
        if there && !alone {
            return false;
        }
        self.state.outdated.clear();
        let apart = !self.exchange.is_unit_open();
        let act = if apart { &Act::Load } else { &Act::Swallow };
        let before = self.exchange.outstanding();
        // What a function of the client's has prepared stays as well.
        let keep = there || self.state.pinned == Some(PIN);
        let ids = statements.take_ids();
        let out = &mut lease.upstream.peer.out;
        self.client.inbound.settle(out);
        if keep {
            for id in ids {
                wire::close_statement(out, upstream_name(id).as_bytes());
                self.exchange.expect(Reply::Close, like(act), Undo::Native);
            }
        } else {
            wire::run_apart(out, LOADER, b"DEALLOCATE ALL");
            for reply in LOADER_REPLIES {
                self.exchange.expect(reply, like(act), Undo::Native);
            }
            statements.clear(true);
        }
        if !there {
            self.name_all(owner, act);
        }
        if apart
            && self.exchange.outstanding() > before
            && let Some(lease) = &mut self.lease
        {
            wire::data(&mut lease.upstream.peer.out, b'S');
            self.exchange.expect(Reply::Sync, Act::Load, Undo::Nothing);
        }
        if let Some(lease) = self.lease.as_mut().filter(|_| !apart)
            && self.exchange.is_loading()
        {
            // What they give must be known before one of them runs.
            wire::data(&mut lease.upstream.peer.out, b'H');
            return true;
        }
        apart && self.exchange.outstanding() > before
    }

    fn name_all(&mut self, owner: (u64, u64), act: &Act) {
        let names = self.statements.in_order();
        for (name, statement) in &names {
            let Some(lease) = &mut self.lease else {
                return;
            };
            let out = &mut lease.upstream.peer.out;
            wire::close_statement(out, name);
            self.exchange.expect(Reply::Close, like(act), Undo::Native);
            match statement.form {
                Form::Protocol => self.name_one(name, statement, act),
                // What would be something else is not there.
                Form::Sql if !self.is_read_again(&statement.facts) => {}
                Form::Sql => {
                    let Some(lease) = &mut self.lease else {
                        return;
                    };
                    let out = &mut lease.upstream.peer.out;
                    wire::run_apart(out, LOADER, &statement.rest);
                    for reply in LOADER_REPLIES {
                        self.exchange.expect(reply, like(act), Undo::Native);
                    }
                    self.ask_named(name, statement, act);
                }
            }
        }
        if let Some(lease) = &mut self.lease {
            let names = names.into_iter().map(|(name, _)| name).collect();
            lease.upstream.statements.name(names, Some(owner));
        }
    }

    /// A statement by protocol means what it meant to its client.
    fn name_one(&mut self, name: &Arc<[u8]>, statement: &Arc<Statement>, act: &Act) {
        let under = statement.under.get();
        let way = self.way(&statement.facts, under);
        // What would be something else is not there.
        if !matches!(self.read_again(&statement.facts, &way, under), Names::Ready) {
            return;
        }
        let around = match way {
            Way::Within(around) => around,
            Way::Plain | Way::Anyhow | Way::Wait => Surroundings::default(),
        };
        self.run_around(&around.before, act, || Undo::Native);
        let types = self.kept_types(name, statement);
        if let Some(lease) = &mut self.lease {
            let out = &mut lease.upstream.peer.out;
            wire::parse_with_types(out, name, &statement.rest, types);
            self.exchange.expect(Reply::Parse, like(act), Undo::Native);
        }
        // Under other parameters it may not be understood at all, which is for the one who runs it to hear.
        self.ask_named(name, statement, act);
        self.run_around(&around.after, act, || Undo::Native);
    }

    /// A statement has got its client's name: asks for its shape there.
    fn ask_named(&mut self, name: &Arc<[u8]>, statement: &Arc<Statement>, act: &Act) {
        let asks = statement.form == Form::Sql || statement.facts.keeps_shape();
        if let Some(lease) = self.lease.as_mut().filter(|_| asks) {
            wire::named_message(&mut lease.upstream.peer.out, b'D', name);
            let undo = Undo::Named(Arc::clone(name), Arc::clone(statement));
            self.exchange.expect(Reply::Describe, like(act), undo);
        }
    }

    /// The server has told which statements the client has by its own names: that counts.
    pub(super) fn adopt(&mut self, prepared: Vec<Prepared>) {
        let fitted = self.statements.fits(self.wanted.dialect());
        let old = self.statements.take_named();
        let renamed = std::mem::take(&mut self.state.renamed);
        let (mut names, mut unseen) = (Vec::new(), Vec::new());
        for Prepared {
            name,
            by_sql,
            types,
            text,
        } in prepared
        {
            let name: Arc<[u8]> = name.into_bytes().into();
            let mut rest = text.into_bytes();
            if !by_sql {
                rest.push(0);
            }
            let kept = old.get(&name).filter(|old| {
                let form = if by_sql { Form::Sql } else { Form::Protocol };
                old.form == form && old.rest.starts_with(&rest)
            });
            let known = kept.is_some() && !renamed.contains(&name);
            let statement =
                kept.map_or_else(|| self.statement_of(by_sql, &types, rest), Arc::clone);
            if !known && (by_sql || statement.facts.keeps_shape()) {
                unseen.push((Arc::clone(&name), Arc::clone(&statement)));
            }
            self.statements.insert(&name, statement, SETTLED);
            names.push(name);
        }
        let there = |name: &Arc<[u8]>| self.statements.find(name).is_some();
        self.state.outdated.retain(there);
        let owner = (self.seat.id(), self.statements.edition());
        if let Some(lease) = &mut self.lease {
            let owner = self.state.outdated.is_empty().then_some(owner);
            lease.upstream.statements.name(names, owner);
        }
        self.ask_shapes(unseen);
        if fitted && !self.statements.fits(self.wanted.dialect()) {
            self.service.meters().pinned(PIN);
        }
    }

    /// A statement that the server told of. In doubt about what its text meant, it fits no parameters.
    fn statement_of(&self, by_sql: bool, types: &[u32], mut rest: Vec<u8>) -> Arc<Statement> {
        let doubtful = self.seat.id().wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let dialect = if self.state.shifted {
            doubtful
        } else {
            self.wanted.dialect()
        };
        if by_sql {
            let facts = scan(&rest);
            // The server keeps the whole text, whatever else there is in it.
            let dialect = if facts.several { doubtful } else { dialect };
            return Statement::by_sql(dialect, &rest);
        }
        let text = rest.len() - 1;
        rest.extend(u16::try_from(types.len()).unwrap_or(0).to_be_bytes());
        rest.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
        let text = rest.get(..text).unwrap_or_default();
        self.identify(text, &rest)
    }

    /// Where names are the client's own, the server knows best. What is kept here of a statement only
    /// tells what running it may do.
    pub(super) fn parse_natively(&mut self, frame: Frame, name: &[u8]) -> Step {
        let unseen = self.client.inbound.unseen();
        let Some(parse) = frame.body(unseen).and_then(wire::parse) else {
            return Step::Incomplete;
        };
        if !self.has_room(parse.rest.len()) {
            let said = refusal::too_many_statements(self.service.settings.statements_max);
            return self.refuse_message(frame, said);
        }
        if is_ours(name) {
            let what = "a statement under a name of polypool's, beside statements by SQL".into();
            let refused = Refusal::Unsupported { what };
            return self.refuse_message(frame, refusal::error_bytes(&refused));
        }
        let Some(statement) = self.identify_here(parse.text, parse.rest) else {
            return Step::Wait;
        };
        if let Err(refused) = self.permit(&statement.facts, b'P') {
            return self.refuse_message(frame, refusal::error_bytes(&refused));
        }
        self.note(&statement.facts);
        self.state.suspect = true;
        let mut undo = Undo::Nothing;
        // Where the name is taken, the server refuses it and nothing has changed, as far as is known.
        if self.statements.find(name).is_none() {
            self.rename(name);
            let unit = self.exchange.unit();
            self.statements.insert(name, Arc::clone(&statement), unit);
            undo = Undo::Prepare {
                name: name.into(),
                statement,
                sent: false,
            };
        }
        self.exchange.expect(Reply::Parse, Act::Forward, undo);
        self.pass(frame)
    }

    /// A name means something else from now on, unless what gives or takes it fails.
    pub(super) fn rename(&mut self, name: &[u8]) {
        if self.exchange.status() != FAILED {
            self.state.renamed.insert(name.into());
        }
    }

    /// Close of a name: it means nothing from now on, unless that is skipped.
    pub(super) fn close_natively(&mut self, frame: Frame, name: &[u8]) -> Step {
        let mut undo = Undo::Nothing;
        if let Some(statement) = self.statements.remove(name) {
            self.state.suspect = true;
            let outdated = self.state.outdated.take(name);
            undo = Undo::GiveUp(Box::new(GivenUp {
                outdated: outdated.into_iter().collect(),
                // Unless it is given again, which counts as new, nothing is held of it.
                renamed: self.state.renamed.take(name),
                closed: Some((name.into(), statement)),
                ..GivenUp::default()
            }));
        }
        self.exchange.expect(Reply::Close, Act::Forward, undo);
        self.pass(frame)
    }

    /// Names that a text is about to give up may mean something else from then on; what is to be taken back
    /// if it is not carried out.
    pub(super) fn give_up(&mut self, facts: &Facts) -> Undo {
        if !self.state.native || self.exchange.status() == FAILED {
            return Undo::Nothing;
        }
        let mut names = Vec::new();
        for deed in facts.deeds() {
            match deed {
                Deed::Deallocate(name) => names.push(Arc::clone(name)),
                Deed::DeallocateAll => names.extend(self.statements.all().map(|(name, _)| name)),
                Deed::Prepare | Deed::Execute(_) | Deed::Unclear => {}
            }
        }
        names.retain(|name| self.statements.find(name).is_some());
        if names.is_empty() {
            return Undo::Nothing;
        }
        let mut given = GivenUp::default();
        for name in names {
            given.outdated.extend(self.state.outdated.take(&name));
            if self.state.renamed.insert(Arc::clone(&name)) {
                given.seen.insert(name);
            }
        }
        Undo::GiveUp(Box::new(given))
    }

    /// What was asked has failed: a simple query may have given up names before, but they are not known to
    /// be gone.
    pub(super) fn keep_names(&mut self) {
        if let Some(Undo::GiveUp(given)) = self.exchange.undo_mut() {
            let given = std::mem::take(&mut **given);
            self.state.keep_names(given, &mut self.statements);
        }
    }

    pub(super) fn bind_natively(&mut self, frame: Frame, portal: &[u8], name: &[u8]) -> Step {
        let found = self.statements.find(name);
        let verdict = found.map(|found| self.judge_statement(found));
        let facts = found.map_or_else(Facts::default, |found| found.facts.clone());
        if self.is_out_of_date(name, &facts) {
            return self.refuse_run(frame, refusal::changed_columns());
        }
        self.note(&facts);
        if let Some(verdict) = verdict {
            self.weigh(verdict);
        }
        self.open_portal(portal, &facts);
        self.forward(frame, Reply::Bind)
    }

    /// A name that the client has not given: the upstream must not know it from somebody else.
    pub(super) fn forget_strange(&mut self, name: &[u8]) {
        if let Some(lease) = &mut self.lease
            && lease.upstream.statements.may_know(name)
        {
            lease.upstream.statements.close_named(name);
            let out = &mut lease.upstream.peer.out;
            self.client.inbound.settle(out);
            wire::close_statement(out, name);
            self.exchange
                .expect(Reply::Close, Act::Swallow, Undo::Nothing);
        }
    }
}
