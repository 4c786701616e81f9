//! The connection test: reach the server as a client would, and say which step failed.

use std::time::Duration;

use super::{
    AskFault, Upstream,
    dial::{Opener, database_of, login_fault},
};
use crate::{
    net::{DialFault, DialStep, tls::ClientTls},
    tenant::Target,
};

/// Connects, logs in, selects the database and pings; the server's version.
///
/// # Errors
/// Which step failed, why, and what to do.
pub async fn probe(
    target: &Target,
    tls: &ClientTls,
    wait_max: Duration,
) -> Result<String, DialFault> {
    let database = database_of(target)?;
    let opener = Opener::new(tls.clone(), wait_max);
    let mut upstream = opener.open_any(target).await?;
    let version = upstream.version;
    upstream
        .prepare(version, database)
        .await
        .map_err(|fault| login_fault(&fault))?;
    upstream
        .ask(&["PING"])
        .await
        .map_err(|fault| ping_fault(&fault))?;
    let known = upstream.server.to_string();
    Ok(if known.is_empty() {
        version_by_info(&mut upstream).await
    } else {
        known
    })
}

fn ping_fault(fault: &AskFault) -> DialFault {
    let hint = match fault {
        AskFault::Refused(text) if text.starts_with("LOADING") => {
            "the server is loading its data; try again in a while"
        }
        AskFault::Refused(text) if text.starts_with("NOAUTH") => {
            "the server wants a password: redis://:password@host"
        }
        _ => "the server accepts logins but does not serve commands; look at its log",
    };
    DialFault::new(DialStep::Ping, fault.to_string(), hint)
}

async fn version_by_info(upstream: &mut Upstream) -> String {
    let reply = upstream.ask(&["INFO", "server"]).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&reply).into_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"));
    line.unwrap_or("unknown").trim().to_owned()
}
