//! Session ids, kept apart by login.
//!
//! A server takes a session's id together with its user, so another user's session of the same id is another session.
//! All clients of a tenant are one user to it. So each id goes on as a digest of itself and of the login: of the same
//! length, the same for ever, and nobody can find an id of their own that leads to somebody else's.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::{
    refusal::ErrorReply,
    wire::{Body, Element, Elements, Kind, renew_checksum},
};
use crate::tenant::TenantId;

/// A session's id.
pub(super) type Id = [u8; ID_BYTES];

/// Bytes of an id.
const ID_BYTES: usize = 16;
/// The subtype of a UUID.
const UUID: u8 = 4;
/// Commands whose argument lists a client's own sessions. `killSessions` is an administrator's, who means them by the
/// ids that the server shows.
const LISTING: [&[u8]; 2] = [b"endSessions", b"refreshSessions"];

/// Whose sessions they are: one login of one tenant.
#[derive(Clone)]
pub(crate) struct Scope([u8; 32]);

/// Another id, and where it goes in a command's body.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit {
    at: usize,
    id: Id,
    /// The id that it takes the place of.
    own: Id,
}

/// What becomes of the ids in one command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edits {
    own: Option<Edit>,
    listed: Vec<Edit>,
}

impl Scope {
    /// The sessions of that login.
    pub(crate) fn new(tenant: TenantId, login: &str) -> Self {
        let mut digest = Sha256::new();
        digest.update(tenant.0.as_bytes());
        digest.update(login.as_bytes());
        Self(digest.finalize().into())
    }

    /// What is to be done to a command. Ids that are none stay as they are: the server says so.
    pub(crate) fn edits(&self, body: &Body<'_>) -> Result<Edits, ErrorReply> {
        let mut edits = Edits::default();
        if let Some(session) = &body.session {
            edits.own = self.edit(session, 0)?;
        }
        if LISTING.contains(&body.command()) {
            let argument = body.argument();
            let base = argument.range.end - argument.value.len();
            let sessions = argument.document().and_then(|it| Elements::new(it).ok());
            for session in sessions.into_iter().flatten().flatten() {
                edits.listed.extend(self.edit(&session, base)?);
            }
        }
        Ok(edits)
    }

    /// `base` is where the session's document is that holds it.
    fn edit(&self, session: &Element<'_>, base: usize) -> Result<Option<Edit>, ErrorReply> {
        let fields = session.document().and_then(|it| Elements::new(it).ok());
        let mut edit = None;
        for field in fields.into_iter().flatten().flatten() {
            if field.name != b"id" {
                // The user's digest and the server's own inner sessions: not for clients.
                return Err(ErrorReply::session_field(field.name));
            }
            let is_uuid = field.kind == Kind::Binary && field.value.get(4) == Some(&UUID);
            if let Some(own) = field.binary().and_then(|id| Id::try_from(id).ok())
                && is_uuid
            {
                let start = base + session.range.end - session.value.len();
                let at = start + field.range.end - ID_BYTES;
                let id = self.id(&own);
                edit = Some(Edit { at, id, own });
            }
        }
        Ok(edit)
    }

    fn id(&self, id: &Id) -> Id {
        let mut digest = Sha256::new();
        digest.update(self.0);
        digest.update(id);
        let digest = digest.finalize();
        let mut out = [0; ID_BYTES];
        for (to, from) in out.iter_mut().zip(digest) {
            *to = from;
        }
        // Still a random UUID to who looks.
        let [_, _, _, _, _, _, version, _, variant, ..] = &mut out;
        *version = *version & 0x0F | 0x40;
        *variant = *variant & 0x3F | 0x80;
        out
    }
}

impl Edits {
    /// The id of a command's session as the server will know it, and as the client does.
    pub(crate) fn ids(&self) -> Option<(Id, Id)> {
        self.own.as_ref().map(|edit| (edit.id, edit.own))
    }

    /// The session of a command as the server will know it.
    pub(crate) fn session(&self, body: &Body<'_>) -> Option<Vec<u8>> {
        let field = body.session.as_ref()?;
        let mut session = field.document()?.to_vec();
        if let Some(edit) = &self.own {
            let start = field.range.end - field.value.len();
            put(&mut session, edit, |at| at.checked_sub(start));
        }
        Some(session)
    }

