//! What a database's functions do to the sessions that run them, though the texts do not show it.
//!
//! `survey` reads the definitions on an upstream and follows who uses whom; here is what is known by
//! that, how long it counts, and what it says of a text. A text is judged by the names in it: those of
//! functions, and those of tables and views behind which functions run.

mod dependents;
mod survey;
mod verdict;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use ahash::{HashMap, HashSet};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

pub(super) use verdict::{Case, Open, Verdict};

use super::{
    rank::Rank,
    statement::{Effects, Mention, defines_functions, digest, is_call, is_inert, mentions},
    upstream::{Failed, Upstream},
};
use crate::tenant::Generation;

/// Names that are called and are no functions of the database's; with more, all are asked for again.
const STRANGERS_MAX: usize = 4096;
/// Reading again takes at most one part in so many of the time.
const READING_SHARE: u32 = 100;
/// How soon it is tried again where it could not be read.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long what a standby says counts.
const BEHIND_FOR: Duration = Duration::from_secs(1);

/// Nothing has changed since it was read, as far as is known.
const FRESH: u8 = 0;
/// It was read some time ago.
const AGED: u8 = 1;
/// Functions have been defined since, or it was never read.
const OUTDATED: u8 = 2;

/// What was read.
#[derive(Debug, Default)]
struct Known {
    /// Names of functions, and of tables and views behind which functions run.
    effects: HashMap<u64, Effects>,
    /// What any text may do: by an operator, say, which has no name.
    everywhere: Effects,
    /// What any text that defines something may do.
    on_definition: Effects,
    /// All of these together.
    any: Effects,
    /// It could not be read.
    is_doubtful: bool,
    /// The names of the database's functions.
    names: HashSet<u64>,
    /// Parameters of extensions that functions set.
    parameters: Vec<String>,
}

impl Known {
    /// What cannot be read may do anything, also what cannot be asked for: parameters of extensions have names that only
    /// the bodies tell.
    fn doubtful() -> Self {
        let anything = Effects {
            sticks: Some("function"),
            ..Effects::DOUBT
        };
        Self {
            everywhere: anything,
            any: anything,
            is_doubtful: true,
            ..Self::default()
        }
    }

    fn is_quiet(&self) -> bool {
        self.any.is_none()
    }
}

/// What is known of the functions of one database.
#[derive(Debug)]
pub(super) struct Routines {
    known: RwLock<Arc<Known>>,
    /// Names that texts have called successfully, and that are no functions of the database's.
    strangers: RwLock<HashSet<u64>>,
    freshness: AtomicU8,
    /// Changes with whatever a verdict relies on.
    edition: AtomicU64,
    /// How often functions were defined.
    epoch: AtomicU64,
    /// When it is to be read again.
    due: Mutex<Instant>,
    /// Whose upstreams it was read on first.
    generation: Mutex<Option<Generation>>,
    /// Held by who reads.
    reading: tokio::sync::Mutex<()>,
    fresh_for: Duration,
}

impl Routines {
    /// Nothing is known, and what will be counts so long where nothing tells of a change.
    pub(super) fn new(fresh_for: Duration) -> Self {
        Self {
            fresh_for,
            known: RwLock::default(),
            strangers: RwLock::default(),
            freshness: AtomicU8::new(OUTDATED),
            edition: AtomicU64::new(1),
            epoch: AtomicU64::new(1),
            due: Mutex::new(Instant::now()),
            generation: Mutex::new(None),
            reading: tokio::sync::Mutex::new(()),
        }
    }

    /// How often functions were defined.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Judges a text of which a verdict may be kept: `held` is the edition in which it was harmless.
    pub(super) fn judge_held(&self, held: &AtomicU64, case: Case<'_>) -> Verdict {
        // The other way round, a verdict could be out of date and seem to be of now.
        let epoch = self.epoch();
        let edition = self.edition.load(Ordering::Relaxed);
        if !case.apart && held.load(Ordering::Relaxed) == edition {
            return Verdict {
                epoch,
                ..Verdict::default()
            };
        }
        let verdict = self.judge(case);
        if verdict.is_harmless() {
            held.store(edition, Ordering::Relaxed);
        }
        verdict
    }

