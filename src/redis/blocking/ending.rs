//! Ending a wait on the server from another connection, which may cross with its reply.

use std::{
    future::{Future, ready},
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{error::Elapsed, timeout};

use crate::{
    fault::Refusal,
    redis::{upstream::AskFault, wire},
};

/// A reply and what ended it are told in the same moment, on two connections.
const CROSSING: Duration = Duration::from_millis(2);
/// How long the server may take to say what came of ending a wait that has ended by itself.
const UNBLOCK_MAX: Duration = Duration::from_secs(1);

/// What a wait upstream came to.
pub(super) type Replies = Result<Result<Vec<Bytes>, AskFault>, Elapsed>;

/// The ending of a wait by the server's number of it: whether it was this that ended it.
pub(super) type Unblocking<'a> = Pin<Box<dyn Future<Output = Result<bool, Refusal>> + Send + 'a>>;

/// What came of ending a wait.
pub(super) enum End<'a> {
    /// It was this that ended it; its reply, if that has come already.
    Unblocked(Option<Replies>),
    /// It has ended by itself; the server may not have said yet that there was nothing to end.
    Ended(Replies, Option<Unblocking<'a>>),
    /// It had not begun.
    Refused,
}

/// Has a wait ended.
pub(super) async fn end_wait<'a>(
    mut asked: Pin<&mut impl Future<Output = Replies>>,
    mut unblocking: Unblocking<'a>,
) -> End<'a> {
    tokio::select! {
        biased;
        said = &mut unblocking => match said {
            Ok(true) => End::Unblocked(None),
            Ok(false) => End::Refused,
            Err(refusal) => {
                tracing::debug!(%refusal, "could not end a wait");
                End::Refused
            }
        },
        reply = &mut asked => {
            let is_nothing = matches!(&reply, Ok(Ok(said)) if said.iter().all(|one| wire::is_null(one)));
            if !is_nothing {
                return End::Ended(reply, Some(unblocking));
            }
            match timeout(CROSSING, &mut unblocking).await {
                Ok(Ok(true)) => End::Unblocked(Some(reply)),
                Ok(Ok(false)) => End::Ended(reply, None),
                // It may still be on its way.
                Ok(Err(refusal)) => End::Ended(reply, Some(Box::pin(ready(Err(refusal))))),
                Err(_) => End::Ended(reply, Some(unblocking)),
            }
        }
    }
}

/// Waits until the ending of a wait can end no other wait any more.
///
/// # Errors
/// It is not known to have reached the server: the connection must not wait for anybody else.
pub(super) async fn settle(unblocking: Unblocking<'_>) -> Result<(), AskFault> {
    match timeout(UNBLOCK_MAX, unblocking).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(AskFault::Closed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_ends_a_wait_is_awaited_after_the_reply_that_came_first() {
        for (reply, said, is_left, is_known) in [
            (&b"$1\r\nv\r\n"[..], None, true, false),
            (b"$1\r\nv\r\n", Some(Ok(false)), true, true),
            (b"*-1\r\n", None, true, false),
            (b"*-1\r\n", Some(Err(Refusal::Draining)), true, false),
            (b"*-1\r\n", Some(Ok(false)), false, true),
        ] {
            let asked = ready(Ok(Ok(vec![Bytes::from_static(reply)])));
            let unblocking: Unblocking<'_> = Box::pin(async move {
                tokio::task::yield_now().await;
                match said {
                    Some(said) => said,
                    None => std::future::pending().await,
                }
            });
            let end = end_wait(std::pin::pin!(asked), unblocking).await;
            let End::Ended(_, left) = end else {
                panic!("{reply:?}");
            };
            assert_eq!(left.is_some(), is_left, "{reply:?}");
            if let Some(left) = left {
                // It is polled again, whatever it came to.
                let is_settled = settle(left).await.is_ok();
                assert_eq!(is_settled, is_known, "{reply:?}");
            }
        }
    }
}
