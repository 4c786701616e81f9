//! What a client is told, in the server's own words. The only speller of error replies.

use bytes::{BufMut, BytesMut};

use crate::fault::{Effect, Refusal};

/// How much of an unknown command's arguments is echoed, as the server bounds it.
const ECHO_BYTES_MAX: usize = 128;

/// How much of a server's error is repeated in one of ours.
const ERROR_BYTES_MAX: usize = 512;

/// Errors that need no argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    /// A command before login.
    NoAuth,
    /// `HELLO` without AUTH before login.
    HelloNoAuth,
    /// Wrong or unknown user or password.
    WrongPass,
    /// A version other than 2 and 3.
    NoProto,
    /// The version is no number.
    ProtocolVersion,
    /// A client name with blanks or control characters.
    ClientName,
    /// Options that do not fit.
    Syntax,
    /// A number that is none.
    NotInteger,
    /// A database number beyond the server's.
    DatabaseRange,
    /// `EXEC` outside a transaction.
    ExecWithoutMulti,
    /// `DISCARD` outside a transaction.
    DiscardWithoutMulti,
    /// A transaction with a refused command.
    ExecAbort,
    /// The server is no cluster.
    NoCluster,
    /// `CLIENT KILL` of an address that nobody has.
    NoSuchClient,
    /// Keys of several slots in a command that cannot be split.
    CrossSlot,
    /// No node of the cluster has the slot.
    SlotUnserved,
    /// The slot is moving, and was not found in time.
    SlotMoving,
    /// A cluster has one database.
    SelectInCluster,
    /// A node has too much to do.
    Crowded,
    /// A login as somebody else while subscribed, watching or in a transaction.
    LoginBusy,
    /// `CLIENT CACHING` without tracking.
    NotTracking,
    /// `CLIENT TRACKING` with two clients to redirect to.
    RedirectTwice,
    /// `CLIENT TRACKING` with a client to redirect to that is not there.
    RedirectUnknown,
    /// `CLIENT KILL ID` with a number that no client can have.
    ClientId,
    /// A command of a client that is told of every command.
    Monitoring,
    /// The server does not let us mark the end of a client's writes.
    WaitUnmarked,
    /// A wait that another client has ended so.
    Unblocked,
    /// `CLIENT UNBLOCK` with something else at its end.
    UnblockReason,
}

impl Plain {
    const fn text(self) -> &'static str {
        match self {
            Self::NoAuth => "NOAUTH Authentication required.",
            Self::HelloNoAuth => {
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
                 HELLO AUTH <user> <pass> option can be used to authenticate the client and select \
                 the RESP protocol version at the same time"
            }
            Self::WrongPass => "WRONGPASS invalid username-password pair or user is disabled.",
            Self::NoProto => "NOPROTO unsupported protocol version",
            Self::ProtocolVersion => "ERR Protocol version is not an integer or out of range",
            Self::ClientName => {
                "ERR Client names cannot contain spaces, newlines or special characters."
            }
            Self::Syntax => "ERR syntax error",
            Self::NotInteger => "ERR value is not an integer or out of range",
            Self::DatabaseRange => "ERR DB index is out of range",
            Self::ExecWithoutMulti => "ERR EXEC without MULTI",
            Self::DiscardWithoutMulti => "ERR DISCARD without MULTI",
            Self::ExecAbort => "EXECABORT Transaction discarded because of previous errors.",
            Self::NoCluster => "ERR This instance has cluster support disabled",
            Self::NotTracking => {
                "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or \
                 OPTOUT mode enabled"
            }
            Self::RedirectTwice => "ERR A client can only redirect to a single other client",
            Self::RedirectUnknown => "ERR The client ID you want redirect to does not exist",
            Self::ClientId => "ERR client-id should be greater than 0",
            Self::Monitoring => "ERR Replica can't interact with the keyspace",
            Self::WaitUnmarked => {
                "ERR WAIT needs an upstream user that may run SWAPDB, by which the gateway marks the \
                 end of this client's writes"
            }
            Self::UnblockReason => "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR",
            Self::Unblocked => "UNBLOCKED client unblocked via CLIENT UNBLOCK",
            Self::NoSuchClient => "ERR No such client",
            Self::CrossSlot => "CROSSSLOT Keys in request don't hash to the same slot",
            Self::SlotUnserved => "CLUSTERDOWN Hash slot not served",
            Self::SlotMoving => {
                "TRYAGAIN the slot of this key is moving to another node, command not executed"
            }
            Self::SelectInCluster => "ERR SELECT is not allowed in cluster mode",
            Self::Crowded => "ERR too much waits for this node, command not sent",
            Self::LoginBusy => {
                "ERR another login is not possible while subscribed, watching or in a transaction"
            }
        }
    }
}

