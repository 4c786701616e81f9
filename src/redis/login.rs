//! `HELLO` and `AUTH`: reading them, and finding out who the client is.

use std::{net::SocketAddr, sync::Arc};

use zeroize::Zeroizing;

use super::{refusal::Plain, wire::Version};
use crate::{
    fault::Refusal,
    protocol::Protocol,
    session::{Admission, Admitted, Claim},
};

/// What issued passwords begin with.
const ISSUED_PREFIX: &str = "ppc_";
/// Characters of an issued password's public part.
const PUBLIC_CHARACTERS: usize = 8;
/// The user that a login with a password only means, and the name that some drivers send for it.
const DEFAULT_USER: &str = "default";

/// What a `HELLO` asks for; an `AUTH` asks for nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Hello {
    /// Whether it is a `HELLO` at all, which is answered with a map.
    pub(super) wants_map: bool,
    /// The version to switch to.
    pub(super) version: Option<Version>,
    /// The client's name.
    pub(super) name: Option<Vec<u8>>,
    /// An option that does not exist; what stands before it counts.
    pub(super) bad_option: Option<Vec<u8>>,
}

/// A user and a password.
pub(super) struct Credentials {
    user: Option<String>,
    password: Zeroizing<Vec<u8>>,
}

/// Who asks.
pub(super) struct Caller<'a> {
    /// The client's address.
    pub(super) peer: SocketAddr,
    /// The TLS server name that it asked for.
    pub(super) server_name: Option<&'a str>,
}

impl Hello {
    /// Reads the words after `HELLO`.
    pub(super) fn parse(words: &[&[u8]]) -> Result<(Self, Option<Credentials>), Plain> {
        let mut hello = Self {
            wants_map: true,
            ..Self::default()
        };
        let mut credentials = None;
        let Some((version, mut options)) = words.split_first() else {
            return Ok((hello, credentials));
        };
        let number: i64 = std::str::from_utf8(version)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(Plain::ProtocolVersion)?;
        hello.version = Some(match number {
            2 => Version::Resp2,
            3 => Version::Resp3,
            _ => return Err(Plain::NoProto),
        });
        loop {
            options = match options {
                [] => break,
                [option, user, password, rest @ ..] if option.eq_ignore_ascii_case(b"auth") => {
                    credentials = Some(Credentials::new(Some(user), password));
                    rest
                }
                [option, name, rest @ ..] if option.eq_ignore_ascii_case(b"setname") => {
                    hello.name = Some(name.to_vec());
                    rest
                }
                [option, ..] => {
                    hello.bad_option = Some(option.to_vec());
                    break;
                }
            };
        }
        Ok((hello, credentials))
    }
}

impl Credentials {
    /// A user, if one is named, and a password.
    pub(super) fn new(user: Option<&[u8]>, password: &[u8]) -> Self {
        Self {
            user: user.map(|user| String::from_utf8_lossy(user).into_owned()),
            password: Zeroizing::new(password.to_vec()),
        }
    }

    /// The public part of an issued password that comes without a user.
    fn issued(&self) -> Option<&str> {
        if self
            .user
            .as_deref()
            .is_some_and(|user| user != DEFAULT_USER)
        {
            return None;
        }
        let text = std::str::from_utf8(&self.password).ok()?;
        let (public, _) = text.strip_prefix(ISSUED_PREFIX)?.split_once('_')?;
        (public.len() == PUBLIC_CHARACTERS).then_some(public)
    }

    /// Checks them, and seats the client.
    pub(super) async fn check(
        &self,
        admission: &Arc<Admission>,
        caller: Caller<'_>,
    ) -> Result<Admitted, Refusal> {
        let protocol = Protocol::Redis;
        let candidate = if let Some(public) = self.issued() {
            admission
                .identify_issued(public, protocol, caller.peer)
                .await?
        } else {
            let claim = Claim {
                protocol,
                login: self.user.as_deref().unwrap_or(DEFAULT_USER),
                database: None,
                server_name: caller.server_name,
                reference: None,
                peer: caller.peer,
            };
            admission.identify(claim).await?
        };
        candidate.check_password(&self.password).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<(Hello, Option<Credentials>), Plain> {
        let words: Vec<_> = line.split(' ').filter(|word| !word.is_empty()).collect();
        Hello::parse(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
    }

    #[test]
    fn hello_is_read_in_the_servers_order() {
        let (hello, credentials) = parse("3 AUTH u.t pw SETNAME me").unwrap();
        assert_eq!(hello.version, Some(Version::Resp3));
        assert_eq!(hello.name.as_deref(), Some(&b"me"[..]));
        assert_eq!(credentials.unwrap().user.as_deref(), Some("u.t"));
        assert_eq!(parse("4").err(), Some(Plain::NoProto));
        assert_eq!(parse("x AUTH a b").err(), Some(Plain::ProtocolVersion));
        assert_eq!(
            parse("2 FOO").unwrap().0.bad_option.as_deref(),
            Some(&b"FOO"[..])
        );
        assert_eq!(
            parse("2 AUTH a").unwrap().0.bad_option.as_deref(),
            Some(&b"AUTH"[..])
        );
        assert_eq!(parse("").unwrap().0.version, None);
    }

    #[test]
    fn issued_passwords_carry_their_address() {
        let issued = |user: Option<&str>, password: &str| {
            let credentials = Credentials::new(user.map(str::as_bytes), password.as_bytes());
            credentials.issued().map(str::to_owned)
        };
        assert_eq!(
            issued(None, "ppc_abcd1234_secret").as_deref(),
            Some("abcd1234")
        );
        assert_eq!(
            issued(Some("default"), "ppc_abcd1234_s_t").as_deref(),
            Some("abcd1234")
        );
        assert_eq!(issued(Some("u.t"), "ppc_abcd1234_secret"), None);
        assert_eq!(issued(None, "ppc_abc_secret"), None);
        assert_eq!(issued(None, "secret"), None);
    }
}
