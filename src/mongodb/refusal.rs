//! How refusals are worded for MongoDB's drivers: the only speller of its error codes and labels.
//!
//! Codes: <https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml>. Labels make
//! drivers retry by themselves; which do is measured, not guessed.

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, cstr, rawdoc};

use super::{topology::Topology, wire::WireFault};
use crate::{
    fault::{Effect, Refusal},
    tenant::Role,
};

/// Codes after which drivers ask who is primary; each needs a `topologyVersion` of ours.
const STATE_CHANGES: [i64; 7] = [10107, 91, 189, 11600, 11602, 13435, 13436];

/// The code of a server that cannot be reached: drivers try again, and ask nobody.
const HOST_UNREACHABLE: i32 = 6;

/// What a request was, as far as the labels of its refusal depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Standing {
    /// Nothing of the below.
    #[default]
    Plain,
    /// It bears a `txnNumber` that the upstream honours, so it runs once however often it is sent.
    Retryable,
    /// It is a statement of a transaction.
    InTransaction,
    /// It ends a transaction.
    EndsTransaction,
    /// It goes on with a cursor, perhaps a change stream's.
    OfCursor,
}

/// One error reply, as a driver will see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ErrorReply {
    code: i32,
    message: String,
    labels: Vec<&'static str>,
}

