//! Functions that set parameters for the session, called by texts that do not show it: who called has
//! them on whichever upstream, and nobody else ever does.

use crate::{
    gateway::{Place, account, server_url, superuser_url},
    wire::{Client, bind, execute, message, named, parse, query, run, sync},
};

/// Parameters that the server does not report.
const SHOWN: &str = "select concat_ws('|', nullif(current_setting('app.tenant', true), ''), \
    current_setting('work_mem'))";
const NOTHING: &str = "4MB";

async fn shown(client: &mut Client) -> String {
    client.must(SHOWN).await.remove(0)
}

/// Whether the client has these, and the other one nothing, on the only upstream.
#[track_caller]
fn check(way: &str, found: &[String], wanted: &str) {
    assert_eq!(found, [wanted, NOTHING, wanted, NOTHING], "{way}");
}

async fn seen(client: &mut Client, other: &mut Client) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..2 {
        found.push(shown(client).await);
        found.push(shown(other).await);
    }
    found
}

/// A function that takes and gives an integer, and sets both parameters.
fn setter(name: &str) -> String {
    format!(
        "create function {name}(x int) returns int language plpgsql as $$ begin \
         perform set_config('app.tenant', '{name}', false); set work_mem = '9MB'; return x; end $$"
    )
}

/// How it is called, its definitions, and the texts that run it.
type Way = (&'static str, Vec<String>, Vec<&'static str>);

