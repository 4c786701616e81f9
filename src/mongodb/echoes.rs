//! Session ids that come back: a change event names the session of its transaction.
//!
//! The server knows sessions by other ids than their clients do. What a tenant's transactions were sent under is kept here, so that
//! events name sessions as their clients know them. Not kept are those of transactions that another gateway, or one before
//! this, has seen: their events bear the server's ids, which are the same for all events of a session.

use std::{collections::VecDeque, sync::Arc};

use ahash::AHashMap;
use memchr::memmem;
use parking_lot::Mutex;

use super::{plan::Plan, servers::Servers, session::Session, sessions::Id};

/// Sessions of one tenant that are kept; beyond it the first are forgotten. Drivers use theirs again and again.
const SESSIONS_MAX: usize = 10_000;
/// How an id begins in a document: a UUID of sixteen bytes under that name.
const ID: &[u8] = b"\x05id\0\x10\0\0\0\x04";
/// Bytes of a piece that are not handed on before the next is here: an id in them may be cut.
const HELD_BYTES: usize = ID.len() + size_of::<Id>() - 1;

/// The ids of one tenant's sessions that had transactions.
#[derive(Default)]
pub(crate) struct Echoes(Mutex<Known>);

#[derive(Default)]
struct Known {
    own: AHashMap<Id, Id>,
    order: VecDeque<Id>,
}

impl Echoes {
    /// Notes the id that a session's transaction was sent under, and the client's own.
    pub(crate) fn note(&self, sent: Id, own: Id) {
        let mut known = self.0.lock();
        if known.own.insert(sent, own).is_some() {
            return;
        }
        known.order.push_back(sent);
        if known.order.len() > SESSIONS_MAX
            && let Some(first) = known.order.pop_front()
        {
            known.own.remove(&first);
        }
    }

    /// Whether there is nothing to restore.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().own.is_empty()
    }

    /// Puts the clients' own ids into a piece of a reply; how many bytes of it can be handed on.
    pub(crate) fn restore_piece(&self, piece: &mut [u8], is_last: bool) -> usize {
        self.restore(piece);
        if is_last {
            return piece.len();
        }
        piece.len().saturating_sub(HELD_BYTES)
    }

    /// Puts the clients' own ids into a reply; whether there were any.
    pub(crate) fn restore(&self, bytes: &mut [u8]) -> bool {
        let ends: Vec<_> = memmem::find_iter(bytes, ID)
            .map(|at| at + ID.len())
            .collect();
        if ends.is_empty() {
            return false;
        }
        let known = self.0.lock();
        let mut is_restored = false;
        for at in ends {
            let slot = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
            if let Some(slot) = slot
                && let Some(own) = known.own.get(slot)
            {
                *slot = *own;
                is_restored = true;
            }
        }
        is_restored
    }
}

impl Session {
    /// Where the session ids are that the reply's events may bear.
    pub(super) fn echoing(&self, plan: &Plan) -> Option<Arc<Servers>> {
        let servers = &self.member.as_ref()?.servers;
        let bears = plan.hears_of_sessions() && !servers.echoes.is_empty();
        bears.then(|| Arc::clone(servers))
    }
}

#[cfg(test)]
mod tests {
    use bson::{Binary, rawdoc, spec::BinarySubtype};

    use super::*;

    fn event(id: u8) -> Vec<u8> {
        let id = Binary {
            subtype: BinarySubtype::Uuid,
            bytes: vec![id; 16],
        };
        rawdoc! { "operationType": "insert", "lsid": { "id": id, "uid": "u" }, "n": 1 }.into_bytes()
    }

    #[test]
    fn known_sessions_come_back_as_their_clients_know_them() {
        let echoes = Echoes::default();
        assert!(echoes.is_empty());
        echoes.note([7; 16], [1; 16]);
        let (mut known, mut unknown) = (event(7), event(8));
        assert!(echoes.restore(&mut known));
        assert_eq!(known, event(1));
        assert!(!echoes.restore(&mut unknown));
        assert_eq!(unknown, event(8));
    }

    #[test]
    fn no_cut_hides_an_id() {
        let echoes = Echoes::default();
        echoes.note([7; 16], [1; 16]);
        let whole = [event(7), event(9), event(7)].concat();
        let restored = [event(1), event(9), event(1)].concat();
        for step in 1..=whole.len() {
            // As a large reply is handed on: all but what may be cut.
            let (mut out, mut here) = (Vec::new(), Vec::new());
            for piece in whole.chunks(step) {
                here.extend_from_slice(piece);
                let is_last = out.len() + here.len() == whole.len();
                let count = echoes.restore_piece(&mut here, is_last);
                out.extend(here.drain(..count));
            }
            assert_eq!(out, restored);
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let echoes = Echoes::default();
        for number in 0..u128::try_from(SESSIONS_MAX).unwrap() + 5 {
            echoes.note(number.to_be_bytes(), [1; 16]);
            echoes.note(number.to_be_bytes(), [1; 16]);
        }
        let known = echoes.0.lock();
        assert_eq!(known.own.len(), SESSIONS_MAX);
        assert_eq!(known.order.len(), SESSIONS_MAX);
        assert!(!known.own.contains_key(&0_u128.to_be_bytes()));
    }
}
