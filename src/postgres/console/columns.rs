//! The columns of what `SHOW` answers: PgBouncer's by their names, then ours.

use super::command::{Command, Subject};

const POOLS: &[&str] = &[
    "database",
    "user",
    "cl_active",
    "cl_waiting",
    "cl_active_cancel_req",
    "cl_waiting_cancel_req",
    "sv_active",
    "sv_active_cancel",
    "sv_being_canceled",
    "sv_idle",
    "sv_used",
    "sv_tested",
    "sv_login",
    "maxwait",
    "maxwait_us",
    "pool_mode",
    "paused",
    "fault",
    "protocol",
    "host",
    "port",
    "role",
];
const SOCKETS: &[&str] = &[
    "type",
    "user",
    "database",
    "state",
    "addr",
    "port",
    "local_addr",
    "local_port",
    "connect_time",
    "request_time",
    "wait",
    "wait_us",
    "close_needed",
    "ptr",
    "link",
    "remote_pid",
    "tls",
    "application_name",
    "prepared_statements",
    "id",
    "protocol",
];
const DATABASES: &[&str] = &[
    "name",
    "host",
    "port",
    "database",
    "force_user",
    "pool_size",
    "min_pool_size",
    "reserve_pool",
    "pool_mode",
    "max_connections",
    "current_connections",
    "paused",
    "disabled",
    "project",
    "protocol",
];
const STATS: &[&str] = &[
    "database",
    "total_xact_count",
    "total_query_count",
    "total_received",
    "total_sent",
    "total_xact_time",
    "total_query_time",
    "total_wait_time",
    "avg_xact_count",
    "avg_query_count",
    "avg_recv",
    "avg_sent",
    "avg_xact_time",
    "avg_query_time",
    "avg_wait_time",
    "protocol",
];
const STATS_PART: &[&str] = &[
    "database",
    "xact_count",
    "query_count",
    "bytes_received",
    "bytes_sent",
    "xact_time",
    "query_time",
    "wait_time",
    "protocol",
];

/// The columns of a command's answer, if it has rows.
pub(super) fn columns(command: &Command) -> Option<&'static [&'static str]> {
    let Command::Show(subject) = command else {
        return None;
    };
    Some(match subject {
        Subject::Pools => POOLS,
        Subject::Clients | Subject::Servers => SOCKETS,
        Subject::Databases => DATABASES,
        Subject::Stats => STATS,
        Subject::StatsTotals | Subject::StatsAverages => STATS_PART,
        Subject::Config => &["key", "value", "default", "changeable"],
        Subject::Version => &["version"],
        Subject::Lists => &["list", "items"],
        Subject::Help => &["command"],
    })
}
