//! What the differential test has found, and the rows of the README's table, one by one.

use crate::{
    gateway::{Place, account, server_url},
    wire::{Client, bind, execute, flush, message, named, parse, query, run, sync},
};

/// Runs a text on both upstreams in turn, and gives what it answered.
async fn on_both(place: &Place, client: &mut Client, text: &str) -> Vec<(String, Vec<String>)> {
    let mut answers = vec![client.query(text).await];
    let other = place.occupy().await;
    answers.push(client.query(text).await);
    drop(other);
    answers
}

#[test]
fn every_row_of_the_table_has_its_test() {
    let sources = [
        include_str!("sessions.rs"),
        include_str!("functions.rs"),
        include_str!("listening.rs"),
        include_str!("meanings.rs"),
    ];
    let readme = include_str!("../../README.md");
    let table = readme.split("| | polypool | PgBouncer").nth(1).unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let mut count = 0;
    for row in rows {
        let name = row.trim_end_matches(" |").rsplit("| ").next().unwrap();
        let test = format!("async fn {}(", name.trim_matches('`'));
        assert!(sources.iter().any(|source| source.contains(&test)), "{row}");
        count += 1;
    }
    assert_eq!(count, 16);
}

#[tokio::test]
async fn statements_prepared_by_sql_are_their_clients_own() {
    let Some(place) = Place::open("by_sql").await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    client.must("prepare \"P 1\" (int) as select $1 + 1").await;
    other.must("prepare \"P 1\" as select 'other'").await;
    for _ in 0..2 {
        assert_eq!(client.must("execute \"P 1\" (41)").await, ["42"]);
        assert_eq!(other.must("execute \"P 1\"").await, ["other"]);
    }
    // By protocol too, and in the list.
    client
        .send(&[bind("", "P 1", &["1"]), execute("", 0), sync()].concat())
        .await;
    assert_eq!(client.unit().await.1, ["2"]);
    let list = "select name || statement from pg_prepared_statements";
    assert_eq!(
        client.must(list).await,
        ["P 1prepare \"P 1\" (int) as select $1 + 1"]
    );
    assert_eq!(
        client.query("prepare \"P 1\" as select 1").await.0,
        "42P05EZI"
    );
    // Without statements the upstream may go, and nobody else finds them.
    client.must("deallocate \"P 1\"").await;
    assert_eq!(client.query("execute \"P 1\" (41)").await.0, "26000EZI");
    drop(other);
    place.gateway.settle().await;
    for (types, rows) in on_both(&place, &mut client, list).await {
        assert_eq!((types.as_str(), rows.len()), ("TCZI", 0));
    }
    place.close().await;
}

#[tokio::test]
async fn statements_prepared_by_sql_follow_their_client() {
    let Some(place) = Place::open("sql_moves").await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    client.must("prepare \"P 1\" (int) as select $1 + 1").await;
    other.must("prepare \"P 1\" as select 'other'").await;
    for _ in 0..2 {
        for (_, rows) in on_both(&place, &mut client, "execute \"P 1\" (41)").await {
            assert_eq!(rows, ["42"]);
        }
        for (_, rows) in on_both(&place, &mut other, "execute \"P 1\"").await {
            assert_eq!(rows, ["other"]);
        }
    }
    let list = "select name || statement from pg_prepared_statements";
    for (_, rows) in on_both(&place, &mut client, list).await {
        assert_eq!(rows, ["P 1prepare \"P 1\" (int) as select $1 + 1"]);
    }
    // In a transaction that has failed, on whichever upstream, and by protocol.
    let occupied = place.occupy().await;
    assert_eq!(client.query("begin; select 1/0").await.0, "C22012EZE");
    assert_eq!(client.must("rollback; execute \"P 1\" (1)").await, ["2"]);
    drop(occupied);
    client.must("select 1").await;
    client
        .send(&[bind("", "P 1", &["1"]), execute("", 0), sync()].concat())
        .await;
    assert_eq!(client.unit().await.1, ["2"]);
    assert_eq!(place.gateway.service.fleet().snapshot()[0].leased, 0);
    // Where the parameters are others than when it was prepared, it stays.
    client.must("set search_path = s1").await;
    assert_eq!(client.must("execute \"P 1\" (2)").await, ["3"]);
    assert_eq!(place.gateway.service.fleet().snapshot()[0].leased, 1);
    client.must("deallocate \"P 1\"").await;
    place.gateway.settle().await;
    for (types, _) in on_both(&place, &mut client, "execute \"P 1\" (41)").await {
        assert_eq!(types, "26000EZI");
    }
    assert_eq!(other.must("execute \"P 1\"").await, ["other"]);
    // What was prepared in a transaction that fails is prepared all the same.
    let text = "begin; prepare q as select 1; select 1/0";
    assert_eq!(client.query(text).await.0, "CC22012EZE");
    assert_eq!(client.must("rollback; execute q").await, ["1"]);
    place.close().await;
}

