//! A gateway in front of the test server, in this process.

use std::{sync::Arc, time::Duration};

use polypool::{
    crypto::{Keyring, Secret},
    net::{
        Listener, Stream,
        tls::{ClientTls, ServerTls},
    },
    pool,
    postgres::{Parts, Service, Settings},
    registry::{
        Actor, Edit, LimitDefaults, NewCredential, NewDatabase, NewProject, Passphrases, Registry,
        Scope, Traits, Vault,
    },
    session::{Admission, Board},
    shutdown::Shutdown,
    tenant::{Role, Target},
};

use crate::wire::{Account, Client};

/// The server's URL for the user `app`; says so and is `None` where there is no server.
pub(crate) fn server_url() -> Option<String> {
    let url = std::env::var("POLYPOOL_TEST_POSTGRES_URL").ok();
    if url.is_none() {
        println!("POLYPOOL_TEST_POSTGRES_URL is not set: nothing tested");
    }
    url
}

/// The same for the superuser.
pub(crate) fn superuser_url() -> String {
    std::env::var("POLYPOOL_TEST_POSTGRES_SUPERUSER_URL").unwrap()
}

/// The account that a URL is of, in a database.
pub(crate) fn account(url: &str, database: &str) -> Account {
    let target = Target::parse(url).unwrap();
    let endpoint = target.endpoint().unwrap();
    Account {
        address: format!("{}:{}", endpoint.host, endpoint.port),
        user: target.user.clone().unwrap(),
        password: Secret::from(target.password.as_ref().unwrap().expose().to_owned()),
        database: database.into(),
    }
}

pub(crate) struct Gateway {
    pub(crate) app: Account,
    /// The accounts that may only write, and only read.
    others: [Account; 2],
    pub(crate) service: Arc<Service>,
    _folder: tempfile::TempDir,
}

impl Gateway {
    /// A gateway with so many upstreams to a database of the server's.
    pub(crate) async fn start(url: &str, database: &str, upstreams: u32) -> Self {
        Self::start_as(url, database, upstreams, Settings::default(), None).await
    }

    /// The same, set otherwise, that offers TLS to its clients.
    pub(crate) async fn start_as(
        url: &str,
        database: &str,
        upstreams: u32,
        settings: Settings,
        server_tls: Option<ServerTls>,
    ) -> Self {
        let mut url = url::Url::parse(url).unwrap();
        url.set_path(database);
        let folder = tempfile::tempdir().unwrap();
        let stored = polypool::registry::Settings {
            data_dir: folder.path().to_owned(),
            ..Default::default()
        };
        let (keyring, _) = Keyring::load_or_create(&folder.path().join("keys")).unwrap();
        let vault = Vault::new(keyring, Passphrases::default(), false);
        let registry = Registry::open(&stored, vault, LimitDefaults::default())
            .await
            .unwrap();
        let actor = Actor::local();
        let new = NewDatabase {
            project: NewProject {
                project_ref: "demo".into(),
                name: None,
                organization: None,
            },
            name: Some("main".into()),
            kind: None,
            connection_string: Secret::from(String::from(url)),
            slug: Some("main".into()),
            traits: Traits {
                max_upstream: Edit::To(upstreams),
                ..Traits::default()
            },
        };
        registry.register(new, &actor).await.unwrap();
        let passwords = credentials(&registry).await;
        let shutdown = Shutdown::new();
        let service = Service::new(Parts {
            settings,
            pool: pool::Settings::default(),
            budget: pool::Budget::new(20),
            admission: Admission::new(Arc::new(registry), Board::new()).unwrap(),
            shutdown: shutdown.clone(),
            client_tls: ClientTls::new(None, None).unwrap(),
            server_tls,
        });
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), 100).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = Arc::clone(&service);
        let serve = move |stream: Stream| Arc::clone(&serving).serve(stream);
        shutdown.spawn(
            "listener",
            listener.run(shutdown.clone(), "session", serve, |_| async {}),
        );
        let mut accounts = passwords.into_iter().map(|(user, password)| Account {
            address: address.clone(),
            user: format!("{user}.main"),
            password,
            database: database.into(),
        });
        let mut account = || accounts.next().unwrap();
        let (app, others) = (account(), [account(), account()]);
        Self {
            app,
            others,
            service,
            _folder: folder,
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::log_in(&self.app, &[]).await.unwrap()
    }

    /// A client of another role, with these parameters at its start.
    pub(crate) async fn client_as(&self, role: Role, parameters: &[(&str, &str)]) -> Client {
        let [writer, reader] = &self.others;
        let account = match role {
            Role::Admin => &self.app,
            Role::Write => writer,
            Role::Read => reader,
        };
        Client::log_in(account, parameters).await.unwrap()
    }

    /// Waits until no upstream is in use.
    pub(crate) async fn settle(&self) {
        for _ in 0..100 {
            let busy = |stats: &pool::PoolStats| stats.leased + stats.resetting + stats.dialing > 0;
            if !self.service.fleet().snapshot().iter().any(busy) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("an upstream is still in use");
    }
}

