//! Reading what a database's functions do: their bodies, and who runs whom.

use std::{collections::BTreeMap, time::Duration};

use ahash::{HashMap, HashSet};
use tokio::time::Instant;

use super::{Known, dependents::dependents};
use crate::postgres::{
    settings::push_text,
    statement::{Effects, Language, digest, judge},
    upstream::{Failed, Upstream},
    wire,
};

/// The longest body that is judged.
const BODY_BYTES_MAX: usize = 200_000;
/// Names in all bodies together; with more, nothing is judged.
const MENTIONS_MAX: usize = 2_000_000;
/// How many times those who use what was found are looked for.
const ROUNDS_MAX: usize = 30;
/// How often the parameters of extensions that functions set are kept.
const PARAMETERS_MAX: usize = 1000;

/// What our texts begin with: how long they may take on the server, no standby refuses them because the client's
/// transactions are serializable, and nothing is converted: a body could have letters that the client's encoding has not.
const LIMIT: &str = "SET LOCAL TRANSACTION ISOLATION LEVEL READ COMMITTED;\
    SET LOCAL statement_timeout = '3s';SET LOCAL client_encoding = 'SQL_ASCII';";
/// What judging may take; with more, nothing is judged. Opening an upstream waits for it, so it is far less than that may take.
const JUDGING_MAX: Duration = Duration::from_secs(2);

/// All functions that were not there when the server was installed.
const BODIES: &str = "SELECT p.oid, p.proname, l.lanname, \
    CASE WHEN l.lanname = 'sql' AND p.prosrc = '' THEN pg_catalog.pg_get_functiondef(p.oid) \
    ELSE pg_catalog.substr(p.prosrc, 1, 200001) END, \
    p.proconfig::pg_catalog.text LIKE '%standard_conforming_strings=%' \
    FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang \
    WHERE p.oid >= 16384";

/// Functions in C that leave something behind, by the names they have there.
const IN_C: [(&str, Option<&str>); 6] = [
    ("set_limit", Some("pg_trgm.similarity_threshold")),
    ("crosstab", None),
    ("crosstab_hash", None),
    ("connectby_text", None),
    ("connectby_text_serial", None),
    ("xpath_table", None),
];

/// A function.
struct Function {
    oid: u32,
    name: u64,
    effects: Effects,
    loose: bool,
    mentions: Vec<u32>,
}

impl Function {
    /// Its strings, and those of what it calls, are read in its own way.
    fn requote(&mut self) {
        self.effects.shifts = true;
        if self.effects.presumes {
            self.effects.sticks = Some("function");
        }
    }

    /// It has these effects too: its name and all that it has, if that is news.
    fn grow(&mut self, more: Effects) -> Option<(u64, Effects)> {
        let before = self.effects;
        self.effects = before.and(more);
        (self.effects != before).then_some((self.name, self.effects))
    }
}

/// What is found on the way.
#[derive(Default)]
struct Survey {
    functions: Vec<Function>,
    /// Where each is, by its number.
    places: HashMap<u32, usize>,
    /// Names, and the places of functions that mention them, in order.
    users: Vec<(u32, u32)>,
    /// Tables and views: their names.
    relations: BTreeMap<u32, (u64, Effects)>,
    everywhere: Effects,
    on_definition: Effects,
    parameters: Vec<String>,
    mentions: usize,
    /// How many functions were looked at while they were followed.
    #[cfg(test)]
    steps: usize,
}

/// Reads all; or says why not all can be judged.
pub(super) async fn read(upstream: &mut Upstream) -> Result<Result<Known, String>, Failed> {
    let mut survey = Survey::default();
    let (text, ends) = (format!("{LIMIT}{BODIES}"), Instant::now() + JUDGING_MAX);
    let mut late = false;
    let judge = |row: &[u8]| {
        late |= Instant::now() > ends;
        if !late {
            survey.function(row);
        }
    };
    upstream.rows(&text, judge).await?;
    let too_many =
        late || survey.mentions > MENTIONS_MAX || survey.parameters.len() > PARAMETERS_MAX;
    if too_many {
        return Ok(Err("there are too many of them".into()));
    }
    survey.order();
    let mut rounds = 0;
    while survey.follow() {
        let text = survey.question();
        let mut changed = false;
        upstream
            .rows(&text, |row| changed |= survey.dependent(row))
            .await?;
        if !changed {
            break;
        }
        rounds += 1;
        if rounds > ROUNDS_MAX || Instant::now() > ends {
            return Ok(Err("too many use each other".into()));
        }
    }
    Ok(Ok(survey.conclude()))
}