/// Appends an error without arguments.
pub(super) fn plain(out: &mut BytesMut, what: Plain) {
    line(out, what.text());
}

/// Appends a refusal.
pub(super) fn refuse(out: &mut BytesMut, refusal: &Refusal) {
    match refusal {
        Refusal::LoginRejected => plain(out, Plain::WrongPass),
        Refusal::LoginRequired => plain(out, Plain::NoAuth),
        // Drivers look for this text and treat it as a reason to try again elsewhere.
        Refusal::TooManyClients { .. } => line(out, "ERR max number of clients reached"),
        Refusal::NotPermitted { what } => denied(out, what),
        Refusal::UpstreamLost {
            effect: Effect::Unknown,
        } => {
            line(out, "ERR upstream connection lost, command outcome unknown");
        }
        Refusal::UpstreamLost {
            effect: Effect::None,
        } => {
            line(out, "ERR upstream connection lost, command not sent");
        }
        Refusal::UpstreamDown { cause } if busy(cause).is_some() => {
            line(out, busy(cause).unwrap_or_default());
        }
        Refusal::Malformed { what } => line(out, format!("ERR Protocol error: {what}")),
        Refusal::LoginThrottled { .. }
        | Refusal::TenantAmbiguous { .. }
        | Refusal::TenantContradiction { .. }
        | Refusal::QueueFull { .. }
        | Refusal::QueueTimeout { .. }
        | Refusal::UpstreamDown { .. }
        | Refusal::Paused
        | Refusal::Draining
        | Refusal::RegistryDown
        | Refusal::FrameTooLarge { .. }
        | Refusal::Unsupported { .. }
        | Refusal::TimedOut { .. }
        | Refusal::Internal => line(out, format!("ERR {refusal}")),
    }
}

/// Whether a script keeps the server from serving.
pub(super) fn is_busy(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::UpstreamDown { cause } if busy(cause).is_some())
}

/// Appends the error of a broken frame, after which the client is closed.
pub(super) fn malformed(out: &mut BytesMut, fault: &impl std::error::Error) {
    line(out, format!("ERR {fault}"));
}

/// Appends that role or policy forbid a command.
pub(super) fn denied(out: &mut BytesMut, name: &str) {
    line(
        out,
        format!("NOPERM this user has no permissions to run the '{name}' command"),
    );
}

/// Appends that a command is served to nobody here.
pub(super) fn unsupported(out: &mut BytesMut, name: &str) {
    let name = name.to_ascii_uppercase().replace('|', " ");
    line(out, format!("ERR {name} is not supported by this gateway"));
}

/// Appends the server's answer to a wrong number of words.
pub(super) fn wrong_arity(out: &mut BytesMut, name: &str) {
    line(
        out,
        format!("ERR wrong number of arguments for '{name}' command"),
    );
}

/// Appends the server's answer to an option of HELLO that it does not know.
pub(super) fn hello_option(out: &mut BytesMut, option: &[u8]) {
    let parts = [
        b"ERR Syntax error in HELLO option '",
        // The server shows all of it.
        shown(option, usize::MAX),
        b"'",
    ];
    line(out, parts.concat());
}

/// Appends why EXEC is not carried out at all; `why` writes the error that another command would get.
pub(super) fn exec_rejected(out: &mut BytesMut, why: impl FnOnce(&mut BytesMut)) {
    let mut error = BytesMut::new();
    why(&mut error);
    let text = error.strip_prefix(b"-").unwrap_or(&error);
    let text = text.strip_prefix(b"ERR ").unwrap_or(text);
    let text = text.strip_suffix(b"\r\n").unwrap_or(text);
    line(
        out,
        [b"EXECABORT Transaction discarded because of: ", text].concat(),
    );
}

/// Appends the server's answer to an unknown command.
pub(super) fn unknown_command<'a>(
    out: &mut BytesMut,
    name: &[u8],
    args: impl Iterator<Item = &'a [u8]>,
) {
    let mut echo = Vec::new();
    for arg in args {
        if echo.len() >= ECHO_BYTES_MAX {
            break;
        }
        let room = ECHO_BYTES_MAX - echo.len();
        echo.push(b'\'');
        echo.extend_from_slice(shown(arg, room));
        echo.extend_from_slice(b"' ");
    }
    let name = shown(name, ECHO_BYTES_MAX);
    let parts = [
        b"ERR unknown command '",
        name,
        b"', with args beginning with: ",
        &echo,
    ];
    line(out, parts.concat());
}

