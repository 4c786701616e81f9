//! What texts may do by the functions that they call, and finding out where that is not known.

use std::time::Duration;

use tokio::time::timeout;

use super::{Session, Stop};
use crate::postgres::{
    prepared::Statement,
    routines::{Case, Open, Verdict},
    statement::{Effects, Facts},
    upstream::Failed,
    wire,
};

/// How long it may take to learn what functions do: a little longer than the server is given.
const LEARNING_MAX: Duration = Duration::from_secs(30);
/// Parameters of extensions that are moved between upstreams; with more, the upstream stays.
const UNLISTED_MAX: usize = 64;
/// The lowest number of what was not there when the server was installed.
const FIRST_OWN: u32 = 16384;

/// What functions may have done to the session since it was last asked.
#[derive(Default)]
pub(super) struct Weighing {
    /// They may have set parameters of extensions.
    pub(super) sets: bool,
    /// These are being asked for, and nothing else.
    pub(super) asks_own: bool,
    /// The last unit in which functions were defined, for what counts beyond the transaction.
    pub(super) redefines: Option<u64>,
    /// What texts did could not be judged yet.
    pub(super) open: Option<Box<Open>>,
    /// When a text was first judged that is not settled; 0: none was.
    pub(super) weighed: u64,
}

impl Session {
    /// What a text may do by functions; to be held against the session once it is sent.
    pub(super) fn judge(&self, text: &[u8], facts: &Facts) -> Verdict {
        let verdict = self.tenancy.routines.judge(self.case(text, facts));
        self.read_verdict(verdict, facts)
    }

    /// The same of a statement.
    pub(super) fn judge_statement(&self, statement: &Statement) -> Verdict {
        let rest = &statement.rest;
        let text = wire::split_cstr(rest).map_or(&rest[..], |(text, _)| text);
        let case = self.case(text, &statement.facts);
        let verdict = self.tenancy.routines.judge_held(&statement.harmless, case);
        self.read_verdict(verdict, &statement.facts)
    }

    fn case<'a>(&self, text: &'a [u8], facts: &Facts) -> Case<'a> {
        Case {
            text,
            several: facts.several,
            defines: facts.defines,
            apart: self.state.weighing.redefines.is_some(),
            loose: facts.loose,
            presumes: facts.presumes_in_block,
        }
    }

    /// Takes note of what functions may do to the session.
    pub(super) fn weigh(&mut self, verdict: Verdict) {
        let unknown = verdict.open.is_some();
        let effects = verdict.effects;
        if effects.shifts || verdict.outdated && unknown {
            self.requote();
        }
        let state = &mut self.state;
        state.quotes.overlooked |= verdict.overlooked;
        state.quotes.misread |= verdict.misread;
        if verdict.redefines {
            state.weighing.redefines = Some(self.exchange.unit());
        }
        if state.kept.is_some() {
            return;
        }
        state.shifted |= verdict.outdated && verdict.open.is_some();
        match (verdict.open, &mut state.weighing.open) {
            (Some(more), Some(open)) => open.add(*more),
            (Some(more), open) => *open = Some(more),
            (None, _) if state.weighing.weighed == 0 => state.weighing.weighed = verdict.epoch,
            (None, _) => {}
        }
        self.suspect(effects);
    }

    fn suspect(&mut self, effects: Effects) {
        self.state.shifted |= effects.shifts;
        if effects.asks || effects.sets {
            self.state.suspect |= effects.asks;
            self.state.weighing.sets = true;
            let unlisted = &self.state.unlisted;
            let new = self.tenancy.routines.parameters_beside(unlisted);
            self.remember_unlisted(new);
        }
        if let Some(reason) = effects.sticks {
            self.keep(reason);
        }
    }

    /// The upstream stays until the client leaves.
    pub(super) fn keep(&mut self, reason: &'static str) {
        if self.state.kept.is_none() {
            self.state.kept = Some(reason);
            self.service.meters().pinned(reason);
        }
    }

    /// Parameters that the server does not list by itself: to be asked for from now on.
    pub(super) fn remember_unlisted(&mut self, names: impl IntoIterator<Item = String>) {
        self.state.unlisted.extend(names);
        if self.state.unlisted.len() > UNLISTED_MAX {
            self.keep("parameters");
        }
    }

    /// A function is called by number: it may be any of the database's own.
    pub(super) fn weigh_number(&mut self, number: u32) {
        let own = number >= FIRST_OWN;
        let effects = own.then(|| self.tenancy.routines.any());
        let effects = effects.unwrap_or_default().and(Effects::DOUBT);
        let effects = self.read_effects(effects);
        self.requote();
        self.suspect(effects);
    }

    /// Outside of transactions, what was defined counts for all.
    pub(super) fn defined(&mut self) {
        let state = &mut self.state;
        let is_over = |unit: &mut u64| self.exchange.is_answered(*unit);
        if state.defines.take_if(is_over).is_some() {
            self.tenancy.catalogue.renew();
        }
        if state.weighing.redefines.take_if(is_over).is_some() {
            self.tenancy.routines.outdate();
            state.weighing.weighed = 0;
        }
    }

    /// Whether it is still open what texts have done by functions.
    pub(super) fn has_open(&self) -> bool {
        let state = &self.state;
        state.weighing.open.is_some()
            || state.weighing.weighed != 0
                && state.weighing.weighed != self.tenancy.routines.epoch()
    }

    /// With nothing under way: finds out what texts have done that could not be judged before.
    pub(super) async fn learn(&mut self) -> Result<(), Stop> {
        // Functions were defined while texts ran that were judged before: nothing is kept of these.
        let overtaken = self.state.weighing.weighed != 0
            && self.state.weighing.weighed != self.tenancy.routines.epoch();
        self.state.weighing.weighed = 0;
        let mut open = self.state.weighing.open.take();
        if overtaken {
            open.get_or_insert_default().overtaken = true;
        }
        let Some(lease) = &mut self.lease else {
            return Ok(());
        };
        let (client, upstream) = (&mut self.client, &mut lease.upstream);
        upstream.peer.inbound.settle(&mut client.out);
        // The client need not wait for this; a client that does not read is not waited for.
        std::future::poll_fn(|context| {
            let sent = client.poll_send(context, &mut upstream.peer.inbound);
            if let std::task::Poll::Ready(Ok(count)) = sent {
                self.tally.client_written += count as u64;
            }
            std::task::Poll::Ready(())
        })
        .await;
        upstream.unnamed = None;
        let mut effects = Effects::default();
        if let Some(open) = open {
            let learning = self.tenancy.routines.learn(upstream, &open);
            effects = match timeout(LEARNING_MAX, learning).await {
                Ok(Ok(effects)) => effects,
                Ok(Err(Failed::Answer(_))) => Effects::DOUBT,
                Ok(Err(Failed::Lost(_))) | Err(_) => return Err(Stop::UpstreamLost),
            };
        }
        if overtaken {
            effects = effects.and(Effects::DOUBT);
        }
        let mut effects = self.learn_quotes(effects);
        // What counted for the transaction is over.
        effects.shifts &= effects.asks || effects.sets;
        self.suspect(effects);
        Ok(())
    }
}

impl Weighing {
    /// A text has failed: names that are not known may have been the reason.
    pub(super) fn fail(&mut self) {
        if let Some(open) = &mut self.open {
            open.failed = true;
        }
    }
}
