//! LISTEN in transaction mode: heard by one upstream for all clients, as if by each client's own.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    gateway::{Database, Gateway, account, server_url, superuser},
    wire::{Account, Client, Message, bind, execute, parse, query, sync},
};

/// How long what must not come is waited for.
const SILENCE: Duration = Duration::from_millis(200);

/// A gateway with so many upstreams to a database of its own.
struct Place {
    gateway: Gateway,
    database: Database,
    direct: Account,
}

impl Place {
    async fn open(name: &str, upstreams: u32) -> Option<Self> {
        let url = server_url()?;
        let database = Database::create(format!("{name}_{}", std::process::id())).await;
        let gateway = Gateway::start(&url, &database.name, upstreams).await;
        let direct = account(&url, &database.name);
        Some(Self {
            gateway,
            database,
            direct,
        })
    }

    async fn client(&self) -> Client {
        self.gateway.client().await
    }

    async fn direct(&self) -> Client {
        Client::log_in(&self.direct, &[]).await.unwrap()
    }

    /// Upstreams in use: of the pool, and beside it.
    fn leased(&self) -> (usize, usize) {
        let mut leased = (0, 0);
        for stats in self.gateway.service.fleet().snapshot() {
            match stats.server.as_deref() {
                None => leased.0 += stats.leased,
                Some(_) => leased.1 += stats.leased,
            }
        }
        leased
    }

