//! What may become of the session of who runs something.

/// What running something may do to the session of who runs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent suspicions of one function"
)]
pub(crate) struct Effects {
    /// It may leave what can be asked for.
    pub(crate) asks: bool,
    /// It may set parameters of extensions whose names are known.
    pub(crate) sets: bool,
    /// It may change parameters that matter to texts, if only for the transaction.
    pub(crate) shifts: bool,
    /// It may define functions.
    pub(crate) defines: bool,
    /// It leaves what cannot be asked for: the reason.
    pub(crate) sticks: Option<&'static str>,
    /// It does just this only where `standard_conforming_strings` is on.
    pub(crate) presumes: bool,
}

impl Effects {
    /// What cannot be told at all may do all that can be asked for.
    pub(crate) const DOUBT: Self = Self {
        asks: true,
        sets: false,
        shifts: true,
        defines: false,
        sticks: None,
        presumes: false,
    };

    /// Whether there are none.
    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Both.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            asks: self.asks | other.asks,
            sets: self.sets | other.sets,
            shifts: self.shifts | other.shifts,
            defines: self.defines | other.defines,
            sticks: self.sticks.or(other.sticks),
            presumes: self.presumes | other.presumes,
        }
    }
}
