//! The sections that no module owns: listeners, TLS files, secrets, default limits.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZero,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize};

use super::Hidden;
use crate::{
    net::tls::{ClientTls, ServerFiles},
    protocol::Protocol,
    registry::{LimitDefaults, SystemDatabase},
    telemetry,
    tenant::{DatabaseType, PoolMode, TenantLimits, Timeouts},
};

/// Where clients and operators connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// The address of the `PostgreSQL` listener.
    pub postgres: SocketAddr,
    /// The address of the Redis listener.
    pub redis: SocketAddr,
    /// The address of the `MongoDB` listener.
    pub mongodb: SocketAddr,
    /// The address of the admin API.
    pub admin: SocketAddr,
    /// Connections that each of the three lets in at once.
    pub clients_max: usize,
    /// The name under which clients reach this machine; empty: the address itself. For printed URLs.
    pub public_host: String,
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            postgres: loopback(6432),
            redis: loopback(6380),
            mongodb: loopback(27018),
            admin: loopback(8432),
            clients_max: 20_000,
            public_host: String::new(),
        }
    }
}

impl Listen {
    /// The address of a protocol's listener.
    pub fn of(&self, protocol: Protocol) -> SocketAddr {
        match protocol {
            Protocol::Postgres => self.postgres,
            Protocol::Redis => self.redis,
            Protocol::Mongodb => self.mongodb,
        }
    }
}

/// TLS on both sides. Empty paths mean: none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain for clients, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Who must have signed the certificates of clients, PEM; without it clients show none.
    pub client_roots: PathBuf,
    /// Certificates to trust of upstreams, besides the well-known ones, PEM.
    pub upstream_roots: PathBuf,
    /// Where the files lie that connection strings name: `sslcert`, `sslkey` and `sslrootcert`, or `tlsCertificateKeyFile`
    /// and `tlsCAFile`.
    pub upstream_folder: PathBuf,
}

impl Tls {
    /// The files for clients, when TLS is offered.
    pub fn server_files(&self) -> Option<ServerFiles> {
        Some(ServerFiles {
            certificate: named(&self.certificate)?.to_owned(),
            key: named(&self.key)?.to_owned(),
            client_roots: named(&self.client_roots).map(Path::to_owned),
        })
    }

    /// TLS towards upstreams.
    ///
    /// # Errors
    /// When the certificates to trust cannot be read.
    pub fn client_tls(&self) -> io::Result<ClientTls> {
        ClientTls::new(named(&self.upstream_roots), named(&self.upstream_folder))
    }
}

fn named(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

/// Keys and tokens. Empty texts mean: made at the first start, in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// `id:base64 of 32 bytes`, comma separated, newest first.
    pub encryption_keys: Hidden,
    /// The token that may do everything in the admin API.
    pub admin_token: Hidden,
    /// The passphrase of crypto-js ciphertexts of `PostgreSQL` rows, and the others' fallback.
    pub pg_meta_crypto_key: Hidden,
    /// The one of Redis rows.
    pub redis_crypto_key: Hidden,
    /// The one of `MongoDB` rows.
    pub mongodb_crypto_key: Hidden,
}

/// The databases that the environment sets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct System {
    /// `POSTGRES_URL`.
    pub postgres: Hidden,
    /// `REDIS_URL`.
    pub redis: Hidden,
    /// `MONGODB_URL`.
    pub mongodb: Hidden,
    /// `BUN_API_URL`.
    pub bun_api: Hidden,
}

impl System {
    /// In the registry's form.
    pub fn databases(&self) -> Vec<SystemDatabase> {
        let all = [
            (DatabaseType::Postgres, &self.postgres),
            (DatabaseType::Redis, &self.redis),
            (DatabaseType::Mongodb, &self.mongodb),
            (DatabaseType::BunApi, &self.bun_api),
        ];
        let given = all.into_iter().filter_map(|(kind, url)| {
            let connection_string = url.get()?.clone();
            Some(SystemDatabase {
                kind,
                connection_string,
            })
        });
        given.collect()
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors.
    Json,
}

impl From<LogFormat> for telemetry::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or the syntax of `tracing`, as `info,polypool=debug`.
    pub filter: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// When an upstream changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// At the end of each transaction, command or operation.
    Transaction,
    /// When the client leaves.
    Session,
    /// After each statement.
    Statement,
}

impl From<Mode> for PoolMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Transaction => Self::Transaction,
            Mode::Session => Self::Session,
            Mode::Statement => Self::Statement,
        }
    }
}