    /// Waits until no client has an upstream, and clients hear by one or by none.
    async fn shared(&self, listeners: usize) {
        for _ in 0..100 {
            if self.leased() == (0, listeners) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("in use: {:?}", self.leased());
    }

    async fn close(self) {
        drop(self.gateway);
        self.database.drop().await;
    }
}

/// Process, channel and payload.
fn notification(message: &Message) -> (u32, String, String) {
    assert_eq!(message.tag, b'A', "{message:?}");
    let process = u32::from_be_bytes(message.body[..4].try_into().unwrap());
    let mut texts = message.body[4..].split(|byte| *byte == 0);
    let mut text = || String::from_utf8(texts.next().unwrap().to_vec()).unwrap();
    (process, text(), text())
}

/// The next notification: channel and payload.
async fn heard(client: &mut Client) -> (String, String) {
    let (_, channel, payload) = notification(&client.read().await);
    (channel, payload)
}

/// Nothing comes, and nothing is on its way.
async fn hears_nothing(client: &mut Client) {
    assert!(timeout(SILENCE, client.next()).await.is_err());
    assert_eq!(client.query("select 1").await.0, "TDCZI");
}

#[tokio::test]
async fn many_clients_listen_by_one_upstream() {
    let Some(place) = Place::open("listen_many", 2).await else {
        return;
    };
    let mut clients = Vec::new();
    for number in 0..20 {
        let mut client = place.client().await;
        client.must(&format!("listen \"C {}\"", number % 4)).await;
        clients.push(client);
    }
    place.shared(1).await;
    let mut other = place.client().await;
    for channel in 0..4 {
        other
            .must(&format!("notify \"C {channel}\", 'x{channel}'"))
            .await;
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let expected = (format!("C {}", number % 4), format!("x{}", number % 4));
        assert_eq!(heard(client).await, expected);
    }
    for client in &mut clients {
        assert_eq!(client.query("select 1").await.0, "TDCZI");
    }
    drop(clients);
    place.shared(0).await;
    place.close().await;
}

#[tokio::test]
async fn a_transaction_decides_what_is_listened_to() {
    let Some(place) = Place::open("listen_commit", 2).await else {
        return;
    };
    let mut other = place.direct().await;
    for mut client in [place.direct().await, place.client().await] {
        client.must("begin").await;
        client.must("listen a").await;
        other.must("notify a, 'before the commit'").await;
        client.must("rollback").await;
        other.must("notify a, 'rolled back'").await;
        hears_nothing(&mut client).await;

        client.must("begin; savepoint s; listen b").await;
        client.must("rollback to s; listen c").await;
        other.must("notify c, 'too early'").await;
        client.must("commit").await;
        other.must("notify b, 'rolled back to a savepoint'").await;
        other.must("notify c, 'heard'").await;
        assert_eq!(heard(&mut client).await, ("c".into(), "heard".into()));

        // Listening already, the list is changed in every way.
        assert_eq!(client.query("listen d; select 1/0").await.0, "C22012EZI");
        client.must("begin").await;
        client.must("unlisten c").await;
        client.must("listen e").await;
        client.must("rollback").await;
        client.must("begin; savepoint s").await;
        client.must("unlisten *").await;
        client.must("rollback to s").await;
        client.must("listen f").await;
        client.must("commit").await;
        for channel in ["d", "e", "f", "c"] {
            other.must(&format!("notify {channel}, 'x'")).await;
        }
        assert_eq!(heard(&mut client).await, ("f".into(), "x".into()));
        assert_eq!(heard(&mut client).await, ("c".into(), "x".into()));
        client
            .must("do $$ begin execute 'unlisten f'; execute 'listen g'; end $$")
            .await;
        for channel in ["f", "g"] {
            other.must(&format!("notify {channel}, 'y'")).await;
        }
        assert_eq!(heard(&mut client).await, ("g".into(), "y".into()));
        client.must("begin; unlisten c; listen h; commit").await;
        client.must("unlisten g").await;
        for channel in ["c", "g", "h"] {
            other.must(&format!("notify {channel}, 'z'")).await;
        }
        assert_eq!(heard(&mut client).await, ("h".into(), "z".into()));
        client.must("discard all").await;
        other.must("notify h, 'discarded'").await;
        hears_nothing(&mut client).await;
    }
    place.shared(0).await;
    place.close().await;
}

#[tokio::test]
async fn what_a_client_notifies_it_hears_before_its_unit_ends() {
    let Some(place) = Place::open("listen_self", 2).await else {
        return;
    };
    for (is_ours, mut client) in [(false, place.direct().await), (true, place.client().await)] {
        client.must("listen a").await;
        if is_ours {
            place.shared(1).await;
        }
        for text in [
            "notify a, 'x'",
            "select pg_notify('a', 'x') is null",
            "begin; notify a, 'x'; commit",
            "do $$ begin perform pg_notify('a', 'x'); end $$",
        ] {
            client.send(&query(text)).await;
            let mut last = Vec::new();
            loop {
                let message = client.read().await;
                let ends = message.tag == b'Z';
                last.push(message);
                if ends {
                    break;
                }
            }
            let [.., complete, own, _] = &last[..] else {
                panic!("{text}: {last:?}");
            };
            assert_eq!(complete.tag, b'C', "{text}");
            let expected = (client.key.0, "a".to_owned(), "x".to_owned());
            assert_eq!(notification(own), expected, "{text}");
        }
        // Listening and notifying in one transaction.
        client.must("begin; listen b; notify b, 'x'").await;
        assert_eq!(client.query("commit").await.0, "CAZI");
        // By the extended protocol, alone and in a pipeline.
        let notify = [parse("", "notify a"), bind("", "", &[]), execute("", 0)].concat();
        client.send(&[&notify[..], &notify, &sync()].concat()).await;
        assert_eq!(client.unit().await.0, "12C12CAZI");
        let unlisten = [parse("", "unlisten a"), bind("", "", &[]), execute("", 0)].concat();
        client
            .send(&[&unlisten[..], &sync(), &notify, &sync()].concat())
            .await;
        assert_eq!(client.unit().await.0, "12CZI");
        assert_eq!(client.unit().await.0, "12CZI");
        client.must("unlisten *").await;
    }
    place.shared(0).await;
    place.close().await;
}

#[tokio::test]
async fn notifications_wait_for_the_end_of_a_transaction() {
    let Some(place) = Place::open("listen_wait", 2).await else {
        return;
    };
    let mut other = place.direct().await;
    for mut client in [place.direct().await, place.client().await] {
        client.must("listen a").await;
        client.must("begin").await;
        other.must("notify a, '1'").await;
        assert_eq!(client.query("select 1").await.0, "TDCZT");
        assert!(timeout(SILENCE, client.next()).await.is_err());
        assert_eq!(client.query("selec").await.0, "42601EZE");
        assert_eq!(client.query("rollback").await.0, "CAZI");
        // What was notified before a unit is heard at its end at the latest.
        for _ in 0..50 {
            other.must("notify a, '2'").await;
            client.send(&query("select 1")).await;
            let mut types = client.unit().await.0;
            if let Some(rest) = types.strip_prefix('A') {
                types = format!("{}AZI", rest.trim_end_matches("ZI"));
            }
            assert_eq!(types, "TDCAZI");
        }
    }
    place.close().await;
}

#[tokio::test]
async fn a_notification_names_the_client_that_sent_it() {
    let Some(place) = Place::open("listen_who", 1).await else {
        return;
    };
    let (mut client, mut other) = (place.client().await, place.client().await);
    client.must("listen a").await;
    place.shared(1).await;
    for _ in 0..20 {
        other.must("notify a, 'other'").await;
        let from = |key: (u32, u32), what: &str| (key.0, "a".to_owned(), what.to_owned());
        let first = notification(&client.read().await);
        assert_eq!(first, from(other.key, "other"));
        client.must("begin; notify a, 'own'").await;
        client.send(&query("commit")).await;
        assert_eq!(client.read().await.tag, b'C');
        assert_eq!(notification(&client.read().await), from(client.key, "own"));
        assert_eq!(client.unit().await.0, "ZI");
    }
    place.close().await;
}

#[tokio::test]
async fn the_list_of_channels_is_the_clients_own() {
    let Some(place) = Place::open("listen_list", 2).await else {
        return;
    };
    let list = "select pg_listening_channels() as name order by 1";
    let (mut client, mut other) = (place.client().await, place.client().await);
    client.must("listen a").await;
    client.must("listen \"B b\"").await;
    other.must("listen c").await;
    place.shared(1).await;
    assert_eq!(client.must(list).await, ["B b", "a"]);
    assert_eq!(other.must(list).await, ["c"]);
    client.must("begin").await;
    client.must("unlisten a").await;
    assert_eq!(client.must(list).await, ["B b", "a"]);
    client.must("commit").await;
    assert_eq!(client.must(list).await, ["B b"]);
    client
        .must("prepare p as select pg_listening_channels()")
        .await;
    assert_eq!(client.must("execute p").await, ["B b"]);
    place.shared(1).await;
    assert!(place.client().await.must(list).await.is_empty());
    place.close().await;
}

#[tokio::test]
async fn the_handover_loses_nothing_and_repeats_nothing() {
    let Some(place) = Place::open("listen_handover", 2).await else {
        return;
    };
    let mut other = place.direct().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let notifier = tokio::spawn(async move {
        let mut number = 0;
        while stopped.try_recv().is_err() {
            number += 1;
            other.must(&format!("notify a, '{number}'")).await;
        }
        number
    });
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = place.client().await;
        client.must("listen a").await;
        let next = heard(&mut client).await.1.parse::<u32>().unwrap() + 1;
        clients.push((client, next));
    }
    place.shared(1).await;
    stop.send(()).unwrap();
    let last: u32 = notifier.await.unwrap();
    for (mut client, first) in clients {
        for expected in first..=last {
            assert_eq!(heard(&mut client).await.1, expected.to_string());
        }
        hears_nothing(&mut client).await;
    }
    place.close().await;
}

