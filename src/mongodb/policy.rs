//! Who may do what: roles, databases, and the places where a command reaches beyond its `$db`.
//!
//! The upstream's own user is the real fence; this is defence in depth, and what makes roles out of
//! one upstream user. Roles of administrators are not confined to databases.

use super::{
    commands::{Audience, Class, Command, Commands},
    refusal::ErrorReply,
    wire::{Body, Element, Elements, Message},
};
use crate::tenant::{Role, Tenant};

/// Databases of the server itself, never a tenant's.
pub(crate) const SERVER_DATABASES: [&str; 4] = ["admin", "local", "config", "$external"];
/// First stages that tell of the whole server.
const SERVER_STAGES: [&[u8]; 4] = [
    b"$currentOp",
    b"$listLocalSessions",
    b"$listSessions",
    b"$listSampledQueries",
];

/// What a login may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grant<'a> {
    /// Its role.
    pub(crate) role: Role,
    /// The registered database; without one, all but the server's own.
    pub(crate) database: Option<&'a str>,
}

impl<'a> Grant<'a> {
    /// The grant of a role on a tenant.
    pub(crate) fn of(tenant: &'a Tenant, role: Role) -> Self {
        // A path of `/admin` in a connection string names where the user is, not its data.
        let database = tenant.target.database.as_deref();
        Self {
            role,
            database: database.filter(|name| !is_server_database(name)),
        }
    }

    /// Whether the login is kept to its databases.
    pub(crate) fn is_confined(&self) -> bool {
        self.role < Role::Admin
    }

    /// Whether it may touch that database.
    pub(crate) fn covers(&self, database: &str) -> bool {
        !self.is_confined()
            || match self.database {
                Some(registered) => registered == database,
                None => !is_server_database(database),
            }
    }
}

/// Decides over one request of a logged-in client; the command that it may go on as.
pub(crate) fn judge(
    commands: &Commands,
    grant: Grant<'_>,
    message: &Message<'_>,
) -> Result<Command, ErrorReply> {
    let body = &message.body;
    let name = body.command();
    let command = commands
        .find(name)
        .ok_or_else(|| ErrorReply::unknown_command(name))?;
    let refused = || ErrorReply::unauthorized(body.database(), name, grant.role);
    if !command.audience.admits(grant.role) {
        return Err(refused());
    }
    let here = grant.covers(body.database()) || (command.on_admin && body.database() == "admin");
    if !here {
        return Err(refused());
    }
    let reach = match name {
        b"aggregate" => aggregate_reach(body, grant),
        b"mapReduce" | b"mapreduce" => map_reduce_reach(body),
        b"renameCollection" => rename_reach(body, grant),
        b"bulkWrite" => bulk_write_reach(message, grant),
        b"explain" | b"create" | b"collMod" => lookup_reach(body.bytes(), grant),
        _ => Reach::Home,
    };
    match reach {
        Reach::Home => Ok(command),
        Reach::Writes { database } => {
            let database = database.unwrap_or(body.database());
            let writes = Command {
                class: Class::Write,
                audience: Audience::From(Role::Write),
                ..command
            };
            let allowed = writes.audience.admits(grant.role) && grant.covers(database);
            allowed.then_some(writes).ok_or_else(refused)
        }
        Reach::Beyond => Err(refused()),
    }
}

/// How far a command reaches beyond what its name and `$db` say.
enum Reach<'a> {
    /// Not at all.
    Home,
    /// It writes, into that database or its own.
    Writes {
        /// The database, if it names one.
        database: Option<&'a str>,
    },
    /// Into what the login must not see.
    Beyond,
}

/// The server takes `$out` and `$merge` as the last stage of the outermost pipeline only.
fn aggregate_reach<'a>(body: &Body<'a>, grant: Grant<'_>) -> Reach<'a> {
    let Some(pipeline) = body.field("pipeline") else {
        return Reach::Home;
    };
    let stages = pipeline
        .document()
        .and_then(|stages| Elements::new(stages).ok());
    // Not an array: the server will say so.
    let Some(stages) = stages else {
        return Reach::Home;
    };
    let mut last = None;
    for stage in stages {
        let operator = stage
            .ok()
            .and_then(|stage| Elements::new(stage.document()?).ok()?.next()?.ok());
        if let Some(operator) = &operator
            && grant.is_confined()
            && SERVER_STAGES.contains(&operator.name)
        {
            return Reach::Beyond;
        }
        last = operator;
    }
    match last {
        Some(stage) if stage.name == b"$out" => Reach::Writes {
            database: stage.document().and_then(|out| field_text(out, "db")),
        },
        Some(stage) if stage.name == b"$merge" => Reach::Writes {
            database: merge_database(&stage),
        },
        _ => Reach::Home,
    }
    .and(lookup_reach(pipeline.value, grant))
}