impl ErrorReply {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            labels: Vec::new(),
        }
    }

    fn labelled(mut self, labels: &[&'static str]) -> Self {
        self.labels.extend_from_slice(labels);
        self
    }

    /// A refusal of the gateway, with the labels that its request may bear.
    pub(crate) fn of(refusal: &Refusal, standing: Standing) -> Self {
        match refusal {
            // Drivers take an authentication error for a reason to drop their pool, so only
            // rejected logins are told as one; overload has its own code and labels.
            Refusal::LoginRejected
            | Refusal::TenantAmbiguous { .. }
            | Refusal::TenantContradiction { .. } => Self::login(refusal),
            Refusal::LoginThrottled { .. }
            | Refusal::TooManyClients { .. }
            | Refusal::QueueFull { .. }
            | Refusal::QueueTimeout { .. }
            | Refusal::Paused
            | Refusal::RegistryDown => Self::new(462, refusal.to_string())
                .labelled(&["SystemOverloadedError", "RetryableError"]),
            Refusal::LoginRequired | Refusal::NotPermitted { .. } => {
                Self::new(13, refusal.to_string())
            }
            Refusal::UpstreamDown { .. } => Self::new(HOST_UNREACHABLE, refusal.to_string())
                .labelled(labels_of(standing, Effect::None)),
            Refusal::UpstreamLost { effect } => Self::new(HOST_UNREACHABLE, refusal.to_string())
                .labelled(labels_of(standing, *effect)),
            Refusal::Draining => {
                Self::new(91, refusal.to_string()).labelled(labels_of(standing, Effect::None))
            }
            Refusal::FrameTooLarge { .. } => Self::new(10334, refusal.to_string()),
            Refusal::Malformed { .. } => Self::new(17, refusal.to_string()),
            Refusal::Unsupported { .. } => Self::new(115, refusal.to_string()),
            Refusal::TimedOut { .. } => Self::new(262, refusal.to_string()),
            Refusal::Internal => Self::new(1, refusal.to_string()),
        }
    }

    fn login(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::LoginRejected => Self::new(18, "Authentication failed."),
            other => Self::new(18, format!("Authentication failed: {other}")),
        }
    }

    /// A message that is no command, in the server's own words.
    pub(crate) fn of_wire(fault: &WireFault) -> Self {
        let code = match fault {
            WireFault::TwoBodies => 40430,
            WireFault::NoBody => 40587,
            WireFault::TwoSequences(_) => 40431,
            WireFault::SequenceIsField(_) => 40433,
            WireFault::DuplicateField(_) => 40413,
            WireFault::UnknownSequence(_) => 40415,
            WireFault::TooManyFields => 9,
            WireFault::Bson(_) => 22,
            WireFault::NoDatabase => 40571,
            WireFault::DatabaseType => 13111,
            WireFault::DatabaseName(_) => 73,
            WireFault::Length { .. }
            | WireFault::Opcode(_)
            | WireFault::Flags(_)
            | WireFault::Checksum
            | WireFault::Layout(_) => 17,
        };
        Self::new(code, fault.to_string())
    }

    /// A command that nobody knows.
    pub(crate) fn unknown_command(name: &[u8]) -> Self {
        let name = String::from_utf8_lossy(name);
        Self::new(59, format!("no such command: '{name}'"))
    }

    /// A command before login.
    pub(crate) fn login_required(name: &[u8]) -> Self {
        let name = String::from_utf8_lossy(name);
        Self::new(13, format!("command {name} requires authentication"))
    }

    /// A command that the login's role or the tenant's databases do not cover.
    pub(crate) fn unauthorized(database: &str, name: &[u8], role: Role) -> Self {
        let name = String::from_utf8_lossy(name);
        let message = format!(
            "not authorized on {database} to execute command {{ {name}: ... }} (role {role})"
        );
        Self::new(13, message)
    }

    /// A legacy query of anything but the hello.
    pub(crate) fn legacy_query(name: &[u8]) -> Self {
        let name = String::from_utf8_lossy(name);
        Self::new(
            352,
            format!(
                "Unsupported OP_QUERY command: {name}. The client driver may require an upgrade. \
                 For more details see https://dochub.mongodb.org/core/legacy-opcode-removal"
            ),
        )
    }

    /// Client metadata sent twice.
    pub(crate) fn metadata_again() -> Self {
        let message = "The client metadata document may only be sent in the first hello";
        Self::new(186, message)
    }

    /// `topologyVersion` without `maxAwaitTimeMS`.
    pub(crate) fn await_without_time() -> Self {
        let message = "A request with a 'topologyVersion' must include 'maxAwaitTimeMS'";
        Self::new(31368, message)
    }

    /// `maxAwaitTimeMS` without `topologyVersion`.
    pub(crate) fn await_without_version() -> Self {
        let message = "A request with 'maxAwaitTimeMS' must include a 'topologyVersion'";
        Self::new(31368, message)
    }

    /// A negative time to wait.
    pub(crate) fn await_negative(millis: i64) -> Self {
        let message =
            format!("BSON field 'maxAwaitTimeMS' value must be >= 0, actual value '{millis}'");
        Self::new(51024, message)
    }

    /// A way to log in that is not offered.
    pub(crate) fn mechanism(name: &str) -> Self {
        let message = format!("Received authentication for mechanism {name} which is not enabled");
        Self::new(334, message)
    }

    /// A continued login that was never begun.
    pub(crate) fn no_conversation() -> Self {
        Self::new(17, "No SASL session state found")
    }

    /// A second login as somebody else.
    pub(crate) fn second_login() -> Self {
        Self::new(5_626_702, "Too many users are authenticated")
    }

    /// A part of a session's id that no client may set.
    pub(crate) fn session_field(name: &[u8]) -> Self {
        let name = String::from_utf8_lossy(name);
        Self::new(
            13,
            format!("not authorized to set '{name}' of a session id"),
        )
    }

    /// The time that the client gave is over, and the command still waits here.
    pub(crate) fn time_is_over() -> Self {
        Self::new(50, "operation exceeded time limit")
    }

    /// A field that is missing or of the wrong type.
    pub(crate) fn bad_field(command: &str, field: &str) -> Self {
        let message = format!("BSON field '{command}.{field}' is missing or has the wrong type");
        Self::new(14, message)
    }

    /// No member of the set is what the client wants to read from.
    pub(crate) fn no_member(mode: &str) -> Self {
        let message =
            format!("Could not find host matching read preference {{ mode: \"{mode}\" }}");
        Self::new(133, message)
    }

    /// A cursor that nobody has.
    pub(crate) fn cursor_not_found(id: i64) -> Self {
        Self::new(43, format!("cursor id {id} not found"))
    }

    /// A cursor of somebody else.
    pub(crate) fn cursor_foreign(id: i64) -> Self {
        let message = format!("cursor id {id} was not created by the authenticated user");
        Self::new(13, message)
    }

    /// Whether a code says that a cursor is no more.
    pub(crate) const fn is_cursor_gone(code: i64) -> bool {
        matches!(code, 43 | 136 | 175 | 237 | 280 | 286)
    }

    /// The code, for logs and tests.
    pub(crate) const fn code(&self) -> i32 {
        self.code
    }

    /// The reply's document; `topology` goes into errors that drivers order by it.
    pub(crate) fn document<'a>(&self, topology: impl Into<Option<&'a Topology>>) -> RawDocumentBuf {
        let mut out = rawdoc! {
            "ok": 0.0,
            "errmsg": self.message.as_str(),
            "code": self.code,
            "codeName": code_name(self.code),
        };
        if !self.labels.is_empty() {
            let labels: RawArrayBuf = self.labels.iter().copied().collect();
            out.append(cstr!("errorLabels"), labels);
        }
        if let Some(topology) = topology.into()
            && is_state_change(i64::from(self.code))
        {
            out.append(cstr!("topologyVersion"), topology.version());
        }
        out
    }
}

/// Whether a code makes drivers ask who is primary.
pub(crate) fn is_state_change(code: i64) -> bool {
    STATE_CHANGES.contains(&code)
}

