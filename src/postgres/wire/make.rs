//! Making messages: everything that we say to clients and upstreams ourselves.

use bytes::{BufMut, BytesMut};

use super::{
    body::split_cstr,
    startup::{CANCEL_CODE, VERSION_3_0},
};

/// Appends a message; its length is filled in after `body` has written the rest.
pub(crate) fn tagged(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    sized(out, body);
}

/// Appends a length word and what it covers.
fn sized(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_u32(0);
    body(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    if let Some(word) = out.get_mut(at..at + 4) {
        word.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends a zero-terminated text; zeros inside, which the protocol cannot carry, are left out.
fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    for part in text.split(|byte| *byte == 0) {
        out.put_slice(part);
    }
    out.put_u8(0);
}

/// An `AuthenticationRequest` of the given code with its data (the SASL messages).
pub(crate) fn authentication(out: &mut BytesMut, code: u32, data: &[u8]) {
    tagged(out, b'R', |out| {
        out.put_u32(code);
        out.put_slice(data);
    });
}

/// `AuthenticationOk`.
pub(crate) fn authentication_ok(out: &mut BytesMut) {
    authentication(out, 0, &[]);
}

/// `ParameterStatus`.
pub(crate) fn parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    tagged(out, b'S', |out| {
        put_cstr(out, name.as_bytes());
        put_cstr(out, value.as_bytes());
    });
}

/// `BackendKeyData`.
pub(crate) fn backend_key(out: &mut BytesMut, pid: u32, secret: &[u8]) {
    tagged(out, b'K', |out| {
        out.put_u32(pid);
        out.put_slice(secret);
    });
}

/// `ReadyForQuery` with its transaction status.
pub(crate) fn ready(out: &mut BytesMut, status: u8) {
    tagged(out, b'Z', |out| out.put_u8(status));
}

/// A message without a body.
pub(crate) fn data(out: &mut BytesMut, tag: u8) {
    tagged(out, tag, |_| {});
}

/// `NegotiateProtocolVersion` to a minor version, naming the options that are not known.
pub(crate) fn negotiate_minor(out: &mut BytesMut, minor: u32, unknown: &[String]) {
    tagged(out, b'v', |out| {
        // The whole version, as servers send it and libpq reads it.
        out.put_u32(VERSION_3_0 + minor);
        out.put_u32(u32::try_from(unknown.len()).unwrap_or(0));
        for name in unknown {
            put_cstr(out, name.as_bytes());
        }
    });
}

/// `ErrorResponse`.
pub(crate) fn error_response(
    out: &mut BytesMut,
    severity: &str,
    code: &str,
    message: &str,
    hint: Option<&str>,
) {
    tagged(out, b'E', |out| {
        let fields = [
            (b'S', severity),
            (b'V', severity),
            (b'C', code),
            (b'M', message),
        ];
        for (letter, text) in fields.into_iter().chain(hint.map(|text| (b'H', text))) {
            out.put_u8(letter);
            put_cstr(out, text.as_bytes());
        }
        out.put_u8(0);
    });
}

/// A simple Query.
pub(crate) fn query(out: &mut BytesMut, text: &str) {
    tagged(out, b'Q', |out| put_cstr(out, text.as_bytes()));
}

/// A Parse of the given name; `rest` is text, terminator and types, as [`super::parse`] cuts them.
pub(crate) fn parse_with_name(out: &mut BytesMut, name: &[u8], rest: &[u8]) {
    tagged(out, b'P', |out| {
        put_cstr(out, name);
        out.put_slice(rest);
    });
}

/// The same with `types`, if they are given, in the place of those in `rest`: how many, and their OIDs,
/// as `ParameterDescription` tells them.
pub(crate) fn parse_with_types(out: &mut BytesMut, name: &[u8], rest: &[u8], types: Option<&[u8]>) {
    let Some(types) = types else {
        return parse_with_name(out, name, rest);
    };
    let text = split_cstr(rest).map_or(rest, |(text, _)| text);
    tagged(out, b'P', |out| {
        put_cstr(out, name);
        put_cstr(out, text);
        out.put_slice(types);
    });
}

/// The head of a Bind with another statement name; `tail_bytes` of its body are still to follow.
///
/// `None` if the message would become too long.
pub(crate) fn bind_with_name(
    out: &mut BytesMut,
    portal: &[u8],
    name: &str,
    tail_bytes: usize,
) -> Option<()> {
    let length = u32::try_from(4 + portal.len() + name.len() + 2 + tail_bytes).ok()?;
    i32::try_from(length).ok()?;
    out.put_u8(b'B');
    out.put_u32(length);
    put_cstr(out, portal);
    put_cstr(out, name.as_bytes());
    Some(())
}

/// A Describe (`D`) or Close (`C`) of a statement.
pub(crate) fn named_message(out: &mut BytesMut, tag: u8, name: &[u8]) {
    tagged(out, tag, |out| {
        out.put_u8(b'S');
        put_cstr(out, name);
    });
}

/// A Close of a statement.
pub(crate) fn close_statement(out: &mut BytesMut, name: &[u8]) {
    named_message(out, b'C', name);
}

/// A text run by the extended protocol, under a name for its statement and portal that is closed
/// again: five messages, without a Sync. The text has no parameters.
pub(crate) fn run_apart(out: &mut BytesMut, name: &[u8], text: &[u8]) {
    tagged(out, b'P', |out| {
        put_cstr(out, name);
        put_cstr(out, text);
        out.put_u16(0);
    });
    tagged(out, b'B', |out| {
        put_cstr(out, name);
        put_cstr(out, name);
        out.put_slice(&[0; 6]);
    });
    tagged(out, b'E', |out| {
        put_cstr(out, name);
        out.put_u32(0);
    });
    for kind in [b'P', b'S'] {
        tagged(out, b'C', |out| {
            out.put_u8(kind);
            put_cstr(out, name);
        });
    }
}

/// A start-up message of version 3.0.
pub(crate) fn startup_message(out: &mut BytesMut, parameters: &[(&str, &str)]) {
    sized(out, |out| {
        out.put_u32(VERSION_3_0);
        for (name, value) in parameters {
            put_cstr(out, name.as_bytes());
            put_cstr(out, value.as_bytes());
        }
        out.put_u8(0);
    });
}

/// A cancel request.
pub(crate) fn cancel_request(out: &mut BytesMut, pid: u32, secret: &[u8]) {
    sized(out, |out| {
        out.put_u32(CANCEL_CODE);
        out.put_u32(pid);
        out.put_slice(secret);
    });
}

/// The first SASL message of a client.
pub(crate) fn sasl_initial(out: &mut BytesMut, mechanism: &str, first: &str) {
    tagged(out, b'p', |out| {
        put_cstr(out, mechanism.as_bytes());
        out.put_u32(u32::try_from(first.len()).unwrap_or(0));
        out.put_slice(first.as_bytes());
    });
}

/// A password message, or a later SASL message, as bytes.
pub(crate) fn password(out: &mut BytesMut, bytes: &[u8]) {
    tagged(out, b'p', |out| out.put_slice(bytes));
}
