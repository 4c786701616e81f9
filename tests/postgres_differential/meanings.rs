//! What a prepared statement means is its client's matter: constants are read and names are looked up
//! under the parameters of its Parse, on whichever upstream it runs, and nobody else comes by that.

use crate::{
    gateway::{Place, account, server_url},
    wire::{Client, named, parse, query, run, sync},
};

/// A date that is the first of February or the second of January.
const MONTH: &str = "select extract(month from '01/02/2003'::date)";

async fn prepare(client: &mut Client, name: &str, text: &str) {
    client.send(&[parse(name, text), sync()].concat()).await;
    let (types, _) = client.unit().await;
    assert!(types.starts_with("1Z"), "{text}: {types}");
}

/// Runs a statement; its first row, or the error.
async fn outcome(client: &mut Client, name: &str) -> String {
    client.send(&run(name)).await;
    let (types, rows) = client.unit().await;
    rows.into_iter().next().unwrap_or(types)
}

/// Runs a statement on both upstreams in turn.
async fn outcomes(place: &Place, client: &mut Client, name: &str) -> [String; 2] {
    let first = outcome(client, name).await;
    let occupied = place.occupy().await;
    let second = outcome(client, name).await;
    drop(occupied);
    place.gateway.settle().await;
    [first, second]
}

/// Prepares a text as `s` after these, ends the transaction, and gives what it is on both upstreams.
async fn prepared_after(
    place: &Place,
    client: &mut Client,
    texts: &[&str],
    text: &str,
) -> [String; 2] {
    for text in texts {
        client.must(text).await;
    }
    prepare(client, "s", text).await;
    outcome(client, "s").await;
    client.must("rollback").await;
    outcomes(place, client, "s").await
}

#[tokio::test]
async fn a_constant_read_under_other_parameters_stays_with_its_client() {
    let Some(place) = Place::open("meanings").await else {
        return;
    };
    let function = "create function local_style() returns text language sql as \
        $$ select set_config('datestyle', 'SQL, DMY', true) $$";
    place.gateway.client().await.must(function).await;
    let ways: [&[&str]; 5] = [
        &["begin", "set local DateStyle = 'SQL, DMY'"],
        &["begin; set local DateStyle = 'SQL, DMY'"],
        &["begin", "select set_config('datestyle', 'SQL, DMY', true)"],
        &["begin", "set DateStyle = 'SQL, DMY'"],
        &["begin", "select local_style()"],
    ];
    for (number, way) in ways.into_iter().enumerate() {
        // Texts of their own, which nobody has prepared before.
        let text = format!("{MONTH} /* {number} */");
        let mut client = place.gateway.client().await;
        let own = prepared_after(&place, &mut client, way, &text).await;
        assert_eq!(own, ["2", "2"], "{way:?}");
        let mut other = place.gateway.client().await;
        prepare(&mut other, "s", &text).await;
        assert_eq!(
            outcomes(&place, &mut other, "s").await,
            ["1", "1"],
            "{way:?}"
        );
    }
    place.close().await;
}

#[tokio::test]
async fn a_set_counts_for_the_parse_behind_it() {
    let Some(place) = Place::open("set_ahead").await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    let units = [
        query("set DateStyle = 'SQL, DMY'"),
        parse("s", MONTH),
        sync(),
    ];
    client.send(&units.concat()).await;
    for expected in ["CZI", "1ZI"] {
        assert_eq!(client.unit().await.0, expected);
    }
    assert_eq!(outcomes(&place, &mut client, "s").await, ["2", "2"]);
    prepare(&mut other, "s", MONTH).await;
    assert_eq!(outcomes(&place, &mut other, "s").await, ["1", "1"]);
    // In a unit of the extended protocol too.
    let mut client = place.gateway.client().await;
    let unit = [
        parse("", "set DateStyle = 'SQL, DMY'"),
        run("")[..run("").len() - 5].to_vec(),
        parse("t", &format!("{MONTH} + 0")),
        sync(),
    ];
    client.send(&unit.concat()).await;
    assert_eq!(client.unit().await.0, "12C1ZI");
    prepare(&mut other, "t", &format!("{MONTH} + 0")).await;
    assert_eq!(outcomes(&place, &mut other, "t").await, ["1", "1"]);
    assert_eq!(outcomes(&place, &mut client, "t").await, ["2", "2"]);
    place.close().await;
}