/// The limits of a database that sets none of its own, by type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Of `PostgreSQL` databases.
    #[serde(deserialize_with = "of_postgres")]
    pub postgres: TypeLimits,
    /// Of Redis servers.
    #[serde(deserialize_with = "of_redis")]
    pub redis: TypeLimits,
    /// Of `MongoDB` deployments.
    #[serde(deserialize_with = "of_mongodb")]
    pub mongodb: TypeLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            postgres: TypeLimits::of(Protocol::Postgres),
            redis: TypeLimits::of(Protocol::Redis),
            mongodb: TypeLimits::of(Protocol::Mongodb),
        }
    }
}

impl Limits {
    /// In the registry's form.
    pub fn defaults(&self) -> LimitDefaults {
        LimitDefaults {
            postgres: self.postgres.tenant_limits(),
            redis: self.redis.tenant_limits(),
            mongodb: self.mongodb.tenant_limits(),
        }
    }
}

/// The limits of one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TypeLimits {
    /// Upstream connections of a database at most.
    pub upstream_max: usize,
    /// Upstream connections kept open while its pool lives.
    pub idle_min: usize,
    /// Clients of a database at once at most.
    pub clients_max: usize,
    /// Clients waiting for an upstream at most.
    pub queue_max: usize,
    /// How long a client waits for an upstream.
    #[serde(with = "humantime_serde")]
    pub queue_wait_max: Duration,
    /// When an upstream changes hands.
    pub pool_mode: Mode,
}

impl TypeLimits {
    fn of(protocol: Protocol) -> Self {
        let limits = TenantLimits::of(protocol);
        Self {
            upstream_max: limits.upstream_max,
            idle_min: limits.idle_min,
            clients_max: limits.clients_max,
            queue_max: limits.queue_max,
            queue_wait_max: limits.queue_wait_max,
            pool_mode: Mode::Transaction,
        }
    }

    fn tenant_limits(&self) -> TenantLimits {
        TenantLimits {
            upstream_max: self.upstream_max,
            idle_min: self.idle_min,
            clients_max: self.clients_max,
            queue_max: self.queue_max,
            queue_wait_max: self.queue_wait_max,
            pool_mode: self.pool_mode.into(),
            timeouts: Timeouts::default(),
        }
    }
}

/// The limits that a file gives; the others keep the defaults of their type.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GivenLimits {
    upstream_max: Option<usize>,
    idle_min: Option<usize>,
    clients_max: Option<usize>,
    queue_max: Option<usize>,
    #[serde(with = "humantime_serde")]
    queue_wait_max: Option<Duration>,
    pool_mode: Option<Mode>,
}

impl GivenLimits {
    fn over(self, defaults: &TypeLimits) -> TypeLimits {
        TypeLimits {
            upstream_max: self.upstream_max.unwrap_or(defaults.upstream_max),
            idle_min: self.idle_min.unwrap_or(defaults.idle_min),
            clients_max: self.clients_max.unwrap_or(defaults.clients_max),
            queue_max: self.queue_max.unwrap_or(defaults.queue_max),
            queue_wait_max: self.queue_wait_max.unwrap_or(defaults.queue_wait_max),
            pool_mode: self.pool_mode.unwrap_or(defaults.pool_mode),
        }
    }
}

fn given<'de, D>(deserializer: D, protocol: Protocol) -> Result<TypeLimits, D::Error>
where
    D: Deserializer<'de>,
{
    GivenLimits::deserialize(deserializer).map(|given| given.over(&TypeLimits::of(protocol)))
}

fn of_postgres<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TypeLimits, D::Error> {
    given(deserializer, Protocol::Postgres)
}

fn of_redis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TypeLimits, D::Error> {
    given(deserializer, Protocol::Redis)
}

fn of_mongodb<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TypeLimits, D::Error> {
    given(deserializer, Protocol::Mongodb)
}

/// What the gateway runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// Threads that serve clients; 0: one for every two cores.
    pub threads: usize,
    /// Whether they interrupt others as soon as a byte comes for them.
    pub scheduling: Scheduling,
}

/// How the system runs the gateway's threads where other work waits for the same cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduling {
    /// In batches while no core is free, else at once.
    #[default]
    Auto,
    /// In its turn: what came meanwhile is served together. `SCHED_BATCH` of `sched(7)`.
    Batch,
    /// At once, as any program.
    Normal,
}

impl Runtime {
    /// The number to start. One thread carries tens of thousands of operations a second, and more
    /// of them make smaller batches and wake each other.
    pub fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
        if self.threads > 0 {
            self.threads
        } else {
            (cores() / 2).max(1)
        }
    }
}

/// How the gateway ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long clients may go on after a request to end.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30),
        }
    }
}
