//! The question that sessions ask, and the rule that answers it.

use std::sync::Arc;

use super::record::{CredentialRecord, Record};
use crate::{
    protocol::Protocol,
    tenant::{Account, Tenant, TenantId},
};

/// Who wants to use which database.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The protocol that the client speaks.
    pub protocol: Protocol,
    /// How it names the tenant.
    pub address: Address<'a>,
    /// The database it names besides: `PostgreSQL`'s start-up `database`, `MongoDB`'s default database
    /// or `authSource`.
    pub database: Option<&'a str>,
}

/// How a client names a tenant.
#[derive(Debug, Clone, Copy)]
pub enum Address<'a> {
    /// By `<user>.<name>` or its equivalents.
    Login {
        /// The user, without the tenant part.
        user: &'a str,
        /// The slug of a database, or the `ref` of a project.
        name: &'a str,
    },
    /// By the 8 public characters of an issued password, `ppc_<8>_<secret>`.
    Issued {
        /// The public characters.
        public_id: &'a str,
    },
}

/// What the registry knows of it.
#[derive(Debug, Clone)]
pub struct Found {
    /// The database.
    pub place: Place,
    /// The user, if it exists there. To be proven before anything of `place` is told.
    pub account: Option<Account>,
}

impl Found {
    pub(super) const fn nobody() -> Self {
        Self {
            place: Place::Nobody,
            account: None,
        }
    }
}

/// Which database is meant.
#[derive(Debug, Clone)]
pub enum Place {
    /// None that this gateway knows.
    Nobody,
    /// This one.
    One(Arc<Tenant>),
    /// A project's, which has several of the protocol: their names.
    Several(Vec<String>),
}

/// All that is known under one name or public id.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// The database that has the name as its slug.
    pub(super) by_slug: Option<Holding>,
    /// The databases of the project that has the name as its ref.
    pub(super) by_ref: Option<Holding>,
    /// The user of the credential, when the entry is that of a public id.
    pub(super) issued_user: Option<String>,
}

/// Databases of one project, and the credentials that may fit them.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) project: uuid::Uuid,
    pub(super) records: Vec<Arc<Record>>,
    pub(super) credentials: Vec<CredentialRecord>,
}

impl Entry {
    pub(super) fn is_empty(&self) -> bool {
        self.by_slug.is_none() && self.by_ref.is_none()
    }

    pub(super) fn concerns(&self, project: uuid::Uuid) -> bool {
        [&self.by_slug, &self.by_ref]
            .into_iter()
            .flatten()
            .any(|holding| holding.project == project)
    }

    /// The record of that id in that version, to spare opening and deriving again.
    pub(super) fn record(&self, id: uuid::Uuid, version: u64) -> Option<Arc<Record>> {
        [&self.by_slug, &self.by_ref]
            .into_iter()
            .flatten()
            .flat_map(|holding| &holding.records)
            .find(|record| record.is(id, version))
            .map(Arc::clone)
    }

    /// The rule: a slug of that protocol; else the project's database of that name; else its only
    /// one; else all of them, by name.
    pub(super) fn choose(&self, protocol: Protocol, database: Option<&str>) -> Choice<'_> {
        if let Some(holding) = &self.by_slug
            && let Some(record) = holding.of(protocol).next()
        {
            return Choice::BySlug(holding, record);
        }
        let Some(holding) = &self.by_ref else {
            return Choice::Nobody;
        };
        let named = |wanted| {
            holding
                .of(protocol)
                .find(|record| record.tenant.name == wanted)
        };
        if let Some(record) = database.and_then(named) {
            return Choice::ByRef(holding, record);
        }
        let candidates: Vec<_> = holding.of(protocol).collect();
        match candidates.as_slice() {
            [] => Choice::Nobody,
            [only] => Choice::ByRef(holding, only),
            _ => Choice::Several(holding, candidates),
        }
    }
}

/// The rule's answer.
#[derive(Debug)]
pub(super) enum Choice<'a> {
    Nobody,
    BySlug(&'a Holding, &'a Arc<Record>),
    ByRef(&'a Holding, &'a Arc<Record>),
    Several(&'a Holding, Vec<&'a Arc<Record>>),
}

impl Holding {
    /// The database of that id.
    pub(super) fn tenant(&self, id: TenantId) -> Option<Arc<Tenant>> {
        let record = self.records.iter().find(|record| record.tenant.id == id)?;
        Some(Arc::clone(&record.tenant))
    }

    fn of(&self, protocol: Protocol) -> impl Iterator<Item = &Arc<Record>> {
        self.records
            .iter()
            .filter(move |record| record.tenant.protocol == protocol)
    }

    /// The issued credential of that user that fits the record. Of two of one name, a login by slug
    /// means the database's own, and a login by the project's ref the project's.
    pub(super) fn credential(
        &self,
        user: &str,
        record: &Record,
        by_ref: bool,
    ) -> Option<&CredentialRecord> {
        let of_database = self
            .credentials
            .iter()
            .filter(|credential| credential.account.user == user)
            .find(|credential| credential.database == Some(record.tenant.id));
        let of_project = self.project_credential(user);
        if by_ref {
            of_project.or(of_database)
        } else {
            of_database.or(of_project)
        }
    }

    /// The issued credential of that user for the whole project.
    pub(super) fn project_credential(&self, user: &str) -> Option<&CredentialRecord> {
        self.credentials
            .iter()
            .find(|credential| credential.database.is_none() && credential.account.user == user)
    }
}
