//! Small commands that the gateway answers by itself, and the one request that it rewrites.

use bson::{RawArrayBuf, RawDocument, RawDocumentBuf, cstr, rawdoc};

use super::policy::{Grant, SERVER_DATABASES};

/// `ok: 1` and nothing else.
pub(crate) fn ok() -> RawDocumentBuf {
    rawdoc! { "ok": 1.0 }
}

/// The answer to a `killCursors` of which there is none.
pub(crate) fn cursors_not_found(ids: &[i64]) -> RawDocumentBuf {
    let ids: RawArrayBuf = ids.iter().copied().collect();
    let none = RawArrayBuf::new;
    rawdoc! {
        "cursorsKilled": none(),
        "cursorsNotFound": ids,
        "cursorsAlive": none(),
        "cursorsUnknown": none(),
        "ok": 1.0,
    }
}

/// Adds `ok: 1`, which closes a good reply.
pub(crate) fn with_ok(mut reply: RawDocumentBuf) -> RawDocumentBuf {
    reply.append(cstr!("ok"), 1.0);
    reply
}

/// `buildInfo` before login, when no server can be asked yet.
pub(crate) fn build_info(wire_version: i32) -> RawDocumentBuf {
    let (major, minor) = release_of(wire_version);
    let digits: RawArrayBuf = [major, minor, 0, 0].into_iter().collect();
    let none = RawArrayBuf::new();
    rawdoc! {
        "version": format!("{major}.{minor}.0"),
        "modules": none,
        "versionArray": digits,
        "bits": 64,
        "debug": false,
        "maxBsonObjectSize": 16_777_216,
        "ok": 1.0,
    }
}

/// `whatsmyuri`.
pub(crate) fn whats_my_uri(peer: &str) -> RawDocumentBuf {
    rawdoc! { "you": peer, "ok": 1.0 }
}

/// `isdbgrid`, which only a mongos answers.
pub(crate) fn is_db_grid() -> RawDocumentBuf {
    rawdoc! { "isdbgrid": 1, "hostname": "polypool", "ok": 1.0 }
}

/// `connectionStatus`: the client's own login, and nothing of the upstream's user.
pub(crate) fn connection_status(
    user: Option<(&str, &str)>,
    role: Option<&str>,
    shows_privileges: bool,
) -> RawDocumentBuf {
    let mut users = RawArrayBuf::new();
    let mut roles = RawArrayBuf::new();
    if let Some((name, source)) = user {
        users.push(rawdoc! { "user": name, "db": source });
        if let Some(role) = role {
            roles.push(rawdoc! { "role": role, "db": source });
        }
    }
    let mut info = rawdoc! { "authenticatedUsers": users, "authenticatedUserRoles": roles };
    if shows_privileges {
        info.append(cstr!("authenticatedUserPrivileges"), RawArrayBuf::new());
    }
    rawdoc! { "authInfo": info, "ok": 1.0 }
}

/// `listDatabases` of a confined login: its own filter and ours.
///
/// `None` when the body is not BSON through and through.
pub(crate) fn confined_listing(body: &[u8], grant: Grant<'_>) -> Option<RawDocumentBuf> {
    let mut ours = if let Some(name) = grant.database {
        rawdoc! { "name": name }
    } else {
        let hidden: RawArrayBuf = SERVER_DATABASES.into_iter().collect();
        rawdoc! { "name": { "$nin": hidden } }
    };
    let mut out = RawDocumentBuf::new();
    for element in RawDocument::from_bytes(body).ok()? {
        let (key, value) = element.ok()?;
        if key.as_str() == "filter" {
            let theirs = value.as_document()?.to_owned();
            let mut both = RawArrayBuf::new();
            both.push(ours);
            both.push(theirs);
            ours = rawdoc! { "$and": both };
        } else {
            out.append(key, value);
        }
    }
    out.append(cstr!("filter"), ours);
    Some(out)
}

/// The release whose wire version it is.
const fn release_of(wire_version: i32) -> (i32, i32) {
    match wire_version {
        ..=8 => (4, 2),
        9..=12 => (4, 4),
        13..=16 => (5, 0),
        17..=20 => (6, 0),
        21..=24 => (7, 0),
        _ => (8, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::Role;

    #[test]
    fn listing_keeps_to_the_grant() {
        let asked = rawdoc! { "listDatabases": 1, "filter": { "name": "other" }, "$db": "admin" };
        let grant = Grant {
            role: Role::Read,
            database: Some("app"),
        };
        let sent = confined_listing(asked.as_bytes(), grant).unwrap();
        let both = sent
            .get_document("filter")
            .unwrap()
            .get_array("$and")
            .unwrap();
        assert_eq!(both.into_iter().count(), 2);
        assert_eq!(sent.get_str("$db").unwrap(), "admin");
    }
}