#[tokio::test]
async fn a_statement_keeps_its_meaning_when_parameters_change() {
    let Some(place) = Place::open("kept_meaning").await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    // By name, and without one.
    for name in ["s", ""] {
        client.must("set DateStyle = 'ISO, MDY'").await;
        prepare(&mut client, name, MONTH).await;
        client
            .send(&[parse("", "set DateStyle = 'SQL, DMY'"), run("")].concat())
            .await;
        client.unit().await;
        if name.is_empty() {
            prepare(&mut client, name, MONTH).await;
            client
                .send(
                    &[
                        parse("x", "reset DateStyle"),
                        run("x"),
                        named(b'C', b'S', "x"),
                        sync(),
                    ]
                    .concat(),
                )
                .await;
            client.unit().await;
            client.unit().await;
        }
        let meant = if name.is_empty() { "2" } else { "1" };
        assert_eq!(
            outcomes(&place, &mut client, name).await,
            [meant, meant],
            "{name:?}"
        );
    }
    // In a transaction whose parameters only the server knows.
    prepare(
        &mut other,
        "t",
        "select extract(month from '02/01/2003'::date)",
    )
    .await;
    for _ in 0..2 {
        let occupied = place.occupy().await;
        other.must("begin; set local DateStyle = 'SQL, DMY'").await;
        assert_eq!(outcome(&mut other, "t").await, "2");
        assert_eq!(other.must("show DateStyle").await, ["SQL, DMY"]);
        drop(occupied);
        other.must("commit").await;
        assert_eq!(other.must("show DateStyle").await, ["ISO, MDY"]);
        place.gateway.settle().await;
    }
    // A plan keeps constants that were made from values.
    let text = "select (0.1::float8 + 0.2::float8)::text";
    client.must("set extra_float_digits = 0").await;
    prepare(&mut client, "f", text).await;
    assert_eq!(outcomes(&place, &mut client, "f").await, ["0.3", "0.3"]);
    prepare(&mut other, "f", text).await;
    let exact = "0.30000000000000004";
    assert_eq!(outcomes(&place, &mut other, "f").await, [exact, exact]);
    place.close().await;
}

#[tokio::test]
async fn names_looked_up_in_a_transaction_stay_with_its_client() {
    let Some(place) = Place::open("shadows").await else {
        return;
    };
    let schema = "create table named (v text); insert into named values ('public'); \
        create schema s1; create table s1.named (v text, more int); \
        insert into s1.named values ('s1')";
    place.gateway.client().await.must(schema).await;
    let direct = account(&server_url().unwrap(), &place.database.name);
    let ways: [&[&str]; 3] = [
        &["begin; set local search_path = s1"],
        &[
            "begin",
            "create temp table named on commit drop as select 'temporary' as v, 1 as more",
        ],
        &[
            "set search_path = s2, public",
            "begin; create schema s2",
            "create table s2.named as select 's2' as v, 1 as more",
        ],
    ];
    for (number, way) in ways.into_iter().enumerate() {
        let text = format!("select * from named /* {number} */");
        let mut truth = Client::log_in(&direct, &[]).await.unwrap();
        for text in way {
            truth.must(text).await;
        }
        prepare(&mut truth, "s", &text).await;
        let before = outcome(&mut truth, "s").await;
        truth.must("rollback").await;
        let mut client = place.gateway.client().await;
        for text in way {
            client.must(text).await;
        }
        prepare(&mut client, "s", &text).await;
        assert_eq!(outcome(&mut client, "s").await, before, "{way:?}");
        client.must("rollback").await;
        let mut other = place.gateway.client().await;
        if number == 2 {
            other.must(way[0]).await;
        }
        prepare(&mut other, "s", &text).await;
        let found = outcomes(&place, &mut other, "s").await;
        assert_eq!(found, ["public", "public"], "{way:?}");
    }
    place.close().await;
}

