//! Two worlds, the same two clients in each, the same random operations: every answer is compared.

use std::{collections::VecDeque, fmt::Write, time::Duration};

use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    gateway::{Database, Gateway, account, server_url},
    operations::{Operation, Phase, Random, Situation, Until, operation},
    wire::{Account, Client, Message, sync},
};

/// How long a notification may be on its way.
const NOTIFIED_MAX: Duration = Duration::from_secs(5);

/// One client in one world.
struct Party {
    client: Client,
    status: u8,
    last: u8,
    /// Notifications since the last comparison: they come when they come.
    notifications: VecDeque<String>,
}

impl Party {
    /// Carries out a phase; what was answered, in a form that can be compared.
    async fn carry_out(&mut self, phase: &Phase) -> Vec<String> {
        let mut said = Vec::new();
        if !phase.after.is_empty() && !phase.after.contains(&self.last) {
            return said;
        }
        let sent = timeout(NOTIFIED_MAX, self.client.socket.write_all(&phase.send));
        if !matches!(sent.await, Ok(Ok(()))) {
            said.push("(closed)".into());
            return said;
        }
        let mut ready = 0;
        loop {
            let over = match phase.until {
                Until::Ready(count) => ready == count,
                Until::Tag(tags) => !said.is_empty() && (tags.contains(&self.last) || ready > 0),
                Until::Nothing => true,
            };
            if over {
                return said;
            }
            let Ok(next) = timeout(NOTIFIED_MAX, self.client.next()).await else {
                said.push("(no answer)".into());
                return said;
            };
            let Some(message) = next else {
                said.push("(closed)".into());
                return said;
            };
            self.take(&message, &mut said);
            if message.tag == b'Z' {
                ready += 1;
            }
        }
    }

    fn take(&mut self, message: &Message, said: &mut Vec<String>) {
        match message.tag {
            b'A' => {
                let text = self.notification(&message.body);
                self.notifications.push_back(text);
            }
            b'Z' => {
                self.status = message.body[0];
                self.last = b'Z';
                said.push(format!("Z {}", char::from(message.body[0])));
            }
            tag => {
                if !matches!(tag, b'N' | b'S') {
                    self.last = tag;
                }
                said.push(comparable(message));
            }
        }
    }

    /// Process ids differ between the worlds: who it was must not.
    fn notification(&self, body: &[u8]) -> String {
        let pid = u32::from_be_bytes(body[..4].try_into().unwrap());
        let own = self.client.key.0 == pid;
        let who = if own { "itself" } else { "somebody" };
        format!(
            "{who}: {}",
            String::from_utf8_lossy(&body[4..]).replace('\0', "|")
        )
    }
}

/// A message without what may differ:
///
/// * file, line and routine of errors: the gateway's own errors have no source in the server;
/// * object ids of the databases' own tables: there are two databases.
fn comparable(message: &Message) -> String {
    let body = &message.body;
    let mut text = String::from(char::from(message.tag));
    match message.tag {
        b'E' | b'N' => {
            for field in body
                .split(|byte| *byte == 0)
                .filter(|field| !field.is_empty())
            {
                if !matches!(field[0], b'F' | b'L' | b'R') {
                    write!(text, " {}", String::from_utf8_lossy(field)).unwrap();
                }
            }
        }
        b'T' => {
            let mut rest = &body[2..];
            while let Some(end) = rest.iter().position(|byte| *byte == 0) {
                let (name, tail) = rest.split_at(end);
                let (numbers, tail) = tail[1..].split_at(18);
                let table = u32::from_be_bytes(numbers[..4].try_into().unwrap());
                let table = if table >= 16384 {
                    "own".into()
                } else {
                    table.to_string()
                };
                write!(
                    text,
                    " {}:{table}:{:?}",
                    String::from_utf8_lossy(name),
                    &numbers[4..]
                )
                .unwrap();
                rest = tail;
            }
        }
        b'D' if body.len() > 1000 => {
            write!(
                text,
                " {} bytes, sum {}",
                body.len(),
                body.iter().map(|byte| u64::from(*byte)).sum::<u64>()
            )
            .unwrap();
        }
        _ => text.push_str(&String::from_utf8_lossy(body).replace('\0', "|")),
    }
    text
}

