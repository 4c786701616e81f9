//! What becomes of prepared statements when definitions change: exactly what a direct connection shows,
//! on the upstream where they were prepared and on any other.

use crate::{
    gateway::{Place, account, server_url},
    wire::{Client, bind, bind_binary, execute, named, parse, query, run, sync},
};

/// All columns, whatever they are.
const ALL: &str = "select * from t";

/// One client's story: units, with `DDL` where somebody else changes the table.
type Story = (&'static str, Vec<Vec<u8>>);

/// Where the table is changed.
fn ddl() -> Vec<u8> {
    Vec::new()
}

fn unit(messages: &[Vec<u8>]) -> Vec<u8> {
    [messages.concat(), sync()].concat()
}

fn describe(name: &str) -> Vec<u8> {
    named(b'D', b'S', name)
}

/// A transaction that fails, by protocol: nothing of the unnamed statement's is touched.
fn fail() -> [Vec<u8>; 2] {
    [run("begin"), unit(&[named(b'D', b'P', "none")])]
}

fn stories_by_sql() -> Vec<Story> {
    vec![
        (
            "by SQL",
            vec![
                query("prepare p as select * from t"),
                ddl(),
                query("execute p"),
                query("explain (costs off) execute p"),
                run("p"),
                unit(&[describe("p")]),
                query("deallocate p"),
                query("prepare p as select * from t"),
                query("execute p"),
                run("p"),
            ],
        ),
        (
            "by SQL, run by protocol",
            vec![
                query("prepare p as select * from t"),
                ddl(),
                unit(&[parse("d", "deallocate p")]),
                run("d"),
                query("prepare p as select * from t"),
                query("execute p"),
                ddl(),
                query("execute p"),
                unit(&[parse("e", "execute p")]),
                run("e"),
            ],
        ),
        (
            "by SQL, anew in one text",
            vec![
                query("prepare p as select * from t"),
                ddl(),
                query("deallocate p; prepare p as select * from t; execute p"),
                query("execute p"),
                // Until then it stays where it is, as the server keeps the whole text.
                query("deallocate p"),
            ],
        ),
        (
            "by SQL, given up with all",
            vec![
                query("prepare p as select * from t"),
                ddl(),
                query("discard all"),
                query("execute p"),
                query("prepare p as select * from t"),
                query("execute p"),
                ddl(),
                query("execute p"),
            ],
        ),
        (
            "by SQL, anew in a transaction",
            vec![
                query("prepare p as select * from t"),
                ddl(),
                query("begin"),
                query("deallocate p"),
                query("prepare p as select * from t"),
                query("execute p"),
                query("commit"),
                query("execute p"),
                ddl(),
                query("execute p"),
            ],
        ),
    ]
}

fn stories_by_protocol() -> Vec<Story> {
    let twice = ["select 1", "execute s"]
        .map(|text| [parse("", text), bind("", "", &[]), execute("", 0)].concat());
    vec![
        (
            "by protocol, then by SQL",
            vec![
                unit(&[parse("s", ALL)]),
                query("execute s"),
                ddl(),
                unit(&twice),
                query("execute s"),
                run("s"),
                unit(&[describe("s")]),
                unit(&[named(b'C', b'S', "s"), parse("s", ALL)]),
                run("s"),
                query("execute s"),
            ],
        ),
        (
            "by protocol beside SQL",
            vec![
                query("prepare q as select 1"),
                unit(&[parse("s", ALL)]),
                ddl(),
                run("s"),
                unit(&[describe("s")]),
                query("execute q"),
                unit(&[named(b'C', b'S', "s")]),
                unit(&[parse("s", ALL)]),
                run("s"),
            ],
        ),
        (
            "in a transaction that has failed",
            vec![
                query("prepare p as select * from t"),
                ddl(),
                query("begin"),
                query("select 1/0"),
                query("execute p"),
                run("p"),
                unit(&[describe("p")]),
                query("rollback"),
                query("execute p"),
            ],
        ),
        (
            "without a name",
            vec![
                unit(&[parse("", ALL), describe("")]),
                ddl(),
                run(""),
                run(""),
                unit(&[describe("")]),
                unit(&[parse("", ALL), describe("")]),
                run(""),
            ],
        ),
    ]
}

/// Names given up in vain, and changes taken back: what was out of date stays so, or is right again.
fn stories_in_vain() -> Vec<Story> {
    let mut stories = stories_taken_back();
    stories.extend(stories_given_up());
    stories
}

fn stories_given_up() -> Vec<Story> {
    let given_up = [parse("", "deallocate p"), bind("", "", &[]), execute("", 0)];
    let nothing = || named(b'D', b'P', "none");
    vec![
        (
            "by a Close that is skipped",
            vec![
                query("prepare p as select * from t"),
                ddl(),
                query("execute p"),
                unit(&[nothing(), named(b'C', b'S', "p")]),
                run("p"),
                query("execute p"),
                unit(&[named(b'C', b'S', "p")]),
                query("prepare p as select * from t"),
                query("execute p"),
            ],
        ),
        (
            "by an Execute that is skipped",
            vec![
                query("prepare p as select * from t"),
                ddl(),
                query("execute p"),
                unit(&[nothing(), given_up.concat()]),
                query("execute p"),
                run("p"),
                unit(&[given_up.concat(), nothing()]),
                query("execute p"),
                query("prepare p as select * from t"),
                query("execute p"),
            ],
        ),
        (
            "by a text that fails before",
            vec![
                query("prepare p as select * from t"),
                ddl(),
                query("execute p"),
                query("select 1/0; deallocate p"),
                query("execute p"),
                query("deallocate p; select 1/0"),
                query("execute p"),
            ],
        ),
        (
            "by a Parse of a name that is taken",
            vec![
                query("prepare p as select * from t"),
                ddl(),
                query("execute p"),
                unit(&[parse("p", "select 1")]),
                query("prepare p as select 1"),
                query("execute p"),
            ],
        ),
    ]
}

fn stories_taken_back() -> Vec<Story> {
    vec![
        (
            "by a change that is taken back",
            vec![
                query("create temp table that_keeps_the_upstream (a int)"),
                unit(&[parse("s", ALL)]),
                run("s"),
                query("begin"),
                query("alter table t add column z int"),
                query("execute s"),
                query("rollback"),
                query("execute s"),
                run("s"),
                query("discard all"),
            ],
        ),
        (
            "by a change back",
            vec![
                query("prepare p as select * from t"),
                query("begin"),
                query("execute p"),
                query("alter table t add column z int"),
                query("execute p"),
                query("rollback"),
                ddl(),
                query("execute p"),
                query("alter table t drop column b"),
                query("execute p"),
            ],
        ),
    ]
}

/// Statements that give what a cursor or another statement gives.
fn stories_that_borrow() -> Vec<Story> {
    vec![
        (
            "of a cursor",
            vec![
                query("begin; declare c cursor for select a from t"),
                unit(&[parse("f", "fetch 1 from c"), describe("f")]),
                run("f"),
                query("commit"),
                ddl(),
                query("begin; declare c cursor for select * from t"),
                run("f"),
                unit(&[describe("f")]),
                query("commit"),
            ],
        ),
        (
            "of another statement",
            vec![
                query("prepare p as select a from t"),
                unit(&[parse("e", "execute p"), describe("e")]),
                run("e"),
                ddl(),
                query("deallocate p"),
                query("prepare p as select * from t"),
                run("e"),
                unit(&[parse("", "execute p"), describe("")]),
                unit(&[parse("d", "deallocate p"), parse("p", "select 1 as one")]),
                ddl(),
                run(""),
                run("d"),
                unit(&[parse("p", "select 1 as one")]),
                run(""),
                run("e"),
            ],
        ),
    ]
}

/// Statements that are described in a transaction that has failed.
fn described() -> Vec<Story> {
    let texts = [
        ("select", "select a from t"),
        ("with a value", "select a from t where a = $1"),
        ("insert", "insert into t (a) values ('y')"),
        ("returning", "insert into t (a) values ('y') returning a"),
        ("insert with a value", "insert into t (a) values ($1)"),
        ("end", "rollback"),
        ("set", "set work_mem = '1MB'"),
        ("empty", ""),
    ];
    let stories = texts.into_iter().flat_map(|(label, text)| {
        ["", "s"].map(|name| {
            let begin = unit(&[parse("begin", "begin")]);
            let prepared = unit(&[parse(name, text), describe(name)]);
            let again = unit(&[describe(name)]);
            let mut units = vec![begin, prepared, ddl()];
            units.extend(fail());
            units.extend([again, query("rollback")]);
            (label, units)
        })
    });
    stories.collect()
}

/// What the client of a story sees, with a turn of `between` at each change.
async fn tell(
    client: &mut Client,
    story: &Story,
    mut between: impl AsyncFnMut(usize),
) -> Vec<String> {
    let (mut seen, mut changes) = (Vec::new(), 0);
    for unit in &story.1 {
        if unit.is_empty() {
            between(changes).await;
            changes += 1;
            continue;
        }
        client.send(unit).await;
        let (types, rows) = client.unit().await;
        // The server tells of the values before it looks at the columns, and opens a portal for EXECUTE.
        let types = types.replace("t0A000", "0A000").replace("20A000", "0A000");
        seen.push(format!("{types} {rows:?}"));
    }
    seen
}

/// A table, and what becomes of it.
#[derive(Clone, Copy)]
struct Ground {
    anew: &'static str,
    /// How it is changed; empty where nothing changes.
    changes: &'static [&'static str],
}

