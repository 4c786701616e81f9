//! Scripts that keep the server busy, and those whom they hold up.

use super::{alone::Alone, *};

const ROUNDS: usize = 20;
/// Keeps the server busy for 600 ms.
const BUSY: &str = "local t = redis.call('TIME') local b = t[1] * 1000000 + t[2] \
    repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] - b > 600000 return 1";

#[tokio::test(flavor = "multi_thread")]
async fn clients_go_on_with_the_only_upstream_once_a_script_has_let_go_of_it() {
    let Some(alone) = Alone::start().await else {
        return;
    };
    let mut limits = LimitDefaults::default();
    limits.redis.upstream_max = 1;
    let gateway = Gateway::within(&limits, &alone.url, &alone.url, "script-one").await;
    let mut others = Vec::new();
    for _ in 0..20 {
        let mut other = gateway.client(Role::Write).await;
        other.send(&["GET", "polypool:script"]).await;
        other.expect("$-1\r\n").await;
        others.push(other);
    }
    let mut busy = gateway.client(Role::Write).await;
    busy.send(&["EVAL", BUSY, "0"]).await;
    // At all times of it: before and after it has been noticed that the script takes long.
    for other in &mut others {
        other.send(&["GET", "polypool:script"]).await;
        sleep(Duration::from_millis(20)).await;
    }
    busy.expect(":1\r\n").await;
    for other in &mut others {
        other.expect("$-1\r\n").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_database_is_selected_while_a_script_keeps_the_server_busy() {
    let Some(alone) = Alone::start().await else {
        return;
    };
    let gateway = Gateway::before(&alone.url, &alone.url, "script-select").await;
    // More databases than there are upstreams to share, so that some share one.
    let mut clients = Vec::new();
    for database in 0..12_u32 {
        let mut client = gateway.client(Role::Write).await;
        client.send(&["SELECT", &database.to_string()]).await;
        client.expect("+OK\r\n").await;
        client
            .send(&["SET", "polypool:at", &database.to_string()])
            .await;
        client.expect("+OK\r\n").await;
        clients.push((database, client));
    }
    let mut direct = gateway.direct().await;
    direct
        .send(&["CONFIG", "SET", "busy-reply-threshold", "100"])
        .await;
    direct.expect("+OK\r\n").await;
    // On another upstream than that which the databases share.
    let mut busy = gateway.client(Role::Write).await;
    busy.send(&["SELECT", "1"]).await;
    busy.expect("+OK\r\n").await;
    busy.send(&["EVAL", BUSY, "0"]).await;
    for _ in 0..ROUNDS {
        for (database, client) in &mut clients {
            client
                .send(&["SET", "polypool:at", &database.to_string()])
                .await;
            client.send(&["GET", "polypool:at"]).await;
        }
        sleep(Duration::from_millis(20)).await;
    }
    busy.expect(":1\r\n").await;
    for (database, client) in &mut clients {
        for _ in 0..ROUNDS {
            let set = client.line().await;
            let got = client.line().await;
            let is_busy = |line: &str| line.starts_with("-BUSY ");
            assert!(set == "+OK" || is_busy(&set), "{database}: {set}");
            if got == "$1" || got == "$2" {
                assert_eq!(client.line().await, database.to_string());
            } else {
                assert!(is_busy(&got), "{database}: {got}");
            }
        }
    }
}
