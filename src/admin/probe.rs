//! Connection tests: the caller's check of the address, the deadline, and the words of the result.

use std::{borrow::Cow, future::Future, pin::Pin};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{
    Admin,
    answer::{ApiError, Code},
    egress,
};
use crate::{
    net::{DialFault, DialStep},
    tenant::Target,
};

/// The future of a connection test: the server's version, or the step that failed.
pub type ProbeFuture<'a> = Pin<Box<dyn Future<Output = Result<String, DialFault>> + Send + 'a>>;

/// The future of looking up what a target's name stands for.
pub type ResolveFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Cow<'a, Target>, DialFault>> + Send + 'a>>;

/// Opens a connection to a database, logs in, sends a harmless command, and closes it.
pub trait Prober: Send + Sync {
    /// Tests a database.
    fn probe<'a>(&'a self, target: &'a Target) -> ProbeFuture<'a>;

    /// The hosts that will be dialled, where the target's name stands for others.
    fn resolve<'a>(&'a self, target: &'a Target) -> ResolveFuture<'a> {
        Box::pin(async move { Ok(Cow::Borrowed(target)) })
    }
}

/// A test that succeeded.
#[derive(Debug, Serialize)]
pub(super) struct Success {
    #[serde(rename = "success")]
    pub(super) passed: bool,
    pub(super) message: String,
    pub(super) latency_ms: f64,
    pub(super) server_version: String,
    pub(super) steps: Vec<Value>,
}

const STEPS: [DialStep; 5] = [
    DialStep::Name,
    DialStep::Connect,
    DialStep::Tls,
    DialStep::Login,
    DialStep::Ping,
];

impl Admin {
    /// Tests a database within the deadline, at an address that may be dialled.
    pub(super) async fn test(&self, target: &Target) -> Result<Success, ApiError> {
        let settings = &self.parts.settings;
        let began = Instant::now();
        let work = async {
            let hosts = self.parts.prober.resolve(target).await?;
            egress::check(&hosts, &settings.egress_allow).await?;
            self.parts
                .prober
                .probe(target)
                .await
                .map_err(ApiError::from)
        };
        let version = timeout(settings.test_wait_max, work).await.map_err(|_| {
            let wait = settings.test_wait_max.as_millis();
            let message = format!("the connection test took longer than {wait} ms");
            ApiError::new(Code::Timeout, message)
        })??;
        Ok(Success {
            passed: true,
            message: format!("connected to {} {version}", target.kind.label()),
            latency_ms: began.elapsed().as_secs_f64() * 1000.0,
            server_version: version,
            steps: STEPS
                .iter()
                .map(|step| json!({ "name": step.label(), "ok": true }))
                .collect(),
        })
    }
}

/// What the test routes say of a failure: 200 with `success: false`, as Studio's form shows it.
pub(super) fn failure(error: &ApiError) -> Value {
    let failed = error
        .details
        .get("step")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let passed = STEPS
        .iter()
        .map(|step| step.label())
        .take_while(|step| *step != failed);
    let mut steps: Vec<_> = passed
        .map(|step| json!({ "name": step, "ok": true }))
        .collect();
    steps.push(json!({ "name": failed, "ok": false }));
    json!({
        "success": false,
        "message": error.message,
        "error": error.body(),
        "steps": if failed.is_empty() { Vec::new() } else { steps },
    })
}
