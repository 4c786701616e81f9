//! The registry as a whole, on a file of its own.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use tempfile::TempDir;

use super::*;
use crate::{
    crypto::{Keyring, Secret},
    tenant::{DatabaseType, Role},
};

const KEY: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const CANARY: &str = "canary-7f3a";

fn vault() -> Vault {
    Vault::new(Keyring::parse(KEY).unwrap(), Passphrases::default(), false)
}

fn settings(data_dir: &Path) -> Settings {
    Settings {
        data_dir: data_dir.to_owned(),
        ..Settings::default()
    }
}

async fn open(data_dir: &Path) -> Registry {
    Registry::open(&settings(data_dir), vault(), LimitDefaults::default())
        .await
        .unwrap()
}

async fn registry() -> (TempDir, Registry) {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(&folder.path().join("data")).await;
    (folder, registry)
}

fn new(project: &str, name: &str, url: &str) -> NewDatabase {
    NewDatabase {
        project: NewProject {
            project_ref: project.to_owned(),
            name: None,
            organization: None,
        },
        name: Some(name.to_owned()),
        kind: None,
        connection_string: Secret::from(url.to_owned()),
        slug: None,
        traits: Traits::default(),
    }
}

async fn add(registry: &Registry, project: &str, name: &str, url: &str) -> DatabaseRow {
    registry
        .register(new(project, name, url), &Actor::local())
        .await
        .unwrap()
}

async fn issue(registry: &Registry, scope: Scope, user: &str, role: Role) -> Issued {
    let new = NewCredential {
        scope,
        user: user.to_owned(),
        role,
        expires_at: None,
    };
    registry.issue(new, &Actor::local()).await.unwrap()
}

async fn login(registry: &Registry, protocol: Protocol, user: &str, name: &str) -> Found {
    login_to(registry, protocol, user, name, None).await
}

async fn login_to(
    registry: &Registry,
    protocol: Protocol,
    user: &str,
    name: &str,
    database: Option<&str>,
) -> Found {
    let query = Query {
        protocol,
        address: Address::Login { user, name },
        database,
    };
    registry.resolve(&query).await.unwrap()
}

fn slug(found: &Found) -> Option<&str> {
    match &found.place {
        Place::One(tenant) => Some(&tenant.slug),
        Place::Nobody | Place::Several(_) => None,
    }
}

#[tokio::test]
async fn names_mean_a_slug_then_a_projects_database_then_its_only_one() {
    let (_folder, registry) = registry().await;
    add(&registry, "acme", "main", "postgres://u:p@h/db").await;
    add(&registry, "acme", "cache", "redis://:p@h").await;
    let by_slug = login(&registry, Protocol::Redis, "x", "cache").await;
    assert_eq!(slug(&by_slug), Some("cache"));
    let wrong_protocol = login(&registry, Protocol::Postgres, "x", "cache").await;
    assert!(matches!(wrong_protocol.place, Place::Nobody));
    let by_ref = login(&registry, Protocol::Postgres, "x", "ACME").await;
    assert_eq!(slug(&by_ref), Some("main"));
    let none = login(&registry, Protocol::Mongodb, "x", "acme").await;
    assert!(matches!(none.place, Place::Nobody));

    add(&registry, "acme", "other", "postgres://u:p@h2/db").await;
    let several = login(&registry, Protocol::Postgres, "x", "acme").await;
    assert!(matches!(several.place, Place::Several(names) if names == ["main", "other"]));
    let named = login_to(&registry, Protocol::Postgres, "x", "acme", Some("other")).await;
    assert_eq!(slug(&named), Some("other"));
}

