//! Structured shutdown: every task has a name, an owner and an end.
//!
//! [`Shutdown::spawn`] is the only spawn in the crate (`.clippy.toml` holds that). `drain` asks tasks
//! to finish what they are doing and start nothing; `abort` ends them.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use ahash::HashMap;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The handle that every long-lived part of the gateway holds.
#[derive(Clone, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    tasks: TaskTracker,
    alive: Arc<Mutex<Alive>>,
}

/// The tasks that have not ended.
#[derive(Default)]
struct Alive {
    tasks: HashMap<u64, Task>,
    last: u64,
    /// Everything was aborted, and so is what begins now.
    is_aborted: bool,
}

struct Task {
    name: &'static str,
    /// `None` while it is being spawned.
    abort: Option<AbortHandle>,
}

impl Shutdown {
    /// A shutdown that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a named task that is waited for at the end; `abort` drops it at its next await.
    ///
    /// The task itself carries nothing for that: it is polled as if it were spawned alone.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let own = Own::new(&self.alive, name);
        let key = own.key;
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        let handle = self.tasks.spawn(async move {
            let _own = own;
            task.await;
        });
        let mut alive = self.alive.lock();
        let is_late = alive.is_aborted;
        // It may have ended by now.
        if let Some(task) = alive.tasks.get_mut(&key) {
            task.abort = Some(handle.abort_handle());
        }
        drop(alive);
        if is_late {
            handle.abort();
        }
    }

    /// Resolves when the gateway begins to drain.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Asks everybody to finish what they are doing.
    pub fn begin_drain(&self) {
        self.drain.cancel();
    }

    /// Drains, waits at most `grace`, then aborts; returns the names of tasks that had to be ended.
    pub async fn run_down(&self, grace: Duration) -> Vec<&'static str> {
        self.drain.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_ok() {
            return Vec::new();
        }
        let mut leftover = BTreeSet::new();
        let mut handles = Vec::new();
        {
            let mut alive = self.alive.lock();
            alive.is_aborted = true;
            for task in alive.tasks.values_mut() {
                leftover.insert(task.name);
                handles.extend(task.abort.take());
            }
        }
        for handle in handles {
            handle.abort();
        }
        // Aborted tasks end at their next await; one that does not await cannot be waited for.
        if tokio::time::timeout(Duration::from_secs(2), self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("tasks did not end after abort");
        }
        leftover.into_iter().collect()
    }
}

/// A task's entry among the living; dropped with the task.
struct Own {
    alive: Arc<Mutex<Alive>>,
    key: u64,
}

impl Own {
    fn new(alive: &Arc<Mutex<Alive>>, name: &'static str) -> Self {
        let mut all = alive.lock();
        all.last += 1;
        let key = all.last;
        all.tasks.insert(key, Task { name, abort: None });
        drop(all);
        Self {
            alive: Arc::clone(alive),
            key,
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let ended = self.alive.lock().tasks.remove(&self.key);
        // Outside of the lock: the handle may be the last that holds the task.
        drop(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn run_down_names_the_tasks_that_had_to_be_ended() {
        let shutdown = Shutdown::new();
        shutdown.spawn("stuck", std::future::pending());
        let polite = shutdown.clone();
        shutdown.spawn("polite", async move { polite.draining().await });
        assert_eq!(
            shutdown.run_down(Duration::from_secs(5)).await,
            vec!["stuck"]
        );
    }
}
