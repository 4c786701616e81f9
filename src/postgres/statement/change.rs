//! What a single plain SET or RESET does to a parameter, where its text tells all of it.

use super::{
    deeds::{Piece, Reader},
    token::Token,
};

/// A change of the session's parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// `SET name = value`, for the session: the value as `set_config` takes it.
    Set(String, String),
    /// `RESET name`, `SET name TO DEFAULT`.
    Reset(String),
    /// `SET LOCAL name TO DEFAULT`.
    ResetLocal(String),
    /// `RESET ALL`, `DISCARD ALL`.
    ResetAll,
}

/// These have rules of their own, or no lasting value.
const SPECIAL: [&str; 7] = [
    "role",
    "session_authorization",
    "seed",
    "transaction_isolation",
    "transaction_read_only",
    "transaction_deferrable",
    "is_superuser",
];

/// Reads a text of one statement; `None` if it is no plain change.
pub(super) fn read(text: &[u8]) -> Option<Change> {
    read_one(&Reader::of(text).statement()?)
}

/// The parameters that are reset in a text before its last statement; `all` stands for all.
pub(super) fn resets(text: &[u8]) -> Vec<String> {
    let (mut found, mut last) = (Vec::new(), None);
    let mut reader = Reader::of(text);
    while let Some(pieces) = reader.statement() {
        if pieces.is_empty() {
            continue;
        }
        found.extend(last.take());
        last = match read_one(&pieces) {
            Some(Change::Reset(name) | Change::ResetLocal(name)) => Some(name),
            Some(Change::ResetAll) => Some("all".into()),
            Some(Change::Set(..)) | None => None,
        };
    }
    found
}

fn read_one(pieces: &[Piece<'_>]) -> Option<Change> {
    let (first, rest) = pieces.split_first()?;
    let all = |rest: &[Piece<'_>]| matches!(rest, [only] if only.is(b"all"));
    if first.is(b"discard") {
        return all(rest).then_some(Change::ResetAll);
    }
    if first.is(b"reset") {
        if all(rest) {
            return Some(Change::ResetAll);
        }
        let (name, rest) = name(rest)?;
        return rest.is_empty().then_some(Change::Reset(name));
    }
    if !first.is(b"set") {
        return None;
    }
    let local = rest.first().is_some_and(|piece| piece.is(b"local"));
    let session = rest.first().is_some_and(|piece| piece.is(b"session"));
    let (name, rest) = name(rest.get(usize::from(local || session)..)?)?;
    let rest = match rest {
        [sign, rest @ ..] if sign.is(b"to") || sign.token == Token::Sign(b'=') => rest,
        // Of TIME ZONE and NAMES.
        rest if matches!(name.as_str(), "timezone" | "client_encoding") => rest,
        _ => return None,
    };
    let default = matches!(rest, [only] if only.is(b"default")
        || name == "timezone" && only.is(b"local"));
    match (default, local) {
        (true, true) => Some(Change::ResetLocal(name)),
        (true, false) => Some(Change::Reset(name)),
        (false, true) => None,
        (false, false) => {
            let value = value(&name, rest)?;
            Some(Change::Set(name, value))
        }
    }
}

/// A parameter's name in lower case, and what follows it.
pub(super) fn name<'a, 'b>(pieces: &'b [Piece<'a>]) -> Option<(String, &'b [Piece<'a>])> {
    if let [time, zone, rest @ ..] = pieces
        && time.is(b"time")
        && zone.is(b"zone")
    {
        return Some(("timezone".into(), rest));
    }
    let (first, mut rest) = pieces.split_first()?;
    if first.is(b"names") {
        return Some(("client_encoding".into(), rest));
    }
    let text = |piece: &Piece<'_>| String::from_utf8(piece.name()?.to_vec()).ok();
    let mut name = text(first)?.to_ascii_lowercase();
    while let [dot, part, after @ ..] = rest
        && dot.token == Token::Sign(b'.')
    {
        name.push('.');
        name.push_str(&text(part)?.to_ascii_lowercase());
        rest = after;
    }
    (!SPECIAL.contains(&name.as_str())).then_some((name, rest))
}

