//! Backslashes in strings: signs like others, or escapes, as the session has `standard_conforming_strings`.
//!
//! Texts are read as the standard says; whoever turns that off must gain nothing by it.

use polypool::tenant::Role;

use crate::{
    gateway::{Place, account, server_url},
    wire::{Client, bind, execute, message, named, parse, query, run, sync},
};

/// One column as the standard says; else two, of which the first is a quote.
const HIDDEN: &str = "select '\\'' , 1 + 1 --'";
/// Two columns as the standard says.
const SHOWN: &str = "select '\\' , 1 + 1 --'";
const STANDARD: &str = "\\' , 1 + 1 --";
const QUOTE: char = '\'';
const OFF: &str = "set standard_conforming_strings = off";
/// What programs send for a prefix.
const LIKE: &str = "select $1 like $2 escape '\\'";

async fn likes(client: &mut Client, name: &str) -> String {
    let parsed = [parse(name, LIKE), named(b'D', b'S', name), sync()].concat();
    client.send(&parsed).await;
    let (types, _) = client.unit().await;
    assert!(types.starts_with("1tT"), "{types}");
    likes_again(client, name).await
}

async fn likes_again(client: &mut Client, name: &str) -> String {
    let values = ["a_b", "a\\_%"];
    let run = [bind("", name, &values), execute("", 0), sync()].concat();
    client.send(&run).await;
    let (types, rows) = client.unit().await;
    rows.into_iter().next().unwrap_or(types)
}

#[tokio::test]
async fn who_may_write_may_escape_with_a_backslash() {
    let Some(place) = Place::open("quotes_write").await else {
        return;
    };
    let mut off = place.gateway.client().await;
    for role in [Role::Write, Role::Read] {
        let mut client = place.gateway.client_as(role, &[]).await;
        for _ in 0..2 {
            // Others' settings are theirs.
            off.must(OFF).await;
            let like = client.must("select 'a_b' like 'a\\_%' escape '\\'").await;
            assert_eq!(like, ["t"]);
            off.must("reset standard_conforming_strings").await;
            off.must("discard all").await;
            assert_eq!(client.must(HIDDEN).await, [STANDARD]);
            assert_eq!(likes(&mut client, "").await, "t");
        }
        assert_eq!(likes(&mut client, "like").await, "t");
        let occupied = place.occupy().await;
        assert_eq!(likes_again(&mut client, "like").await, "t");
        drop(occupied);
        place.gateway.settle().await;
        client.must("begin").await;
        client.must("set local search_path = pg_catalog").await;
        assert_eq!(likes(&mut client, "").await, "t");
        assert_eq!(likes_again(&mut client, "like").await, "t");
        client.must("commit").await;
        // A transaction's begin in the same unit.
        let begin = [parse("", "begin"), bind("", "", &[]), execute("", 0)].concat();
        let text = [parse("", HIDDEN), bind("", "", &[]), execute("", 0), sync()].concat();
        client.send(&[begin, text].concat()).await;
        assert_eq!(client.unit().await.1, [STANDARD]);
        client.must("rollback").await;
    }
    place.close().await;
}

/// Parse, Bind and Execute.
fn once(text: &str) -> Vec<u8> {
    [parse("", text), bind("", "", &[]), execute("", 0)].concat()
}

/// What turns the setting off and then sends a text that is another one by that.
fn tricks(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let plain = || query(text);
    let extended = || [once(text), sync()].concat();
    let local = "set local standard_conforming_strings = off";
    let back = "begin; set local standard_conforming_strings = on";
    let configured = "select set_config('standard_conforming_' || 'strings', 'off', false)";
    let function = "select off()";
    let portal = |text: &str| {
        let bound = [parse("off", text), bind("later", "off", &[]), sync()].concat();
        vec![query("begin"), bound, execute("later", 0), extended()]
    };
    let ways = vec![
        ("set", vec![query(OFF), plain()]),
        ("set, extended", vec![once(OFF), sync(), extended()]),
        ("set, unit", vec![once(OFF), extended()]),
        ("config", vec![query(configured), plain()]),
        ("config, unit", vec![once(configured), extended()]),
        ("function", vec![query(function), plain()]),
        ("function, unit", vec![once(function), extended()]),
        ("local", vec![query("begin"), query(local), plain()]),
        ("begun", vec![query(&format!("begin; {local}")), plain()]),
        (
            "taken back",
            vec![query(OFF), query(back), query("rollback"), plain()],
        ),
        (
            "taken back, unit",
            vec![query(OFF), query(back), once("rollback"), extended()],
        ),
        ("portal", portal(local)),
        ("function's portal", portal(function)),
        (
            "reset",
            vec![query(OFF), query("reset all"), query(OFF), plain()],
        ),
        (
            "prepared before",
            vec![parse("hidden", text), sync(), query(OFF), run("hidden")],
        ),
        (
            "prepared before, unit",
            vec![
                parse("hidden", text),
                sync(),
                once(configured),
                run("hidden"),
            ],
        ),
        (
            "by name",
            vec![
                query(&format!("prepare off as {configured}")),
                once("execute off"),
                extended(),
            ],
        ),
    ];
    ways.into_iter()
        .map(|(trick, parts)| (trick, parts.concat()))
        .collect()
}

