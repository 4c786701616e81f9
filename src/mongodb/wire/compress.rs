//! `OP_COMPRESSED`: another message, compressed. Sizes are checked before anything is made room for.
//!
//! <https://github.com/mongodb/specifications/blob/master/source/compression/OP_COMPRESSED.md>

use std::io::{Read, Write as _};

use super::{
    Header, WireFault,
    header::{HEADER_BYTES, Opcode, i32_at, length_at, patch_i32},
};

/// Where the compressed bytes begin: after the header, the opcode, the size and the compressor.
const DATA_AT: usize = HEADER_BYTES + 9;
/// Smaller replies are not worth it. Requests are, however small: a server answers as it was asked.
const REPLY_BYTES_MIN: usize = 128;
/// The levels that the drivers' own defaults come to.
const ZSTD_LEVEL: i32 = 3;

/// A way to compress that is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compressor {
    /// Snappy, in its raw form.
    Snappy,
    /// Deflate with zlib's frame.
    Zlib,
    /// Zstandard.
    Zstd,
}

impl Compressor {
    /// All, as a server offers them by default.
    pub(crate) const ALL: [Self; 3] = [Self::Snappy, Self::Zstd, Self::Zlib];

    /// The name in the hello.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Snappy => "snappy",
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }

    /// The compressor of that name.
    pub(crate) fn parse(label: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|compressor| compressor.label() == label)
    }

    const fn id(self) -> u8 {
        match self {
            Self::Snappy => 1,
            Self::Zlib => 2,
            Self::Zstd => 3,
        }
    }

    fn of(id: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|compressor| compressor.id() == id)
    }
}

/// What was inside of a compressed message.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// The message, its header included.
    pub(crate) message: Vec<u8>,
    /// How it was compressed; `None`: not at all, which is legal.
    pub(crate) compressor: Option<Compressor>,
}

/// Takes a whole compressed message apart; what comes out may have `length_max` bytes.
pub(crate) fn unpack(
    bytes: &[u8],
    header: &Header,
    length_max: usize,
) -> Result<Unpacked, WireFault> {
    let cut = WireFault::Layout("a compressed message is cut");
    let bytes = bytes.get(..header.length).ok_or(cut.clone())?;
    let data = bytes.get(DATA_AT..).ok_or(cut.clone())?;
    if i32_at(bytes, HEADER_BYTES) != Some(Opcode::Message.code()) {
        return Err(WireFault::Layout("only messages may be compressed"));
    }
    let size = length_at(bytes, HEADER_BYTES + 4).ok_or(cut.clone())?;
    let length = size.saturating_add(HEADER_BYTES);
    if length > length_max {
        return Err(WireFault::Length {
            bytes: i64::try_from(length).unwrap_or(i64::MAX),
            max: length_max,
        });
    }
    let id = *bytes.get(HEADER_BYTES + 8).ok_or(cut)?;
    let mut message = Vec::new();
    Header::put(
        &mut message,
        header.request_id,
        header.response_to,
        Opcode::Message,
    );
    let compressor = Compressor::of(id);
    match (compressor, id) {
        (None, 0) => message.extend_from_slice(data),
        (None, _) => return Err(WireFault::Layout("an unknown compressor")),
        (Some(Compressor::Snappy), _) => unpack_snappy(data, size, &mut message)?,
        (Some(Compressor::Zlib), _) => {
            inflate(flate2::read::ZlibDecoder::new(data), size, &mut message)?;
        }
        (Some(Compressor::Zstd), _) => {
            // At once, because a stream's decoder makes room for whatever window the data asks for.
            let body = zstd::bulk::decompress(data, size);
            message.extend(body.map_err(|_| WireFault::Layout("zstd is wrong"))?);
        }
    }
    if message.len() != length {
        return Err(WireFault::Layout("a compressed message has another size"));
    }
    patch_i32(&mut message, 0, i32::try_from(length).unwrap_or(i32::MAX));
    Ok(Unpacked {
        message,
        compressor,
    })
}

fn unpack_snappy(data: &[u8], size: usize, message: &mut Vec<u8>) -> Result<(), WireFault> {
    let wrong = WireFault::Layout("snappy is wrong");
    // The data says its size too; room is made only for the one that was checked.
    if snap::raw::decompress_len(data).map_err(|_| wrong.clone())? != size {
        return Err(wrong);
    }
    message.resize(HEADER_BYTES + size, 0);
    let room = message.get_mut(HEADER_BYTES..).unwrap_or_default();
    let written = snap::raw::Decoder::new().decompress(data, room);
    written.map(|_| ()).map_err(|_| wrong)
}

