//! Every metric: its name, unit and labels. Labels come from closed sets only; no tenant label.

/// Clients connected. Labels: protocol.
pub const CLIENTS: &str = "polypool_clients";
/// Sessions that ended. Labels: protocol, end.
pub const SESSIONS: &str = "polypool_sessions_total";
/// Logins. Labels: protocol, outcome.
pub const LOGINS: &str = "polypool_logins_total";
/// Exchanges served. Labels: protocol.
pub const EXCHANGES: &str = "polypool_exchanges_total";
/// Exchanges held open by session state. Labels: protocol, reason.
pub const PINS: &str = "polypool_pins_total";
/// Faults. Labels: protocol, kind, side.
pub const FAULTS: &str = "polypool_faults_total";
/// Bytes moved. Labels: protocol, side (client, upstream), direction (in, out).
pub const WIRE_BYTES: &str = "polypool_wire_bytes_total";
/// Checkouts. Labels: protocol, outcome.
pub const LEASES: &str = "polypool_leases_total";
/// Seconds that checkouts took. Labels: protocol.
pub const LEASE_WAIT: &str = "polypool_lease_wait_seconds";
/// Upstreams. Labels: protocol, state (idle, leased, dialing, resetting).
pub const UPSTREAMS: &str = "polypool_upstreams";
/// Upstreams opened. Labels: protocol, reason.
pub const OPENED: &str = "polypool_upstreams_opened_total";
/// Upstreams closed. Labels: protocol, reason.
pub const CLOSED: &str = "polypool_upstreams_closed_total";
/// Dials that failed. Labels: protocol, step.
pub const DIAL_FAILED: &str = "polypool_dials_failed_total";
/// Connections that only watch members of replica sets, outside of every pool's bound. Labels: protocol.
pub const MONITORS: &str = "polypool_monitors";
/// Pools. Labels: protocol.
pub const POOLS: &str = "polypool_pools";
/// Always 1. Labels: version.
pub const BUILD: &str = "polypool_build_info";