/// The error inside a reply, under a code that does not make drivers ask who is primary; others stay as they are. A
/// router of a sharded cluster tells its servers' changes by the same code.
///
/// # Errors
/// When it is no document.
pub(crate) fn cloaked(error: &RawDocument) -> Result<RawDocumentBuf, bson::error::Error> {
    let number = |code: RawBsonRef<'_>| match code {
        RawBsonRef::Int32(code) => Some(i64::from(code)),
        RawBsonRef::Int64(code) => Some(code),
        _ => None,
    };
    let code = error.get("code")?.and_then(number);
    let is_cloaked = code.is_some_and(is_state_change);
    let mut out = RawDocumentBuf::new();
    for element in error {
        match element? {
            (key, _) if is_cloaked && key.as_str() == "code" => out.append(key, HOST_UNREACHABLE),
            (key, _) if is_cloaked && key.as_str() == "codeName" => {
                out.append(key, code_name(HOST_UNREACHABLE));
            }
            (key, value) => out.append(key, value),
        }
    }
    Ok(out)
}

/// The labels that make a driver try again where that is safe.
const fn labels_of(standing: Standing, effect: Effect) -> &'static [&'static str] {
    match (standing, effect) {
        (Standing::Plain, _) => &[],
        (Standing::Retryable, Effect::None) => &["RetryableWriteError", "NoWritesPerformed"],
        (Standing::Retryable, Effect::Unknown) | (Standing::EndsTransaction, _) => {
            &["RetryableWriteError"]
        }
        (Standing::InTransaction, _) => &["TransientTransactionError"],
        // Without it a driver gives a change stream up; to other cursors it says nothing.
        (Standing::OfCursor, _) => &["ResumableChangeStreamError"],
    }
}

const fn code_name(code: i32) -> &'static str {
    match code {
        1 => "InternalError",
        HOST_UNREACHABLE => "HostUnreachable",
        9 => "FailedToParse",
        13 => "Unauthorized",
        14 => "TypeMismatch",
        17 => "ProtocolError",
        18 => "AuthenticationFailed",
        22 => "InvalidBSON",
        43 => "CursorNotFound",
        50 => "MaxTimeMSExpired",
        59 => "CommandNotFound",
        73 => "InvalidNamespace",
        91 => "ShutdownInProgress",
        115 => "CommandNotSupported",
        133 => "FailedToSatisfyReadPreference",
        186 => "ClientMetadataCannotBeMutated",
        262 => "ExceededTimeLimit",
        334 => "MechanismUnavailable",
        352 => "UnsupportedOpQueryCommand",
        462 => "IngressRequestRateLimitExceeded",
        10334 => "BSONObjectTooLarge",
        13111 => "Location13111",
        31368 => "Location31368",
        40413 => "Location40413",
        40415 => "Location40415",
        40430 => "Location40430",
        40431 => "Location40431",
        40433 => "Location40433",
        40571 => "Location40571",
        40587 => "Location40587",
        51024 => "Location51024",
        5_626_702 => "Location5626702",
        _ => "UnknownError",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(refusal: &Refusal, standing: Standing) -> RawDocumentBuf {
        let topology = Topology::new(crate::shutdown::Shutdown::new());
        ErrorReply::of(refusal, standing).document(&topology)
    }

    fn labels(reply: &RawDocumentBuf) -> Vec<String> {
        let labels = reply.get_array("errorLabels").into_iter().flatten();
        labels
            .map(|label| label.unwrap().as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn only_what_may_be_repeated_is_labelled_so() {
        let lost = Refusal::UpstreamLost {
            effect: Effect::Unknown,
        };
        assert!(labels(&reply(&lost, Standing::Plain)).is_empty());
        assert_eq!(
            labels(&reply(&lost, Standing::Retryable)),
            ["RetryableWriteError"]
        );
        let transient = labels(&reply(&lost, Standing::InTransaction));
        assert_eq!(transient, ["TransientTransactionError"]);
        let resumable = labels(&reply(&lost, Standing::OfCursor));
        assert_eq!(resumable, ["ResumableChangeStreamError"]);
        let down = Refusal::UpstreamDown { cause: "x".into() };
        let unsent = labels(&reply(&down, Standing::Retryable));
        assert_eq!(unsent, ["RetryableWriteError", "NoWritesPerformed"]);
    }

    #[test]
    fn full_pool_is_overload_that_drivers_back_off_from() {
        let full = reply(&Refusal::QueueFull { max: 1 }, Standing::Plain);
        assert_eq!(full.get_i32("code").unwrap(), 462);
        assert_eq!(labels(&full), ["SystemOverloadedError", "RetryableError"]);
    }

    #[test]
    fn state_change_bears_our_topology() {
        let draining = reply(&Refusal::Draining, Standing::Plain);
        assert_eq!(draining.get_i32("code").unwrap(), 91);
        assert!(draining.get_document("topologyVersion").is_ok());
    }

    #[test]
    fn every_code_has_a_name() {
        for fault in [
            WireFault::NoBody,
            WireFault::TwoBodies,
            WireFault::DatabaseType,
            WireFault::TooManyFields,
            WireFault::UnknownSequence(String::new()),
        ] {
            assert_ne!(
                code_name(ErrorReply::of_wire(&fault).code()),
                "UnknownError"
            );
        }
    }
}
