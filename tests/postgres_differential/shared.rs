//! Statements that others have prepared: a client that prepares them too is told what the server would
//! tell it.

use crate::{
    gateway::Place,
    wire::{Client, bind, execute, parse, run, sync},
};

fn unit(messages: &[Vec<u8>]) -> Vec<u8> {
    [messages.concat(), sync()].concat()
}

/// Prepares a statement under a name, which must go well.
async fn prepare(client: &mut Client, text: &str) {
    client.send(&unit(&[parse("s", text)])).await;
    assert_eq!(client.unit().await.0, "1ZI", "{text}");
}

#[tokio::test]
async fn what_is_defined_in_a_pipeline_counts_when_it_is_done() {
    let Some(place) = Place::open("defined").await else {
        return;
    };
    let all = "select * from t";
    let mut definer = place.gateway.client().await;
    definer.must("create table t (a int)").await;
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
