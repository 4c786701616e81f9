//! The URLs that clients use: our address, their login, and the database behind it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{crypto::Secret, protocol::Protocol, registry::DatabaseRow};

/// What RFC 3986 lets stand in any part of a URL.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Where clients connect; a protocol without a listener has none.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Entrances {
    /// The `PostgreSQL` listener.
    pub postgres: Option<SocketAddr>,
    /// The Redis listener.
    pub redis: Option<SocketAddr>,
    /// The `MongoDB` listener.
    pub mongodb: Option<SocketAddr>,
    /// The name under which clients reach this machine, if they do not use the address itself.
    pub public_host: Option<String>,
}

impl Entrances {
    fn of(&self, protocol: Protocol) -> Option<SocketAddr> {
        match protocol {
            Protocol::Postgres => self.postgres,
            Protocol::Redis => self.redis,
            Protocol::Mongodb => self.mongodb,
        }
    }

    /// `host:port` as it stands in a URL.
    fn authority(&self, protocol: Protocol) -> Option<String> {
        let address = self.of(protocol)?;
        if let Some(host) = &self.public_host {
            return Some(format!("{host}:{}", address.port()));
        }
        let ip = match address.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        Some(SocketAddr::new(ip, address.port()).to_string())
    }

    /// The URL of a database for a login; `None` when no listener serves its type.
    pub(super) fn url(&self, row: &DatabaseRow, login: &str, password: &Secret) -> Option<String> {
        let protocol = protocol_of(row)?;
        let authority = self.authority(protocol)?;
        let encode = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
        let login = format!("{}:{}", encode(login), encode(password.expose()));
        let database = row.database_name.as_deref();
        Some(match protocol {
            Protocol::Postgres => {
                // As libpq: a URL without a database means the one named like the user.
                let database = database.or(row.username.as_deref()).unwrap_or("postgres");
                format!("postgresql://{login}@{authority}/{}", encode(database))
            }
            Protocol::Redis => {
                format!(
                    "redis://{login}@{authority}/{}",
                    encode(database.unwrap_or("0"))
                )
            }
            Protocol::Mongodb => {
                let database = database.unwrap_or_default();
                format!(
                    "mongodb://{login}@{authority}/{}?authSource=admin",
                    encode(database)
                )
            }
        })
    }

    /// The URLs of a project's databases for one user: by type, and one by one.
    ///
    /// A type of which the project has one database is addressed by the project's ref, so that the
    /// login is the same for all types.
    pub(super) fn project_urls(
        &self,
        project_ref: &str,
        rows: &[DatabaseRow],
        user: &str,
        password: &Secret,
    ) -> (Map<String, Value>, Vec<Value>) {
        let mut by_type = Map::new();
        let mut each = Vec::new();
        for row in rows {
            let only = rows.iter().filter(|other| other.kind == row.kind).count() == 1;
            let name = if only { project_ref } else { row.slug.as_str() };
            let Some(url) = self.url(row, &format!("{user}.{name}"), password) else {
                continue;
            };
            by_type.entry(row.kind).or_insert_with(|| json!(url));
            each.push(json!({ "name": row.name, "slug": row.slug, "type": row.kind, "url": url }));
        }
        (by_type, each)
    }
}

fn protocol_of(row: &DatabaseRow) -> Option<Protocol> {
    crate::tenant::DatabaseType::parse(row.kind).and_then(crate::tenant::DatabaseType::protocol)
}
