//! `polypool serve`: the gateway itself.

use std::sync::Arc;

use crate::{
    config::{Config, admin_token, open_registry},
    gateway::{Gateway, Parts},
    telemetry,
};

pub(super) fn run(config: Config) -> anyhow::Result<()> {
    config.check_registry()?;
    telemetry::init_logs(&config.log.filter, config.log.format.into())
        .map_err(anyhow::Error::msg)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if config.runtime.threads > 0 {
        runtime.worker_threads(config.runtime.threads);
    }
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
