//! Properties of the decoders: where the bytes are cut into packets does not matter, no input
//! panics, and another implementation agrees on where frames end.

use bytes::BytesMut;
use proptest::prelude::*;

use super::{reply::ReplyFault, request::RequestFault, *};

const OPEN: Limits = Limits {
    args_max: 1024,
    arg_bytes_max: 1 << 20,
    before_login: false,
};

/// Decodes everything that arrives in the given pieces, as a session does.
fn commands(pieces: &[&[u8]], limits: Limits) -> Result<Vec<Vec<Vec<u8>>>, RequestFault> {
    let mut buffer = Vec::new();
    let mut decoder = Decoder::default();
    let mut found = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let bytes = match decoder.decode(&buffer, limits)? {
                Step::More => break,
                Step::Empty { bytes } => bytes,
                Step::Command { bytes } => {
                    let words = (0..decoder.len()).map(|at| decoder.arg(&buffer, at).to_vec());
                    found.push(words.collect());
                    bytes
                }
            };
            buffer.drain(..bytes);
        }
    }
    Ok(found)
}

/// Cuts replies out of what arrives in the given pieces; `hand_on` gives away what it can early.
fn replies(pieces: &[&[u8]], hand_on: bool) -> Result<Vec<(u8, Vec<u8>)>, ReplyFault> {
    let mut buffer = Vec::new();
    let mut scanner = Scanner::default();
    let (mut found, mut part) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(frame) = scanner.scan(&buffer)? {
            part.extend(buffer.drain(..frame.end));
            found.push((frame.kind, std::mem::take(&mut part)));
        }
        if hand_on {
            let settled = scanner.settled(&buffer);
            part.extend(buffer.drain(..settled));
            scanner.moved(settled);
        }
    }
    Ok(found)
}

fn arb_command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..6)
}

fn arb_reply() -> impl Strategy<Value = Vec<u8>> {
    let text = "[a-z ]{0,8}";
    let leaf = prop_oneof![
        text.prop_map(|text| format!("+{text}\r\n").into_bytes()),
        text.prop_map(|text| format!("-ERR {text}\r\n").into_bytes()),
        any::<i64>().prop_map(|value| format!(":{value}\r\n").into_bytes()),
        Just(b"$-1\r\n".to_vec()),
        Just(b"*-1\r\n".to_vec()),
        Just(b"_\r\n".to_vec()),
        Just(b"#t\r\n".to_vec()),
        Just(b",1.5\r\n".to_vec()),
        Just(b"=7\r\ntxt:abc\r\n".to_vec()),
        Just(b"(12345678901234567890\r\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..30).prop_map(|bytes| {
            [format!("${}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat()
        }),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        (
            prop::sample::select(vec![b'*', b'~', b'%']),
            prop::collection::vec(inner, 0..4),
        )
            .prop_map(|(kind, elements)| {
                let even = elements.len() / 2 * 2;
                let (count, used) = if kind == b'%' {
                    (even / 2, even)
                } else {
                    (elements.len(), elements.len())
                };
                let head = format!("{}{count}\r\n", char::from(kind)).into_bytes();
                [head, elements[..used].concat()].concat()
            })
    })
}

fn encoded(commands: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for words in commands {
        encode_command(&mut bytes, words);
    }
    bytes
}

proptest! {
    #[test]
    fn commands_do_not_depend_on_where_they_are_cut(
        sent in prop::collection::vec(arb_command(), 1..4),
    ) {
        let bytes = encoded(&sent);
        prop_assert_eq!(&commands(&[&bytes], OPEN).unwrap(), &sent);
        for at in 0..bytes.len() {
            let (head, tail) = bytes.split_at(at);
            prop_assert_eq!(&commands(&[head, tail], OPEN).unwrap(), &sent);
        }
        let single: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(&commands(&single, OPEN).unwrap(), &sent);
    }

    #[test]
    fn replies_do_not_depend_on_where_they_are_cut(
        sent in prop::collection::vec(arb_reply(), 1..4),
    ) {
        let bytes = sent.concat();
        let whole: Vec<_> = replies(&[&bytes], false).unwrap().into_iter().map(|(_, b)| b).collect();
        prop_assert_eq!(&whole, &sent);
        for at in 0..bytes.len() {
            let (head, tail) = bytes.split_at(at);
            for hand_on in [false, true] {
                let cut = replies(&[head, tail], hand_on).unwrap();
                prop_assert_eq!(cut.into_iter().map(|(_, b)| b).collect::<Vec<_>>(), sent.clone());
            }
        }
    }

    #[test]
    fn another_decoder_agrees_where_a_reply_ends(reply in arb_reply()) {
        let bytes = bytes::Bytes::from([&reply[..], b"+next\r\n"].concat());
        // It builds values, so it refuses `*-1` in RESP3, and aggregates as keys.
        if let Ok(other) = redis_protocol::resp3::decode::complete::decode_bytes(&bytes) {
            prop_assert_eq!(other.map(|(_, end)| end), Some(reply.len()));
        }
        let mut scanner = Scanner::default();
        prop_assert_eq!(scanner.scan(&bytes).unwrap().map(|frame| frame.end), Some(reply.len()));
    }

    #[test]
    fn another_decoder_agrees_where_a_command_ends(words in arb_command()) {
        let bytes = bytes::Bytes::from(encoded(&[words]));
        let (_, end) = redis_protocol::resp2::decode::decode_bytes(&bytes).unwrap().unwrap();
        prop_assert_eq!(Decoder::default().decode(&bytes, OPEN), Ok(Step::Command { bytes: end }));
    }

    #[test]
    fn noise_ends_in_an_answer(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(commands(&[&noise], OPEN));
        drop(replies(&[&noise], true));
    }

    #[test]
    fn noise_behind_a_marker_ends_in_an_answer(
        marker in prop::sample::select(b"*$%~>|=+-:_#,(!".to_vec()),
        noise in "[-0-9a\\r\\n$*%|]{0,40}",
    ) {
        let bytes = [&[marker], noise.as_bytes()].concat();
        drop(commands(&[&bytes], OPEN));
        drop(replies(&[&bytes], true));
    }
}

