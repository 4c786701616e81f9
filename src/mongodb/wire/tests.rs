//! The wire room against the crate `bson`, cut bytes and the server's own framing rules.

use bson::{Bson, RawDocumentBuf, doc, oid::ObjectId, rawdoc};
use proptest::prelude::*;

use super::{header::CHECKSUM_PRESENT, *};

/// An `OP_MSG` of the given sections, as raw bytes.
fn message(flags: u32, sections: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let length = 20 + sections.len() + if flags & CHECKSUM_PRESENT == 0 { 0 } else { 4 };
    for word in [i32::try_from(length).unwrap(), 7, 0, 2013] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(sections);
    if flags & CHECKSUM_PRESENT != 0 {
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    }
    out
}

fn body_section(document: &RawDocumentBuf) -> Vec<u8> {
    [&[0], document.as_bytes()].concat()
}

fn sequence_section(name: &str, documents: &[RawDocumentBuf]) -> Vec<u8> {
    let documents: Vec<u8> = documents
        .iter()
        .flat_map(|document| document.as_bytes().to_vec())
        .collect();
    let size = i32::try_from(4 + name.len() + 1 + documents.len()).unwrap();
    [
        &[1],
        &size.to_le_bytes()[..],
        name.as_bytes(),
        &[0],
        &documents,
    ]
    .concat()
}

fn header_of(bytes: &[u8]) -> Header {
    Header::parse(bytes, MESSAGE_BYTES_MAX).unwrap().unwrap()
}

fn parse(bytes: &[u8]) -> Result<Message<'_>, WireFault> {
    Message::parse(bytes, &header_of(bytes))
}

fn fault(bytes: &[u8]) -> WireFault {
    parse(bytes).unwrap_err()
}

/// A document with a field twice, which no encoder makes.
fn doubled(first: &RawDocumentBuf, second: &RawDocumentBuf) -> Vec<u8> {
    let inner = |document: &RawDocumentBuf| {
        let bytes = document.as_bytes();
        bytes[4..bytes.len() - 1].to_vec()
    };
    let elements = [inner(first), inner(second)].concat();
    let length = i32::try_from(elements.len() + 5).unwrap();
    [&length.to_le_bytes()[..], &elements, &[0]].concat()
}

fn ping() -> RawDocumentBuf {
    rawdoc! { "ping": 1, "$db": "admin" }
}

#[test]
fn body_is_found_wherever_it_stands() {
    let body = body_section(&rawdoc! { "insert": "c", "$db": "app", "txnNumber": 5_i64 });
    let documents = sequence_section("documents", &[rawdoc! { "_id": 1 }]);
    for sections in [
        [body.clone(), documents.clone()].concat(),
        [documents, body].concat(),
    ] {
        let bytes = message(0, &sections);
        let parsed = parse(&bytes).unwrap();
        assert_eq!(parsed.body.command(), b"insert");
        assert_eq!(parsed.body.argument().text(), Some("c"));
        assert_eq!(parsed.body.database(), "app");
        assert!(parsed.body.transaction_number.is_some());
        assert!(!parsed.body.in_transaction);
        assert!(parsed.wants_reply());
    }
}

#[test]
fn sections_are_refused_as_the_server_refuses_them() {
    let body = body_section(&rawdoc! { "insert": "c", "$db": "app" });
    let documents = sequence_section("documents", &[rawdoc! { "_id": 1 }]);
    let two = message(
        0,
        &[body.clone(), documents.clone(), documents.clone()].concat(),
    );
    assert_eq!(fault(&two), WireFault::TwoSequences("documents"));
    let two = message(0, &[body.clone(), body.clone()].concat());
    assert_eq!(fault(&two), WireFault::TwoBodies);
    assert_eq!(fault(&message(0, &documents)), WireFault::NoBody);
    assert_eq!(fault(&message(0, &[])), WireFault::NoBody);
    let both = body_section(&rawdoc! { "insert": "c", "documents": [], "$db": "app" });
    let both = message(0, &[both, documents].concat());
    assert_eq!(fault(&both), WireFault::SequenceIsField("documents"));
    let pipeline = sequence_section("pipeline", &[rawdoc! { "$out": "x" }]);
    let unknown = message(0, &[body.clone(), pipeline].concat());
    assert_eq!(
        fault(&unknown),
        WireFault::UnknownSequence("pipeline".into())
    );
    let kind = message(0, &[body, vec![2, 5, 0, 0, 0]].concat());
    assert!(fault(&kind).is_fatal());
}

