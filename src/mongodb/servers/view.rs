//! What is known of a replica set's members, pure: hellos come in, choices go out.
//!
//! The rules are those of drivers:
//! <https://github.com/mongodb/specifications/blob/master/source/server-discovery-and-monitoring/server-discovery-and-monitoring.md>

use std::time::Duration;

use bson::oid::ObjectId;
use tokio::time::Instant;

use super::super::preference::{Mode, Preference, Tags};
use crate::tenant::Endpoint;

/// Members of one set; the server's own limit.
const MEMBERS_MAX: usize = 50;
/// How much farther than the nearest a member may be.
const NEAR: Duration = Duration::from_millis(15);
/// What a heartbeat adds to how old a member's word is.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The order of one process's hellos.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    /// The process.
    pub(crate) process: ObjectId,
    /// Counts its changes.
    pub(crate) counter: i64,
}

impl Version {
    /// Whether it came after, or of another process.
    pub(crate) fn is_after(self, other: Option<Self>) -> bool {
        other.is_none_or(|other| self.process != other.process || self.counter > other.counter)
    }
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum State {
    /// Not known, or not reachable.
    #[default]
    Unknown,
    /// It takes writes.
    Primary,
    /// It follows the primary.
    Secondary,
    /// An arbiter, or on its way to be something else.
    Other,
}

/// What a hello says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hello {
    /// What the member is.
    pub(crate) state: State,
    /// Its set.
    pub(crate) set: Option<String>,
    /// What it calls itself.
    pub(crate) me: Option<Endpoint>,
    /// Whom it knows, arbiters left out.
    pub(crate) hosts: Vec<Endpoint>,
    /// Which election made it primary, and under which configuration.
    pub(crate) election: Option<(ObjectId, i64)>,
    /// When it last wrote, in milliseconds of its own clock.
    pub(crate) last_write: i64,
    /// Its tags.
    pub(crate) tags: Tags,
    /// The order of this word.
    pub(crate) version: Option<Version>,
}

/// One member.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    endpoint: Endpoint,
    state: State,
    version: Option<Version>,
    tags: Tags,
    last_write: i64,
    heard_at: Instant,
    distance: Option<Duration>,
}

/// All members.
#[derive(Debug, Clone)]
pub(crate) struct View {
    set: Option<String>,
    members: Vec<Member>,
    newest_election: Option<(ObjectId, i64)>,
    turn: usize,
}

impl View {
    /// Nothing is known but where to ask.
    pub(crate) fn new(set: Option<String>, seeds: &[Endpoint], now: Instant) -> Self {
        let mut view = Self {
            set,
            members: Vec::new(),
            newest_election: None,
            turn: 0,
        };
        view.meet(seeds, now);
        view
    }