#[test]
fn framing_errors_are_the_servers() {
    use RequestFault as F;
    for (bytes, fault) in [
        (&b"*x\r\n"[..], F::MultibulkLength),
        (b"*2147483648\r\n", F::MultibulkLength),
        (b"*01\r\n", F::MultibulkLength),
        (b"*1\r\n:1\r\n", F::ExpectedBulk(b':')),
        (b"*1\r\n$-1\r\n", F::BulkLength),
        (b"*1\r\n$999999999\r\n", F::BulkLength),
        (b"*1\r\n$+4\r\n", F::BulkLength),
        (b"SET k \"a\r\n", F::UnbalancedQuotes),
        (b"*1\r\n$4\r\nPINGxx", F::ExpectedCrlf),
        (b"*1\rx", F::ExpectedCrlf),
    ] {
        assert_eq!(
            commands(&[bytes], OPEN),
            Err(fault),
            "{}",
            bytes.escape_ascii()
        );
    }
    assert_eq!(
        RequestFault::ExpectedBulk(b':').to_string(),
        "Protocol error: expected '$', got ':'"
    );
}

#[test]
fn endless_lines_are_refused() {
    for (head, fault) in [
        (&b"*1"[..], RequestFault::CountLine),
        (b"*1\r\n$", RequestFault::LengthLine),
        (b"\0", RequestFault::InlineLine),
        (b"get", RequestFault::InlineLine),
    ] {
        let bytes = [head, &vec![b'1'; 70_000]].concat();
        assert_eq!(commands(&[&bytes], OPEN), Err(fault));
    }
}

#[test]
fn before_login_commands_are_small() {
    let limits = Limits::BEFORE_LOGIN;
    assert_eq!(
        commands(&[b"*11\r\n"], limits),
        Err(RequestFault::UnauthenticatedMultibulkLength)
    );
    assert_eq!(
        commands(&[b"*1\r\n$16385\r\n"], limits),
        Err(RequestFault::UnauthenticatedBulkLength)
    );
}

#[test]
fn empty_requests_are_skipped() {
    let found = commands(&[b"\r\n\n*0\r\n*-1\r\n   \r\nPING\n*1\r\n$0\r\n\r\n"], OPEN).unwrap();
    assert_eq!(found, vec![vec![b"PING".to_vec()], vec![Vec::new()]]);
}

#[test]
fn inline_commands_are_told_apart() {
    let mut decoder = Decoder::default();
    let line = b"SET k \"a b\"\r\n";
    assert_eq!(
        decoder.decode(line, OPEN),
        Ok(Step::Command { bytes: line.len() })
    );
    assert!(!decoder.is_canonical());
    assert_eq!(decoder.arg(line, 2), b"a b");
}

#[test]
fn attributes_and_pushes_are_told_apart_from_replies() {
    let bytes = b"|1\r\n+ttl\r\n:3\r\n$1\r\nx\r\n>2\r\n+message\r\n*1\r\n|1\r\n+a\r\n+b\r\n:1\r\n|0\r\n:2\r\n";
    let found = replies(&[bytes], false).unwrap();
    assert_eq!(
        found.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
        b"$>:"
    );
    assert_eq!(found[0].1, b"|1\r\n+ttl\r\n:3\r\n$1\r\nx\r\n");
}

#[test]
fn a_table_that_holds_itself_is_one_reply() {
    let reply = [
        &b"*1\r\n".repeat(8000)[..],
        b"-ERR reached lua stack limit\r\n",
    ]
    .concat();
    assert_eq!(replies(&[&reply], false), Ok(vec![(b'*', reply)]));
}

#[test]
fn broken_replies_are_faults() {
    for (bytes, fault) in [
        (&b"?1\r\n"[..], ReplyFault::Type(b'?')),
        (b"*?\r\n", ReplyFault::Length),
        (b"$-2\r\n", ReplyFault::Length),
        (b"$1\r\nabc", ReplyFault::Crlf),
        (b"+OK\rx", ReplyFault::Crlf),
        (
            b"*9223372036854775807\r\n*9223372036854775807\r\n",
            ReplyFault::Length,
        ),
    ] {
        let found = replies(&[bytes], false);
        if fault != ReplyFault::Length || bytes.len() < 10 {
            assert_eq!(found, Err(fault), "{}", bytes.escape_ascii());
        }
    }
    let deep = b"*1\r\n".repeat(20_000);
    assert_eq!(replies(&[&deep], false), Err(ReplyFault::Depth));
}

#[test]
fn rendered_replies_are_whole_frames() {
    let mut out = BytesMut::new();
    map(&mut out, Version::Resp3, 1);
    bulk(&mut out, b"k");
    verbatim(&mut out, Version::Resp3, "text");
    simple(&mut out, "OK");
    integer(&mut out, 7);
    array(&mut out, 1);
    out.extend_from_slice(Version::Resp3.pick(NULL_ARRAY));
    let kinds: Vec<_> = replies(&[&out], false)
        .unwrap()
        .iter()
        .map(|(kind, _)| *kind)
        .collect();
    assert_eq!(kinds, b"%+:*");
}
