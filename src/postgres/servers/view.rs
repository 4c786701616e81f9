//! What is known of the servers of one tenant, pure: which takes writes, which follow it, which cannot
//! be reached, and whom to ask.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    net::DialFault,
    postgres::rank::Rank,
    tenant::{Balance, SessionAttrs},
};

/// How long after its first failure a server is left alone; doubled by each further one.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// The longest that it is left alone.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// How old an answer becomes before its server is asked again, while there are sessions to be served.
const ASKED_EVERY: Duration = Duration::from_secs(2);
/// How long a server that has been asked for the first time is waited for while another would do.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(1);

/// How old an answer may be to count for somebody who asks now.
const FRESH_FOR: Duration = Duration::from_millis(100);

/// The servers, in the order of the connection string.
pub(super) struct View {
    servers: Vec<Server>,
    /// The primary that is used; it stays so for as long as it answers, whoever else claims to be one.
    leader: Option<usize>,
    /// Where the search among equals begins.
    turn: usize,
    balance: Balance,
}

#[derive(Default)]
struct Server {
    rank: Option<Rank>,
    loss: Option<Loss>,
    /// When it last answered, or could not be reached.
    told: Option<Instant>,
    asked: Option<Instant>,
    /// It could not be asked, and is left alone until then.
    spared: Option<Instant>,
}

/// It cannot be reached.
struct Loss {
    fault: DialFault,
    failures: u32,
    until: Instant,
}

/// What there is for a session that finds no server.
pub(super) enum Outlook {
    /// Some have not told yet what they are.
    Open,
    /// All have; none will do, but one may be promoted.
    Another,
    /// None can be reached.
    Dead(DialFault),
}

impl View {
    pub(super) fn new(count: usize, balance: Balance) -> Self {
        Self {
            servers: (0..count).map(|_| Server::default()).collect(),
            leader: None,
            turn: 0,
            balance,
        }
    }

    /// The server for a session that asks for this; `busy` says how much each is in use.
    pub(super) fn choose(
        &self,
        attrs: SessionAttrs,
        now: Instant,
        busy: impl Fn(usize) -> usize,
    ) -> Option<usize> {
        match attrs {
            SessionAttrs::Primary | SessionAttrs::ReadWrite => self.first(attrs),
            SessionAttrs::Standby | SessionAttrs::ReadOnly => self.spread(attrs, busy),
            SessionAttrs::PreferStandby => {
                let standby = self.spread(SessionAttrs::Standby, busy);
                if standby.is_some() || self.is_first_asked(now) {
                    return standby;
                }
                self.first(SessionAttrs::Primary)
                    .or_else(|| self.fitting(attrs).next())
            }
            SessionAttrs::Any if self.balance == Balance::Spread => self.spread(attrs, busy),
            SessionAttrs::Any => self.fitting(attrs).next(),
        }
    }

    /// A session that asks for this is served by this one: the turn passes on, where servers take turns.
    pub(super) fn pass_on(&mut self, at: usize, attrs: SessionAttrs) {
        let takes_turns = match attrs {
            SessionAttrs::Primary | SessionAttrs::ReadWrite => false,
            SessionAttrs::Standby | SessionAttrs::ReadOnly | SessionAttrs::PreferStandby => true,
            SessionAttrs::Any => self.balance == Balance::Spread,
        };
        if takes_turns {
            self.turn = at + 1;
        }
    }

    /// The server that was used for writes last.
    pub(super) fn leader(&self) -> Option<usize> {
        self.leader
    }

    pub(super) fn rank(&self, at: usize) -> Option<Rank> {
        let server = self.servers.get(at)?;
        server.rank.filter(|_| server.loss.is_none())
    }

    /// A server said what it is. True: another one takes writes from now on.
    pub(super) fn hear(&mut self, at: usize, rank: Rank, now: Instant) -> bool {
        let Some(server) = self.servers.get_mut(at) else {
            return false;
        };
        *server = Server {
            rank: Some(rank),
            loss: None,
            told: Some(now),
            ..Server::default()
        };
        let stays = self
            .leader
            .is_some_and(|at| self.will_do(at, SessionAttrs::Primary));
        if stays {
            return false;
        }
        let before = self.leader;
        let found = self.fitting(SessionAttrs::Primary).next();
        self.leader = found.or(self.leader);
        self.leader != before
    }