#[test]
fn a_field_may_occur_once() {
    for field in ["$db", "pipeline", "x"] {
        let mut second = RawDocumentBuf::new();
        second.append(bson::raw::CString::try_from(field).unwrap(), "admin");
        let mut first = rawdoc! { "aggregate": "c" };
        first.append(bson::raw::CString::try_from(field).unwrap(), "app");
        if field != "$db" {
            first.append(bson::raw::CString::try_from("$db").unwrap(), "app");
        }
        let bytes = message(0, &[vec![0], doubled(&first, &second)].concat());
        assert_eq!(fault(&bytes), WireFault::DuplicateField(field.into()));
    }
}

#[test]
fn fields_are_bounded() {
    let mut body = ping();
    for index in 0..200 {
        body.append(
            bson::raw::CString::try_from(format!("f{index}")).unwrap(),
            1,
        );
    }
    assert_eq!(
        fault(&message(0, &body_section(&body))),
        WireFault::TooManyFields
    );
}

#[test]
fn database_is_needed_and_must_name_one() {
    let of = |document| fault(&message(0, &body_section(&document)));
    assert_eq!(of(rawdoc! { "ping": 1 }), WireFault::NoDatabase);
    assert_eq!(of(rawdoc! {}), WireFault::NoDatabase);
    assert_eq!(of(rawdoc! { "ping": 1, "$db": 3 }), WireFault::DatabaseType);
    for name in ["", "a.b", "a b", "a$", "a/b"] {
        let wrong = of(rawdoc! { "ping": 1, "$db": name });
        assert_eq!(wrong, WireFault::DatabaseName(name.into()));
    }
    let hidden = sequence_section("documents", &[rawdoc! { "$db": "app" }]);
    let body = body_section(&rawdoc! { "insert": "c" });
    assert_eq!(
        fault(&message(0, &[body, hidden].concat())),
        WireFault::NoDatabase
    );
}

#[test]
fn checksum_is_verified() {
    let mut bytes = message(CHECKSUM_PRESENT, &body_section(&ping()));
    assert_eq!(parse(&bytes).unwrap().body.command(), b"ping");
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(fault(&bytes), WireFault::Checksum);
}

#[test]
fn unknown_required_flags_are_fatal_and_optional_ones_are_not() {
    for bit in 2..16 {
        assert!(fault(&message(1 << bit, &body_section(&ping()))).is_fatal());
    }
    for bit in 16..32 {
        assert!(parse(&message(1 << bit, &body_section(&ping()))).is_ok());
    }
}

#[test]
fn lengths_outside_of_the_limits_are_fatal() {
    for length in [-1, 0, 15, 48_000_001, i32::MAX] {
        let mut bytes = message(0, &body_section(&ping()));
        bytes[..4].copy_from_slice(&i32::to_le_bytes(length));
        let fault = Header::parse(&bytes, MESSAGE_BYTES_MAX).unwrap_err();
        assert!(fault.is_fatal());
    }
    assert_eq!(Header::parse(&[0; 15], MESSAGE_BYTES_MAX), Ok(None));
}

#[test]
fn other_opcodes_are_fatal() {
    for code in [0_i32, 2001, 2002, 2005, 2006, 2014] {
        let mut bytes = message(0, &body_section(&ping()));
        bytes[12..16].copy_from_slice(&code.to_le_bytes());
        let fault = Header::parse(&bytes, MESSAGE_BYTES_MAX).unwrap_err();
        assert_eq!(fault, WireFault::Opcode(code));
    }
}