/// A table that gets more columns.
const WIDER: Ground = Ground {
    anew: "create table t as select 'x' as a",
    changes: &[
        "alter table t add column b int",
        "alter table t add column c int",
    ],
};
/// A table that stays as it is.
const STILL: Ground = Ground {
    changes: &[],
    ..WIDER
};
/// A table of which a column's type changes.
const OTHER: Ground = Ground {
    anew: "create table t (a int)",
    changes: &[
        "alter table t alter a type real",
        "alter table t alter a type int",
    ],
};

/// A table with many columns, of which a column's type changes: telling them takes 45 KB.
const MANY: Ground = Ground {
    anew: "do $$ begin execute (select 'create table t (a int, ' \
        || string_agg('a_column_with_a_name_of_some_length_' || n || ' int', ', ') || ')' \
        from generate_series(1, 700) n); end $$",
    ..OTHER
};

impl Ground {
    async fn prepare(self, owner: &mut Client) {
        owner.must("drop table if exists t").await;
        owner.must(self.anew).await;
    }

    /// Changes the table; through the gateway, where there is one, or past it.
    async fn change(self, client: &mut Client, number: usize) {
        if let Some(change) = self.changes.get(number) {
            client.must(change).await;
        }
    }
}

async fn compare(database: &str, stories: Vec<Story>, ground: Ground) {
    let mut failures = String::new();
    for upstreams in [1, 2] {
        let Some(place) = Place::open_with(&format!("{database}_{upstreams}"), upstreams).await
        else {
            return;
        };
        let direct = account(&server_url().unwrap(), &place.database.name);
        let mut owner = Client::log_in(&direct, &[]).await.unwrap();
        // Where nothing changes, it does not matter who would have changed it.
        let ways = if ground.changes.is_empty() {
            &[false][..]
        } else {
            &[false, true]
        };
        let each = |story| ways.iter().map(move |through| (story, *through));
        for (story, through) in stories.iter().flat_map(each) {
            ground.prepare(&mut owner).await;
            let mut truth = Client::log_in(&direct, &[]).await.unwrap();
            let wanted = tell(&mut truth, story, async |number| {
                ground.change(&mut owner, number).await;
            });
            let wanted = wanted.await;
            ground.prepare(&mut owner).await;
            let mut client = place.gateway.client().await;
            let mut other = place.gateway.client().await;
            let mut occupied = None;
            let found = tell(&mut client, story, async |number| {
                if through {
                    ground.change(&mut other, number).await;
                } else {
                    ground.change(&mut owner, number).await;
                }
                // The client's upstream has somebody else's statements, or somebody else has it.
                other.must("prepare p as select 'other'; execute p").await;
                other.must("deallocate p").await;
                other.send(&unit(&[parse("", "select 'other'")])).await;
                other.unit().await;
                // By turns it finds the one that it had, and the other.
                if occupied.take().is_some() {
                    place.gateway.settle().await;
                } else if upstreams > 1 {
                    occupied = Some(place.occupy().await);
                }
            });
            let found = found.await;
            drop(occupied);
            place.gateway.settle().await;
            if found != wanted {
                let (label, _) = story;
                failures.push_str(&format!(
                    "{label}, {upstreams} upstreams, changed through the gateway: {through}\n\
                     directly {wanted:#?}\nthrough {found:#?}\n"
                ));
            }
        }
        place.close().await;
    }
    assert!(failures.is_empty(), "{failures}");
}