#[tokio::test]
async fn issued_users_go_before_the_upstreams_own() {
    let (_folder, registry) = registry().await;
    let row = add(&registry, "acme", "main", "postgres://owner:secret@h/db").await;
    let own = login(&registry, Protocol::Postgres, "owner", "main")
        .await
        .account
        .unwrap();
    assert_eq!((own.role, own.credential), (Role::Admin, None));
    assert!(own.verifier.matches("secret") && own.password.is_some());
    assert!(
        login(&registry, Protocol::Postgres, "nobody", "main")
            .await
            .account
            .is_none()
    );

    let of_project = issue(
        &registry,
        Scope::Project("acme".into()),
        "owner",
        Role::Read,
    )
    .await;
    let found = login(&registry, Protocol::Postgres, "owner", "main")
        .await
        .account
        .unwrap();
    assert_eq!(found.role, Role::Read);
    assert!(found.verifier.matches(of_project.password.expose()) && found.password.is_none());

    let of_database = issue(&registry, Scope::Database(row.id), "owner", Role::Write).await;
    for (name, issued) in [("main", &of_database), ("acme", &of_project)] {
        let found = login(&registry, Protocol::Postgres, "owner", name)
            .await
            .account
            .unwrap();
        assert!(found.verifier.matches(issued.password.expose()), "{name}");
    }

    registry
        .revoke(of_database.row.id, &Actor::local())
        .await
        .unwrap();
    registry
        .revoke(of_project.row.id, &Actor::local())
        .await
        .unwrap();
    let found = login(&registry, Protocol::Postgres, "owner", "acme")
        .await
        .account
        .unwrap();
    assert_eq!(found.verifier, own.verifier);
}

#[tokio::test]
async fn redis_without_a_user_means_default() {
    let (_folder, registry) = registry().await;
    add(&registry, "acme", "cache", "redis://:pw@h").await;
    let found = login(&registry, Protocol::Redis, "default", "cache").await;
    assert!(found.account.unwrap().verifier.matches("pw"));
}

#[tokio::test]
async fn issued_passwords_carry_their_address() {
    let (_folder, registry) = registry().await;
    add(&registry, "acme", "cache", "redis://:p@h").await;
    add(&registry, "acme", "main", "postgres://u:p@h/db").await;
    let issued = issue(&registry, Scope::Project("acme".into()), "app", Role::Admin).await;
    let public_id = issued.row.public_id.as_str();
    assert!(
        issued
            .password
            .expose()
            .starts_with(&format!("ppc_{public_id}_"))
    );
    assert_eq!(issued.password.expose().len(), 4 + 8 + 1 + 43);
    for (protocol, expected) in [(Protocol::Redis, "cache"), (Protocol::Postgres, "main")] {
        let query = Query {
            protocol,
            address: Address::Issued { public_id },
            database: None,
        };
        let found = registry.resolve(&query).await.unwrap();
        assert_eq!(slug(&found), Some(expected));
        assert_eq!(found.account.unwrap().user, "app");
    }
    let unknown = Address::Issued {
        public_id: "00000000",
    };
    let query = Query {
        protocol: Protocol::Redis,
        address: unknown,
        database: None,
    };
    assert!(matches!(
        registry.resolve(&query).await.unwrap().place,
        Place::Nobody
    ));
}

#[tokio::test]
async fn own_writes_show_at_once_and_change_the_generation() {
    let (_folder, registry) = registry().await;
    assert!(slug(&login(&registry, Protocol::Redis, "x", "cache").await).is_none());
    let row = add(&registry, "acme", "cache", "redis://:old@h").await;
    let before = login(&registry, Protocol::Redis, "default", "cache").await;
    let change = DatabaseChange {
        connection_string: Some(Secret::from("redis://:new@h2:7000".to_owned())),
        traits: Traits {
            max_upstream: Edit::To(3),
            ..Traits::default()
        },
        ..DatabaseChange::default()
    };
    let changed = registry
        .change(row.id, change, &Actor::local())
        .await
        .unwrap();
    assert_eq!((changed.version, changed.port), (2, Some(7000)));
    let after = login(&registry, Protocol::Redis, "default", "cache").await;
    let (Place::One(before), Place::One(after_tenant)) = (before.place, &after.place) else {
        panic!("the database is known");
    };
    assert!(after_tenant.generation > before.generation);
    assert_eq!(after_tenant.limits.upstream_max, 3);
    assert!(after.account.unwrap().verifier.matches("new"));
    registry.remove(row.id, &Actor::local()).await.unwrap();
    assert!(slug(&login(&registry, Protocol::Redis, "x", "cache").await).is_none());
    assert!(registry.remove(row.id, &Actor::local()).await.is_err());
}

