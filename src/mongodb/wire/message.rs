//! `OP_MSG`: its sections, and the body's top level in one pass.
//!
//! <https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/#op_msg>

use std::ops::Range;

use super::{
    Element, Elements, Header, WireFault,
    header::{
        CHECKSUM_PRESENT, EXHAUST_ALLOWED, HEADER_BYTES, MORE_TO_COME, Opcode, i32_at, length_at,
    },
};

/// Where the first section begins.
const SECTIONS_AT: usize = HEADER_BYTES + 4;
/// Bytes of the checksum at a message's end.
const CHECKSUM_BYTES: usize = 4;
/// Messages up to this size are judged whole.
const WHOLE_BYTES: usize = 64 * 1024;
/// Top-level fields of one command; the server's own commands have less than forty.
const FIELDS_MAX: usize = 128;
/// Bytes of the longest sequence name, its NUL included.
const SEQUENCE_NAME_BYTES: usize = 10;

/// The document sequences that commands take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sequence {
    /// Of `insert`.
    Documents,
    /// Of `update`.
    Updates,
    /// Of `delete`.
    Deletes,
    /// Of `bulkWrite`: the operations.
    Operations,
    /// Of `bulkWrite`: the namespaces.
    Namespaces,
}

impl Sequence {
    const ALL: [Self; 5] = [
        Self::Documents,
        Self::Updates,
        Self::Deletes,
        Self::Operations,
        Self::Namespaces,
    ];

    /// The name on the wire.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::Updates => "updates",
            Self::Deletes => "deletes",
            Self::Operations => "ops",
            Self::Namespaces => "nsInfo",
        }
    }

    fn of(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|sequence| sequence.label().as_bytes() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// One `OP_MSG`, its layout checked, borrowing from the bytes at hand.
#[derive(Debug, Clone)]
pub(crate) struct Message<'a> {
    /// The flag bits.
    pub(crate) flags: u32,
    /// Where the body is in the message.
    pub(crate) body_at: Range<usize>,
    /// The body.
    pub(crate) body: Body<'a>,
    namespaces: Option<&'a [u8]>,
}

impl<'a> Message<'a> {
    /// Where the body of a reply is: servers send one section.
    pub(crate) const REPLY_BODY_AT: usize = SECTIONS_AT + 1;

    /// Walks the sections. `bytes` are the message, or as much of it as [`judged_bytes`] wants.
    pub(crate) fn parse(bytes: &'a [u8], header: &Header) -> Result<Self, WireFault> {
        let flags = flags_of(bytes)?;
        let end = sections_end(bytes, header, flags)?;
        let mut body_at = None;
        let mut seen = 0_u8;
        let mut namespaces = None;
        let mut at = SECTIONS_AT;
        while at < end {
            let section = at + 1;
            let length = length_at(bytes, section)
                .filter(|length| *length >= 5 && section + length <= end)
                .ok_or(WireFault::Layout("a section reaches beyond its message"))?;
            let section_at = section..section + length;
            match bytes.get(at) {
                Some(0) if body_at.is_some() => return Err(WireFault::TwoBodies),
                Some(0) => body_at = Some(section_at.clone()),
                Some(1) => {
                    let (sequence, documents_at) = sequence_of(bytes, &section_at)?;
                    if seen & sequence.bit() != 0 {
                        return Err(WireFault::TwoSequences(sequence.label()));
                    }
                    seen |= sequence.bit();
                    if sequence == Sequence::Namespaces {
                        namespaces = bytes.get(documents_at);
                    }
                }
                _ => return Err(WireFault::Layout("unknown kind of section")),
            }
            at = section_at.end;
        }
        let body_at = body_at.ok_or(WireFault::NoBody)?;
        let body = Body::scan(bytes.get(body_at.clone()).unwrap_or_default())?;
        for sequence in Sequence::ALL {
            if seen & body.named_like_sequences & sequence.bit() != 0 {
                return Err(WireFault::SequenceIsField(sequence.label()));
            }
        }
        Ok(Self {
            flags,
            body_at,
            body,
            namespaces,
        })
    }