/// The value as the server would store it.
fn value(name: &str, pieces: &[Piece<'_>]) -> Option<String> {
    let elements = pieces.split(|piece| piece.token == Token::Sign(b','));
    let elements: Option<Vec<String>> = elements.map(element).collect();
    let elements = elements?;
    if name == "search_path" {
        let quoted: Option<Vec<_>> = elements.iter().map(|element| identifier(element)).collect();
        return Some(quoted?.join(", "));
    }
    match &elements[..] {
        [only] => Some(only.clone()),
        _ => None,
    }
}

fn element(pieces: &[Piece<'_>]) -> Option<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    match pieces {
        [sign, number] if sign.token == Token::Sign(b'-') && number.token == Token::Sign(b'0') => {
            Some(format!("-{}", text(number.raw)?))
        }
        [only] => match (only.token, only.raw) {
            (Token::Sign(b'0'), raw) if raw.iter().all(u8::is_ascii_digit) => text(raw),
            (Token::Word(_), _) => text(&only.name()?),
            (Token::Text(_) | Token::Escaped(..), [b'\'', inner @ .., b'\''])
                if !inner.contains(&b'\\') =>
            {
                Some(text(inner)?.replace("''", "'"))
            }
            _ => None,
        },
        _ => None,
    }
}

/// As the server writes a name in a list; `None` where only its list of key words could tell.
fn identifier(name: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let starts = !name.starts_with(|letter: char| letter.is_ascii_digit());
    if name.starts_with("pg_temp") {
        // What is made there is temporary: the server is asked.
        return None;
    }
    if !name.is_empty() && starts && name.bytes().all(plain) {
        // Every key word of the server's is made of letters only, but for a few.
        let sure = name.bytes().any(|byte| byte.is_ascii_digit()) || SCHEMAS.contains(&name);
        return sure.then(|| name.to_owned());
    }
    Some(format!("\"{}\"", name.replace('"', "\"\"")))
}

/// Names of schemas that are no key words.
const SCHEMAS: [&str; 9] = [
    "public",
    "pg_catalog",
    "information_schema",
    "extensions",
    "auth",
    "app",
    "tenant",
    "api",
    "private",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Option<(String, String)> {
        match read(text.as_bytes())? {
            Change::Set(name, value) => Some((name, value)),
            Change::Reset(name) | Change::ResetLocal(name) => Some((name, "(reset)".into())),
            Change::ResetAll => Some(("(all)".into(), String::new())),
        }
    }

    #[test]
    fn plain_changes_are_read() {
        for (text, name, value) in [
            ("SET work_mem = '3MB';", "work_mem", "3MB"),
            ("set session X to -1", "x", "-1"),
            ("set time zone 'CET'", "timezone", "CET"),
            ("SET TimeZone TO local", "timezone", "(reset)"),
            ("set names 'it''s'", "client_encoding", "it's"),
            ("set my.own = Yes", "my.own", "yes"),
            (
                "set search_path to s1, \"A b\", public",
                "search_path",
                "s1, \"A b\", public",
            ),
            (
                "set search_path = '$user', ''",
                "search_path",
                "\"$user\", \"\"",
            ),
            ("reset TimeZone", "timezone", "(reset)"),
            ("set local a to default", "a", "(reset)"),
            ("discard all", "(all)", ""),
        ] {
            assert_eq!(set(text), Some((name.into(), value.into())), "{text}");
        }
    }

    #[test]
    fn what_a_text_resets_is_told() {
        let text = b"select 1; set time zone default; set a = 1; reset all;; reset My.Own;";
        assert_eq!(resets(text), ["timezone", "all"]);
    }

    #[test]
    fn others_are_asked_for() {
        for text in [
            "set role bob",
            "reset role",
            "set local a = 1",
            "set a = 1.5",
            "set a = b, c",
            "set a = E'x'",
            "set search_path = user",
            "set session characteristics as transaction read only",
            "set transaction read only",
            "discard plans",
            "set time zone interval '1' hour",
        ] {
            assert_eq!(set(text), None, "{text}");
        }
    }
}
