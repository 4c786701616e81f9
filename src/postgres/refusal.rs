//! What clients are told, in PostgreSQL's words: the only speller of SQLSTATEs.

use std::borrow::Cow;

use bytes::BytesMut;

use super::{
    prepared,
    servers::{ATTRS, Unserved},
    session::Phase,
    wire,
};
use crate::{fault::Refusal, tenant::SessionAttrs};

/// The SQLSTATE of "cached plan must not change result type" and of other things not supported.
pub(super) const FEATURE_NOT_SUPPORTED: &str = "0A000";
/// The server's words where a statement's columns have changed.
const STALE_PLAN: &str = "cached plan must not change result type";

/// The SQLSTATE of a prepared statement that does not exist.
const UNKNOWN_STATEMENT: &str = "26000";

/// Ends the session.
pub(super) fn fatal(out: &mut BytesMut, refusal: &Refusal) {
    say(out, "FATAL", refusal);
}

/// Ends the statement; the session goes on.
pub(super) fn error(out: &mut BytesMut, refusal: &Refusal) {
    say(out, "ERROR", refusal);
}

/// An error as bytes, to take the place of one of the upstream's.
pub(super) fn error_bytes(refusal: &Refusal) -> Box<[u8]> {
    let mut out = BytesMut::new();
    error(&mut out, refusal);
    out.as_ref().into()
}

/// A name that is prepared already.
pub(super) fn duplicate_statement(name: &[u8]) -> Box<[u8]> {
    let mut out = BytesMut::new();
    let text = format!(
        "prepared statement \"{}\" already exists",
        String::from_utf8_lossy(name)
    );
    wire::error_response(&mut out, "ERROR", "42P05", &text, None);
    out.as_ref().into()
}

/// There is no console in this gateway.
pub(super) fn no_console(out: &mut BytesMut) {
    wire::error_response(
        out,
        "FATAL",
        "3D000",
        "database \"polypool\" does not exist",
        None,
    );
}

/// A token would be sent for all to read.
pub(super) fn token_in_clear(out: &mut BytesMut) {
    let text = "the console takes tokens over TLS, or from this machine";
    wire::error_response(out, "FATAL", "28000", text, Some("use sslmode=require"));
}

/// No token of the admin API.
pub(super) fn wrong_token(out: &mut BytesMut) {
    let hint = "the password is a token of the admin API";
    wire::error_response(
        out,
        "FATAL",
        "28P01",
        "password authentication failed",
        Some(hint),
    );
}

/// No command of the console.
pub(super) fn unknown_command(out: &mut BytesMut) {
    let text = "this is not a command of the console";
    wire::error_response(out, "ERROR", "42601", text, Some("SHOW HELP lists them"));
}

/// A message that the console does not take.
pub(super) fn console_malformed(out: &mut BytesMut) {
    let text = "protocol error: not a message that the console takes now";
    wire::error_response(out, "ERROR", "08P01", text, None);
}

/// What the console was asked to do was not done.
pub(super) fn console(out: &mut BytesMut, why: &str) {
    wire::error_response(out, "ERROR", "55000", why, None);
}

/// A database that is not the one that the login leads to.
pub(super) fn unknown_database(out: &mut BytesMut, name: &str) {
    let text = format!("database \"{name}\" does not exist");
    wire::error_response(out, "FATAL", "3D000", &text, None);
}

/// A client that got no upstream: at its login, or for a statement.
pub(super) fn unserved(out: &mut BytesMut, severity: Severity, unserved: &Unserved) {
    let severity = match severity {
        Severity::Error => "ERROR",
        Severity::Fatal => "FATAL",
    };
    let (code, text, hint) = match unserved {
        Unserved::Checkout(error) => return say(out, severity, &error.refusal()),
        Unserved::NoServer(attrs) => {
            let why = match attrs {
                SessionAttrs::Standby => "server is not in hot standby mode",
                SessionAttrs::ReadOnly => "session is not read-only",
                SessionAttrs::ReadWrite => "session is read-only",
                SessionAttrs::Primary => "server is in hot standby mode",
                SessionAttrs::Any | SessionAttrs::PreferStandby => "none can be reached",
            };
            let text = format!(
                "no server of this database fits target_session_attrs={}: {why}",
                attrs.label()
            );
            (
                "57P03",
                text,
                "try again, or ask for another one".to_owned(),
            )
        }
        Unserved::Unknown(said) => {
            let text = format!("invalid value for parameter \"{ATTRS}\": \"{said}\"");
            let known = SessionAttrs::ALL.map(SessionAttrs::label).join(", ");
            ("22023", text, format!("Available values: {known}."))
        }
        Unserved::Denied => {
            let text =
                "session is read-only: it cannot be served with target_session_attrs=read-write";
            let hint = "ask for another place, or log in with a credential of role write";
            ("25006", text.to_owned(), hint.to_owned())
        }
        Unserved::Twice(one, other) => {
            let text = format!("target_session_attrs is \"{one}\" and \"{other}\" at once");
            ("22023", text, "say it once".to_owned())
        }
    };
    wire::error_response(out, severity, code, &text, Some(&hint));
}

