//! `CLIENT`: what a client says of itself, and the tenant's own clients.

use std::fmt::Write as _;

use super::{Next, Replies, Session, advance::Request};
use crate::{
    redis::{
        commands::Command,
        refusal::{self, Plain},
        wire,
    },
    session::ClientFigures,
};

/// What `CLIENT HELP` lists.
const HELP: [&str; 11] = [
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GETNAME",
    "ID",
    "INFO",
    "KILL <ip:port> | ID <id>",
    "LIST",
    "NO-EVICT (ON|OFF)",
    "NO-TOUCH (ON|OFF)",
    "REPLY (ON|OFF|SKIP)",
    "SETINFO <option> <value>",
    "SETNAME <name>",
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
            "client|list" => {
                let list = self.list();
                self.answer(|out, version| wire::verbatim(out, version, &list))?;
            }
            "client|kill" => return self.kill(request),
            "client|reply" => return self.set_replies(request),
            "client|no-touch" | "client|no-evict" => return self.accept_switch(request),
            "client|trackinginfo" => self.answer(|out, version| {
                wire::map(out, version, 3);
                wire::bulk(out, b"flags");
                wire::array(out, 1);
                wire::bulk(out, b"off");
                wire::bulk(out, b"redirect");
                out.extend_from_slice(b":-1\r\n");
                wire::bulk(out, b"prefixes");
                wire::array(out, 0);
            })?,
            "client|getredir" => self.answer(|out, _| out.extend_from_slice(b":-1\r\n"))?,
            "client|unblock" => self.answer(|out, _| wire::integer(out, 0))?,
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

    /// Switches that are about the server's memory: harmless, and without effect here.
    fn accept_switch(&mut self, request: &Request) -> Result<usize, Next> {
        let wanted = request.word(2);
        if !wanted.eq_ignore_ascii_case(b"on") && !wanted.eq_ignore_ascii_case(b"off") {
            return self.decline(request, |out| refusal::plain(out, Plain::Syntax));
        }
        self.answer(|out, _| wire::simple(out, "OK"))?;
        Ok(request.bytes)
    }

    fn list(&self) -> String {
        let Some(member) = &self.member else {
            return String::new();
        };
        let mut clients = member.seat.board().clients(Some(member.station.tenant()));
        clients.sort_by_key(|client| client.id);
        let mut out = String::new();
        for client in &clients {
            if client.id == member.seat.id() {
                out.push_str(&self.describe_self());
            } else {
                describe(&mut out, client, 0, 2);
            }
        }
        out
    }

    fn describe_self(&self) -> String {
        let mut out = String::new();
        if let Some(member) = &self.member {
            let figures = member.seat.figures();
            describe(&mut out, &figures, self.database, self.version.number());
        }
        out
    }

    /// `CLIENT KILL addr`, or by filters: clients of the own tenant only.
    fn kill(&mut self, request: &Request) -> Result<usize, Next> {
        let Some(member) = &self.member else {
            return Ok(request.bytes);
        };
        let (board, tenant, me) = (
            member.seat.board().clone(),
            member.station.tenant(),
            member.seat.id(),
        );
        let filters: Vec<&[u8]> = request.words.iter().skip(2).map(AsRef::as_ref).collect();
        let Some(filter) = KillFilter::parse(&filters) else {
            return self.decline(request, |out| refusal::plain(out, Plain::Syntax));
        };
        let victims: Vec<_> = board
            .clients(Some(tenant))
            .into_iter()
            .filter(|client| filter.fits(client) && !(filter.skip_me && client.id == me))
            .collect();
        if filter.is_old_form && victims.is_empty() {
            return self.decline(request, |out| refusal::plain(out, Plain::NoSuchClient));
        }
        let count = u64::try_from(victims.len()).unwrap_or(u64::MAX);
        self.answer(|out, _| {
            if filter.is_old_form {
                wire::simple(out, "OK");
            } else {
                wire::integer(out, count);
            }
        })?;
        for victim in victims {
            board.end(victim.id, Some(tenant));
        }
        Ok(request.bytes)
    }
}

/// Which clients are to be ended.
struct KillFilter {
    is_old_form: bool,
    skip_me: bool,
    id: Option<u64>,
    address: Option<String>,
    user: Option<String>,
    nobody: bool,
}

impl KillFilter {
    fn parse(words: &[&[u8]]) -> Option<Self> {
        let mut filter = Self {
            is_old_form: words.len() == 1,
            skip_me: true,
            id: None,
            address: None,
            user: None,
            nobody: false,
        };
        if let [address] = words {
            filter.skip_me = false;
            filter.address = Some(String::from_utf8_lossy(address).into_owned());
            return Some(filter);
        }
        for pair in words.chunks(2) {
            let [name, value] = pair else { return None };
            let value = String::from_utf8_lossy(value).into_owned();
            match name.to_ascii_lowercase().as_slice() {
                b"id" => filter.id = Some(value.parse().ok()?),
                b"addr" => filter.address = Some(value),
                b"user" => filter.user = Some(value),
                b"type" => filter.nobody |= !value.eq_ignore_ascii_case("normal"),
                b"skipme" => filter.skip_me = value.eq_ignore_ascii_case("yes"),
                _ => return None,
            }
        }
        Some(filter)
    }

    fn fits(&self, client: &ClientFigures) -> bool {
        !self.nobody
            && self.id.is_none_or(|id| id == client.id)
            && self
                .address
                .as_ref()
                .is_none_or(|address| *address == client.peer.to_string())
            && self.user.as_ref().is_none_or(|user| *user == client.user)
    }
}

/// A line of `CLIENT LIST`, with the fields that a gateway can know.
fn describe(out: &mut String, client: &ClientFigures, database: u32, version: u8) {
    // Writing to a string cannot fail.
    let _infallible = writeln!(
        out,
        "id={} addr={} laddr=0.0.0.0:0 fd=0 name={} age={} idle=0 flags=N db={database} sub=0 \
         psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 \
         omem=0 tot-mem=0 events=r cmd=NULL user={} redir=-1 resp={version}",
        client.id,
        client.peer,
        client.label,
        client.age.as_secs(),
        client.user,
    );
}

/// A name without blanks and control characters, as the server demands.
pub(super) fn clean_name(name: &[u8]) -> Option<String> {
    let clean = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
    clean.then(|| String::from_utf8_lossy(name).into_owned())
}
