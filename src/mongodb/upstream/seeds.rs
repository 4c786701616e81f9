//! From a target to the server of it that takes writes: seeds, and members' word on who is primary.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    handshake::{GreetError, Opened, Wanted, greet},
    login::Login,
};
use crate::{
    auth::scram::Salted,
    net::{
        Address, DialFault, DialStep, Stream,
        tls::{ClientTls, UpstreamFiles, Verify},
    },
    tenant::{Endpoint, Target, TlsMode},
};

/// How often a member's word on who is primary is followed.
const FOLLOWED_MAX: u32 = 3;
/// Why no server of a target was opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// Its servers are members of a set that has no primary at the moment.
    NoPrimary(DialFault),
    /// Anything else.
    Fault(DialFault),
}

impl From<OpenError> for DialFault {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NoPrimary(fault) | OpenError::Fault(fault) => fault,
        }
    }
}

/// Opens a connection to the first server of the target that takes writes.
pub(super) async fn open(
    target: &Target,
    tls: &ClientTls,
    known: Option<&Salted>,
    wait_max: Duration,
) -> Result<Opened, OpenError> {
    let mut candidates: Vec<Endpoint> = target.endpoints.iter().rev().cloned().collect();
    let mut followed = 0;
    let mut last = None;
    while let Some(endpoint) = candidates.pop() {
        let opened = open_at(target, &endpoint, tls, (known, wait_max), Wanted::Writable);
        match opened.await {
            Ok(opened) => return Ok(opened),
            Err(GreetError::NotPrimary { primary }) => {
                last = Some(OpenError::NoPrimary(no_primary()));
                // A member knows who is primary, also when that is none of the seeds.
                if let Some(primary) = primary.filter(|_| followed < FOLLOWED_MAX) {
                    followed += 1;
                    candidates.retain(|candidate| *candidate != primary);
                    candidates.push(primary);
                }
            }
            // That a member has no primary says more than that another cannot be reached.
            Err(GreetError::Fault(_)) if matches!(last, Some(OpenError::NoPrimary(_))) => {}
            Err(GreetError::Fault(fault)) => last = Some(OpenError::Fault(fault)),
        }
    }
    Err(last.unwrap_or_else(|| {
        OpenError::Fault(DialFault::new(
            DialStep::Name,
            "the target names no host",
            "give a host",
        ))
    }))
}

fn no_primary() -> DialFault {
    DialFault::new(
        DialStep::Login,
        "no member of the replica set is primary",
        "wait for the election to end, or register every member of the set as a seed",
    )
}

/// Opens a connection to that one of the target's servers.
pub(super) async fn open_server(
    target: &Target,
    endpoint: &Endpoint,
    tls: &ClientTls,
    (known, wait_max): (Option<&Salted>, Duration),
) -> Result<Opened, DialFault> {
    let opened = open_at(target, endpoint, tls, (known, wait_max), Wanted::Anyone);
    opened.await.map_err(|error| match error {
        GreetError::Fault(fault) => fault,
        GreetError::NotPrimary { .. } => no_primary(),
    })
}

async fn open_at(
    target: &Target,
    endpoint: &Endpoint,
    tls: &ClientTls,
    (known, wait_max): (Option<&Salted>, Duration),
    wanted: Wanted,
) -> Result<Opened, GreetError> {
    let login = Login::of(target)?;
    let stream = connect(target, endpoint, tls, wait_max).await?;
    let greeting = greet(stream, target, login, known, wanted);
    match timeout(wait_max, greeting).await {
        Ok(outcome) => outcome,
        Err(_) => Err(GreetError::Fault(DialFault::new(
            DialStep::Login,
            format!(
                "no answer to the greeting within {} ms",
                wait_max.as_millis()
            ),
            "check that a MongoDB server listens there, and whether it wants TLS (tls=true)",
        ))),
    }
}

/// A connection under the target's TLS, on which nothing was said yet.
pub(crate) async fn connect(
    target: &Target,
    endpoint: &Endpoint,
    tls: &ClientTls,
    wait_max: Duration,
) -> Result<Stream, DialFault> {
    let address = Address {
        host: &endpoint.host,
        port: endpoint.port,
    };
    let stream = crate::net::dial(address, wait_max).await?;
    let verify = match target.tls {
        TlsMode::Disable => return Ok(stream),
        TlsMode::Prefer | TlsMode::Require => Verify::Nothing,
        TlsMode::VerifyCa => Verify::Chain,
        TlsMode::VerifyFull => Verify::ChainAndName,
    };
    let tls = certified(target, tls)?;
    tls.upgrade(stream, &endpoint.host, verify).await
}

/// With the files that the connection string names: a certificate and its key in one, as drivers have it, and whom to
/// trust.
fn certified(target: &Target, tls: &ClientTls) -> Result<ClientTls, DialFault> {
    let option = |name: &str| target.options.get(name).map(String::as_str);
    let own = option("tlscertificatekeyfile");
    let files = UpstreamFiles {
        identity: own.map(|name| (name, name)),
        roots: option("tlscafile"),
    };
    tls.with_files(files).map_err(|error| {
        let hint = "put the files into tls.upstream_folder and name them without a path";
        DialFault::new(DialStep::Tls, error.to_string(), hint)
    })
}
