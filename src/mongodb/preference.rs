//! Read preference: which members of a set a client wants to read from.
//!
//! <https://www.mongodb.com/docs/manual/core/read-preference/>

use std::time::Duration;

use super::wire::{Element, Elements};

/// The smallest staleness that can be told from the time between two hellos.
const STALENESS_MIN: Duration = Duration::from_secs(90);
/// Tag sets that are looked at.
const TAG_SETS_MAX: usize = 16;

/// Which kind of member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mode {
    /// The primary.
    #[default]
    Primary,
    /// The primary, or a secondary while there is none.
    PrimaryPreferred,
    /// A secondary.
    Secondary,
    /// A secondary, or the primary while there is none.
    SecondaryPreferred,
    /// Whoever is near.
    Nearest,
}

impl Mode {
    fn of(label: &str) -> Option<Self> {
        match label {
            "primary" => Some(Self::Primary),
            "primaryPreferred" => Some(Self::PrimaryPreferred),
            "secondary" => Some(Self::Secondary),
            "secondaryPreferred" => Some(Self::SecondaryPreferred),
            "nearest" => Some(Self::Nearest),
            _ => None,
        }
    }

    /// The name on the wire.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::PrimaryPreferred => "primaryPreferred",
            Self::Secondary => "secondary",
            Self::SecondaryPreferred => "secondaryPreferred",
            Self::Nearest => "nearest",
        }
    }
}

/// Tags that a member must have, all of them.
pub(crate) type Tags = Vec<(String, String)>;

/// What `$readPreference` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Preference {
    /// Which kind of member.
    pub(crate) mode: Mode,
    /// Alternatives, the first that any member fits; empty: all fit.
    pub(crate) tag_sets: Vec<Tags>,
    /// How far behind a secondary may be.
    pub(crate) staleness_max: Option<Duration>,
}

impl Preference {
    /// Reads the field. What the server would refuse is left for it to refuse, by the primary.
    pub(crate) fn read(field: &Element<'_>) -> Self {
        Self::parse(field).unwrap_or_default()
    }

    fn parse(field: &Element<'_>) -> Option<Self> {
        let mut preference = Self::default();
        for element in Elements::new(field.document()?).ok()? {
            let element = element.ok()?;
            match element.name {
                b"mode" => preference.mode = Mode::of(element.text()?)?,
                b"tags" => preference.tag_sets = tag_sets(&element)?,
                b"maxStalenessSeconds" => {
                    let seconds = u64::try_from(element.integer()?).ok();
                    let staleness_max = seconds.map(Duration::from_secs);
                    preference.staleness_max = staleness_max.filter(|max| *max >= STALENESS_MIN);
                }
                _ => {}
            }
        }
        Some(preference)
    }
}

fn tag_sets(field: &Element<'_>) -> Option<Vec<Tags>> {
    let sets = Elements::new(field.document()?).ok()?;
    sets.take(TAG_SETS_MAX)
        .map(|set| tags_of(&set.ok()?))
        .collect()
}

/// The tags of a document of texts.
pub(crate) fn tags_of(field: &Element<'_>) -> Option<Tags> {
    let tags = Elements::new(field.document()?).ok()?;
    tags.map(|tag| {
        let tag = tag.ok()?;
        let name = std::str::from_utf8(tag.name).ok()?;
        Some((name.to_owned(), tag.text()?.to_owned()))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, rawdoc};

    use super::*;

    fn read(preference: RawDocumentBuf) -> Preference {
        let body = rawdoc! { "p": preference };
        let field = Elements::new(body.as_bytes()).unwrap().find(b"p").unwrap();
        Preference::read(&field)
    }

    #[test]
    fn all_parts_are_read() {
        let preference = read(rawdoc! {
            "mode": "secondaryPreferred", "tags": [{ "dc": "a", "use": "b" }, {}], "maxStalenessSeconds": 120,
        });
        let tags = vec![
            ("dc".to_owned(), "a".to_owned()),
            ("use".to_owned(), "b".to_owned()),
        ];
        assert_eq!(preference.mode, Mode::SecondaryPreferred);
        assert_eq!(preference.tag_sets, [tags, Vec::new()]);
        assert_eq!(preference.staleness_max, Some(Duration::from_mins(2)));
    }

    #[test]
    fn what_is_wrong_goes_to_the_primary_which_says_so() {
        for wrong in [
            rawdoc! { "mode": "Secondary" },
            rawdoc! { "mode": "secondary", "tags": "dc" },
            rawdoc! { "mode": "secondary", "tags": [{ "dc": 1 }] },
        ] {
            assert_eq!(read(wrong), Preference::default());
        }
    }
}
