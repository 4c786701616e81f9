//! What the gateway holds of MongoDB: settings, the pools, and a session for each client.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    commands::Commands,
    intake::Intake,
    outlet,
    refusal::{ErrorReply, Standing},
    servers::{Means, Servers},
    session::{LOGIN_BYTES_MAX, Session},
    topology::Topology,
    upstream::{Dialer, Names},
    wire::{Compressor, Header, Opcode, encode_message, encode_reply},
};
use crate::{
    auth::scram::Mechanism,
    fault::Refusal,
    net::{
        Stream,
        tls::{ClientTls, ServerTls},
    },
    pool::{self, Budget, Fleet},
    protocol::Protocol,
    session::Admission,
    shutdown::Shutdown,
    telemetry::{SessionEnd, SessionMeters},
    tenant::{Tenant, TenantId},
};

/// How long a client may take to say whether it speaks TLS.
const FIRST_BYTES_WAIT_MAX: Duration = Duration::from_mins(1);
/// How long a client that is refused may take to say its first word.
const REFUSAL_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often what is known of servers is looked after.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);
/// The first bytes of a TLS handshake: record type and major version.
const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];

/// MongoDB's part of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The wire version that drivers are told: it stands for a release (13 is 5.0, 17 is 6.0, 21 is
    /// 7.0), and must not be above the oldest upstream's.
    pub wire_version: i32,
    /// The longest time that a change stream or a tailable cursor waits inside one request, for it
    /// holds an upstream meanwhile; the driver just asks again.
    #[serde(with = "humantime_serde")]
    pub await_max: Duration,
    /// How much of a pool, in percent, all requests that wait for data may hold together; at least
    /// one upstream.
    pub await_share: u8,
    /// How long one of them waits while others wait for their turn.
    #[serde(with = "humantime_serde")]
    pub await_short: Duration,
    /// How clients may compress: `snappy`, `zstd`, `zlib`.
    pub compressors: Vec<String>,
    /// Bytes of large commands that the clients of one database have here at once: what cannot be streamed.
    pub request_bytes_max: usize,
    /// How long a client may take over one large reply, which holds an upstream meanwhile.
    #[serde(with = "humantime_serde")]
    pub reply_wait_max: Duration,
    /// Whether an upstream's own user may log in by `SCRAM-SHA-1` too.
    pub scram_sha_1: bool,
    /// The name servers that are asked for `mongodb+srv://`; none: the system's own.
    pub srv_servers: Vec<SocketAddr>,
    /// How long their answer is used at least, and how often the routers of a sharded cluster are looked up again.
    #[serde(with = "humantime_serde")]
    pub srv_rescan: Duration,
}

impl Settings {
    /// What names stand for, by these settings.
    pub fn names(&self) -> Arc<Names> {
        Arc::new(Names::new(self.srv_servers.clone(), self.srv_rescan))
    }

    /// How clients may log in.
    pub(super) const fn mechanisms(&self) -> &'static [Mechanism] {
        if self.scram_sha_1 {
            &[Mechanism::Sha256, Mechanism::Sha1]
        } else {
            &[Mechanism::Sha256]
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            wire_version: 17,
            await_max: Duration::from_secs(1),
            await_share: 50,
            await_short: Duration::from_millis(20),
            compressors: Compressor::ALL.map(|it| it.label().to_owned()).to_vec(),
            request_bytes_max: 256 * 1024 * 1024,
            reply_wait_max: Duration::from_mins(5),
            scram_sha_1: false,
            srv_servers: Vec::new(),
            srv_rescan: Duration::from_mins(1),
        }
    }
}

/// What a service is made of.
pub struct Parts {
    /// MongoDB's part of the settings.
    pub settings: Settings,
    /// How pools behave.
    pub pool: pool::Settings,
    /// The bound on all upstreams together.
    pub budget: Arc<Budget>,
    /// Who lets clients in.
    pub admission: Arc<Admission>,
    /// The end.
    pub shutdown: Shutdown,
    /// TLS towards upstreams.
    pub client_tls: ClientTls,
    /// TLS towards clients; without it only plain connections are served.
    pub server_tls: Option<ServerTls>,
}

/// The gateway's MongoDB side.
pub struct Service {
    pub(super) settings: Settings,
    pub(super) admission: Arc<Admission>,
    pub(super) shutdown: Shutdown,
    pub(super) commands: Commands,
    pub(super) topology: Topology,
    means: Arc<Means>,
    servers: Arc<DashMap<TenantId, Arc<Servers>>>,
    server_tls: Option<ServerTls>,
    connections: AtomicI32,
}