/// Room is made as the bytes come, so a small message cannot claim a large one's.
fn inflate(decoder: impl Read, size: usize, message: &mut Vec<u8>) -> Result<(), WireFault> {
    let most = u64::try_from(size).unwrap_or(u64::MAX).saturating_add(1);
    decoder
        .take(most)
        .read_to_end(message)
        .map(|_| ())
        .map_err(|_| WireFault::Layout("compressed bytes are wrong"))
}

/// A whole reply, compressed; `None` when that is not worth it.
pub(crate) fn pack_reply(message: &[u8], compressor: Compressor) -> Option<Vec<u8>> {
    (message.len() >= REPLY_BYTES_MIN).then(|| pack(message, compressor))?
}

/// A whole message, compressed; `None` when that cannot be.
pub(crate) fn pack(message: &[u8], compressor: Compressor) -> Option<Vec<u8>> {
    let (header, body) = message.split_at_checked(HEADER_BYTES)?;
    let mut out = Vec::with_capacity(DATA_AT + body.len() / 2);
    out.extend_from_slice(header);
    patch_i32(&mut out, 12, Opcode::Compressed.code());
    out.extend_from_slice(header.get(12..)?);
    out.extend_from_slice(&i32::try_from(body.len()).ok()?.to_le_bytes());
    out.push(compressor.id());
    match compressor {
        Compressor::Snappy => out.extend(snap::raw::Encoder::new().compress_vec(body).ok()?),
        Compressor::Zlib => {
            let mut encoder = flate2::write::ZlibEncoder::new(out, flate2::Compression::default());
            encoder.write_all(body).ok()?;
            out = encoder.finish().ok()?;
        }
        Compressor::Zstd => {
            out.extend(zstd::bulk::compress(body, ZSTD_LEVEL).ok()?);
        }
    }
    let length = i32::try_from(out.len()).ok()?;
    patch_i32(&mut out, 0, length);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{MESSAGE_BYTES_MAX, encode_message},
        *,
    };

    fn message() -> Vec<u8> {
        let body = bson::rawdoc! { "insert": "c", "text": "abc".repeat(500), "$db": "app" };
        let mut bytes = Vec::new();
        encode_message(&mut bytes, 7, 3, 2, body.as_bytes());
        bytes
    }

    fn unpacked(bytes: &[u8], length_max: usize) -> Result<Unpacked, WireFault> {
        let header = Header::parse(bytes, MESSAGE_BYTES_MAX)?.unwrap();
        unpack(bytes, &header, length_max)
    }

    #[test]
    fn what_is_packed_comes_out_as_it_was() {
        for compressor in Compressor::ALL {
            let packed = pack(&message(), compressor).unwrap();
            assert!(packed.len() < message().len() / 3);
            let out = unpacked(&packed, MESSAGE_BYTES_MAX).unwrap();
            assert_eq!(out.message, message());
            assert_eq!(out.compressor, Some(compressor));
        }
    }

    #[test]
    fn sizes_are_checked_before_room_is_made() {
        for compressor in Compressor::ALL {
            let packed = pack(&message(), compressor).unwrap();
            let whole = message().len();
            assert!(unpacked(&packed, whole).is_ok());
            assert!(matches!(
                unpacked(&packed, whole - 1),
                Err(WireFault::Length { .. })
            ));
            // A size that is not the data's own, in both directions.
            for wrong in [
                whole - HEADER_BYTES - 1,
                whole - HEADER_BYTES + 1,
                40_000_000,
            ] {
                let mut lying = packed.clone();
                patch_i32(&mut lying, HEADER_BYTES + 4, i32::try_from(wrong).unwrap());
                assert!(unpacked(&lying, MESSAGE_BYTES_MAX).is_err());
            }
        }
    }

    #[test]
    fn rubbish_is_refused_whatever_it_is() {
        for compressor in Compressor::ALL {
            let packed = pack(&message(), compressor).unwrap();
            for at in HEADER_BYTES..packed.len() {
                let mut bytes = packed.clone();
                bytes[at] ^= 0x55;
                // It must neither panic nor grow beyond what was announced.
                if let Ok(out) = unpacked(&bytes, MESSAGE_BYTES_MAX) {
                    assert_eq!(out.message.len(), message().len());
                }
            }
            for end in HEADER_BYTES..packed.len() {
                let mut bytes = packed[..end].to_vec();
                patch_i32(&mut bytes, 0, i32::try_from(end).unwrap());
                assert!(unpacked(&bytes, MESSAGE_BYTES_MAX).is_err());
            }
        }
    }
}
