//! `CLIENT LIST`, `INFO` and `KILL`: the tenant's own clients, and nobody else's.

use std::{fmt::Write as _, time::Duration};

use super::{Next, Session, request::Request};
use crate::{
    redis::{
        presence::Seen,
        refusal::{self, Plain},
        station::Station,
        wire,
    },
    session::ClientFigures,
};

/// A kind of client, as the server tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Normal,
    Pubsub,
    /// Replicas and masters: never clients of ours.
    Nobody,
}

/// Which clients are meant.
#[derive(Debug, Default)]
struct Filter {
    ids: Vec<u64>,
    address: Option<String>,
    local: Option<String>,
    user: Option<String>,
    sort: Option<Sort>,
    age_min: Option<Duration>,
    keeps_me: bool,
}

/// Why filters are none.
enum FilterFault {
    Syntax,
    UnknownType(Vec<u8>),
    Id,
}

/// One client with all that is known of it.
struct Kin {
    figures: ClientFigures,
    seen: Option<Seen>,
    is_blocked: bool,
}

impl Session {
    /// `CLIENT LIST [TYPE type | ID id ...]`.
    pub(super) fn list(&mut self, request: &Request) -> Result<usize, Next> {
        let words: Vec<&[u8]> = request.words.iter().skip(2).map(AsRef::as_ref).collect();
        let filter = match Filter::of_list(&words) {
            Ok(filter) => filter,
            Err(fault) => return self.decline(request, |out| fault.tell(out)),
        };
        let mut list = String::new();
        for kin in self.kin().iter().filter(|kin| filter.fits(kin)) {
            self.describe(&mut list, kin);
        }
        self.answer(|out, version| wire::verbatim(out, version, &list))?;
        Ok(request.bytes)
    }

    /// This client's own line.
    pub(super) fn describe_self(&self) -> String {
        let mut out = String::new();
        if let Some(member) = &self.member {
            self.show();
            self.describe(&mut out, &Kin::new(member.seat.figures(), &member.station));
        }
        out
    }

    /// `CLIENT KILL addr`, or by filters.
    pub(super) fn kill(&mut self, request: &Request) -> Result<usize, Next> {
        let Some(member) = &self.member else {
            return Ok(request.bytes);
        };
        let (board, tenant) = (member.seat.board().clone(), member.station.tenant());
        let me = member.seat.id();
        let words: Vec<&[u8]> = request.words.iter().skip(2).map(AsRef::as_ref).collect();
        let filter = match Filter::of_kill(&words) {
            Ok(filter) => filter,
            Err(fault) => return self.decline(request, |out| fault.tell(out)),
        };
        let kin = self.kin();
        let victims = kin.iter().filter(|kin| filter.fits(kin));
        let victims = victims.filter(|kin| !(filter.keeps_me && kin.figures.id == me));
        let victims: Vec<u64> = victims.map(|kin| kin.figures.id).collect();
        let is_old_form = words.len() == 1;
        if is_old_form && victims.is_empty() {
            return self.decline(request, |out| refusal::plain(out, Plain::NoSuchClient));
        }
        let count = u64::try_from(victims.len()).unwrap_or(u64::MAX);
        self.answer(|out, _| {
            if is_old_form {
                wire::simple(out, "OK");
            } else {
                wire::integer(out, count);
            }
        })?;
        for victim in victims {
            board.end(victim, Some(tenant));
        }
        Ok(request.bytes)
    }

    /// Everybody of this tenant, in the order of coming.
    fn kin(&self) -> Vec<Kin> {
        let Some(member) = &self.member else {
            return Vec::new();
        };
        self.show();
        let station = &member.station;
        let clients = member.seat.board().clients(Some(station.tenant()));
        let mut kin: Vec<Kin> = clients
            .into_iter()
            .map(|figures| Kin::new(figures, station))
            .collect();
        kin.sort_by_key(|kin| kin.figures.id);
        kin
    }

    /// A line of `CLIENT LIST`, with the fields that a gateway can know; the others are 0.
    fn describe(&self, out: &mut String, kin: &Kin) {
        let client = &kin.figures;
        let seen = kin.seen.as_ref();
        let local = seen.and_then(|seen| seen.local);
        let command = seen.and_then(|seen| self.service.commands().name(seen.command));
        let count = |of: fn(&Seen) -> u32| seen.map_or(0, of);
        // Writing to a string cannot fail.
        let _infallible = write!(
            out,
            "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags={} db={} sub={} psub={} \
             ssub={} multi={} qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 \
             omem=0 tot-mem=0 events=r cmd={} user={} redir={} resp={}",
            client.id,
            client.peer,
            local.map(|local| local.to_string()).unwrap_or_default(),
            client.label,
            client.age.as_secs(),
            seen.map_or(0, |seen| seen.idle.as_secs()),
            kin.flags(),
            count(|seen| seen.database),
            count(|seen| seen.channels),
            count(|seen| seen.patterns),
            count(|seen| seen.shards),
            seen.map_or(-1, |seen| seen.queued),
            count(|seen| seen.unserved),
            command.unwrap_or("NULL"),
            client.user,
            seen.map_or(-1, |seen| seen.redirect),
            seen.map_or(2, |seen| seen.version),
        );
        if let Some(library) = seen.map(|seen| &seen.library) {
            let (name, version) = (&library.name, &library.version);
            let _infallible = write!(out, " lib-name={name} lib-ver={version}");
        }
        out.push('\n');
    }
}

