//! The environment: what the platform calls things, and our own names. It goes before the file.

use std::{fmt::Display, str::FromStr};

use super::{Config, ConfigFault, Hidden, System, file::contradiction};
use crate::tenant::Target;

/// What a variable does with its value.
type Set = fn(&mut Config, &str) -> Result<(), String>;

/// Which of the system's databases a URL is for.
type Place = fn(&mut System) -> &mut Hidden;

/// Every variable that is read. Where two names mean one thing, the later in this list wins.
const VARIABLES: [(&str, Set); 17] = [
    ("POLYPOOL_DATA_DIR", |config, text| {
        to(&mut config.registry.data_dir, text)
    }),
    ("POLYPOOL_POSTGRES_LISTEN", |config, text| {
        address(&mut config.listen.postgres, text)
    }),
    ("POLYPOOL_REDIS_LISTEN", |config, text| {
        address(&mut config.listen.redis, text)
    }),
    ("POLYPOOL_MONGODB_LISTEN", |config, text| {
        address(&mut config.listen.mongodb, text)
    }),
    ("POLYPOOL_ADMIN_LISTEN", |config, text| {
        address(&mut config.listen.admin, text)
    }),
    ("POLYPOOL_LOG", |config, text| {
        to(&mut config.log.filter, text)
    }),
    ("POLYPOOL_ENCRYPTION_KEYS", |config, text| {
        hide(&mut config.secrets.encryption_keys, text);
        Ok(())
    }),
    ("POLYPOOL_ADMIN_TOKEN", |config, text| {
        hide(&mut config.secrets.admin_token, text);
        Ok(())
    }),
    ("PG_META_CRYPTO_KEY", |config, text| {
        hide(&mut config.secrets.pg_meta_crypto_key, text);
        Ok(())
    }),
    ("REDIS_CRYPTO_KEY", |config, text| {
        hide(&mut config.secrets.redis_crypto_key, text);
        Ok(())
    }),
    ("MONGODB_CRYPTO_KEY", |config, text| {
        hide(&mut config.secrets.mongodb_crypto_key, text);
        Ok(())
    }),
    ("MAX_POSTGRES_CONNECTIONS", |config, text| {
        to(&mut config.limits.postgres.upstream_max, text)
    }),
    ("MAX_REDIS_CONNECTIONS", |config, text| {
        to(&mut config.limits.redis.upstream_max, text)
    }),
    ("REDIS_MAX_CONNECTIONS", |config, text| {
        to(&mut config.limits.redis.upstream_max, text)
    }),
    ("MAX_MONGODB_CONNECTIONS", |config, text| {
        to(&mut config.limits.mongodb.upstream_max, text)
    }),
    ("MONGODB_MAX_POOL_SIZE", |config, text| {
        to(&mut config.limits.mongodb.upstream_max, text)
    }),
    ("DATABASE_URL", |config, text| {
        hide(&mut config.database_url, text);
        Ok(())
    }),
];

/// The platform's own connections: the internal address, the public one, and where it goes. Inside
/// Railway the internal one is reachable, elsewhere only the public one.
const SYSTEM: [(&str, &str, Place); 4] = [
    ("POSTGRES_URL", "POSTGRES_PUBLIC_URL", |system| {
        &mut system.postgres
    }),
    ("REDIS_URL", "REDIS_PUBLIC_URL", |system| &mut system.redis),
    ("MONGODB_URL", "MONGODB_PUBLIC_URL", |system| {
        &mut system.mongodb
    }),
    ("BUN_API_URL", "BUN_API_PUBLIC_URL", |system| {
        &mut system.bun_api
    }),
];

/// What our own variables begin with.
const OWN: &str = "POLYPOOL_";
/// What those of tests, benchmarks and suites begin with, beside the program's path.
const NOT_READ: [&str; 10] = [
    "POLYPOOL_ADMIN_TOKEN_FILE",
    "POLYPOOL_ADMIN_URL",
    "POLYPOOL_BIN",
    "POLYPOOL_DIFFERENTIAL_",
    "POLYPOOL_GATEWAY_",
    "POLYPOOL_LOAD_",
    "POLYPOOL_PROOF_",
    "POLYPOOL_SUITE_",
    "POLYPOOL_TEST_",
    "POLYPOOL_URL_",
];

/// Those of these variables that look like ours and are not read: misspelt, say, or keys of the file.
pub fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let known = |name: &str| VARIABLES.iter().any(|(known, _)| *known == name);
    let elsewhere = |name: &str| NOT_READ.iter().any(|start| name.starts_with(start));
    let mut unknown: Vec<_> = names
        .filter(|name| name.starts_with(OWN) && !known(name) && !elsewhere(name))
        .collect();
    unknown.sort_unstable();
    unknown
}

/// Applies the variables that are set and not empty.
pub(super) fn apply(
    config: &mut Config,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<(), ConfigFault> {
    let given = |name: &str| variable(name).filter(|text| !text.is_empty());
    let inside = given("RAILWAY_ENVIRONMENT").is_some();
    for (internal, public, setting) in SYSTEM {
        let (first, second) = if inside {
            (internal, public)
        } else {
            (public, internal)
        };
        let Some(url) = given(first).or_else(|| given(second)) else {
            continue;
        };
        // The parser's message names the part that is wrong, and holds no secret.
        Target::parse(&url).map_err(|error| ConfigFault::Variable {
            name: internal,
            why: error.to_string(),
        })?;
        *setting(&mut config.system) = Hidden::from(url);
    }
    let mut last = "the environment";
    for (name, set) in VARIABLES {
        let Some(text) = given(name) else {
            continue;
        };
        set(config, &text).map_err(|why| ConfigFault::Variable { name, why })?;
        last = name;
    }
    // The file alone was sound, so that the last variable has made what cannot work.
    match contradiction(config) {
        None => Ok(()),
        Some((key, why)) => Err(ConfigFault::Variable {
            name: last,
            why: format!("{key}: {why}"),
        }),
    }
}

fn to<T: FromStr>(setting: &mut T, text: &str) -> Result<(), String>
where
    T::Err: Display,
{
    *setting = text
        .parse()
        .map_err(|error: T::Err| format!("'{text}': {error}"))?;
    Ok(())
}

fn address<T: FromStr>(setting: &mut T, text: &str) -> Result<(), String> {
    *setting = text
        .parse()
        .map_err(|_| format!("'{text}' is not an address like 127.0.0.1:6432"))?;
    Ok(())
}

fn hide(setting: &mut Hidden, text: &str) {
    *setting = Hidden::from(text.to_owned());
}
