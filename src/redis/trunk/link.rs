//! What is under way on a trunk's connection: bytes out, replies in, and whose they are.
//!
//! Without I/O: the task reads and writes, this cuts and hands out.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;

use super::{Entry, Fate, Kind, task::TrunkFault};
use crate::{
    fault::{Effect, Refusal},
    redis::{
        outbox::{Ending, Outbox},
        refusal,
        upstream::Reign,
        wire::{ReplyFault, Scanner},
    },
};

/// How a server refuses writes that is no master.
const READONLY: &[u8] = b"-READONLY";
/// How a server refuses everything while a script keeps it busy.
const BUSY: &[u8] = b"-BUSY ";
/// A reply that is longer than this is handed on in pieces.
const PIECE_BYTES: usize = 64 * 1024;
/// The longest reply to a question of ours; a longer one is none.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The state of a trunk's connection.
pub(super) struct Link {
    /// Gathered, and partly written.
    pub(super) outgoing: BytesMut,
    /// Bytes written since the trunk was opened.
    pub(super) written: u64,
    /// Read, and not cut yet.
    pub(super) incoming: BytesMut,
    /// Whose replies come next.
    pub(super) in_flight: VecDeque<Entry>,
    /// When a byte last moved.
    pub(super) moved: Instant,
    /// When a byte last came, or the first command was written after all others had been answered.
    pub(super) came: Instant,
    /// Where scripts begin that are under way.
    pub(super) scripts: VecDeque<u64>,
    /// Writes whose last reply has not come.
    pub(super) batches: usize,
    scanner: Scanner,
    /// Who has to be told of signs that the server is master no longer.
    reign: Option<Arc<Reign>>,
    /// Clients that got something since they were last flushed.
    touched: Vec<Arc<Outbox>>,
    /// A part of the reply under way was handed on.
    is_cut: bool,
    /// A busy server has refused to select a database, in these words.
    astray: Option<Bytes>,
}

/// What stands at the start of the bytes read.
struct Cut {
    bytes: usize,
    replies: usize,
    /// The first byte of the first reply.
    first: u8,
}

impl Link {
    pub(super) fn new(reign: Option<Arc<Reign>>) -> Self {
        Self {
            outgoing: BytesMut::new(),
            written: 0,
            incoming: BytesMut::new(),
            in_flight: VecDeque::new(),
            moved: Instant::now(),
            came: Instant::now(),
            scripts: VecDeque::new(),
            batches: 0,
            scanner: Scanner::default(),
            reign,
            touched: Vec::new(),
            is_cut: false,
            astray: None,
        }
    }

    /// Whether it is not on the database that what follows is meant for.
    pub(super) fn is_astray(&self) -> bool {
        self.astray.is_some()
    }

    /// Whether the next reply is that of a script.
    pub(super) fn is_behind_script(&mut self) -> bool {
        let Some(next) = self.in_flight.front().map(|entry| entry.begins) else {
            self.scripts.clear();
            return false;
        };
        while self.scripts.front().is_some_and(|begins| *begins < next) {
            self.scripts.pop_front();
        }
        self.scripts.front() == Some(&next)
    }

    /// Cuts what has been read and hands it to whom it belongs.
    pub(super) fn settle(&mut self) -> Result<(), TrunkFault> {
        loop {
            self.hand_out_locals();
            let left = match self.in_flight.front() {
                // Each of its replies may be another's business.
                Some(Entry {
                    kind: Kind::Errand(_),
                    ..
                }) => 1,
                // Each is looked at, so that none is taken for one of the right database.
                Some(_) if self.is_astray() => 1,
                Some(entry) => entry.left,
                None if self.is_astray() => return Err(TrunkFault::Select),
                None => 0,
            };
            let Some(cut) = cut(&mut self.scanner, &self.incoming, left.max(1))? else {
                return self.hand_on_piece();
            };
            if cut.first == b'>' {
                // Nobody on a trunk asks for pushes; one that comes all the same answers nothing.
                self.incoming.advance(cut.bytes);
                continue;
            }
            self.hand_out(&cut)?;
        }
    }

