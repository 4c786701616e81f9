//! The CLIENT family: what a tenant's clients see of each other, and do to each other.

use super::*;

#[tokio::test]
async fn clients_see_each_other_as_they_are() {
    let Some(gateway) = Gateway::start("kin").await else {
        return;
    };
    let mut viewer = gateway.client(Role::Write).await;
    let mut queueing = gateway.client(Role::Write).await;
    let mut waiting = gateway.client(Role::Write).await;
    let mut hearing = gateway.client(Role::Write).await;
    queueing.send(&["SELECT", "3"]).await;
    queueing.send(&["MULTI"]).await;
    queueing.send(&["GET", "a"]).await;
    queueing.expect("+OK\r\n+OK\r\n+QUEUED\r\n").await;
    hearing
        .send(&["CLIENT", "SETINFO", "lib-name", "testing"])
        .await;
    hearing.send(&["SUBSCRIBE", "kin"]).await;
    hearing
        .expect("+OK\r\n*3\r\n$9\r\nsubscribe\r\n$3\r\nkin\r\n:1\r\n")
        .await;
    hearing.send(&["PSUBSCRIBE", "k*"]).await;
    hearing
        .expect("*3\r\n$10\r\npsubscribe\r\n$2\r\nk*\r\n:2\r\n")
        .await;
    let number = id(&mut waiting).await;
    waiting.send(&["BLPOP", "kin-q", "0"]).await;
    for wanted in [
        &[" db=3 ", " multi=1 ", " flags=x ", " cmd=get "][..],
        &[" flags=b ", " cmd=blpop "],
        &[" flags=P ", " sub=1 psub=1 ", " lib-name=testing "],
        &[" flags=N ", " cmd=client|list ", " resp=2"],
    ] {
        until(async || {
            let list = viewer.ask(&["CLIENT", "LIST"]).await;
            list.lines()
                .any(|line| wanted.iter().all(|field| line.contains(field)))
        })
        .await;
    }
    let one = viewer.ask(&["CLIENT", "LIST", "ID", &number]).await;
    assert!(
        one.starts_with(&format!("id={number} ")) && one.lines().count() == 1,
        "{one}"
    );
    let pubsub = viewer.ask(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    assert_eq!(pubsub.lines().count(), 1, "{pubsub}");
    viewer.send(&["CLIENT", "KILL", "TYPE", "nonsense"]).await;
    viewer
        .expect("-ERR Unknown client type 'nonsense'\r\n")
        .await;
    viewer
        .send(&["CLIENT", "KILL", "TYPE", "pubsub", "USER", "nobody"])
        .await;
    viewer.expect(":0\r\n").await;
    viewer.send(&["CLIENT", "KILL", "ID", "0"]).await;
    viewer
        .expect("-ERR client-id should be greater than 0\r\n")
        .await;
    viewer.send(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    viewer.expect(":1\r\n").await;
    assert!(hearing.is_closed().await);
    viewer
        .send(&["CLIENT", "KILL", "ID", &number, "MAXAGE", "1000"])
        .await;
    viewer.expect(":0\r\n").await;
    viewer.send(&["CLIENT", "KILL", "ID", &number]).await;
    viewer.expect(":1\r\n").await;
    assert!(waiting.is_closed().await);
}

#[tokio::test]
async fn waiting_for_replicas_counts_those_that_there_are() {
    let Some(gateway) = Gateway::start("wait").await else {
        return;
    };
    let mut client = gateway.client(Role::Write).await;
    // Without a replica nothing is acknowledged, and the time is kept.
    client.send(&["SET", "wait-k", "v"]).await;
    client.send(&["WAIT", "0", "0"]).await;
    client.send(&["PING"]).await;
    client.expect("+OK\r\n:0\r\n+PONG\r\n").await;
    let began = Instant::now();
    client.send(&["WAIT", "1", "100"]).await;
    client.expect(":0\r\n").await;
    assert!(began.elapsed() >= Duration::from_millis(95));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_for_much_and_reads_it_later_has_all_of_it() {
    const READS: usize = 100;
    const VALUE_BYTES: usize = 1024 * 1024;
    let Some(gateway) = Gateway::start("much").await else {
        return;
    };
    let mut reader = gateway.client(Role::Write).await;
    let mut other = gateway.client(Role::Read).await;
    let value = "x".repeat(VALUE_BYTES);
    reader.send(&["SET", "much", &value]).await;
    reader.expect("+OK\r\n").await;
    let asked = command(&["GET", "much"]).repeat(READS);
    reader.stream.write_all(&asked).await.unwrap();
    // On the same trunk: answered after what is under way for the reader.
    for _ in 0..10 {
        other.send(&["EXISTS", "much"]).await;
        other.expect(":1\r\n").await;
    }
    let reply = format!("${VALUE_BYTES}\r\n{value}\r\n");
    for _ in 0..READS {
        reader.expect(&reply).await;
    }
}
