//! An upstream's reply: read as far as needed, and mended where it speaks of the upstream's topology.

use std::task::{Context, Poll, ready};

use bson::{RawDocument, cstr};

use super::{
    refusal::is_state_change,
    topology::Topology,
    upstream::Upstream,
    wire::{
        Elements, Header, MESSAGE_BYTES_MAX, Message, Opcode, WireFault, encode_message,
        renew_checksum,
    },
};

/// Replies up to this size are read whole, so that their upstream is free early.
const WHOLE_BYTES_MAX: usize = 64 * 1024;

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
pub(super) fn poll_incoming(context: &mut Context<'_>, upstream: &mut Upstream) -> Poll<Incoming> {
    loop {
        let known = upstream.intake.pending().len();
        let missing = match Header::parse(upstream.intake.pending(), MESSAGE_BYTES_MAX) {
            Err(_) => return Poll::Ready(Incoming::Broken),
            Ok(None) => 0,
            Ok(Some(header)) if header.opcode != Opcode::Message => {
                return Poll::Ready(Incoming::Broken);
            }
            Ok(Some(header)) if header.length <= known => {
                return Poll::Ready(Incoming::Whole(header));
            }
            Ok(Some(header)) if header.length > WHOLE_BYTES_MAX => {
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

/// What a reply was found to be.
pub(super) enum Mended {
    /// Fit to be handed on as it is now.
    Fit,
    /// The upstream is not, or no longer, what it was taken for; the reply is fit to be handed on.
    StateChange,
    /// The same, but the reply is this one.
    StateChangeAnew(Vec<u8>),
}

/// Makes the upstream's topology ours: a driver that cannot order a `topologyVersion` stands still
/// for ten seconds. In place where it fits; else the whole reply anew.
pub(super) fn mend(
    reply: &mut [u8],
    header: &Header,
    topology: &Topology,
) -> Result<Mended, WireFault> {
    let body = Message::reply_body(reply, header)?;
    let mut is_error = false;
    let mut code = 0;
    let mut version_at = None;
    for element in Elements::new(body)? {
        let element = element?;
        match element.name {
            b"ok" => is_error = !element.truth(),
            b"code" => code = element.integer().unwrap_or_default(),
            b"topologyVersion" => {
                version_at = Some(element.range.end - element.value.len()..element.range.end);
            }
            _ => {}
        }
    }
    let is_lacking = version_at.is_none() && is_error && is_state_change(code);
    if version_at.is_none() && !is_lacking {
        return Ok(Mended::Fit);
    }
    let ours = topology.version();
    let ours = ours.as_bytes();
    let body_at = Message::REPLY_BODY_AT;
    if let Some(at) = version_at.filter(|at| at.len() == ours.len())
        && let Some(slot) = reply.get_mut(body_at + at.start..body_at + at.end)
    {
        slot.copy_from_slice(ours);
        renew_checksum(reply);
        return Ok(Mended::StateChange);
    }
    anew(reply, header, topology).map(Mended::StateChangeAnew)
}

/// The reply again, with our topology in it.
fn anew(reply: &[u8], header: &Header, topology: &Topology) -> Result<Vec<u8>, WireFault> {
    let wrong = |_| WireFault::Bson("a reply's document is wrong");
    let body = Message::reply_body(reply, header)?;
    let mut out = bson::RawDocumentBuf::new();
    for element in RawDocument::from_bytes(body).map_err(|_| WireFault::Bson("a reply"))? {
        let (key, value) = element.map_err(wrong)?;
        if key.as_str() != "topologyVersion" {
            out.append(key, value);
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

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, oid::ObjectId, rawdoc};

    use super::*;
    use crate::shutdown::Shutdown;

    fn mended(body: &RawDocumentBuf, topology: &Topology) -> (bool, RawDocumentBuf) {
        let mut bytes = Vec::new();
        encode_message(&mut bytes, 3, 2, 0, body.as_bytes());
        let header = Header::parse(&bytes, MESSAGE_BYTES_MAX).unwrap().unwrap();
        let outcome = mend(&mut bytes, &header, topology).unwrap();
        let is_change = !matches!(outcome, Mended::Fit);
        if let Mended::StateChangeAnew(anew) = outcome {
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
}
