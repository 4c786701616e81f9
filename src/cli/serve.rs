//! `polypool serve`: the gateway itself.

use std::sync::Arc;

use super::scheduling;
use crate::{
    config::{Config, admin_token, open_registry},
    gateway::{Gateway, Parts},
    telemetry,
};

pub(super) fn run(config: Config) -> anyhow::Result<()> {
    config.check_registry()?;
    telemetry::init_logs(&config.log.filter, config.log.format.into())
        .map_err(anyhow::Error::msg)?;
    let threads = config.runtime.threads();
    // One thread needs no hand-over between threads, which costs a system call now and then.
    let mut runtime = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    runtime.worker_threads(threads);
    let runtime = runtime.enable_all().build()?;
    let scheduling = scheduling::follow(config.runtime.scheduling);
    runtime.block_on(async {
        let parts = Parts {
            registry: Arc::new(open_registry(&config).await?),
            admin_token: admin_token(&config)?,
            config,
        };
        tokio::select! {
            outcome = Gateway::start(parts)?.run() => outcome,
            () = scheduling => Ok(()),
        }
    })
}
