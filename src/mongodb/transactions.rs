//! Open transactions of one tenant, so that those that nobody goes on with are ended.
//!
//! A transaction holds locks on the server until it ends or a minute has passed. Drivers may send its
//! statements over any of their connections, so a connection that closes ends only what was last
//! spoken of over it, and only if no other connection takes it up at once.

use std::{sync::Arc, time::Duration};

use ahash::AHashMap;
use bson::{RawDocument, RawDocumentBuf, rawdoc};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::{
    exchange::give_back,
    plan::Plan,
    refusal::Standing,
    servers::{Route, Server, Servers},
    session::Session,
    sessions::Edits,
    upstream::{ConverseError, converse},
    wire::Body,
};
use crate::pool::{CloseReason, Residue};

/// Transactions of one tenant that are kept at once; those beyond it end by the server's own time.
const TRANSACTIONS_MAX: usize = 20_000;
/// How long one is kept: the server ends it after a minute.
const KEPT_FOR: Duration = Duration::from_mins(2);
/// How long another connection may take to go on with one.
const TAKEN_UP_WITHIN: Duration = Duration::from_millis(500);
/// How long the ending of one may take.
const END_MAX: Duration = Duration::from_secs(30);

/// One statement's transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Transaction {
    session: Vec<u8>,
    number: i64,
}

impl Transaction {
    /// The transaction that a command is a statement of, under the session that the server will know.
    pub(crate) fn of(body: &Body<'_>, edits: &Edits) -> Option<Self> {
        Some(Self {
            session: edits.session(body)?,
            number: body.field("txnNumber")?.integer()?,
        })
    }

    fn abort(&self) -> Option<RawDocumentBuf> {
        let session = RawDocument::from_bytes(&self.session).ok()?.to_owned();
        Some(rawdoc! {
            "abortTransaction": 1,
            "lsid": session,
            "txnNumber": self.number,
            "autocommit": false,
            "$db": "admin",
        })
    }
}

/// Over which connection it was last spoken of, and when.
#[derive(Clone)]
struct Spoken {
    /// None: it has ended, and is kept for who says so again.
    connection: Option<i32>,
    at: Instant,
    /// The one router that knows it, where there are several.
    server: Option<Arc<Server>>,
}

/// The open transactions of one tenant.
#[derive(Default)]
pub(crate) struct Transactions(Mutex<AHashMap<Transaction, Spoken>>);

impl Transactions {
    /// Notes a statement, and where it was sent if the next has to go there too.
    pub(crate) fn speak(
        &self,
        transaction: &Transaction,
        connection: i32,
        server: Option<&Arc<Server>>,
    ) {
        let mut open = self.0.lock();
        let spoken = Spoken {
            connection: Some(connection),
            at: Instant::now(),
            server: server.cloned(),
        };
        if let Some(known) = open.get_mut(transaction) {
            *known = spoken;
        } else if open.len() < TRANSACTIONS_MAX {
            open.insert(transaction.clone(), spoken);
        }
    }

    /// Notes an end. It may be said again, and then to the same router.
    pub(crate) fn end(&self, transaction: &Transaction) {
        let mut open = self.0.lock();
        match open.get_mut(transaction) {
            Some(spoken) if spoken.server.is_some() => {
                spoken.connection = None;
                spoken.at = Instant::now();
            }
            _ => drop(open.remove(transaction)),
        }
    }

    /// The router that it has to stay with, if it is known to any.
    pub(crate) fn server_of(&self, transaction: &Transaction) -> Option<Arc<Server>> {
        self.0.lock().get(transaction)?.server.clone()
    }

    /// It need not stay with its router: that cannot be reached any more.
    pub(crate) fn unpin(&self, transaction: &Transaction) {
        self.0.lock().remove(transaction);
    }

    /// Forgets those that the server has ended by itself.
    pub(crate) fn sweep(&self) {
        let mut open = self.0.lock();
        open.retain(|_, spoken| spoken.at.elapsed() < KEPT_FOR);
    }

    fn left_by(&self, connection: i32) -> Vec<Transaction> {
        let open = self.0.lock();
        let left = open
            .iter()
            .filter(|(_, it)| it.connection == Some(connection));
        left.map(|(transaction, _)| transaction.clone()).collect()
    }

    /// Takes one out, if nobody has gone on with it; the way to it.
    fn take(&self, transaction: &Transaction, connection: i32) -> Option<Route> {
        let mut open = self.0.lock();
        let is_left = open
            .get(transaction)
            .is_some_and(|spoken| spoken.connection == Some(connection));
        let left = is_left.then(|| open.remove(transaction)).flatten()?;
        Some(left.server.map_or(Route::Primary, Route::Server))
    }
}

/// Ends what a closed connection has left, if no other takes it up.
pub(crate) async fn end_abandoned(servers: Arc<Servers>, connection: i32) {
    let left = servers.transactions.left_by(connection);
    if left.is_empty() {
        return;
    }
    sleep(TAKEN_UP_WITHIN).await;
    for transaction in left {
        if let Some(route) = servers.transactions.take(&transaction, connection)
            && let Some(abort) = transaction.abort()
        {
            end_one(&servers, &route, &abort).await;
        }
    }
}

async fn end_one(servers: &Servers, route: &Route, abort: &RawDocumentBuf) {
    let Ok(Ok((_, mut lease))) = timeout(END_MAX, servers.lease(route)).await else {
        return;
    };
    let upstream = &mut lease.upstream;
    let asked = converse(&mut upstream.stream, &mut upstream.intake, abort);
    match timeout(END_MAX, asked).await {
        // Refused: the server had ended it by itself.
        Ok(Ok(_) | Err(ConverseError::Refused { .. })) => give_back(lease),
        Ok(Err(_)) | Err(_) => lease.give_back(Residue::Broken(CloseReason::Abandoned)),
    }
}

impl Session {
    /// Keeps the table of transactions.
    pub(super) fn note_transaction(&mut self, plan: &Plan, server: &Arc<Server>) {
        let (Some(transaction), Some(member)) = (&plan.transaction, &self.member) else {
            return;
        };
        let transactions = &member.servers.transactions;
        if plan.standing == Standing::EndsTransaction {
            transactions.end(transaction);
        } else {
            let pinned = member.servers.pins_transactions().then_some(server);
            transactions.speak(transaction, self.connection, pinned);
            if let Some((sent, own)) = plan.session_ids() {
                member.servers.echoes.note(sent, own);
            }
            self.has_transactions = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(number: i64) -> Transaction {
        let body = rawdoc! {
            "insert": "c", "lsid": { "id": 7 }, "txnNumber": number, "autocommit": false, "$db": "app",
        };
        Transaction::of(&Body::scan(body.as_bytes()).unwrap(), &Edits::default()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_nobody_goes_on_with_is_left() {
        let open = Transactions::default();
        let (first, second, third) = (transaction(1), transaction(2), transaction(3));
        for transaction in [&first, &second, &third] {
            open.speak(transaction, 10, None);
        }
        open.end(&second);
        let left = open.left_by(10);
        assert_eq!(left.len(), 2);
        open.speak(&third, 11, None);
        assert!(open.take(&first, 10).is_some());
        assert!(open.take(&third, 10).is_none());
        assert!(open.take(&first, 10).is_none());
        tokio::time::advance(KEPT_FOR).await;
        open.sweep();
        assert!(open.left_by(11).is_empty());
    }
}
