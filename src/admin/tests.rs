//! The API as a caller sees it, over a registry of its own and a prober that dials nothing.

use std::net::{Ipv4Addr, SocketAddr};

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower_service::Service;

use super::*;
use crate::{
    crypto::Keyring,
    net::{DialFault, DialStep},
    registry::{LimitDefaults, Passphrases, Vault},
    tenant::Target,
};

const CANARY: &str = "canary-93bb";
const TOKEN: &str = "the-admin-token";

/// Refuses the host `down.invalid` at the step "connect" and the password `wrong` at "login".
struct FakeProber;

impl Prober for FakeProber {
    fn probe<'a>(&'a self, target: &'a Target) -> ProbeFuture<'a> {
        Box::pin(async move {
            let host = &target.endpoint().unwrap().host;
            if host == "down.invalid" {
                return Err(DialFault::new(DialStep::Connect, "refused", "start it"));
            }
            if target
                .password
                .as_ref()
                .is_some_and(|password| password.matches(b"wrong"))
            {
                return Err(DialFault::new(
                    DialStep::Login,
                    "wrong password",
                    "look it up",
                ));
            }
            if host == "slow.invalid" {
                std::future::pending::<()>().await;
            }
            Ok("7.0.15".to_owned())
        })
    }
}

struct NoFigures;

impl Figures for NoFigures {
    fn pools(&self) -> Vec<PoolRow> {
        Vec::new()
    }

    fn clients(&self) -> Vec<ClientRow> {
        Vec::new()
    }
}

struct NoControl;

impl Control for NoControl {
    fn control<'a>(&'a self, _: Order, _: &'a str) -> ControlFuture<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
}

struct Api {
    admin: Arc<Admin>,
    shutdown: Shutdown,
    _folder: TempDir,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
    text: String,
}

impl Reply {
    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

async fn api() -> Api {
    let folder = tempfile::tempdir().unwrap();
    let key = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let vault = Vault::new(Keyring::parse(key).unwrap(), Passphrases::default(), false);
    let settings = crate::registry::Settings {
        data_dir: folder.path().to_owned(),
        ..crate::registry::Settings::default()
    };
    let registry = Registry::open(&settings, vault, LimitDefaults::default())
        .await
        .unwrap();
    let shutdown = Shutdown::new();
    let at = |port| Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    let admin = Admin::new(Parts {
        settings: Settings::default(),
        registry: Arc::new(registry),
        prober: Arc::new(FakeProber),
        figures: Arc::new(NoFigures),
        control: Arc::new(NoControl),
        metrics: Arc::new(|| "polypool_build_info 1\n".to_owned()),
        token: Secret::from(TOKEN.to_owned()),
        entrances: Entrances {
            postgres: at(6432),
            redis: at(6380),
            mongodb: at(27018),
            public_host: None,
        },
        shutdown: shutdown.clone(),
    });
    Api {
        admin,
        shutdown,
        _folder: folder,
    }
}

impl Api {
    async fn call(&self, method: Method, path: &str, body: Value) -> Reply {
        self.call_as(TOKEN, method, path, body).await
    }

    async fn call_as(&self, token: &str, method: Method, path: &str, body: Value) -> Reply {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1:8432")
            .header("authorization", format!("Bearer {token}"))
            .body(Body::from(body))
            .unwrap();
        self.send(request).await
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let mut router = self
            .admin
            .router(SocketAddr::from((Ipv4Addr::LOCALHOST, 5)));
        let response = router.call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        }
    }

    async fn add(&self, url: &str, name: &str) -> Reply {
        let body = json!({ "projectRef": "demo", "name": name, "connectionString": url });
        self.call(Method::POST, "/api/platform/databases", body)
            .await
    }
}

