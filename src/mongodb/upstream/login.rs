//! Logging in to a server: SCRAM with either hash, or the client certificate of the connection.
//!
//! The first message rides on the hello, so that a login costs one round trip more.

use bson::{Binary, RawDocumentBuf, cstr, rawdoc, spec::BinarySubtype};
use md5::{Digest, Md5};
use tokio::task::spawn_blocking;

use super::{
    super::wire::Elements,
    Upstream,
    converse::{Answer, converse},
};
use crate::{
    auth::scram::{Client, Mechanism, Salted, ScramError},
    crypto::Secret,
    net::{DialFault, DialStep},
    tenant::Target,
};

/// The mechanism of client certificates.
const X509: &str = "MONGODB-X509";
/// Where users are that no database defines.
const EXTERNAL: &str = "$external";

/// Who logs in, and how.
pub(super) enum Login<'a> {
    /// By a password.
    Password(Password<'a>),
    /// By the certificate that the connection has shown; the server may be told whose it is.
    Certificate(Option<&'a str>),
}

/// A user with a password, and where it is defined.
pub(super) struct Password<'a> {
    user: &'a str,
    secret: &'a Secret,
    source: &'a str,
    /// The one that the registration wants; without it the server is asked what the user has.
    mechanism: Option<Mechanism>,
}

/// A login whose first message was made.
pub(super) enum Begun<'a> {
    /// By a password.
    Password(Password<'a>, Client, String),
    /// By certificate.
    Certificate(Option<&'a str>),
}

/// The password that a user of `SCRAM-SHA-1` proves: a digest.
pub(crate) fn digest(user: &str, password: &str) -> Secret {
    let mut digest = Md5::new();
    for part in [user, ":mongo:", password] {
        digest.update(part.as_bytes());
    }
    let hex: Vec<_> = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Secret::from(hex.concat())
}

impl<'a> Login<'a> {
    /// Whom the target logs in as, if anybody.
    pub(super) fn of(target: &'a Target) -> Result<Option<Self>, DialFault> {
        let option = |key: &str| target.options.get(key).map(String::as_str);
        let named = option("authmechanism");
        let user = target.user.as_deref();
        if named == Some(X509) {
            return Ok(Some(Self::Certificate(user)));
        }
        let Some(user) = user else {
            return Ok(None);
        };
        let mechanism = match named {
            None => None,
            Some(name) => Some(Mechanism::parse(name).ok_or_else(|| unknown(name))?),
        };
        let password = target.password.as_ref().ok_or_else(|| {
            DialFault::new(
                DialStep::Login,
                "there is a user but no password",
                "give both or none",
            )
        })?;
        let source = option("authsource").or(target.database.as_deref());
        Ok(Some(Self::Password(Password {
            user,
            secret: password,
            source: source.unwrap_or("admin"),
            mechanism,
        })))
    }

    /// Adds to the hello what can be said before the server has said anything.
    pub(super) fn begin(self, hello: &mut RawDocumentBuf) -> Result<Begun<'a>, DialFault> {
        match self {
            Self::Certificate(user) => {
                let mut start = authenticate(user);
                start.append(cstr!("db"), EXTERNAL);
                hello.append(cstr!("speculativeAuthenticate"), start);
                Ok(Begun::Certificate(user))
            }
            Self::Password(login) => {
                if login.mechanism.is_none() {
                    let name = format!("{}.{}", login.source, login.user);
                    hello.append(cstr!("saslSupportedMechs"), name);
                }
                let mechanism = login.mechanism.unwrap_or_default();
                let (client, first) = first_message(mechanism, &login)?;
                let mut start = sasl_start(mechanism, &first);
                start.append(cstr!("db"), login.source);
                hello.append(cstr!("speculativeAuthenticate"), start);
                Ok(Begun::Password(login, client, first))
            }
        }
    }
}

impl Begun<'_> {
    /// Goes on after the hello; the salted password, where there is one.
    pub(super) async fn finish(
        self,
        upstream: &mut Upstream,
        hello: &Answer,
        known: Option<&Salted>,
    ) -> Result<Option<Salted>, DialFault> {
        let speculated = hello.field("speculativeAuthenticate");
        match self {
            Self::Certificate(_) if speculated.is_some() => Ok(None),
            Self::Certificate(user) => {
                let mut command = authenticate(user);
                command.append(cstr!("$db"), EXTERNAL);
                ask(upstream, &command).await.map(|_| None)
            }
            Self::Password(login, client, first) => {
                let taken_up = speculated.and_then(|embedded| {
                    let elements = Elements::new(embedded.document()?).ok()?;
                    String::from_utf8(elements.find(b"payload")?.binary()?.to_vec()).ok()
                });
                let (client, server_first) = match taken_up {
                    Some(server_first) => (client, server_first),
                    None => start(upstream, &login, (client, first), hello).await?,
                };
                finish(upstream, &login, (client, server_first), known)
                    .await
                    .map(Some)
            }
        }
    }
}

