//! Structured shutdown: every task has a name, an owner and an end.
//!
//! [`Shutdown::spawn`] is the only spawn in the crate (`.clippy.toml` holds that). `drain` asks tasks
//! to finish what they are doing and start nothing; `abort` ends them.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The handle that every long-lived part of the gateway holds.
#[derive(Clone, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
    alive: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Shutdown {
    /// A shutdown that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a named task that is waited for at the end; `abort` drops it at its next await.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let alive = Named::new(Arc::clone(&self.alive), name);
        let abort = self.abort.clone();
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        self.tasks.spawn(async move {
            let _alive = alive;
            abort.run_until_cancelled_owned(task).await;
        });
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
        let leftover = self.alive.lock().keys().copied().collect();
        self.abort.cancel();
        // Aborted tasks end at their next await; one that does not await cannot be waited for.
        if tokio::time::timeout(Duration::from_secs(2), self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("tasks did not end after abort");
        }
        leftover
    }
}

/// Counts a living task under its name.
struct Named {
    alive: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    name: &'static str,
}

impl Named {
    fn new(alive: Arc<Mutex<BTreeMap<&'static str, usize>>>, name: &'static str) -> Self {
        *alive.lock().entry(name).or_insert(0) += 1;
        Self { alive, name }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let mut alive = self.alive.lock();
        if let Some(count) = alive.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                alive.remove(self.name);
            }
        }
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
