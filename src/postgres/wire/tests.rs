//! Cutting and reading, over every cut and over nonsense.

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::fault::Refusal;

const STATEMENT_MAX: usize = 1 << 20;

/// Cuts a stream as a session does: the frames of all that is there.
fn cut(stream: &[u8]) -> Result<(Vec<Frame>, usize), Refusal> {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some(frame) = frontend_head(&stream[at..], STATEMENT_MAX)? {
        if frame.body(&stream[at..]).is_none() {
            break;
        }
        at += frame.bytes;
        frames.push(frame);
    }
    Ok((frames, at))
}

fn arbitrary_stream() -> impl Strategy<Value = Vec<u8>> {
    let short = prop::collection::vec(any::<u8>(), 0..40);
    prop::collection::vec((0_usize..9, short), 0..12).prop_map(|messages| {
        let mut out = BytesMut::new();
        for (kind, body) in messages {
            match b"QPBDCEdSH"[kind] {
                tag @ (b'S' | b'H') => data(&mut out, tag),
                tag => tagged(&mut out, tag, |out| out.put_slice(&body)),
            }
        }
        out.to_vec()
    })
}

proptest! {
    #[test]
    fn cut_at_every_byte_gives_the_same_frames(stream in arbitrary_stream()) {
        let (whole, _) = cut(&stream).unwrap();
        for at in 0..=stream.len() {
            let (mut frames, used) = cut(&stream[..at]).unwrap();
            frames.extend(cut(&stream[used..]).unwrap().0);
            prop_assert_eq!(&frames, &whole);
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(cut(&bytes));
        drop(backend_head(&bytes));
        std::hint::black_box(parse(&bytes));
        std::hint::black_box(bind(&bytes));
        std::hint::black_box(named(&bytes));
        std::hint::black_box(status_pair(&bytes));
        std::hint::black_box(error_fields(&bytes).count());
        std::hint::black_box(fields_of_row(&bytes).count());
        drop(read_startup(&bytes));
        drop(read_startup(&[&[0, 0, 0, 40, 0, 3, 0, 0][..], &bytes].concat()));
    }

    #[test]
    fn startup_survives_any_cut(pairs in prop::collection::vec(("[a-z_]{1,9}", "[ -~]{0,20}"), 0..9)) {
        let mut out = BytesMut::new();
        let borrowed: Vec<_> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        startup_message(&mut out, &borrowed);
        for at in 0..out.len() {
            prop_assert_eq!(read_startup(&out[..at]).unwrap(), None);
        }
        let (startup, used) = read_startup(&out).unwrap().unwrap();
        prop_assert_eq!(used, out.len());
        let wanted = StartupParameters { pairs, ..StartupParameters::default() };
        prop_assert_eq!(startup, Startup::Session(wanted));
    }
}

#[test]
fn lengths_outside_of_the_type_are_refused() {
    for length in [0_u32, 3, 0x8000_0000, u32::MAX] {
        let bytes = [&b"Q"[..], &length.to_be_bytes()].concat();
        assert_eq!(
            frontend_head(&bytes, STATEMENT_MAX),
            Err(Refusal::Malformed {
                what: "invalid message length"
            })
        );
        assert!(backend_head(&[&b"D"[..], &length.to_be_bytes()].concat()).is_err());
    }
    let sync = [&b"S"[..], &5_u32.to_be_bytes()].concat();
    assert!(matches!(
        frontend_head(&sync, STATEMENT_MAX),
        Err(Refusal::FrameTooLarge { .. })
    ));
    assert!(frontend_head(b"z\0\0\0\x04", STATEMENT_MAX).is_err());
}

#[test]
fn startup_codes_are_told_apart() {
    assert_eq!(read_startup(&SSL_REQUEST).unwrap(), Some((Startup::Ssl, 8)));
    let mut out = BytesMut::new();
    cancel_request(&mut out, 7, &[0, 0, 0, 9]);
    assert_eq!(
        read_startup(&out).unwrap(),
        Some((
            Startup::Cancel {
                pid: 7,
                secret: [0, 0, 0, 9].into()
            },
            16
        ))
    );
    let two = [0, 0, 0, 9, 0, 2, 0, 0, 0];
    assert!(matches!(
        read_startup(&two),
        Err(Refusal::Unsupported { .. })
    ));
    let newer = [0, 0, 0, 9, 0, 3, 0, 2, 0];
    let wanted = StartupParameters {
        minor: 2,
        ..StartupParameters::default()
    };
    assert_eq!(
        read_startup(&newer).unwrap(),
        Some((Startup::Session(wanted), 9))
    );
    assert!(read_startup(&[0, 0, 0x27, 0x11]).is_err());
}

#[test]
fn bind_is_rewritten_at_its_head_only() {
    let mut out = BytesMut::new();
    let body = b"portal\0mine\0tail of any length";
    let head = bind(body).unwrap();
    assert_eq!(
        (head.portal, head.statement),
        (&b"portal"[..], &b"mine"[..])
    );
    let tail = &body[head.names_bytes()..];
    bind_with_name(&mut out, head.portal, "pp_1", tail.len()).unwrap();
    out.put_slice(tail);
    let frame = frontend_head(&out, STATEMENT_MAX).unwrap().unwrap();
    assert_eq!(
        frame.body(&out).unwrap(),
        b"portal\0pp_1\0tail of any length"
    );
}

#[test]
fn messages_of_one_type_are_one_run() {
    let run = |buffer: &[u8]| run_of(buffer, backend_head(buffer).unwrap().unwrap());
    let rows = b"D\0\0\0\x05xD\0\0\0\x04D\0\0\0\x06yz";
    assert_eq!(run(rows), 18);
    assert_eq!(run(&[&rows[..], b"C\0\0\0\x04"].concat()), 18);
    assert_eq!(run(&rows[..16]), 18, "the last one is still coming");
    assert_eq!(run(&rows[..14]), 11, "of the last one not even the head");
    assert_eq!(
        run(b"D\0\0\0\x04D\0\0\0\x03"),
        5,
        "the bad one is for others to tell of"
    );
}