    /// Delivers answers of our own that have reached the head of the queue.
    pub(super) fn hand_out_locals(&mut self) {
        while let Some(Entry {
            kind: Kind::Local(_),
            ..
        }) = self.in_flight.front()
        {
            let Some(entry) = self.in_flight.pop_front() else {
                return;
            };
            self.batches -= usize::from(entry.ends_batch);
            if let (Kind::Local(answer), Some(client)) = (entry.kind, entry.to)
                && client.deliver(&answer, 1)
            {
                self.touched.push(client);
            }
        }
    }

    /// Lets every client that got something have it.
    pub(super) fn flush(&mut self) {
        for client in self.touched.drain(..) {
            client.flush();
        }
    }

    /// Tells everybody who is owed a reply that it will not come.
    pub(super) fn fail(&mut self) {
        let mut error = BytesMut::new();
        let mut is_cut = std::mem::take(&mut self.is_cut);
        for mut entry in std::mem::take(&mut self.in_flight) {
            if let Kind::Errand(recipient) = &mut entry.kind {
                let effect = effect(entry.begins, self.written);
                recipient.lost(effect, &mut self.touched);
                continue;
            }
            let Some(client) = entry.to else { continue };
            if std::mem::take(&mut is_cut) {
                client.end(Ending::Cut);
            }
            error.clear();
            match &entry.kind {
                Kind::Local(answer) => error.extend_from_slice(answer),
                Kind::Counted(_)
                | Kind::Reply(
                    Fate::Forward
                    | Fate::Select {
                        is_silent: false, ..
                    },
                ) => {
                    let effect = effect(entry.begins, self.written);
                    match &self.astray {
                        // The server would have said so, had it been sent.
                        Some(busy) if effect == Effect::None => error.extend_from_slice(busy),
                        _ => refusal::refuse(&mut error, &Refusal::UpstreamLost { effect }),
                    }
                }
                Kind::Reply(
                    Fate::Drop
                    | Fate::Select {
                        is_silent: true, ..
                    },
                )
                | Kind::Select
                | Kind::Speak
                | Kind::Errand(_)
                | Kind::Ignore
                // Dropped, it tells whoever asked.
                | Kind::Answer(_) => {}
            }
            for _ in 0..entry.left {
                if client.deliver(&error, 1) {
                    self.touched.push(Arc::clone(&client));
                }
            }
        }
        self.flush();
    }

    fn hand_out(&mut self, cut: &Cut) -> Result<(), TrunkFault> {
        let Some(entry) = self.in_flight.front_mut() else {
            return Err(TrunkFault::Unasked);
        };
        let bytes = self.incoming.get(..cut.bytes).unwrap_or_default();
        if cut.first == b'-'
            && let Some(reign) = &self.reign
            && bytes.starts_with(READONLY)
        {
            reign.doubt();
        }
        let is_busy = cut.first == b'-' && bytes.starts_with(BUSY);
        if self.astray.is_some() && !is_busy && !matches!(entry.kind, Kind::Select) {
            // It was carried out, on whatever database that was.
            return Err(TrunkFault::Select);
        }
        let corrected;
        let bytes = match &mut entry.kind {
            Kind::Reply(Fate::Forward) => bytes,
            Kind::Reply(Fate::Select {
                database,
                is_silent,
            }) => {
                if let (b'+', Some(client)) = (cut.first, &entry.to) {
                    client.select(*database);
                }
                if *is_silent { &[] } else { bytes }
            }
            Kind::Errand(recipient) => {
                recipient.reply(bytes, &mut self.touched);
                &[]
            }
            Kind::Select if is_busy => {
                self.astray = Some(Bytes::copy_from_slice(bytes));
                &[]
            }
            Kind::Select | Kind::Speak if cut.first == b'-' => return Err(TrunkFault::Select),
            Kind::Select => {
                self.astray = None;
                &[]
            }
            Kind::Answer(_) => return self.hand_back(cut.bytes),
            Kind::Counted(count) => {
                corrected = count.correct(bytes);
                corrected.as_deref().unwrap_or(bytes)
            }
            Kind::Reply(Fate::Drop) | Kind::Speak | Kind::Ignore | Kind::Local(_) => &[],
        };
        self.is_cut = false;
        if let Some(client) = &entry.to
            && client.deliver(bytes, cut.replies)
        {
            self.touched.push(Arc::clone(client));
        }
        entry.left -= cut.replies;
        if entry.left == 0 {
            self.batches -= usize::from(entry.ends_batch);
            self.in_flight.pop_front();
        }
        self.incoming.advance(cut.bytes);
        Ok(())
    }

