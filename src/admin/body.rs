//! Request bodies: JSON objects whose keys may be written in camelCase or in `snake_case`.

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::request::Parts,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    answer::{ApiError, Code},
    gate::Limits,
};

/// A parsed body. An absent one is an empty object.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let limit = request
            .extensions()
            .get::<Limits>()
            .map_or(0, |limits| limits.body_bytes_max);
        let bytes = to_bytes(request.into_body(), limit)
            .await
            .map_err(|_| too_large(limit))?;
        parse(&bytes).map(Self)
    }
}

/// The query part of the request, likewise in either case.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Query::<T>::try_from_uri(&parts.uri)
            .map(|Query(params)| Self(params))
            .map_err(|_| ApiError::new(Code::BadRequest, "the query part cannot be read"))
    }
}

/// An id in the path; what is none names nothing.
pub(super) fn parse_id(text: &str) -> Result<Uuid, ApiError> {
    Uuid::parse_str(text)
        .map_err(|_| ApiError::new(Code::NotFound, format!("'{text}' is not an id")))
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        Code::TooLarge,
        format!("the body exceeds {limit} bytes, or broke off"),
    )
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bad = |message: String| ApiError::new(Code::BadRequest, message);
    let bytes: &[u8] = if bytes.trim_ascii().is_empty() {
        b"{}"
    } else {
        bytes
    };
    // serde_json's own message would quote a part of the body, which may be a secret.
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        bad(format!(
            "the body is not JSON: line {}, column {}",
            error.line(),
            error.column()
        ))
    })?;
    let Value::Object(object) = value else {
        return Err(bad("the body must be a JSON object".into()));
    };
    let mut keyed = Map::new();
    for (key, value) in object {
        if keyed.insert(snake_case(&key), value).is_some() {
            return Err(bad(format!("'{key}' is given twice")));
        }
    }
    serde_json::from_value(Value::Object(keyed)).map_err(|error| wrong_field(&error.to_string()))
}

/// serde's message names the field, or the type of a value but for texts also the value: that part is cut.
fn wrong_field(message: &str) -> ApiError {
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (field, expected) = rest.split_once('`').unwrap_or((rest, ""));
        let known = expected.split('`').skip(1).step_by(2);
        let nearest = known
            .map(|name| (strsim::osa_distance(field, name), name))
            .min()
            .filter(|(distance, _)| *distance <= 3);
        let advice =
            nearest.map_or_else(String::new, |(_, name)| format!("; did you mean '{name}'?"));
        return ApiError::new(
            Code::UnknownField,
            format!("unknown field '{field}'{advice}"),
        );
    }
    let told = match message.split_once("string \"") {
        Some((_, rest)) => match rest.rsplit_once('"') {
            Some((_, tail)) => format!("wrong type of a field: a string{tail}"),
            None => "wrong type of a field".to_owned(),
        },
        None => message.to_owned(),
    };
    ApiError::new(Code::BadRequest, told)
}

fn snake_case(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 4);
    for letter in key.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors are looked at")]
    struct Sample {
        connection_string: Option<String>,
        port: Option<u16>,
    }

    #[test]
    fn both_cases_are_read_and_unknown_fields_are_named() {
        parse::<Sample>(br#"{"connectionString":"x"}"#).unwrap();
        parse::<Sample>(br#"{"connection_string":"x"}"#).unwrap();
        parse::<Sample>(b"").unwrap();
        let twice = br#"{"connection_string":"x","connectionString":"y"}"#;
        assert!(parse::<Sample>(twice).is_err());
        let error = parse::<Sample>(br#"{"conectionString":"x"}"#).unwrap_err();
        assert_eq!(error.code, Code::UnknownField);
        assert!(
            error.message.ends_with("did you mean 'connection_string'?"),
            "{}",
            error.message
        );
    }

    #[test]
    fn values_are_not_repeated_in_errors() {
        for body in [
            r#"{"port":"canary"}"#,
            r#"{"port": canary}"#,
            r#"["canary"]"#,
        ] {
            let error = parse::<Sample>(body.as_bytes()).unwrap_err();
            assert!(!error.message.contains("canary"), "{}", error.message);
        }
    }
}