impl Filter {
    fn of_list(words: &[&[u8]]) -> Result<Self, FilterFault> {
        let mut filter = Self::default();
        match words {
            [] => {}
            [name, ids @ ..] if name.eq_ignore_ascii_case(b"id") && !ids.is_empty() => {
                for id in ids {
                    filter.ids.push(number(id)?);
                }
            }
            [name, sort] if name.eq_ignore_ascii_case(b"type") => {
                filter.sort = Some(Sort::parse(sort)?);
            }
            _ => return Err(FilterFault::Syntax),
        }
        Ok(filter)
    }

    fn of_kill(words: &[&[u8]]) -> Result<Self, FilterFault> {
        let text = |value: &[u8]| Some(String::from_utf8_lossy(value).into_owned());
        let mut filter = Self::default();
        if let [address] = words {
            filter.address = text(address);
            return Ok(filter);
        }
        filter.keeps_me = true;
        for pair in words.chunks(2) {
            let [name, value] = pair else {
                return Err(FilterFault::Syntax);
            };
            match name.to_ascii_lowercase().as_slice() {
                b"id" => filter.ids.push(client_id(value)?),
                b"addr" => filter.address = text(value),
                b"laddr" => filter.local = text(value),
                b"user" => filter.user = text(value),
                b"type" => filter.sort = Some(Sort::parse(value)?),
                b"maxage" => filter.age_min = Some(Duration::from_secs(number(value)?)),
                b"skipme" if value.eq_ignore_ascii_case(b"yes") => filter.keeps_me = true,
                b"skipme" if value.eq_ignore_ascii_case(b"no") => filter.keeps_me = false,
                _ => return Err(FilterFault::Syntax),
            }
        }
        Ok(filter)
    }

    fn fits(&self, kin: &Kin) -> bool {
        let client = &kin.figures;
        let local = kin.seen.as_ref().and_then(|seen| seen.local);
        let is = |wanted: &Option<String>, own: Option<String>| {
            wanted.is_none() || wanted.as_ref() == own.as_ref()
        };
        (self.ids.is_empty() || self.ids.contains(&client.id))
            && is(&self.address, Some(client.peer.to_string()))
            && is(&self.local, local.map(|local| local.to_string()))
            && is(&self.user, Some(client.user.clone()))
            && self.sort.is_none_or(|sort| sort == kin.sort())
            && self.age_min.is_none_or(|age| client.age >= age)
    }
}

impl FilterFault {
    fn tell(&self, out: &mut bytes::BytesMut) {
        match self {
            Self::Syntax => refusal::plain(out, Plain::Syntax),
            Self::Id => refusal::plain(out, Plain::ClientId),
            Self::UnknownType(word) => refusal::unknown_client_type(out, word),
        }
    }
}

impl Sort {
    fn parse(word: &[u8]) -> Result<Self, FilterFault> {
        match word.to_ascii_lowercase().as_slice() {
            b"normal" => Ok(Self::Normal),
            b"pubsub" => Ok(Self::Pubsub),
            b"master" | b"replica" | b"slave" => Ok(Self::Nobody),
            _ => Err(FilterFault::UnknownType(word.to_vec())),
        }
    }
}

impl Kin {
    fn new(figures: ClientFigures, station: &Station) -> Self {
        Self {
            seen: station.presences().see(figures.id),
            is_blocked: station.shares().is_waiting(figures.id),
            figures,
        }
    }

    fn sort(&self) -> Sort {
        let subscriptions = |seen: &Seen| seen.channels + seen.patterns + seen.shards;
        match self.seen.as_ref().map_or(0, subscriptions) {
            0 => Sort::Normal,
            _ => Sort::Pubsub,
        }
    }

    fn flags(&self) -> String {
        let is_queueing = self.seen.as_ref().is_some_and(|seen| seen.queued >= 0);
        let is_tracking = self.seen.as_ref().is_some_and(|seen| seen.redirect >= 0);
        let all = [
            (self.sort() == Sort::Pubsub, 'P'),
            (is_queueing, 'x'),
            (self.is_blocked, 'b'),
            (is_tracking, 't'),
        ];
        let flags = all.iter().filter(|(is_set, _)| *is_set);
        let flags: String = flags.map(|(_, flag)| flag).collect();
        if flags.is_empty() { "N".into() } else { flags }
    }
}

fn number(word: &[u8]) -> Result<u64, FilterFault> {
    let text = std::str::from_utf8(word).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or(FilterFault::Syntax)
}

/// A number that a client can have.
fn client_id(word: &[u8]) -> Result<u64, FilterFault> {
    let id = number(word).map_err(|_| FilterFault::Id)?;
    if id == 0 {
        Err(FilterFault::Id)
    } else {
        Ok(id)
    }
}
