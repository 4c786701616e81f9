//! `mongodb+srv://`: what the DNS says of a name, in place of hosts and options.
//!
//! <https://github.com/mongodb/specifications/blob/master/source/initial-dns-seedlist-discovery/initial-dns-seedlist-discovery.md>

use std::{borrow::Cow, collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    net::{
        DialFault, DialStep,
        dns::{Data, Kind, Resolver},
    },
    tenant::{Endpoint, Target},
};

/// Names of which the answer is kept.
const KNOWN_MAX: usize = 10_000;
/// The service that is asked for unless `srvServiceName` says otherwise.
const SERVICE: &str = "mongodb";
/// The options that a name may set; the connection string's own go before.
const OPTIONS: [&str; 3] = ["authsource", "replicaset", "loadbalanced"];

/// Answers of the DNS, kept for as long as they hold.
pub struct Names {
    resolver: Resolver,
    /// How long an answer is used at least.
    kept_for: Duration,
    known: Mutex<AHashMap<String, Known>>,
}

#[derive(Clone)]
struct Known {
    answer: Arc<Answer>,
    until: Instant,
}

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    hosts: Vec<Endpoint>,
    options: BTreeMap<String, String>,
    /// How long it holds.
    life: Duration,
}

impl Names {
    /// Asks these name servers, or the system's; an answer is used for at least `kept_for`.
    pub fn new(servers: Vec<SocketAddr>, kept_for: Duration) -> Self {
        Self {
            resolver: Resolver::new(servers),
            kept_for,
            known: Mutex::new(AHashMap::new()),
        }
    }

    /// How long an answer is used at least.
    pub(crate) const fn kept_for(&self) -> Duration {
        self.kept_for
    }

    /// The target, with the hosts and options that its name stands for where it has one.
    pub(crate) async fn resolve<'a>(
        &self,
        target: &'a Target,
    ) -> Result<Cow<'a, Target>, DialFault> {
        let resolved = if is_name(target) {
            let name = target.endpoint().map_or("", |seed| seed.host.as_str());
            let answer = self.answer(name, target).await?;
            let mut resolved = target.clone();
            for (key, value) in &answer.options {
                let own = resolved.options.entry(key.clone());
                own.or_insert_with(|| value.clone());
            }
            resolved.endpoints =
                some_of(&answer.hosts, &resolved).map_err(|why| fault(name, &why))?;
            Cow::Owned(resolved)
        } else {
            Cow::Borrowed(target)
        };
        if option(&resolved, "loadbalanced") == Some("true") {
            return Err(DialFault::new(
                DialStep::Name,
                "loadBalanced=true upstreams are not supported",
                "register the routers themselves, or a name that leads to them",
            ));
        }
        Ok(resolved)
    }

    async fn answer(&self, name: &str, target: &Target) -> Result<Arc<Answer>, DialFault> {
        let service = option(target, "srvservicename").unwrap_or(SERVICE);
        let asked = format!("_{service}._tcp.{name}");
        let known = self.known.lock().get(&asked).cloned();
        if let Some(known) = &known
            && known.until > Instant::now()
        {
            return Ok(Arc::clone(&known.answer));
        }
        let answer = match (self.look_up(name, &asked).await, known) {
            (Ok(answer), _) => Arc::new(answer),
            // What was right a while ago is better than nothing.
            (Err(why), Some(known)) => {
                tracing::warn!(%name, %why, "name looked up in vain; its last answer is used");
                known.answer
            }
            (Err(why), None) => return Err(fault(name, &why)),
        };
        let until = Instant::now() + answer.life.max(self.kept_for);
        let mut all = self.known.lock();
        if all.len() >= KNOWN_MAX && !all.contains_key(&asked) {
            all.clear();
        }
        let kept = Known {
            answer: Arc::clone(&answer),
            until,
        };
        all.insert(asked, kept);
        Ok(answer)
    }

    async fn look_up(&self, name: &str, asked: &str) -> Result<Answer, String> {
        let found = self.resolver.look_up(asked, Kind::Service).await;
        let mut hosts = Vec::new();
        let mut life = Duration::MAX;
        for record in found.map_err(|error| error.to_string())? {
            if let Data::Service { host, port } = record.data {
                hosts.push(host_of(name, &host, port)?);
                life = life.min(Duration::from_secs(u64::from(record.seconds)));
            }
        }
        if hosts.is_empty() {
            return Err(format!("no hosts: there is no SRV record {asked}"));
        }
        let found = self.resolver.look_up(name, Kind::Text).await;
        let found = found.map_err(|error| error.to_string())?;
        let texts: Vec<_> = found
            .into_iter()
            .filter_map(|record| match record.data {
                Data::Text(text) => Some(text),
                Data::Service { .. } => None,
            })
            .collect();
        Ok(Answer {
            hosts,
            options: options_of(&texts)?,
            life,
        })
    }
}

