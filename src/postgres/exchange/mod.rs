//! The account of one exchange: what was asked of the upstream, and what each answer means.
//!
//! Pure. Every message that will be answered has an entry, in order; an answer belongs to the first.
//! Entries of ours (statements loaded, settings, questions) have answers that the client never sees,
//! and entries that were answered here wait for their turn in the same line.

mod entry;

use std::{borrow::Cow, collections::VecDeque};

pub(super) use entry::{Act, Expect, GivenUp, Reply, Undo};

/// The transaction status that `ReadyForQuery` reports.
pub(super) const IDLE: u8 = b'I';
/// The same of a transaction that has failed.
pub(super) const FAILED: u8 = b'E';

/// What an exchange knows of its upstream.
#[derive(Debug)]
pub(super) struct Exchange {
    queue: VecDeque<Expect>,
    status: u8,
    /// Extended messages were sent that no Sync follows yet.
    open_unit: bool,
    /// The upstream waits for copy data.
    copy_in: bool,
    /// The upstream leaves out what is sent until a Sync: the unit has failed.
    skipping: bool,
    /// The unit that messages belong to now.
    unit: u64,
    /// The first unit that is not answered to its end.
    unanswered: u64,
    /// The last unit in which a parameter was set, or columns were to be compared: once it is answered,
    /// the queue, which may be long, need not be looked through for that.
    seldom: u64,
}

/// What is known from before belongs to this unit: one that is over.
pub(super) const SETTLED: u64 = 0;

impl Default for Exchange {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            status: IDLE,
            open_unit: false,
            copy_in: false,
            skipping: false,
            unit: 1,
            unanswered: 1,
            seldom: SETTLED,
        }
    }
}

impl Exchange {
    /// Nothing is under way, and no transaction is open: the upstream could change hands.
    pub(super) fn is_quiet(&self) -> bool {
        self.queue.is_empty() && self.status == IDLE && !self.open_unit
    }

    /// No transaction is open, and nothing of the client's is under way.
    pub(super) fn is_unused(&self) -> bool {
        let ours = |expect: &Expect| matches!(expect.act, Act::Settings | Act::Audit | Act::Look);
        self.status == IDLE && !self.open_unit && self.queue.iter().all(ours)
    }

    /// Something was asked and not answered.
    pub(super) fn is_busy(&self) -> bool {
        !self.queue.is_empty() || self.open_unit
    }

    /// A message would begin a unit, and the one before is not answered yet.
    pub(super) fn is_between_units(&self) -> bool {
        !self.queue.is_empty() && !self.open_unit
    }

    /// Extended messages were sent that no Sync follows yet.
    pub(super) fn is_unit_open(&self) -> bool {
        self.open_unit
    }

    pub(super) fn status(&self) -> u8 {
        self.status
    }

    pub(super) fn copy_in(&self) -> bool {
        self.copy_in
    }

    pub(super) fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Tells the units apart: what fails together has one number.
    pub(super) fn unit(&self) -> u64 {
        self.unit
    }

    /// Whether what was noted in a unit is sure: it was carried out, or fails with this very unit.
    pub(super) fn is_settled(&self, unit: u64) -> bool {
        unit == self.unit || unit < self.unanswered
    }

    /// Whether a unit is answered to its end.
    pub(super) fn is_answered(&self, unit: u64) -> bool {
        unit < self.unanswered
    }

    /// Whether nothing that earlier units note can be taken back any more.
    pub(super) fn is_first_unit(&self) -> bool {
        self.unit == self.unanswered
    }

    /// Whether statements that a text needs are being prepared.
    pub(super) fn is_loading(&self) -> bool {
        self.queue
            .iter()
            .any(|expect| matches!(expect.act, Act::Load) || matches!(expect.undo, Undo::Named(..)))
    }

    /// Whether a simple query is under way that may take names away.
    pub(super) fn takes_names(&self) -> bool {
        let takes =
            |expect: &Expect| matches!(expect.undo, Undo::Deallocate(_) | Undo::DeallocateAll);
        self.queue.iter().any(takes)
    }

    /// Whether the rows of the next answer are for us.
    pub(super) fn is_telling(&self) -> bool {
        let telling = |next: &Expect| {
            matches!(
                (&next.act, &next.undo),
                (Act::Audit, _) | (_, Undo::Understand(_))
            )
        };
        self.queue.front().is_some_and(telling)
    }

    /// Whether a statement is being looked at that may have changed.
    pub(super) fn is_comparing(&self) -> bool {
        self.seldom >= self.unanswered && self.queue.iter().any(Expect::compares)
    }

    /// Whether a plain change of a parameter is under way.
    pub(super) fn sets_parameters(&self) -> bool {
        let sets = |expect: &Expect| matches!(expect.undo, Undo::Set(..));
        self.seldom >= self.unanswered && self.queue.iter().any(sets)
    }

