//! What a client was told of its session's parameters.

use std::{collections::BTreeMap, sync::Arc};

/// The greeting, shared by all clients, and what was told since.
pub(in crate::postgres) struct Told {
    greeting: Arc<BTreeMap<String, String>>,
    since: Vec<(String, String)>,
}

impl Told {
    pub(in crate::postgres) fn new(greeting: Arc<BTreeMap<String, String>>) -> Self {
        Self {
            greeting,
            since: Vec::new(),
        }
    }

    /// What the client believes.
    pub(in crate::postgres) fn find(&self, name: &str) -> Option<&str> {
        let since = self.since.iter().find(|(known, _)| known == name);
        since
            .map(|(_, value)| value)
            .or_else(|| self.greeting.get(name))
            .map(String::as_str)
    }

    /// The client is told; false if it knew.
    pub(in crate::postgres) fn tell(&mut self, name: &str, value: &str) -> bool {
        if self.find(name) == Some(value) {
            return false;
        }
        match self.since.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => self.since.push((name.to_owned(), value.to_owned())),
        }
        true
    }

    /// Everything, as a greeting says it.
    pub(in crate::postgres) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let fresh = self
            .since
            .iter()
            .filter(|(name, _)| !self.greeting.contains_key(name));
        let names = self.greeting.keys().chain(fresh.map(|(name, _)| name));
        names.filter_map(|name| Some((name.as_str(), self.find(name)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_once() {
        let greeting = [("TimeZone".to_owned(), "UTC".to_owned())].into();
        let mut told = Told::new(Arc::new(greeting));
        assert!(!told.tell("TimeZone", "UTC"));
        assert!(told.tell("TimeZone", "CET"));
        assert!(!told.tell("TimeZone", "CET"));
        assert!(told.tell("application_name", "x"));
        assert_eq!(
            told.iter().collect::<Vec<_>>(),
            [("TimeZone", "CET"), ("application_name", "x")]
        );
    }
}