#[tokio::test]
async fn statements_that_run_each_other_end_nobody() {
    let Some(place) = Place::open("circle").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    let circle = [parse("x", "execute y"), parse("y", "execute x"), sync()];
    client.send(&circle.concat()).await;
    assert_eq!(client.unit().await.0, "11ZI");
    assert!(client.query("execute x").await.0.contains('E'));
    client.must("select 1").await;
    place.close().await;
}

#[tokio::test]
async fn what_is_run_by_name_may_take_names_away() {
    let Some(place) = Place::open("taken_away").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    let prepare = [
        parse("x", "select 'x'"),
        parse("y", "select 'y'"),
        parse("away", "deallocate y"),
        sync(),
    ];
    client.send(&prepare.concat()).await;
    assert_eq!(client.unit().await.0, "111ZI");
    assert_eq!(client.must("execute y").await, ["y"]);
    client.must("execute away").await;
    client.send(&run("y")).await;
    assert_eq!(client.unit().await.0, "26000EZI");
    client.send(&run("x")).await;
    assert_eq!(client.unit().await.1, ["x"]);
    // An error comes where the server has it: behind what precedes it.
    let table = "create table gone (a int)";
    client.must(table).await;
    client.must("prepare g as select a from gone").await;
    client.must("drop table gone").await;
    let unit = [
        parse("", "execute g"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ];
    client.send(&unit.concat()).await;
    assert_eq!(client.unit().await.0, "1242P01EZI");
    place.close().await;
}

#[tokio::test]
async fn a_unit_sees_the_names_that_it_takes_away() {
    let Some(place) = Place::open("takes").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    let away = |text: &str| [parse("", text), bind("", "", &[]), execute("", 0)].concat();
    for (text, left) in [
        ("deallocate a", "34"),
        ("deallocate all", ""),
        ("reset all", "1234"),
    ] {
        client.must("deallocate all").await;
        client
            .send(&[parse("a", "select 12"), parse("b", "select 34"), sync()].concat())
            .await;
        client.unit().await;
        // Rolled back or not, the names are gone; but not if the unit fails before.
        let fails = [bind("", "none", &[]), away(text), sync()];
        client.send(&fails.concat()).await;
        assert_eq!(client.unit().await.0, "26000EZI", "{text}");
        let again = [away(text), parse("a", "select 56"), sync()].concat();
        client.send(&again).await;
        let said = client.unit().await.0;
        assert_eq!(said.contains("42P05"), text == "reset all", "{said}");
        client.send(&[run("a"), run("b")].concat()).await;
        let rows = [client.unit().await.1, client.unit().await.1]
            .concat()
            .concat();
        let found = if text == "reset all" {
            left.to_owned()
        } else {
            format!("56{left}")
        };
        assert_eq!(rows, found, "{text}");
    }
    place.close().await;
}

#[tokio::test]
async fn values_are_counted_in_a_transaction_that_has_failed() {
    let Some(place) = Place::open("counted").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    for name in ["", "s"] {
        let text = format!("select $1::text || '{name}'");
        client.send(&[parse(name, &text), sync()].concat()).await;
        client.unit().await;
        // On the other upstream, where it is not prepared.
        let occupied = place.occupy().await;
        client.send(&[parse("x", "begin"), run("x")].concat()).await;
        assert_eq!(client.unit().await.0, "12CZT");
        client
            .send(&[named(b'D', b'P', "none"), sync()].concat())
            .await;
        assert_eq!(client.unit().await.0, "34000EZE");
        for (values, code) in [(&["1", "2"][..], "08P01"), (&["1"], "25P02")] {
            client
                .send(&[bind("", name, values), sync()].concat())
                .await;
            assert_eq!(client.unit().await.0, format!("{code}EZE"), "{name:?}");
        }
        let end = [parse("end", "rollback"), run("end")];
        client.send(&end.concat()).await;
        assert_eq!(client.unit().await.0, "12CZI");
        for name in ["x", "end"] {
            client
                .send(&[named(b'C', b'S', name), sync()].concat())
                .await;
            client.unit().await;
        }
        drop(occupied);
        place.gateway.settle().await;
    }
    place.close().await;
}

#[tokio::test]
async fn two_skipped_parses_leave_no_unnamed_statement() {
    let Some(place) = Place::open("unnamed_twice").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    client.must("begin").await;
    let units = [
        named(b'D', b'S', "none"),
        parse("", "select 1"),
        sync(),
        parse("p", "select 2"),
        parse("", "select 3"),
        sync(),
        bind("", "", &[]),
        sync(),
    ];
    client.send(&units.concat()).await;
    for expected in ["26000EZE", "25P02EZE", "26000EZE"] {
        assert_eq!(client.unit().await.0, expected);
    }
    place.close().await;
}

#[tokio::test]
async fn a_skipped_close_leaves_the_unnamed_statement() {
    let Some(place) = Place::open("unnamed_closed").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    client
        .send(&[parse("", "select 'kept'"), sync()].concat())
        .await;
    client.unit().await;
    let skipped = [execute("none", 0), named(b'C', b'S', ""), sync(), run("")];
    client.send(&skipped.concat()).await;
    assert_eq!(client.unit().await.0, "34000EZI");
    assert_eq!(client.unit().await.1, ["kept"]);
    place.close().await;
}

#[tokio::test]
async fn what_cannot_be_reset_in_one_text_is_refused() {
    let Some(place) = Place::open("reset_texts").await else {
        return;
    };
    let options = [("TimeZone", "Asia/Tokyo")];
    let mut client = Client::log_in(&place.gateway.app, &options).await.unwrap();
    for text in ["reset TimeZone; select 1", "reset all; select 1"] {
        assert_eq!(client.query(text).await.0, "0A000EZI", "{text}");
    }
    client.must("reset work_mem; select 1").await;
    client
        .must("set TimeZone = 'CET'; unlisten *; reset all;")
        .await;
    assert_eq!(client.must("show TimeZone").await, ["Asia/Tokyo"]);
    place.close().await;
}

#[tokio::test]
async fn names_are_one_for_protocol_and_sql() {
    let Some(place) = Place::open("one_name").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    client
        .send(&[parse("s", "select 41 + 1"), sync()].concat())
        .await;
    client.unit().await;
    for (_, rows) in on_both(&place, &mut client, "execute s").await {
        assert_eq!(rows, ["42"]);
    }
    assert_eq!(client.query("prepare s as select 1").await.0, "42P05EZI");
    // A name that is taken: the server looks at the text first.
    client.send(&[parse("s", "selec"), sync()].concat()).await;
    assert_eq!(client.unit().await.0, "42601EZI");
    // An error speaks of the client's name.
    client
        .send(&[bind("", "s", &["too many"]), sync()].concat())
        .await;
    let error = client.read().await;
    assert!(String::from_utf8_lossy(&error.body).contains("prepared statement \"s\" requires 0"));
    client.unit().await;
    client.must("deallocate s").await;
    client.send(&run("s")).await;
    assert_eq!(client.unit().await.0, "26000EZI");
    // Prepared, run and closed in one unit of the extended protocol.
    let texts = ["prepare t as select 7", "execute t", "deallocate t"];
    let messages = texts.map(|text| [parse("", text), bind("", "", &[]), execute("", 0)].concat());
    client.send(&[messages.concat(), sync()].concat()).await;
    assert_eq!(
        client.unit().await,
        ("12C12DC12CZI".into(), vec!["7".into()])
    );
    place.close().await;
}

#[tokio::test]
async fn a_skipped_parse_leaves_the_unnamed_statement() {
    let Some(place) = Place::open("unnamed").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    client
        .send(&[parse("", "select 'kept'"), sync()].concat())
        .await;
    client.unit().await;
    let skipped = [
        named(b'D', b'P', "none"),
        parse("", "select 'skipped'"),
        sync(),
    ];
    client.send(&skipped.concat()).await;
    assert_eq!(client.unit().await.0, "34000EZI");
    client.send(&run("")).await;
    assert_eq!(client.unit().await.1, ["kept"]);
    client.send(&[parse("", "selec"), sync()].concat()).await;
    assert_eq!(client.unit().await.0, "42601EZI");
    client.send(&run("")).await;
    assert_eq!(client.unit().await.0, "26000EZI");
    place.close().await;
}

#[tokio::test]
async fn a_reset_goes_back_to_what_the_client_began_with() {
    let Some(place) = Place::open("resets").await else {
        return;
    };
    let options = [("TimeZone", "Asia/Tokyo"), ("options", "-c work_mem=3MB")];
    let mut client = Client::log_in(&place.gateway.app, &options).await.unwrap();
    for reset in [
        "reset TimeZone",
        "set time zone default",
        "set TimeZone to default",
        "reset all",
        "discard all",
    ] {
        for begin in ["", "begin"] {
            if !begin.is_empty() && reset == "discard all" {
                continue;
            }
            client.must("set TimeZone = 'CET'").await;
            client.must(begin).await;
            client.send(&query(reset)).await;
            let mut said = String::new();
            loop {
                let message = client.read().await;
                said.push(char::from(message.tag));
                if message.tag == b'S' {
                    assert_eq!(message.body, b"TimeZone\0Asia/Tokyo\0", "{reset}");
                }
                if message.tag == b'Z' {
                    break;
                }
            }
            assert_eq!(said, "CSZ", "{reset}");
            assert_eq!(
                client.must("show TimeZone").await,
                ["Asia/Tokyo"],
                "{reset}"
            );
            client.must("commit").await;
            for (_, rows) in on_both(&place, &mut client, "show work_mem").await {
                assert_eq!(rows, ["3MB"], "{reset}");
            }
        }
    }
    place.close().await;
}

#[tokio::test]
async fn a_plain_set_is_followed_without_asking() {
    let Some(place) = Place::open("plain_set").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    let calls = "select count(*) from pg_stat_activity where datname = current_database() \
                 and query like '%pg_my_temp_schema%' and query not like '%activity%'";
    for (text, shown, value) in [
        ("SET work_mem = '5MB'", "work_mem", "5MB"),
        (
            "set search_path to s1, \"A b\", public",
            "search_path",
            "s1, \"A b\", public",
        ),
        (
            "set time zone 'America/New_York'",
            "TimeZone",
            "America/New_York",
        ),
        ("set my.own = 'x'", "my.own", "x"),
        ("reset work_mem", "work_mem", "4MB"),
    ] {
        client.must(text).await;
        assert_eq!(client.must(calls).await, ["0"], "{text}");
        for (_, rows) in on_both(&place, &mut client, &format!("show {shown}")).await {
            assert_eq!(rows, [value], "{text}");
        }
    }
    // What fails or is rolled back does not count.
    assert_eq!(client.query("set work_mem = 'much'").await.0, "22023EZI");
    client.must("begin").await;
    client.must("set work_mem = '6MB'").await;
    client.must("rollback").await;
    for (_, rows) in on_both(&place, &mut client, "show work_mem").await {
        assert_eq!(rows, ["4MB"]);
    }
    place.close().await;
}

#[tokio::test]
async fn a_query_in_the_middle_of_copy_data_ends_as_on_a_direct_connection() {
    let Some(place) = Place::open("copy_query").await else {
        return;
    };
    let direct = account(&server_url().unwrap(), &place.database.name);
    place
        .gateway
        .client()
        .await
        .must("create table t (a int)")
        .await;
    let mut said = Vec::new();
    for mut client in [
        Client::log_in(&direct, &[]).await.unwrap(),
        place.gateway.client().await,
    ] {
        client.send(&query("copy t from stdin")).await;
        while client.read().await.tag != b'G' {}
        client
            .send(&[message(b'd', b"1\n"), query("select 1")].concat())
            .await;
        let mut answers = String::new();
        while let Some(message) = client.next().await {
            answers.push(char::from(message.tag));
            if message.tag == b'E' {
                answers.push_str(&crate::wire::code(&message.body));
            }
            if message.tag == b'Z' {
                client.send(&message_end()).await;
            }
        }
        said.push(answers);
    }
    assert_eq!(said[0], said[1]);
    place.gateway.settle().await;
    assert_eq!(
        place
            .gateway
            .client()
            .await
            .must("select count(*) from t")
            .await,
        ["0"]
    );
    place.close().await;
}

fn message_end() -> Vec<u8> {
    message(b'X', b"")
}

#[tokio::test]
async fn flush_answers_before_the_sync() {
    let Some(place) = Place::open("flushes").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    client
        .send(&[parse("s", "select 1"), named(b'D', b'S', "s"), flush()].concat())
        .await;
    for tag in [b'1', b't', b'T'] {
        assert_eq!(client.read().await.tag, tag);
    }
    client.send(&run("s")).await;
    assert_eq!(client.unit().await.1, ["1"]);
    place.close().await;
}

/// What pins, how it is seen, what is seen then, and what ends it.
const PINNING: [(&str, &str, &str, &str); 8] = [
    (
        "create temp table t as select 7 as a",
        "select a from t",
        "7",
        "drop table t",
    ),
    (
        "select pg_advisory_lock(1)",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        "1",
        "select pg_advisory_unlock(1)",
    ),
    (
        "set search_path = pg_temp, public; create table hidden as select 6 as a",
        "select a from hidden",
        "6",
        "drop table hidden; reset search_path",
    ),
    (
        "begin; set local search_path = 'pg_temp'; create table hidden as select 7 as a; commit",
        "select a from hidden",
        "7",
        "drop table hidden",
    ),
    (
        "set search_path = pg_temp",
        "show search_path",
        "pg_temp",
        "reset search_path",
    ),
    (
        "prepare p as select 9; set search_path = s1",
        "execute p",
        "9",
        "deallocate p",
    ),
    (
        "declare c cursor with hold for select 8",
        "fetch c",
        "8",
        "close c",
    ),
    (
        "set role diff_one",
        "select current_user",
        "diff_one",
        "reset role",
    ),
];

#[tokio::test]
async fn what_cannot_move_pins() {
    let Some(place) = Place::open("pins").await else {
        return;
    };
    crate::gateway::roles().await;
    for (text, look, found, end) in PINNING {
        let mut client = place.gateway.client().await;
        client.must(text).await;
        let other = place.occupy().await;
        assert_eq!(client.must(look).await, [found], "{text}");
        drop(other);
        // The other one comes back; this one stays.
        while place.gateway.service.fleet().snapshot()[0].leased > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(
            client.must(look).await.len(),
            usize::from(!text.contains("cursor"))
        );
        assert_eq!(
            place.gateway.service.fleet().snapshot()[0].leased,
            1,
            "{text}"
        );
        client.must(end).await;
        place.gateway.settle().await;
        drop(client);
    }
    place.close().await;
}

#[tokio::test]
async fn who_begins_with_temporary_schemas_stays() {
    let Some(place) = Place::open("hidden").await else {
        return;
    };
    let options = [("search_path", "pg_temp, public")];
    let mut client = Client::log_in(&place.gateway.app, &options).await.unwrap();
    client.must("create table hidden as select 6 as a").await;
    let mut other = place.occupy().await;
    assert_eq!(client.must("select a from hidden").await, ["6"]);
    let seen = other.must("select to_regclass('hidden') is null").await;
    assert_eq!(seen, ["t"]);
    drop((other, client));
    // The session of a client that has gone is cleaned.
    place.gateway.settle().await;
    let mut next = place.gateway.client().await;
    let left = "select count(*) from pg_class where relname = 'hidden'";
    assert_eq!(next.must(left).await, ["0"]);
    drop(next);
    place.close().await;
}

#[tokio::test]
async fn notifications_come_to_a_client_that_listens() {
    let Some(place) = Place::open("notified").await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    client.must("begin; listen here").await;
    other.must("notify here, 'too early'").await;
    client.send(&query("notify here, 'own'; commit")).await;
    let mut notified = Vec::new();
    let mut sent = false;
    while notified.len() < 2 {
        let message = client.read().await;
        if message.tag == b'A' {
            let pid = u32::from_be_bytes(message.body[..4].try_into().unwrap());
            let payload = String::from_utf8_lossy(&message.body[4..]).replace('\0', " ");
            notified.push((payload, pid == client.key.0));
        } else if message.tag == b'Z' && !sent {
            sent = true;
            other.must("notify here, 'from another'").await;
        }
    }
    let expected = [("here own ", true), ("here from another ", false)];
    assert_eq!(notified, expected.map(|(text, own)| (text.to_owned(), own)));
    place.close().await;
}

#[tokio::test]
async fn pipelines_skip_as_the_server_does() {
    let Some(place) = Place::open("pipelines").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    let unit = |text: &str| [parse("", text), run("")].concat();
    let units = [
        "select 1",
        "select 1/0",
        "select 2",
        "begin",
        "selec",
        "select 3",
        "rollback",
    ];
    let expected = [
        "12DCZI",
        "122012EZI",
        "12DCZI",
        "12CZT",
        "42601EZE",
        "25P02EZE",
        "12CZI",
    ];
    // On one upstream, then on the other.
    let mut occupied = None;
    for _ in 0..2 {
        client.send(&units.map(unit).concat()).await;
        let mut answers = Vec::new();
        for _ in units {
            answers.push(client.unit().await.0);
        }
        assert_eq!(answers, expected);
        occupied.replace(place.occupy().await);
    }
    drop(occupied);
    place.close().await;
}

#[tokio::test]
async fn copy_works_both_ways() {
    let Some(place) = Place::open("copies").await else {
        return;
    };
    let mut client = place.gateway.client().await;
    client.must("create table t (a int)").await;
    let data = |rows: &str, end: u8| [message(b'd', rows.as_bytes()), message(end, b"")].concat();
    // On one upstream, then on the other.
    let mut occupied = None;
    for _ in 0..2 {
        client.must("truncate t").await;
        client
            .send(&[query("copy t from stdin"), data("1\n2\n", b'c')].concat())
            .await;
        assert_eq!(client.unit().await.0, "GCZI");
        client
            .send(&[query("copy t from stdin"), data("x\n", b'c')].concat())
            .await;
        assert_eq!(client.unit().await.0, "G22P02EZI");
        let failed = [
            query("copy t from stdin"),
            message(b'd', b"3\n"),
            message(b'f', b"no\0"),
        ];
        client.send(&failed.concat()).await;
        assert_eq!(client.unit().await.0, "G57014EZI");
        assert_eq!(client.query("copy t to stdout").await.0, "HddcCZI");
        assert_eq!(
            client.query("copy (select 1/0) to stdout").await.0,
            "22012EZI"
        );
        occupied.replace(place.occupy().await);
    }
    drop(occupied);
    place.close().await;
}

#[tokio::test]
async fn a_cancel_request_hits_its_own_client() {
    let Some(place) = Place::open("cancels").await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    let cancel = |key: (u32, u32)| {
        let words = [16, 80_877_102, key.0, key.1];
        let bytes = words.map(u32::to_be_bytes).concat();
        let address = place.gateway.app.address.clone();
        async move {
            let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut socket, &bytes)
                .await
                .unwrap();
            let mut end = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut end)
                .await
                .unwrap();
        }
    };
    client.send(&query("select pg_sleep(60)")).await;
    other.send(&query("select pg_sleep(0.5)")).await;
    // Nothing happens with a wrong secret; with the right one it is this client's query.
    cancel((client.key.0, client.key.1 ^ 1)).await;
    while place.gateway.service.fleet().snapshot()[0].leased < 2 {
        tokio::task::yield_now().await;
    }
    cancel(client.key).await;
    assert_eq!(client.unit().await.0, "T57014EZI");
    assert_eq!(other.unit().await.0, "TDCZI");
    cancel(client.key).await;
    assert_eq!(client.query("select 1").await.0, "TDCZI");
    place.close().await;
}
