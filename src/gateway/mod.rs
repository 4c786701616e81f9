//! The composition root: registry, services, listeners and admin API put together, run and ended.
//!
//! The only place that goes over the protocols. Nothing is decided here that a module below could
//! decide for itself.

mod operator;
mod prober;
mod services;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use self::{
    operator::{Desk, Reload},
    prober::Probes,
    services::Services,
};
use crate::{
    admin::{self, Admin},
    config::Config,
    crypto::Secret,
    net::{Listener, tls::ServerTls},
    postgres,
    protocol::Protocol,
    registry::Registry,
    shutdown::Shutdown,
    telemetry::Exporter,
};

/// What the outside has to bring: settings, and what was opened on the way to them.
pub struct Parts {
    /// The configuration.
    pub config: Config,
    /// The registry, open.
    pub registry: Arc<Registry>,
    /// The token that may do everything.
    pub admin_token: Secret,
}

/// A running gateway.
pub struct Gateway {
    config: Config,
    shutdown: Shutdown,
    reload: Reload,
}

impl Gateway {
    /// Opens every listener; clients are served from now on.
    ///
    /// # Errors
    /// When an address is taken, a certificate cannot be read, or metrics were installed before.
    pub fn start(parts: Parts) -> anyhow::Result<Self> {
        let Parts {
            config,
            registry,
            admin_token,
        } = parts;
        let exporter = Exporter::install().context("metrics")?;
        let shutdown = Shutdown::new();
        keep_metrics(&exporter, &shutdown);
        let client_tls = config.tls.client_tls().context("tls.upstream_roots")?;
        let server_tls = server_tls(&config)?;
        let services = Arc::new(Services::new(
            &config,
            Arc::clone(&registry),
            &shutdown,
            &client_tls,
            server_tls.as_ref(),
        )?);
        let mut entrances = admin::Entrances {
            public_host: Some(config.listen.public_host.clone()).filter(|host| !host.is_empty()),
            ..admin::Entrances::default()
        };
        for protocol in Protocol::ALL {
            let listener = bind(
                protocol.label(),
                config.listen.of(protocol),
                config.listen.clients_max,
            )?;
            let address = listener.local_addr()?;
            tracing::info!(%protocol, %address, "listening");
            match protocol {
                Protocol::Postgres => entrances.postgres = Some(address),
                Protocol::Redis => entrances.redis = Some(address),
                Protocol::Mongodb => entrances.mongodb = Some(address),
            }
            services.listen(protocol, listener, config.listen.clients_max, &shutdown);
        }
        services.follow(&registry, &shutdown);
        let figures = Arc::clone(&services);
        let desk = open_desk(
            &config,
            &services,
            &registry,
            &admin_token,
            server_tls.as_ref(),
        )?;
        let reload = Arc::clone(&desk.reload);
        let admin = Admin::new(admin::Parts {
            settings: config.admin.clone(),
            registry,
            prober: Arc::new(Probes::new(client_tls, &config)),
            figures: Arc::clone(&services) as Arc<dyn admin::Figures>,
            control: desk,
            metrics: Arc::new(move || {
                figures.note_upstreams();
                exporter.render()
            }),
            token: admin_token,
            entrances,
            shutdown: shutdown.clone(),
        });
        listen_admin(&config, admin, &shutdown)?;
        Ok(Self {
            config,
            shutdown,
            reload,
        })
    }

    /// Serves until a signal ends it: SIGTERM or SIGINT drain, SIGHUP reloads certificates.
    ///
    /// # Errors
    /// When signals cannot be listened for, or tasks had to be ended because the grace was over.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                got = hangup.recv() => if got.is_some() { self.reload() },
            }
        }
        self.drain(terminate).await
    }

    /// Ends within the grace period, or at once at a second signal.
    async fn drain(self, mut again: Signal) -> anyhow::Result<()> {
        let grace = self.config.shutdown.grace;
        tracing::info!(?grace, "draining");
        let leftover = tokio::select! {
            leftover = self.shutdown.run_down(grace) => leftover,
            _ = again.recv() => vec!["everything: second signal"],
        };
        if leftover.is_empty() {
            return Ok(());
        }
        anyhow::bail!("ended by force: {}", leftover.join(", "))
    }

    fn reload(&self) {
        match (self.reload)() {
            Ok(()) => tracing::info!("certificates reloaded; other settings need a restart"),
            Err(error) => tracing::error!(error, "not reloaded; what was read before stays"),
        }
    }
}

