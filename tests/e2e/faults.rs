//! Bad input and lost upstreams: the protocol's own answer, and the gateway goes on.

use bson::doc;

use crate::support::{
    Gateway, Raw, Relay, Servers, mongodb_login, mongodb_message, mongodb_run, postgres_login,
    postgres_query, postgres_startup, redis_command, redis_login,
};

fn endpoint(url: &str) -> String {
    polypool::tenant::Target::parse(url)
        .unwrap()
        .endpoint()
        .unwrap()
        .to_string()
}

/// The URL with a relay's address in place of the server's.
fn through(url: &str) -> (Relay, String) {
    let relay = Relay::start(endpoint(url));
    let url = url.replace(&endpoint(url), &relay.address.to_string());
    (relay, url)
}

#[test]
fn malformed_and_oversized_frames_end_that_client_only() {
    let Some(servers) = Servers::find() else {
        return;
    };
    let gateway = Gateway::start();
    gateway.add(&servers.redis, "cache");

    let redis: [(&[u8], &str); 4] = [
        (b"*1\r\n$-5\r\n", "invalid bulk length"),
        (b"*99\r\n", "unauthenticated multibulk length"),
        (b"*1\r\n$9999999\r\n", "unauthenticated bulk length"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
    ];
    for (bytes, expected) in redis {
        let mut raw = Raw::connect(gateway.redis);
        raw.send(bytes);
        let answer = String::from_utf8(raw.rest()).unwrap();
        assert!(
            answer.starts_with("-ERR Protocol error") && answer.contains(expected),
            "{answer}"
        );
    }

    let mut huge = 20_000_u32.to_be_bytes().to_vec();
    huge.extend(196_608_u32.to_be_bytes());
    let mut behind_ssl = vec![0, 0, 0, 8, 4, 210, 22, 47];
    behind_ssl.extend(postgres_startup("a.b", "c"));
    for bytes in [huge, vec![0, 0, 0, 3, 0, 0], vec![255; 64], behind_ssl] {
        let mut raw = Raw::connect(gateway.postgres);
        raw.send(&bytes);
        raw.rest();
    }

    for length in [8_i32, -1, i32::MAX, 60_000_000] {
        let mut raw = Raw::connect(gateway.mongodb);
        let mut bytes = mongodb_message(&doc! { "hello": 1, "$db": "admin" });
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        raw.send(&bytes);
        assert_eq!(raw.rest(), b"");
    }

    assert!(gateway.is_ready());
    let (user, password) = gateway.credential("write");
    let mut raw = redis_login(gateway.redis, &user, &password).unwrap();
    raw.send(b"PING\r\n");
    assert_eq!(raw.line(), "+PONG");
}

#[test]
fn lost_redis_is_told_in_order_and_found_again() {
    let Some(servers) = Servers::find() else {
        return;
    };
    let gateway = Gateway::start();
    let (relay, url) = through(&servers.redis);
    gateway.add(&url, "cache");
    let (user, password) = gateway.credential("write");
    let mut raw = redis_login(gateway.redis, &user, &password).unwrap();
    raw.send(&redis_command(&["SET", "lost", "1"]));
    assert_eq!(raw.line(), "+OK");

    relay.cut();
    let mut batch = redis_command(&["GET", "lost"]);
    batch.extend(redis_command(&["PING"]));
    batch.extend(redis_command(&["GET", "lost"]));
    raw.send(&batch);
    for expected in ["-ERR ", "+PONG", "-ERR "] {
        let line = raw.line();
        assert!(line.starts_with(expected), "{line}, not {expected}");
    }

    relay.mend();
    let found = (0..100).any(|_| {
        raw.send(&redis_command(&["EXISTS", "lost"]));
        let back = raw.line() == ":1";
        if !back {
            std::thread::park_timeout(std::time::Duration::from_millis(100));
        }
        back
    });
    assert!(found, "{}", gateway.log());
}

#[test]
fn lost_postgres_is_told_with_its_sqlstate_and_found_again() {
    let Some(servers) = Servers::find() else {
        return;
    };
    let gateway = Gateway::start();
    let (relay, url) = through(&servers.postgres);
    gateway.add(&url, "main");
    let (user, password) = gateway.credential("write");
    let mut raw = postgres_login(gateway.postgres, &user, "main", &password).unwrap();
    postgres_query(&mut raw, "select 1").unwrap();
    relay.cut();
    // Known clients hear it now; new ones at login.
    let code = loop {
        raw.postgres_send(b'Q', b"select 1\0");
        match raw.postgres_message() {
            (b'E', body) => break crate::support::postgres_code(&body),
            (b'Z', _) => {}
            _ => while raw.postgres_message().0 != b'Z' {},
        }
    };
    assert!(
        ["57P03", "08006", "57P01"].contains(&code.as_str()),
        "{code}"
    );
    relay.mend();
    let found = (0..100).any(|_| {
        let back = postgres_login(gateway.postgres, &user, "main", &password)
            .is_ok_and(|mut raw| postgres_query(&mut raw, "select 1").is_ok());
        if !back {
            std::thread::park_timeout(std::time::Duration::from_millis(100));
        }
        back
    });
    assert!(found, "{}", gateway.log());
}

#[test]
fn lost_mongodb_is_told_with_its_code_and_found_again() {
    let Some(servers) = Servers::find() else {
        return;
    };
    let gateway = Gateway::start();
    let (relay, url) = through(&servers.mongodb);
    gateway.add(&url, "docs");
    let (user, password) = gateway.credential("admin");
    let mut raw = mongodb_login(gateway.mongodb, &user, &password).unwrap();
    let find = doc! { "find": "lost", "$db": "app" };
    assert!(mongodb_run(&mut raw, &find).get_f64("ok").unwrap() > 0.5);
    relay.cut();
    let reply = mongodb_run(&mut raw, &find);
    assert!(reply.get_f64("ok").unwrap() < 0.5);
    assert_eq!(reply.get_i32("code").unwrap(), 6);
    relay.mend();
    let found = (0..100).any(|_| {
        let back = mongodb_run(&mut raw, &find)
            .get_f64("ok")
            .is_ok_and(|ok| ok > 0.5);
        if !back {
            std::thread::park_timeout(std::time::Duration::from_millis(100));
        }
        back
    });
    assert!(found, "{}", gateway.log());
}

#[test]
fn unregistered_project_and_empty_registry_are_plain_rejections() {
    let Some(_) = Servers::find() else { return };
    let gateway = Gateway::start();
    assert_eq!(
        postgres_login(gateway.postgres, "a.b", "c", "d")
            .err()
            .unwrap(),
        "28P01"
    );
    assert!(
        redis_login(gateway.redis, "a.b", "c")
            .err()
            .unwrap()
            .starts_with("-WRONGPASS")
    );
    assert_eq!(
        mongodb_login(gateway.mongodb, "a.b", "c").err().unwrap(),
        18
    );
    assert!(gateway.get("/metrics").is_ok());
}

#[test]
fn client_that_sends_much_before_it_reads_is_served() {
    let Some(servers) = Servers::find() else {
        return;
    };
    let gateway = Gateway::start();
    gateway.add(&servers.redis, "cache");
    let (user, password) = gateway.credential("write");
    let mut raw = redis_login(gateway.redis, &user, &password).unwrap();
    let value = "x".repeat(1024 * 1024);
    let mut batch = Vec::new();
    for _ in 0..24 {
        batch.extend(redis_command(&["SET", "much", &value]));
        batch.extend(redis_command(&["GET", "much"]));
    }
    // More than sockets hold: a gateway that waits for the client to read waits for ever.
    raw.send(&batch);
    for _ in 0..24 {
        assert_eq!(raw.line(), "+OK");
        assert_eq!(raw.line(), format!("${}", value.len()));
        assert!(raw.exactly(value.len() + 2).starts_with(b"xxx"));
    }
}