#[expect(clippy::too_many_lines, reason = "a table")]
fn simple_ways() -> Vec<Way> {
    let both = "perform set_config('app.tenant', 'WAY', false); set work_mem = '9MB'";
    let plpgsql = |way: &str, body: &str| {
        format!(
            "create function {way}(x int) returns int language plpgsql as $f$ begin {}; return x; end $f$",
            body.replace("WAY", way)
        )
    };
    vec![
        ("direct", vec![plpgsql("direct", both)], vec!["select direct(5)"]),
        (
            "by_set",
            vec![plpgsql("by_set", "if x > 1 then set app.tenant = 'WAY'; set work_mem to '9MB'; end if")],
            vec!["select \"by_set\"(5)"],
        ),
        (
            "dynamic",
            vec![plpgsql(
                "dynamic",
                "execute 'set app.tenant = ' || quote_literal('WAY'); \
                 execute format('set work_mem = %L', '9MB')",
            )],
            vec!["select public.dynamic (5)"],
        ),
        (
            "by_sql",
            vec![
                "create function by_sql() returns text language sql as $$ \
                 select set_config('app.tenant', 'by_sql', false); \
                 select set_config('work_mem', '9MB', false) $$"
                    .into(),
            ],
            vec!["select by_sql()"],
        ),
        (
            "standard",
            vec![
                "create function standard() returns text language sql begin atomic \
                 select set_config('app.tenant', 'standard', false); \
                 select set_config('work_mem', '9MB', false); end"
                    .into(),
            ],
            vec!["select * from standard()"],
        ),
        (
            "inner_most",
            vec![
                setter("inner_most"),
                "create function middle(x int) returns int language sql as 'select inner_most(x)'".into(),
                plpgsql("outermost", "execute 'select middle($1)' using x"),
            ],
            vec!["select outermost(5)"],
        ),
        (
            "by_call",
            vec!["create procedure by_call() language plpgsql as $$ begin \
                 set app.tenant = 'by_call'; commit; set work_mem = '9MB'; end $$"
                .into()],
            vec!["call by_call()"],
        ),
        (
            "by_block",
            vec![],
            vec!["do $$ begin set app.tenant = 'by_block'; set work_mem = '9MB'; end $$"],
        ),
        (
            "by_settings",
            vec![],
            vec![
                "set app.tenant = 'by_settings'",
                "update pg_settings set setting = '9MB' where name = 'work_mem'",
            ],
        ),
        ("in_do", vec![setter("in_do")], vec!["do $$ begin perform in_do(1); end $$"]),
        ("in_text", vec![setter("in_text")], vec!["select query_to_xml('select in_text(1)', true, true, '')"]),
        (
            "by_cursor",
            vec![setter("by_cursor")],
            vec!["begin", "declare c cursor for select by_cursor(5)", "fetch c", "commit"],
        ),
        (
            "in_several",
            vec![setter("in_several")],
            vec!["begin; select in_several(1); commit; select 1"],
        ),
        (
            "by_execute",
            vec![setter("by_execute")],
            vec!["prepare p as select by_execute(1)", "execute p", "deallocate p"],
        ),
        (
            "by_aggregate",
            vec![
                setter("by_aggregate"),
                "create function step(a int, b int) returns int language sql as 'select by_aggregate(b)'".into(),
                "create aggregate summed(int) (sfunc = step, stype = int, initcond = '0')".into(),
            ],
            vec!["select summed(x) from generate_series(1, 3) as t(x)"],
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn ways_of_relations() -> Vec<Way> {
    let table = |name: &str| format!("create table {name} (a int)");
    let trigger = |name: &str| {
        format!(
            "create function {name}() returns trigger language plpgsql as $$ begin \
             set app.tenant = '{name}'; set work_mem = '9MB'; return new; end $$"
        )
    };
    let on = |name: &str, table: &str, when: &str| {
        format!("create trigger t {when} on {table} for each row execute function {name}()")
    };
    vec![
        (
            "by_trigger",
            vec![
                table("watched"),
                trigger("by_trigger"),
                on("by_trigger", "watched", "before insert"),
            ],
            vec!["insert into watched values (1)"],
        ),
        (
            "at_commit",
            vec![
                table("late"),
                trigger("at_commit"),
                "create constraint trigger t after insert on late deferrable initially deferred \
                 for each row execute function at_commit()"
                    .into(),
            ],
            vec!["begin", "insert into late values (1)", "commit"],
        ),
        (
            "by_view",
            vec![
                setter("by_view"),
                "create view seen as select by_view(x) from generate_series(1, 2) as t(x)".into(),
                "create view seen_twice as select * from seen".into(),
            ],
            vec!["select * from seen_twice"],
        ),
        (
            "by_rule",
            vec![
                table("ruled"),
                setter("by_rule"),
                "create rule r as on insert to ruled do also select by_rule(1)".into(),
            ],
            vec!["insert into ruled values (1)"],
        ),
        (
            "by_policy",
            vec![
                "create table guarded as select 1 as a".into(),
                setter("by_policy"),
                "create policy p on guarded using (by_policy(a) = a)".into(),
                "alter table guarded enable row level security, force row level security".into(),
            ],
            vec!["select * from guarded"],
        ),
        (
            "by_default",
            vec![
                setter("by_default"),
                "create table filled (a int default by_default(1), b int)".into(),
            ],
            vec!["insert into filled (b) values (1)"],
        ),
        (
            "by_check",
            vec![
                setter("by_check"),
                "create table checked (a int check (by_check(a) = a))".into(),
            ],
            vec!["copy checked from stdin"],
        ),
        (
            "by_cascade",
            vec![
                "create table parent (a int primary key)".into(),
                "create table child (a int references parent on delete cascade)".into(),
                trigger("by_cascade"),
                on("by_cascade", "child", "after delete"),
                "insert into parent values (1)".into(),
                "insert into child values (1)".into(),
            ],
            vec!["delete from parent"],
        ),
        (
            "by_part",
            vec![
                "create table whole (a int) partition by range (a)".into(),
                "create table part partition of whole for values from (0) to (9)".into(),
                trigger("by_part"),
                on("by_part", "part", "after insert"),
            ],
            vec!["insert into whole values (1)"],
        ),
        (
            "by_body",
            vec![
                table("used"),
                trigger("by_body"),
                on("by_body", "used", "after insert"),
                "create function uses() returns void language sql as 'insert into used values (1)'"
                    .into(),
            ],
            vec!["select uses()"],
        ),
    ]
}

fn ways_without_a_name() -> Vec<Way> {
    vec![
        (
            "by_domain",
            vec![
                setter("by_domain"),
                "create domain small as int check (by_domain(value) = value)".into(),
                "create table of_small (a small)".into(),
            ],
            vec!["insert into of_small values (1)"],
        ),
        (
            "by_operator",
            vec![
                setter("by_operator"),
                "create operator ### (function = by_operator, rightarg = int)".into(),
            ],
            vec!["select ### 5"],
        ),
    ]
}

#[tokio::test]
async fn what_a_function_sets_follows_its_caller_and_nobody_else() {
    follow("by_functions", simple_ways()).await;
}

#[tokio::test]
async fn what_runs_behind_a_table_is_followed_too() {
    follow("by_relations", ways_of_relations()).await;
}

#[tokio::test]
async fn what_has_no_name_in_a_text_is_followed_too() {
    for way in ways_without_a_name() {
        follow(way.0, vec![way]).await;
    }
}

async fn follow(database: &str, ways: Vec<Way>) {
    let Some(place) = Place::open_with(database, 1).await else {
        return;
    };
    for (way, definitions, texts) in ways {
        println!("{way}");
        let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
        for text in &definitions {
            client.must(text).await;
        }
        assert_eq!(shown(&mut other).await, NOTHING, "{way}");
        for text in texts {
            if text.starts_with("copy") {
                let data = [message(b'd', b"1\n"), message(b'c', b"")].concat();
                client.send(&[query(text), data].concat()).await;
                assert_eq!(client.unit().await.0, "GCZI");
            } else {
                client.must(text).await;
            }
        }
        let found = seen(&mut client, &mut other).await;
        check(way, &found, &format!("{way}|9MB"));
    }
    place.close().await;
}

#[tokio::test]
async fn a_function_that_is_made_past_the_gateway_is_found_by_its_name() {
    let Some(place) = Place::open_with("made_past", 1).await else {
        return;
    };
    let direct = account(&server_url().unwrap(), &place.database.name);
    let mut direct = Client::log_in(&direct, &[]).await.unwrap();
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    client.must("select count(*) from pg_class").await;
    // Called before it is there, too.
    assert_eq!(client.query("select fresh(5)").await.0, "42883EZI");
    direct.must(&setter("fresh")).await;
    client.must("select fresh(5)").await;
    let found = seen(&mut client, &mut other).await;
    check("fresh", &found, "fresh|9MB");
    place.close().await;
}

#[tokio::test]
async fn a_function_that_is_replaced_is_judged_again() {
    let Some(place) = Place::open_with("replaced", 1).await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    let harmless = "create function changing(x int) returns int language plpgsql as \
        $$ begin return x; end $$";
    client.must(harmless).await;
    let text = "select changing(5)";
    client.send(&[parse("s", text), sync()].concat()).await;
    client.unit().await;
    client.send(&run("s")).await;
    client.unit().await;
    other.must(text).await;
    let found = seen(&mut client, &mut other).await;
    check("harmless", &found, NOTHING);
    other
        .must(&setter("changing").replace("create", "create or replace"))
        .await;
    // The statement was prepared when it was harmless.
    client.send(&run("s")).await;
    assert_eq!(client.unit().await.1, ["5"]);
    let found = seen(&mut client, &mut other).await;
    check("replaced", &found, "changing|9MB");
    // And in the transaction that defines it, for itself.
    other.must("begin").await;
    other.must(&setter("within")).await;
    other.must("select within(1)").await;
    other.must("commit").await;
    let found = seen(&mut other, &mut client).await;
    assert_eq!(found[0], "within|9MB");
    assert_eq!(found[1], "changing|9MB");
    place.close().await;
}

#[tokio::test]
async fn what_a_function_sets_is_undone_with_its_transaction() {
    let Some(place) = Place::open_with("undone", 1).await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    client.must(&setter("undone")).await;
    for texts in [
        &["begin", "select undone(1)", "rollback"][..],
        &["begin; select undone(1)", "select 1/0", "commit"],
        &[
            "begin",
            "savepoint a",
            "select undone(1)",
            "rollback to a",
            "commit",
        ],
        &["select undone(1), 1/0"],
    ] {
        for text in texts {
            client.query(text).await;
        }
        let found = seen(&mut client, &mut other).await;
        check(texts.last().unwrap(), &found, NOTHING);
    }
    client.must("begin; savepoint a").await;
    client.must("select undone(1)").await;
    client.must("release a; commit").await;
    let found = seen(&mut client, &mut other).await;
    check("kept", &found, "undone|9MB");
    client.must("reset all").await;
    let found = seen(&mut client, &mut other).await;
    check("reset", &found, NOTHING);
    place.close().await;
}

#[tokio::test]
async fn functions_by_protocol_are_followed_too() {
    let Some(place) = Place::open_with("by_protocol", 1).await else {
        return;
    };
    let mut client = place.gateway.client().await;
    for name in ["unnamed", "named", "piped", "by_number"] {
        client.must(&setter(name)).await;
    }
    let number = client.must("select 'by_number'::regproc::oid").await;
    let number: u32 = number[0].parse().unwrap();
    let text = |name: &str| format!("select {name}(5)");
    let call = [
        &number.to_be_bytes()[..],
        &[0, 1, 0, 1, 0, 1, 0, 0, 0, 4, 0, 0, 0, 40, 0, 1],
    ];
    for (way, units) in [
        (
            "unnamed",
            vec![[parse("", &text("unnamed")), run("")].concat()],
        ),
        (
            "named",
            vec![[parse("s", &text("named")), sync()].concat(), run("s")],
        ),
        ("by_number", vec![message(b'F', &call.concat())]),
        (
            "piped",
            vec![
                [
                    parse("", &text("piped")),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                    query("select 1"),
                    parse("t", SHOWN),
                    named(b'D', b'S', "t"),
                    run("t"),
                ]
                .concat(),
            ],
        ),
    ] {
        let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
        assert_eq!(shown(&mut other).await, NOTHING);
        for unit in units {
            client.send(&unit).await;
            client.unit().await;
        }
        if way == "piped" {
            client.unit().await;
            assert_eq!(client.unit().await.1, ["piped|9MB"]);
        }
        let found = seen(&mut client, &mut other).await;
        check(way, &found, &format!("{way}|9MB"));
    }
    place.close().await;
}

#[tokio::test]
async fn what_cannot_be_judged_keeps_its_upstream() {
    let Some(place) = Place::open("unjudged").await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    client
        .must(
            "create function any_text(x text) returns void language plpgsql as \
             $$ begin if x like 'select%' then raise exception 'Select elsewhere'; end if; \
             execute x; end $$",
        )
        .await;
    client
        .send(
            &[
                parse("", "select any_text($1)"),
                bind("", "", &["set app.tenant = 'x'"]),
                execute("", 0),
                sync(),
            ]
            .concat(),
        )
        .await;
    client.unit().await;
    assert_eq!(place.gateway.service.fleet().snapshot()[0].leased, 1);
    assert_eq!(shown(&mut client).await, "x|4MB");
    assert_eq!(shown(&mut other).await, NOTHING);
    drop(client);
    place.gateway.settle().await;
    for _ in 0..2 {
        let _occupied = place.occupy().await;
        assert_eq!(shown(&mut other).await, NOTHING);
    }
    place.close().await;
}

#[tokio::test]
async fn where_functions_cannot_be_read_clients_keep_their_upstreams() {
    let Some(place) = Place::open("unread").await else {
        return;
    };
    // Past the gateway, which reads when its first client comes: a text with so many parameters would keep its client's
    // upstream by itself.
    let direct = account(&server_url().unwrap(), &place.database.name);
    let mut direct = Client::log_in(&direct, &[]).await.unwrap();
    direct.must(&setter("one_of_many")).await;
    // More parameters than are kept.
    let sets: Vec<_> = (0..1001)
        .map(|at| format!("set_config('many.n{at}', 'x', false)"))
        .collect();
    let many = format!(
        "create function many() returns void language sql as $$ select {} $$",
        sets.join("; select ")
    );
    direct.must(&many).await;
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    client.must("select one_of_many(5)").await;
    assert_eq!(place.gateway.service.fleet().snapshot()[0].leased, 1);
    assert_eq!(shown(&mut client).await, "one_of_many|9MB");
    assert_eq!(shown(&mut other).await, NOTHING);
    drop((client, other));
    place.gateway.settle().await;
    let mut client = place.gateway.client().await;
    assert_eq!(shown(&mut client).await, NOTHING);
    // What can be read again is.
    client.must("drop function many()").await;
    drop(client);
    place.gateway.settle().await;
    let mut client = place.gateway.client().await;
    client.must("select one_of_many(5)").await;
    place.gateway.settle().await;
    assert_eq!(place.gateway.service.fleet().snapshot()[0].leased, 0);
    place.close().await;
}

#[tokio::test]
async fn functions_are_read_whatever_the_encoding_of_the_session() {
    let Some(place) = Place::open_with("encoded", 1).await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    other
        .must(&setter("foreign_letters").replace("begin", "begin /* \u{6f22} */"))
        .await;
    client.must("set client_encoding = 'LATIN1'").await;
    client.must(&setter("encoded")).await;
    // Reads in its own session, and keeps the only upstream no longer than it needs it.
    client.must("select encoded(5)").await;
    let found = seen(&mut client, &mut other).await;
    check("encoded", &found, "encoded|9MB");
    other.must("select foreign_letters(5)").await;
    assert_eq!(shown(&mut other).await, "foreign_letters|9MB");
    assert_eq!(client.must("show client_encoding").await, ["LATIN1"]);
    assert_eq!(other.must("show client_encoding").await, ["UTF8"]);
    place.close().await;
}

#[tokio::test]
async fn a_statement_that_a_function_prepares_is_its_callers() {
    let Some(place) = Place::open("preparing").await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    let prepares = "create function prepares() returns void language plpgsql as \
        $$ begin execute 'prepare p as select 1'; end $$";
    client.must(prepares).await;
    client.must("select prepares()").await;
    other.must("prepare p as select 2").await;
    assert_eq!(other.must("execute p").await, ["2"]);
    assert_eq!(client.must("execute p").await, ["1"]);
    place.close().await;
}

#[tokio::test]
async fn what_an_event_trigger_sets_is_followed() {
    let Some(place) = Place::open_with("by_event", 1).await else {
        return;
    };
    let account = account(&superuser_url(), &place.database.name);
    let mut superuser = Client::log_in(&account, &[]).await.unwrap();
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    superuser
        .must(
            "create function by_event() returns event_trigger language plpgsql as $$ begin \
             set app.tenant = 'by_event'; set work_mem = '9MB'; end $$; \
             create event trigger e on ddl_command_end execute function by_event()",
        )
        .await;
    // Anything that defines functions makes the gateway look.
    let function = "create function nought() returns int language sql as 'select 1'";
    client.must(function).await;
    client.must("reset all").await;
    other.must("reset all").await;
    client.must("create table made (a int)").await;
    let found = seen(&mut client, &mut other).await;
    check("by_event", &found, "by_event|9MB");
    place.close().await;
}

#[tokio::test]
async fn where_nothing_is_set_nothing_is_asked() {
    let Some(place) = Place::open_with("unasked", 1).await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    for text in [
        "create table plain (a int)",
        "create function harmless(x int) returns int language plpgsql as \
         $$ begin update plain set a = x; perform set_config('app.tenant', 'x', true); return x; end $$",
        "select harmless(1), count(*) from plain where a in (1)",
    ] {
        client.must(text).await;
    }
    let account = account(&superuser_url(), &place.database.name);
    let mut superuser = Client::log_in(&account, &[]).await.unwrap();
    let last = "select query from pg_stat_activity where datname = current_database() \
        and pid <> pg_backend_pid() and backend_type = 'client backend'";
    for client in [&mut client, &mut other] {
        let text = "select harmless(1), count(*) from plain where a in (1)";
        client.must(text).await;
        place.gateway.settle().await;
        assert_eq!(superuser.must(last).await, [text]);
    }
    place.close().await;
}
