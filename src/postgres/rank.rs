//! What a server is among its like: what it says of itself, and whom it will do for.

use std::collections::BTreeMap;

use crate::tenant::SessionAttrs;

/// Whether a server is in hot standby; `PostgreSQL` 14 and later report it.
pub(super) const IN_HOT_STANDBY: &str = "in_hot_standby";
/// Whether its transactions are read-only unless they say otherwise; reported likewise.
pub(super) const READ_ONLY: &str = "default_transaction_read_only";

/// Asks a server what it is, by what its sessions begin with. Whoever had the connection before may have made its
/// transactions serializable, which a standby refuses.
pub(super) const QUESTION: &str = "SET LOCAL TRANSACTION ISOLATION LEVEL READ COMMITTED; \
    SELECT pg_catalog.pg_is_in_recovery()::pg_catalog.text, \
    (SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only')";

/// What a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    /// It takes writes.
    Primary,
    /// It is not in recovery, but its transactions are read-only by default.
    Closed,
    /// It follows another one.
    Standby,
}

impl Rank {
    /// By what a server reports when a session begins; `None` if it is too old to tell.
    pub(super) fn reported(all: &BTreeMap<String, String>) -> Option<Self> {
        let standby = all.get(IN_HOT_STANDBY)?;
        let read_only = all.get(READ_ONLY)?;
        Some(Self::of(standby == "on", read_only == "on"))
    }

    /// By the answer to [`QUESTION`].
    pub(super) fn answered((recovers, read_only): &(String, String)) -> Self {
        Self::of(recovers == "true", read_only == "on")
    }

    const fn of(recovers: bool, read_only: bool) -> Self {
        match (recovers, read_only) {
            (true, _) => Self::Standby,
            (false, true) => Self::Closed,
            (false, false) => Self::Primary,
        }
    }

    /// Whether it will do, as libpq judges it.
    pub(super) const fn fits(self, attrs: SessionAttrs) -> bool {
        match attrs {
            SessionAttrs::Any | SessionAttrs::PreferStandby => true,
            SessionAttrs::ReadWrite => matches!(self, Self::Primary),
            SessionAttrs::ReadOnly => !matches!(self, Self::Primary),
            SessionAttrs::Primary => !matches!(self, Self::Standby),
            SessionAttrs::Standby => matches!(self, Self::Standby),
        }
    }

    /// The word for operators.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Primary | Self::Closed => "primary",
            Self::Standby => "standby",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_fit_as_libpq_judges() {
        let fitting = |rank: Rank| {
            let all = SessionAttrs::ALL.into_iter();
            all.filter(|attrs| rank.fits(*attrs))
                .map(SessionAttrs::label)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            fitting(Rank::Primary),
            "any read-write primary prefer-standby"
        );
        assert_eq!(
            fitting(Rank::Closed),
            "any read-only primary prefer-standby"
        );
        assert_eq!(
            fitting(Rank::Standby),
            "any read-only standby prefer-standby"
        );
    }

    #[test]
    fn an_old_server_does_not_tell() {
        assert_eq!(Rank::reported(&BTreeMap::new()), None);
    }
}