    /// Puts the ids into a message whose body is at that place.
    pub(crate) fn apply(&self, message: &mut [u8], body_at: &Range<usize>) {
        if self.own.is_none() && self.listed.is_empty() {
            return;
        }
        for edit in self.own.iter().chain(&self.listed) {
            put(message, edit, |at| at.checked_add(body_at.start));
        }
        renew_checksum(message);
    }
}

fn put(bytes: &mut [u8], edit: &Edit, place: impl FnOnce(usize) -> Option<usize>) {
    let slot = place(edit.at).and_then(|at| bytes.get_mut(at..at + ID_BYTES));
    if let Some(slot) = slot {
        slot.copy_from_slice(&edit.id);
    }
}

#[cfg(test)]
mod tests {
    use bson::{Binary, RawDocumentBuf, rawdoc, spec::BinarySubtype};

    use super::*;

    fn id(byte: u8) -> Binary {
        Binary {
            subtype: BinarySubtype::Uuid,
            bytes: vec![byte; ID_BYTES],
        }
    }

    fn scope(login: &str) -> Scope {
        Scope::new(TenantId(uuid::Uuid::nil()), login)
    }

    fn edited(scope: &Scope, body: &RawDocumentBuf) -> RawDocumentBuf {
        let scanned = Body::scan(body.as_bytes()).unwrap();
        let edits = scope.edits(&scanned).unwrap();
        let mut message = [&[0; 21], body.as_bytes()].concat();
        let at = 21..message.len();
        edits.apply(&mut message, &at);
        let out = RawDocumentBuf::from_bytes(message[21..].to_vec()).unwrap();
        if let Ok(session) = out.get_document("lsid") {
            assert_eq!(edits.session(&scanned).unwrap(), session.as_bytes());
        }
        out
    }

    #[test]
    fn logins_have_sessions_of_their_own() {
        let body = rawdoc! { "find": "c", "lsid": { "id": id(7) }, "$db": "app" };
        let sent = |login: &str| edited(&scope(login), &body);
        assert_eq!(sent("a.docs"), sent("a.docs"));
        assert_ne!(sent("a.docs"), sent("b.docs"));
        assert_ne!(sent("a.docs"), body);
        assert_eq!(sent("a.docs").as_bytes().len(), body.as_bytes().len());
        let elsewhere = Scope::new(TenantId(uuid::Uuid::max()), "a.docs");
        assert_ne!(edited(&elsewhere, &body), sent("a.docs"));
    }

    #[test]
    fn listed_sessions_are_the_ones_that_are_used() {
        let scope = scope("a.docs");
        let used = |byte| {
            let body = rawdoc! { "find": "c", "lsid": { "id": id(byte) }, "$db": "app" };
            edited(&scope, &body)
                .get_document("lsid")
                .unwrap()
                .to_owned()
        };
        for name in ["endSessions", "refreshSessions"] {
            let mut body = RawDocumentBuf::new();
            let sessions = bson::rawbson!([{ "id": id(1) }, { "id": id(2) }]);
            body.append(bson::raw::CString::try_from(name).unwrap(), sessions);
            body.append(bson::cstr!("lsid"), rawdoc! { "id": id(3) });
            body.append(bson::cstr!("$db"), "admin");
            let sent = edited(&scope, &body);
            let listed: Vec<_> = sent
                .get_array(name)
                .unwrap()
                .into_iter()
                .map(|each| each.unwrap().as_document().unwrap().to_owned())
                .collect();
            assert_eq!(listed, [used(1), used(2)]);
            assert_eq!(sent.get_document("lsid").unwrap(), &*used(3));
        }
    }

    #[test]
    fn what_is_no_session_is_the_servers_matter_and_inner_ones_are_refused() {
        let scope = scope("a.docs");
        let text = rawdoc! { "find": "c", "lsid": { "id": "x" }, "$db": "app" };
        assert_eq!(edited(&scope, &text), text);
        for field in ["uid", "txnNumber", "txnUUID"] {
            let mut session = rawdoc! { "id": id(1) };
            session.append(bson::raw::CString::try_from(field).unwrap(), 1);
            let body = rawdoc! { "find": "c", "lsid": session, "$db": "app" };
            let scanned = Body::scan(body.as_bytes()).unwrap();
            assert_eq!(scope.edits(&scanned).unwrap_err().code(), 13);
        }
    }
}