/// How many units these messages are.
fn units(messages: &[u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    while let Some([tag, length @ ..]) = messages.get(at..at + 5) {
        count += usize::from(matches!(tag, b'Q' | b'S'));
        at += 1 + u32::from_be_bytes(length.try_into().unwrap()) as usize;
    }
    count
}

/// Makes a function that turns the setting off for its caller.
async fn define(place: &Place) {
    let mut admin = place.gateway.client().await;
    let text = "create function off() returns text language sql as \
        $$ select set_config('standard_conforming_strings', 'off', false) $$";
    admin.must(text).await;
}

#[tokio::test]
async fn a_text_that_is_another_without_the_standard_is_not_passed() {
    let Some(place) = Place::open("quotes_tricks").await else {
        return;
    };
    define(&place).await;
    for role in [Role::Write, Role::Read] {
        for (trick, bytes) in tricks(HIDDEN) {
            for occupied in [false, true] {
                let mut client = place.gateway.client_as(role, &[]).await;
                let held = if occupied {
                    Some(place.occupy().await)
                } else {
                    None
                };
                client.send(&bytes).await;
                for _ in 0..units(&bytes) {
                    let (types, rows) = client.unit().await;
                    assert!(
                        !rows.iter().any(|row| row.starts_with(QUOTE)),
                        "{trick}: {types}"
                    );
                }
                drop((client, held));
                place.gateway.settle().await;
            }
        }
        let off = [("options", "-c standard_conforming_strings=off")];
        let mut client = place.gateway.client_as(role, &off).await;
        for text in [HIDDEN, SHOWN] {
            assert!(client.query(text).await.0.starts_with("42501E"));
        }
        client.must("set standard_conforming_strings = on").await;
        assert_eq!(client.must(HIDDEN).await, [STANDARD]);
        client.must("reset all").await;
        assert!(client.query(HIDDEN).await.0.starts_with("42501E"));
    }
    place.close().await;
}

/// What takes the setting back in a transaction that has turned it on, though no text says so, with a hidden text behind.
fn takings() -> Vec<(&'static str, Vec<u8>)> {
    let after = format!("rollback; {HIDDEN}");
    vec![
        ("error", vec![query("select 1 / 0"), query(&after)]),
        (
            "error, unit",
            vec![once("select 1 / 0"), sync(), query(&after)],
        ),
        ("no text", vec![parse("", "selec"), sync(), query(&after)]),
        ("fetched", vec![query("fetch c"), query(HIDDEN)]),
        (
            "two phases",
            vec![query("prepare transaction 'quotes'"), query(HIDDEN)],
        ),
    ]
    .into_iter()
    .map(|(taking, parts)| (taking, parts.concat()))
    .collect()
}

#[tokio::test]
async fn what_takes_the_setting_back_unseen_is_waited_for() {
    let (Some(place), Some(url)) = (Place::open("quotes_back").await, server_url()) else {
        return;
    };
    let direct = account(&url, &place.database.name);
    let on = "set local standard_conforming_strings = on";
    let cursor =
        "declare c cursor for select set_config('standard_conforming_strings', 'off', true)";
    for role in [Role::Write, Role::Read, Role::Admin] {
        for (taking, bytes) in takings() {
            let mut seen = Vec::new();
            for through in [true, false] {
                if !through && role != Role::Admin {
                    continue;
                }
                let mut client = if through {
                    place.gateway.client_as(role, &[]).await
                } else {
                    Client::log_in(&direct, &[]).await.unwrap()
                };
                for text in [OFF, "begin", on, cursor] {
                    client.must(text).await;
                }
                client.send(&bytes).await;
                let mut units_seen = Vec::new();
                for _ in 0..units(&bytes) {
                    units_seen.push(client.unit().await);
                }
                let hidden = |(_, rows): &(String, Vec<String>)| {
                    rows.iter().any(|row| row.starts_with(QUOTE))
                };
                let shown = units_seen.iter().any(hidden);
                assert!(!shown || role == Role::Admin, "{taking}: {units_seen:?}");
                seen.push(units_seen);
                drop(client);
                place.gateway.settle().await;
                let mut cleaner = Client::log_in(&direct, &[]).await.unwrap();
                cleaner.query("rollback prepared 'quotes'").await;
            }
            assert!(
                seen.windows(2).all(|two| two[0] == two[1]),
                "{taking}: {seen:?}"
            );
        }
    }
    place.close().await;
}

#[tokio::test]
async fn an_administrator_reads_strings_as_directly() {
    let (Some(place), Some(url)) = (Place::open("quotes_admin").await, server_url()) else {
        return;
    };
    define(&place).await;
    let direct = account(&url, &place.database.name);
    for text in [HIDDEN, SHOWN, "select 'it\\'s', 1 + 1 --'"] {
        for (trick, bytes) in tricks(text) {
            let mut seen = Vec::new();
            for account in [&direct, &place.gateway.app] {
                let mut client = Client::log_in(account, &[]).await.unwrap();
                client.send(&bytes).await;
                let mut units_seen = Vec::new();
                for _ in 0..units(&bytes) {
                    units_seen.push(client.unit().await);
                }
                // What a later client has.
                let rows = Client::log_in(account, &[])
                    .await
                    .unwrap()
                    .query(HIDDEN)
                    .await;
                seen.push((units_seen, rows));
            }
            assert_eq!(seen[0], seen[1], "{trick}: {text}");
            place.gateway.settle().await;
        }
    }
    place.close().await;
}

#[tokio::test]
async fn a_database_whose_strings_have_escapes_is_read_with_care() {
    let Some(place) = Place::open("quotes_database").await else {
        return;
    };
    let name = &place.database.name;
    let text = format!("alter database {name} set standard_conforming_strings = off");
    crate::gateway::superuser().await.must(&text).await;
    let mut writer = place.gateway.client_as(Role::Write, &[]).await;
    assert!(writer.query(HIDDEN).await.0.starts_with("42501E"));
    writer.must("set standard_conforming_strings = on").await;
    assert_eq!(writer.must(HIDDEN).await, [STANDARD]);
    for back in ["reset standard_conforming_strings", "discard all"] {
        writer.must(back).await;
        assert!(writer.query(HIDDEN).await.0.starts_with("42501E"), "{back}");
    }
    let mut admin = place.gateway.client().await;
    assert!(admin.must(HIDDEN).await[0].starts_with(QUOTE));
    place.close().await;
}

/// Only where backslashes escape, a parameter is set.
const SETTING: &str =
    "begin perform '\\'', set_config($a$app.tenant$a$, $a$x$a$, false) --'\n; end";

/// After `first`, `call` sets a parameter of its client's, which nobody else sees.
async fn set_alone(place: &Place, first: &str, call: &str) {
    let show = "select coalesce(current_setting('app.tenant', true), '')";
    let mut client = place.gateway.client().await;
    client.must(first).await;
    client.must(call).await;
    assert_eq!(client.must(show).await, ["x"], "{call}");
    // Its upstream stays with it, and is cleaned when it leaves.
    let mut other = place.gateway.client().await;
    assert_eq!(other.must(show).await, [""], "{call}");
    drop(client);
    place.gateway.settle().await;
    assert_eq!(other.must(show).await, [""], "{call}");
    // A function is what it is to the other too, though one session of the server's has compiled it for the first.
    if call.starts_with("select two") {
        other.must(call).await;
        assert_eq!(other.must(show).await, [""], "{call}");
    }
}

#[tokio::test]
async fn functions_are_what_they_are_to_the_session_that_runs_them() {
    let Some(place) = Place::open("quotes_functions").await else {
        return;
    };
    let mut admin = place.gateway.client().await;
    for (name, with) in [
        ("two", ""),
        ("own", "set standard_conforming_strings = off"),
    ] {
        let text = format!(
            "create function {name}() returns void language plpgsql {with} as $f$ {SETTING} $f$"
        );
        admin.must(&text).await;
    }
    for (first, call) in [
        (OFF, "select two()"),
        ("select 1", "select own()"),
        (OFF, &format!("do $f$ {SETTING} $f$")),
        (
            "select 1",
            "set standard_conforming_strings = off; select two()",
        ),
    ] {
        set_alone(&place, first, call).await;
    }
    place.close().await;
}

#[tokio::test]
async fn blocks_are_what_they_are_where_no_functions_are() {
    let Some(place) = Place::open("quotes_blocks").await else {
        return;
    };
    let block = format!("do $f$ {SETTING} $f$");
    for (first, call) in [
        (OFF, block.clone()),
        (
            "select 1",
            format!("set standard_conforming_strings = off; {block}"),
        ),
        (OFF, format!("select 1; {block}")),
        (OFF, format!(";{block}")),
    ] {
        set_alone(&place, first, &call).await;
    }
    place.close().await;
}

#[tokio::test]
async fn statements_stay_while_the_setting_of_another_is_taken_back() {
    let Some(place) = Place::open_with("quotes_names", 1).await else {
        return;
    };
    let mut other = place.gateway.client().await;
    for role in [Role::Write, Role::Read] {
        let mut client = place.gateway.client_as(role, &[]).await;
        assert_eq!(likes(&mut client, "like").await, "t");
        client.must("prepare two as select 2").await;
        other.must(OFF).await;
        // The names that stand on the upstream are somebody else's now.
        other.must("prepare three as select 3").await;
        assert_eq!(likes_again(&mut client, "like").await, "t");
        assert_eq!(client.must("execute two").await, ["2"]);
        other.must("deallocate three").await;
        other.must("reset standard_conforming_strings").await;
    }
    place.close().await;
}

#[tokio::test]
async fn what_was_prepared_by_text_is_not_read_otherwise_elsewhere() {
    let Some(place) = Place::open("quotes_elsewhere").await else {
        return;
    };
    let mut writer = place.gateway.client_as(Role::Write, &[]).await;
    // One column of the same type either way.
    let hidden = "select '\\'' || 5 --'";
    writer.must(&format!("prepare hidden as {hidden}")).await;
    assert_eq!(writer.must("execute hidden").await, ["\\' || 5 --"]);
    let name = &place.database.name;
    let text = format!("alter database {name} set standard_conforming_strings = off");
    crate::gateway::superuser().await.must(&text).await;
    let _occupied = place.occupy().await;
    let (types, rows) = writer.query("execute hidden").await;
    println!("DBG {types} {rows:?}");
    assert!(!rows.iter().any(|row| row.starts_with(QUOTE)), "{types}");
    place.close().await;
}

/// Texts in `SJIS`, of which the first letter ends with a backslash or a bracket: one column, and two for the server.
const LETTERS: [&[u8]; 3] = [
    b"select E'\x83\x5c', 1 + 1 --'",
    b"select $\x83\x5b$ ' $\x83\x5b$, 1 + 1 --'",
    b"select $\x87\x90$ ' $\x81\xe0$, 1 + 1 --$\x87\x90$'",
];

/// What a client logs in with, and what it says first.
type Beginning = (
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
);

#[tokio::test]
async fn a_letter_that_ends_like_a_sign_hides_nothing() {
    let (Some(place), Some(url)) = (Place::open("letters").await, server_url()) else {
        return;
    };
    let direct = account(&url, &place.database.name);
    let ways: [Beginning; 4] = [
        (&[("client_encoding", "SJIS")], &[]),
        (&[], &["set client_encoding to sjis"]),
        (&[], &["set names 'shift_jis'"]),
        (
            &[],
            &[
                "begin",
                "select set_config('client_encoding', 'SJIS', true)",
            ],
        ),
    ];
    for (parameters, before) in ways {
        for text in LETTERS {
            let hidden = message(b'Q', &[text, &[0]].concat());
            for role in [Role::Write, Role::Read] {
                let mut client = place.gateway.client_as(role, parameters).await;
                // All at once, so that nothing is known yet.
                let texts: Vec<_> = before.iter().map(|text| query(text)).collect();
                client
                    .send(&[texts.concat(), hidden.clone()].concat())
                    .await;
                for _ in before {
                    client.unit().await;
                }
                let (types, _) = client.unit().await;
                assert!(types.starts_with("42501E"), "{text:?}: {types}");
                if before.contains(&"begin") {
                    continue;
                }
                // A letter in a string of the standard's is harmless.
                let plain = message(b'Q', b"select '\x83\x5c'\0");
                client.send(&plain).await;
                let (types, _) = client.unit().await;
                assert!(types.starts_with('T'), "{types}");
            }
            let mut seen = Vec::new();
            for account in [&direct, &place.gateway.app] {
                let mut client = Client::log_in(account, parameters).await.unwrap();
                for text in before {
                    client.must(text).await;
                }
                client.send(&hidden).await;
                seen.push(client.unit().await);
            }
            assert_eq!(seen[0], seen[1], "{text:?}");
            place.gateway.settle().await;
        }
    }
    // Where letters have no signs in them, the same is harmless.
    let mut writer = place
        .gateway
        .client_as(Role::Write, &[("client_encoding", "UTF8")])
        .await;
    assert_eq!(
        writer
            .must("select E'h\u{e9}\\n' || $\u{e9}$x$\u{e9}$")
            .await,
        ["h\u{e9}\nx"]
    );
    place.close().await;
}