#[test]
fn large_message_is_judged_by_its_head() {
    let body = rawdoc! { "insert": "c", "$db": "app" };
    let large = rawdoc! { "_id": 1, "filler": "x".repeat(200_000) };
    let sequence = sequence_section("documents", &[large]);
    let bytes = message(0, &[body_section(&body), sequence.clone()].concat());
    let header = header_of(&bytes);
    let mut known = 16;
    loop {
        let judged = judged_bytes(&bytes[..known], &header).unwrap();
        if judged <= known {
            break;
        }
        known = judged;
    }
    assert!(known < 200, "judged after {known} bytes");
    let parsed = Message::parse(&bytes[..known], &header).unwrap();
    assert_eq!(parsed.body.command(), b"insert");
    // With the sequence first, or with a checksum, all of it is needed.
    let bytes = message(0, &[sequence.clone(), body_section(&body)].concat());
    assert_eq!(
        judged_bytes(&bytes[..64], &header_of(&bytes)),
        Ok(bytes.len())
    );
    let bytes = message(1, &[body_section(&body), sequence].concat());
    assert_eq!(
        judged_bytes(&bytes[..64], &header_of(&bytes)),
        Ok(bytes.len())
    );
}

#[test]
fn removed_fields_leave_a_right_message() {
    let whole = rawdoc! {
        "insert": "c", "lsid": {"id": 1}, "txnNumber": 5_i64, "ordered": true, "stmtId": 1, "$db": "app",
    };
    let documents = sequence_section("documents", &[rawdoc! { "_id": 1 }]);
    for flags in [0, CHECKSUM_PRESENT] {
        let sections = [body_section(&whole), documents.clone()].concat();
        let mut bytes = message(flags, &sections);
        let parsed = parse(&bytes).unwrap();
        let fields = [
            parsed.body.transaction_number.clone().unwrap(),
            parsed.body.statement_id.clone().unwrap(),
        ];
        let body_at = parsed.body_at.clone();
        let removed = remove_fields(&mut bytes, &body_at, fields.iter());
        let expected = rawdoc! { "insert": "c", "lsid": {"id": 1}, "ordered": true, "$db": "app" };
        let expected = message(
            flags,
            &[body_section(&expected), documents.clone()].concat(),
        );
        assert_eq!(bytes[removed..], expected);
        assert!(parse(&bytes[removed..]).is_ok());
    }
}

#[test]
fn cleared_flag_keeps_the_checksum_right() {
    let section = body_section(&ping());
    let mut bytes = message(CHECKSUM_PRESENT | EXHAUST_ALLOWED, &section);
    clear_flag(&mut bytes, EXHAUST_ALLOWED);
    assert_eq!(bytes, message(CHECKSUM_PRESENT, &section));
}

#[test]
fn what_we_encode_we_parse() {
    let body = rawdoc! { "ok": 1.0, "$db": "x" };
    let mut out = vec![1, 2, 3];
    encode_message(&mut out, 9, 7, MORE_TO_COME, body.as_bytes());
    let header = header_of(&out[3..]);
    assert_eq!((header.request_id, header.response_to), (9, 7));
    assert_eq!(header.length, out.len() - 3);
    assert!(!parse(&out[3..]).unwrap().wants_reply());
    let mut out = Vec::new();
    encode_reply(&mut out, 9, 7, body.as_bytes());
    assert_eq!(header_of(&out).opcode, Opcode::Reply);
    assert_eq!(&out[36..], body.as_bytes());
}

