//! What a session asks of its servers, and why it may get none.

use crate::{
    pool::CheckoutError,
    postgres::settings::Parameters,
    tenant::{Role, SessionAttrs},
};

/// The parameter by which a client chooses its servers.
pub(in crate::postgres) const ATTRS: &str = "polypool.target_session_attrs";

/// What a client asks of its servers, as far as it can be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::postgres) enum WantedAttrs {
    /// This.
    Known(SessionAttrs),
    /// A word that means nothing.
    Unknown(Box<str>),
    /// To write, in a session that never may.
    Denied,
}

impl WantedAttrs {
    /// What a session asks for: by its parameters, else by its role, else by its registration.
    pub(in crate::postgres) fn of(
        role: Role,
        wanted: &Parameters,
        registered: Option<SessionAttrs>,
    ) -> Self {
        let attrs = match wanted.find(ATTRS).filter(|said| !said.is_empty()) {
            None => default_attrs(role, registered),
            Some(said) => match SessionAttrs::parse(said) {
                Some(attrs) => attrs,
                None => return Self::Unknown(said.into()),
            },
        };
        match (role, attrs) {
            (Role::Read, SessionAttrs::ReadWrite) => Self::Denied,
            // Its transactions are read-only wherever they run.
            (Role::Read, SessionAttrs::ReadOnly) => Self::Known(SessionAttrs::PreferStandby),
            (Role::Read | Role::Write | Role::Admin, attrs) => Self::Known(attrs),
        }
    }

    /// What is asked for.
    ///
    /// # Errors
    /// Why no server will ever do.
    pub(in crate::postgres) fn judged(&self) -> Result<SessionAttrs, Unserved> {
        match self {
            Self::Known(attrs) => Ok(*attrs),
            Self::Unknown(said) => Err(Unserved::Unknown(said.clone())),
            Self::Denied => Err(Unserved::Denied),
        }
    }
}

fn default_attrs(role: Role, registered: Option<SessionAttrs>) -> SessionAttrs {
    match (role, registered) {
        (Role::Read, None | Some(SessionAttrs::Primary | SessionAttrs::ReadWrite)) => {
            SessionAttrs::PreferStandby
        }
        (_, Some(attrs)) => attrs,
        (Role::Write | Role::Admin, None) => SessionAttrs::Primary,
    }
}

/// Why there is no upstream for a session.
#[derive(Debug, Clone)]
pub(in crate::postgres) enum Unserved {
    /// The pool says why.
    Checkout(CheckoutError),
    /// No server fits.
    NoServer(SessionAttrs),
    /// What is asked for is none of the known words.
    Unknown(Box<str>),
    /// The session is read-only and asks for a place to write.
    Denied,
    /// Two different things are asked for.
    Twice(Box<str>, Box<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_asks_by_its_own_words_first_then_by_its_role() {
        use SessionAttrs::{Any, PreferStandby, Primary, ReadWrite, Standby};
        let of = |role, said: Option<&str>, registered| {
            let pairs = said.map(|said| (ATTRS.to_owned(), said.to_owned()));
            WantedAttrs::of(role, &Parameters::from_pairs(pairs), registered)
        };
        let known = WantedAttrs::Known;
        assert_eq!(of(Role::Write, None, None), known(Primary));
        assert_eq!(of(Role::Write, None, Some(Standby)), known(Standby));
        assert_eq!(of(Role::Admin, Some("any"), Some(Standby)), known(Any));
        assert_eq!(of(Role::Read, None, None), known(PreferStandby));
        assert_eq!(of(Role::Read, None, Some(ReadWrite)), known(PreferStandby));
        assert_eq!(of(Role::Read, None, Some(Standby)), known(Standby));
        assert_eq!(of(Role::Read, Some("primary"), None), known(Primary));
        assert_eq!(
            of(Role::Read, Some("read-only"), None),
            known(PreferStandby)
        );
        assert_eq!(
            of(Role::Read, Some("read-write"), None),
            WantedAttrs::Denied
        );
        let unknown = WantedAttrs::Unknown("replica".into());
        assert_eq!(of(Role::Write, Some("replica"), None), unknown);
    }
}
