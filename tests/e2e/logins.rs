//! One rule for three protocols: who gets in, and that the refusals tell nothing.

use crate::support::{
    Gateway, Servers, mongodb_begin_login, mongodb_finish_login, mongodb_login, postgres_login,
    postgres_query, redis_login,
};

fn rejects(gateway: &Gateway, user: &str, password: &str) {
    assert_eq!(
        postgres_login(gateway.postgres, user, "main", password)
            .err()
            .unwrap(),
        "28P01"
    );
    let redis = redis_login(gateway.redis, user, password).err().unwrap();
    assert_eq!(
        redis,
        "-WRONGPASS invalid username-password pair or user is disabled."
    );
    assert_eq!(
        mongodb_login(gateway.mongodb, user, password)
            .err()
            .unwrap(),
        18
    );
}

#[test]
fn one_credential_serves_three_protocols_and_wrong_ones_are_all_alike() {
    let Some(servers) = Servers::find() else {
        return;
    };
    let gateway = Gateway::start();
    let main = gateway.add(&servers.postgres, "main");
    gateway.add(&servers.redis, "cache");
    gateway.add(&servers.mongodb, "docs");
    let (user, password) = gateway.credential("write");
    assert_eq!(user, "write.demo");

    let mut raw = postgres_login(gateway.postgres, &user, "main", &password).unwrap();
    assert_eq!(postgres_query(&mut raw, "select 1").unwrap().len(), 1);
    let mut raw = redis_login(gateway.redis, &user, &password).unwrap();
    raw.send(b"PING\r\n");
    assert_eq!(raw.line(), "+PONG");
    mongodb_login(gateway.mongodb, &user, &password).unwrap();

    rejects(&gateway, &user, "wrong");
    rejects(&gateway, "nobody.demo", &password);
    rejects(&gateway, "write.nowhere", &password);

    let slug = main["slug"].as_str().unwrap();
    let own = format!("app.{slug}");
    let target = polypool::tenant::Target::parse(&servers.postgres).unwrap();
    let (password, database) = (target.password.unwrap(), target.database.unwrap());
    postgres_login(gateway.postgres, &own, &database, password.expose()).unwrap();
    // The slug names one database, so another's name is a signal that disagrees.
    let refused = postgres_login(gateway.postgres, &own, "anything", password.expose());
    assert_eq!(refused.err().unwrap(), "3D000");
}

#[test]
fn redis_takes_an_issued_password_alone() {
    let Some(servers) = Servers::find() else {
        return;
    };
    let gateway = Gateway::start();
    let added = gateway.add(&servers.redis, "cache");
    let password = added["password"].as_str().unwrap();
    let mut raw = crate::support::Raw::connect(gateway.redis);
    raw.send(&crate::support::redis_command(&["AUTH", password]));
    assert_eq!(raw.line(), "+OK");
}

#[test]
fn ambiguous_project_is_told_to_a_proven_login_only() {
    let Some(servers) = Servers::find() else {
        return;
    };
    let gateway = Gateway::start();
    gateway.add(&servers.redis, "first");
    gateway.add(&servers.redis.replace("/0", "/1"), "second");
    let (user, password) = gateway.credential("read");
    let told = redis_login(gateway.redis, &user, &password).err().unwrap();
    assert!(told.contains("first") && told.contains("second"), "{told}");
    let told = redis_login(gateway.redis, &user, "wrong").err().unwrap();
    assert!(
        told.starts_with("-WRONGPASS") && !told.contains("first"),
        "{told}"
    );
}

#[test]
fn add_says_which_step_failed() {
    let Some(_) = Servers::find() else { return };
    let gateway = Gateway::start();
    let failing = [
        ("redis://no-such-name.invalid/0", "name"),
        ("redis://127.0.0.1:1/0", "connect"),
        ("nonsense", "scheme"),
    ];
    for (url, step) in failing {
        let (fine, _, text) = gateway.cli(&["add", url, "--project", "demo", "--name", "x"]);
        assert!(!fine && text.contains(step), "{url}: {text}");
    }
}

#[test]
fn wrong_upstream_password_fails_at_login() {
    let Some(servers) = Servers::find() else {
        return;
    };
    let gateway = Gateway::start();
    for url in [&servers.postgres, &servers.redis, &servers.mongodb] {
        let target = polypool::tenant::Target::parse(url).unwrap();
        let user = target.user.clone().unwrap_or_default();
        let wrong = format!(
            "{}://{user}:wrong@{}",
            target.scheme,
            target.endpoint().unwrap()
        );
        let (fine, _, text) = gateway.cli(&["add", &wrong, "--project", "demo", "--name", "x"]);
        assert!(!fine && text.contains("login"), "{wrong}: {text}");
    }
}

/// Issues a credential of project `demo`; its id, user and password.
fn issue(gateway: &Gateway, user: &str) -> (String, String, String) {
    let arguments = [
        "credential",
        "issue",
        "--project",
        "demo",
        "--user",
        user,
        "--role",
        "write",
    ];
    let (fine, value, text) = gateway.cli(&arguments);
    assert!(fine, "{text}");
    let part = |key: &str| {
        value[key]
            .as_str()
            .unwrap_or_else(|| panic!("{key}: {text}"))
            .to_owned()
    };
    (part("id"), part("username"), part("password"))
}

#[test]
fn revoked_credential_ends_its_sessions_and_logins_under_way() {
    let Some(servers) = Servers::find() else {
        return;
    };
    let gateway = Gateway::start();
    gateway.add(&servers.redis, "cache");
    gateway.add(&servers.mongodb, "docs");
    let (id, user, password) = issue(&gateway, "leaver");
    let mut seated = redis_login(gateway.redis, &user, &password).unwrap();
    let (mut late, finish) = mongodb_begin_login(gateway.mongodb, &user, &password).unwrap();

    let (fine, _, text) = gateway.cli(&["credential", "revoke", &id]);
    assert!(fine, "{text}");
    seated.rest();
    assert_eq!(mongodb_finish_login(&mut late, &finish).err().unwrap(), 18);
}

#[test]
fn removed_database_ends_its_clients() {
    let Some(servers) = Servers::find() else {
        return;
    };
    let gateway = Gateway::start();
    gateway.add(&servers.redis, "cache");
    let (_, user, password) = issue(&gateway, "stayer");
    let mut seated = redis_login(gateway.redis, &user, &password).unwrap();
    let (fine, _, text) = gateway.cli(&["remove", "cache"]);
    assert!(fine, "{text}");
    seated.rest();
    assert!(
        redis_login(gateway.redis, &user, &password)
            .err()
            .unwrap()
            .starts_with("-WRONGPASS")
    );
}
