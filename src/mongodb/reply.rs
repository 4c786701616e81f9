//! An upstream's reply: read as far as needed, and mended where it speaks of the upstream's topology.

use std::{
    ops::Range,
    task::{Context, Poll, ready},
};

use bson::{RawBsonRef, RawDocument, cstr};

use super::{
    refusal::{cloaked, is_state_change},
    servers::Version,
    topology::Topology,
    upstream::Upstream,
    wire::{
        Element, Elements, Header, MESSAGE_BYTES_MAX, Message, Opcode, WireFault, encode_message,
        length_at, renew_checksum, unpack,
    },
};

/// Replies up to this size are read whole, so that their upstream is free early.
pub(super) const WHOLE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a large reply that are waited for, so that its cursor can be told.
const HEAD_BYTES: usize = 512;
/// How a cursor begins in a reply: a document of that name.
const CURSOR: &[u8] = b"\x03cursor\0";
/// Bytes after a batch that are looked at for the cursor's id.
const TAIL_BYTES_MAX: usize = 64 * 1024;

/// What came of a reply.
#[derive(Debug)]
pub(super) enum Incoming {
    /// All of it.
    Whole(Header),
    /// The beginning of a large one.
    Large(Header),
    /// The upstream closed or failed.
    Lost,
    /// Bytes that are no reply.
    Broken,
}

/// Reads until a reply can be handed on.
pub(super) fn poll_incoming(
    context: &mut Context<'_>,
    upstream: &mut Upstream,
    whole_bytes_max: usize,
) -> Poll<Incoming> {
    loop {
        let known = upstream.intake.pending().len();
        let missing = match Header::parse(upstream.intake.pending(), MESSAGE_BYTES_MAX) {
            Err(_) => return Poll::Ready(Incoming::Broken),
            Ok(None) => 0,
            Ok(Some(header)) if header.opcode == Opcode::Compressed && header.length <= known => {
                let packed = upstream.intake.pending();
                let Ok(unpacked) = unpack(packed, &header, MESSAGE_BYTES_MAX) else {
                    return Poll::Ready(Incoming::Broken);
                };
                upstream.intake.replace(header.length, unpacked.message);
                continue;
            }
            Ok(Some(header)) if header.opcode == Opcode::Compressed => header.length - known,
            Ok(Some(header)) if header.opcode != Opcode::Message => {
                return Poll::Ready(Incoming::Broken);
            }
            Ok(Some(header)) if header.length <= known => {
                return Poll::Ready(Incoming::Whole(header));
            }
            Ok(Some(header)) if header.length > whole_bytes_max && known >= HEAD_BYTES => {
                return Poll::Ready(Incoming::Large(header));
            }
            Ok(Some(header)) => header.length - known,
        };
        let read = upstream
            .intake
            .poll_fill(context, &mut upstream.stream, missing);
        match ready!(read) {
            Ok(count) if count > 0 => {}
            Ok(_) | Err(_) => return Poll::Ready(Incoming::Lost),
        }
    }
}

/// The upstream's word that its part has changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    /// The order of that word, if it bears one.
    pub(super) said: Option<Version>,
    /// Whether the request, or a part of it, is refused for it.
    pub(super) refuses: bool,
}

/// What a reply was found to say.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// The upstream is not, or no longer, what it was taken for.
    pub(super) change: Option<Change>,
    /// To be handed on instead of the reply, which else is fit as it is now.
    pub(super) anew: Option<Vec<u8>>,
    /// The id of the cursor in it; 0: it is closed.
    pub(super) cursor: Option<i64>,
    /// The error's code.
    pub(super) code: i64,
}

/// Reads a reply, and makes the upstream's topology in it ours: a driver that cannot order a
/// `topologyVersion` stands still for ten seconds. In place where it fits; else the whole reply anew.
///
/// Inside a good reply, where a write was not acknowledged by others in time, drivers look for no version: there the
/// code is another one, by which they only try again.
pub(super) fn mend(
    reply: &mut [u8],
    header: &Header,
    topology: &Topology,
) -> Result<Reading, WireFault> {
    let body = Message::reply_body(reply, header)?;
    let mut is_error = false;
    let mut reading = Reading::default();
    let mut version_at = None;
    let mut said = None;
    let mut is_part_refused = false;
    for element in Elements::new(body)? {
        let element = element?;
        match element.name {
            b"ok" => is_error = !element.truth(),
            b"code" => reading.code = element.integer().unwrap_or_default(),
            b"cursor" => reading.cursor = cursor_id(&element),
            b"topologyVersion" => {
                said = Version::read(&element);
                version_at = Some(element.range.end - element.value.len()..element.range.end);
            }
            b"writeConcernError" => is_part_refused |= tells_of_change(&element),
            b"writeErrors" => {
                let errors = element.document().map(Elements::new);
                let mut errors = errors.into_iter().flatten().flatten().flatten();
                is_part_refused |= errors.any(|error| tells_of_change(&error));
            }
            _ => {}
        }
    }
    let refuses = is_part_refused || is_error && is_state_change(reading.code);
    if version_at.is_none() && !refuses {
        return Ok(reading);
    }
    reading.change = Some(Change { said, refuses });
    let ours = topology.version();
    let ours = ours.as_bytes();
    let body_at = Message::REPLY_BODY_AT;
    if !is_part_refused
        && let Some(at) = version_at.filter(|at| at.len() == ours.len())
        && let Some(slot) = reply.get_mut(body_at + at.start..body_at + at.end)
    {
        slot.copy_from_slice(ours);
        renew_checksum(reply);
    } else {
        reading.anew = Some(anew(reply, header, topology)?);
    }
    Ok(reading)
}

