//! A server, a gateway before it, and one login that is good for both.

use std::{
    env,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use polypool::{
    crypto::{Keyring, Secret},
    net::{self, Stream, tls::ClientTls},
    pool,
    redis::{Parts, Service, Settings},
    registry::{
        self, Actor, Edit, LimitDefaults, NewCredential, NewDatabase, NewProject, Passphrases,
        Registry, Scope, Traits, Vault,
    },
    session::{Admission, Board},
    shutdown::Shutdown,
    tenant::Role,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{sleep, timeout},
};

use crate::stream::{Client, LIBRARY, encode};

const KEY: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const ROOT_PASSWORD: &str = "root";
const WAIT_MAX: Duration = Duration::from_secs(20);

/// A server, and the two ways to it.
pub(crate) struct Pair {
    pub(crate) direct: SocketAddr,
    pub(crate) gateway: SocketAddr,
    user: String,
    password: Secret,
    server: Child,
    _folder: tempfile::TempDir,
}

impl Pair {
    /// `None`, said aloud, where no tests with servers are wanted.
    pub(crate) async fn start(upstream_max: u32) -> Option<Self> {
        if env::var("POLYPOOL_TEST_REDIS_URL").is_err() {
            let required = env::var("POLYPOOL_TEST_REQUIRED").is_ok_and(|value| value == "1");
            assert!(!required, "POLYPOOL_TEST_REDIS_URL is not set");
            eprintln!("not run: no test servers (see tests/servers)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let direct = free.local_addr().unwrap();
        drop(free);
        let server = Command::new("redis-server")
            .args(["--port", &direct.port().to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--requirepass", ROOT_PASSWORD])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("redis://:{ROOT_PASSWORD}@{direct}");
        wait_for(direct).await;
        let (gateway, user, password) = before(&url, folder.path(), upstream_max).await;
        let pair = Self {
            direct,
            gateway,
            user,
            password,
            server,
            _folder: folder,
        };
        let rule = format!(">{}", pair.password.expose());
        pair.order(&[&[
            "ACL", "SETUSER", &pair.user, "on", &rule, "~*", "&*", "+@all",
        ]])
        .await;
        Some(pair)
    }

    /// A client whose keys begin with `prefix`.
    pub(crate) fn client<'a>(&'a self, prefix: &'a str) -> Client<'a> {
        Client {
            user: &self.user,
            password: self.password.expose(),
            prefix,
        }
    }

    /// Everything as in the beginning.
    pub(crate) async fn clear(&self) {
        self.order(&[
            &["FLUSHALL"],
            &["SCRIPT", "FLUSH"],
            &["FUNCTION", "LOAD", "REPLACE", LIBRARY],
        ])
        .await;
    }

    async fn order(&self, commands: &[&[&str]]) {
        let mut socket = dial(self.direct).await.unwrap();
        let mut bytes = encode(&["AUTH", ROOT_PASSWORD]);
        for words in commands {
            bytes.extend(encode(words));
        }
        bytes.extend(encode(&["QUIT"]));
        socket.write_all(&bytes).await.unwrap();
        let mut replies = String::new();
        let read = timeout(WAIT_MAX, socket.read_to_string(&mut replies)).await;
        read.unwrap().unwrap();
        assert!(!replies.contains('-'), "{replies}");
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // It is ours and its end is the test's; there is nobody to tell of a failure.
        let _ended = self.server.kill().and_then(|()| self.server.wait());
    }
}

/// A connection, if somebody listens.
pub(crate) async fn dial(address: SocketAddr) -> Option<Stream> {
    let address = net::Address {
        host: &address.ip().to_string(),
        port: address.port(),
    };
    net::dial(address, WAIT_MAX).await.ok()
}

async fn wait_for(address: SocketAddr) {
    let come = timeout(WAIT_MAX, async {
        while dial(address).await.is_none() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    come.await.unwrap();
}

/// A gateway before the server of `url`: its address, a user and a password.
async fn before(
    url: &str,
    folder: &std::path::Path,
    upstream_max: u32,
) -> (SocketAddr, String, Secret) {
    let settings = registry::Settings {
        data_dir: folder.to_owned(),
        ..registry::Settings::default()
    };
    let vault = Vault::new(Keyring::parse(KEY).unwrap(), Passphrases::default(), false);
    let registry = Registry::open(&settings, vault, LimitDefaults::default())
        .await
        .unwrap();
    let database = NewDatabase {
        project: NewProject {
            project_ref: "p".into(),
            name: None,
            organization: None,
        },
        name: Some("twin".to_owned()),
        kind: None,
        connection_string: Secret::from(url.to_owned()),
        slug: None,
        traits: Traits {
            max_upstream: Edit::To(upstream_max),
            ..Traits::default()
        },
    };
    let row = registry.register(database, &Actor::local()).await.unwrap();
    let new = NewCredential {
        scope: Scope::Database(row.id),
        user: "twin".to_owned(),
        role: Role::Admin,
        expires_at: None,
    };
    let issued = registry.issue(new, &Actor::local()).await.unwrap();
    let shutdown = Shutdown::new();
    let service = Service::new(Parts {
        settings: Settings::default(),
        admission: Admission::new(Arc::new(registry), Board::new()).unwrap(),
        shutdown: shutdown.clone(),
        client_tls: ClientTls::new(None, None).unwrap(),
        server_tls: None,
        budget: pool::Budget::new(100),
        pool: pool::Settings::default(),
    })
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    shutdown.clone().spawn("test-listener", async move {
        while let Ok((socket, _)) = listener.accept().await {
            let stream = Stream::plain(socket).unwrap();
            shutdown.spawn("test-session", Arc::clone(&service).serve(stream));
        }
    });
    (address, format!("twin.{}", row.slug), issued.password)
}
