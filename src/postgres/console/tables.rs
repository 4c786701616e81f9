//! What `SHOW` answers: PgBouncer's columns by their names, then ours.
//!
//! What is not known is NULL, never an invented zero. Averages are over the life of the gateway.

use humantime_serde::re::humantime::format_rfc3339_seconds;

use super::{
    Operator, PoolView,
    command::{Command, Subject},
};
use crate::{protocol::Protocol, session::ClientFigures, tenant::PoolMode};

/// Rows of texts.
pub(super) type Table = Vec<Vec<Option<String>>>;

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

/// The rows.
pub(super) fn show(subject: Subject, operator: &dyn Operator) -> Table {
    let mut pools = operator.pools();
    pools.sort_by(|one, other| one.tenant.slug.cmp(&other.tenant.slug));
    let clients = operator.clients();
    match subject {
        Subject::Pools => pools.iter().map(|pool| pool_row(pool, &clients)).collect(),
        Subject::Clients => clients.iter().map(client_row).collect(),
        Subject::Servers => pools.iter().flat_map(server_rows).collect(),
        Subject::Databases => pools.iter().map(database_row).collect(),
        Subject::Stats | Subject::StatsTotals | Subject::StatsAverages => {
            let seconds = operator.uptime().as_secs().max(1);
            let row = |pool| stats_row(subject, &totals(pool, &clients), seconds);
            pools.iter().map(row).collect()
        }
        Subject::Config => {
            let settings = operator.settings().into_iter();
            let row = |[key, value, default]: [String; 3]| {
                vec![Some(key), Some(value), Some(default), text("no")]
            };
            settings.map(row).collect()
        }
        Subject::Version => vec![vec![text(&format!(
            "polypool {}",
            env!("CARGO_PKG_VERSION")
        ))]],
        Subject::Lists => lists(&pools, &clients),
        Subject::Help => {
            let mut rows: Table = Subject::ALL
                .iter()
                .map(|(name, _)| vec![Some(format!("SHOW {name}"))])
                .collect();
            for verb in [
                "PAUSE [database]",
                "RESUME [database]",
                "RECONNECT [database]",
                "KILL [database]",
                "KILL_CLIENT id",
                "RELOAD",
            ] {
                rows.push(vec![text(verb)]);
            }
            rows
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a cell")]
fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[expect(clippy::unnecessary_wraps, reason = "a cell")]
fn number(number: impl TryInto<u64>) -> Option<String> {
    Some(number.try_into().unwrap_or(u64::MAX).to_string())
}

fn flag(flag: bool) -> Option<String> {
    number(u64::from(flag))
}

fn mode(pool: &PoolView) -> &'static str {
    match pool.tenant.limits.pool_mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
        PoolMode::Statement => "statement",
    }
}

fn user(pool: &PoolView) -> Option<String> {
    text(pool.tenant.target.user.as_deref().unwrap_or_default())
}

fn of_pool<'a>(
    pool: &'a PoolView,
    clients: &'a [ClientFigures],
) -> impl Iterator<Item = &'a ClientFigures> {
    clients
        .iter()
        .filter(|client| client.tenant == pool.tenant.id)
}

fn pool_row(pool: &PoolView, clients: &[ClientFigures]) -> Vec<Option<String>> {
    let stats = &pool.stats;
    let active = of_pool(pool, clients).count().saturating_sub(stats.waiting);
    vec![
        text(&pool.tenant.slug),
        user(pool),
        number(active),
        number(stats.waiting),
        None,
        None,
        number(stats.leased),
        None,
        None,
        number(stats.idle),
        flag(false),
        number(stats.resetting),
        number(stats.dialing),
        None,
        None,
        text(mode(pool)),
        flag(stats.paused),
        stats.fault.clone(),
        text(pool.tenant.protocol.label()),
    ]
}

fn client_row(client: &ClientFigures) -> Vec<Option<String>> {
    let since = format_rfc3339_seconds(client.since).to_string();
    let since = since.replace('T', " ").replace('Z', " UTC");
    vec![
        text("C"),
        text(&client.user),
        text(&client.slug),
        client.standing.label().and_then(text),
        text(&client.peer.ip().to_string()),
        number(client.peer.port()),
        None,
        None,
        Some(since),
        None,
        None,
        None,
        flag(false),
        None,
        None,
        flag(false),
        None,
        text(&client.label),
        None,
        number(client.id),
        text(client.protocol.label()),
    ]
}