/// Metrics are folded from time to time, whether or not anybody asks for them.
fn keep_metrics(exporter: &Exporter, shutdown: &Shutdown) {
    let (upkeep, ending) = (exporter.clone().keep_up(), shutdown.clone());
    shutdown.spawn("metrics-upkeep", async move {
        tokio::select! {
            () = upkeep => {}
            () = ending.draining() => {}
        }
    });
}

/// What operators act through, by the admin API and by the console.
fn open_desk(
    config: &Config,
    services: &Arc<Services>,
    registry: &Arc<Registry>,
    admin_token: &Secret,
    server_tls: Option<&ServerTls>,
) -> anyhow::Result<Arc<Desk>> {
    let desk = Arc::new(Desk {
        services: Arc::clone(services),
        registry: Arc::clone(registry),
        admin_token: admin_token.clone(),
        settings: settings_of(config)?,
        began: Instant::now(),
        reload: reload_of(config, server_tls),
    });
    let operator: Arc<dyn postgres::Operator> = Arc::clone(&desk) as _;
    services.set_operator(Arc::downgrade(&operator));
    Ok(desk)
}

/// Reads certificates again; other settings need a restart.
fn reload_of(config: &Config, server_tls: Option<&ServerTls>) -> Reload {
    let (server_tls, files) = (server_tls.cloned(), config.tls.server_files());
    Arc::new(move || match server_tls.as_ref().zip(files.as_ref()) {
        None => Err("there is no certificate to reload; other settings need a restart".to_owned()),
        Some((server_tls, files)) => server_tls.reload(files).map_err(|error| error.to_string()),
    })
}

/// Every setting by its dotted name, with its default.
fn settings_of(config: &Config) -> anyhow::Result<Vec<[String; 3]>> {
    let (mut given, mut defaults) = (Vec::new(), Vec::new());
    flatten("", &toml::Value::try_from(config)?, &mut given);
    flatten(
        "",
        &toml::Value::try_from(Config::default())?,
        &mut defaults,
    );
    let pair = |(name, value): (String, String)| {
        let default = defaults.iter().find(|(known, _)| *known == name);
        let default = default.map_or_else(String::new, |(_, default)| default.clone());
        [name, value, default]
    };
    Ok(given.into_iter().map(pair).collect())
}

fn flatten(prefix: &str, value: &toml::Value, out: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let dot = if prefix.is_empty() { "" } else { "." };
                flatten(&format!("{prefix}{dot}{name}"), value, out);
            }
        }
        toml::Value::String(text) => out.push((prefix.to_owned(), text.clone())),
        other => out.push((prefix.to_owned(), other.to_string())),
    }
}

/// How databases are tested with these settings, without a gateway that runs.
///
/// # Errors
/// When the certificates to trust cannot be read.
pub fn prober(config: &Config) -> anyhow::Result<Arc<dyn admin::Prober>> {
    let client_tls = config.tls.client_tls().context("tls.upstream_roots")?;
    Ok(Arc::new(Probes::new(client_tls, config)))
}

fn server_tls(config: &Config) -> anyhow::Result<Option<ServerTls>> {
    let load =
        |files| ServerTls::load(&files).context("tls.certificate, tls.key, tls.client_roots");
    config.tls.server_files().map(load).transpose()
}

fn bind(name: &str, address: SocketAddr, clients_max: usize) -> anyhow::Result<Listener> {
    Listener::bind(address, clients_max).with_context(|| format!("listen.{name} = {address}"))
}

fn listen_admin(config: &Config, admin: Arc<Admin>, shutdown: &Shutdown) -> anyhow::Result<()> {
    let listener = bind("admin", config.listen.admin, config.admin.clients_max)?;
    tracing::info!(address = %listener.local_addr()?, "admin API listening");
    let serve = move |stream| Arc::clone(&admin).serve(stream);
    // A caller beyond the bound is closed: HTTP clients come again by themselves.
    let refuse = |stream| async move { drop(stream) };
    let run = listener.run(shutdown.clone(), "admin-request", serve, refuse);
    shutdown.spawn("admin-listener", run);
    Ok(())
}
