//! Statements that others have prepared: a client that prepares them too is told what the server would
//! tell it.

use std::time::Duration;

use polypool::postgres::Settings;

use crate::{
    gateway::{Place, account, server_url},
    wire::{Client, bind, bind_binary, execute, named, parse, query, run, sync},
};

const INSERT: &str = "insert into t values ($1)";

fn unit(messages: &[Vec<u8>]) -> Vec<u8> {
    [messages.concat(), sync()].concat()
}

/// A place, and a client of its server's that owns the table.
async fn place(name: &str, upstreams: u32, settings: Settings) -> Option<(Place, Client)> {
    let place = Place::open_as(name, upstreams, settings).await?;
    let direct = account(&server_url().unwrap(), &place.database.name);
    let mut owner = Client::log_in(&direct, &[]).await.unwrap();
    owner.must("create table t (a int)").await;
    Some((place, owner))
}

/// Prepares a statement under a name, which must go well.
async fn prepare(client: &mut Client, text: &str) {
    client.send(&unit(&[parse("s", text)])).await;
    assert_eq!(client.unit().await.0, "1ZI", "{text}");
}

#[tokio::test]
async fn in_a_failed_transaction_nothing_is_prepared() {
    let Some((place, _)) = place("failed_parse", 1, Settings::default()).await else {
        return;
    };
    prepare(&mut place.gateway.client().await, "select 1").await;
    let mut client = place.gateway.client().await;
    client.must("begin").await;
    assert_eq!(client.query("select 1/0").await.0, "22012EZE");
    let texts = [parse("s", "select 1"), bind("", "s", &[]), execute("", 0)];
    client.send(&unit(&texts[..1])).await;
    assert_eq!(client.unit().await.0, "25P02EZE");
    client.must("rollback").await;
    // Sent before it is known that the transaction has failed.
    let all = [query("begin"), query("select 1/0"), unit(&texts)].concat();
    client.send(&all).await;
    for seen in ["CZT", "22012EZE", "25P02EZE"] {
        assert_eq!(client.unit().await.0, seen);
    }
    client.must("rollback").await;
    client.send(&unit(&texts)).await;
    assert_eq!(client.unit().await, ("12DCZI".into(), vec!["1".into()]));
    place.close().await;
}

#[tokio::test]
async fn definitions_changed_past_the_gateway_are_noticed_in_time() {
    let settings = Settings {
        routines_fresh_for: Duration::from_millis(200),
        ..Settings::default()
    };
    let aged = Duration::from_millis(300);
    let Some((place, mut owner)) = place("aged", 1, settings).await else {
        return;
    };
    let mut first = place.gateway.client().await;
    prepare(&mut first, INSERT).await;
    owner.must("alter table t alter a type bigint").await;
    tokio::time::sleep(aged).await;
    let large = (1_i64 << 40).to_be_bytes();
    let mut second = place.gateway.client().await;
    let bound = bind_binary("", "s", &[&large]);
    let at_once = [parse("s", INSERT), bound.clone(), execute("", 0)];
    second.send(&unit(&at_once)).await;
    assert_eq!(second.unit().await.0, "12CZI");
    second.send(&unit(&[bound, execute("", 0)])).await;
    assert_eq!(second.unit().await.0, "2CZI");
    // Whoever has prepared it before keeps what it was told, as directly.
    let small = bind_binary("", "s", &[&7_i32.to_be_bytes()]);
    first.send(&unit(&[small, execute("", 0)])).await;
    assert_eq!(first.unit().await.0, "2CZI");
    let rows = first.must("select a from t order by a").await;
    assert_eq!(rows, ["7", "1099511627776", "1099511627776"]);
    owner.must("drop table t").await;
    tokio::time::sleep(aged).await;
    let mut third = place.gateway.client().await;
    third.send(&unit(&[parse("s", INSERT)])).await;
    assert_eq!(third.unit().await.0, "42P01EZI");
    third.send(&unit(&[named(b'D', b'S', "s")])).await;
    assert_eq!(third.unit().await.0, "26000EZI");
    place.close().await;
}

#[tokio::test]
async fn what_is_defined_in_a_pipeline_counts_when_it_is_done() {
    let Some((place, _)) = place("defined", 2, Settings::default()).await else {
        return;
    };
    let all = "select * from t";
    let mut definer = place.gateway.client().await;
    let run_all = |texts: &[&str]| {
        let runs = texts.iter();
        let runs = runs.flat_map(|text| [parse("", text), bind("", "", &[]), execute("", 0)]);
        unit(&runs.collect::<Vec<_>>())
    };
    let define = ["select pg_sleep(0.5)", "alter table t add column b int"];
    let first = run_all(&["select 1"]);
    definer.send(&[first, run_all(&define)].concat()).await;
    assert_eq!(definer.unit().await.0, "12DCZI");
    let mut before = place.gateway.client().await;
    prepare(&mut before, all).await;
    assert_eq!(definer.unit().await.0, "12DC12CZI");
    // Where it was prepared before.
    let occupied = place.occupy().await;
    let mut after = place.gateway.client().await;
    let units = [unit(&[parse("s", all)]), run("s")].concat();
    after.send(&units).await;
    assert_eq!(after.unit().await.0, "1ZI");
    assert_eq!(after.unit().await.0, "2CZI");
    drop(occupied);
    place.close().await;
}
