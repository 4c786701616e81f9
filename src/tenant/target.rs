//! Where a tenant's database is: the connection string, parsed once.

use std::{collections::BTreeMap, fmt};

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::Url;

use super::{
    attrs::{self, Balance, SessionAttrs},
    tls::{self, TlsMode},
};
use crate::{crypto::Secret, protocol::Protocol};

/// What a registered database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DatabaseType {
    /// A PostgreSQL database.
    Postgres,
    /// A Redis server.
    Redis,
    /// A MongoDB deployment.
    Mongodb,
    /// An HTTP service, reached through the admin API only.
    BunApi,
}

impl DatabaseType {
    /// The name in the registry's enum.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Mongodb => "mongodb",
            Self::BunApi => "bun_api",
        }
    }

    /// The type of that name; `postgresql` is an alias that older registries hold.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "postgres" | "postgresql" => Some(Self::Postgres),
            "redis" => Some(Self::Redis),
            "mongodb" => Some(Self::Mongodb),
            "bun_api" => Some(Self::BunApi),
            _ => None,
        }
    }

    /// The wire protocol, if clients reach it by one.
    pub const fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Postgres => Some(Protocol::Postgres),
            Self::Redis => Some(Protocol::Redis),
            Self::Mongodb => Some(Protocol::Mongodb),
            Self::BunApi => None,
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::Redis => 6379,
            Self::Mongodb => 27017,
            Self::BunApi => 80,
        }
    }
}

/// A host and a port. IPv6 literals are kept without brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name or an address.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where a database is, and how to log in there.
///
/// `Debug` and `Display` never show the password.
#[derive(Debug, Clone)]
pub struct Target {
    /// What it is.
    pub kind: DatabaseType,
    /// The seeds, at least one; more than one for a replica set, standbys or sentinels.
    pub endpoints: Vec<Endpoint>,
    /// The user; Redis without one means `default`.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The database: a name for PostgreSQL and MongoDB, a number for Redis.
    pub database: Option<String>,
    /// How TLS is used.
    pub tls: TlsMode,
    /// The scheme as written, for variants such as `mongodb+srv` and `redis+sentinel`.
    pub scheme: String,
    /// What the sentinels at the endpoints are asked for, where they are sentinels.
    pub sentinel: Option<Sentinel>,
    /// The other options of the query part, keys in lower case.
    pub options: BTreeMap<String, String>,
}

/// A service that sentinels watch over, and how to log in to them.
#[derive(Debug, Clone)]
pub struct Sentinel {
    /// The name under which they know the master.
    pub service: String,
    /// The user at the sentinels; they have none by default.
    pub user: Option<String>,
    /// The password at the sentinels.
    pub password: Option<Secret>,
}

/// Why a connection string is not one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TargetError {
    /// The scheme is none that is known.
    #[error(
        "unknown scheme '{0}'; expected postgres://, redis://, rediss://, mongodb:// or http(s)://"
    )]
    UnknownScheme(String),
    /// It is not a URL.
    #[error("not a connection URL: {0}")]
    NotUrl(String),
    /// There is no host.
    #[error("the connection URL has no host")]
    NoHost,
    /// A part of it is wrong.
    #[error("the {part} of the connection URL is wrong: {why}")]
    BadPart {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Target {
    /// Parses a connection string of any of the known schemes.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let text = text.trim();
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| TargetError::NotUrl("no scheme".into()))?;
        let scheme = scheme.to_ascii_lowercase();
        let kind = kind_of(&scheme).ok_or_else(|| TargetError::UnknownScheme(scheme.clone()))?;
        // `url` knows one host only; MongoDB and Sentinel name several, so hosts are cut out first.
        let (hosts, single) = isolate_hosts(rest);
        let url = Url::parse(&format!("upstream://{single}"))
            .map_err(|error| TargetError::NotUrl(error.to_string()))?;
        let endpoints = hosts
            .split(',')
            .map(|host| parse_endpoint(host, default_port(kind, &scheme)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut options: BTreeMap<_, _> = url
            .query_pairs()
            .map(|(key, value)| (key.to_ascii_lowercase(), value.into_owned()))
            .collect();
        if kind == DatabaseType::Postgres {
            attrs::check(&endpoints, &options)?;
        }
        let path = decode(url.path().trim_start_matches('/'), "database")?;
        let (sentinel, database) = if scheme.ends_with("+sentinel") {
            let (sentinel, database) = sentinel_of(&path, &mut options)?;
            (Some(sentinel), database)
        } else {
            (None, path)
        };
        let tls = tls_of(&scheme, kind, &options)?;
        Ok(Self {
            kind,
            endpoints,
            user: non_empty(decode(url.username(), "user")?),
            password: url
                .password()
                .map(|text| decode(text, "password"))
                .transpose()?
                .map(Secret::from),
            database: non_empty(database),
            tls,
            scheme,
            sentinel,
            options,
        })
    }

    /// The first endpoint; every target has one.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoints.first()
    }

    /// What the connection string asks of its servers, if it does.
    pub fn attrs(&self) -> Option<SessionAttrs> {
        attrs::attrs(&self.options)
    }

    /// Whether not just any connection to it will do: there are several servers, or something is asked of the one.
    pub fn is_choosy(&self) -> bool {
        let asks = self.attrs().is_some_and(|attrs| attrs != SessionAttrs::Any);
        self.endpoints.len() > 1 || asks
    }

    /// In which order its servers are taken.
    pub fn balance(&self) -> Balance {
        attrs::balance(&self.options)
    }

    /// The connection string with the password as `****`.
    pub fn redacted(&self) -> String {
        let mut out = format!("{}://", self.scheme);
        if self.user.is_some() || self.password.is_some() {
            out.push_str(self.user.as_deref().unwrap_or_default());
            if self.password.is_some() {
                out.push_str(":****");
            }
            out.push('@');
        }
        let hosts: Vec<_> = self.endpoints.iter().map(ToString::to_string).collect();
        out.push_str(&hosts.join(","));
        if let Some(sentinel) = &self.sentinel {
            out.push('/');
            out.push_str(&sentinel.service);
        }
        if let Some(database) = &self.database {
            out.push('/');
            out.push_str(database);
        }
        out
    }
}