/// Whether the database has a function of one of these names.
pub(super) async fn any_exists(upstream: &mut Upstream, names: &[String]) -> Result<bool, Failed> {
    let mut text = format!(
        "{LIMIT}SELECT 1 FROM pg_catalog.pg_proc WHERE oid >= 16384 AND proname = ANY (ARRAY["
    );
    for (at, name) in names.iter().enumerate() {
        text.push_str(if at > 0 { "," } else { "" });
        // As it is written, and as it is without quotes.
        push_text(&mut text, name);
        text.push(',');
        push_text(&mut text, &name.to_ascii_lowercase());
    }
    text.push_str("]::pg_catalog.name[]) LIMIT 1");
    any_row(upstream, &text).await
}

/// Whether something runs where something is defined.
pub(super) async fn any_event(upstream: &mut Upstream) -> Result<bool, Failed> {
    let text = format!("{LIMIT}SELECT 1 FROM pg_catalog.pg_event_trigger LIMIT 1");
    any_row(upstream, &text).await
}

async fn any_row(upstream: &mut Upstream, text: &str) -> Result<bool, Failed> {
    let mut found = false;
    match upstream.rows(text, |_| found = true).await {
        // What cannot be asked may be.
        Err(Failed::Answer(_)) => Ok(true),
        outcome => outcome.map(|()| found),
    }
}

impl Survey {
    fn function(&mut self, row: &[u8]) {
        let mut fields = wire::fields_of_row(row).map(Option::unwrap_or_default);
        let mut next = || fields.next().unwrap_or_default();
        let (Some(oid), name, language, body) = (number(next()), next(), next(), next()) else {
            return;
        };
        let requotes = next() == b"t";
        let mut function = Function {
            oid,
            name: digest(name),
            effects: Effects::default(),
            loose: false,
            mentions: Vec::new(),
        };
        match language {
            b"internal" => {}
            b"c" => {
                let known = IN_C.iter().find(|(name, _)| name.as_bytes() == body);
                if let Some((_, parameter)) = known {
                    function.loose = parameter.is_none();
                    if parameter.is_some() {
                        function.effects = Effects::DOUBT;
                    }
                    self.parameters.extend(parameter.map(str::to_owned));
                }
            }
            _ if body.len() > BODY_BYTES_MAX => {
                function.loose = true;
                function.effects = Effects {
                    sticks: Some("function"),
                    ..Effects::DOUBT
                };
            }
            b"sql" | b"plpgsql" => self.judge(&mut function, Language::Read, own_part(body)),
            _ => self.judge(&mut function, Language::Foreign, body),
        }
        if requotes {
            function.requote();
        }
        self.places.insert(oid, self.functions.len());
        self.functions.push(function);
    }

    fn judge(&mut self, function: &mut Function, language: Language, text: &[u8]) {
        let body = judge(language, text);
        function.effects = body.effects;
        function.loose = body.loose;
        self.mentions += body.mentions.len();
        if self.mentions <= MENTIONS_MAX {
            function.mentions = body.mentions.into_iter().map(short).collect();
        }
        for parameter in body.parameters {
            if self.parameters.len() <= PARAMETERS_MAX && !self.parameters.contains(&parameter) {
                self.parameters.push(parameter);
            }
        }
    }

    /// Once all functions are there: who mentions what.
    fn order(&mut self) {
        if self.functions.iter().all(|one| one.effects.is_none()) {
            return;
        }
        self.users.reserve_exact(self.mentions);
        for (place, function) in (0..).zip(&mut self.functions) {
            let mentions = std::mem::take(&mut function.mentions);
            self.users
                .extend(mentions.into_iter().map(|name| (name, place)));
        }
        self.users.sort_unstable();
    }

    /// Who names what has effects has them too; whether there are any.
    ///
    /// A function is looked at again only for a name whose effects have grown, which happens a few times at most:
    /// who mentions whom in which order must not cost the time of others.
    fn follow(&mut self) -> bool {
        let functions = self.functions.iter();
        let functions = functions.map(|function| (function.name, function.effects));
        let relations = self.relations.values().copied();
        let named = functions.chain(relations);
        let mut grown: Vec<_> = named.filter(|(_, effects)| !effects.is_none()).collect();
        let mut all = grown
            .iter()
            .fold(Effects::default(), |all, (_, one)| all.and(*one));
        let mut shared = Effects::default();
        while !grown.is_empty() {
            while let Some((name, effects)) = grown.pop() {
                all = all.and(effects);
                let name = short(name);
                let first = self.users.partition_point(|(used, _)| *used < name);
                let users = self.users.get(first..).unwrap_or_default();
                for (_, place) in users.iter().take_while(|(used, _)| *used == name) {
                    #[cfg(test)]
                    {
                        self.steps += 1;
                    }
                    let place = usize::try_from(*place).unwrap_or(usize::MAX);
                    let function = self.functions.get_mut(place);
                    grown.extend(function.and_then(|function| function.grow(effects)));
                }
            }
            // Of what a name that is put together could mean, the worst is left out.
            let before = std::mem::replace(
                &mut shared,
                Effects {
                    sticks: None,
                    ..all
                },
            );
            if shared != before {
                #[cfg(test)]
                {
                    self.steps += self.functions.len();
                }
                let loose = self.functions.iter_mut().filter(|function| function.loose);
                grown.extend(loose.filter_map(|function| function.grow(shared)));
            }
        }
        !all.is_none()
    }

