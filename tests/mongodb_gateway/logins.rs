//! Ways to log in besides the usual one, on both sides.

use polypool::auth::scram::Mechanism;

use super::{Document, Rig, Role, Secret, Wire, mongodb, number, pool, rawdoc};

/// The digest that `SCRAM-SHA-1` proves.
fn digest(user: &str, password: &str) -> Secret {
    use md5::{Digest, Md5};
    let digest = Md5::digest(format!("{user}:mongo:{password}"));
    let hex: Vec<_> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Secret::from(hex.concat())
}

/// User and password of a connection string, as written there.
fn own(url: &str) -> (String, String) {
    let url = url::Url::parse(url).unwrap();
    (
        url.username().to_owned(),
        url.password().unwrap().to_owned(),
    )
}

#[tokio::test]
async fn upstream_users_that_have_sha_1_only_are_logged_in() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let url = std::env::var("POLYPOOL_TEST_MONGODB_URL").unwrap();
    let (user, password) = own(&url);
    let mut admin = rig.login(Role::Admin).await;
    let old = format!("old-{}", uuid::Uuid::new_v4().simple());
    let create = rawdoc! {
        "createUser": old.as_str(), "pwd": "p=w,d", "roles": [{ "role": "readWrite", "db": "app" }],
        "mechanisms": ["SCRAM-SHA-1"], "$db": "admin",
    };
    let created = admin.ask(&create).await;
    assert_eq!(number(&created, "ok"), 1, "{created}");
    let url = url.replace(&format!("{user}:{password}@"), &format!("{old}:p%3Dw%2Cd@"));
    for (options, served) in [
        ("", true),
        ("&authMechanism=SCRAM-SHA-1", true),
        ("&authMechanism=SCRAM-SHA-256", false),
    ] {
        let through = Rig::start_for(format!("{url}{options}")).await;
        let mut wire = through.login(Role::Write).await;
        let found = wire.ask(&rawdoc! { "find": "none", "$db": "app" }).await;
        assert_eq!(number(&found, "ok") == 1, served, "{options}: {found}");
        through.end().await;
    }
    let drop = rawdoc! { "dropUser": old.as_str(), "$db": "admin" };
    assert_eq!(number(&admin.ask(&drop).await, "ok"), 1);
    rig.end().await;
}

#[tokio::test]
async fn sha_1_is_for_the_upstreams_own_user_and_only_where_switched_on() {
    if Rig::start().await.is_none() {
        return;
    }
    let url = std::env::var("POLYPOOL_TEST_MONGODB_URL").unwrap();
    let (user, password) = own(&url);
    let password = percent_encoding::percent_decode_str(&password).decode_utf8();
    let password = password.unwrap().into_owned();
    let login = format!("{user}.docs");
    let own = digest(&login, &password);
    for switched_on in [false, true] {
        let settings = mongodb::Settings {
            scram_sha_1: switched_on,
            ..mongodb::Settings::default()
        };
        let rig = Rig::start_with(url.clone(), settings, pool::Settings::default()).await;
        let mut wire = rig.connect().await;
        let asked = rawdoc! { "hello": 1, "saslSupportedMechs": "admin.nobody", "$db": "admin" };
        let offered = wire.ask(&asked).await;
        let offered = offered.get_array("saslSupportedMechs").unwrap();
        assert_eq!(offered.len(), 1 + usize::from(switched_on));
        let refusal = if switched_on { 18 } else { 334 };
        let by = async |wire: &mut Wire, user: &str, secret: &Secret| -> Document {
            wire.login_by(Mechanism::Sha1, user, secret).await
        };
        let answer = by(&mut wire, &login, &own).await;
        if switched_on {
            assert_eq!(number(&answer, "ok"), 1, "{answer}");
            let found = wire.ask(&rawdoc! { "find": "none", "$db": "app" }).await;
            assert_eq!(number(&found, "ok"), 1, "{found}");
        } else {
            assert_eq!(number(&answer, "code"), refusal);
        }
        // An issued credential's password is not kept, so there is nothing that it could fit.
        let (_, issued) = &rig.passwords[0];
        for (user, secret) in [
            ("read.docs", digest("read.docs", issued.expose())),
            ("nobody.docs", digest("nobody.docs", "x")),
            (login.as_str(), digest(&login, "wrong")),
        ] {
            let mut wire = rig.connect().await;
            let answer = by(&mut wire, user, &secret).await;
            assert_eq!(number(&answer, "code"), refusal, "{user}: {answer}");
        }
        rig.end().await;
    }
}
