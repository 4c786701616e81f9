//! How the system is asked to run the gateway's threads.

use std::{collections::BTreeSet, fs};

use crate::support::Gateway;

/// `SCHED_OTHER` and `SCHED_BATCH` of `sched(7)`.
const NORMAL: u32 = 0;
const BATCH: u32 = 3;

#[test]
#[cfg(target_os = "linux")]
fn threads_are_scheduled_as_the_file_says() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("polypool.toml");
    for (said, policy) in [("batch", BATCH), ("normal", NORMAL)] {
        fs::write(&file, format!("[runtime]\nscheduling = \"{said}\"\n")).unwrap();
        let gateway = Gateway::start_as(&["--config", file.to_str().unwrap()], &[]);
        assert_eq!(gateway.scheduling(), BTreeSet::from([policy]), "{said}");
    }
}