    /// Asks for all that runs what has effects, in one text.
    fn question(&self) -> String {
        let functions = self.functions.iter().filter(|one| !one.effects.is_none());
        let functions = list(functions.map(|function| function.oid));
        let relations = list(self.relations.keys().copied());
        format!("{LIMIT}{}", dependents(&functions, &relations))
    }

    /// Something runs what has effects: whether that is news.
    fn dependent(&mut self, row: &[u8]) -> bool {
        let mut fields = wire::fields_of_row(row).map(Option::unwrap_or_default);
        let mut next = || fields.next().unwrap_or_default();
        let (kind, oid, name, related, via) = (next(), next(), next(), next(), next());
        let (Some(oid), Some(via)) = (number(oid), number(via)) else {
            return false;
        };
        let effects = if related == b"t" {
            self.relations.get(&via).map(|(_, effects)| *effects)
        } else {
            let place = self.places.get(&via);
            let found = place.and_then(|place| self.functions.get(*place));
            found.map(|function| function.effects)
        };
        let effects = effects.unwrap_or_default();
        let held = match kind {
            b"r" => {
                let fresh = (digest(name), Effects::default());
                &mut self.relations.entry(oid).or_insert(fresh).1
            }
            b"f" => {
                let place = self.places.get(&oid);
                match place.and_then(|place| self.functions.get_mut(*place)) {
                    Some(function) => &mut function.effects,
                    None => return false,
                }
            }
            b"d" => &mut self.on_definition,
            _ => &mut self.everywhere,
        };
        let before = std::mem::replace(held, held.and(effects));
        *held != before
    }

    fn conclude(self) -> Known {
        let mut known = Known {
            everywhere: self.everywhere,
            on_definition: self.on_definition,
            any: self.everywhere.and(self.on_definition),
            parameters: self.parameters,
            ..Known::default()
        };
        let names: HashSet<u64> = self.functions.iter().map(|one| one.name).collect();
        let functions = self.functions.iter().map(|one| (one.name, one.effects));
        let relations = self.relations.into_values();
        for (name, effects) in functions.chain(relations) {
            if !effects.is_none() {
                let held = known.effects.entry(name).or_default();
                *held = held.and(effects);
                known.any = known.any.and(effects);
            }
        }
        known.names = names;
        known
    }
}

/// What follows the head of a definition: the body that SQL's standard has.
fn own_part(body: &[u8]) -> &[u8] {
    if !body.starts_with(b"CREATE OR REPLACE ") {
        return body;
    }
    let starts = [&b"\nBEGIN ATOMIC"[..], b"\nRETURN "];
    let at = starts
        .iter()
        .filter_map(|start| memchr::memmem::find(body, start))
        .min();
    at.and_then(|at| body.get(at..)).unwrap_or(body)
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Half of a name's digest, of which very many are kept.
fn short(name: u64) -> u32 {
    u32::try_from(name >> 32).unwrap_or_default()
}

fn list(numbers: impl Iterator<Item = u32>) -> String {
    let numbers: Vec<_> = numbers.map(|number| number.to_string()).collect();
    format!("'{{{}}}'::pg_catalog.oid[]", numbers.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_chain_of_calls_is_followed_at_once() {
        let name = |at: u32| digest(format!("f{at}").as_bytes());
        let mut survey = Survey::default();
        let last = 50_000;
        for at in 0..=last {
            survey.functions.push(Function {
                oid: at,
                name: name(at),
                effects: Effects::default(),
                loose: false,
                mentions: vec![short(name(at + 1))],
            });
        }
        survey.functions.last_mut().unwrap().effects = Effects::DOUBT;
        survey.mentions = survey.functions.len();
        survey.order();
        assert!(survey.follow());
        let most = 10 * survey.functions.len();
        assert!(survey.steps <= most, "{} functions looked at", survey.steps);
        assert_eq!(survey.functions[0].effects, Effects::DOUBT);
    }
}