#[tokio::test]
async fn a_statement_without_its_columns_is_refused_as_directly() {
    let stories = [
        stories_by_sql(),
        stories_by_protocol(),
        stories_that_borrow(),
        stories_in_vain(),
    ]
    .concat();
    compare("definitions", stories, WIDER).await;
}

#[tokio::test]
async fn in_a_failed_transaction_statements_are_described_as_directly() {
    compare("described", described(), STILL).await;
}

/// Statements of which the values were of other types when they were prepared.
fn stories_of_types() -> Vec<Story> {
    let number = 7_i32.to_be_bytes();
    let texts = [
        ("insert", "insert into t values ($1)"),
        ("update", "update t set a = a + $1"),
        ("returning", "insert into t values ($1) returning a > 5"),
        ("with another's", "insert into t select a + $1 from t"),
    ];
    let stories = texts.into_iter().flat_map(|(label, text)| {
        ["", "s"].into_iter().flat_map(move |name| {
            let bound = bind_binary("", name, &[&number]);
            let bound = unit(&[bound, execute("", 0)]);
            let prepared = unit(&[parse(name, text), describe(name)]);
            let first = query("insert into t values (3)");
            let seen = query("select a, pg_typeof(a) from t order by a");
            let units = vec![
                first,
                prepared,
                ddl(),
                bound.clone(),
                unit(&[describe(name)]),
                seen.clone(),
                ddl(),
                bound.clone(),
                bound,
                seen,
            ];
            // Beside a statement by SQL the client's own names count.
            let prepare = query("prepare q as select 1");
            let native = [vec![prepare], units.clone()].concat();
            [(label, units), (label, native)]
        })
    });
    stories.collect()
}

