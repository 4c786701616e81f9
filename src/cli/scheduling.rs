//! How the system runs the gateway's threads where other work waits for the same cores.
//!
//! As any program's they interrupt it as soon as a byte comes: the least time for a lone client. In batches they run in
//! their turn, and what came meanwhile is served together: fewer interruptions of the databases beside us, and less work
//! for each request. So the first is used while cores stand idle, and the second while none does.

use std::{fs, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use crate::config::Scheduling;

/// How often the cores are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// With less of all cores idle than this, in percent, batches begin.
const BUSY_BELOW: u64 = 10;
/// With more of them idle than this, they end.
const FREE_ABOVE: u64 = 25;

/// Keeps the gateway's threads scheduled as they should be, for as long as it is polled.
pub(super) async fn follow(scheduling: Scheduling) {
    match scheduling {
        Scheduling::Normal => {}
        Scheduling::Batch => set_policy(true),
        Scheduling::Auto => follow_cores().await,
    }
    std::future::pending::<()>().await;
}

async fn follow_cores() {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    let mut in_batches = false;
    loop {
        ticks.tick().await;
        let Some(now) = read_times() else {
            tracing::debug!("the system does not say how busy its cores are");
            return;
        };
        let wanted = before.map_or(in_batches, |before| now.wants_batches(before, in_batches));
        before = Some(now);
        if wanted != in_batches {
            in_batches = wanted;
            set_policy(in_batches);
        }
    }
}

/// What all cores together have done, in ticks.
#[derive(Debug, Clone, Copy)]
struct Times {
    idle: u64,
    busy: u64,
}

impl Times {
    /// Reads the first line of `/proc/stat`, as `proc(5)` has it: user, nice, system, idle, iowait, irq, softirq. What
    /// a host takes for others is neither.
    fn parse(stat: &str) -> Option<Self> {
        let mut fields = stat.lines().next()?.split_ascii_whitespace();
        fields.next().filter(|name| *name == "cpu")?;
        let mut times = [0_u64; 7];
        for time in &mut times {
            *time = fields.next()?.parse().ok()?;
        }
        let [user, nice, system, idle, waiting, interrupts, soft] = times;
        Some(Self {
            idle: idle + waiting,
            busy: user + nice + system + interrupts + soft,
        })
    }

    /// Whether batches serve better, by what was done since then.
    fn wants_batches(self, before: Self, in_batches: bool) -> bool {
        let idle = self.idle.saturating_sub(before.idle);
        let all = idle + self.busy.saturating_sub(before.busy);
        let bound = if in_batches { FREE_ABOVE } else { BUSY_BELOW };
        all > 0 && idle * 100 < all * bound
    }
}

fn read_times() -> Option<Times> {
    Times::parse(&fs::read_to_string("/proc/stat").ok()?)
}

/// Sets the policy of all threads there are; those that they start inherit it.
#[cfg(target_os = "linux")]
fn set_policy(in_batches: bool) {
    let policy = if in_batches {
        uapi::c::SCHED_BATCH
    } else {
        uapi::c::SCHED_OTHER
    };
    let none = uapi::c::sched_param { sched_priority: 0 };
    for task in fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = task.file_name();
        let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Whoever runs the gateway by another policy knows why.
        let current = uapi::sched_getscheduler(thread);
        if !current.is_ok_and(|it| [uapi::c::SCHED_OTHER, uapi::c::SCHED_BATCH].contains(&it)) {
            continue;
        }
        // It may have ended meanwhile.
        if let Err(error) = uapi::sched_setscheduler(thread, policy, &none) {
            tracing::debug!(%error, "a thread is scheduled as before");
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn set_policy(_in_batches: bool) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_line_tells_what_all_cores_did() {
        let times = Times::parse("cpu  1 2 4 8 16 32 64 128 256 0\ncpu0 9 9").unwrap();
        assert_eq!((times.idle, times.busy), (24, 103));
        for wrong in ["", "cpu0 1 2 3 4 5 6 7", "cpu 1 2 3", "cpu a b c d e f g"] {
            assert!(Times::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn batches_begin_when_no_core_is_free_and_end_when_one_is() {
        let before = Times {
            idle: 1000,
            busy: 5000,
        };
        let after = |idle: u64| Times {
            idle: before.idle + idle,
            busy: before.busy + 100 - idle,
        };
        for (idle, from_normal, from_batches) in [
            (0, true, true),
            (9, true, true),
            (10, false, true),
            (24, false, true),
            (25, false, false),
        ] {
            assert_eq!(
                after(idle).wants_batches(before, false),
                from_normal,
                "{idle}"
            );
            assert_eq!(
                after(idle).wants_batches(before, true),
                from_batches,
                "{idle}"
            );
        }
        assert!(!before.wants_batches(before, false));
    }
}
