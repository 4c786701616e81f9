//! `OP_MSG` framing: messages out of documents, documents out of replies. No sockets here.
//!
//! <https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/>

use bson::RawDocument;
use bson::raw::RawBsonRef;

use crate::fault::Fault;

/// Bytes of a message's header: length, request id, response to, operation code.
pub(crate) const HEADER_BYTES: usize = 16;
/// Bytes before the body's document: header, flags and the section's kind.
const PREFIX_BYTES: usize = HEADER_BYTES + 5;
/// No reply is longer: the server's own `maxMessageSizeBytes`.
const MESSAGE_BYTES_MAX: usize = 48_000_000;
const OP_MSG: i32 = 2013;

/// A whole `OP_MSG` with `body` as its only section and request id 0.
pub(crate) fn message(body: &RawDocument) -> Vec<u8> {
    let length = PREFIX_BYTES + body.as_bytes().len();
    let mut out = Vec::with_capacity(length);
    out.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_le_bytes());
    out.extend_from_slice(&0_i32.to_le_bytes());
    out.extend_from_slice(&0_i32.to_le_bytes());
    out.extend_from_slice(&OP_MSG.to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    out.push(0);
    out.extend_from_slice(body.as_bytes());
    out
}

/// Writes `id` into a message as its request id.
pub(crate) fn set_request_id(message: &mut [u8], id: i32) {
    patch(message, 4, &id.to_le_bytes());
}

/// Overwrites `message` at `offset`; a place outside of it is left alone.
pub(crate) fn patch(message: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(place) = message.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// The length of the message that `input` begins with, once its header is there.
pub(crate) fn message_bytes(input: &[u8]) -> Result<Option<usize>, Fault> {
    let Some(length) = int32_at(input, 0) else {
        return Ok(None);
    };
    match usize::try_from(length) {
        Ok(length) if (PREFIX_BYTES..=MESSAGE_BYTES_MAX).contains(&length) => Ok(Some(length)),
        _ => Err(Fault::Wire(format!("a message of {length} bytes"))),
    }
}

/// The document of the reply to `request_id`, proven to be that and to say `ok: 1`.
pub(crate) fn reply(message: &[u8], request_id: i32) -> Result<&RawDocument, Fault> {
    let response_to = int32_at(message, 8);
    if response_to != Some(request_id) {
        return Err(Fault::Wire(format!(
            "responseTo {response_to:?} where {request_id} was asked"
        )));
    }
    if int32_at(message, 12) != Some(OP_MSG) {
        return Err(Fault::Wire("the reply is no OP_MSG".into()));
    }
    if int32_at(message, HEADER_BYTES) != Some(0) || message.get(HEADER_BYTES + 4) != Some(&0) {
        return Err(Fault::Wire("the reply has flags, or no body".into()));
    }
    let body = message.get(PREFIX_BYTES..).unwrap_or_default();
    let document = RawDocument::from_bytes(body).map_err(|error| Fault::Bson(error.to_string()))?;
    if is_ok(document) {
        return Ok(document);
    }
    Err(Fault::Server {
        code: document.get_i32("code").unwrap_or(0),
        message: document.get_str("errmsg").unwrap_or("not ok").to_owned(),
    })
}

fn is_ok(document: &RawDocument) -> bool {
    match document.get("ok") {
        Ok(Some(RawBsonRef::Double(ok))) => (ok - 1.0).abs() < f64::EPSILON,
        Ok(Some(RawBsonRef::Int32(ok))) => ok == 1,
        _ => false,
    }
}

fn int32_at(bytes: &[u8], offset: usize) -> Option<i32> {
    let four = bytes.get(offset..offset + 4)?;
    Some(i32::from_le_bytes(four.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    fn answer(body: &RawDocument, response_to: i32) -> Vec<u8> {
        let mut bytes = message(body);
        patch(&mut bytes, 8, &response_to.to_le_bytes());
        bytes
    }

    #[test]
    fn reply_to_the_request_is_read() {
        let bytes = answer(&rawdoc! { "n": 1, "ok": 1.0 }, 7);
        assert_eq!(message_bytes(&bytes).unwrap(), Some(bytes.len()));
        assert_eq!(reply(&bytes, 7).unwrap().get_i32("n").unwrap(), 1);
    }

    #[test]
    fn reply_to_another_request_is_a_fault() {
        let bytes = answer(&rawdoc! { "ok": 1.0 }, 8);
        assert!(matches!(reply(&bytes, 7), Err(Fault::Wire(_))));
    }

    #[test]
    fn error_reply_is_a_fault_with_its_code() {
        let bytes = answer(&rawdoc! { "ok": 0.0, "code": 13, "errmsg": "no" }, 7);
        assert!(matches!(
            reply(&bytes, 7),
            Err(Fault::Server { code: 13, .. })
        ));
    }

    #[test]
    fn no_cut_of_a_reply_panics() {
        let bytes = answer(&rawdoc! { "ok": 1.0 }, 7);
        for end in 0..bytes.len() {
            let cut = bytes.get(..end).unwrap_or_default();
            assert!(reply(cut, 7).is_err());
            assert!(message_bytes(cut).is_ok());
        }
        assert!(message_bytes(&[0xff; 16]).is_err());
    }
}