/// Two clients of one world.
struct World {
    parties: [Party; 2],
}

impl World {
    async fn enter(account: &Account, parameters: &[(&str, &str)]) -> Self {
        let first = Client::log_in(account, parameters).await.unwrap();
        let second = Client::log_in(account, &[]).await.unwrap();
        let party = |client| Party {
            client,
            status: b'I',
            last: b'Z',
            notifications: VecDeque::new(),
        };
        Self {
            parties: [party(first), party(second)],
        }
    }
}

/// What two databases must have for the operations.
const SCHEMA: &str = "\
    create schema s1; create schema s2; \
    create table shared (a int, b text); \
    create table named (v text); insert into named values ('public'); \
    create table s1.named (v text); insert into s1.named values ('s1'); \
    create table s2.named (v text); insert into s2.named values ('s2'); \
    create table own_a (a int); create table own_b (a int); \
    create function set_own(v text) returns text language plpgsql as \
        $$ begin perform set_config('my.own', v, false); return v; end $$; \
    create function set_memory(v text) returns text language plpgsql as \
        $$ begin execute 'set work_mem = ' || quote_literal(v); return v; end $$; \
    create function set_path(v text) returns text language sql as \
        $$ select set_config('search_path', v, false) $$; \
    create function set_path_locally(v text) returns text language sql as \
        $$ select set_config('search_path', v, true) $$; \
    create function set_zone(v text) returns text language sql as \
        $$ select set_config('timezone', v, false) $$; \
    create procedure set_both(v text) language plpgsql as \
        $$ begin set work_mem = '10MB'; perform public.set_own(v); end $$; \
    create table watched (v text); \
    create function watch() returns trigger language plpgsql as \
        $$ begin perform set_config('my.other', new.v, false); return null; end $$; \
    create trigger watch before insert on watched for each row execute function watch(); \
    create view by_view as select public.set_memory('11MB'); \
    grant all on all tables in schema public, s1, s2 to diff_one, diff_two; \
    grant all on schema public, s1, s2 to diff_one, diff_two";

struct Run {
    seed: u64,
    direct: World,
    gateway: World,
    random: Random,
    history: VecDeque<String>,
    /// What the two clients have still to do of their operations.
    pending: [VecDeque<Phase>; 2],
}

impl Run {
    async fn go(&mut self, operations: usize) -> Result<(), String> {
        let mut done = 0;
        while done < operations {
            let who = self.random.below(2);
            if self.pending[who].is_empty() {
                done += 1;
                let situation = Situation {
                    client: ['a', 'b'][who],
                    status: self.direct.parties[who].status,
                };
                let Operation { label, phases } = operation(&mut self.random, situation);
                let status = char::from(situation.status);
                self.note(format!("{done} {} ({status}): {label}", situation.client));
                self.pending[who].extend(phases);
            }
            if let Some(phase) = self.pending[who].pop_front() {
                self.phase(who, &phase).await?;
            }
        }
        Ok(())
    }

    fn note(&mut self, text: String) {
        self.history.push_back(text);
        if self.history.len() > 1000 {
            self.history.pop_front();
        }
    }

    async fn phase(&mut self, who: usize, phase: &Phase) -> Result<(), String> {
        let expected = self.direct.parties[who].carry_out(phase).await;
        let found = self.gateway.parties[who].carry_out(phase).await;
        if expected != found {
            let at = expected
                .iter()
                .zip(&found)
                .take_while(|(one, other)| one == other)
                .count();
            let show = |said: &[String]| {
                let lines = said.iter().skip(at.saturating_sub(2)).take(8);
                lines
                    .map(|line| format!("    {}\n", line.chars().take(300).collect::<String>()))
                    .collect::<String>()
            };
            return Err(self.report(&format!(
                "answers differ from number {at}:\n  direct:\n{}  through polypool:\n{}",
                show(&expected),
                show(&found)
            )));
        }
        self.notifications().await
    }

