//! A secret in the configuration: read, but never shown or written.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::crypto::Secret;

/// A secret that may be absent; the empty text means absence.
#[derive(Debug, Clone, Default)]
pub struct Hidden(Option<Secret>);

impl Hidden {
    /// The secret, if one is set.
    pub const fn get(&self) -> Option<&Secret> {
        self.0.as_ref()
    }
}

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self((!text.is_empty()).then(|| Secret::from(text)))
    }
}

impl PartialEq for Hidden {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(own), Some(other)) => own.matches(other.expose().as_bytes()),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
}

impl Eq for Hidden {}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_some() { "****" } else { "" })
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}
