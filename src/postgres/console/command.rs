//! The commands of the console, read from their texts.

use super::Action;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// `SHOW …`
    Show(Subject),
    /// `PAUSE`, `RESUME`, `RECONNECT`, `KILL`, each with a database's slug or without.
    Act(Action, Option<String>),
    /// `KILL_CLIENT number`
    KillClient(u64),
    /// `RELOAD`
    Reload,
    /// What drivers send by themselves; it changes nothing here. The tag of the answer.
    Nothing(&'static str),
}

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Pools,
    Clients,
    Servers,
    Databases,
    Stats,
    StatsTotals,
    StatsAverages,
    Config,
    Version,
    Lists,
    Help,
}

impl Subject {
    pub(super) const ALL: [(&'static str, Self); 11] = [
        ("POOLS", Self::Pools),
        ("CLIENTS", Self::Clients),
        ("SERVERS", Self::Servers),
        ("DATABASES", Self::Databases),
        ("STATS", Self::Stats),
        ("STATS_TOTALS", Self::StatsTotals),
        ("STATS_AVERAGES", Self::StatsAverages),
        ("CONFIG", Self::Config),
        ("VERSION", Self::Version),
        ("LISTS", Self::Lists),
        ("HELP", Self::Help),
    ];
}

/// Settings that drivers send when they connect; the console has no use for them.
const IGNORED: [&str; 5] = [
    "application_name",
    "client_encoding",
    "datestyle",
    "extra_float_digits",
    "standard_conforming_strings",
];

/// The texts of a simple query, without the empty ones.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(';')
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

/// Reads one command; `None` if it is none.
pub(super) fn parse(text: &str) -> Option<Command> {
    let text = text.trim().trim_end_matches(';');
    let mut words = text.split_whitespace();
    let verb = words.next()?.to_ascii_uppercase();
    let argument = words.next();
    if verb == "SET" {
        let name = argument?.split('=').next()?.to_ascii_lowercase();
        return IGNORED
            .contains(&name.as_str())
            .then_some(Command::Nothing("SET"));
    }
    if words.next().is_some() {
        return None;
    }
    let database = || argument.map(|name| name.trim_matches('"').to_ascii_lowercase());
    Some(match (verb.as_str(), argument) {
        ("SHOW", Some(subject)) => {
            let mut all = Subject::ALL.iter();
            let found = all.find(|(name, _)| name.eq_ignore_ascii_case(subject));
            Command::Show(found?.1)
        }
        ("PAUSE", _) => Command::Act(Action::Pause, database()),
        ("RESUME", _) => Command::Act(Action::Resume, database()),
        ("RECONNECT", _) => Command::Act(Action::Reconnect, database()),
        ("KILL", _) => Command::Act(Action::Kill, database()),
        ("KILL_CLIENT", Some(id)) => Command::KillClient(id.parse().ok()?),
        ("RELOAD", None) => Command::Reload,
        ("BEGIN", None) => Command::Nothing("BEGIN"),
        ("COMMIT", None) => Command::Nothing("COMMIT"),
        ("ROLLBACK", None) => Command::Nothing("ROLLBACK"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_whatever_their_case() {
        assert_eq!(parse("show Pools;"), Some(Command::Show(Subject::Pools)));
        let pause = |name: Option<&str>| Command::Act(Action::Pause, name.map(str::to_owned));
        assert_eq!(parse(" PAUSE\n"), Some(pause(None)));
        assert_eq!(parse("pause \"Demo-PG\""), Some(pause(Some("demo-pg"))));
        assert_eq!(parse("KILL_CLIENT 7"), Some(Command::KillClient(7)));
        assert_eq!(
            parse("SET application_name='x y'"),
            Some(Command::Nothing("SET"))
        );
        for text in [
            "",
            "SHOW",
            "SHOW nothing",
            "SET pool_mode=1",
            "SELECT 1",
            "RELOAD x",
            "PAUSE a b",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(split("SHOW POOLS; ;SHOW STATS;").count(), 2);
    }
}
