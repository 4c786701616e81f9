//! A password put into a connection string appears nowhere.

use std::fs;

use crate::support::{Gateway, Raw, Relay, Servers, redis_command, redis_login};

#[test]
fn upstream_password_is_in_no_log_error_metric_answer_or_file() {
    let Some(servers) = Servers::find() else {
        return;
    };
    let gateway = Gateway::start();
    let target = polypool::tenant::Target::parse(&servers.redis).unwrap();
    let to = target.endpoint().unwrap().to_string();
    // The canary is a user of the real server, so that it is also used, not only stored.
    let canary = "canary7Qz9secret";
    let admin = target.password.unwrap();
    let mut direct = Raw::connect(to.parse().unwrap());
    direct.send(&redis_command(&["AUTH", admin.expose()]));
    assert_eq!(direct.line(), "+OK");
    let rule = format!(">{canary}");
    direct.send(&redis_command(&[
        "ACL", "SETUSER", "bird", "on", &rule, "~*", "&*", "+@all",
    ]));
    assert_eq!(direct.line(), "+OK");

    let relay = Relay::start(to);
    let added = gateway.add(
        &format!("redis://bird:{canary}@{}/0", relay.address),
        "cage",
    );
    let (user, password) = gateway.credential("admin");
    let mut raw = redis_login(gateway.redis, &user, &password).unwrap();
    raw.send(&redis_command(&["SET", "canary", "1"]));
    assert_eq!(raw.line(), "+OK");
    redis_login(
        gateway.redis,
        &format!("bird.{}", added["slug"].as_str().unwrap()),
        canary,
    )
    .unwrap();

    // Errors of every step, with the canary at hand.
    relay.cut();
    raw.send(&redis_command(&["GET", "canary"]));
    let mut told = vec![raw.line()];
    let (_, _, text) = gateway.cli(&["test", "cage"]);
    told.push(text);
    let broken = format!("redis://bird:{canary}@127.0.0.1:1/0");
    let (_, _, text) = gateway.cli(&["add", &broken, "--project", "demo", "--name", "broken"]);
    told.push(text);
    let (_, _, text) = gateway.cli(&["list"]);
    told.push(text);
    let (_, _, text) = gateway.cli(&["show", "cage"]);
    told.push(text);
    let token = gateway.token();
    for path in [
        "/metrics",
        "/api/platform/databases",
        "/api/platform/stats",
        "/readyz",
    ] {
        told.push(gateway.get_as(path, &token).unwrap());
    }
    told.push(gateway.log());
    for text in &told {
        assert!(!text.contains(canary), "{text}");
    }
    let log = gateway.log();
    assert!(log.len() > 1000, "the log was looked at: {log}");
    for path in gateway.files() {
        let bytes = fs::read(&path).unwrap();
        let found = bytes
            .windows(canary.len())
            .any(|window| window == canary.as_bytes());
        assert!(!found, "{} has the canary", path.display());
    }
    direct.send(&redis_command(&["ACL", "DELUSER", "bird"]));
    assert_eq!(direct.line(), ":1");
}