#[tokio::test]
async fn whoever_listens_is_told_that_the_listener_was_lost() {
    let Some(place) = Place::open("listen_lost", 2).await else {
        return;
    };
    let (mut one, mut two, mut other) = (
        place.client().await,
        place.client().await,
        place.client().await,
    );
    one.must("listen a").await;
    two.must("listen b").await;
    place.shared(1).await;
    other.must("select 1").await;
    let end = format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity \
         where datname = '{}' and (query = '' or query like 'LISTEN%')",
        place.database.name
    );
    assert_eq!(superuser().await.must(&end).await, ["1"]);
    for client in [&mut one, &mut two] {
        let message = client.read().await;
        assert_eq!(
            (message.tag, crate::wire::code(&message.body).as_str()),
            (b'E', "57P01")
        );
        assert_eq!(client.next().await, None);
    }
    other.must("listen a").await;
    place.shared(1).await;
    other.must("notify a").await;
    place.close().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_ended_in_clear_words() {
    let Some(place) = Place::open("listen_slow", 2).await else {
        return;
    };
    let (mut slow, mut good) = (place.client().await, place.client().await);
    slow.must("listen a").await;
    good.must("listen b").await;
    place.shared(1).await;
    slow.must("begin").await;
    let text =
        "select count(pg_notify('a', repeat('x', 7900) || g)) from generate_series(1, 5000) g";
    good.must(text).await;
    let message = slow.read().await;
    assert_eq!(
        (message.tag, crate::wire::code(&message.body).as_str()),
        (b'E', "53400")
    );
    good.must("notify b").await;
    place.shared(1).await;
    place.close().await;
}

#[tokio::test]
async fn another_encoding_keeps_its_upstream() {
    let Some(place) = Place::open("listen_encoding", 2).await else {
        return;
    };
    let latin = [("client_encoding", "LATIN1")];
    let mut client = Client::log_in(&place.gateway.app, &latin).await.unwrap();
    client.must("listen a").await;
    client.must("select 1").await;
    assert_eq!(place.leased(), (1, 0));
    place.client().await.must("notify a, 'ä'").await;
    let message = client.read().await;
    assert!(message.body.ends_with(&[b'a', 0, 0xE4, 0]), "{message:?}");
    client.must("unlisten *").await;
    place.shared(0).await;
    place.close().await;
}

#[tokio::test]
async fn what_a_function_listens_to_is_nobody_elses() {
    let Some(place) = Place::open("listen_hidden", 1).await else {
        return;
    };
    let mut client = place.client().await;
    let hidden = "create or replace function hidden() returns void language plpgsql as ";
    client.must(&format!("{hidden} 'begin end'")).await;
    client.must("select hidden() is null").await;
    // What is done past the gateway is not known at once.
    let text = format!("{hidden} 'begin listen h; end'");
    place.direct().await.must(&text).await;
    client.must("select hidden() is null").await;
    let mut other = place.client().await;
    let (types, _) = other.query("notify h, 'x'").await;
    assert_eq!(types, "CZI");
    place.shared(0).await;
    assert!(
        other
            .must("select pg_listening_channels()")
            .await
            .is_empty()
    );
    // Where it is, the caller listens.
    client.must(&text).await;
    client.must("select hidden() is null").await;
    place.shared(1).await;
    other.must("notify h, 'y'").await;
    assert!(client.read().await.body.ends_with(b"h\0y\0"));
    place.close().await;
}
