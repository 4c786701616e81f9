//! The Redis side as the gateway holds it: accepts streams, knows the tenants' stations.

use std::{collections::HashMap, io, sync::Arc};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{
    commands::{Commands, TableFault},
    refusal,
    session::Session,
    settings::Settings,
    station::Station,
    upstream::Dialer,
    wire::Limits,
};
use crate::{
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

/// The first byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// Arguments of one command at most.
const ARGUMENTS_MAX: usize = 1024 * 1024;

/// What the Redis side is made of.
pub struct Parts {
    /// Its part of the file.
    pub settings: Settings,
    /// Who may log in.
    pub admission: Arc<Admission>,
    /// The end of it all.
    pub shutdown: Shutdown,
    /// TLS towards servers.
    pub client_tls: ClientTls,
    /// TLS towards clients, on a listener that has it.
    pub server_tls: Option<ServerTls>,
    /// The bound on upstreams of all tenants.
    pub budget: Arc<Budget>,
    /// How pools behave.
    pub pool: pool::Settings,
}

/// The Redis side.
pub struct Service {
    settings: Settings,
    admission: Arc<Admission>,
    shutdown: Shutdown,
    server_tls: Option<ServerTls>,
    commands: Commands,
    dialer: Dialer,
    fleet: Fleet<Dialer>,
    stations: Mutex<HashMap<TenantId, Arc<Station>>>,
}

impl Service {
    /// Builds the Redis side.
    ///
    /// # Errors
    /// When the built-in command table is broken.
    pub fn new(parts: Parts) -> Result<Arc<Self>, TableFault> {
        let connect_max = parts.settings.connect_wait_max;
        let dialer = Dialer::new(parts.client_tls, connect_max, parts.shutdown.clone());
        Ok(Arc::new(Self {
            commands: Commands::load()?,
            fleet: Fleet::new(
                Protocol::Redis,
                dialer.clone(),
                parts.pool,
                parts.budget,
                parts.shutdown.clone(),
            ),
            dialer,
            settings: parts.settings,
            admission: parts.admission,
            shutdown: parts.shutdown,
            server_tls: parts.server_tls,
            stations: Mutex::default(),
        }))
    }

    /// Serves one client until it leaves. Where TLS is configured, one port takes both: no RESP
    /// request begins with the first byte of a TLS handshake.
    pub async fn serve(self: Arc<Self>, stream: Stream) {
        self.meters().opened();
        let peer = stream.peer();
        // Each in a place of its own: a future has room for all that it ever waits for.
        let end = match Box::pin(self.secure(stream)).await {
            Ok(stream) => {
                let mut session = Box::new(Session::new(Arc::clone(&self), stream));
                session.run().await
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "no TLS with this client");
                SessionEnd::Malformed
            }
        };
        tracing::debug!(%peer, end = end.label(), "redis session ended");
        self.meters().ended(end);
    }

    /// Tells a client that it cannot be served, and closes.
    pub async fn refuse(mut stream: Stream, refusal: &Refusal) {
        let mut words = BytesMut::new();
        refusal::refuse(&mut words, refusal);
        let said = timeout(Settings::goodbye_max(), stream.write_all(&words)).await;
        if !matches!(said, Ok(Ok(()))) {
            tracing::debug!("client left before its refusal");
        }
    }

    async fn secure(&self, stream: Stream) -> io::Result<Stream> {
        let Some(tls) = &self.server_tls else {
            return Ok(stream);
        };
        let mut first = [0; 1];
        let known = timeout(self.settings.login_wait_max, stream.peek(&mut first)).await??;
        if known == 1 && first == [TLS_HANDSHAKE] {
            tls.accept(stream).await
        } else {
            Ok(stream)
        }
    }

    /// The pools of all Redis tenants.
    pub fn fleet(&self) -> &Fleet<Dialer> {
        &self.fleet
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    pub(super) fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    pub(super) fn meters(&self) -> &SessionMeters {
        self.admission.meters(Protocol::Redis)
    }

    pub(super) fn commands(&self) -> &Commands {
        &self.commands
    }

    /// What a client that has logged in may send.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            args_max: ARGUMENTS_MAX,
            arg_bytes_max: self.settings.argument_bytes_max,
            before_login: false,
        }
    }

    /// What the clients of a tenant share; a changed registration makes a new one.
    pub(super) fn station(&self, tenant: &Arc<Tenant>) -> Arc<Station> {
        let mut stations = self.stations.lock();
        if let Some(found) = stations.get(&tenant.id)
            && found.generation() >= tenant.generation
        {
            return Arc::clone(found);
        }
        // Stations without clients and trunks are forgotten when another comes.
        stations.retain(|_, one| Arc::strong_count(one) > 1 || one.has_trunks());
        let pool = self.fleet.pool(tenant);
        let station = Arc::new(Station::new(
            pool,
            tenant,
            &self.settings,
            self.shutdown.clone(),
            self.dialer.clone(),
        ));
        stations.insert(tenant.id, Arc::clone(&station));
        station
    }
}