#[tokio::test]
async fn names_and_slugs_are_unique() {
    let (_folder, registry) = registry().await;
    add(&registry, "acme", "cache", "redis://h").await;
    let again = registry
        .register(new("acme", "cache", "redis://h"), &Actor::local())
        .await;
    let message = again.unwrap_err().to_string();
    assert!(
        message.contains("project 'acme' has a database named 'cache' already"),
        "{message}"
    );
    assert_eq!(
        add(&registry, "beta", "cache", "redis://h").await.slug,
        "cache-redis"
    );
    assert_eq!(
        add(&registry, "gamma", "acme", "redis://h").await.slug,
        "acme-redis"
    );
    let mut stolen = new("gamma", "x", "redis://h");
    stolen.slug = Some("acme".into());
    let error = registry
        .register(stolen, &Actor::local())
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Conflict(_)));
    let ghost = registry
        .register(new("cache", "y", "redis://h"), &Actor::local())
        .await;
    assert!(matches!(ghost.unwrap_err(), RegistryError::Conflict(_)));
    assert!(
        registry.project("cache").await.unwrap().is_none(),
        "nothing is left half done"
    );
}

#[tokio::test]
async fn cached_databases_go_on_when_the_store_is_gone() {
    let (_folder, registry) = registry().await;
    add(&registry, "acme", "cache", "redis://:pw@h").await;
    login(&registry, Protocol::Redis, "x", "cache").await;
    registry.store.pool().close().await;
    tokio::time::pause();
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(61)).await;
        let found = login(&registry, Protocol::Redis, "x", "cache").await;
        assert_eq!(slug(&found), Some("cache"));
    }
    let query = Query {
        protocol: Protocol::Redis,
        address: Address::Login {
            user: "x",
            name: "unknown",
        },
        database: None,
    };
    assert!(registry.resolve(&query).await.unwrap_err().is_outage());
    assert!(!registry.is_readable().await);
    assert_eq!(registry.cache_figures().stale, 3);
}

#[tokio::test]
async fn logins_of_one_name_read_the_store_once() {
    let (_folder, registry) = registry().await;
    add(&registry, "acme", "cache", "redis://:pw@h").await;
    let registry = Arc::new(registry);
    let mut logins = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let registry = Arc::clone(&registry);
        logins.spawn(async move {
            let found = login(&registry, Protocol::Redis, "x", "cache").await;
            slug(&found).map(str::to_owned)
        });
    }
    while let Some(found) = logins.join_next().await {
        assert_eq!(found.unwrap().as_deref(), Some("cache"));
    }
    assert_eq!(registry.cache_figures().misses, 1);
}

#[tokio::test]
async fn secrets_are_in_no_file_no_row_and_no_debug() {
    let (folder, registry) = registry().await;
    let url = format!("postgres://u:{CANARY}@h/db");
    let row = add(&registry, "acme", "main", &url).await;
    let issued = issue(&registry, Scope::Database(row.id), "app", Role::Write).await;
    let (_, token) = registry
        .create_token("ci", TokenRole::Viewer, &Actor::local())
        .await
        .unwrap();
    let found = login(&registry, Protocol::Postgres, "u", "main").await;
    let shown = format!(
        "{found:?} {row:?} {issued:?} {} {}",
        serde_json::to_string(&registry.databases(&Listing::default()).await.unwrap()).unwrap(),
        serde_json::to_string(&registry.audit(100).await.unwrap()).unwrap(),
    );
    assert!(shown.contains("postgres://u:****@h:5432/db"));
    let secrets = [CANARY, issued.password.expose(), token.expose()];
    for secret in secrets {
        assert!(!shown.contains(secret));
    }
    let mut looked_at = 0;
    for file in fs::read_dir(folder.path().join("data")).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o077,
            0,
            "{path:?}"
        );
        let bytes = fs::read(&path).unwrap();
        looked_at += bytes.len();
        for secret in secrets {
            assert!(
                memchr::memmem::find(&bytes, secret.as_bytes()).is_none(),
                "{path:?}"
            );
        }
    }
    assert!(looked_at > 4096);
}

