//! Messages that the gateway itself sends.

use super::{
    Header,
    header::{HEADER_BYTES, Opcode, patch_i32},
};

/// Flag of `OP_REPLY`: the server can await data; every modern server sets it.
const AWAIT_CAPABLE: i32 = 8;

/// Appends an `OP_MSG` of one body to `out`.
pub(crate) fn encode_message(
    out: &mut Vec<u8>,
    request_id: i32,
    response_to: i32,
    flags: u32,
    body: &[u8],
) {
    let start = out.len();
    out.reserve(HEADER_BYTES + 5 + body.len());
    Header::put(out, request_id, response_to, Opcode::Message);
    out.extend_from_slice(&flags.to_le_bytes());
    out.push(0);
    out.extend_from_slice(body);
    close(out, start);
}

/// Appends an `OP_REPLY` of one document to `out`.
pub(crate) fn encode_reply(out: &mut Vec<u8>, request_id: i32, response_to: i32, body: &[u8]) {
    let start = out.len();
    out.reserve(HEADER_BYTES + 20 + body.len());
    Header::put(out, request_id, response_to, Opcode::Reply);
    out.extend_from_slice(&AWAIT_CAPABLE.to_le_bytes());
    // No cursor, and the first document returned is number 0.
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(&1_i32.to_le_bytes());
    out.extend_from_slice(body);
    close(out, start);
}

/// Writes the length of the message that began at `start`.
fn close(out: &mut [u8], start: usize) {
    let length = i32::try_from(out.len() - start).unwrap_or(i32::MAX);
    patch_i32(out, start, length);
}