    /// Whether a name that an earlier unit closed may come back.
    pub(super) fn has_open_closes(&self) -> bool {
        !self.is_first_unit()
            && self.queue.iter().any(|expect| {
                matches!(
                    expect.undo,
                    Undo::Close { .. } | Undo::Take(..) | Undo::TakeAll(_)
                )
            })
    }

    /// Begins anew with another upstream; the numbers of units go on.
    pub(super) fn renew(&mut self) {
        let (unit, mut queue) = (self.unit + 1, std::mem::take(&mut self.queue));
        queue.clear();
        *self = Self {
            queue,
            unit,
            unanswered: unit,
            ..Self::default()
        };
    }

    /// How many answers are outstanding.
    pub(super) fn outstanding(&self) -> usize {
        self.queue.len()
    }

    /// A message is sent.
    pub(super) fn expect(&mut self, reply: Reply, act: Act, undo: Undo) {
        let expect = Expect { reply, act, undo };
        if expect.compares() || matches!(expect.undo, Undo::Set(..)) {
            self.seldom = self.unit;
        }
        match reply {
            Reply::Sync | Reply::Query => {
                self.open_unit = false;
                self.skipping = false;
                self.unit += 1;
            }
            Reply::Made => {}
            Reply::Parse | Reply::Bind | Reply::Describe | Reply::Execute | Reply::Close => {
                self.open_unit = true;
            }
        }
        self.queue.push_back(expect);
    }

    /// A message that was answered here belongs to a unit all the same.
    pub(super) fn begin_unit(&mut self) {
        self.open_unit = true;
    }

    /// The last message sent is the client's own after all.
    pub(super) fn claim_last(&mut self, undo: Undo) {
        if let Some(last) = self.queue.back_mut() {
            last.act = Act::Forward;
            last.undo = undo;
        }
    }

    /// The client ends its copy data.
    pub(super) fn copy_done(&mut self) {
        self.copy_in = false;
    }

    /// To whom the next answer belongs.
    pub(super) fn act(&self) -> &Act {
        self.queue
            .front()
            .map_or(&Act::Forward, |expect| &expect.act)
    }

