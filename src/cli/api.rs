//! The admin API as commands call it: over HTTP, or in this process when no gateway runs.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, header},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower_service::Service;

use super::text;
use crate::{
    admin::{
        Admin, ClientRow, Control, ControlFuture, Entrances, Figures, Order, Parts, PoolRow,
        token_file,
    },
    config::{Config, open_registry},
    crypto::{Secret, random_text},
    gateway,
    shutdown::Shutdown,
};

/// How long an answer may take; a connection test is part of some.
const ANSWER_WAIT_MAX: Duration = Duration::from_mins(1);
/// How long it may take to find out that a gateway runs.
const KNOCK_WAIT_MAX: Duration = Duration::from_secs(2);
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// An error that the API told.
#[derive(Debug, thiserror::Error)]
#[error("{}", text(error, "message"))]
pub(super) struct Failure {
    /// The object under `error`.
    pub(super) error: Value,
}

/// The admin API.
pub(super) enum Api {
    /// Of a running gateway.
    Remote {
        agent: ureq::Agent,
        base: String,
        token: Secret,
    },
    /// In this process, over the registry's file.
    Direct {
        runtime: Runtime,
        router: Box<Router>,
        token: Secret,
    },
}

impl Api {
    /// The given gateway; else the one that the configuration means, if it runs; else our own.
    pub(super) fn reach(
        config: &Config,
        admin: Option<&str>,
        token: Option<&str>,
    ) -> anyhow::Result<Self> {
        let own = reachable(config.listen.admin);
        let base = match admin {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None if TcpStream::connect_timeout(&own, KNOCK_WAIT_MAX).is_ok() => {
                format!("http://{own}")
            }
            None => return Self::direct(config),
        };
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_WAIT_MAX))
            .max_redirects(0)
            .proxy(None)
            .build()
            .new_agent();
        let token = find_token(config, token)?;
        Ok(Self::Remote { agent, base, token })
    }

    fn direct(config: &Config) -> anyhow::Result<Self> {
        config.check_registry()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let registry = runtime.block_on(open_registry(config))?;
        let token = random_text()?;
        let admin = Admin::new(Parts {
            settings: config.admin.clone(),
            registry: Arc::new(registry),
            prober: gateway::prober(config)?,
            figures: Arc::new(Idle),
            control: Arc::new(Idle),
            metrics: Arc::new(String::new),
            token: token.clone(),
            entrances: Entrances {
                postgres: Some(config.listen.postgres),
                redis: Some(config.listen.redis),
                mongodb: Some(config.listen.mongodb),
                public_host: Some(config.listen.public_host.clone())
                    .filter(|host| !host.is_empty()),
            },
            shutdown: Shutdown::new(),
        });
        let router = Box::new(admin.router(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)));
        Ok(Self::Direct {
            runtime,
            router,
            token,
        })
    }

    pub(super) fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call("GET", path, None)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call("POST", path, Some(body))
    }

    pub(super) fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call("DELETE", path, None)
    }

    /// The database that a person means: by slug or id, else by its name if only one has it.
    pub(super) fn database(&self, name: &str, project: Option<&str>) -> anyhow::Result<Value> {
        let shown = self.get(&format!("/databases/{}", segment(name)));
        if let Ok(row) = &shown
            && project.is_none_or(|project| text(row, "project_ref") == project)
        {
            return shown;
        }
        let rows = self.databases(project)?;
        let mut named = rows.into_iter().filter(|row| text(row, "name") == name);
        match (named.next(), named.next()) {
            (Some(row), None) => Ok(row),
            (Some(_), Some(_)) => {
                bail!("several projects have a database '{name}'; give its slug, or --project")
            }
            (None, _) if project.is_none() => shown,
            (None, _) => bail!("the project has no database '{name}'"),
        }
    }

    /// All databases, or those of a project.
    pub(super) fn databases(&self, project: Option<&str>) -> anyhow::Result<Vec<Value>> {
        let project =
            project.map_or_else(String::new, |name| format!("&projectRef={}", segment(name)));
        let mut rows: Vec<Value> = Vec::new();
        loop {
            let cursor = rows
                .last()
                .map_or_else(String::new, |row| format!("&cursor={}", text(row, "id")));
            let page = self.get(&format!("/databases?limit=1000{project}{cursor}"))?;
            match page {
                Value::Array(page) if !page.is_empty() => rows.extend(page),
                _ => return Ok(rows),
            }
        }
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let path = format!("/api/platform{path}");
        let body = body.map_or_else(String::new, Value::to_string);
        let (status, answer) = match self {
            Self::Remote { agent, base, token } => {
                let request = Request::builder()
                    .method(method)
                    .uri(format!("{base}{path}"))
                    .header(header::AUTHORIZATION, format!("Bearer {}", token.expose()))
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(body)
                    .context("--admin is not a URL like http://127.0.0.1:8432")?;
                let mut response = agent
                    .run(request)
                    .with_context(|| format!("no gateway answers at {base}"))?;
                (
                    response.status().as_u16(),
                    response.body_mut().read_to_string()?,
                )
            }
            Self::Direct {
                runtime,
                router,
                token,
            } => {
                let request = Request::builder()
                    .method(method)
                    .uri(path)
                    .header(header::HOST, "localhost")
                    .header(header::AUTHORIZATION, format!("Bearer {}", token.expose()))
                    .body(Body::from(body))?;
                let mut router = router.as_ref().clone();
                runtime.block_on(async move {
                    let response = router.call(request).await?;
                    let status = response.status().as_u16();
                    let bytes = to_bytes(response.into_body(), ANSWER_BYTES_MAX).await?;
                    anyhow::Ok((status, String::from_utf8(bytes.to_vec())?))
                })?
            }
        };
        let value = match answer.as_str() {
            "" => Value::Null,
            answer => serde_json::from_str(answer)
                .map_err(|_| anyhow!("what answers is no polypool (status {status})"))?,
        };
        match status {
            200..=299 => Ok(value),
            _ => Err(Failure {
                error: value.get("error").cloned().unwrap_or_else(
                    || json!({ "code": "FAILED", "message": format!("status {status}") }),
                ),
            }
            .into()),
        }
    }
}

/// A text as one segment of a path, or as a value of a query.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Where to reach a listener that may be bound to every address.
fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listen.port())
        }
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), listen.port())
        }
        _ => listen,
    }
}

fn find_token(config: &Config, given: Option<&str>) -> anyhow::Result<Secret> {
    if let Some(token) = given {
        return Ok(Secret::from(token.to_owned()));
    }
    if let Some(token) = config.secrets.admin_token.get() {
        return Ok(token.clone());
    }
    let path = token_file(&config.registry.data_dir);
    let token = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "no admin token: give --token or POLYPOOL_ADMIN_TOKEN, or the gateway's --data-dir ({})",
            path.display()
        )
    })?;
    Ok(Secret::from(token.trim().to_owned()))
}

/// The figures of a gateway that does not run.
struct Idle;

impl Control for Idle {
    fn control<'a>(&'a self, _: Order, _: &'a str) -> ControlFuture<'a> {
        Box::pin(std::future::ready(Err("no gateway runs".to_owned())))
    }
}

impl Figures for Idle {
    fn pools(&self) -> Vec<PoolRow> {
        Vec::new()
    }

    fn clients(&self) -> Vec<ClientRow> {
        Vec::new()
    }
}
