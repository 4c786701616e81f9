//! Reading the file, and finding the key and the line of what is wrong with it.

use std::{fs, path::Path};

use super::{Config, ConfigFault};

/// A wrong key's distance to a known one at most, for it to be suggested.
const DISTANCE_MAX: usize = 4;

pub(super) fn read(path: &Path) -> Result<Config, ConfigFault> {
    let text = fs::read_to_string(path).map_err(|source| ConfigFault::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Config, ConfigFault> {
    let config: Config = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let (line, key) = key_at(text, at);
        ConfigFault::Key {
            path: path.to_owned(),
            line,
            key,
            why: explain(error.message()),
        }
    })?;
    match contradiction(&config) {
        None => Ok(config),
        Some((key, why)) => Err(ConfigFault::Key {
            path: path.to_owned(),
            line: line_of(text, key),
            key: key.to_owned(),
            why: why.to_owned(),
        }),
    }
}

/// What is well-formed but cannot work.
pub(super) fn contradiction(config: &Config) -> Option<(&'static str, &'static str)> {
    let tls = &config.tls;
    let limits = &config.limits;
    let zero = "must be at least 1";
    let checks = [
        (
            tls.certificate.as_os_str().is_empty() != tls.key.as_os_str().is_empty(),
            "tls.certificate",
            "needs tls.key, and tls.key needs it",
        ),
        (
            limits.postgres.upstream_max == 0,
            "limits.postgres.upstream_max",
            zero,
        ),
        (
            limits.redis.upstream_max == 0,
            "limits.redis.upstream_max",
            zero,
        ),
        (
            limits.mongodb.upstream_max == 0,
            "limits.mongodb.upstream_max",
            zero,
        ),
        (
            config.pool.upstream_total_max == 0,
            "pool.upstream_total_max",
            zero,
        ),
        (config.pool.dialing_max == 0, "pool.dialing_max", zero),
        (config.listen.clients_max == 0, "listen.clients_max", zero),
        (config.admin.clients_max == 0, "admin.clients_max", zero),
        (
            config.registry.data_dir.as_os_str().is_empty(),
            "registry.data_dir",
            "must name a folder",
        ),
    ];
    checks
        .into_iter()
        .find(|(wrong, ..)| *wrong)
        .map(|(_, key, why)| (key, why))
}

/// The line of an offset, counted from 1, and the key that stands there with its section.
fn key_at(text: &str, offset: usize) -> (usize, String) {
    let mut section = "";
    let (mut number, mut passed) = (0, 0);
    let mut found = "";
    for line in text.split_inclusive('\n') {
        number += 1;
        found = line;
        if let Some(name) = section_of(line) {
            section = name;
        }
        passed += line.len();
        if passed > offset {
            break;
        }
    }
    let name = found
        .split_once('=')
        .map(|(key, _)| key.trim())
        .filter(|key| !key.starts_with('#'));
    let key = match (section, name) {
        ("", name) => name.unwrap_or("the file").to_owned(),
        (section, None) => section.to_owned(),
        (section, Some(name)) => format!("{section}.{name}"),
    };
    (number.max(1), key)
}

/// The line that sets a key, or the first one when a default is meant.
fn line_of(text: &str, wanted: &str) -> usize {
    let offsets = text.split_inclusive('\n').scan(0, |offset, line| {
        let begin = *offset;
        *offset += line.len();
        Some(begin)
    });
    for offset in offsets {
        let (line, key) = key_at(text, offset);
        if key == wanted {
            return line;
        }
    }
    1
}

fn section_of(line: &str) -> Option<&str> {
    line.trim()
        .strip_prefix('[')?
        .split(']')
        .next()
        .map(str::trim)
}

/// Adds the nearest known key to what the parser says of an unknown one.
fn explain(message: &str) -> String {
    let Some((name, expected)) = message
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once('`'))
    else {
        return message.replace('\n', " ");
    };
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let nearest = known
        .iter()
        .map(|key| (strsim::osa_distance(name, key), *key))
        .min()
        .filter(|(distance, _)| *distance <= DISTANCE_MAX);
    match nearest {
        Some((_, key)) => format!("there is no '{name}' here; did you mean '{key}'?"),
        None => format!("there is no '{name}' here; known are {}", known.join(", ")),
    }
}