#[tokio::test]
async fn a_registry_opens_again_and_every_change_is_in_the_log() {
    let (folder, registry) = registry().await;
    let path = folder.path().join("data");
    let row = add(&registry, "acme", "main", "postgres://u:p@h/db").await;
    registry.remove(row.id, &Actor::local()).await.unwrap();
    let again = open(&path).await;
    let operations: Vec<_> = again
        .audit(10)
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.operation)
        .collect();
    assert_eq!(
        operations,
        ["database.delete", "database.create", "project.create"]
    );
    let edit = sqlx::query("DELETE FROM database_audit_log")
        .execute(again.store.pool())
        .await;
    assert!(edit.is_err(), "the log only grows");
    sqlx::query("INSERT INTO gateway_migrations (version, name, sha256) VALUES (99, 'x', 'x')")
        .execute(again.store.pool())
        .await
        .unwrap();
    let newer = Registry::open(&settings(&path), vault(), LimitDefaults::default()).await;
    assert!(matches!(
        newer.err(),
        Some(RegistryError::TooNew { found: 99, .. })
    ));
}

#[tokio::test]
async fn tokens_are_checked_whole() {
    let (_folder, registry) = registry().await;
    let (row, token) = registry
        .create_token("ci", TokenRole::Operator, &Actor::local())
        .await
        .unwrap();
    let known = registry.check_token(token.expose()).await.unwrap();
    assert_eq!(known, Some(("ci".to_owned(), TokenRole::Operator)));
    let wrong = format!("{}x", token.expose());
    assert_eq!(registry.check_token(&wrong).await.unwrap(), None);
    registry
        .revoke_token(row.id, &Actor::local())
        .await
        .unwrap();
    assert_eq!(registry.check_token(token.expose()).await.unwrap(), None);
}

#[tokio::test]
async fn system_databases_are_served_shown_and_left_alone() {
    let (_folder, registry) = registry().await;
    let of = |kind, url: &str| SystemDatabase {
        kind,
        connection_string: Secret::from(url.to_owned()),
    };
    let wanted = vec![
        of(DatabaseType::Redis, &format!("redis://:{CANARY}@h")),
        of(DatabaseType::BunApi, "https://h"),
    ];
    let registry = registry.with_system(wanted).unwrap();
    for name in ["system", "system-redis"] {
        let found = login(&registry, Protocol::Redis, "default", name).await;
        assert_eq!(slug(&found), Some("system-redis"));
        assert!(found.account.unwrap().verifier.matches(CANARY));
    }
    let rows = registry.databases(&Listing::default()).await.unwrap();
    let names: Vec<_> = rows.iter().map(|row| row.slug.as_str()).collect();
    assert_eq!(names, ["system-redis", "system-bun-api"]);
    assert!(!format!("{rows:?}").contains(CANARY));
    let id = rows[0].id;
    assert!(registry.target(id).await.unwrap().password.is_some());
    let removed = registry.remove(id, &Actor::local()).await.unwrap_err();
    assert!(matches!(removed, RegistryError::Conflict(_)));
    let (_other, registry) = self::registry().await;
    let wrong = registry.with_system(vec![of(DatabaseType::Redis, "mongodb://h")]);
    assert!(wrong.is_err());
}