#[test]
fn legacy_hello_is_read() {
    let body = rawdoc! { "isMaster": 1, "helloOk": true };
    let mut bytes = vec![0; 16];
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(b"admin.$cmd\0");
    bytes.extend_from_slice(&[0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
    bytes.extend_from_slice(body.as_bytes());
    let header = Header {
        length: bytes.len(),
        request_id: 1,
        response_to: 0,
        opcode: Opcode::Query,
    };
    let query = Query::parse(&bytes, &header).unwrap();
    assert_eq!(query.command, b"isMaster");
    for cut in 16..bytes.len() {
        assert!(Query::parse(&bytes[..cut], &header).is_err());
    }
}

/// Values of every kind that `bson` can make.
fn value() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        any::<f64>().prop_map(Bson::Double),
        ".{0,20}".prop_map(Bson::String),
        any::<bool>().prop_map(Bson::Boolean),
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        any::<[u8; 12]>().prop_map(|bytes| Bson::ObjectId(ObjectId::from_bytes(bytes))),
        any::<i64>().prop_map(|millis| Bson::DateTime(bson::DateTime::from_millis(millis))),
        any::<[u8; 16]>().prop_map(|raw| Bson::Decimal128(bson::Decimal128::from_bytes(raw))),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| {
            Bson::Binary(bson::Binary {
                subtype: bson::spec::BinarySubtype::Generic,
                bytes,
            })
        }),
        Just(Bson::Null),
        Just(Bson::Undefined),
        Just(Bson::MinKey),
        Just(Bson::MaxKey),
        "[a-z]{0,8}".prop_map(Bson::JavaScriptCode),
        "[a-z]{0,8}".prop_map(Bson::Symbol),
        (any::<u32>(), any::<u32>())
            .prop_map(|(time, increment)| Bson::Timestamp(bson::Timestamp { time, increment })),
        "[a-z]{0,8}".prop_map(|code| {
            Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
                code,
                scope: doc! {"a": 1},
            })
        }),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
            proptest::collection::vec(("[a-z]{1,4}", inner), 0..4)
                .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn scanner_agrees_with_bson(fields in proptest::collection::vec(("[a-z]{1,6}", value()), 0..12)) {
        let document: bson::Document = fields.into_iter().collect();
        let raw = RawDocumentBuf::try_from(&document).unwrap();
        let bytes = raw.as_bytes();
        let ours: Vec<_> = Elements::new(bytes).unwrap().collect::<Result<_, _>>().unwrap();
        let theirs: Vec<_> = raw.iter_elements().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(ours.len(), theirs.len());
        let mut at = 4;
        for (our, their) in ours.iter().zip(&theirs) {
            prop_assert_eq!(our.name, their.key().as_str().as_bytes());
            prop_assert_eq!(our.range.start, at);
            at = our.range.end;
            match document.get(their.key().as_str()).unwrap() {
                Bson::String(text) => prop_assert_eq!(our.text(), Some(text.as_str())),
                Bson::Int32(number) => prop_assert_eq!(our.integer(), Some(i64::from(*number))),
                Bson::Int64(number) => prop_assert_eq!(our.integer(), Some(*number)),
                Bson::Boolean(truth) => prop_assert_eq!(our.truth(), *truth),
                Bson::Binary(binary) => prop_assert_eq!(our.binary(), Some(&binary.bytes[..])),
                Bson::Document(_) | Bson::Array(_) => prop_assert!(our.document().is_some()),
                _ => {}
            }
        }
        prop_assert_eq!(at, bytes.len() - 1);
    }

    #[test]
    fn rubbish_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 21..400)) {
        let length = i32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        for opcode in [Opcode::Message, Opcode::Query] {
            bytes[12..16].copy_from_slice(&opcode.code().to_le_bytes());
            let header = header_of(&bytes);
            drop(Message::parse(&bytes, &header));
            drop(Query::parse(&bytes, &header));
            drop(judged_bytes(&bytes, &header));
            bytes[16..20].copy_from_slice(&[0; 4]);
            drop(Message::parse(&bytes, &header));
        }
    }

    #[test]
    fn flipped_byte_never_panics(at in 0_usize..200, with in any::<u8>()) {
        let body = rawdoc! {
            "update": "c", "lsid": {"id": 1}, "txnNumber": 5_i64, "ordered": true, "$db": "app",
            "r": bson::RawBson::RegularExpression(bson::Regex {
                pattern: "a".try_into().unwrap(), options: "i".try_into().unwrap(),
            }),
        };
        let updates = sequence_section("updates", &[rawdoc! { "q": {}, "u": {"$set": {"a": 1}} }]);
        let mut bytes = message(0, &[body_section(&body), updates].concat());
        let at = 16 + at % (bytes.len() - 16);
        bytes[at] = with;
        let header = header_of(&bytes);
        drop(Message::parse(&bytes, &header));
    }

    #[test]
    fn cut_anywhere_gives_the_same_frames(cut in 0_usize..400, count in 1_usize..5) {
        let one = message(0, &body_section(&ping()));
        let stream = one.repeat(count);
        let cut = cut % stream.len();
        let mut known = Vec::new();
        let mut frames = 0;
        for chunk in [&stream[..cut], &stream[cut..]] {
            known.extend_from_slice(chunk);
            while let Some(header) = Header::parse(&known, MESSAGE_BYTES_MAX).unwrap() {
                if judged_bytes(&known, &header).unwrap() > known.len() {
                    break;
                }
                prop_assert_eq!(&known[..header.length], &one[..]);
                known.drain(..header.length);
                frames += 1;
            }
        }
        prop_assert_eq!(frames, count);
        prop_assert!(known.is_empty());
    }
}
