//! An upstream that is held over several commands: while watching, in a transaction, or for the session.

use bytes::BytesMut;

use super::{Over, Session, attend::Wait, bond::Tie, busy::Writes};
use crate::{
    pool::{CloseReason, Residue},
    redis::{
        exchange::Exchange,
        wire::{self, Version},
    },
    telemetry::SessionEnd,
};

/// Databases of one transaction that are remembered: the last of them that exists counts.
const SELECTS_MAX: usize = 64;

/// An upstream held over several commands.
pub(super) struct Held {
    pub(super) exchange: Exchange,
    /// Between MULTI and EXEC.
    pub(super) in_multi: bool,
    /// A command was refused here, so EXEC must fail.
    pub(super) is_dirty: bool,
    /// A command may have left anything behind: nobody else can have it.
    pub(super) is_tainted: bool,
    /// Commands queued so far.
    pub(super) queued: i64,
    /// Databases that the transaction selects.
    pub(super) selects: Vec<u32>,
    /// What the transaction does to the tenant's writes in the end.
    pub(super) writes: Option<Writes>,
    /// It is kept for the session.
    pub(super) tie: Option<Tie>,
}

impl Held {
    pub(super) fn new(exchange: Exchange) -> Self {
        Self {
            exchange,
            in_multi: false,
            is_dirty: false,
            is_tainted: false,
            queued: 0,
            selects: Vec::new(),
            writes: None,
            tie: None,
        }
    }

    /// A database that the transaction will select.
    pub(super) fn will_select(&mut self, database: u32) {
        if self.selects.len() >= SELECTS_MAX {
            self.selects.remove(0);
        }
        self.selects.push(database);
    }

    /// Gives it back after a command that ended what it was held for.
    pub(super) fn release(self) {
        if self.is_tainted {
            return self.exchange.give_back(Residue::Broken(CloseReason::Dirty));
        }
        self.exchange.release();
    }
}

impl Session {
    /// The end of a transaction, or of a watch.
    pub(super) async fn let_go(&mut self, mut held: Held) -> Result<(), Over> {
        let selects = std::mem::take(&mut held.selects);
        let writes = held.writes.take();
        if held.exchange.is_carried_out() {
            if let Some(writes) = writes {
                self.note_writes(&writes);
            }
            self.follow_selects(&mut held, selects).await?;
        }
        if held.tie.is_none() {
            held.release();
            return Ok(());
        }
        held.in_multi = false;
        held.is_dirty = false;
        self.held = Some(held);
        Ok(())
    }

    /// Finds out where the databases that a transaction has selected have led: the last that exists is
    /// where its upstream is, so that selecting it again changes nothing.
    async fn follow_selects(&mut self, held: &mut Held, selects: Vec<u32>) -> Result<(), Over> {
        for database in selects.into_iter().rev() {
            let words = ["SELECT", &database.to_string()];
            if self.ask_held(held, &words).await? {
                self.enter_database(held, database);
                break;
            }
        }
        Ok(())
    }

    /// The upstream that is held is on that database now, and its client with it.
    pub(super) fn enter_database(&mut self, held: &mut Held, database: u32) {
        held.exchange.note_place((self.version, database));
        self.database = database;
        self.trunk = None;
        if let Some(member) = &self.member {
            member.station.note_database(database);
        }
    }

    /// Switches the upstream that is held for the session, with its client, to another version.
    pub(super) async fn switch_held(&mut self, version: Version) -> Result<(), Over> {
        let Some(mut held) = self.held.take() else {
            return Ok(());
        };
        let words = ["HELLO", &version.number().to_string()];
        if !self.ask_held(&mut held, &words).await? {
            return Err(Over(SessionEnd::UpstreamLost));
        }
        held.exchange.note_place((version, self.database));
        self.held = Some(held);
        Ok(())
    }

    /// A question of the gateway's own on an upstream that is held. False: an error.
    async fn ask_held(&mut self, held: &mut Held, words: &[&str]) -> Result<bool, Over> {
        let mut command = BytesMut::new();
        wire::encode_command(&mut command, words);
        let asked = self.exchange(&mut held.exchange, command.freeze(), true, Wait::Brief);
        match asked.await? {
            Ok(()) => Ok(held.exchange.is_accepted()),
            Err(()) => Err(Over(SessionEnd::UpstreamLost)),
        }
    }
}
