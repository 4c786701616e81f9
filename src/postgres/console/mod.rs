//! The console: what clients of the database `polypool` talk to, in PgBouncer's words and columns.
//!
//! SQL in name only: a fixed list of commands (`command`), answered with tables of texts (`tables`),
//! by the simple and the extended protocol (`talk`). What is known and done behind it is the
//! gateway's ([`Operator`]), for the pools of all protocols. A login is a token of the admin API.

mod columns;
mod command;
mod tables;
mod talk;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::{flow::Peer, refusal, service::Service, wire};
use crate::{
    pool::PoolStats,
    registry::TokenRole,
    session::{ClientFigures, Totals},
    tenant::Tenant,
};

/// The name of the console's database.
pub(super) const DATABASE: &str = "polypool";
/// How long a client may take to send its token.
const LOGIN_MAX: Duration = Duration::from_secs(30);
/// How long a wrong token is thought about.
const WRONG_TOKEN_DELAY: Duration = Duration::from_secs(1);
/// How long a client may take to read why it is not let in.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// An answer that may take a while.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the console shows and does; made by whoever knows all protocols.
pub trait Operator: Send + Sync {
    /// Whose token it is, and what it may do.
    fn check<'a>(&'a self, token: &'a str) -> Reply<'a, Option<(String, TokenRole)>>;
    /// Every pool.
    fn pools(&self) -> Vec<PoolView>;
    /// Every client.
    fn clients(&self) -> Vec<ClientFigures>;
    /// Every setting: name, value, default; no secrets.
    fn settings(&self) -> Vec<[String; 3]>;
    /// How long the gateway runs.
    fn uptime(&self) -> Duration;
    /// Acts on one database, by its slug, or on all; an error says why not.
    fn act<'a>(&'a self, action: Action, slug: Option<&'a str>) -> Reply<'a, Result<(), String>>;
    /// Ends one client; false: there is none of that number.
    fn end_client(&self, id: u64) -> bool;
    /// Reads again what can be read again.
    ///
    /// # Errors
    /// Why it could not.
    fn reload(&self) -> Result<(), String>;
}

/// One pool.
pub struct PoolView {
    /// Whose it is.
    pub tenant: Arc<Tenant>,
    /// Its counts.
    pub stats: PoolStats,
    /// What its server is, `primary` or `standby`, where the tenant has several.
    pub role: Option<&'static str>,
    /// What its clients did that have left.
    pub departed: Totals,
}

/// What can be done to a database's pools and clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Hold back new leases, and wait until none is in use.
    Pause,
    /// End a pause.
    Resume,
    /// Close every upstream, now or when it comes back.
    Reconnect,
    /// End its clients.
    Kill,
}

/// A client of the console, from its start-up packet on.
pub(super) async fn serve(service: &Service, mut client: Peer) {
    let Some(operator) = service.operator() else {
        refusal::no_console(&mut client.out);
        drop(timeout(LAST_WORDS_MAX, client.flush()).await);
        return;
    };
    let login = timeout(LOGIN_MAX, log_in(&*operator, &mut client)).await;
    let Ok(Some(role)) = login else {
        drop(timeout(LAST_WORDS_MAX, client.flush()).await);
        return;
    };
    let mut talk = talk::Talk::new(operator, client, role);
    let shutdown = service.shutdown.clone();
    tokio::select! {
        () = talk.run() => {}
        () = shutdown.draining() => {}
    }
}

/// The role of the token that the client sends; `None` if it is not let in, with the reason in `out`.
async fn log_in(operator: &dyn Operator, client: &mut Peer) -> Option<TokenRole> {
    let stream = &client.stream;
    if !stream.is_tls() && !stream.peer().ip().to_canonical().is_loopback() {
        refusal::token_in_clear(&mut client.out);
        return None;
    }
    wire::authentication(&mut client.out, 3, &[]);
    client.flush().await.ok()?;
    let (tag, body) = talk::next_message(client).await?;
    let token = body.strip_suffix(&[0]).filter(|_| tag == b'p');
    let token = token.and_then(|token| std::str::from_utf8(token).ok());
    let found = match token {
        Some(token) => operator.check(token).await,
        None => None,
    };
    let Some((name, role)) = found else {
        sleep(WRONG_TOKEN_DELAY).await;
        refusal::wrong_token(&mut client.out);
        return None;
    };
    tracing::info!(peer = %client.stream.peer(), token = name, %role, "console opened");
    Some(role)
}
