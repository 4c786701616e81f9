//! The parameters of a session: what a client wants, what an upstream has, and the text between.
//!
//! What a session really holds is asked of the upstream itself (the audit) whenever a statement was
//! suspect; nothing is concluded from the client's text.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::{listen::Channel, statement, wire};

/// What a session's transactions begin with.
const ISOLATION: &str = "default_transaction_isolation";

/// What a text of ours begins with where the session may be another client's: a standby runs nothing that is serializable,
/// and a primary may have it wait.
const PLAINLY: &str = "SET LOCAL TRANSACTION ISOLATION LEVEL READ COMMITTED;";

/// Parameters set in a session, by name in lower case, beyond what the server gives by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    values: BTreeMap<String, String>,
    dialect: u64,
}

fn matters(name: &str) -> bool {
    !statement::is_plain(name.as_bytes())
}

impl Parameters {
    /// From names and values; the last value of a name counts.
    pub(super) fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Arc<Self> {
        let values: BTreeMap<_, _> = pairs
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        let mut hasher = ahash::AHasher::default();
        for pair in values.iter().filter(|(name, _)| matters(name)) {
            pair.hash(&mut hasher);
        }
        let plain = !values.keys().any(|name| matters(name));
        let dialect = if plain { 0 } else { hasher.finish() };
        Arc::new(Self { values, dialect })
    }