/// Whether the target's host stands for others.
pub(crate) fn is_name(target: &Target) -> bool {
    target.scheme == "mongodb+srv"
}

fn option<'a>(target: &'a Target, key: &str) -> Option<&'a str> {
    target.options.get(key).map(String::as_str)
}

/// One host of a name: it must be of the name's own domain, or anybody's server could be slipped in.
fn host_of(name: &str, host: &str, port: u16) -> Result<Endpoint, String> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let domain = match name.split_once('.') {
        Some((_, domain)) if domain.contains('.') => domain,
        // Of a short name the whole is the domain.
        _ => name.as_str(),
    };
    let is_inside = host
        .strip_suffix(domain)
        .is_some_and(|rest| rest.ends_with('.') && rest.len() > 1);
    if is_inside {
        Ok(Endpoint { host, port })
    } else {
        Err(format!("its host '{host}' is not of the domain '{domain}'"))
    }
}

/// The options of a name's one text.
fn options_of(texts: &[String]) -> Result<BTreeMap<String, String>, String> {
    let text = match texts {
        [] => return Ok(BTreeMap::new()),
        [text] => text,
        _ => return Err("it has more than one TXT record".into()),
    };
    let mut options = BTreeMap::new();
    for (key, value) in url::form_urlencoded::parse(text.as_bytes()) {
        let key = key.to_ascii_lowercase();
        if !OPTIONS.contains(&key.as_str()) {
            return Err(format!(
                "its TXT record sets '{key}', and may set authSource, replicaSet and loadBalanced only"
            ));
        }
        if value.is_empty() {
            return Err(format!("its TXT record sets '{key}' to nothing"));
        }
        options.insert(key, value.into_owned());
    }
    Ok(options)
}

/// As many of the hosts as `srvMaxHosts` wants, any of them.
fn some_of(hosts: &[Endpoint], target: &Target) -> Result<Vec<Endpoint>, String> {
    let most = match option(target, "srvmaxhosts") {
        None => 0,
        Some(text) => text
            .parse::<usize>()
            .map_err(|_| "srvMaxHosts is not a number".to_owned())?,
    };
    if most > 0 && option(target, "replicaset").is_some() {
        return Err("srvMaxHosts is for routers, not for a replica set".into());
    }
    let mut hosts = hosts.to_vec();
    if most > 0 && most < hosts.len() {
        for at in 0..most {
            let rest = hosts.len() - at;
            let random = getrandom::u32().unwrap_or(0);
            let other = at + usize::try_from(random).unwrap_or(0) % rest;
            hosts.swap(at, other);
        }
        hosts.truncate(most);
        hosts.sort_by_key(ToString::to_string);
    }
    Ok(hosts)
}

fn fault(name: &str, why: &str) -> DialFault {
    DialFault::new(
        DialStep::Name,
        format!("the name '{name}': {why}"),
        "check the name, that its SRV records _mongodb._tcp.NAME lead to hosts of its own domain, and which name \
         server answers here",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_of_the_names_own_domain() {
        for (name, host, is_inside) in [
            ("db.example.com", "a.example.com.", true),
            ("db.example.com", "A.Deep.Example.COM", true),
            ("db.example.com", "example.com", false),
            ("db.example.com", "a.evilexample.com", false),
            ("db.example.com", "a.example.org", false),
            ("db.local", "a.db.local", true),
            ("db.local", "a.local", false),
            ("db", "a.db", true),
            ("db", "db", false),
        ] {
            let host = host_of(name, host, 1);
            assert_eq!(host.is_ok(), is_inside, "{name} {host:?}");
        }
    }

    #[test]
    fn texts_set_three_options_and_no_other() {
        let read = |text: &str| options_of(&[text.to_owned()]);
        let options = read("authSource=app&replicaSet=rs0").unwrap();
        assert_eq!(options.get("authsource").unwrap(), "app");
        assert_eq!(options.get("replicaset").unwrap(), "rs0");
        assert!(read("tls=false").is_err());
        assert!(read("authSource").is_err());
        assert!(options_of(&["a".into(), "b".into()]).is_err());
        assert!(options_of(&[]).unwrap().is_empty());
    }

    #[test]
    fn fewer_hosts_are_any_of_them() {
        let all: Vec<_> = (1..=5)
            .map(|port| Endpoint {
                host: "a.b.c".into(),
                port,
            })
            .collect();
        let of = |query: &str| {
            let target = Target::parse(&format!("mongodb+srv://a.b.c/{query}")).unwrap();
            some_of(&all, &target)
        };
        assert_eq!(of("").unwrap(), all);
        assert_eq!(of("?srvMaxHosts=9").unwrap(), all);
        let mut two = of("?srvMaxHosts=2").unwrap();
        two.dedup();
        assert_eq!(two.len(), 2);
        assert!(two.iter().all(|host| all.contains(host)));
        assert!(of("?srvMaxHosts=2&replicaSet=x").is_err());
    }
}