#[tokio::test]
async fn databases_are_registered_shown_changed_and_removed() {
    let api = api().await;
    let url = format!("postgres://u:{CANARY}@db.invalid/app");
    let added = api.add(&url, "main").await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text);
    assert_eq!(
        added.body["connection_string"],
        "postgres://u:****@db.invalid:5432/app"
    );
    assert_eq!(added.body["slug"], "main");
    let id = added.body["id"].as_str().unwrap();
    for path in [
        format!("/api/platform/databases/{id}"),
        "/api/platform/databases/main".into(),
    ] {
        let shown = api.call(Method::GET, &path, Value::Null).await;
        assert_eq!(
            (shown.status, &shown.body["project_ref"]),
            (StatusCode::OK, &json!("demo"))
        );
        assert!(!shown.text.contains(CANARY));
    }
    let list = api
        .call(
            Method::GET,
            "/api/platform/databases?projectRef=demo",
            Value::Null,
        )
        .await;
    assert_eq!(list.body.as_array().unwrap().len(), 1);
    let none = api
        .call(
            Method::GET,
            "/api/platform/databases?projectRef=x",
            Value::Null,
        )
        .await;
    assert_eq!(none.body, json!([]));

    let path = format!("/api/platform/databases/{id}");
    let change = json!({ "maxUpstream": 5, "description": "the main one" });
    let changed = api.call(Method::PATCH, &path, change).await;
    assert_eq!(
        (&changed.body["max_upstream"], &changed.body["version"]),
        (&json!(5), &json!(2))
    );
    let cleared = api
        .call(Method::PATCH, &path, json!({ "max_upstream": null }))
        .await;
    assert_eq!(cleared.body["max_upstream"], Value::Null);
    assert_eq!(cleared.body["description"], "the main one");

    let removed = api.call(Method::DELETE, &path, Value::Null).await;
    assert_eq!(
        (removed.status, removed.text.as_str()),
        (StatusCode::NO_CONTENT, "")
    );
    let shown = api.call(Method::GET, &path, Value::Null).await;
    assert_eq!(
        (shown.status, shown.code()),
        (StatusCode::NOT_FOUND, "DB_NOT_FOUND")
    );
    let audit = api
        .call(Method::GET, "/api/platform/audit", Value::Null)
        .await;
    assert_eq!(audit.body.as_array().unwrap().len(), 5);
    assert!(!audit.text.contains(CANARY));
}

#[tokio::test]
async fn a_failed_test_registers_nothing_and_names_its_step() {
    let api = api().await;
    let cases = [
        (
            "redis://down.invalid",
            400,
            "DB_CONNECTION_FAILED",
            "connect",
        ),
        (
            "redis://:wrong@h.invalid",
            400,
            "DB_INVALID_CREDENTIALS",
            "login",
        ),
        ("redis://169.254.169.254", 403, "EGRESS_DENIED", ""),
        ("redis://", 400, "INVALID_CONNECTION_STRING", ""),
        ("mysql://h", 400, "INVALID_CONNECTION_STRING", ""),
    ];
    for (url, status, code, step) in cases {
        let reply = api.add(url, "x").await;
        assert_eq!(
            (reply.status.as_u16(), reply.code()),
            (status, code),
            "{url}"
        );
        let told = reply.body["error"]["details"]["step"]
            .as_str()
            .unwrap_or_default();
        assert_eq!(told, step, "{url}");
    }
    let list = api
        .call(Method::GET, "/api/platform/projects", Value::Null)
        .await;
    assert_eq!(list.body, json!([]));
}

#[tokio::test]
async fn a_test_that_hangs_is_a_timeout() {
    let api = api().await;
    tokio::time::pause();
    let body = json!({ "type": "redis", "connectionString": "redis://slow.invalid" });
    let reply = api
        .call(Method::POST, "/api/platform/databases/test", body)
        .await;
    assert_eq!(
        (reply.status, &reply.body["success"]),
        (StatusCode::OK, &json!(false))
    );
    assert_eq!(reply.body["error"]["code"], "DB_TIMEOUT");
}

#[tokio::test]
async fn tests_tell_the_version_or_the_step() {
    let api = api().await;
    let path = "/api/platform/databases/test";
    let good = json!({ "type": "redis", "host": "h.invalid", "password": "p@ss/w" });
    let reply = api.call(Method::POST, path, good).await;
    assert_eq!(
        (&reply.body["success"], &reply.body["server_version"]),
        (&json!(true), &json!("7.0.15"))
    );
    let bad = json!({ "type": "redis", "connection_string": "redis://:wrong@h.invalid" });
    let reply = api.call(Method::POST, path, bad).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.body["error"]["code"], "DB_INVALID_CREDENTIALS");
    assert_eq!(
        reply.body["steps"][3],
        json!({ "name": "login", "ok": false })
    );
    api.add("redis://h.invalid", "cache").await;
    let reply = api
        .call(
            Method::POST,
            "/api/platform/databases/cache/test",
            Value::Null,
        )
        .await;
    assert_eq!(reply.body["success"], true);
}

