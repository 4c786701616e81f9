//! Signals that are polled often and come seldom: a drain, somebody's order to end, a deadline.
//!
//! The wakers of such futures lie in lists that all sessions share, behind locks. [`Seldom`] looks at
//! its future only when that has asked for it, so that polling it along with a session costs one load.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// A future that is polled only after it has woken.
///
/// # Invariants
/// The future is polled at first, whenever it wakes, and whenever another task polls.
pub struct Seldom<T> {
    future: Pin<Box<dyn Future<Output = T> + Send>>,
    bell: Option<Arc<Bell>>,
}

/// Remembers that the future has woken, and wakes the task that polls it.
struct Bell {
    has_rung: AtomicBool,
    task: Waker,
}

impl<T> Seldom<T> {
    /// Watches a future.
    pub fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self {
            future: Box::pin(future),
            bell: None,
        }
    }

    /// Ready once, when the future is; not to be polled afterwards.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<T> {
        let bell = match &self.bell {
            Some(bell) if bell.task.will_wake(context.waker()) => bell,
            _ => self.bell.insert(Arc::new(Bell {
                has_rung: AtomicBool::new(true),
                task: context.waker().clone(),
            })),
        };
        // Silenced before the future is polled: what rings from then on is not lost.
        let has_rung =
            bell.has_rung.load(Ordering::Relaxed) && bell.has_rung.swap(false, Ordering::AcqRel);
        if !has_rung {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(bell));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_signal_is_looked_at_when_it_wakes_and_not_before() {
        let looks = Arc::new(AtomicUsize::new(0));
        let token = CancellationToken::new();
        let mut signal = {
            let (looks, token) = (Arc::clone(&looks), token.clone());
            let mut cancelled = Box::pin(token.cancelled_owned());
            Seldom::new(std::future::poll_fn(move |context| {
                looks.fetch_add(1, Ordering::Relaxed);
                cancelled.as_mut().poll(context)
            }))
        };
        let polled_many_times = std::future::poll_fn(|context| {
            for _ in 0..10 {
                assert!(signal.poll(context).is_pending());
            }
            Poll::Ready(())
        });
        polled_many_times.await;
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        let canceller = async { token.cancel() };
        tokio::join!(
            std::future::poll_fn(|context| signal.poll(context)),
            canceller
        );
        assert_eq!(looks.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn another_task_is_woken_too() {
        let token = CancellationToken::new();
        let mut signal = Seldom::new(token.clone().cancelled_owned());
        std::future::poll_fn(|context| {
            assert!(signal.poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { std::future::poll_fn(|context| signal.poll(context)).await });
        tokio::task::yield_now().await;
        token.cancel();
        tasks.join_next().await.unwrap().unwrap();
    }
}