/// The first messages in a round trip of their own, with a mechanism that the user has.
async fn start(
    upstream: &mut Upstream,
    login: &Password<'_>,
    (mut client, mut first): (Client, String),
    hello: &Answer,
) -> Result<(Client, String), DialFault> {
    let mechanism = login.mechanism.unwrap_or_else(|| best_of(hello));
    if client.mechanism() != mechanism {
        (client, first) = first_message(mechanism, login)?;
    }
    let mut start = sasl_start(mechanism, &first);
    start.append(cstr!("$db"), login.source);
    let answer = ask(upstream, &start).await?;
    Ok((client, payload_of(&answer)?))
}

async fn finish(
    upstream: &mut Upstream,
    login: &Password<'_>,
    (client, server_first): (Client, String),
    known: Option<&Salted>,
) -> Result<Salted, DialFault> {
    let password = match client.mechanism() {
        Mechanism::Sha256 => login.secret.clone(),
        Mechanism::Sha1 => digest(login.user, login.secret.expose()),
    };
    let known = known.cloned();
    // A key derivation takes milliseconds, which is too long for the threads that serve clients.
    let derived =
        spawn_blocking(move || client.answer(&server_first, &password, known.as_ref())).await;
    let finish = match derived {
        Ok(Ok(finish)) => finish,
        Ok(Err(error)) => return Err(scram_fault(&error)),
        Err(error) => {
            return Err(DialFault::new(
                DialStep::Login,
                error.to_string(),
                "try again",
            ));
        }
    };
    let proof = sasl_continue(&finish.message, login);
    let answer = ask(upstream, &proof).await?;
    finish
        .check(&payload_of(&answer)?)
        .map_err(|error| scram_fault(&error))?;
    let is_done = |answer: &Answer| answer.field("done").is_some_and(|done| done.truth());
    if !is_done(&answer) {
        // Servers before 4.4 know no skipEmptyExchange.
        let answer = ask(upstream, &sasl_continue("", login)).await?;
        if !is_done(&answer) {
            return Err(scram_fault(&ScramError::Refused));
        }
    }
    Ok(finish.salted)
}

/// As drivers choose: a server that does not say what a user has is an old one.
fn best_of(hello: &Answer) -> Mechanism {
    let listed = hello.field("saslSupportedMechs");
    let listed = listed
        .as_ref()
        .and_then(|list| Elements::new(list.document()?).ok());
    let has_sha256 = listed.is_some_and(|mut names| {
        names.any(|name| name.is_ok_and(|name| name.text() == Some(Mechanism::Sha256.label())))
    });
    if has_sha256 {
        Mechanism::Sha256
    } else {
        Mechanism::Sha1
    }
}

fn first_message(
    mechanism: Mechanism,
    login: &Password<'_>,
) -> Result<(Client, String), DialFault> {
    Client::begin_as(mechanism, login.user).map_err(|error| scram_fault(&error))
}

fn authenticate(user: Option<&str>) -> RawDocumentBuf {
    let mut command = rawdoc! { "authenticate": 1, "mechanism": X509 };
    if let Some(user) = user {
        command.append(cstr!("user"), user);
    }
    command
}

fn sasl_start(mechanism: Mechanism, first: &str) -> RawDocumentBuf {
    rawdoc! {
        "saslStart": 1,
        "mechanism": mechanism.label(),
        "payload": payload(first),
        "options": { "skipEmptyExchange": true },
    }
}

fn sasl_continue(text: &str, login: &Password<'_>) -> RawDocumentBuf {
    rawdoc! {
        "saslContinue": 1,
        "conversationId": 1,
        "payload": payload(text),
        "$db": login.source,
    }
}

fn payload(text: &str) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: text.as_bytes().to_vec(),
    }
}

async fn ask(upstream: &mut Upstream, command: &RawDocumentBuf) -> Result<Answer, DialFault> {
    converse(&mut upstream.stream, &mut upstream.intake, command)
        .await
        .map_err(|error| {
            DialFault::new(
                DialStep::Login,
                error.to_string(),
                "check user, password and authSource (the database where the user is defined); \
                 for MONGODB-X509 that the certificate's subject is a user of $external",
            )
        })
}

fn payload_of(answer: &Answer) -> Result<String, DialFault> {
    let bytes = answer
        .field("payload")
        .and_then(|field| field.binary().map(<[u8]>::to_vec));
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| scram_fault(&ScramError::Malformed("payload")))
}

fn scram_fault(error: &ScramError) -> DialFault {
    DialFault::new(
        DialStep::Login,
        error.to_string(),
        "the server and we do not understand each other; check that it is the server you mean",
    )
}

fn unknown(mechanism: &str) -> DialFault {
    DialFault::new(
        DialStep::Login,
        format!("the mechanism {mechanism} is not known here"),
        "use SCRAM-SHA-256, SCRAM-SHA-1 or MONGODB-X509, or leave authMechanism out",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_the_servers() {
        let expected = "129008def7e38ce0fe079008bacd0633";
        assert_eq!(digest("sam", "abc123").expose(), expected);
    }
}
