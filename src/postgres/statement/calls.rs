//! The rules for functions that a text calls: which of the server's own make it suspect.

use super::{
    config::ConfigCall,
    facts::Scan,
    shift,
    token::{Token, Word},
};
use crate::postgres::policy;

impl Scan {
    /// The last word is the name of a function that is called.
    pub(super) fn call(&mut self) {
        let Some(name) = self.last.as_ref().map(Word::as_bytes) else {
            return;
        };
        match name {
            b"set_config" => {
                // A call inside of another's arguments cannot be told apart, and is in doubt.
                if self.config.is_some() {
                    self.facts.shifts = true;
                    self.facts.requotes = true;
                    self.facts.sticks = Some("set_config");
                    self.facts.lifts_read_only = true;
                }
                self.config = Some(ConfigCall::opened());
            }
            b"setseed" => self.facts.sticks = Some("setseed"),
            b"currval" | b"lastval" => self.facts.recalls_sequence = true,
            b"nextval" | b"setval" => self.facts.advances_sequence = true,
            b"pg_notify" => self.facts.notifies = true,
            name if name.starts_with(b"dblink_connect") => self.facts.sticks = Some("dblink"),
            name if name.starts_with(b"pg_advisory_") || name.starts_with(b"pg_try_advisory_") => {
                // The transaction's own locks (`…_xact_…`) end with it.
                self.facts.touches_session |= memchr::memmem::find(name, b"_xact_").is_none();
            }
            name => {
                if let Some(what) = policy::admin_function(name) {
                    self.facts.admin_only = Some(what);
                }
            }
        }
    }

    pub(super) fn see_config(&mut self, token: Token<'_>) {
        if let Some(mut call) = self.config.take() {
            if call.see(token) {
                self.configured(&call);
            } else {
                self.config = Some(call);
            }
        }
    }

    fn configured(&mut self, call: &ConfigCall) {
        let facts = &mut self.facts;
        let local = call.is_local();
        let name = call.name.as_deref().unwrap_or_default();
        let own = name.contains('.');
        facts.touches_session |= !local && !own;
        facts.sets_own |= !local && own;
        facts.shifts |= !shift::is_plain(name.as_bytes());
        facts.requotes |= shift::is_of_reading(name.as_bytes());
        if let Some(name) = &call.name {
            facts.lifts_read_only |= name.contains("read_only");
            if !local && own {
                facts.parameters.push(name.clone());
            }
        } else {
            facts.lifts_read_only = true;
            if !local {
                facts.sticks = Some("set_config");
            }
        }
    }

    /// The statement ends: of a call that is under way the end does not show: the text goes on elsewhere.
    pub(super) fn end_call(&mut self) {
        let Some(call) = self.config.take() else {
            return;
        };
        let facts = &mut self.facts;
        facts.touches_session = true;
        facts.shifts = true;
        facts.requotes = true;
        match call.named() {
            Some(name) if name.contains('.') => {
                facts.sets_own = true;
                facts.parameters.push(name.to_owned());
            }
            Some(_) => {}
            None => facts.sticks = Some("set_config"),
        }
    }
}
