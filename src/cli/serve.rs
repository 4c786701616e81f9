//! `polypool serve`: the gateway itself.

use std::sync::Arc;

use crate::{
    config::{Config, Scheduling, admin_token, open_registry},
    gateway::{Gateway, Parts},
    telemetry,
};

pub(super) fn run(config: Config) -> anyhow::Result<()> {
    config.check_registry()?;
    telemetry::init_logs(&config.log.filter, config.log.format.into())
        .map_err(anyhow::Error::msg)?;
    // Before there are other threads: they inherit it.
    if config.runtime.scheduling == Scheduling::Batch {
        schedule_in_batches();
    }
    let threads = config.runtime.threads();
    // One thread needs no hand-over between threads, which costs a system call now and then.
    let mut runtime = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    runtime.worker_threads(threads);
    let runtime = runtime.enable_all().build()?;
    runtime.block_on(async {
        let parts = Parts {
            registry: Arc::new(open_registry(&config).await?),
            admin_token: admin_token(&config)?,
            config,
        };
        Gateway::start(parts)?.run().await
    })
}

/// Has the system run this thread in its turn where others want the same core, instead of interrupting them each time
/// that a byte comes: then there is more to do in one go, and the databases beside us are interrupted less.
#[cfg(target_os = "linux")]
fn schedule_in_batches() {
    let none = uapi::c::sched_param { sched_priority: 0 };
    let this_thread = 0;
    if let Err(error) = uapi::sched_setscheduler(this_thread, uapi::c::SCHED_BATCH, &none) {
        tracing::warn!(%error, "threads are scheduled as any program's");
    }
}

#[cfg(not(target_os = "linux"))]
fn schedule_in_batches() {}