    /// Tells apart what may change the meaning of a text; 0 for the server's own parameters.
    pub(super) fn dialect(&self) -> u64 {
        self.dialect
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether what is made under these may be temporary without a word of it: the first schema that there is gets it.
    pub(super) fn may_make_temporary(&self) -> bool {
        let path = self.find("search_path").unwrap_or("").to_ascii_lowercase();
        let mut names = path.split([',', '"', ' ', '\t', '\n', '\r', '\x0b', '\x0c']);
        names.any(|name| name == "pg_temp" || name.starts_with("pg_temp_"))
    }

    /// These with others laid over them.
    pub(super) fn overlaid<'a>(
        &'a self,
        others: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Arc<Self> {
        let all = self.iter().chain(others);
        Self::from_pairs(all.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    /// These without one of them.
    pub(super) fn without(&self, name: &str) -> Arc<Self> {
        let rest = self.iter().filter(|(known, _)| *known != name);
        Self::from_pairs(rest.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    /// The text that sets some of these, for the session or for its transaction only.
    pub(super) fn setting(&self, names: impl Fn(&str) -> bool, local: bool) -> Option<String> {
        let mut text = String::new();
        for (name, value) in self.iter().filter(|(name, _)| names(name)) {
            text.push_str(if text.is_empty() { "SELECT " } else { "," });
            text.push_str("pg_catalog.set_config(");
            push_text(&mut text, name);
            text.push(',');
            push_text(&mut text, value);
            text.push_str(if local { ",true)" } else { ",false)" });
        }
        (!text.is_empty()).then_some(text)
    }

    /// The texts that turn what matters of `known` into these, for the transaction only.
    pub(super) fn turning(&self, known: &Self) -> Vec<String> {
        let gone = known.iter().map(|(name, _)| name);
        let gone = gone.filter(|name| matters(name) && self.find(name).is_none());
        let resets = gone.map(|name| {
            let mut text = "SET LOCAL ".to_owned();
            push_name(&mut text, name);
            text + " TO DEFAULT"
        });
        let differs = |name: &str| matters(name) && known.find(name) != self.find(name);
        resets.chain(self.setting(differs, true)).collect()
    }

    /// Makes one of two equal sets, always the same one, so that in the end all who have it share it, and comparing it
    /// costs nothing.
    pub(super) fn unite(one: &mut Arc<Self>, other: &mut Arc<Self>) {
        if Arc::as_ptr(one) < Arc::as_ptr(other) {
            *other = Arc::clone(one);
        } else {
            *one = Arc::clone(other);
        }
    }

    /// The text that turns a session with `known` into one with these; `None` if nothing differs.
    pub(super) fn difference(&self, known: &Self) -> Option<String> {
        if self.values == known.values {
            return None;
        }
        let begins = known.find(ISOLATION).is_some();
        let mut text = String::from(if begins { PLAINLY } else { "" });
        for name in known
            .values
            .keys()
            .filter(|name| !self.values.contains_key(*name))
        {
            text.push_str("RESET ");
            push_name(&mut text, name);
            text.push(';');
        }
        let differs = |name: &str| known.find(name) != self.find(name);
        text.push_str(&self.setting(differs, false).unwrap_or_default());
        Some(text)
    }
}

/// A string constant that means the same whatever `standard_conforming_strings` is.
pub(super) fn push_text(out: &mut String, value: &str) {
    out.push_str("E'");
    for letter in value.chars().filter(|letter| *letter != '\0') {
        if matches!(letter, '\'' | '\\') {
            out.push(letter);
        }
        out.push(letter);
    }
    out.push('\'');
}

/// A parameter's name, which may have a prefix of its extension.
fn push_name(out: &mut String, name: &str) {
    for (at, part) in name.split('.').enumerate() {
        if at > 0 {
            out.push('.');
        }
        out.push('"');
        out.push_str(&part.replace('"', "\"\""));
        out.push('"');
    }
}

/// Asks a session for all that it holds: its parameters, and the reasons why it must not move.
///
/// Of the conditions of an AND the planner chooses the order, and would read three catalogues in vain; CASE keeps it.
const AUDIT: &str = "\
SELECT 's', name, setting FROM pg_catalog.pg_settings WHERE source = 'session' \
AND name NOT LIKE 'transaction\\_%' \
UNION ALL SELECT 'p', 'temporary', '' WHERE CASE pg_catalog.pg_my_temp_schema() WHEN 0 THEN false ELSE EXISTS \
(SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()) OR EXISTS \
(SELECT FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema()) OR EXISTS \
(SELECT FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.pg_my_temp_schema()) END \
UNION ALL SELECT 'p', 'advisory_lock', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()) \
UNION ALL SELECT 'l', name, '' FROM pg_catalog.pg_listening_channels() AS name \
UNION ALL SELECT 'p', 'cursor_with_hold', '' WHERE EXISTS \
(SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
UNION ALL SELECT 'u', session_user::pg_catalog.text, pg_catalog.current_setting('role')";

/// The audit's question for statements that bear a client's names: all that is known of them.
const STATEMENTS: &str = " UNION ALL SELECT 'q', name, from_sql::pg_catalog.text || ' ' || \
    pg_catalog.array_to_string(parameter_types::pg_catalog.oid[], ',') || ' ' || statement \
    FROM (SELECT * FROM pg_catalog.pg_prepared_statements WHERE name !~ '^pp_[0-9]+$' \
    ORDER BY prepare_time) AS prepared";
/// The same where statements have names of ours: only SQL prepares others.
const SQL_STATEMENTS: &str = " UNION ALL SELECT 'n', name, '' \
    FROM pg_catalog.pg_prepared_statements WHERE from_sql";

/// The audit, with the parameters of extensions that the server does not list by itself.
///
/// Of statements it asks for all where names are the client's own (`native`), else for those that SQL
/// has prepared.
pub(super) fn audit<'a>(unlisted: impl Iterator<Item = &'a String>, native: bool) -> String {
    let mut text = AUDIT.to_owned();
    text.push_str(if native { STATEMENTS } else { SQL_STATEMENTS });
    for name in unlisted {
        text.push_str(" UNION ALL SELECT 's', ");
        push_text(&mut text, name);
        text.push_str(", COALESCE(pg_catalog.current_setting(");
        push_text(&mut text, name);
        text.push_str(", true), '')");
    }
    text
}

/// Asks for these parameters of extensions only, which costs far less than to ask for all.
pub(super) fn own<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut text = String::from(
        "SELECT 's', name, COALESCE(pg_catalog.current_setting(name, true), '') FROM (VALUES ",
    );
    for (at, name) in names.enumerate() {
        text.push_str(if at > 0 { ",(" } else { "(" });
        push_text(&mut text, name);
        text.push(')');
    }
    text + ") AS own(name)"
}

/// Asks for the parameters that the session, or its transaction, has changed.
pub(super) const CHANGED: &str = "SELECT name, setting FROM pg_catalog.pg_settings \
    WHERE source = 'session' AND name NOT LIKE 'transaction\\_%'";

/// A name and a value, from the body of a `DataRow`.
pub(super) fn pair(body: &[u8]) -> Option<(String, String)> {
    let mut fields = wire::fields_of_row(body);
    let mut text = || String::from_utf8(fields.next()??.to_vec()).ok();
    Some((text()?, text()?))
}

/// The reasons for a pin, as the audit gives them.
const REASONS: [&str; 3] = ["temporary", "advisory_lock", "cursor_with_hold"];

/// A statement under a client's name, as the server describes it.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) name: String,
    pub(super) by_sql: bool,
    pub(super) types: Vec<u32>,
    pub(super) text: String,
}

impl Prepared {
    fn read(name: String, described: &str) -> Option<Self> {
        let (by_sql, rest) = described.split_once(' ')?;
        let (types, text) = rest.split_once(' ')?;
        let types = types.split(',').filter(|oid| !oid.is_empty());
        Some(Self {
            name,
            by_sql: by_sql == "true",
            types: types.map(str::parse).collect::<Result<_, _>>().ok()?,
            text: text.to_owned(),
        })
    }
}

/// What an audit found, row by row.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pairs: Vec<(String, String)>,
    pin: Option<&'static str>,
    /// Channels that the session listens to, as they are named on the wire.
    channels: Vec<Channel>,
    /// Statements that bear the client's names.
    prepared: Vec<Prepared>,
    /// Names of statements that SQL has prepared, whoever sent it.
    strange: Vec<String>,
    user: Option<String>,
    failed: bool,
}

impl Findings {
    /// Takes in the body of a `DataRow`.
    pub(super) fn row(&mut self, body: &[u8]) {
        let text = |field: Option<Option<&[u8]>>| {
            field
                .flatten()
                .and_then(|bytes| std::str::from_utf8(bytes).ok())
                .map(str::to_owned)
        };
        let mut fields = wire::fields_of_row(body);
        let mut raw = wire::fields_of_row(body);
        if let (Some(Some(b"l")), Some(Some(channel))) = (raw.next(), raw.next()) {
            self.channels.push(channel.into());
            return;
        }
        match (
            text(fields.next()).as_deref(),
            text(fields.next()),
            text(fields.next()),
        ) {
            // Once set, they stay, but empty.
            (Some("s"), Some(name), Some(value)) if value.is_empty() && name.contains('.') => {}
            (Some("s"), Some(name), Some(value)) => self.pairs.push((name, value)),
            (Some("p"), Some(reason), _) => {
                self.pin = REASONS.iter().find(|known| **known == reason).copied();
                self.failed |= self.pin.is_none();
            }
            (Some("q"), Some(name), Some(described)) => match Prepared::read(name, &described) {
                Some(prepared) => self.prepared.push(prepared),
                None => self.failed = true,
            },
            (Some("n"), Some(name), _) => self.strange.push(name),
            (Some("u"), Some(user), Some(role)) => {
                if role != "none" {
                    self.pin = Some("role");
                }
                self.user = Some(user);
            }
            // What cannot be read is in doubt, and doubt pins.
            _ => self.failed = true,
        }
    }