    /// Answers a question of ours.
    fn hand_back(&mut self, bytes: usize) -> Result<(), TrunkFault> {
        let reply = self.incoming.split_to(bytes);
        let Some(entry) = self.in_flight.pop_front() else {
            return Err(TrunkFault::Unasked);
        };
        self.batches -= usize::from(entry.ends_batch);
        if let Kind::Answer(sender) = entry.kind
            && sender.send(Bytes::copy_from_slice(&reply)).is_err()
        {
            tracing::trace!("a question whose asker has gone");
        }
        Ok(())
    }

    /// Hands on the beginning of a long reply, so that it is never in memory as a whole.
    fn hand_on_piece(&mut self) -> Result<(), TrunkFault> {
        if self.incoming.len() < PIECE_BYTES || self.scanner.kind().is_none_or(|kind| kind == b'>')
        {
            return Ok(());
        }
        let bytes = self.scanner.settled(&self.incoming);
        let Some(entry) = self.in_flight.front_mut() else {
            return Err(TrunkFault::Unasked);
        };
        if let Kind::Errand(recipient) = &mut entry.kind {
            let piece = self.incoming.get(..bytes).unwrap_or_default();
            if !recipient.part(piece, &mut self.touched) {
                return Ok(());
            }
        }
        if matches!(entry.kind, Kind::Answer(_) | Kind::Counted(_)) {
            if self.incoming.len() < ANSWER_BYTES_MAX {
                return Ok(());
            }
            // Too long to be looked into.
            entry.kind = match entry.kind {
                Kind::Counted(_) => Kind::Reply(Fate::Forward),
                _ => Kind::Ignore,
            };
        }
        if let (Kind::Reply(Fate::Forward), Some(client)) = (&entry.kind, &entry.to) {
            self.is_cut = true;
            if client.deliver(self.incoming.get(..bytes).unwrap_or_default(), 0) {
                self.touched.push(Arc::clone(client));
            }
        }
        self.incoming.advance(bytes);
        self.scanner.moved(bytes);
        Ok(())
    }
}

/// What is known of a command that begins there, when so much was written.
fn effect(begins: u64, written: u64) -> Effect {
    if begins < written {
        Effect::Unknown
    } else {
        Effect::None
    }
}

/// Cuts up to `replies_max` whole replies that stand together; a push is cut alone.
fn cut(scanner: &mut Scanner, bytes: &[u8], replies_max: usize) -> Result<Option<Cut>, ReplyFault> {
    let mut cut = Cut {
        bytes: 0,
        replies: 0,
        first: 0,
    };
    while cut.replies < replies_max {
        let rest = bytes.get(cut.bytes..).unwrap_or_default();
        let Some(frame) = scanner.scan(rest)? else {
            break;
        };
        if frame.kind == b'>' && cut.replies == 0 {
            return Ok(Some(Cut {
                bytes: frame.end,
                replies: 0,
                first: b'>',
            }));
        }
        if matches!(frame.kind, b'>' | b'-') && cut.replies > 0 {
            // It ends the run; it is scanned again when it stands at the start.
            break;
        }
        if cut.replies == 0 {
            cut.first = frame.kind;
        }
        cut.replies += 1;
        cut.bytes += frame.end;
    }
    Ok((cut.replies > 0).then_some(cut))
}