/// Whether an error inside a reply is for its server's part having changed.
fn tells_of_change(error: &Element<'_>) -> bool {
    let fields = error.document().and_then(|error| Elements::new(error).ok());
    let code = fields.and_then(|fields| fields.find(b"code")?.integer());
    code.is_some_and(is_state_change)
}

fn cursor_id(cursor: &Element<'_>) -> Option<i64> {
    Elements::new(cursor.document()?)
        .ok()?
        .find(b"id")?
        .integer()
}

/// The reply again, with our topology in it.
fn anew(reply: &[u8], header: &Header, topology: &Topology) -> Result<Vec<u8>, WireFault> {
    let wrong = |_| WireFault::Bson("a reply's document is wrong");
    let body = Message::reply_body(reply, header)?;
    let mut out = bson::RawDocumentBuf::new();
    for element in RawDocument::from_bytes(body).map_err(|_| WireFault::Bson("a reply"))? {
        let (key, value) = element.map_err(wrong)?;
        match (key.as_str(), value) {
            ("topologyVersion", _) => {}
            ("writeConcernError", RawBsonRef::Document(error)) => {
                out.append(key, cloaked(error).map_err(wrong)?);
            }
            _ => out.append(key, value),
        }
    }
    out.append(cstr!("topologyVersion"), topology.version());
    let mut message = Vec::new();
    encode_message(
        &mut message,
        header.request_id,
        header.response_to,
        0,
        out.as_bytes(),
    );
    Ok(message)
}

/// Finds the id of the cursor in a large reply while it passes: the id follows the batch.
#[derive(Debug, Default)]
pub(super) struct CursorTail {
    passed: usize,
    after_batch: Range<usize>,
    kept: Vec<u8>,
    id: Option<i64>,
}

impl CursorTail {
    /// Looks at how the message begins.
    pub(super) fn begin(head: &[u8]) -> Self {
        Self::parse(head).unwrap_or_default()
    }

    fn parse(head: &[u8]) -> Option<Self> {
        // The server puts the cursor first.
        let cursor_at = Message::REPLY_BODY_AT + 4 + CURSOR.len();
        if !head.get(..cursor_at)?.ends_with(CURSOR) {
            return None;
        }
        let mut tail = Self::default();
        let mut at = cursor_at + 4;
        let end = cursor_at.checked_add(length_at(head, cursor_at)?)?;
        loop {
            let tag = *head.get(at)?;
            let name = head.get(at + 1..)?;
            let name = name.get(..memchr::memchr(0, name)?)?;
            let value_at = at + 1 + name.len() + 1;
            match (tag, name) {
                (0x12, b"id") => {
                    let raw = head.get(value_at..)?.first_chunk::<8>()?;
                    tail.id = Some(i64::from_le_bytes(*raw));
                    break;
                }
                (0x04, _) => {
                    let from = value_at.checked_add(length_at(head, value_at)?)?;
                    let is_sane = from < end && end - from <= TAIL_BYTES_MAX;
                    tail.after_batch = is_sane.then_some(from..end)?;
                    break;
                }
                (0x02, _) => at = value_at.checked_add(4 + length_at(head, value_at)?)?,
                (0x03, _) => at = value_at.checked_add(length_at(head, value_at)?)?,
                _ => return None,
            }
        }
        Some(tail)
    }