    /// The members' addresses.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.members.iter().map(|member| &member.endpoint)
    }

    /// Takes up a member's hello; false when it changes nothing about who is what.
    pub(crate) fn hear(&mut self, from: &Endpoint, hello: Hello, took: Duration, now: Instant) {
        let Some(at) = self.place(from) else {
            return;
        };
        let known = self.members.get(at).and_then(|member| member.version);
        if let (Some(said), Some(known)) = (hello.version, known)
            && said.process == known.process
            && said.counter < known.counter
        {
            return;
        }
        let is_ours = self.set.is_none() || hello.set.is_none() || self.set == hello.set;
        let is_renamed = hello.me.as_ref().is_some_and(|me| me != from);
        let mut state = if is_ours { hello.state } else { State::Other };
        if state == State::Primary && !self.is_newest(hello.election) {
            // Deposed, and has not heard of it.
            state = State::Unknown;
        }
        if is_ours && self.set.is_none() {
            self.set.clone_from(&hello.set);
        }
        if state == State::Primary {
            for member in &mut self.members {
                if member.state == State::Primary {
                    member.state = State::Unknown;
                }
            }
        }
        if let Some(member) = self.members.get_mut(at) {
            member.state = state;
            member.version = hello.version;
            member.tags = hello.tags;
            member.last_write = hello.last_write;
            member.heard_at = now;
            // An average that follows, as drivers have it.
            member.distance = Some(match member.distance {
                Some(before) => before.mul_f64(0.8) + took.mul_f64(0.2),
                None => took,
            });
        }
        match state {
            State::Primary => {
                self.meet(&hello.hosts, now);
                self.members
                    .retain(|member| hello.hosts.contains(&member.endpoint));
            }
            State::Secondary | State::Other if is_ours => {
                self.meet(&hello.hosts, now);
                // It is known under another name from now on.
                if is_renamed && !hello.hosts.is_empty() {
                    self.members.retain(|member| member.endpoint != *from);
                }
            }
            _ => {}
        }
    }

    /// Whether a member takes reads or writes, as far as is known.
    pub(crate) fn serves(&self, endpoint: &Endpoint) -> bool {
        let mut members = self.members.iter();
        members.any(|member| {
            member.endpoint == *endpoint
                && matches!(member.state, State::Primary | State::Secondary)
        })
    }

    /// A member cannot be reached.
    pub(crate) fn lose(&mut self, endpoint: &Endpoint) {
        if let Some(member) = self.find(endpoint) {
            member.state = State::Unknown;
            member.version = None;
            member.distance = None;
        }
    }

    /// The order of a member's last word.
    pub(crate) fn version(&self, endpoint: &Endpoint) -> Option<Version> {
        let member = self.members.iter().find(|it| it.endpoint == *endpoint)?;
        member.version
    }

    /// A member's answer says that it is not what it was taken for. False: that is old news.
    pub(crate) fn suspect(&mut self, endpoint: &Endpoint, said: Option<Version>) -> bool {
        let Some(member) = self.find(endpoint) else {
            return false;
        };
        if said.is_some_and(|said| !said.is_after(member.version)) {
            return false;
        }
        member.state = State::Unknown;
        if said.is_some() {
            member.version = said;
        }
        true
    }

    /// A server that fits; those that fit alike take turns.
    pub(crate) fn choose(&mut self, preference: &Preference) -> Option<Endpoint> {
        let primary = |view: &Self| {
            let primary = view.members.iter().find(|it| it.state == State::Primary);
            primary.map(|member| member.endpoint.clone())
        };
        match preference.mode {
            Mode::Primary => primary(self),
            Mode::PrimaryPreferred => primary(self).or_else(|| self.near(preference, false)),
            Mode::Secondary => self.near(preference, false),
            Mode::SecondaryPreferred => self.near(preference, false).or_else(|| primary(self)),
            Mode::Nearest => self.near(preference, true),
        }
    }

    fn near(&mut self, preference: &Preference, with_primary: bool) -> Option<Endpoint> {
        let readable: Vec<_> = self
            .members
            .iter()
            .filter(|member| match member.state {
                State::Secondary => {
                    let staleness_max = preference.staleness_max;
                    staleness_max.is_none_or(|max| self.staleness(member) <= max)
                }
                State::Primary => with_primary,
                State::Unknown | State::Other => false,
            })
            .collect();
        let any = [Tags::new()];
        let tag_sets = match &*preference.tag_sets {
            [] => &any[..],
            sets => sets,
        };
        let fitting = tag_sets.iter().find_map(|tags| {
            let fits = |member: &&&Member| tags.iter().all(|tag| member.tags.contains(tag));
            let fitting: Vec<_> = readable.iter().filter(fits).collect();
            (!fitting.is_empty()).then_some(fitting)
        })?;
        let distance = |member: &Member| member.distance.unwrap_or_default();
        let nearest = fitting.iter().map(|member| distance(member)).min()?;
        let near: Vec<_> = fitting
            .into_iter()
            .filter(|member| distance(member) <= nearest + NEAR)
            .collect();
        let chosen = near.get(self.turn % near.len().max(1));
        let chosen = chosen.map(|member| member.endpoint.clone());
        self.turn = self.turn.wrapping_add(1);
        chosen
    }

    /// How far a secondary is behind the primary, or behind the best secondary without one.
    fn staleness(&self, member: &Member) -> Duration {
        let primary = self.members.iter().find(|it| it.state == State::Primary);
        let millis = if let Some(primary) = primary {
            let heard = millis_between(member.heard_at, primary.heard_at);
            heard + primary.last_write - member.last_write
        } else {
            let secondaries = self.members.iter();
            let best = secondaries
                .filter(|it| it.state == State::Secondary)
                .map(|it| it.last_write)
                .max();
            best.unwrap_or(member.last_write) - member.last_write
        };
        HEARTBEAT + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    fn is_newest(&mut self, election: Option<(ObjectId, i64)>) -> bool {
        let (Some(said), Some(newest)) = (election, self.newest_election) else {
            self.newest_election = election.or(self.newest_election);
            return true;
        };
        if said < newest {
            return false;
        }
        self.newest_election = Some(said);
        true
    }

    fn meet(&mut self, endpoints: &[Endpoint], now: Instant) {
        for endpoint in endpoints {
            if self.place(endpoint).is_none() && self.members.len() < MEMBERS_MAX {
                self.members.push(Member {
                    endpoint: endpoint.clone(),
                    state: State::Unknown,
                    version: None,
                    tags: Tags::new(),
                    last_write: 0,
                    heard_at: now,
                    distance: None,
                });
            }
        }
    }

    fn place(&self, endpoint: &Endpoint) -> Option<usize> {
        let mut members = self.members.iter();
        members.position(|member| member.endpoint == *endpoint)
    }

    fn find(&mut self, endpoint: &Endpoint) -> Option<&mut Member> {
        let mut members = self.members.iter_mut();
        members.find(|member| member.endpoint == *endpoint)
    }
}

