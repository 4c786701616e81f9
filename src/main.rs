//! The thin bin: everything is in the library.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let config = polypool::config::Config::load(None)?;
    polypool::telemetry::init_logs(&config.log.filter, config.log.format.into())
        .map_err(anyhow::Error::msg)?;
    let workers: usize = std::env::var("WORKERS")
        .ok()
        .and_then(|w| w.parse().ok())
        .unwrap_or(1);
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()?;
    rt.block_on(async {
        let registry = std::sync::Arc::new(polypool::config::open_registry(&config).await?);
        let admin_token = polypool::config::admin_token(&config)?;
        polypool::gateway::Gateway::start(polypool::gateway::Parts {
            config,
            registry,
            admin_token,
        })?
        .run()
        .await
    })
}