    /// The upstream could not answer.
    pub(super) fn fail(&mut self) {
        self.failed = true;
    }

    /// The channels that the session listens to.
    pub(super) fn take_channels(&mut self) -> Vec<Channel> {
        std::mem::take(&mut self.channels)
    }

    /// The statements that bear the client's names; `None` if they are not all known.
    pub(super) fn take_prepared(&mut self) -> Option<Vec<Prepared>> {
        (!self.failed).then(|| std::mem::take(&mut self.prepared))
    }

    /// The names of statements that SQL has prepared.
    pub(super) fn take_strange(&mut self) -> Vec<String> {
        std::mem::take(&mut self.strange)
    }

    /// What was found of a parameter.
    pub(super) fn own(&self, name: &str) -> Option<&str> {
        let mut pairs = self.pairs.iter();
        let found = pairs.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether the upstream could not answer.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// The parameters found, and why the upstream must stay with its client, if it must.
    ///
    /// `login` is the user that the upstream logged in as.
    pub(super) fn conclude(self, login: &str) -> (Arc<Parameters>, Option<&'static str>) {
        let pin = match self.user {
            _ if self.failed => Some("unknown"),
            Some(user) if user == login => self.pin,
            Some(_) => Some("session_authorization"),
            None => Some("unknown"),
        };
        (Parameters::from_pairs(self.pairs), pin)
    }
}

/// Reads the start-up parameter `options`: `-c name=value`, `-cname=value`, `--name=value`; a
/// backslash keeps a space, and `+` stands for one where a URL library left it so.
pub(super) fn read_options(text: &str) -> Vec<(String, String)> {
    let mut words = split_options(text).into_iter().peekable();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let pair = if word == "-c" {
            words.next().unwrap_or_default()
        } else if let Some(rest) = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            rest.to_owned()
        } else {
            word
        };
        if let Some((name, value)) = pair.split_once('=') {
            found.push((name.trim().replace('-', "_"), value.to_owned()));
        }
    }
    found
}