fn millis_between(later: Instant, earlier: Instant) -> i64 {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match later.checked_duration_since(earlier) {
        Some(duration) => millis(duration),
        None => -millis(earlier.duration_since(later)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Endpoint {
        Endpoint {
            host: "h".into(),
            port,
        }
    }

    fn hello(state: State) -> Hello {
        Hello {
            state,
            set: Some("rs".into()),
            hosts: vec![at(1), at(2), at(3)],
            ..Hello::default()
        }
    }

    fn elected(number: u8) -> Hello {
        Hello {
            election: Some((ObjectId::from_bytes([number; 12]), 1)),
            ..hello(State::Primary)
        }
    }

    fn hear(view: &mut View, port: u16, hello: Hello) {
        view.hear(&at(port), hello, Duration::from_millis(1), Instant::now());
    }

    fn set_of_three() -> View {
        let mut view = View::new(None, &[at(1)], Instant::now());
        hear(&mut view, 1, elected(1));
        hear(&mut view, 2, hello(State::Secondary));
        hear(&mut view, 3, hello(State::Secondary));
        view
    }

    fn mode(mode: Mode) -> Preference {
        Preference {
            mode,
            ..Preference::default()
        }
    }

    #[test]
    fn a_seed_leads_to_all_members() {
        let mut view = set_of_three();
        assert_eq!(view.choose(&Preference::default()), Some(at(1)));
        let near: Vec<_> = (0..3)
            .filter_map(|_| view.choose(&mode(Mode::Nearest)))
            .collect();
        assert_eq!(near, [at(1), at(2), at(3)]);
    }

    #[test]
    fn a_deposed_primary_is_not_believed() {
        let mut view = set_of_three();
        hear(&mut view, 2, elected(2));
        assert_eq!(view.choose(&Preference::default()), Some(at(2)));
        hear(&mut view, 1, elected(1));
        assert_eq!(view.choose(&Preference::default()), Some(at(2)));
    }

    #[test]
    fn old_words_of_a_process_change_nothing() {
        let process = ObjectId::new();
        let version = |counter| Some(Version { process, counter });
        let said = |state, counter| Hello {
            version: version(counter),
            ..hello(state)
        };
        let mut view = View::new(None, &[at(1)], Instant::now());
        hear(&mut view, 1, said(State::Primary, 3));
        assert!(!view.suspect(&at(1), version(3)));
        assert!(view.suspect(&at(1), version(4)));
        hear(&mut view, 1, said(State::Primary, 3));
        assert_eq!(view.choose(&Preference::default()), None);
        hear(&mut view, 1, said(State::Primary, 5));
        assert_eq!(view.choose(&Preference::default()), Some(at(1)));
    }

    #[test]
    fn secondaries_stand_in_only_where_they_may() {
        let mut view = set_of_three();
        view.lose(&at(1));
        assert_eq!(view.choose(&Preference::default()), None);
        assert!(view.choose(&mode(Mode::PrimaryPreferred)).is_some());
        view.lose(&at(2));
        view.lose(&at(3));
        assert_eq!(view.choose(&mode(Mode::Nearest)), None);
    }

    #[test]
    fn tags_and_staleness_choose_among_secondaries() {
        let mut view = set_of_three();
        let tagged = |tag: &str, last_write| Hello {
            tags: vec![("dc".into(), tag.into())],
            last_write,
            ..hello(State::Secondary)
        };
        let fresh = Hello {
            last_write: 500_000,
            ..elected(1)
        };
        hear(&mut view, 1, fresh);
        hear(&mut view, 2, tagged("a", 499_000));
        hear(&mut view, 3, tagged("b", 100_000));
        let wants = |tag: &str| Preference {
            mode: Mode::Secondary,
            tag_sets: vec![vec![("dc".into(), tag.into())]],
            ..Preference::default()
        };
        assert_eq!(view.choose(&wants("b")), Some(at(3)));
        assert_eq!(view.choose(&wants("c")), None);
        let fresh = |preference| Preference {
            staleness_max: Some(Duration::from_mins(2)),
            ..preference
        };
        assert_eq!(view.choose(&fresh(wants("b"))), None);
        assert_eq!(view.choose(&fresh(wants("a"))), Some(at(2)));
    }

    #[test]
    fn members_that_left_the_set_are_forgotten() {
        let mut view = set_of_three();
        let smaller = Hello {
            hosts: vec![at(1), at(2)],
            ..elected(1)
        };
        hear(&mut view, 1, smaller);
        assert_eq!(view.endpoints().count(), 2);
    }

    #[test]
    fn another_set_at_a_members_address_is_none_of_it() {
        let mut view = set_of_three();
        let stranger = Hello {
            set: Some("other".into()),
            ..elected(9)
        };
        hear(&mut view, 2, stranger);
        assert_eq!(view.choose(&Preference::default()), Some(at(1)));
    }
}