/// Single upstreams have no names here: a row for each that is counted.
fn server_rows(pool: &PoolView) -> Vec<Vec<Option<String>>> {
    let counts = &pool.stats;
    let endpoint = pool.tenant.target.endpoint();
    let states = [
        ("active", counts.leased),
        ("idle", counts.idle),
        ("login", counts.dialing),
        ("tested", counts.resetting),
    ];
    let row = |state: &str| {
        vec![
            text("S"),
            user(pool),
            text(&pool.tenant.slug),
            text(state),
            endpoint.map(|end| end.host.clone()),
            endpoint.and_then(|end| number(end.port)),
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            text(pool.tenant.protocol.label()),
        ]
    };
    states
        .into_iter()
        .flat_map(|(state, count)| std::iter::repeat_n(state, count).map(row))
        .collect()
}

fn database_row(pool: &PoolView) -> Vec<Option<String>> {
    let (tenant, stats) = (&pool.tenant, &pool.stats);
    let endpoint = tenant.target.endpoint();
    let current = stats.idle + stats.leased + stats.dialing + stats.resetting;
    vec![
        text(&tenant.slug),
        endpoint.map(|end| end.host.clone()),
        endpoint.and_then(|end| number(end.port)),
        tenant.target.database.clone(),
        user(pool),
        number(stats.max),
        number(tenant.limits.idle_min),
        flag(false),
        text(mode(pool)),
        number(stats.max),
        number(current),
        flag(stats.paused),
        flag(false),
        text(&tenant.project),
        text(tenant.protocol.label()),
    ]
}

/// What a pool's clients did since the gateway runs.
struct Totals {
    slug: String,
    protocol: Protocol,
    leases: u64,
    exchanges: u64,
    read: u64,
    written: u64,
}

fn totals(pool: &PoolView, clients: &[ClientFigures]) -> Totals {
    let sum = |count: fn(&ClientFigures) -> u64| of_pool(pool, clients).map(count).sum::<u64>();
    Totals {
        slug: pool.tenant.slug.clone(),
        protocol: pool.tenant.protocol,
        leases: pool.stats.leases,
        exchanges: pool.departed.exchanges + sum(|client| client.exchanges),
        read: pool.departed.read_bytes + sum(|client| client.read_bytes),
        written: pool.departed.written_bytes + sum(|client| client.written_bytes),
    }
}

fn stats_row(subject: Subject, totals: &Totals, seconds: u64) -> Vec<Option<String>> {
    let counts = [totals.leases, totals.exchanges, totals.read, totals.written];
    let total = counts.map(number);
    let average = counts.map(|count| number(count / seconds));
    let times = || [None, None, None];
    let mut row = vec![text(&totals.slug)];
    match subject {
        Subject::StatsTotals => row.extend(total.into_iter().chain(times())),
        Subject::StatsAverages => row.extend(average.into_iter().chain(times())),
        _ => row.extend(
            total
                .into_iter()
                .chain(times())
                .chain(average)
                .chain(times()),
        ),
    }
    row.push(text(totals.protocol.label()));
    row
}

fn lists(pools: &[PoolView], clients: &[ClientFigures]) -> Table {
    let sum = |count: fn(&PoolView) -> usize| pools.iter().map(count).sum::<usize>();
    let mut users: Vec<_> = clients
        .iter()
        .map(|client| (&client.user, client.tenant))
        .collect();
    users.sort_by(|one, other| (one.0, one.1.0).cmp(&(other.0, other.1.0)));
    users.dedup();
    let rows = [
        ("databases", Some(pools.len())),
        ("users", Some(users.len())),
        ("pools", Some(pools.len())),
        ("free_clients", None),
        ("used_clients", Some(clients.len())),
        ("login_clients", None),
        ("free_servers", Some(sum(|pool| pool.stats.idle))),
        ("used_servers", Some(sum(|pool| pool.stats.leased))),
        ("dns_names", None),
        ("dns_zones", None),
        ("dns_queries", None),
        ("dns_pending", None),
    ];
    rows.into_iter()
        .map(|(name, count)| vec![text(name), count.and_then(number)])
        .collect()
}