#[tokio::test]
async fn of_many_columns_none_goes_unseen() {
    let stories = ["", "s"].map(|name| {
        let described = unit(&[parse(name, ALL), describe(name)]);
        let units = vec![described, ddl(), run(name), unit(&[describe(name)])];
        ("of many", units)
    });
    compare("many", stories.to_vec(), MANY).await;
}

#[tokio::test]
async fn the_types_of_values_stay_what_they_were() {
    let untold = |label, end: Vec<u8>| {
        let text = "insert into t values ($1)";
        let bound = bind_binary("", "s", &[&7_i32.to_be_bytes()]);
        let seen = query("select a, pg_typeof(a) from t");
        let units = [unit(&[parse("s", text)]), ddl(), unit(&[bound, end]), seen];
        (label, units.to_vec())
    };
    let mut stories = stories_of_types();
    stories.push(untold("not told", execute("", 0)));
    compare("types", stories, OTHER).await;
}

/// A place with two upstreams, and a client of its server's that owns the table.
async fn place(name: &str) -> Option<(Place, Client)> {
    let place = Place::open(name).await?;
    let direct = account(&server_url().unwrap(), &place.database.name);
    let mut owner = Client::log_in(&direct, &[]).await.unwrap();
    owner.must("create table t as select 'x' as a").await;
    Some((place, owner))
}

#[tokio::test]
async fn a_name_that_was_given_anew_keeps_its_statement() {
    let Some((place, mut owner)) = place("given_anew").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    let first = unit(&[parse("s", ALL), named(b'C', b'S', "s")]);
    client.send(&first).await;
    assert_eq!(client.unit().await.0, "13ZI");
    owner.must("alter table t add column b int").await;
    place.gateway.settle().await;
    let occupied = place.occupy().await;
    let close = named(b'C', b'S', "s");
    let second = unit(&[parse("s", ALL), close, parse("s", "select 7")]);
    client.send(&second).await;
    assert_eq!(client.unit().await.0, "131ZI");
    client.send(&run("s")).await;
    assert_eq!(client.unit().await.1, ["7"]);
    drop(occupied);
    place.close().await;
}

#[tokio::test]
async fn a_statement_of_another_search_path_is_in_nobodys_way() {
    let Some((place, mut owner)) = place("another_path").await else {
        return;
    };
    owner.must("create schema one; create schema two").await;
    owner.must("create table one.u as select 'x' as a").await;
    owner.must("create table two.u as select 1 as b").await;
    let mut client = place.gateway.client().await;
    client.must("set search_path = one").await;
    client.send(&unit(&[parse("s", "select * from u")])).await;
    assert_eq!(client.unit().await.0, "1ZI");
    client.must("set search_path = two").await;
    client.must("prepare q as select 7").await;
    place.gateway.settle().await;
    let occupied = place.occupy().await;
    assert_eq!(client.query("execute q").await.1, ["7"]);
    drop(occupied);
    place.close().await;
}

#[tokio::test]
async fn behind_the_end_of_a_failed_transaction_columns_count() {
    let Some((place, mut owner)) = place("behind_the_end").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    client.must("prepare q as select 1").await;
    client.send(&unit(&[parse("s", ALL)])).await;
    client.unit().await;
    owner.must("alter table t add column b int").await;
    place.gateway.settle().await;
    let occupied = place.occupy().await;
    client.must("begin").await;
    assert!(client.query("select 1/0").await.0.contains("22012E"));
    let both = [query("rollback"), run("s")].concat();
    client.send(&both).await;
    assert_eq!(client.unit().await.0, "CZI");
    assert!(client.unit().await.0.contains("0A000E"));
    drop(occupied);
    place.close().await;
}

#[tokio::test]
async fn all_names_given_up_in_a_transaction_count_as_new() {
    let Some((place, mut owner)) = place("all_given_up").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    client.must("prepare p as select * from t").await;
    owner.must("alter table t add column b int").await;
    client.must("begin").await;
    let all = [
        parse("", "deallocate all"),
        bind("", "", &[]),
        execute("", 0),
    ];
    client.send(&unit(&all)).await;
    assert_eq!(client.unit().await.0, "12CZT");
    client.must("prepare p as select * from t").await;
    client.must("commit").await;
    place.gateway.settle().await;
    let occupied = place.occupy().await;
    assert_eq!(client.query("execute p").await.0, "TDCZI");
    drop(occupied);
    place.close().await;
}
