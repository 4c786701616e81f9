//! MongoDB's wire protocol, pure: headers, `OP_MSG`, the legacy `OP_QUERY` and `OP_REPLY`, and a
//! scanner of BSON's top level.
//!
//! Everything works on borrowed bytes, is bounded and cannot panic. What a command means is not
//! here (`policy`), nor is what a client is told when its bytes are wrong (`refusal`).

mod compress;
mod edit;
mod encode;
mod fault;
mod header;
mod message;
mod query;
mod scan;
#[cfg(test)]
mod tests;

pub(crate) use compress::{Compressor, pack, pack_reply, unpack};
pub(crate) use edit::{
    bears_checksum, clear_flag, lower_integer, remove_fields, renew_checksum, with_integer,
};
pub(crate) use encode::{encode_message, encode_reply};
pub(crate) use fault::WireFault;
pub(crate) use header::{
    EXHAUST_ALLOWED, HEADER_BYTES, Header, MESSAGE_BYTES_MAX, MORE_TO_COME, Opcode, length_at,
};
pub(crate) use message::{Body, Message, judged_bytes};
pub(crate) use query::Query;
pub(crate) use scan::{Element, Elements, Kind};
