//! `CLIENT`: what a client says of itself, and the tenant's own clients.

use super::{Next, Replies, Session, request::Request};
use crate::redis::{
    blocking::Outcome,
    commands::Command,
    refusal::{self, Plain},
    wire,
};

/// What `CLIENT HELP` lists.
const HELP: [&str; 12] = [
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GETNAME",
    "ID",
    "INFO",
    "KILL <ip:port> | ID <id> | ADDR | LADDR | TYPE | USER | MAXAGE | SKIPME <value> ...",
    "LIST [TYPE <type> | ID <id> ...]",
    "NO-EVICT (ON|OFF)",
    "NO-TOUCH (ON|OFF)",
    "REPLY (ON|OFF|SKIP)",
    "SETINFO <option> <value>",
    "SETNAME <name>",
    "UNBLOCK <clientid> [TIMEOUT|ERROR]",
];

impl Session {
    pub(super) fn dispatch_client(
        &mut self,
        request: &Request,
        command: &Command,
    ) -> Result<usize, Next> {
        match command.name.as_str() {
            "client|id" => {
                let id = self.member.as_ref().map_or(0, |member| member.seat.id());
                self.answer(|out, _| wire::integer(out, id))?;
            }
            "client|getname" => {
                let name = self.name.clone();
                self.answer(|out, version| match name.as_str() {
                    "" => out.extend_from_slice(version.pick([b"$-1\r\n", b"_\r\n"])),
                    name => wire::bulk(out, name.as_bytes()),
                })?;
            }
            "client|setname" => return self.set_name(request),
            "client|setinfo" => return self.set_info(request),
            "client|info" => {
                let line = self.describe_self();
                self.answer(|out, version| wire::verbatim(out, version, &line))?;
            }
            "client|list" => return self.list(request),
            "client|kill" => return self.kill(request),
            "client|reply" => return self.set_replies(request),
            "client|no-evict" => return self.accept_switch(request),
            "client|tracking" | "client|caching" | "client|no-touch" => {
                return self.dispatch_bond(request, command);
            }
            "client|trackinginfo" | "client|getredir" if self.is_listening() => {
                return self.dispatch_bond(request, command);
            }
            "client|trackinginfo" => self.answer(|out, version| {
                wire::map(out, version, 3);
                wire::bulk(out, b"flags");
                wire::set(out, version, 1);
                wire::bulk(out, b"off");
                wire::bulk(out, b"redirect");
                out.extend_from_slice(b":-1\r\n");
                wire::bulk(out, b"prefixes");
                wire::array(out, 0);
            })?,
            "client|getredir" => self.answer(|out, _| out.extend_from_slice(b":-1\r\n"))?,
            "client|unblock" => return self.unblock(request),
            "client|help" => self.answer(|out, _| {
                wire::array(out, HELP.len());
                for line in HELP {
                    wire::simple(out, line);
                }
            })?,
            // Clients try it and go on without.
            "client|maint_notifications" => {
                return self.decline(request, |out| {
                    refusal::unknown_subcommand(out, request.name(), request.word(1));
                });
            }
            name => return self.decline(request, |out| refusal::unsupported(out, name)),
        }
        Ok(request.bytes)
    }

    fn set_name(&mut self, request: &Request) -> Result<usize, Next> {
        let Some(name) = clean_name(request.word(2)) else {
            return self.decline(request, |out| refusal::plain(out, Plain::ClientName));
        };
        self.answer(|out, _| wire::simple(out, "OK"))?;
        self.call(name);
        Ok(request.bytes)
    }

    /// Notes what the client calls itself.
    pub(super) fn call(&mut self, name: String) {
        if let Some(member) = &self.member {
            member.seat.set_label(&name);
        }
        self.name = name;
    }

    fn set_info(&mut self, request: &Request) -> Result<usize, Next> {
        let known = [&b"lib-name"[..], b"lib-ver"]
            .iter()
            .any(|option| request.word(2).eq_ignore_ascii_case(option));
        if !known || clean_name(request.word(3)).is_none() {
            return self.decline(request, |out| refusal::plain(out, Plain::Syntax));
        }
        self.answer(|out, _| wire::simple(out, "OK"))?;
        if let Some(member) = &self.member {
            let value = String::from_utf8_lossy(request.word(3));
            let value: String = value.chars().take(64).collect();
            let is_name = request.word(2).eq_ignore_ascii_case(b"lib-name");
            member.presence.note_library(|library| {
                let field = if is_name {
                    &mut library.name
                } else {
                    &mut library.version
                };
                *field = value.into_boxed_str();
            });
        }
        Ok(request.bytes)
    }

    fn set_replies(&mut self, request: &Request) -> Result<usize, Next> {
        let wanted = request.word(2).to_ascii_lowercase();
        match wanted.as_slice() {
            b"on" => {
                self.replies = Replies::On;
                self.answer(|out, _| wire::simple(out, "OK"))?;
            }
            b"off" => self.replies = Replies::Off,
            b"skip" if self.replies != Replies::Off => self.replies = Replies::SkipNext,
            b"skip" => {}
            _ => return self.decline(request, |out| refusal::plain(out, Plain::Syntax)),
        }
        Ok(request.bytes)
    }

    /// A switch that is about the server's memory for a connection: harmless, and without effect here.
    fn accept_switch(&mut self, request: &Request) -> Result<usize, Next> {
        let wanted = request.word(2);
        if !wanted.eq_ignore_ascii_case(b"on") && !wanted.eq_ignore_ascii_case(b"off") {
            return self.decline(request, |out| refusal::plain(out, Plain::Syntax));
        }
        self.answer(|out, _| wire::simple(out, "OK"))?;
        Ok(request.bytes)
    }

    /// `CLIENT UNBLOCK id [TIMEOUT | ERROR]`: a client of the own tenant that waits in line.
    fn unblock(&mut self, request: &Request) -> Result<usize, Next> {
        let outcome = match request.word(3).to_ascii_lowercase().as_slice() {
            b"error" => Outcome::Unblocked,
            b"timeout" => Outcome::Expired,
            b"" if request.words.len() == 3 => Outcome::Expired,
            _ => return self.decline(request, |out| refusal::plain(out, Plain::UnblockReason)),
        };
        let id = std::str::from_utf8(request.word(2)).ok();
        let Some(id) = id.and_then(|text| text.parse::<i64>().ok()) else {
            return self.decline(request, |out| refusal::plain(out, Plain::NotInteger));
        };
        let Some(member) = &self.member else {
            return Ok(request.bytes);
        };
        let station = std::sync::Arc::clone(&member.station);
        // Answered first: it may have to be called again, and nobody is woken twice.
        let waits = u64::try_from(id).is_ok_and(|id| station.shares().is_waiting(id));
        self.answer(|out, _| wire::integer(out, u64::from(waits)))?;
        if let Ok(id) = u64::try_from(id) {
            station.shares().unblock(id, outcome);
        }
        Ok(request.bytes)
    }
}

/// A name without blanks and control characters, as the server demands.
pub(super) fn clean_name(name: &[u8]) -> Option<String> {
    let clean = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
    clean.then(|| String::from_utf8_lossy(name).into_owned())
}
