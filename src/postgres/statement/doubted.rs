//! What a text may do whose strings may end elsewhere than the standard says.

use super::Facts;

/// Why a session stays: what a text was could not be told.
const QUOTES_PIN: &str = "quotes";

impl Facts {
    /// The same of a text whose strings may end elsewhere: it may do anything.
    #[must_use]
    pub(crate) fn doubted(&self) -> Self {
        Self {
            touches_session: true,
            shifts: true,
            fixed: false,
            may_clean: true,
            sticks: Some(QUOTES_PIN),
            defines: true,
            lifts_read_only: true,
            admin_only: Some("backslash quotes unless standard_conforming_strings is on"),
            change: None,
            listens: true,
            presumes: false,
            requotes: true,
            ..self.clone()
        }
    }
}