    /// Judges a text.
    pub(super) fn judge(&self, case: Case<'_>) -> Verdict {
        let epoch = self.epoch();
        let freshness = self.freshness.load(Ordering::Relaxed);
        let known = self.known.read();
        let sure = freshness == FRESH && !case.apart;
        let plain = sure && known.is_quiet() && !case.defines;
        if plain && memchr::memchr(b'(', case.text).is_none() {
            return Verdict {
                epoch,
                ..Verdict::default()
            };
        }
        let mut open = Open::default();
        // Before doubt has its consequences, it is tried to read again.
        let mut effects = if known.is_doubtful && !sure {
            Effects::default()
        } else {
            known.everywhere
        };
        if case.loose {
            // Of what a name that is put together could mean, the worst is left out.
            effects = effects.and(Effects {
                sticks: None,
                ..known.any
            });
        }
        if case.defines {
            effects = effects.and(known.on_definition);
        }
        let strings = !sure || !known.is_quiet();
        let strangers = self.strangers.read();
        mentions(case.text, strings, &mut |mention| match mention {
            Mention::Word(digest) => {
                if let Some(found) = known.effects.get(&digest) {
                    effects = effects.and(*found);
                }
                if !sure {
                    open.word(digest);
                }
            }
            Mention::Called(digest, name) => {
                if !known.names.contains(&digest) && !strangers.contains(&digest) {
                    open.stranger(name);
                }
            }
            Mention::Doubt if !known.is_quiet() => effects = effects.and(Effects::DOUBT),
            Mention::Doubt => {}
            Mention::Presumed => effects.presumes = true,
        });
        effects.presumes |= case.presumes;
        let defining = defines_functions(case.text);
        let runs_any = effects.sticks.is_some() && defining;
        let calls = !case.several && is_call(case.text);
        let changes = case.defines && !calls && (defining || !effects.is_none());
        let redefines = effects.defines || runs_any || changes;
        open.defines = case.defines && !sure;
        // It names what it does not run.
        if !case.several && is_inert(case.text) {
            effects = if case.defines {
                known.on_definition
            } else {
                Effects::default()
            };
            open.forget_names();
        }
        let open = (!open.is_empty()).then(|| Box::new(open));
        Verdict {
            effects,
            redefines,
            outdated: freshness == OUTDATED || case.apart,
            open,
            epoch,
            ..Verdict::default()
        }
    }

    /// What any function may do.
    pub(super) fn any(&self) -> Effects {
        self.known.read().any
    }

    /// Parameters of extensions that functions set, but for these.
    pub(super) fn parameters_beside(&self, these: &BTreeSet<String>) -> Vec<String> {
        let known = self.known.read();
        let all = known.parameters.iter();
        all.filter(|name| !these.contains(*name)).cloned().collect()
    }

