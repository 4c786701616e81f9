//! What `SHOW` answers, row by row.
//!
//! What is not known is NULL, never an invented zero. Averages are over the life of the gateway.

use humantime_serde::re::humantime::format_rfc3339_seconds;

use super::{Operator, PoolView, command::Subject};
use crate::{protocol::Protocol, session::ClientFigures, tenant::PoolMode};

/// Rows of texts.
pub(super) type Table = Vec<Vec<Option<String>>>;

/// The rows.
pub(super) fn show(subject: Subject, operator: &dyn Operator) -> Table {
    let mut pools = operator.pools();
    pools.sort_by(|one, other| one.tenant.slug.cmp(&other.tenant.slug));
    let clients = operator.clients();
    match subject {
        Subject::Pools => pools.iter().map(|pool| pool_row(pool, &clients)).collect(),
        Subject::Clients => clients.iter().map(client_row).collect(),
        Subject::Servers => pools.iter().flat_map(server_rows).collect(),
        Subject::Databases => by_database(&pools).map(database_row).collect(),
        Subject::Stats | Subject::StatsTotals | Subject::StatsAverages => {
            let seconds = operator.uptime().as_secs().max(1);
            let row = |pools| stats_row(subject, &totals(pools, &clients), seconds);
            by_database(&pools).map(row).collect()
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

/// The pools of each database, one or more; they lie beside each other.
fn by_database(pools: &[PoolView]) -> impl Iterator<Item = &[PoolView]> {
    pools.chunk_by(|one, other| one.tenant.id == other.tenant.id)
}

/// Host and port of a pool's server; of several where it may be any of them.
fn server_of(pool: &PoolView) -> [Option<String>; 2] {
    match pool.stats.server.as_deref() {
        None => hosts(pool),
        Some(server) => match server.rsplit_once(':') {
            Some((host, port)) => [text(host.trim_matches(['[', ']'])), text(port)],
            // One beside the others leads to whichever takes writes.
            None => [None, None],
        },
    }
}

/// Hosts and ports of a database, as a connection string lists them.
fn hosts(pool: &PoolView) -> [Option<String>; 2] {
    let endpoints = &pool.tenant.target.endpoints;
    let hosts: Vec<_> = endpoints.iter().map(|end| end.host.clone()).collect();
    let ports: Vec<_> = endpoints.iter().map(|end| end.port.to_string()).collect();
    [Some(hosts.join(",")), Some(ports.join(","))]
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
    // Which of several servers an idle client is going to be served by, nobody knows.
    let active = match stats.server {
        None => of_pool(pool, clients).count().saturating_sub(stats.waiting),
        Some(_) => stats.leased,
    };
    let [host, port] = server_of(pool);
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
        host,
        port,
        pool.role.and_then(text),
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
    let [host, port] = server_of(pool);
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
            host.clone(),
            port.clone(),
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

fn database_row(pools: &[PoolView]) -> Vec<Option<String>> {
    let Some(pool) = pools.first() else {
        return Vec::new();
    };
    let tenant = &pool.tenant;
    let [host, port] = hosts(pool);
    let all = || pools.iter().map(|pool| &pool.stats);
    let current = all().map(|stats| stats.idle + stats.leased + stats.dialing + stats.resetting);
    let current: usize = current.sum();
    let max = all().map(|stats| stats.max).max();
    vec![
        text(&tenant.slug),
        host,
        port,
        tenant.target.database.clone(),
        user(pool),
        max.and_then(number),
        number(tenant.limits.idle_min),
        flag(false),
        text(mode(pool)),
        max.and_then(number),
        number(current),
        flag(all().any(|stats| stats.paused)),
        flag(false),
        text(&tenant.project),
        text(tenant.protocol.label()),
    ]
}

/// What a database's clients did since the gateway runs.
#[derive(Default)]
struct Totals {
    slug: String,
    protocol: Option<Protocol>,
    leases: u64,
    exchanges: u64,
    read: u64,
    written: u64,
}

fn totals(pools: &[PoolView], clients: &[ClientFigures]) -> Totals {
    let Some(pool) = pools.first() else {
        return Totals::default();
    };
    let sum = |count: fn(&ClientFigures) -> u64| of_pool(pool, clients).map(count).sum::<u64>();
    Totals {
        slug: pool.tenant.slug.clone(),
        protocol: Some(pool.tenant.protocol),
        leases: pools.iter().map(|pool| pool.stats.leases).sum(),
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
    row.push(totals.protocol.map(Protocol::label).and_then(text));
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
        ("databases", Some(by_database(pools).count())),
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
