//! Replies as they came, cut into frames, and what of them may differ.

/// What one client heard.
#[derive(Default)]
pub(crate) struct Heard {
    /// Replies and acknowledgements, in order.
    pub(crate) replies: Vec<Vec<u8>>,
    /// Messages of subscriptions, in order.
    pub(crate) messages: Vec<Vec<u8>>,
}

/// The length of the frame at the start of `bytes`.
pub(crate) fn frame(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || {
        std::str::from_utf8(&bytes[1..line - 2])
            .unwrap()
            .parse::<i64>()
    };
    match bytes[0] {
        b'$' | b'=' | b'!' => {
            let Ok(length) = usize::try_from(number().unwrap()) else {
                return Some(line);
            };
            let end = line + length + 2;
            (bytes.len() >= end).then_some(end)
        }
        kind @ (b'*' | b'%' | b'~' | b'>') => {
            let count = usize::try_from(number().unwrap()).unwrap_or(0);
            let mut end = line;
            for _ in 0..(if kind == b'%' { count * 2 } else { count }) {
                end += frame(&bytes[end..])?;
            }
            Some(end)
        }
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => Some(line),
        other => panic!("not a reply: {:?} in {}", char::from(other), shown(bytes)),
    }
}

/// Cuts what came into what has an order and what has its own.
pub(crate) fn sort(frames: Vec<Vec<u8>>) -> Heard {
    let mut heard = Heard::default();
    for frame in frames {
        if is_message(&frame) {
            // Through the gateway it comes on another connection, so it may overtake replies and
            // be overtaken: DESIGN, "self-publish". Among themselves messages keep their order.
            heard.messages.push(frame);
        } else {
            heard.replies.push(without_name(without_id(frame)));
        }
    }
    heard
}

/// For the eye.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    if text.len() <= 400 {
        return text;
    }
    format!("{}… ({} bytes)", &text[..400], bytes.len())
}

fn is_message(frame: &[u8]) -> bool {
    [
        &b"3\r\n$7\r\nmessage\r\n"[..],
        b"4\r\n$8\r\npmessage\r\n",
        b"3\r\n$8\r\nsmessage\r\n",
    ]
    .iter()
    .any(|head| frame.get(1..).is_some_and(|rest| rest.starts_with(head)))
}

/// The server takes leave of channels in the order of a hash table with a seed of its own.
fn without_name(frame: Vec<u8>) -> Vec<u8> {
    let kinds = [
        &b"3\r\n$11\r\nunsubscribe\r\n"[..],
        b"3\r\n$12\r\npunsubscribe\r\n",
        b"3\r\n$12\r\nsunsubscribe\r\n",
    ];
    let is_one = |head: &&[u8]| frame.get(1..).is_some_and(|rest| rest.starts_with(head));
    let Some(head) = kinds.iter().find(|head| is_one(head)) else {
        return frame;
    };
    let count = frame.iter().rposition(|byte| *byte == b':').unwrap();
    [&frame[..=head.len()], &frame[count..]].concat()
}

/// The id in the reply to HELLO is the gateway's own.
fn without_id(frame: Vec<u8>) -> Vec<u8> {
    const SERVER: &[u8] = b"$6\r\nserver\r\n$5\r\nredis\r\n";
    const ID: &[u8] = b"$2\r\nid\r\n:";
    if !frame.windows(SERVER.len()).any(|part| part == SERVER) {
        return frame;
    }
    let Some(at) = frame.windows(ID.len()).position(|part| part == ID) else {
        return frame;
    };
    let (head, rest) = frame.split_at(at + ID.len());
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    [head, &rest[digits..]].concat()
}
