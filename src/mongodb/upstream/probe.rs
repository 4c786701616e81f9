//! The connection test: every step of reaching a database, and its version.

use std::time::Duration;

use bson::rawdoc;
use tokio::time::timeout;

use super::{Names, converse::converse, seeds::open};
use crate::{
    net::{DialFault, DialStep, tls::ClientTls},
    tenant::Target,
};

/// Connects, logs in and asks the server for its version. Each step may take `wait_max`.
///
/// # Errors
/// The step that failed, why, and what to do.
pub async fn probe(
    target: &Target,
    tls: &ClientTls,
    names: &Names,
    wait_max: Duration,
) -> Result<String, DialFault> {
    let target = names.resolve(target).await?;
    let mut upstream = open(&target, tls, None, wait_max).await?.upstream;
    let fault = |cause: String| {
        DialFault::new(
            DialStep::Ping,
            cause,
            "the login went well, but the server does not answer commands; look at its log",
        )
    };
    let command = rawdoc! { "buildInfo": 1, "$db": "admin" };
    let asked = converse(&mut upstream.stream, &mut upstream.intake, &command);
    let answer = timeout(wait_max, asked)
        .await
        .map_err(|_| fault("no answer to buildInfo".into()))?
        .map_err(|error| fault(error.to_string()))?;
    answer
        .field("version")
        .and_then(|field| field.text().map(str::to_owned))
        .ok_or_else(|| fault("the answer to buildInfo has no version".into()))
}