/// The same as bytes, to take the place of one of the upstream's.
pub(super) fn unserved_bytes(why: &Unserved) -> Box<[u8]> {
    let mut out = BytesMut::new();
    unserved(&mut out, Severity::Error, why);
    out.as_ref().into()
}

/// Whether an error ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// The statement.
    Error,
    /// The session.
    Fatal,
}

/// A name that is not prepared.
pub(super) fn unknown_statement(name: &[u8]) -> Box<[u8]> {
    let mut out = BytesMut::new();
    let text = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        let name = String::from_utf8_lossy(name);
        format!("prepared statement \"{name}\" does not exist")
    };
    wire::error_response(&mut out, "ERROR", UNKNOWN_STATEMENT, &text, None);
    out.as_ref().into()
}

/// A statement would give other columns than its client knows.
pub(super) fn changed_columns() -> Box<[u8]> {
    let mut out = BytesMut::new();
    wire::error_response(&mut out, "ERROR", FEATURE_NOT_SUPPORTED, STALE_PLAN, None);
    out.as_ref().into()
}

/// A Bind brings another number of values than its statement takes.
pub(super) fn miscounted(name: &[u8], values: usize, wanted: usize) -> Box<[u8]> {
    let mut out = BytesMut::new();
    let name = String::from_utf8_lossy(name);
    let text = format!(
        "bind message supplies {values} parameters, but prepared statement \"{name}\" requires {wanted}"
    );
    wire::error_response(&mut out, "ERROR", "08P01", &text, None);
    out.as_ref().into()
}

/// More prepared statements than a client may hold.
pub(super) fn too_many_statements(max: usize) -> Box<[u8]> {
    let mut out = BytesMut::new();
    let text = format!("too many prepared statements (limit {max})");
    let hint = "close statements that are not needed, or raise statements_max";
    wire::error_response(&mut out, "ERROR", "53400", &text, Some(hint));
    out.as_ref().into()
}

/// The client asked for its query to be cancelled while it waited for an upstream.
pub(super) fn cancelled() -> Box<[u8]> {
    let mut out = BytesMut::new();
    let text = "canceling statement due to user request";
    wire::error_response(&mut out, "ERROR", "57014", text, None);
    out.as_ref().into()
}

/// An administrator or the end of the gateway ends the session.
pub(super) fn terminated(out: &mut BytesMut) {
    let text = "terminating connection due to administrator command";
    wire::error_response(out, "FATAL", "57P01", text, None);
}

/// The connection that listens for the client was lost: what was notified since, nobody has heard.
pub(super) fn unheard(out: &mut BytesMut) {
    let text =
        "the connection that listens for this session was lost; notifications may be missing";
    let hint = Some("connect and LISTEN again, then look at what has changed meanwhile");
    wire::error_response(out, "FATAL", "08006", text, hint);
}

/// More notifications wait for the client than may.
pub(super) fn flooded(out: &mut BytesMut, bytes_max: usize) {
    let text = format!("more than {bytes_max} bytes of notifications wait for this session");
    let hint = "read them in time, and keep transactions short, or raise notifications_bytes_max";
    wire::error_response(out, "FATAL", "53400", &text, Some(hint));
}

/// Something took longer than it may, which ends the session.
pub(super) fn overdue(out: &mut BytesMut, phase: Phase) {
    let (code, what) = match phase {
        Phase::Query => ("57014", "query"),
        Phase::Transaction => ("25P03", "idle-in-transaction"),
        Phase::Pause => ("57P05", "idle-session"),
    };
    let text = format!("terminating connection due to {what} timeout");
    wire::error_response(out, "FATAL", code, &text, None);
}

/// Whether an error of the upstream's says that nothing can be written there.
pub(super) fn is_read_only(body: &[u8]) -> bool {
    let mut fields = wire::error_fields(body);
    fields.any(|(letter, text)| letter == b'C' && text == b"25006")
}