/// Appends the server's answer to a type of client that it does not know.
pub(super) fn unknown_client_type(out: &mut BytesMut, word: &[u8]) {
    let word = shown(word, ECHO_BYTES_MAX);
    line(out, [b"ERR Unknown client type '", word, b"'"].concat());
}

/// Appends the server's answer to an unknown subcommand.
pub(super) fn unknown_subcommand(out: &mut BytesMut, container: &[u8], sub: &[u8]) {
    let container = container.to_ascii_uppercase();
    let sub = shown(sub, ECHO_BYTES_MAX);
    let parts = [
        b"ERR unknown subcommand '",
        sub,
        b"'. Try ",
        &container,
        b" HELP.",
    ];
    line(out, parts.concat());
}

/// Appends that a command needs an upstream for the session, and that no more may be kept so.
pub(super) fn no_upstream(out: &mut BytesMut, name: &str) {
    let name = name.to_ascii_uppercase().replace('|', " ");
    line(
        out,
        format!(
            "ERR {name} keeps an upstream connection, and as many clients as may already have one"
        ),
    );
}

/// Appends that a command is not possible inside a transaction here.
pub(super) fn not_in_transaction(out: &mut BytesMut, name: &str) {
    let name = name.to_ascii_uppercase().replace('|', " ");
    line(out, format!("ERR {name} is not allowed in transaction"));
}

/// Appends the server's answer to a transaction command inside a transaction.
pub(super) fn nested(out: &mut BytesMut, name: &str) {
    if name == "multi" {
        line(out, "ERR MULTI calls can not be nested");
    } else {
        line(out, "ERR WATCH inside MULTI is not allowed");
    }
}

/// Appends what a RESP2 client hears that is subscribed and sends another command.
pub(super) fn subscribed(out: &mut BytesMut, name: &str) {
    line(
        out,
        format!(
            "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / \
             RESET are allowed in this context"
        ),
    );
}

/// Appends that a command that was split for several slots was carried out in part.
pub(super) fn partial(out: &mut BytesMut, name: &str, of: (usize, usize), first: &[u8]) {
    let first = shown(first.strip_prefix(b"-").unwrap_or(first), ERROR_BYTES_MAX);
    let (failed, parts) = of;
    line(
        out,
        format!(
            "ERR {failed} of {parts} parts of {name} failed, the others were carried out: {}",
            String::from_utf8_lossy(first).trim_end()
        ),
    );
}

/// Appends that the replies of several nodes make no whole.
pub(super) fn unmergeable(out: &mut BytesMut, name: &str) {
    line(
        out,
        format!("ERR the nodes of the cluster answered {name} in ways that do not fit together"),
    );
}

/// What a server says that a script keeps busy, in its words: clients know them.
fn busy(cause: &str) -> Option<&str> {
    let said = cause.strip_prefix("login: ").unwrap_or(cause);
    said.starts_with("BUSY ").then_some(said)
}

/// One line, whatever the text holds: a line break in it would be read as another reply.
fn line(out: &mut BytesMut, text: impl AsRef<[u8]>) {
    out.put_u8(b'-');
    for byte in text.as_ref() {
        out.put_u8(if matches!(byte, b'\r' | b'\n') {
            b' '
        } else {
            *byte
        });
    }
    out.put_slice(b"\r\n");
}

/// What the server shows of a word: to it, a NUL is the end.
fn shown(bytes: &[u8], bytes_max: usize) -> &[u8] {
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
    bytes.get(..end.min(bytes_max)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn texts_are_the_servers() {
        assert_eq!(
            text(|out| unknown_command(out, b"FOO", [&b"a"[..], b"b"].into_iter())),
            "-ERR unknown command 'FOO', with args beginning with: 'a' 'b' \r\n"
        );
        assert_eq!(
            text(|out| unknown_subcommand(out, b"object", b"FOO")),
            "-ERR unknown subcommand 'FOO'. Try OBJECT HELP.\r\n"
        );
        assert_eq!(
            text(|out| wrong_arity(out, "client|setname")),
            "-ERR wrong number of arguments for 'client|setname' command\r\n"
        );
    }

    #[test]
    fn echoed_line_breaks_cannot_forge_a_reply() {
        assert_eq!(
            text(|out| unknown_command(out, b"A\r\n+OK", std::iter::empty())),
            "-ERR unknown command 'A  +OK', with args beginning with: \r\n"
        );
    }
}