    /// Direct connections have got all that was committed once they have answered something.
    async fn notifications(&mut self) -> Result<(), String> {
        for who in 0..2 {
            if self.direct.parties[who].status != b'I' || !self.pending[who].is_empty() {
                continue;
            }
            // A Sync, as it leaves the unnamed statement alone.
            let nothing = Phase {
                after: b"",
                send: sync(),
                until: Until::Ready(1),
            };
            self.direct.parties[who].carry_out(&nothing).await;
            let expected = std::mem::take(&mut self.direct.parties[who].notifications);
            let party = &mut self.gateway.parties[who];
            while party.notifications.len() < expected.len() {
                let Ok(Some(message)) = timeout(NOTIFIED_MAX, party.client.next()).await else {
                    break;
                };
                let mut said = Vec::new();
                party.take(&message, &mut said);
                if !said.is_empty() {
                    return Err(self.report(&format!("nobody asked for {said:?}")));
                }
            }
            let found = std::mem::take(&mut party.notifications);
            if found != expected {
                return Err(self.report(&format!(
                    "notifications of {who} differ:\n  direct: {expected:?}\n  through polypool: {found:?}"
                )));
            }
        }
        Ok(())
    }

    fn report(&self, what: &str) -> String {
        let history: Vec<_> = self.history.iter().map(String::as_str).collect();
        format!("seed {}:\n{}\n{what}", self.seed, history.join("\n"))
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test]
async fn two_clients_see_what_two_direct_connections_see() {
    let Some(url) = server_url() else {
        return;
    };
    crate::gateway::roles().await;
    let seeds = match from_environment("POLYPOOL_DIFFERENTIAL_SEED") {
        Some(seed) => vec![seed],
        None => vec![1, 2],
    };
    let operations = from_environment("POLYPOOL_DIFFERENTIAL_OPERATIONS").unwrap_or(300);
    for seed in seeds {
        run(&url, seed, usize::try_from(operations).unwrap()).await;
    }
}

async fn run(url: &str, seed: u64, operations: usize) {
    let id = std::process::id();
    let databases = [
        Database::create(format!("diff_direct_{id}")).await,
        Database::create(format!("diff_pooled_{id}")).await,
    ];
    for database in &databases {
        // Once set, such parameters are empty on an upstream, not absent.
        for parameter in ["my.own", "my.other"] {
            let text = format!("alter database {} set {parameter} = ''", database.name);
            crate::gateway::superuser().await.must(&text).await;
        }
        let owner = account(url, &database.name);
        Client::log_in(&owner, &[])
            .await
            .unwrap()
            .must(SCHEMA)
            .await;
    }
    let gateway = Gateway::start(url, &databases[1].name, 2).await;
    let options = [
        ("options", "-c work_mem=7MB"),
        ("TimeZone", "Asia/Tokyo"),
        ("application_name", "first"),
    ];
    let mut run = Run {
        seed,
        direct: World::enter(&account(url, &databases[0].name), &options).await,
        gateway: World::enter(&gateway.app, &options).await,
        random: Random::new(seed),
        history: VecDeque::new(),
        pending: [VecDeque::new(), VecDeque::new()],
    };
    for who in 0..2 {
        let sorted = |world: &World| {
            let mut parameters = world.parties[who].client.parameters.clone();
            parameters.sort();
            parameters
        };
        assert_eq!(
            sorted(&run.direct),
            sorted(&run.gateway),
            "greetings differ"
        );
    }
    if let Err(difference) = run.go(operations).await {
        panic!("{difference}");
    }
    drop(run);
    gateway.settle().await;
    for database in databases {
        database.drop().await;
    }
}