#[tokio::test]
async fn one_project_credential_has_a_url_for_each_type() {
    let api = api().await;
    api.add("postgres://u:p@h.invalid/app", "main").await;
    api.add("redis://:p@h.invalid/3", "cache").await;
    let path = "/api/platform/projects/demo/credentials";
    let body = json!({ "username": "app", "role": "admin" });
    let issued = api.call(Method::POST, path, body.clone()).await;
    assert_eq!(issued.status, StatusCode::CREATED, "{}", issued.text);
    let password = issued.body["password"].as_str().unwrap();
    assert_eq!(issued.body["username"], "app.demo");
    assert_eq!(
        issued.body["urls"],
        json!({
            "postgres": format!("postgresql://app.demo:{password}@127.0.0.1:6432/app"),
            "redis": format!("redis://app.demo:{password}@127.0.0.1:6380/3"),
        })
    );
    assert_eq!(issued.headers["cache-control"], "no-store");
    let again = api.call(Method::POST, path, body).await;
    assert_eq!(
        (again.status, again.code()),
        (StatusCode::CONFLICT, "CONFLICT")
    );
    let list = api.call(Method::GET, path, Value::Null).await;
    assert!(!list.text.contains(password) && list.text.contains("\"public_id\""));
    let id = issued.body["id"].as_str().unwrap();
    let gone = api
        .call(Method::DELETE, &format!("{path}/{id}"), Value::Null)
        .await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);

    let path = "/api/platform/databases/cache/credentials";
    let issued = api.call(Method::POST, path, json!({})).await;
    let password = issued.body["password"].as_str().unwrap();
    let url = format!("redis://app.cache:{password}@127.0.0.1:6380/3");
    assert_eq!(
        (&issued.body["url"], &issued.body["role"]),
        (&json!(url), &json!("write"))
    );
}

#[tokio::test]
async fn the_gate_asks_for_a_token_and_a_known_host() {
    let api = api().await;
    let path = "/api/platform/databases";
    let wrong = api.call_as("x", Method::GET, path, Value::Null).await;
    assert_eq!(
        (wrong.status, wrong.code()),
        (StatusCode::UNAUTHORIZED, "UNAUTHORIZED")
    );
    let open = Request::get("/livez")
        .header("host", "localhost")
        .body(Body::empty())
        .unwrap();
    assert_eq!(api.send(open).await.status, StatusCode::OK);
    let foreign = Request::get("/livez")
        .header("host", "evil.test")
        .body(Body::empty())
        .unwrap();
    assert_eq!(api.send(foreign).await.status, StatusCode::FORBIDDEN);
    let apikey = Request::get(path)
        .header("host", "localhost")
        .header("apikey", TOKEN)
        .body(Body::empty())
        .unwrap();
    assert_eq!(api.send(apikey).await.status, StatusCode::OK);

    let body = json!({ "name": "eyes", "role": "viewer" });
    let made = api
        .call(Method::POST, "/api/platform/tokens", body.clone())
        .await;
    let viewer = made.body["token"].as_str().unwrap();
    assert_eq!(
        api.call_as(viewer, Method::GET, path, Value::Null)
            .await
            .status,
        StatusCode::OK
    );
    for (method, path) in [(Method::POST, path), (Method::GET, "/api/platform/tokens")] {
        let refused = api.call_as(viewer, method, path, json!({})).await;
        assert_eq!(
            (refused.status, refused.code()),
            (StatusCode::FORBIDDEN, "FORBIDDEN")
        );
    }
}

#[tokio::test]
async fn wrong_requests_get_the_error_body() {
    let api = api().await;
    let nowhere = api
        .call(Method::GET, "/api/platform/nothing", Value::Null)
        .await;
    assert_eq!(
        (nowhere.status, nowhere.code()),
        (StatusCode::NOT_FOUND, "NOT_FOUND")
    );
    let method = api
        .call(Method::PUT, "/api/platform/databases", Value::Null)
        .await;
    assert_eq!(
        (method.status, method.code()),
        (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED")
    );
    assert!(method.headers.contains_key("allow"));
    let body = json!({ "conectionString": "redis://h" });
    let unknown = api
        .call(Method::POST, "/api/platform/databases", body)
        .await;
    assert_eq!(
        (unknown.status, unknown.code()),
        (StatusCode::BAD_REQUEST, "UNKNOWN_FIELD")
    );
    let body = json!({ "name": "x".repeat(4 << 20) });
    let large = api
        .call(Method::POST, "/api/platform/databases", body)
        .await;
    assert_eq!(
        (large.status, large.code()),
        (StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE")
    );
    let query = api
        .call(
            Method::GET,
            "/api/platform/databases?limit=many",
            Value::Null,
        )
        .await;
    assert_eq!(
        (query.status, query.code()),
        (StatusCode::BAD_REQUEST, "BAD_REQUEST")
    );
}

#[tokio::test]
async fn readiness_ends_with_draining_and_metrics_are_text() {
    let api = api().await;
    let ready = api.call(Method::GET, "/readyz", Value::Null).await;
    assert_eq!(
        (ready.status, &ready.body["status"]),
        (StatusCode::OK, &json!("ready"))
    );
    assert!(
        api.call(Method::GET, "/metrics", Value::Null)
            .await
            .text
            .contains("polypool_build")
    );
    for path in ["stats", "pools", "clients", "info"] {
        let reply = api
            .call(Method::GET, &format!("/api/platform/{path}"), Value::Null)
            .await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
    }
    api.shutdown.begin_drain();
    let ready = api.call(Method::GET, "/readyz", Value::Null).await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.body["status"], "draining");
}