impl Service {
    /// A service without clients.
    pub fn new(parts: Parts) -> Arc<Self> {
        let names = parts.settings.names();
        let fleet = Fleet::new(
            Protocol::Mongodb,
            Dialer::new(parts.client_tls.clone(), Arc::clone(&names)),
            parts.pool,
            parts.budget,
            parts.shutdown.clone(),
        );
        let servers = Arc::new(DashMap::new());
        let kept_up = keep_up(Arc::clone(&servers), parts.shutdown.clone());
        parts.shutdown.spawn("mongodb-upkeep", kept_up);
        Arc::new(Self {
            means: Arc::new(Means {
                fleet,
                tls: parts.client_tls,
                names,
                shutdown: parts.shutdown.clone(),
                share_percent: parts.settings.await_share,
                request_bytes_max: parts.settings.request_bytes_max,
            }),
            servers,
            settings: parts.settings,
            admission: parts.admission,
            topology: Topology::new(parts.shutdown.clone()),
            shutdown: parts.shutdown,
            commands: Commands::new(),
            server_tls: parts.server_tls,
            connections: AtomicI32::new(0),
        })
    }

    /// The pools.
    pub fn fleet(&self) -> &Fleet<Dialer> {
        &self.means.fleet
    }

    /// What is known of a tenant's servers.
    pub(super) fn servers(&self, tenant: &Arc<Tenant>) -> Arc<Servers> {
        // The pool may have heard of a newer registration.
        let tenant = self.means.fleet.pool(tenant).tenant();
        let make = |cursors| Servers::new(Arc::clone(&self.means), Arc::clone(&tenant), cursors);
        let mut servers = self
            .servers
            .entry(tenant.id)
            .or_insert_with(|| make(Arc::default()));
        if servers.is_over() || servers.generation() != tenant.generation {
            *servers = make(Arc::clone(&servers.cursors));
        }
        Arc::clone(&servers)
    }

    /// One client's whole life.
    pub async fn serve(self: Arc<Self>, stream: Stream) {
        self.meters().opened();
        let peer = stream.peer();
        let end = match self.secure(stream).await {
            // In a place of its own: the way there, with TLS, is large and over.
            Ok(stream) => Box::pin(Session::new(Arc::clone(&self), stream).run()).await,
            Err(error) => {
                tracing::debug!(%peer, %error, "no TLS with this client");
                SessionEnd::Malformed
            }
        };
        tracing::debug!(%peer, end = end.label(), "mongodb session ended");
        self.meters().ended(end);
    }

    /// Tells a client that it is one too many: its first message is answered, and no other.
    pub async fn refuse(stream: Stream, refusal: &Refusal) {
        let turned = timeout(REFUSAL_WAIT_MAX, turn_away(stream, refusal)).await;
        if let Ok(Err(error)) = turned {
            tracing::debug!(%error, "client left before it was refused");
        }
    }

    pub(super) fn meters(&self) -> &SessionMeters {
        self.admission.meters(Protocol::Mongodb)
    }

    /// The number that a connection goes by in its hello.
    pub(super) fn next_connection(&self) -> i32 {
        self.connections.fetch_add(1, Ordering::Relaxed) & i32::MAX
    }

    /// Both plain and TLS clients are served on one port. A message's third byte is 0 before login,
    /// where messages are small, and a TLS handshake's is not: the two cannot be taken for another.
    async fn secure(&self, stream: Stream) -> io::Result<Stream> {
        let Some(tls) = &self.server_tls else {
            return Ok(stream);
        };
        let mut first = [0; 3];
        let peeked = tokio::select! {
            peeked = timeout(FIRST_BYTES_WAIT_MAX, stream.peek(&mut first)) => peeked,
            () = self.shutdown.draining() => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        let known = peeked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let is_tls = match first.get(..known) {
            Some([kind, major, minor]) => [*kind, *major] == TLS_HANDSHAKE && *minor != 0,
            // Nobody sends less than a header; whoever does is taken at its first byte.
            Some([kind, ..]) => *kind == TLS_HANDSHAKE[0],
            _ => false,
        };
        if is_tls {
            tls.accept(stream).await
        } else {
            Ok(stream)
        }
    }
}

/// Looks after what is known of servers, and forgets it when nobody uses it.
async fn keep_up(servers: Arc<DashMap<TenantId, Arc<Servers>>>, shutdown: Shutdown) {
    let mut ticks = interval(UPKEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.draining() => return,
            _ = ticks.tick() => {}
        }
        servers.retain(|_, servers| {
            servers.tick();
            !servers.is_over() || !servers.cursors.is_empty()
        });
    }
}

/// Waits for the first message and refuses it.
async fn turn_away(mut stream: Stream, refusal: &Refusal) -> io::Result<()> {
    let mut intake = Intake::default();
    let header = loop {
        match Header::parse(intake.pending(), LOGIN_BYTES_MAX) {
            Ok(Some(header)) if header.length <= intake.pending().len() => break header,
            Ok(_) => {}
            // Bytes of another protocol, TLS for one, are not answered.
            Err(_) => return Ok(()),
        }
        if intake.fill(&mut stream, 0).await? == 0 {
            return Ok(());
        }
    };
    let body = ErrorReply::of(refusal, Standing::Plain).document(None);
    let mut reply = Vec::new();
    match header.opcode {
        Opcode::Query => encode_reply(&mut reply, 1, header.request_id, body.as_bytes()),
        Opcode::Message => encode_message(&mut reply, 1, header.request_id, 0, body.as_bytes()),
        Opcode::Reply | Opcode::Compressed => return Ok(()),
    }
    outlet::write_all(&mut stream, &reply).await
}