/// Gives credentials for every role: the user's name and password.
async fn credentials(registry: &Registry) -> Vec<(&'static str, Secret)> {
    let mut passwords = Vec::new();
    for (user, role) in [
        ("app", Role::Admin),
        ("writer", Role::Write),
        ("reader", Role::Read),
    ] {
        let new = NewCredential {
            scope: Scope::Project("demo".into()),
            user: user.into(),
            role,
            expires_at: None,
        };
        let issued = registry.issue(new, &Actor::local()).await.unwrap();
        passwords.push((user, issued.password));
    }
    passwords
}

/// A gateway in front of a database of its own: with two upstreams, unless said otherwise.
pub(crate) struct Place {
    pub(crate) gateway: Gateway,
    pub(crate) database: Database,
}

impl Place {
    pub(crate) async fn open(name: &str) -> Option<Self> {
        Self::open_with(name, 2).await
    }

    /// The same with so many upstreams.
    pub(crate) async fn open_with(name: &str, upstreams: u32) -> Option<Self> {
        Self::open_as(name, upstreams, Settings::default()).await
    }

    /// The same, set otherwise.
    pub(crate) async fn open_as(name: &str, upstreams: u32, settings: Settings) -> Option<Self> {
        let url = server_url()?;
        let database = Database::create(format!("{name}_{}", std::process::id())).await;
        let gateway = Gateway::start_as(&url, &database.name, upstreams, settings, None).await;
        Some(Self { gateway, database })
    }

    /// Makes the next query of anybody run on the other upstream: a transaction that is left open.
    pub(crate) async fn occupy(&self) -> Client {
        let mut client = self.gateway.client().await;
        client.must("begin").await;
        client
    }

    pub(crate) async fn close(self) {
        drop(self.gateway);
        self.database.drop().await;
    }
}

/// A database of its own, dropped at the end.
pub(crate) struct Database {
    pub(crate) name: String,
}

impl Database {
    pub(crate) async fn create(name: String) -> Self {
        let mut superuser = superuser().await;
        superuser
            .must(&format!("drop database if exists {name} with (force)"))
            .await;
        superuser
            .must(&format!("create database {name} owner app"))
            .await;
        Self { name }
    }

    pub(crate) async fn drop(self) {
        let text = format!("drop database {} with (force)", self.name);
        superuser().await.must(&text).await;
    }
}

/// The server's superuser, past the gateway.
pub(crate) async fn superuser() -> Client {
    let account = account(&superuser_url(), "postgres");
    Client::log_in(&account, &[]).await.unwrap()
}

/// Roles that the user `app` may take.
pub(crate) async fn roles() {
    let mut superuser = superuser().await;
    for role in ["diff_one", "diff_two"] {
        let text = format!(
            "do $$ begin create role {role}; exception when duplicate_object or unique_violation \
             then end $$; grant {role} to app"
        );
        // Two tests may do so at once.
        while superuser.query(&text).await.0.contains("XX000") {}
    }
}