    /// Functions were defined.
    pub(super) fn outdate(&self) {
        self.freshness.store(OUTDATED, Ordering::SeqCst);
        self.edition.fetch_add(1, Ordering::Relaxed);
        // Whoever sees this sees the others too.
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Time goes on.
    pub(super) fn age(&self, now: Instant) {
        if self.freshness.load(Ordering::Relaxed) == FRESH && *self.due.lock() <= now {
            let aged =
                self.freshness
                    .compare_exchange(FRESH, AGED, Ordering::SeqCst, Ordering::Relaxed);
            if aged.is_ok() {
                self.edition.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A fresh upstream: what it knows is read, unless it is known.
    ///
    /// # Errors
    /// The upstream is of no use.
    pub(super) async fn greet(
        &self,
        upstream: &mut Upstream,
        generation: Generation,
    ) -> Result<(), Failed> {
        if *self.generation.lock() == Some(generation) {
            return Ok(());
        }
        let _reading = self.reading.lock().await;
        if *self.generation.lock() == Some(generation) {
            return Ok(());
        }
        self.read(upstream, false).await?;
        *self.generation.lock() = Some(generation);
        Ok(())
    }

    /// Finds out what was left open, and what that means.
    ///
    /// # Errors
    /// The upstream is of no use.
    pub(super) async fn learn(
        &self,
        upstream: &mut Upstream,
        open: &Open,
    ) -> Result<Effects, Failed> {
        let freshness = self.freshness.load(Ordering::Relaxed);
        let _reading = match self.reading.try_lock() {
            Ok(reading) => reading,
            // Somebody reads again what nothing is known to have changed: until then, it counts.
            Err(_) if freshness == AGED && open.can_do_with_aged() && !self.is_doubtful() => {
                return Ok(self.found(open));
            }
            Err(_) => self.reading.lock().await,
        };
        let freshness = self.freshness.load(Ordering::Relaxed);
        let reads = if freshness == FRESH {
            !open.strange.is_empty() && survey::any_exists(upstream, &open.strange).await?
        } else {
            // Many definitions in a row are not reason enough to read as often.
            let named = !open.words.is_empty() || open.overflows || open.overtaken;
            named || survey::any_event(upstream).await?
        };
        if reads {
            let unchanged = freshness == AGED && open.strange.is_empty() && !open.defines;
            self.read(upstream, unchanged).await?;
        }
        if !open.failed {
            self.remember(&open.strange);
        }
        Ok(self.found(open))
    }

    fn is_doubtful(&self) -> bool {
        self.known.read().is_doubtful
    }

    /// What was left open means, as far as is known now.
    fn found(&self, open: &Open) -> Effects {
        let known = self.known.read();
        let found = open.words.iter().filter_map(|word| known.effects.get(word));
        let mut effects = found.fold(known.everywhere, |all, one| all.and(*one));
        if open.defines {
            effects = effects.and(known.on_definition);
        }
        if open.overflows {
            effects = effects.and(known.any).and(Effects::DOUBT);
        }
        effects
    }

    /// Texts have called these, and they are no functions of the database's now.
    fn remember(&self, strange: &[String]) {
        let known = self.known.read();
        let digests = strange.iter().map(|name| digest(name.as_bytes()));
        let others: Vec<_> = digests.filter(|name| !known.names.contains(name)).collect();
        let mut strangers = self.strangers.write();
        if strangers.len() + others.len() > STRANGERS_MAX {
            strangers.clear();
        }
        strangers.extend(others.into_iter().take(STRANGERS_MAX));
    }

    /// Reads all; where that cannot be done and as far as is known nothing has changed, what was read before goes on to
    /// count.
    async fn read(&self, upstream: &mut Upstream, unchanged: bool) -> Result<(), Failed> {
        let (epoch, began) = (self.epoch(), Instant::now());
        let read = match survey::read(upstream).await {
            Ok(read) => read,
            Err(Failed::Answer(body)) => Err(Failed::Answer(body).cause()),
            Err(Failed::Lost(cause)) => return Err(Failed::Lost(cause)),
        };
        let (now, took) = (Instant::now(), began.elapsed());
        let rests = match (&read, upstream.rank) {
            (Err(_), _) => AGAIN_AFTER.max(took),
            // A standby may be behind.
            (Ok(_), Some(Rank::Standby)) => {
                self.fresh_for.min(BEHIND_FOR).max(took * READING_SHARE)
            }
            (Ok(_), Some(_) | None) => self.fresh_for.max(took * READING_SHARE),
        };
        *self.due.lock() = now + rests;
        match read {
            Ok(known) => {
                tracing::debug!(?took, suspect = known.effects.len(), "functions read");
                *self.known.write() = Arc::new(known);
            }
            Err(cause) if unchanged => {
                tracing::warn!(cause, "functions cannot be read again");
            }
            Err(cause) => {
                tracing::warn!(
                    cause,
                    "functions cannot be read: clients keep their upstreams"
                );
                *self.known.write() = Arc::new(Known::doubtful());
            }
        }
        self.freshness.store(FRESH, Ordering::SeqCst);
        // Afterwards, or what is defined in between would be overlooked.
        if self.epoch.load(Ordering::SeqCst) != epoch {
            self.freshness.store(OUTDATED, Ordering::SeqCst);
        }
        self.edition.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
