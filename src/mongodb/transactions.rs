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
    servers::{Route, Servers},
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
    /// The transaction that a command is a statement of.
    pub(crate) fn of(body: &Body<'_>) -> Option<Self> {
        let session = body.field("lsid")?;
        Some(Self {
            session: session.document()?.to_vec(),
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
#[derive(Debug, Clone, Copy)]
struct Spoken {
    connection: i32,
    at: Instant,
}

/// The open transactions of one tenant.
#[derive(Default)]
pub(crate) struct Transactions(Mutex<AHashMap<Transaction, Spoken>>);

impl Transactions {
    /// Notes a statement.
    pub(crate) fn speak(&self, transaction: &Transaction, connection: i32) {
        let mut open = self.0.lock();
        let at = Instant::now();
        let spoken = Spoken { connection, at };
        if let Some(known) = open.get_mut(transaction) {
            *known = spoken;
        } else if open.len() < TRANSACTIONS_MAX {
            open.insert(transaction.clone(), spoken);
        }
    }

    /// Notes an end.
    pub(crate) fn end(&self, transaction: &Transaction) {
        self.0.lock().remove(transaction);
    }

    /// Forgets those that the server has ended by itself.
    pub(crate) fn sweep(&self) {
        let mut open = self.0.lock();
        open.retain(|_, spoken| spoken.at.elapsed() < KEPT_FOR);
    }

    fn left_by(&self, connection: i32) -> Vec<Transaction> {
        let open = self.0.lock();
        let left = open.iter().filter(|(_, it)| it.connection == connection);
        left.map(|(transaction, _)| transaction.clone()).collect()
    }

    /// Takes one out, if nobody has gone on with it.
    fn take(&self, transaction: &Transaction, connection: i32) -> bool {
        let mut open = self.0.lock();
        let is_left = open
            .get(transaction)
            .is_some_and(|spoken| spoken.connection == connection);
        is_left && open.remove(transaction).is_some()
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
        if servers.transactions.take(&transaction, connection)
            && let Some(abort) = transaction.abort()
        {
            end_one(&servers, &abort).await;
        }
    }
}

async fn end_one(servers: &Servers, abort: &RawDocumentBuf) {
    let Ok(Ok((_, mut lease))) = timeout(END_MAX, servers.lease(&Route::Primary)).await else {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(number: i64) -> Transaction {
        let body = rawdoc! {
            "insert": "c", "lsid": { "id": 7 }, "txnNumber": number, "autocommit": false, "$db": "app",
        };
        Transaction::of(&Body::scan(body.as_bytes()).unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_nobody_goes_on_with_is_left() {
        let open = Transactions::default();
        let (first, second, third) = (transaction(1), transaction(2), transaction(3));
        for transaction in [&first, &second, &third] {
            open.speak(transaction, 10);
        }
        open.end(&second);
        let left = open.left_by(10);
        assert_eq!(left.len(), 2);
        open.speak(&third, 11);
        assert!(open.take(&first, 10));
        assert!(!open.take(&third, 10));
        assert!(!open.take(&first, 10));
        tokio::time::advance(KEPT_FOR).await;
        open.sweep();
        assert!(open.left_by(11).is_empty());
    }
}