    /// The next bytes of the message.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        let (from, to) = (self.passed, self.passed + bytes.len());
        self.passed = to;
        let start = self.after_batch.start.clamp(from, to);
        let end = self.after_batch.end.clamp(from, to);
        let here = bytes.get(start - from..end - from);
        self.kept.extend_from_slice(here.unwrap_or_default());
    }

    /// The id, once all has passed.
    pub(super) fn id(&self) -> Option<i64> {
        if self.id.is_some() || self.kept.len() != self.after_batch.len() {
            return self.id;
        }
        // What follows the batch makes a document of its own.
        let length = i32::try_from(self.kept.len() + 4).ok()?;
        let document = [&length.to_le_bytes(), &*self.kept].concat();
        Elements::new(&document).ok()?.find(b"id")?.integer()
    }
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, oid::ObjectId, rawdoc};

    use super::*;
    use crate::shutdown::Shutdown;

    fn mended(body: &RawDocumentBuf, topology: &Topology) -> (bool, RawDocumentBuf) {
        let mut bytes = Vec::new();
        encode_message(&mut bytes, 3, 2, 0, body.as_bytes());
        let header = Header::parse(&bytes, MESSAGE_BYTES_MAX).unwrap().unwrap();
        let reading = mend(&mut bytes, &header, topology).unwrap();
        let is_change = reading.change.is_some();
        if let Some(anew) = reading.anew {
            bytes = anew;
        }
        let header = Header::parse(&bytes, MESSAGE_BYTES_MAX).unwrap().unwrap();
        assert_eq!((header.length, header.response_to), (bytes.len(), 2));
        let body = Message::reply_body(&bytes, &header).unwrap().to_vec();
        (is_change, RawDocumentBuf::from_bytes(body).unwrap())
    }

    #[test]
    fn good_replies_stay_as_they_are() {
        let topology = Topology::new(Shutdown::new());
        for body in [
            rawdoc! { "ok": 1.0, "n": 1 },
            rawdoc! { "ok": 0.0, "code": 11000, "errmsg": "E11000" },
            rawdoc! { "n": 0, "writeErrors": [{ "index": 0, "code": 11000 }], "ok": 1.0 },
            rawdoc! { "n": 1, "writeConcernError": { "code": 64 }, "ok": 1.0 },
        ] {
            assert_eq!(mended(&body, &topology), (false, body));
        }
    }

    #[test]
    fn state_changes_bear_our_topology() {
        let topology = Topology::new(Shutdown::new());
        let theirs = rawdoc! { "processId": ObjectId::new(), "counter": 6_i64 };
        let odd = rawdoc! { "processId": ObjectId::new(), "counter": 6 };
        let error = || rawdoc! { "ok": 0.0, "errmsg": "not primary", "code": 10107 };
        let with = |version: RawDocumentBuf| {
            let mut error = error();
            error.append(cstr!("topologyVersion"), version);
            error
        };
        for body in [error(), with(theirs), with(odd)] {
            let (is_change, reply) = mended(&body, &topology);
            assert!(is_change);
            let version = reply.get_document("topologyVersion").unwrap();
            assert_eq!(version.as_bytes(), topology.version().as_bytes());
            assert_eq!(reply.get_i32("code").unwrap(), 10107);
        }
    }

    #[test]
    fn state_changes_inside_of_good_replies_are_noticed() {
        let topology = Topology::new(Shutdown::new());
        let error = rawdoc! { "index": 0, "code": 189, "errmsg": "x" };
        let body = rawdoc! { "n": 0, "writeErrors": [{ "code": 1 }, error.clone()], "ok": 1.0 };
        let (is_change, reply) = mended(&body, &topology);
        assert!(is_change);
        let errors = reply.get_array("writeErrors").unwrap();
        assert_eq!(errors.get_document(1).unwrap(), &*error);
        let error = rawdoc! { "code": 91, "errInfo": { "a": 1 } };
        let body = rawdoc! { "n": 1, "writeConcernError": error, "ok": 1.0 };
        let (is_change, reply) = mended(&body, &topology);
        assert!(is_change);
        let told = rawdoc! { "code": 6, "errInfo": { "a": 1 } };
        assert_eq!(reply.get_document("writeConcernError").unwrap(), &*told);
    }

    #[test]
    fn cursor_of_a_large_reply_is_found_wherever_it_is_cut() {
        let topology = Topology::new(Shutdown::new());
        let text = "x".repeat(900);
        let batch = || rawdoc! { "a": text.as_str() };
        for (cursor, id) in [
            (
                rawdoc! { "firstBatch": [batch(), batch()], "id": 77_i64, "ns": "a.b" },
                Some(77),
            ),
            (
                rawdoc! { "nextBatch": [batch()], "postBatchResumeToken": { "_data": "x" }, "id": 0_i64, "ns": "a.b" },
                Some(0),
            ),
            (
                rawdoc! { "id": 5_i64, "ns": "a.b", "firstBatch": [batch()] },
                Some(5),
            ),
            (rawdoc! { "ns": "a.b", "nothing": 1 }, None),
        ] {
            let mut bytes = Vec::new();
            let body = rawdoc! { "cursor": cursor, "ok": 1.0 };
            encode_message(&mut bytes, 3, 2, 0, body.as_bytes());
            let header = Header::parse(&bytes, MESSAGE_BYTES_MAX).unwrap().unwrap();
            assert_eq!(mend(&mut bytes, &header, &topology).unwrap().cursor, id);
            for step in [1, 7, 100, bytes.len()] {
                let mut tail = CursorTail::begin(&bytes[..bytes.len().min(HEAD_BYTES)]);
                for piece in bytes.chunks(step) {
                    tail.pass(piece);
                }
                assert_eq!(tail.id(), id);
            }
        }
    }
}
