//! Small edits of a message in place: fields out, flags off; lengths and checksum are kept right.

use std::ops::Range;

use super::header::{CHECKSUM_PRESENT, HEADER_BYTES, i32_at, patch_i32};

/// Takes fields out of a message's body and tells how many bytes the message became shorter.
///
/// The bytes before a field move towards the end, which leaves `bytes` with that much rubbish in
/// front: the message then begins there. What follows the body is not moved, so it need not be at
/// hand. `fields` are places in the body, ascending.
pub(crate) fn remove_fields<'a>(
    bytes: &mut [u8],
    body_at: &Range<usize>,
    fields: impl DoubleEndedIterator<Item = &'a Range<usize>>,
) -> usize {
    let mut removed = 0;
    // From the last to the first, so that the places of those not yet removed shift as one.
    for field in fields.rev() {
        let (from, to) = (body_at.start + field.start, body_at.start + field.end);
        let gone = field.len();
        if to + removed > bytes.len() {
            continue;
        }
        bytes.copy_within(removed..from + removed, removed + gone);
        removed += gone;
    }
    if removed > 0 {
        shorten(bytes, removed, 0);
        shorten(bytes, removed, body_at.start);
        if let Some(message) = bytes.get_mut(removed..) {
            renew_checksum(message);
        }
    }
    removed
}

/// A message of one body again, with a 32-bit number at the body's end. The name has no NUL.
pub(crate) fn with_integer(
    message: &[u8],
    body_at: &Range<usize>,
    name: &str,
    value: i32,
) -> Vec<u8> {
    let body = message.get(body_at.clone()).unwrap_or_default();
    let kept = body.split_last().map(|(_, kept)| kept).unwrap_or_default();
    let mut out = Vec::with_capacity(message.len() + name.len() + 6);
    let head = message.get(..HEADER_BYTES).unwrap_or_default();
    out.extend_from_slice(head);
    let flags = i32_at(message, HEADER_BYTES).unwrap_or_default();
    out.extend_from_slice(&(flags & !CHECKSUM_PRESENT.cast_signed()).to_le_bytes());
    out.push(0);
    let body_start = out.len();
    out.extend_from_slice(kept);
    out.push(0x10);
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.extend_from_slice(&value.to_le_bytes());
    out.push(0);
    let length = |from: usize| i32::try_from(out.len() - from).unwrap_or(i32::MAX);
    let (whole, inner) = (length(0), length(body_start));
    patch_i32(&mut out, 0, whole);
    patch_i32(&mut out, body_start, inner);
    out
}

/// Clears flag bits of a message.
pub(crate) fn clear_flag(message: &mut [u8], flag: u32) {
    let flags = i32_at(message, HEADER_BYTES).unwrap_or_default();
    patch_i32(message, HEADER_BYTES, flags & !flag.cast_signed());
    renew_checksum(message);
}

/// Lowers a number field to `max`; `field` is where its element is in the message.
pub(crate) fn lower_integer(message: &mut [u8], field: &Range<usize>, max: i64) {
    let Some(element) = message.get_mut(field.clone()) else {
        return;
    };
    // The value is what the element ends with.
    match element.first() {
        Some(0x10) => {
            if let Some(value) = element.last_chunk_mut::<4>()
                && i64::from(i32::from_le_bytes(*value)) > max
            {
                *value = i32::try_from(max).unwrap_or(i32::MAX).to_le_bytes();
            }
        }
        Some(0x12) => {
            if let Some(value) = element.last_chunk_mut::<8>()
                && i64::from_le_bytes(*value) > max
            {
                *value = max.to_le_bytes();
            }
        }
        Some(0x01) => {
            let max = f64::from(i32::try_from(max).unwrap_or(i32::MAX));
            if let Some(value) = element.last_chunk_mut::<8>()
                && f64::from_le_bytes(*value) > max
            {
                *value = max.to_le_bytes();
            }
        }
        _ => return,
    }
    renew_checksum(message);
}

/// Lowers the length at a place of the message that begins at `start`.
fn shorten(bytes: &mut [u8], start: usize, at: usize) {
    let length = i32_at(bytes, start + at).unwrap_or_default();
    let less = i32::try_from(start).unwrap_or_default();
    patch_i32(bytes, start + at, length - less);
}

/// Whether a message ends with a checksum.
pub(crate) fn bears_checksum(message: &[u8]) -> bool {
    let flags = i32_at(message, HEADER_BYTES).unwrap_or_default();
    flags.cast_unsigned() & CHECKSUM_PRESENT != 0
}

/// Computes the checksum again where there is one; such messages are always at hand whole.
pub(crate) fn renew_checksum(message: &mut [u8]) {
    let length = i32_at(message, 0).and_then(|length| usize::try_from(length).ok());
    let (Some(length), true) = (length, bears_checksum(message)) else {
        return;
    };
    let Some(end) = length.checked_sub(4) else {
        return;
    };
    if let Some(covered) = message.get(..end) {
        let checksum = crc32c::crc32c(covered).cast_signed();
        patch_i32(message, end, checksum);
    }
}