fn split_options(text: &str) -> Vec<String> {
    let (mut words, mut word, mut letters) = (Vec::new(), String::new(), text.chars());
    let plus_is_space = !text.contains(' ') && text.contains('+');
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => word.extend(letters.next()),
            '+' if plus_is_space => words.push(std::mem::take(&mut word)),
            letter if letter.is_ascii_whitespace() => words.push(std::mem::take(&mut word)),
            letter => word.push(letter),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Arc<Parameters> {
        Parameters::from_pairs(
            pairs
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned())),
        )
    }

    #[test]
    fn only_temporary_schemas_make_temporary() {
        for (path, temporary) in [
            ("pg_temp", true),
            ("a, \"pg_temp\"", true),
            ("PG_TEMP_3,a", true),
            ("my_pg_temp, pg_temperature", false),
            ("\"$user\", public", false),
            ("", false),
        ] {
            let set = parameters(&[("search_path", path)]);
            assert_eq!(set.may_make_temporary(), temporary, "{path}");
        }
        assert!(!parameters(&[]).may_make_temporary());
    }

    #[test]
    fn only_what_differs_is_said() {
        let has = parameters(&[("DateStyle", "ISO"), ("my.var", "1"), ("timezone", "UTC")]);
        let wants = parameters(&[
            ("datestyle", "ISO"),
            ("search_path", "a'\\b"),
            ("timezone", "CET"),
        ]);
        assert_eq!(
            wants.difference(&has).unwrap(),
            "RESET \"my\".\"var\";SELECT pg_catalog.set_config(E'search_path',E'a''\\\\b',false),\
             pg_catalog.set_config(E'timezone',E'CET',false)"
        );
        assert_eq!(wants.difference(&wants), None);
    }

    #[test]
    fn how_a_client_begins_transactions_is_not_for_the_next() {
        let has = parameters(&[("default_transaction_isolation", "serializable")]);
        let wants = parameters(&[("application_name", "x")]);
        assert_eq!(
            wants.difference(&has).unwrap(),
            format!(
                "{PLAINLY}RESET \"default_transaction_isolation\";\
                 SELECT pg_catalog.set_config(E'application_name',E'x',false)"
            )
        );
    }

    #[test]
    fn what_matters_is_turned_for_the_transaction() {
        let has = parameters(&[
            ("DateStyle", "ISO"),
            ("work_mem", "1MB"),
            ("timezone", "UTC"),
        ]);
        let wants = parameters(&[("timezone", "CET"), ("lock_timeout", "5")]);
        let reset = "SET LOCAL \"datestyle\" TO DEFAULT".to_owned();
        let set = "SELECT pg_catalog.set_config(E'timezone',E'CET',true)".to_owned();
        assert_eq!(wants.turning(&has), [reset, set]);
        assert!(wants.turning(&wants).is_empty());
    }

    #[test]
    fn what_changes_no_meaning_is_no_dialect() {
        let plain = [("application_name", "x"), ("work_mem", "3MB")];
        assert_eq!(parameters(&plain).dialect(), 0);
        assert_ne!(parameters(&[("search_path", "x")]).dialect(), 0);
    }

    #[test]
    fn options_are_read_in_every_form() {
        let read = |text| {
            let found = read_options(text);
            found
                .into_iter()
                .map(|(n, v)| format!("{n}={v}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            read("-c a=1 --b-c=2 -cd=x\\ y reference=t"),
            ["a=1", "b_c=2", "d=x y", "reference=t"]
        );
        assert_eq!(read("-c+a=1"), ["a=1"]);
        assert!(read("").is_empty());
    }
}