#[tokio::test]
async fn a_temporary_table_hides_others_from_its_client_only() {
    let Some(place) = Place::open("hidden").await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    client
        .must("create table named as select 'public' as v")
        .await;
    let text = "select * from named";
    prepare(&mut other, "s", text).await;
    assert_eq!(
        outcomes(&place, &mut other, "s").await,
        ["public", "public"]
    );
    // On both upstreams, where the text is there already.
    let mut second = place.gateway.client().await;
    for client in [&mut client, &mut second] {
        client
            .must("create temp table named as select 'own' as v, 1 as more")
            .await;
        prepare(client, "s", text).await;
        assert!(outcome(client, "s").await.starts_with("own"));
    }
    for client in [&mut client, &mut second] {
        client.must("drop table pg_temp.named").await;
    }
    place.gateway.settle().await;
    assert_eq!(
        outcomes(&place, &mut other, "s").await,
        ["public", "public"]
    );
    let mut fresh = place.gateway.client().await;
    prepare(&mut fresh, "s", text).await;
    assert_eq!(
        outcomes(&place, &mut fresh, "s").await,
        ["public", "public"]
    );
    place.close().await;
}

#[tokio::test]
async fn what_a_function_sets_is_its_callers_where_the_server_tells() {
    let Some(place) = Place::open("functions").await else {
        return;
    };
    let (mut client, mut other) = (place.gateway.client().await, place.gateway.client().await);
    let function = "create function away() returns text language sql as \
        $$ select set_config('timezone', 'Asia/Tokyo', false) $$";
    client.must(function).await;
    client.must("select away()").await;
    place.gateway.settle().await;
    for (client, own) in [(&mut client, true), (&mut other, false)] {
        let found = client.must("show TimeZone").await;
        assert_eq!(found == ["Asia/Tokyo"], own);
        let occupied = place.occupy().await;
        assert_eq!(client.must("show TimeZone").await, found);
        drop(occupied);
        place.gateway.settle().await;
    }
    place.close().await;
}

#[tokio::test]
async fn columns_that_have_changed_are_refused_on_whichever_upstream() {
    let Some(place) = Place::open("columns").await else {
        return;
    };
    let direct = account(&server_url().unwrap(), &place.database.name);
    let mut truth = Client::log_in(&direct, &[]).await.unwrap();
    truth.must("create table t as select 'x' as a").await;
    let (mut client, text) = (place.gateway.client().await, "select * from t");
    for client in [&mut truth, &mut client] {
        prepare(client, "s", text).await;
        assert_eq!(outcome(client, "s").await, "x");
    }
    for change in [
        "alter table t add column b int",
        "alter table t drop column b; alter table t alter column a type varchar",
    ] {
        // Past the gateway, and through it.
        if change.contains("add") {
            truth.must(change).await;
        } else {
            place.gateway.client().await.must(change).await;
        }
        // Who prepares it now finds it as it is, also where it has not been prepared before.
        let occupied = place.occupy().await;
        let mut fresh = place.gateway.client().await;
        prepare(&mut fresh, "s", text).await;
        assert!(outcome(&mut fresh, "s").await.starts_with('x'), "{change}");
        drop(occupied);
        place.gateway.settle().await;
        // Who has prepared it before hears that it has changed, again and again.
        assert_eq!(outcome(&mut truth, "s").await, "0A000EZI", "{change}");
        for _ in 0..2 {
            let found = outcomes(&place, &mut client, "s").await;
            assert_eq!(found, ["0A000EZI", "0A000EZI"], "{change}");
        }
        for client in [&mut truth, &mut client] {
            client
                .send(&[named(b'C', b'S', "s"), sync()].concat())
                .await;
            client.unit().await;
            prepare(client, "s", text).await;
            assert!(outcome(client, "s").await.starts_with('x'), "{change}");
        }
        let found = outcomes(&place, &mut client, "s").await;
        assert!(found.iter().all(|row| row.starts_with('x')), "{change}");
    }
    place.close().await;
}
