//! What the upstream has told of its session, where it was asked: the client's from now on.

use std::sync::Arc;

use super::{
    Session,
    names::{PIN, TEMPORARY},
    replies::demanded,
};
use crate::postgres::settings::{Findings, Parameters};

impl Session {
    /// The upstream has told all that its session holds.
    pub(super) fn conclude(&mut self) {
        let mut findings = std::mem::take(&mut self.state.findings);
        self.state.weighing.sets = false;
        if std::mem::take(&mut self.state.weighing.asks_own) && !findings.has_failed() {
            return self.conclude_own(&findings);
        }
        let Some(lease) = &mut self.lease else {
            return;
        };
        self.state.suspect = false;
        let channels = findings.take_channels();
        let prepared = findings.take_prepared();
        let strange = findings.take_strange();
        let known = &lease.upstream.statements;
        let stays = strange.iter().any(|name| !known.may_know(name.as_bytes()));
        let (found, pin) = findings.conclude(&self.login);
        let temporary = found.may_make_temporary().then_some(TEMPORARY);
        let pin = pin.or(stays.then_some(PIN)).or(temporary);
        lease.upstream.known = Arc::clone(&found);
        let pin = match pin {
            Some("unknown") => pin,
            _ => self.hear(channels, pin),
        };
        if pin.is_some() && self.state.pinned != pin {
            self.service.meters().pinned(pin.unwrap_or_default());
        }
        self.state.pinned = pin;
        // What the client set counts; what it reset goes back to what it began with.
        self.wanted = demanded(self.role, self.startup.overlaid(found.iter()));
        self.mind_servers();
        if self.state.native
            && let Some(prepared) = prepared
        {
            self.adopt(prepared);
        }
        self.state.shifted = false;
        if let Some(name) = self.wanted.find("application_name") {
            self.seat.set_label(name);
        }
    }

    /// The upstream has told of the client's parameters of extensions.
    fn conclude_own(&mut self, findings: &Findings) {
        let Some(lease) = &mut self.lease else {
            return;
        };
        let known = &mut lease.upstream.known;
        let same = Arc::ptr_eq(known, &self.wanted);
        for name in &self.state.unlisted {
            let found = findings.own(name);
            if known.find(name) == found {
                continue;
            }
            let changed = |all: &Parameters, value: Option<&str>| match value {
                Some(value) => all.overlaid(std::iter::once((name.as_str(), value))),
                None => all.without(name),
            };
            // What is empty goes back to what the client began with.
            let wanted = found.or_else(|| self.startup.find(name));
            *known = changed(known, found);
            self.wanted = changed(&self.wanted, wanted);
        }
        if same && *known == self.wanted {
            self.wanted = Arc::clone(known);
        }
        self.state.shifted = false;
    }
}
