//! Questions and answers of the DNS (RFC 1035), as far as `SRV` and `TXT` need them: pure and bounded.

/// Bytes of a message's head.
const HEAD_BYTES: usize = 12;
/// Bytes of a name with its dots.
const NAME_BYTES_MAX: usize = 253;
/// Pieces that a name in an answer may consist of, references to other places included.
const PIECES_MAX: usize = 128;
/// The class of the internet.
const INTERNET: u16 = 1;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Texts.
    Text,
    /// Hosts of a service (RFC 2782).
    Service,
}

impl Kind {
    const fn number(self) -> u16 {
        match self {
            Self::Text => 16,
            Self::Service => 33,
        }
    }
}

/// One record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Seconds for which it holds.
    pub seconds: u32,
    /// What it says.
    pub data: Data,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A text; its pieces are put together.
    Text(String),
    /// A host of a service.
    Service {
        /// The host's name, without a dot at its end.
        host: String,
        /// The port.
        port: u16,
    },
}

/// What a name server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// These records; none, if there are none.
    Records(Vec<Record>),
    /// More than fits into one datagram.
    Cut,
    /// It cannot say.
    Failed(u8),
}

/// The question for a name; none, if it is not one.
pub(super) fn question(id: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    let name = name.trim_end_matches('.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return None;
    }
    // Recursion is desired; one question.
    let mut out = id.to_be_bytes().to_vec();
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..64).contains(length))?;
        out.push(length);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.number().to_be_bytes());
    out.extend_from_slice(&INTERNET.to_be_bytes());
    Some(out)
}

/// Reads what came back for a question; nothing, if it is no answer to it.
pub(super) fn answer(bytes: &[u8], question: &[u8], kind: Kind) -> Option<Answer> {
    let asked = question.get(HEAD_BYTES..)?;
    let head = bytes.get(..HEAD_BYTES)?;
    let is_answer = head.get(2)? & 0x80 != 0;
    // Servers may give the name back in another case.
    let echoed = bytes.get(HEAD_BYTES..HEAD_BYTES + asked.len())?;
    if head.get(..2) != question.get(..2) || !is_answer || !echoed.eq_ignore_ascii_case(asked) {
        return None;
    }
    if head.get(2)? & 0x02 != 0 {
        return Some(Answer::Cut);
    }
    match head.get(3)? & 0x0F {
        0 => {}
        // There is no such name.
        3 => return Some(Answer::Records(Vec::new())),
        code => return Some(Answer::Failed(code)),
    }
    let mut at = HEAD_BYTES + asked.len();
    let mut records = Vec::new();
    for _ in 0..u16_at(bytes, 6)? {
        (_, at) = name_at(bytes, at)?;
        let seconds = u32::from_be_bytes(*bytes.get(at + 4..)?.first_chunk::<4>()?);
        let data_at = at + 10;
        let end = data_at + usize::from(u16_at(bytes, at + 8)?);
        bytes.get(data_at..end)?;
        // Others are those of an alias on the way.
        if u16_at(bytes, at)? == kind.number() && u16_at(bytes, at + 2)? == INTERNET {
            let data = match kind {
                Kind::Text => text_in(bytes.get(data_at..end)?)?,
                Kind::Service => Data::Service {
                    port: u16_at(bytes, data_at + 4)?,
                    host: name_at(bytes, data_at + 6)?.0,
                },
            };
            records.push(Record { seconds, data });
        }
        at = end;
    }
    Some(Answer::Records(records))
}

fn text_in(mut rest: &[u8]) -> Option<Data> {
    let mut text = Vec::new();
    while let Some((length, tail)) = rest.split_first() {
        let (piece, tail) = tail.split_at_checked(usize::from(*length))?;
        text.extend_from_slice(piece);
        rest = tail;
    }
    Some(Data::Text(String::from_utf8(text).ok()?))
}

/// The name at a place, and the place after it.
fn name_at(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut after = None;
    for _ in 0..PIECES_MAX {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some((name, after.unwrap_or(at + 1))),
            1..64 => {
                let end = at + 1 + usize::from(length);
                let label = std::str::from_utf8(bytes.get(at + 1..end)?).ok()?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(label);
                if name.len() > NAME_BYTES_MAX {
                    return None;
                }
                at = end;
            }
            // The rest of the name is elsewhere.
            192.. => {
                after.get_or_insert(at + 2);
                at = usize::from(u16_at(bytes, at)? & 0x3FFF);
            }
            _ => return None,
        }
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk::<2>()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answered(kind: Kind, data: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let question = question(7, "a.Example.com.", kind).unwrap();
        let mut bytes = question.clone();
        bytes[2] |= 0x80;
        bytes[7] = 1;
        bytes.extend_from_slice(&[0xC0, 12]);
        bytes.extend_from_slice(&kind.number().to_be_bytes());
        bytes.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
        bytes.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(data);
        (question, bytes)
    }

    #[test]
    fn hosts_and_texts_are_read_with_references() {
        // Host "db" and then what stands at 14: "Example.com".
        let (question, bytes) = answered(Kind::Service, b"\0\0\0\0\x69\x89\x02db\xC0\x0E");
        let data = Data::Service {
            host: "db.Example.com".into(),
            port: 27017,
        };
        let record = Record { seconds: 60, data };
        let found = answer(&bytes, &question, Kind::Service);
        assert_eq!(found, Some(Answer::Records(vec![record])));
        let (question, bytes) = answered(Kind::Text, b"\x03abc\x02de");
        let Some(Answer::Records(found)) = answer(&bytes, &question, Kind::Text) else {
            unreachable!("no records");
        };
        assert_eq!(found[0].data, Data::Text("abcde".into()));
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let (question, good) = answered(Kind::Text, b"\x01a");
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            answer(&bytes, &question, Kind::Text)
        };
        assert_eq!(with(1, 8), None, "another number");
        assert_eq!(with(2, 1), None, "a question");
        assert_eq!(with(13, b'b'), None, "another name");
        assert_eq!(with(2, 0x83), Some(Answer::Cut));
        assert_eq!(with(3, 2), Some(Answer::Failed(2)));
        assert_eq!(with(3, 3), Some(Answer::Records(Vec::new())));
    }

    #[test]
    fn names_that_lead_to_themselves_end() {
        let (question, bytes) = answered(Kind::Service, b"\0\0\0\0\0\x01\xC0\x31");
        assert_eq!(answer(&bytes, &question, Kind::Service), None);
        for name in ["", ".", "a..b", &"x".repeat(64), &"x.".repeat(128)] {
            assert!(super::question(1, name, Kind::Text).is_none(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(head in any::<[u8; 8]>(), rest in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (question, mut bytes) = answered(Kind::Service, b"");
            bytes[4..12].copy_from_slice(&head);
            bytes.extend_from_slice(&rest);
            let _read = answer(&bytes, &question, Kind::Service);
            let _read = answer(&rest, &question, Kind::Text);
        }
    }
}