    /// The body of a reply, which has no `$db`.
    pub(crate) fn reply_body(bytes: &'a [u8], header: &Header) -> Result<&'a [u8], WireFault> {
        let flags = flags_of(bytes)?;
        let end = sections_end(bytes, header, flags)?;
        let at = Self::REPLY_BODY_AT;
        // Nothing was asked for that has several replies.
        if flags & MORE_TO_COME != 0 {
            return Err(WireFault::Flags(MORE_TO_COME));
        }
        let body = length_at(bytes, at).and_then(|length| bytes.get(at..end)?.get(..length));
        match (bytes.get(SECTIONS_AT), body) {
            (Some(0), Some(body)) => Ok(body),
            _ => Err(WireFault::NoBody),
        }
    }

    /// Whether the client waits for a reply.
    pub(crate) const fn wants_reply(&self) -> bool {
        self.flags & MORE_TO_COME == 0
    }

    /// Whether the client can take several replies.
    pub(crate) const fn allows_exhaust(&self) -> bool {
        self.flags & EXHAUST_ALLOWED != 0
    }

    /// The documents of the `nsInfo` sequence, back to back.
    pub(crate) const fn namespaces(&self) -> Option<&'a [u8]> {
        self.namespaces
    }
}

/// What routing and policy need of a command's body.
#[derive(Debug, Clone)]
pub(crate) struct Body<'a> {
    bytes: &'a [u8],
    command: Element<'a>,
    database: &'a str,
    /// `lsid`.
    pub(crate) session: Option<Element<'a>>,
    /// Where `txnNumber` is in the body.
    pub(crate) transaction_number: Option<Range<usize>>,
    /// Where `stmtId` or `stmtIds` is in the body.
    pub(crate) statement_id: Option<Range<usize>>,
    /// Whether `autocommit` is there, which makes it a statement of a transaction.
    pub(crate) in_transaction: bool,
    /// `$readPreference`.
    pub(crate) read_preference: Option<Element<'a>>,
    /// `maxTimeMS`.
    pub(crate) time_max: Option<Element<'a>>,
    /// Whether its cursor waits for data: `tailable` and `awaitData`.
    pub(crate) awaits_data: bool,
    named_like_sequences: u8,
}

impl<'a> Body<'a> {
    /// Scans the top level once; each field may occur once.
    pub(crate) fn scan(bytes: &'a [u8]) -> Result<Self, WireFault> {
        let mut fields = Fields::default();
        let mut command = None;
        let mut database = None;
        let mut session = None;
        let mut transaction_number = None;
        let mut statement_id = None;
        let mut in_transaction = false;
        let mut read_preference = None;
        let mut time_max = None;
        let (mut is_tailable, mut awaits_data) = (false, false);
        let mut named_like_sequences = 0;
        for element in Elements::new(bytes)? {
            let element = element?;
            fields.admit(bytes, element.name)?;
            match element.name {
                b"$db" => database = Some(element.text().ok_or(WireFault::DatabaseType)?),
                b"lsid" => session = Some(element.clone()),
                b"txnNumber" => transaction_number = Some(element.range.clone()),
                b"stmtId" | b"stmtIds" => statement_id = Some(element.range.clone()),
                b"autocommit" => in_transaction = true,
                b"$readPreference" => read_preference = Some(element.clone()),
                b"maxTimeMS" => time_max = Some(element.clone()),
                b"tailable" => is_tailable = element.truth(),
                b"awaitData" => awaits_data = element.truth(),
                name => {
                    if let Some(sequence) = Sequence::of(name) {
                        named_like_sequences |= sequence.bit();
                    }
                }
            }
            if command.is_none() {
                command = Some(element);
            }
        }
        let database = database.ok_or(WireFault::NoDatabase)?;
        if !is_database_name(database) {
            return Err(WireFault::DatabaseName(database.to_owned()));
        }
        Ok(Self {
            bytes,
            // `$db` is there, so a first element is.
            command: command.ok_or(WireFault::NoDatabase)?,
            database,
            session,
            transaction_number,
            statement_id,
            in_transaction,
            read_preference,
            time_max,
            awaits_data: is_tailable && awaits_data,
            named_like_sequences,
        })
    }

    /// The document's bytes.
    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The command's name: the first field's.
    pub(crate) const fn command(&self) -> &'a [u8] {
        self.command.name
    }

    /// The first field: the command and what it is applied to.
    pub(crate) const fn argument(&self) -> &Element<'a> {
        &self.command
    }

    /// `$db`.
    pub(crate) const fn database(&self) -> &'a str {
        self.database
    }

    /// A top-level field.
    pub(crate) fn field(&self, name: &str) -> Option<Element<'a>> {
        Elements::new(self.bytes).ok()?.find(name.as_bytes())
    }
}

/// Which names were seen: a bit per hash, so that a second look at the names is rare.
#[derive(Default)]
struct Fields {
    count: usize,
    hashes: u64,
}