fn kind_of(scheme: &str) -> Option<DatabaseType> {
    match scheme {
        "postgres" | "postgresql" => Some(DatabaseType::Postgres),
        "redis" | "rediss" | "redis+sentinel" | "rediss+sentinel" | "redis+cluster"
        | "rediss+cluster" => Some(DatabaseType::Redis),
        "mongodb" | "mongodb+srv" => Some(DatabaseType::Mongodb),
        "http" | "https" => Some(DatabaseType::BunApi),
        _ => None,
    }
}

fn default_port(kind: DatabaseType, scheme: &str) -> u16 {
    match scheme {
        "https" => 443,
        "redis+sentinel" | "rediss+sentinel" => 26379,
        _ => kind.default_port(),
    }
}

/// Splits `user:pw@h1:1,h2:2/db?x` into `h1:1,h2:2` and `user:pw@host/db?x`.
fn isolate_hosts(rest: &str) -> (String, String) {
    let (authority, tail) = match rest.find(['/', '?', '#']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), authority),
    };
    (hosts.to_owned(), format!("{login}host{tail}"))
}

fn parse_endpoint(text: &str, default_port: u16) -> Result<Endpoint, TargetError> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None => default_port,
        Some(port) => {
            port.parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| TargetError::BadPart {
                    part: "port",
                    // Where a '@' or an escape is missing, this is a piece of the password.
                    why: "it is not a number from 1 to 65535; \
                      escape '/', '?', '#' and '@' in user and password, as %2F, %3F, %23 and %40"
                        .to_owned(),
                })?
        }
    };
    if host.is_empty() {
        return Err(TargetError::NoHost);
    }
    Ok(Endpoint {
        host: host.to_owned(),
        port,
    })
}

fn tls_of(
    scheme: &str,
    kind: DatabaseType,
    options: &BTreeMap<String, String>,
) -> Result<TlsMode, TargetError> {
    let mode = match kind {
        DatabaseType::Postgres => tls::postgres(options),
        DatabaseType::Redis => tls::redis(scheme, options),
        DatabaseType::Mongodb => Ok(tls::mongodb(scheme, options)),
        DatabaseType::BunApi if scheme == "https" => Ok(TlsMode::VerifyFull),
        DatabaseType::BunApi => Ok(TlsMode::Disable),
    };
    mode.map_err(|why| TargetError::BadPart {
        part: "sslmode",
        why,
    })
}

