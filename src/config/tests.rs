//! The reference file, the faults, and the environment.

use std::{collections::BTreeMap, path::Path};

use super::*;

const REFERENCE: &str = include_str!("../../config/polypool.toml");

fn fault(text: &str) -> String {
    file::parse(Path::new("p.toml"), text)
        .unwrap_err()
        .to_string()
}

fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigFault> {
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    Config::read(None, |name| {
        variables.get(name).map(|text| (*text).to_owned())
    })
}

/// Every key with its section, in order.
fn keys(table: &toml::Table, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => found.extend(keys(inner, &format!("{prefix}{key}."))),
            _ => found.push(format!("{prefix}{key}")),
        }
    }
    found.sort();
    found
}

#[test]
fn reference_file_is_the_default_and_has_every_key() {
    let read = file::parse(Path::new("config/polypool.toml"), REFERENCE).unwrap();
    assert_eq!(read, Config::default());
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    assert_eq!(keys(&REFERENCE.parse().unwrap(), ""), keys(&defaults, ""));
    for (number, line) in REFERENCE.lines().enumerate() {
        let is_key = line.contains('=') && !line.starts_with('#');
        let explained = REFERENCE
            .lines()
            .nth(number.wrapping_sub(1))
            .unwrap_or_default();
        assert!(
            !is_key || explained.starts_with("# "),
            "no comment over '{line}'"
        );
    }
}

#[test]
fn faults_name_the_key_the_line_and_the_nearest_known() {
    let unknown = fault("[listen]\npostgres = \"127.0.0.1:1\"\nredi = \"127.0.0.1:2\"\n");
    assert_eq!(
        unknown,
        "p.toml:3: listen.redi: there is no 'redi' here; did you mean 'redis'?"
    );
    let section = fault("[listn]\n");
    assert_eq!(
        section,
        "p.toml:1: listn: there is no 'listn' here; did you mean 'listen'?"
    );
    let kind = fault("\n[limits.redis]\nupstream_max = \"ten\"\n");
    assert!(
        kind.starts_with("p.toml:3: limits.redis.upstream_max: invalid type"),
        "{kind}"
    );
    let duration = fault("[shutdown]\n\ngrace = \"soon\"\n");
    assert!(
        duration.starts_with("p.toml:3: shutdown.grace: "),
        "{duration}"
    );
    let zero = fault("[pool]\n[limits.redis]\n# x\nupstream_max = 0\n");
    assert_eq!(
        zero,
        "p.toml:4: limits.redis.upstream_max: must be at least 1"
    );
    let half = fault("[tls]\ncertificate = \"c.pem\"\n");
    assert!(
        half.starts_with("p.toml:2: tls.certificate: needs tls.key"),
        "{half}"
    );
    assert!(fault("[listen\n").starts_with("p.toml:1: "));
}

#[test]
fn one_limit_leaves_the_others_of_its_type() {
    let read = file::parse(Path::new("p.toml"), "[limits.postgres]\nqueue_max = 7\n").unwrap();
    assert_eq!(read.limits.postgres.queue_max, 7);
    assert_eq!(read.limits.postgres.upstream_max, 20);
}

#[test]
fn environment_goes_before_the_file() {
    let config = read(&[
        ("POLYPOOL_REDIS_LISTEN", "0.0.0.0:7000"),
        ("POLYPOOL_DATA_DIR", "/srv/polypool"),
        ("MAX_REDIS_CONNECTIONS", "3"),
        ("REDIS_MAX_CONNECTIONS", "4"),
        ("MAX_POSTGRES_CONNECTIONS", "5"),
        ("MONGODB_MAX_POOL_SIZE", "6"),
        ("POLYPOOL_ADMIN_LISTEN", ""),
        ("POLYPOOL_ADMIN_TOKEN", "canary"),
    ])
    .unwrap();
    assert_eq!(config.listen.redis, "0.0.0.0:7000".parse().unwrap());
    assert_eq!(config.listen.admin, Config::default().listen.admin);
    let limits = config.limits.defaults();
    assert_eq!(limits.redis.upstream_max, 4);
    assert_eq!(
        (limits.postgres.upstream_max, limits.mongodb.upstream_max),
        (5, 6)
    );
    assert!(!format!("{config:?}").contains("canary"));
    assert!(!toml::to_string(&config).unwrap().contains("canary"));
}

#[test]
fn wrong_variables_are_named() {
    let cases = [
        ("POLYPOOL_REDIS_LISTEN", "6380", "is not an address"),
        ("MAX_POSTGRES_CONNECTIONS", "many", "'many'"),
        ("MAX_POSTGRES_CONNECTIONS", "0", "must be at least 1"),
    ];
    for (name, value, expected) in cases {
        let told = read(&[(name, value)]).unwrap_err().to_string();
        assert!(told.starts_with(name) && told.contains(expected), "{told}");
    }
    let elsewhere = read(&[("DATABASE_URL", "postgres://h/p")]).unwrap();
    let told = elsewhere.check_registry().unwrap_err().to_string();
    assert!(
        told.starts_with("DATABASE_URL: ") && told.contains("not available yet"),
        "{told}"
    );
}

#[test]
fn system_connections_take_the_address_that_is_reachable() {
    let both = [
        ("REDIS_URL", "redis://redis.internal"),
        ("REDIS_PUBLIC_URL", "redis://public.example"),
        ("MONGODB_URL", "mongodb://u:canary@h"),
    ];
    let redis = |variables: &[(&str, &str)]| {
        let config = read(variables).unwrap();
        assert!(!format!("{config:?}").contains("canary"));
        config.system.redis.get().unwrap().expose().to_owned()
    };
    assert_eq!(redis(&both), "redis://public.example");
    let inside: Vec<_> = both
        .into_iter()
        .chain([("RAILWAY_ENVIRONMENT", "production")])
        .collect();
    assert_eq!(redis(&inside), "redis://redis.internal");
    assert_eq!(read(&both).unwrap().system.databases().len(), 2);
    let told = read(&[("REDIS_URL", "redis://:canary@h:x")])
        .unwrap_err()
        .to_string();
    assert!(
        told.starts_with("REDIS_URL: ") && !told.contains("canary"),
        "{told}"
    );
}

#[test]
fn variables_that_look_like_ours_and_are_not_read_are_named() {
    let set = [
        "POLYPOOL_RUNTIME_SCHEDULING",
        "POLYPOOL_POSTGRES_POOL_SIZE",
        "POLYPOOL_POSTGRES_LISTEN",
        "POLYPOOL_ADMIN_TOKEN",
        "POLYPOOL_BIN",
        "POLYPOOL_TEST_POSTGRES_URL",
        "PATH",
    ];
    let unknown = unknown_variables(set.into_iter().map(str::to_owned));
    assert_eq!(
        unknown,
        ["POLYPOOL_POSTGRES_POOL_SIZE", "POLYPOOL_RUNTIME_SCHEDULING"]
    );
}
