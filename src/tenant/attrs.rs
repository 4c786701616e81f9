//! Which of several `PostgreSQL` servers will do: libpq's `target_session_attrs` and `load_balance_hosts`.

use std::collections::BTreeMap;

use super::{Endpoint, TargetError};

/// What a session asks of its server, in the words and with the meaning of libpq.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionAttrs {
    /// Any server.
    Any,
    /// One where transactions may write unless they say otherwise.
    ReadWrite,
    /// One where they may not.
    ReadOnly,
    /// One that is not in hot standby.
    Primary,
    /// One that is in hot standby.
    Standby,
    /// One in hot standby, or else any.
    PreferStandby,
}

impl SessionAttrs {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Any,
        Self::ReadWrite,
        Self::ReadOnly,
        Self::Primary,
        Self::Standby,
        Self::PreferStandby,
    ];

    /// The word in connection strings.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        }
    }

    /// What the word means.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attrs| attrs.label() == text)
    }
}

/// In which order servers that will do are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// Nothing is said: load is spread over standbys; else the order of the list counts.
    Unsaid,
    /// `disable`: the first of the list that will do.
    Listed,
    /// `random`: load is spread over all that will do.
    Spread,
}

type Options = BTreeMap<String, String>;

/// What a connection string asks for, if it does.
pub(super) fn attrs(options: &Options) -> Option<SessionAttrs> {
    SessionAttrs::parse(options.get("target_session_attrs")?)
}

/// In which order its servers are taken.
pub(super) fn balance(options: &Options) -> Balance {
    match options.get("load_balance_hosts").map(String::as_str) {
        None => Balance::Unsaid,
        Some("random") => Balance::Spread,
        Some(_) => Balance::Listed,
    }
}

/// Whether hosts and options go together.
pub(super) fn check(endpoints: &[Endpoint], options: &Options) -> Result<(), TargetError> {
    let wrong = |part, why| Err(TargetError::BadPart { part, why });
    for part in ["host", "hostaddr", "port"] {
        if options.contains_key(part) {
            let why = "name hosts and ports before the database: postgres://a:5432,b:5432/db";
            return wrong(part, why.to_owned());
        }
    }
    if let Some(said) = options.get("target_session_attrs")
        && SessionAttrs::parse(said).is_none()
    {
        let known = SessionAttrs::ALL.map(SessionAttrs::label).join(", ");
        return wrong(
            "target_session_attrs",
            format!("'{said}' is unknown; it is one of {known}"),
        );
    }
    if let Some(said) = options.get("load_balance_hosts")
        && !matches!(said.as_str(), "disable" | "random")
    {
        return wrong(
            "load_balance_hosts",
            format!("'{said}' is unknown; it is disable or random"),
        );
    }
    let mut rest = endpoints;
    while let Some((first, others)) = rest.split_first() {
        if others.contains(first) {
            return wrong("hosts", format!("{first} is named twice"));
        }
        rest = others;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::Target;

    #[test]
    fn several_hosts_say_which_will_do() {
        let url = "postgres://u:p@a:1,b,[::1]:3/db?target_session_attrs=standby&load_balance_hosts=random";
        let target = Target::parse(url).unwrap();
        assert_eq!(target.endpoints.len(), 3);
        assert_eq!(target.attrs(), Some(SessionAttrs::Standby));
        assert_eq!(target.balance(), Balance::Spread);
        let plain = Target::parse("postgres://u:p@a/db").unwrap();
        assert_eq!((plain.attrs(), plain.balance()), (None, Balance::Unsaid));
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_name() {
        for (url, part) in [
            (
                "postgres://a,b/db?target_session_attrs=replica",
                "target_session_attrs",
            ),
            (
                "postgres://a,b/db?load_balance_hosts=yes",
                "load_balance_hosts",
            ),
            ("postgres://a,b:5432,a:5432/db", "hosts"),
            ("postgres://a/db?host=b", "host"),
        ] {
            let error = Target::parse(url).unwrap_err();
            assert!(
                matches!(error, TargetError::BadPart { part: named, .. } if named == part),
                "{url}: {error}"
            );
        }
    }
}