    /// A server could not be reached.
    pub(super) fn lose(&mut self, at: usize, fault: DialFault, now: Instant) {
        let Some(server) = self.servers.get_mut(at) else {
            return;
        };
        let failures = server.loss.as_ref().map_or(0, |loss| loss.failures) + 1;
        let pause = RETRY_AFTER * (1_u32 << failures.min(10).saturating_sub(1));
        server.loss = Some(Loss {
            fault,
            failures,
            until: now + pause.min(RETRY_AFTER_MAX),
        });
        server.told = Some(now);
        server.asked = None;
    }

    /// A server takes too long to answer. It may be frozen; a primary is given up only for another one.
    pub(super) fn be_late(&mut self, at: usize, fault: DialFault, now: Instant) {
        let replaced = self.fitting(SessionAttrs::Primary).any(|other| other != at);
        match self.rank(at) {
            Some(Rank::Primary | Rank::Closed) if !replaced => {
                if let Some(server) = self.servers.get_mut(at) {
                    server.asked = None;
                    server.told = Some(now);
                }
            }
            Some(_) | None => self.lose(at, fault, now),
        }
    }

    /// A connection to a server broke while it was asked, which says little of the server, if it is known at all.
    pub(super) fn break_off(&mut self, at: usize, fault: DialFault, now: Instant) {
        match self.rank(at) {
            Some(_) => self.spare(at, now),
            None => self.lose(at, fault, now),
        }
    }

    /// A server that was asked has not answered, for reasons that are not its own.
    pub(super) fn spare(&mut self, at: usize, now: Instant) {
        if let Some(server) = self.servers.get_mut(at) {
            server.asked = None;
            server.spared = Some(now + RETRY_AFTER);
        }
    }

    /// Whether it is time to ask a server: one of which nothing was heard for a while, or that could not be reached.
    pub(super) fn is_anyone_due(&self, now: Instant) -> bool {
        self.servers.iter().any(|server| server.is_due(now))
    }

    /// The servers to be asked now: those that are due, and those that have told nothing since `round`.
    pub(super) fn ask(&mut self, round: Option<Instant>, now: Instant) -> Vec<usize> {
        let mut asked = Vec::new();
        for (at, server) in self.servers.iter_mut().enumerate() {
            let stale = round.is_some_and(|round| !server.has_told(round));
            if server.can_be_asked(now) && (stale || server.is_due(now)) {
                server.asked = Some(now);
                asked.push(at);
            }
        }
        asked
    }

    /// Has one server asked, unless it is, or was a moment ago.
    pub(super) fn doubt(&mut self, at: usize, now: Instant) -> bool {
        let Some(server) = self.servers.get_mut(at) else {
            return false;
        };
        let fresh = server.told.is_some_and(|told| now < told + RETRY_AFTER);
        let asks = server.can_be_asked(now) && !fresh;
        if asks {
            server.asked = Some(now);
        }
        asks
    }

    /// What may come, for somebody who has found none that will do since `round`.
    pub(super) fn outlook(&self, round: Instant) -> Outlook {
        let mut servers = self.servers.iter();
        if servers.any(|server| !server.has_told(round)) {
            return Outlook::Open;
        }
        let mut losses = self.servers.iter().map(|server| server.loss.as_ref());
        match losses.clone().next().flatten() {
            Some(first) if losses.all(|loss| loss.is_some()) => Outlook::Dead(first.fault.clone()),
            _ => Outlook::Another,
        }
    }

    fn will_do(&self, at: usize, attrs: SessionAttrs) -> bool {
        self.rank(at).is_some_and(|rank| rank.fits(attrs))
    }

    /// The leader, or else the first of the list that will do.
    fn first(&self, attrs: SessionAttrs) -> Option<usize> {
        let leads = self.leader.filter(|at| self.will_do(*at, attrs));
        leads.or_else(|| self.fitting(attrs).next())
    }

    fn fitting(&self, attrs: SessionAttrs) -> impl Iterator<Item = usize> {
        (0..self.servers.len()).filter(move |at| self.will_do(*at, attrs))
    }

    /// The least used of those that will do; of equals, the next in turn.
    fn spread(&self, attrs: SessionAttrs, busy: impl Fn(usize) -> usize) -> Option<usize> {
        if self.balance == Balance::Listed {
            return self.fitting(attrs).next();
        }
        let count = self.servers.len();
        let in_turn = (0..count).map(|step| (self.turn + step) % count);
        in_turn
            .filter(|at| self.will_do(*at, attrs))
            .min_by_key(|at| busy(*at))
    }