impl Reach<'_> {
    /// The farther of two reaches of one command.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Beyond, _) | (_, Self::Beyond) => Self::Beyond,
            (Self::Home, other) => other,
            (this, _) => this,
        }
    }
}

fn merge_database<'a>(stage: &Element<'a>) -> Option<&'a str> {
    let into = Elements::new(stage.document()?).ok()?.find(b"into")?;
    field_text(into.document()?, "db")
}

/// Some collections of the server can be looked up from any database, at any depth of a pipeline:
/// `from: {db: "local", coll: "oplog.rs"}`. The pattern is searched for in the bytes.
fn lookup_reach<'a>(bytes: &[u8], grant: Grant<'_>) -> Reach<'a> {
    if !grant.is_confined() {
        return Reach::Home;
    }
    for at in memchr::memmem::find_iter(bytes, b"\x03from\0") {
        let nested = bytes.get(at + 6..).and_then(|rest| {
            let length = usize::try_from(i32::from_le_bytes(*rest.first_chunk::<4>()?)).ok()?;
            rest.get(..length)
        });
        let Some(elements) = nested.and_then(|nested| Elements::new(nested).ok()) else {
            continue;
        };
        if elements.clone().find(b"db").is_some() && elements.find(b"coll").is_some() {
            return Reach::Beyond;
        }
    }
    Reach::Home
}

fn map_reduce_reach<'a>(body: &Body<'a>) -> Reach<'a> {
    let Some(out) = body.field("out") else {
        return Reach::Home;
    };
    let Some(options) = out.document() else {
        return Reach::Writes { database: None };
    };
    let has = |name: &[u8]| Elements::new(options).is_ok_and(|found| found.find(name).is_some());
    let is_stored = has(b"replace") || has(b"merge") || has(b"reduce");
    if has(b"inline") && !is_stored {
        return Reach::Home;
    }
    Reach::Writes {
        database: field_text(options, "db"),
    }
}

fn rename_reach<'a>(body: &Body<'a>, grant: Grant<'_>) -> Reach<'a> {
    let to = body.field("to");
    let both = [body.argument().text(), to.and_then(|to| to.text())];
    let covered = both
        .into_iter()
        .all(|name| name.is_some_and(|name| grant.covers(database_of(name))));
    if covered { Reach::Home } else { Reach::Beyond }
}

fn bulk_write_reach<'a>(message: &Message<'a>, grant: Grant<'_>) -> Reach<'a> {
    if !grant.is_confined() {
        return Reach::Home;
    }
    let covers = |document: &[u8]| {
        field_text(document, "ns").is_some_and(|name| grant.covers(database_of(name)))
    };
    if let Some(array) = message.body.field("nsInfo") {
        let entries = array.document().and_then(|array| Elements::new(array).ok());
        let covered = entries.is_some_and(|mut entries| {
            entries.all(|entry| entry.is_ok_and(|entry| entry.document().is_some_and(covers)))
        });
        return if covered { Reach::Home } else { Reach::Beyond };
    }
    let Some(mut rest) = message.namespaces() else {
        return Reach::Beyond;
    };
    while !rest.is_empty() {
        let document = rest
            .first_chunk::<4>()
            .and_then(|raw| usize::try_from(i32::from_le_bytes(*raw)).ok())
            .and_then(|length| rest.split_at_checked(length));
        match document {
            Some((document, tail)) if covers(document) => rest = tail,
            _ => return Reach::Beyond,
        }
    }
    Reach::Home
}

fn field_text<'a>(document: &'a [u8], name: &str) -> Option<&'a str> {
    Elements::new(document).ok()?.find(name.as_bytes())?.text()
}

/// The database of a full namespace.
fn database_of(namespace: &str) -> &str {
    namespace.split('.').next().unwrap_or_default()
}

