//! RESP as bytes: cutting requests and replies, and rendering the few replies that are ours.
//!
//! Pure, bounded, without I/O. A request is cut into arguments, a reply only into its length: what a
//! reply means is between the client and its server. No error *texts* of commands live here; those
//! of the framing itself do, because they are part of the protocol.

mod elements;
mod inline;
mod number;
mod push;
mod render;
mod reply;
mod request;
mod value;

pub(super) use elements::{for_resp2, is_null, items, number_of, strings};
pub(super) use push::Push;
pub(super) use render::{
    NULL_ARRAY, Version, array, bulk, encode_command, integer, map, push, set, simple, verbatim,
};
pub(super) use reply::{ReplyFault, Scanner};
pub(super) use request::{Decoder, Limits, Step};
pub(super) use value::Value;

#[cfg(test)]
mod tests;
