//! Typed handles on metrics, and the exporter that renders them.
#![expect(
    clippy::disallowed_macros,
    reason = "the one place that speaks to the metrics crate"
)]

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::names;
use crate::{
    fault::{FaultKind, Side},
    protocol::Protocol,
};

/// Upper bounds in seconds of the wait histogram.
const WAIT_BUCKETS: [f64; 9] = [0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];

/// How often records are folded into their histograms.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

/// Renders the metrics in Prometheus' text format.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

impl Exporter {
    /// Installs the recorder; to be called once, before any meter is made.
    ///
    /// # Errors
    /// When a recorder is installed already.
    pub fn install() -> Result<Self, BuildError> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(names::LEASE_WAIT.to_owned()), &WAIT_BUCKETS)?
            .install_recorder()?;
        gauge!(names::BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self(handle))
    }

    /// Folds what was recorded into the histograms, for as long as it is polled.
    ///
    /// Records are kept one by one until then, and nobody may ever ask for the text.
    pub async fn keep_up(self) {
        let mut ticks = tokio::time::interval(UPKEEP_EVERY);
        loop {
            ticks.tick().await;
            self.0.run_upkeep();
        }
    }

    /// The text of this moment.
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

/// What a fleet counts.
pub struct PoolMeters {
    protocol: Protocol,
    granted: Counter,
    wait: Histogram,
}

impl PoolMeters {
    /// The handles of one protocol.
    pub fn new(protocol: Protocol) -> Self {
        let label = protocol.label();
        Self {
            protocol,
            granted: counter!(names::LEASES, "protocol" => label, "outcome" => "granted"),
            wait: histogram!(names::LEASE_WAIT, "protocol" => label),
        }
    }

    /// A checkout ended, well (`None`) or with the label of its error.
    pub fn leased(&self, refused: Option<&'static str>, waited: Duration) {
        match refused {
            None => {
                self.granted.increment(1);
                self.wait.record(waited.as_secs_f64());
            }
            Some(outcome) => {
                counter!(names::LEASES, "protocol" => self.protocol.label(), "outcome" => outcome)
                    .increment(1);
            }
        }
    }

    /// An upstream was opened.
    pub fn opened(&self, reason: &'static str) {
        counter!(names::OPENED, "protocol" => self.protocol.label(), "reason" => reason)
            .increment(1);
    }

    /// An upstream was closed.
    pub fn closed(&self, reason: &'static str) {
        counter!(names::CLOSED, "protocol" => self.protocol.label(), "reason" => reason)
            .increment(1);
    }

    /// A dial failed at a step.
    pub fn dial_failed(&self, step: &'static str) {
        counter!(names::DIAL_FAILED, "protocol" => self.protocol.label(), "step" => step)
            .increment(1);
    }

    /// The counts of all pools of a protocol, set before each rendering.
    pub fn set_upstreams(protocol: Protocol, pools: usize, states: [(&'static str, usize); 4]) {
        let label = protocol.label();
        gauge!(names::POOLS, "protocol" => label).set(small(pools));
        for (state, count) in states {
            gauge!(names::UPSTREAMS, "protocol" => label, "state" => state).set(small(count));
        }
    }
}

/// One connection that only watches a server; it counts for as long as this lives.
#[derive(Debug)]
pub struct MonitorMeter(Gauge);

impl MonitorMeter {
    /// Another one.
    pub fn opened(protocol: Protocol) -> Self {
        let gauge = gauge!(names::MONITORS, "protocol" => protocol.label());
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for MonitorMeter {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// How a login ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginOutcome {
    /// Admitted.
    Admitted,
    /// Unknown name or wrong password.
    Rejected,
    /// Too many failures before.
    Throttled,
    /// Proven, but not let in: a limit, a pause, an ambiguous name.
    Refused,
}

impl LoginOutcome {
    const fn label(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Rejected => "rejected",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
        }
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The client said goodbye or closed between exchanges.
    Goodbye,
    /// The client vanished in the middle of something.
    Vanished,
    /// The login was not accepted.
    LoginFailed,
    /// The client broke the protocol.
    Malformed,
    /// The upstream was lost and the session could not go on.
    UpstreamLost,
    /// A limit was exceeded.
    Limit,
    /// The client did not read, and its output reached its bound.
    SlowReader,
    /// An operator or a colleague ended it.
    Killed,
    /// The gateway is shutting down.
    Draining,
}

impl SessionEnd {
    /// The metric label and log field.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Goodbye => "goodbye",
            Self::Vanished => "vanished",
            Self::LoginFailed => "login_failed",
            Self::Malformed => "malformed",
            Self::UpstreamLost => "upstream_lost",
            Self::Limit => "limit",
            Self::SlowReader => "slow_reader",
            Self::Killed => "killed",
            Self::Draining => "draining",
        }
    }
}

/// What the sessions of one protocol count.
pub struct SessionMeters {
    protocol: Protocol,
    clients: Gauge,
    exchanges: Counter,
    bytes: [Counter; 4],
}

impl SessionMeters {
    /// The handles of one protocol.
    pub fn new(protocol: Protocol) -> Self {
        let label = protocol.label();
        let bytes = |side: &'static str, direction: &'static str| counter!(names::WIRE_BYTES, "protocol" => label, "side" => side, "direction" => direction);
        Self {
            protocol,
            clients: gauge!(names::CLIENTS, "protocol" => label),
            exchanges: counter!(names::EXCHANGES, "protocol" => label),
            bytes: [
                bytes("client", "in"),
                bytes("client", "out"),
                bytes("upstream", "in"),
                bytes("upstream", "out"),
            ],
        }
    }

    /// A client connected.
    pub fn opened(&self) {
        self.clients.increment(1.0);
    }

    /// A session ended.
    pub fn ended(&self, end: SessionEnd) {
        self.clients.decrement(1.0);
        counter!(names::SESSIONS, "protocol" => self.protocol.label(), "end" => end.label())
            .increment(1);
    }

    /// A login ended.
    pub fn login(&self, outcome: LoginOutcome) {
        counter!(names::LOGINS, "protocol" => self.protocol.label(), "outcome" => outcome.label())
            .increment(1);
    }

    /// Exchanges were served.
    pub fn exchanges(&self, count: u64) {
        self.exchanges.increment(count);
    }

    /// Bytes moved on a side: from there to us, and from us to there.
    pub fn bytes(&self, side: Side, read: u64, written: u64) {
        let [client_in, client_out, upstream_in, upstream_out] = &self.bytes;
        match side {
            Side::Client | Side::Gateway => {
                client_in.increment(read);
                client_out.increment(written);
            }
            Side::Upstream => {
                upstream_in.increment(read);
                upstream_out.increment(written);
            }
        }
    }

    /// Session state pinned an upstream.
    pub fn pinned(&self, reason: &'static str) {
        counter!(names::PINS, "protocol" => self.protocol.label(), "reason" => reason).increment(1);
    }

    /// Something went wrong.
    pub fn fault(&self, kind: FaultKind, side: Side) {
        counter!(
            names::FAULTS,
            "protocol" => self.protocol.label(),
            "kind" => kind.label(),
            "side" => side.label()
        )
        .increment(1);
    }
}

/// Gauges are floats; counts of connections are far below the 2^53 where that would matter.
fn small(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
