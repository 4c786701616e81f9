//! What a text may do that may be another than it is read as.

use super::Facts;

/// Why a session stays: what a text was could not be told.
pub(crate) const QUOTES_PIN: &str = "quotes";

impl Facts {
    /// Whether it matters how the server reads the text.
    pub(crate) fn depends(&self) -> bool {
        self.presumes || self.letters
    }

    /// The same of a text that the server may read otherwise.
    #[must_use]
    pub(crate) fn doubted(&self) -> Self {
        self.unread(if self.presumes {
            "backslash quotes unless standard_conforming_strings is on"
        } else {
            "letters that end like signs in this client_encoding"
        })
    }

    /// The same of a text of which not all can be read, and why: it may do anything.
    #[must_use]
    pub(super) fn unread(&self, why: &'static str) -> Self {
        Self {
            touches_session: true,
            shifts: true,
            fixed: false,
            may_clean: true,
            sticks: Some(QUOTES_PIN),
            defines: true,
            lifts_read_only: true,
            admin_only: Some(why),
            change: None,
            listens: true,
            presumes: false,
            letters: false,
            requotes: true,
            ..self.clone()
        }
    }
}