/// Whether an error of the upstream's says that a prepared statement does not exist.
pub(super) fn is_unknown_statement(body: &[u8]) -> bool {
    let mut fields = wire::error_fields(body);
    fields.any(|(letter, text)| letter == b'C' && text == UNKNOWN_STATEMENT.as_bytes())
}

/// An error of the upstream's that speaks of a statement by the name it has there, with the client's
/// name instead; `None` if it does not.
pub(super) fn renamed(body: &[u8], id: u64, name: &[u8]) -> Option<Box<[u8]>> {
    let ours = format!("\"{}\"", prepared::upstream_name(id));
    memchr::memmem::find(body, ours.as_bytes())?;
    let theirs = [b"\"", name, b"\""].concat();
    let mut out = BytesMut::new();
    wire::tagged(&mut out, b'E', |out| {
        for (letter, text) in wire::error_fields(body) {
            out.extend_from_slice(&[letter]);
            let mut rest = text;
            while let Some(at) = memchr::memmem::find(rest, ours.as_bytes()) {
                out.extend_from_slice(rest.get(..at).unwrap_or_default());
                out.extend_from_slice(&theirs);
                rest = rest.get(at + ours.len()..).unwrap_or_default();
            }
            out.extend_from_slice(rest);
            out.extend_from_slice(&[0]);
        }
        out.extend_from_slice(&[0]);
    });
    Some(out.as_ref().into())
}

/// Whether an error of the upstream's says that a prepared statement's columns have changed.
pub(super) fn is_stale_plan(body: &[u8]) -> bool {
    let mut fields = wire::error_fields(body);
    fields.any(|(letter, text)| letter == b'C' && text == FEATURE_NOT_SUPPORTED.as_bytes())
        && wire::error_fields(body).any(|(letter, text)| {
            letter == b'R' && text == b"RevalidateCachedQuery"
                || letter == b'M' && text == STALE_PLAN.as_bytes()
        })
}

/// An upstream's error in one line: SQLSTATE and message.
pub(super) fn upstream_error(body: &[u8]) -> (String, String) {
    let field = |wanted: u8| {
        let mut fields = wire::error_fields(body);
        let found = fields.find(|(letter, _)| *letter == wanted);
        found
            .map_or(Cow::Borrowed(""), |(_, text)| String::from_utf8_lossy(text))
            .into_owned()
    };
    (field(b'C'), field(b'M'))
}

/// Whether the server's rules let nobody in this way, which may be the matter of TLS.
pub(super) fn is_barred(code: &str) -> bool {
    code == "28000"
}

/// What the person who registered a database can do about a login that the server refused.
pub(super) fn login_hint(code: &str) -> &'static str {
    match code {
        "28P01" => "check the user and the password",
        "28000" => "check the user, and that pg_hba.conf lets it in from here",
        "3D000" => "check the name of the database",
        "53300" => {
            "the server has no connection left; lower the pool's maximum or raise the server's"
        }
        "57P03" => "the server starts up or shuts down; try again later",
        _ => "look at the server's log",
    }
}

fn say(out: &mut BytesMut, severity: &str, refusal: &Refusal) {
    let (code, hint) = code_of(refusal);
    let text = match refusal {
        // The server's own words, which tools look for.
        Refusal::LoginRejected => "password authentication failed".to_owned(),
        other => other.to_string(),
    };
    wire::error_response(out, severity, code, &text, hint);
}

fn code_of(refusal: &Refusal) -> (&'static str, Option<&'static str>) {
    match refusal {
        Refusal::LoginRejected => ("28P01", None),
        Refusal::LoginThrottled { .. } | Refusal::LoginRequired => ("28000", None),
        Refusal::TenantAmbiguous { .. } => (
            "3D000",
            Some("ask for one of these databases, or log in as <user>.<slug>"),
        ),
        Refusal::TenantContradiction { .. } => ("3D000", None),
        Refusal::TooManyClients { .. }
        | Refusal::QueueFull { .. }
        | Refusal::QueueTimeout { .. } => ("53300", None),
        Refusal::UpstreamDown { .. } | Refusal::Paused | Refusal::RegistryDown => ("57P03", None),
        Refusal::UpstreamLost { .. } => ("08006", None),
        Refusal::Draining => ("57P01", None),
        Refusal::FrameTooLarge { .. } => ("54000", None),
        Refusal::Malformed { .. } => ("08P01", None),
        Refusal::Unsupported { .. } => (FEATURE_NOT_SUPPORTED, None),
        Refusal::NotPermitted { .. } => ("42501", None),
        Refusal::TimedOut { .. } => ("57014", None),
        Refusal::Internal => ("XX000", None),
    }
}