impl Fields {
    /// Lets the next field of `document` in, if its name is new.
    fn admit(&mut self, document: &[u8], name: &[u8]) -> Result<(), WireFault> {
        let first = name.first().copied().unwrap_or_default();
        let last = name.last().copied().unwrap_or_default();
        let mixed = usize::from(first) * 31 + usize::from(last) * 7 + name.len();
        let bit = 1_u64 << (mixed % 64);
        if self.hashes & bit != 0 {
            let mut before = Elements::new(document)?.take(self.count).flatten();
            if before.any(|element| element.name == name) {
                let name = String::from_utf8_lossy(name).into_owned();
                return Err(WireFault::DuplicateField(name));
            }
        }
        self.hashes |= bit;
        self.count += 1;
        if self.count > FIELDS_MAX {
            return Err(WireFault::TooManyFields);
        }
        Ok(())
    }
}

/// How many of a message's bytes must be at hand before it can be judged and sent on.
///
/// Small messages are judged whole. Of a large one whose body comes first and is followed by one
/// document sequence, the body and the sequence's name are enough: the documents can stream. The
/// answer may grow as more bytes are known; it is reached when it is not above `prefix.len()`.
pub(crate) fn judged_bytes(prefix: &[u8], header: &Header) -> Result<usize, WireFault> {
    if header.length <= WHOLE_BYTES || header.opcode != Opcode::Message {
        return Ok(header.length);
    }
    if prefix.len() < SECTIONS_AT + 5 {
        return Ok(SECTIONS_AT + 5);
    }
    let whole = Ok(header.length);
    if flags_of(prefix)? & CHECKSUM_PRESENT != 0 || prefix.get(SECTIONS_AT) != Some(&0) {
        return whole;
    }
    let body_at = SECTIONS_AT + 1;
    let Some(body_end) = length_at(prefix, body_at).and_then(|length| length.checked_add(body_at))
    else {
        return Err(WireFault::Layout("a section of negative length"));
    };
    let judged = body_end.saturating_add(1 + 4 + SEQUENCE_NAME_BYTES);
    if judged > header.length {
        return whole;
    }
    if prefix.len() < judged {
        return Ok(judged);
    }
    let rest = header.length - body_end - 1;
    if prefix.get(body_end) == Some(&1) && length_at(prefix, body_end + 1) == Some(rest) {
        return Ok(judged);
    }
    whole
}

/// Whether the server would take it for a database's name.
fn is_database_name(name: &str) -> bool {
    const FORBIDDEN: &[char] = &['.', '/', '\\', ' ', '"', '$', '\0'];
    name == "$external" || (!name.is_empty() && name.len() <= 63 && !name.contains(FORBIDDEN))
}

fn flags_of(bytes: &[u8]) -> Result<u32, WireFault> {
    let flags = i32_at(bytes, HEADER_BYTES)
        .ok_or(WireFault::Layout("no room for flags"))?
        .cast_unsigned();
    let unknown = flags & 0xFFFF & !(CHECKSUM_PRESENT | MORE_TO_COME);
    if unknown == 0 {
        Ok(flags)
    } else {
        Err(WireFault::Flags(unknown))
    }
}

/// Where the sections end; verifies the checksum after them.
fn sections_end(bytes: &[u8], header: &Header, flags: u32) -> Result<usize, WireFault> {
    if flags & CHECKSUM_PRESENT == 0 {
        return Ok(header.length);
    }
    let end = header.length - CHECKSUM_BYTES;
    let (covered, checksum) = (bytes.get(..end), i32_at(bytes, end));
    match (covered, checksum) {
        (Some(covered), Some(checksum)) if crc32c::crc32c(covered) == checksum.cast_unsigned() => {
            Ok(end)
        }
        _ => Err(WireFault::Checksum),
    }
}

/// A document sequence's name and where its documents are.
fn sequence_of(
    bytes: &[u8],
    section_at: &Range<usize>,
) -> Result<(Sequence, Range<usize>), WireFault> {
    let name_at = section_at.start + 4;
    let known_end = section_at.end.min(bytes.len());
    let rest = bytes.get(name_at..known_end).unwrap_or_default();
    let name_bytes = memchr::memchr(0, rest)
        .ok_or(WireFault::Layout("a document sequence's name has no end"))?;
    let name = rest.get(..name_bytes).unwrap_or_default();
    let sequence = Sequence::of(name)
        .ok_or_else(|| WireFault::UnknownSequence(String::from_utf8_lossy(name).into_owned()))?;
    Ok((sequence, name_at + name_bytes + 1..section_at.end))
}