/// Reads `service[/database]`, and takes the sentinels' login out of the options, which are shown.
fn sentinel_of(
    path: &str,
    options: &mut BTreeMap<String, String>,
) -> Result<(Sentinel, String), TargetError> {
    let (service, database) = path.split_once('/').unwrap_or((path, ""));
    if service.is_empty() {
        return Err(TargetError::BadPart {
            part: "service",
            why: "a sentinel URL names the master: redis+sentinel://host:26379/mymaster/0".into(),
        });
    }
    let mut take = |name: &str| {
        let joined = options.remove(&format!("sentinel{name}"));
        options.remove(&format!("sentinel_{name}")).or(joined)
    };
    let sentinel = Sentinel {
        service: service.to_owned(),
        user: take("user").or(take("username")),
        password: take("password").map(Secret::from),
    };
    Ok((sentinel, database.to_owned()))
}

fn decode(text: &str, part: &'static str) -> Result<String, TargetError> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|error| TargetError::BadPart {
            part,
            why: error.to_string(),
        })
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_url_without_user_has_password_and_number() {
        let target = Target::parse("redis://:p%40w@10.0.0.5/3").unwrap();
        assert_eq!(target.kind, DatabaseType::Redis);
        assert_eq!(target.endpoint().unwrap().to_string(), "10.0.0.5:6379");
        assert_eq!(target.user, None);
        assert_eq!(target.password.unwrap().expose(), "p@w");
        assert_eq!(target.database.as_deref(), Some("3"));
    }

    #[test]
    fn mongodb_url_names_every_seed() {
        let target =
            Target::parse("mongodb://u:p@a:1,[::1]:2,c/app?authSource=admin&tls=true").unwrap();
        let seeds: Vec<_> = target.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(seeds, ["a:1", "[::1]:2", "c:27017"]);
        assert_eq!(target.options.get("authsource").unwrap(), "admin");
        assert_eq!(target.tls, TlsMode::VerifyFull);
    }

    #[test]
    fn sentinels_have_a_login_of_their_own() {
        let url = "redis+sentinel://me:pw@a:1,b/main/2?sentinel_user=s&sentinel_password=canary";
        let target = Target::parse(url).unwrap();
        assert_eq!(target.endpoints[1].to_string(), "b:26379");
        assert_eq!(target.database.as_deref(), Some("2"));
        assert_eq!(
            target.redacted(),
            "redis+sentinel://me:****@a:1,b:26379/main/2"
        );
        let sentinel = target.sentinel.clone().unwrap();
        assert_eq!(sentinel.service, "main");
        assert_eq!(sentinel.user.as_deref(), Some("s"));
        assert_eq!(sentinel.password.unwrap().expose(), "canary");
        assert!(Target::parse("redis+sentinel://a").is_err());
        assert!(!format!("{target:?} {}", target.redacted()).contains("canary"));
    }

    #[test]
    fn rediss_says_how_much_is_verified() {
        let mode = |query: &str| Target::parse(&format!("rediss://h/0{query}")).map(|of| of.tls);
        assert_eq!(mode(""), Ok(TlsMode::VerifyFull));
        assert_eq!(mode("?sslmode=verify-ca"), Ok(TlsMode::VerifyCa));
        assert_eq!(mode("?ssl_check_hostname=False"), Ok(TlsMode::VerifyCa));
        for lax in ["?insecure=true", "?ssl_cert_reqs=none", "?sslmode=require"] {
            assert_eq!(mode(lax), Ok(TlsMode::Require), "{lax}");
        }
        assert!(mode("?sslmode=prefer").is_err());
        let tls = Target::parse("rediss+sentinel://h/main").unwrap().tls;
        assert_eq!(tls, TlsMode::VerifyFull);
    }

    #[test]
    fn faults_name_the_part() {
        assert_eq!(
            Target::parse("mysql://h").unwrap_err(),
            TargetError::UnknownScheme("mysql".into())
        );
        assert_eq!(Target::parse("redis://").unwrap_err(), TargetError::NoHost);
        assert!(matches!(
            Target::parse("redis://h:99999").unwrap_err(),
            TargetError::BadPart { part: "port", .. }
        ));
        assert!(matches!(
            Target::parse("nonsense").unwrap_err(),
            TargetError::NotUrl(_)
        ));
    }

    #[test]
    fn faults_do_not_repeat_a_password_in_the_wrong_place() {
        for url in [
            "redis://me:canary",
            "redis://:canary/x@h",
            "redis://:canary#x@h:1",
        ] {
            let error = Target::parse(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        }
    }

    #[test]
    fn password_is_never_shown() {
        let target = Target::parse("postgres://me:canary@h/db?sslmode=disable").unwrap();
        assert!(!format!("{target:?}").contains("canary"));
        assert_eq!(target.redacted(), "postgres://me:****@h:5432/db");
    }
}
