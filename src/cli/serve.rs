//! `polypool serve`: the gateway itself.

use std::sync::Arc;

use super::scheduling;
use crate::{
    config::{Config, admin_token, open_registry, unknown_variables},
    gateway::{Gateway, Parts},
    telemetry,
};

pub(super) fn run(config: Config) -> anyhow::Result<()> {
    config.check_registry()?;
    telemetry::init_logs(&config.log.filter, config.log.format.into())
        .map_err(anyhow::Error::msg)?;
    warn_of_unknown();
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

/// Who misspells a variable must learn it; its value may be a secret.
fn warn_of_unknown() {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let unknown = unknown_variables(names);
    if !unknown.is_empty() {
        tracing::warn!(
            variables = unknown.join(", "),
            "environment variables that are not known, and change nothing"
        );
    }
}