    /// An entry that was answered here, if it is its turn.
    pub(super) fn next_made(&mut self) -> Option<Cow<'static, [u8]>> {
        let front = self.queue.front()?;
        if !matches!(front.act, Act::Say(_) | Act::Tell(_)) {
            return None;
        }
        match self.queue.pop_front()?.act {
            Act::Say(message) => Some(Cow::Borrowed(message)),
            Act::Tell(message) => Some(Cow::Owned(message.into())),
            _ => None,
        }
    }

    /// What is noted of the first entry.
    pub(super) fn undo(&self) -> Option<&Undo> {
        self.queue.front().map(|expect| &expect.undo)
    }

    /// The same, to be changed.
    pub(super) fn undo_mut(&mut self) -> Option<&mut Undo> {
        self.queue.front_mut().map(|expect| &mut expect.undo)
    }

    /// An answer that may end the first entry; gives the entry if it does.
    pub(super) fn answered(&mut self, tag: u8) -> Option<Expect> {
        let ends = match self.queue.front()?.reply {
            Reply::Parse => tag == b'1',
            Reply::Bind => tag == b'2',
            Reply::Close => tag == b'3',
            Reply::Describe => matches!(tag, b'T' | b'n'),
            Reply::Execute => matches!(tag, b'C' | b'I' | b's'),
            Reply::Sync | Reply::Query | Reply::Made => false,
        };
        if ends { self.queue.pop_front() } else { None }
    }

    /// The upstream asks for copy data: Syncs that were sent ahead are lost on it.
    pub(super) fn copy_in_begins(&mut self) {
        self.copy_in = true;
        let extended = self
            .queue
            .front()
            .is_some_and(|front| front.reply == Reply::Execute);
        if extended {
            while self
                .queue
                .get(1)
                .is_some_and(|next| next.reply == Reply::Sync)
            {
                self.queue.remove(1);
                self.open_unit = true;
                self.unanswered += 1;
            }
        }
    }

    /// An error: outside of a simple query, the upstream skips to the next Sync, sent or not, so the
    /// entries before it are void, queries too.
    ///
    /// They come out last first, the order in which they are to be undone.
    pub(super) fn failed(&mut self) -> Vec<Expect> {
        self.copy_in = false;
        let simple = |expect: &Expect| expect.reply == Reply::Query;
        if self.queue.front().is_none_or(simple) {
            self.skipping = self.open_unit && self.queue.is_empty();
            return Vec::new();
        }
        let mut syncs = self.queue.iter();
        let sync = syncs.position(|expect| expect.reply == Reply::Sync);
        self.skipping = sync.is_none();
        self.open_unit |= self.skipping;
        let end = sync.unwrap_or(self.queue.len());
        let mut void: Vec<_> = self.queue.drain(..end).collect();
        for _ in void.iter().filter(|expect| simple(expect)) {
            self.unanswered += 1;
        }
        void.reverse();
        void
    }

    /// `ReadyForQuery`: gives the entry that it ends, if one was waiting for it.
    pub(super) fn ready(&mut self, status: u8) -> Option<Expect> {
        self.status = status;
        self.copy_in = false;
        self.skipping = false;
        while let Some(expect) = self.queue.pop_front() {
            if matches!(expect.reply, Reply::Sync | Reply::Query) {
                self.unanswered += 1;
                return Some(expect);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(replies: &[Reply]) -> Exchange {
        let mut exchange = Exchange::default();
        for reply in replies {
            exchange.expect(*reply, Act::Forward, Undo::Nothing);
        }
        exchange
    }

    #[test]
    fn quiet_needs_every_answer_and_an_idle_status() {
        let mut exchange = exchange(&[Reply::Query, Reply::Query]);
        exchange.ready(IDLE);
        assert!(!exchange.is_quiet());
        exchange.ready(b'T');
        assert!(!exchange.is_quiet());
        exchange.expect(Reply::Query, Act::Forward, Undo::Nothing);
        exchange.ready(IDLE);
        assert!(exchange.is_quiet());
    }

    #[test]
    fn flush_without_sync_keeps_the_upstream() {
        let mut exchange = exchange(&[Reply::Parse, Reply::Describe]);
        assert!(exchange.answered(b'1').is_some());
        assert!(exchange.answered(b't').is_none());
        assert!(exchange.answered(b'n').is_some());
        assert!(!exchange.is_quiet());
        exchange.expect(Reply::Sync, Act::Forward, Undo::Nothing);
        exchange.ready(IDLE);
        assert!(exchange.is_quiet());
    }

    #[test]
    fn an_error_voids_up_to_the_next_sync() {
        use Reply::{Bind, Execute, Parse, Sync};
        let mut exchange = exchange(&[Parse, Bind, Execute, Sync, Bind, Execute, Sync]);
        exchange.answered(b'1');
        let void: Vec<_> = exchange
            .failed()
            .iter()
            .map(|expect| expect.reply)
            .collect();
        assert_eq!(void, [Execute, Bind]);
        assert!(exchange.ready(IDLE).is_some());
        assert_eq!(exchange.outstanding(), 3);
    }

    #[test]
    fn an_error_before_the_sync_skips_to_it() {
        use Reply::{Bind, Query, Sync};
        let mut exchange = exchange(&[Bind, Query]);
        assert_eq!(exchange.failed().len(), 2);
        assert!(exchange.is_skipping() && exchange.is_unit_open());
        exchange.expect(Sync, Act::Forward, Undo::Nothing);
        assert!(!exchange.is_skipping());
        exchange.ready(IDLE);
        assert!(exchange.is_quiet() && exchange.is_first_unit());
    }

    #[test]
    fn a_sync_ahead_of_copy_data_is_lost() {
        let mut exchange = exchange(&[Reply::Bind, Reply::Execute, Reply::Sync]);
        exchange.answered(b'2');
        exchange.copy_in_begins();
        assert_eq!(exchange.outstanding(), 1);
        exchange.failed();
        assert!(!exchange.is_quiet(), "the upstream waits for another Sync");
        exchange.copy_done();
        exchange.expect(Reply::Sync, Act::Forward, Undo::Nothing);
        exchange.ready(IDLE);
        assert!(exchange.is_quiet());
    }

    #[test]
    fn a_parameter_is_being_set_until_the_answer() {
        let mut exchange = exchange(&[Reply::Query]);
        assert!(!exchange.sets_parameters());
        let set = Undo::Set(Box::new(("a".into(), None)), false);
        exchange.expect(Reply::Query, Act::Forward, set);
        exchange.ready(IDLE);
        assert!(exchange.sets_parameters());
        exchange.ready(IDLE);
        assert!(!exchange.sets_parameters() && exchange.seldom < exchange.unanswered);
    }

    #[test]
    fn what_a_unit_notes_is_sure_when_it_is_answered() {
        let mut exchange = exchange(&[Reply::Parse]);
        let noted = exchange.unit();
        assert!(
            exchange.is_settled(noted),
            "it fails together with what relies on it"
        );
        exchange.expect(Reply::Sync, Act::Forward, Undo::Nothing);
        assert!(!exchange.is_settled(noted));
        exchange.ready(IDLE);
        assert!(exchange.is_settled(noted) && exchange.is_settled(SETTLED));
        exchange.renew();
        assert!(exchange.is_settled(noted));
    }

    #[test]
    fn answers_of_ours_wait_for_their_turn() {
        let mut exchange = exchange(&[Reply::Bind]);
        exchange.expect(Reply::Made, Act::Say(b"1"), Undo::Nothing);
        assert_eq!(exchange.next_made(), None);
        exchange.answered(b'2');
        assert_eq!(exchange.next_made(), Some(Cow::Borrowed(&b"1"[..])));
    }
}
