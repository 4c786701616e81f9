//! The connection test: of one server whether it answers, of several whether they belong together as well.

use std::time::Duration;

use tokio::time::timeout;

use super::dial::log_in;
use crate::{
    net::{DialFault, DialStep, tls::ClientTls},
    pool,
    postgres::{rank::Rank, wire},
    tenant::{Endpoint, SessionAttrs, Target},
};

/// Tests a connection: opens it, logs in, runs a statement; the server's version.
///
/// # Errors
/// The step that failed, why, and what to do.
pub async fn probe(
    target: &Target,
    client_tls: &ClientTls,
    wait_max: Duration,
) -> Result<String, DialFault> {
    let client_tls = client_tls.speaking(wire::APPLICATION_PROTOCOL);
    let test = async {
        if !target.is_choosy() {
            let endpoints: Vec<_> = target.endpoints.iter().collect();
            return examine(target, &endpoints, &client_tls)
                .await
                .map(|(version, _)| version);
        }
        // One that is silent leaves time for the others.
        let share = wait_max
            / u32::try_from(target.endpoints.len())
                .unwrap_or(u32::MAX)
                .max(1);
        let mut findings = Vec::new();
        for endpoint in &target.endpoints {
            let examined = timeout(share, examine(target, &[endpoint], &client_tls)).await;
            findings.push((
                endpoint,
                examined.unwrap_or_else(|_| Err(late(DialStep::Connect))),
            ));
        }
        judge(target, findings)
    };
    timeout(wait_max, test)
        .await
        .unwrap_or_else(|_| Err(late(DialStep::Login)))
}

fn late(step: DialStep) -> DialFault {
    let hint = match step {
        DialStep::Login => "the host is reached, but the server does not answer in time",
        DialStep::Name | DialStep::Connect | DialStep::Tls | DialStep::Ping => {
            "check the address, and that nothing between here and there drops packets"
        }
    };
    DialFault::new(step, "no answer in time", hint)
}

/// One that answers: its version, and what it is where that matters.
async fn examine(
    target: &Target,
    endpoints: &[&Endpoint],
    client_tls: &ClientTls,
) -> Result<(String, Option<Rank>), DialFault> {
    let (mut upstream, _) = log_in(target, endpoints, client_tls, None).await?;
    let asked = if target.is_choosy() {
        upstream.ask_rank().await
    } else {
        upstream.run("SELECT 1").await.map(|()| None)
    };
    let rank = asked.map_err(|failed| {
        let hint = "the server takes logins but no statements; look at its log";
        DialFault::new(DialStep::Ping, failed.cause(), hint)
    })?;
    let version = upstream
        .reported
        .get("server_version")
        .cloned()
        .unwrap_or_default();
    pool::Upstream::close(upstream).await;
    Ok((version, rank))
}

type Finding<'a> = (&'a Endpoint, Result<(String, Option<Rank>), DialFault>);

/// Whether the servers are what the connection string says: one primary at most, and one that fits.
///
/// A standby that is down is no fault of the registration's, one that refuses the login is.
fn judge(target: &Target, findings: Vec<Finding>) -> Result<String, DialFault> {
    let attrs = target.attrs().unwrap_or(SessionAttrs::Primary);
    let (mut fits, mut first_fault, mut primary) = (None, None, None);
    for (endpoint, finding) in findings {
        let (version, rank) = match finding {
            Ok(found) => found,
            Err(fault) => {
                let is_down = matches!(fault.step, DialStep::Name | DialStep::Connect);
                let cause = format!("{endpoint}: {}", fault.cause);
                let fault = DialFault { cause, ..fault };
                if !is_down {
                    return Err(fault);
                }
                first_fault.get_or_insert(fault);
                continue;
            }
        };
        let writes = rank.is_some_and(|rank| rank.fits(SessionAttrs::Primary));
        let other = if writes {
            primary.replace(endpoint)
        } else {
            None
        };
        if let Some(other) = other.filter(|_| attrs != SessionAttrs::Any) {
            let cause = format!("{other} and {endpoint} are both primaries");
            let hint = "name one primary and its standbys, or say target_session_attrs=any";
            return Err(DialFault::new(DialStep::Ping, cause, hint));
        }
        if rank.is_some_and(|rank| rank.fits(attrs)) {
            fits.get_or_insert(version);
        }
    }
    match (fits, first_fault) {
        (Some(version), _) => Ok(version),
        (None, Some(fault)) => Err(fault),
        (None, None) => {
            let cause = format!("no server fits target_session_attrs={}", attrs.label());
            let hint = "check the hosts, and what target_session_attrs asks for";
            Err(DialFault::new(DialStep::Ping, cause, hint))
        }
    }
}