/// Database names differ on the server by more than case, so any case of them is meant.
fn is_server_database(name: &str) -> bool {
    SERVER_DATABASES
        .iter()
        .any(|server| name.eq_ignore_ascii_case(server))
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, rawdoc};

    use super::*;
    use crate::mongodb::wire::{Header, MESSAGE_BYTES_MAX, encode_message};

    fn judged(role: Role, database: Option<&str>, body: &RawDocumentBuf) -> Option<Class> {
        let mut bytes = Vec::new();
        encode_message(&mut bytes, 1, 0, 0, body.as_bytes());
        let header = Header::parse(&bytes, MESSAGE_BYTES_MAX).unwrap().unwrap();
        let message = Message::parse(&bytes, &header).unwrap();
        let grant = Grant { role, database };
        judge(&Commands::new(), grant, &message)
            .ok()
            .map(|command| command.class)
    }

    #[test]
    fn registered_database_is_the_only_one() {
        let find = |database: &str| rawdoc! { "find": "c", "$db": database };
        for (database, allowed) in [
            ("app", true),
            ("App", false),
            ("other", false),
            ("admin", false),
        ] {
            let class = judged(Role::Write, Some("app"), &find(database));
            assert_eq!(class.is_some(), allowed, "{database}");
        }
        for (database, allowed) in [("app", true), ("Local", false), ("config", false)] {
            assert_eq!(
                judged(Role::Write, None, &find(database)).is_some(),
                allowed
            );
        }
        assert!(judged(Role::Admin, Some("app"), &find("local")).is_some());
    }

    #[test]
    fn reading_pipelines_read_and_writing_ones_write() {
        let stages = |stages: bson::RawArrayBuf| rawdoc! { "aggregate": "c", "pipeline": stages, "$db": "app" };
        let one = |stage: RawDocumentBuf| [rawdoc! { "$match": {} }, stage].into_iter().collect();
        let plain = stages(one(rawdoc! { "$group": { "_id": 1 } }));
        assert_eq!(judged(Role::Read, None, &plain), Some(Class::Read));
        for stage in [
            rawdoc! { "$out": "x" },
            rawdoc! { "$out": { "db": "app", "coll": "x" } },
            rawdoc! { "$merge": "x" },
            rawdoc! { "$merge": { "into": { "db": "app", "coll": "x" } } },
        ] {
            let body = stages(one(stage));
            assert_eq!(judged(Role::Read, None, &body), None);
            assert_eq!(judged(Role::Write, None, &body), Some(Class::Write));
        }
        let foreign = stages(one(rawdoc! { "$out": { "db": "admin", "coll": "x" } }));
        assert_eq!(judged(Role::Write, None, &foreign), None);
    }

    #[test]
    fn field_named_from_is_no_foreign_lookup() {
        let body = rawdoc! {
            "aggregate": "c", "pipeline": [{ "$match": { "from": { "$gt": 5 } } }], "$db": "app",
        };
        assert_eq!(judged(Role::Read, None, &body), Some(Class::Read));
    }

    #[test]
    fn bulk_writes_are_judged_by_every_namespace() {
        let body =
            |names: bson::RawArrayBuf| rawdoc! { "bulkWrite": 1, "nsInfo": names, "$db": "admin" };
        let entry = |name: &str| rawdoc! { "ns": name };
        let own = body([entry("app.a"), entry("app.b")].into_iter().collect());
        assert!(judged(Role::Write, Some("app"), &own).is_some());
        let mixed = body([entry("app.a"), entry("other.b")].into_iter().collect());
        assert_eq!(judged(Role::Write, Some("app"), &mixed), None);
    }

    #[test]
    fn transactions_end_on_admin_and_little_else_is_done_there() {
        let commit = rawdoc! { "commitTransaction": 1, "$db": "admin" };
        assert_eq!(
            judged(Role::Read, Some("app"), &commit),
            Some(Class::Session)
        );
        let insert = rawdoc! { "insert": "c", "$db": "admin" };
        assert_eq!(judged(Role::Write, Some("app"), &insert), None);
        let user = rawdoc! { "createUser": "u", "$db": "app" };
        assert_eq!(judged(Role::Write, Some("app"), &user), None);
    }
}
