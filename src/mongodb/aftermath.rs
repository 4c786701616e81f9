//! What a client that vanished in the middle of a request leaves to be done.

use std::{sync::Arc, time::Duration};

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use tokio::time::timeout;

use super::{
    exchange::give_back,
    plan::{Aftermath, Plan},
    upstream::{Dialer, converse},
    wire::{Header, MESSAGE_BYTES_MAX, Message},
};
use crate::{
    pool::{CloseReason, Lease, Pool, Residue},
    shutdown::Shutdown,
};

/// How long what was left behind may take.
const AFTERMATH_MAX: Duration = Duration::from_mins(1);

/// Ends the operation that `lease` is busy with, in the way that its kind needs.
pub(super) fn follow(
    shutdown: &Shutdown,
    plan: &Plan,
    request: Option<&[u8]>,
    lease: Lease<Dialer>,
) {
    match plan.aftermath {
        Aftermath::Close => drop(lease),
        Aftermath::KillCursor => {
            let pool = Arc::clone(lease.pool());
            drop(lease);
            kill(shutdown, pool, request);
        }
        Aftermath::Finish => shutdown.spawn("mongodb-finish", finish(lease)),
    }
}

/// Closes the cursor that a `getMore` was to go on with.
pub(super) fn kill(shutdown: &Shutdown, pool: Arc<Pool<Dialer>>, request: Option<&[u8]>) {
    if let Some(kill) = request.and_then(kill_command) {
        shutdown.spawn("mongodb-kill-cursor", kill_cursor(pool, kill));
    }
}

/// Reads the reply that nobody waits for any more.
async fn finish(mut lease: Lease<Dialer>) {
    match timeout(AFTERMATH_MAX, discard_reply(&mut lease)).await {
        Ok(Some(())) => give_back(lease),
        Ok(None) | Err(_) => lease.give_back(Residue::Broken(CloseReason::Abandoned)),
    }
}

async fn discard_reply(lease: &mut Lease<Dialer>) -> Option<()> {
    let upstream = &mut lease.upstream;
    let header = loop {
        let header = Header::parse(upstream.intake.pending(), MESSAGE_BYTES_MAX).ok()?;
        if let Some(header) = header {
            break header;
        }
        let read = upstream.intake.fill(&mut upstream.stream, 0).await;
        read.ok().filter(|count| *count > 0)?;
    };
    let mut rest = header.length;
    loop {
        let here = upstream.intake.pending().len().min(rest);
        upstream.intake.consume(here);
        rest -= here;
        if rest == 0 {
            return Some(());
        }
        let read = upstream.intake.fill(&mut upstream.stream, rest).await;
        read.ok().filter(|count| *count > 0)?;
    }
}

async fn kill_cursor(pool: Arc<Pool<Dialer>>, command: RawDocumentBuf) {
    let Ok(Ok(mut lease)) = timeout(AFTERMATH_MAX, pool.lease()).await else {
        return;
    };
    let upstream = &mut lease.upstream;
    let asked = converse(&mut upstream.stream, &mut upstream.intake, &command);
    match timeout(AFTERMATH_MAX, asked).await {
        Ok(Ok(_)) => give_back(lease),
        Ok(Err(error)) => {
            tracing::debug!(%error, "cursor of a vanished client not killed");
            lease.give_back(Residue::Broken(CloseReason::Abandoned));
        }
        Err(_) => lease.give_back(Residue::Broken(CloseReason::Abandoned)),
    }
}

/// The `killCursors` that fits a `getMore`.
fn kill_command(request: &[u8]) -> Option<RawDocumentBuf> {
    let header = Header::parse(request, MESSAGE_BYTES_MAX).ok()??;
    let message = Message::parse(request, &header).ok()?;
    let body = &message.body;
    let cursor = body.argument().integer()?;
    let collection = body.field("collection")?;
    let mut command = rawdoc! {
        "killCursors": collection.text()?,
        "cursors": [cursor],
        "$db": body.database(),
    };
    if let Some(session) = body.field("lsid") {
        let session = RawDocument::from_bytes(session.document()?)
            .ok()?
            .to_owned();
        command.append(bson::cstr!("lsid"), session);
    }
    Some(command)
}
