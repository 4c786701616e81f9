//! Whose a cursor is, and which server has it: one table for each tenant.
//!
//! A cursor lives on one server, under one upstream user that many clients share. So the gateway
//! keeps what the server cannot know: the login that opened it. An id that is not here is not the
//! client's, whatever the server would say.

use std::{sync::Arc, time::Duration};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::servers::Server;

/// Cursors of one tenant that are kept at once; beyond it the longest unused are forgotten.
const CURSORS_MAX: usize = 50_000;
/// How many are forgotten at once, so that it is rarely done.
const FORGOTTEN_TOGETHER: usize = CURSORS_MAX / 16;
/// How long an unused cursor is kept: a server keeps those of idle sessions for half an hour.
const KEPT_FOR: Duration = Duration::from_mins(35);

/// Whether a cursor answers with what there is, or waits for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tempo {
    /// It answers at once.
    Prompt,
    /// It waits for data.
    Awaiting,
}

/// What is known of one open cursor.
#[derive(Clone)]
pub(crate) struct Cursor {
    /// Where it is.
    pub(crate) server: Arc<Server>,
    /// Whether its `getMore` waits for data.
    pub(crate) tempo: Tempo,
    login: Arc<str>,
    used_at: Instant,
}

/// What a client may do with a cursor id.
pub(crate) enum Claim {
    /// It is its own.
    Own(Cursor),
    /// It is another login's.
    Foreign,
    /// There is none.
    Unknown,
}

/// The open cursors of one tenant.
#[derive(Default)]
pub(crate) struct Cursors(Mutex<AHashMap<i64, Cursor>>);

impl Cursors {
    /// Notes a cursor that a reply has opened.
    pub(crate) fn open(&self, id: i64, login: &Arc<str>, server: &Arc<Server>, tempo: Tempo) {
        let cursor = Cursor {
            server: Arc::clone(server),
            tempo,
            login: Arc::clone(login),
            used_at: Instant::now(),
        };
        let mut cursors = self.0.lock();
        if cursors.len() >= CURSORS_MAX {
            forget_oldest(&mut cursors);
        }
        cursors.insert(id, cursor);
    }

    /// Looks at a cursor on behalf of a login, which counts as use.
    pub(crate) fn claim(&self, id: i64, login: &str) -> Claim {
        match self.0.lock().get_mut(&id) {
            Some(cursor) if &*cursor.login == login => {
                cursor.used_at = Instant::now();
                Claim::Own(cursor.clone())
            }
            Some(_) => Claim::Foreign,
            None => Claim::Unknown,
        }
    }

    /// Forgets a cursor that is closed.
    pub(crate) fn close(&self, id: i64) {
        self.0.lock().remove(&id);
    }

    /// Forgets what was not used for long.
    pub(crate) fn sweep(&self) {
        self.0
            .lock()
            .retain(|_, cursor| cursor.used_at.elapsed() < KEPT_FOR);
    }

    /// Whether none is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

fn forget_oldest(cursors: &mut AHashMap<i64, Cursor>) {
    let mut ages: Vec<_> = cursors
        .iter()
        .map(|(id, cursor)| (cursor.used_at, *id))
        .collect();
    ages.select_nth_unstable(FORGOTTEN_TOGETHER);
    for (_, id) in ages.into_iter().take(FORGOTTEN_TOGETHER) {
        cursors.remove(&id);
    }
}