    /// Whether a server of which nothing is known will soon tell.
    fn is_first_asked(&self, now: Instant) -> bool {
        self.servers.iter().any(|server| {
            let first = server.rank.is_none() && server.loss.is_none();
            first && server.asked.is_none_or(|at| now < at + FIRST_ANSWER_MAX)
        })
    }
}

impl Server {
    /// Whether it has told what it is, or that it is not there, since then.
    fn has_told(&self, since: Instant) -> bool {
        self.told.is_some_and(|told| told + FRESH_FOR >= since)
    }

    fn is_due(&self, now: Instant) -> bool {
        let rests = match &self.loss {
            Some(loss) => now < loss.until,
            None => self.told.is_some_and(|told| now < told + ASKED_EVERY),
        };
        self.can_be_asked(now) && !rests
    }

    fn can_be_asked(&self, now: Instant) -> bool {
        self.asked.is_none() && self.spared.is_none_or(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::DialStep;

    const PRIMARY: SessionAttrs = SessionAttrs::Primary;
    const STANDBY: SessionAttrs = SessionAttrs::Standby;
    const PREFER: SessionAttrs = SessionAttrs::PreferStandby;

    fn view(ranks: &[Rank], now: Instant) -> View {
        let mut view = View::new(ranks.len(), Balance::Unsaid);
        for (at, rank) in ranks.iter().enumerate() {
            view.hear(at, *rank, now);
        }
        view
    }

    fn fault() -> DialFault {
        DialFault::new(DialStep::Connect, "refused", "")
    }

    #[test]
    fn a_primary_stays_the_one_for_as_long_as_it_answers() {
        let now = Instant::now();
        let mut view = view(&[Rank::Standby, Rank::Primary, Rank::Standby], now);
        let choose = |view: &View| view.choose(PRIMARY, now, |_| 0);
        assert_eq!(choose(&view), Some(1));
        // Another claims to be one too: it may be an old one that came back.
        assert!(!view.hear(0, Rank::Primary, now));
        assert_eq!(choose(&view), Some(1));
        view.lose(1, fault(), now);
        assert_eq!(choose(&view), Some(0));
        assert!(view.hear(0, Rank::Primary, now));
        // The old one is back, and is not followed.
        assert!(!view.hear(1, Rank::Primary, now));
        assert_eq!(choose(&view), Some(0));
    }

    #[test]
    fn a_promotion_is_taken_up_when_the_old_primary_is_gone() {
        let now = Instant::now();
        let mut view = view(&[Rank::Primary, Rank::Standby], now);
        view.lose(0, fault(), now);
        assert_eq!(view.choose(PRIMARY, now, |_| 0), None);
        assert!(matches!(view.outlook(now), Outlook::Another));
        assert!(view.hear(1, Rank::Primary, now));
        assert_eq!(view.choose(PRIMARY, now, |_| 0), Some(1));
        assert_eq!(view.choose(STANDBY, now, |_| 0), None);
        assert_eq!(view.choose(PREFER, now, |_| 0), Some(1));
    }

    #[test]
    fn standbys_share_the_load_and_the_primary_stands_in() {
        let now = Instant::now();
        let mut view = view(&[Rank::Primary, Rank::Standby, Rank::Standby], now);
        let mut next = |attrs| {
            let chosen = view.choose(attrs, now, |_| 0);
            chosen.inspect(|at| view.pass_on(*at, attrs))
        };
        assert_eq!([(); 3].map(|()| next(PREFER)), [Some(1), Some(2), Some(1)]);
        assert_eq!(next(PRIMARY), Some(0));
        assert_eq!(next(PREFER), Some(2), "a writer takes no turn of theirs");
        let busy = |at: usize| [0, 5, 3].get(at).copied().unwrap_or_default();
        assert_eq!(view.choose(STANDBY, now, busy), Some(2));
        assert_eq!(view.choose(STANDBY, now, busy), Some(2));
        view.lose(2, fault(), now);
        assert_eq!(view.choose(STANDBY, now, busy), Some(1));
        view.lose(1, fault(), now);
        assert_eq!(view.choose(STANDBY, now, busy), None);
        assert_eq!(view.choose(PREFER, now, busy), Some(0));
    }

    #[test]
    fn the_order_of_the_list_counts_where_it_should() {
        let now = Instant::now();
        let mut unsaid = view(&[Rank::Standby, Rank::Primary, Rank::Standby], now);
        let any = |view: &mut View| {
            [(); 2].map(|()| {
                let chosen = view.choose(SessionAttrs::Any, now, |_| 0);
                chosen.inspect(|at| view.pass_on(*at, SessionAttrs::Any))
            })
        };
        assert_eq!(any(&mut unsaid), [Some(0), Some(0)]);
        let mut spread = view(&[Rank::Standby, Rank::Primary], now);
        spread.balance = Balance::Spread;
        assert_eq!(any(&mut spread), [Some(0), Some(1)]);
        let mut listed = view(&[Rank::Primary, Rank::Standby, Rank::Standby], now);
        listed.balance = Balance::Listed;
        listed.pass_on(1, STANDBY);
        assert_eq!(listed.choose(STANDBY, now, |_| 0), Some(1));
    }

    #[test]
    fn a_server_that_is_gone_is_asked_less_and_less_often() {
        let began = Instant::now();
        let mut view = view(&[Rank::Primary, Rank::Standby], began);
        assert!(!view.is_anyone_due(began));
        let mut now = began;
        for pause in [200, 400, 800, 1600, 3200, 5000, 5000] {
            view.lose(1, fault(), now);
            let almost = now + Duration::from_millis(pause - 1);
            view.hear(0, Rank::Primary, almost);
            assert!(!view.is_anyone_due(almost));
            now += Duration::from_millis(pause);
            assert!(view.is_anyone_due(now));
            assert_eq!(view.ask(None, now), [1]);
            assert!(!view.is_anyone_due(now), "it is being asked");
        }
        view.hear(1, Rank::Standby, now);
        view.lose(1, fault(), now);
        assert!(view.is_anyone_due(now + RETRY_AFTER));
    }

    #[test]
    fn a_server_that_cannot_be_asked_is_left_alone_for_a_moment() {
        let began = Instant::now();
        let mut view = View::new(1, Balance::Unsaid);
        assert_eq!(view.ask(Some(began), began), [0]);
        view.spare(0, began);
        assert!(view.ask(Some(began), began).is_empty() && !view.doubt(0, began));
        assert!(!view.is_anyone_due(began));
        let now = began + RETRY_AFTER;
        assert!(view.is_anyone_due(now));
        assert_eq!(view.ask(Some(began), now), [0]);
    }

    #[test]
    fn a_frozen_server_is_found_out_and_a_primary_kept_until_there_is_another() {
        let began = Instant::now();
        let mut view = view(&[Rank::Primary, Rank::Standby, Rank::Standby], began);
        let now = began + ASKED_EVERY;
        assert_eq!(view.ask(None, now), [0, 1, 2]);
        assert_eq!(
            view.choose(STANDBY, now, |_| 0),
            Some(1),
            "meanwhile it serves"
        );
        view.be_late(1, fault(), now);
        assert_eq!(view.choose(STANDBY, now, |_| 0), Some(2));
        view.be_late(0, fault(), now);
        assert_eq!(view.choose(PRIMARY, now, |_| 0), Some(0));
        assert!(!view.hear(2, Rank::Primary, now));
        view.be_late(0, fault(), now + ASKED_EVERY);
        assert_eq!(view.choose(PRIMARY, now, |_| 0), Some(2));
        view.break_off(2, fault(), now);
        assert_eq!(view.choose(PRIMARY, now, |_| 0), Some(2));
    }

    #[test]
    fn who_prefers_a_standby_waits_a_moment_for_the_first_answers() {
        let now = Instant::now();
        let mut view = View::new(2, Balance::Unsaid);
        assert_eq!(view.choose(PREFER, now, |_| 0), None);
        assert_eq!(view.ask(None, now), [0, 1]);
        view.hear(0, Rank::Primary, now);
        assert_eq!(view.choose(PREFER, now, |_| 0), None);
        assert_eq!(view.choose(PREFER, now + FIRST_ANSWER_MAX, |_| 0), Some(0));
        assert_eq!(view.choose(PRIMARY, now, |_| 0), Some(0));
    }

    #[test]
    fn it_is_told_when_there_is_nothing_to_wait_for() {
        let began = Instant::now();
        let mut view = view(&[Rank::Primary, Rank::Standby], began);
        let round = began + RETRY_AFTER;
        assert!(matches!(view.outlook(round), Outlook::Open));
        assert_eq!(view.ask(Some(round), round), [0, 1]);
        view.lose(0, fault(), round);
        assert!(matches!(view.outlook(round), Outlook::Open));
        view.lose(1, fault(), round);
        assert!(matches!(view.outlook(round), Outlook::Dead(_)));
        view.hear(1, Rank::Standby, round);
        assert!(matches!(view.outlook(round), Outlook::Another));
    }
}
