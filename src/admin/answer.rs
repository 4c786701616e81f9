//! Answers and errors: `{"error": {"code", "message", "details", "retryable"}}`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    net::{DialFault, DialStep},
    registry::RegistryError,
};

/// What a handler gives.
pub(super) type Answer = Result<Response, ApiError>;

/// The codes that callers can rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BadRequest,
    UnknownField,
    InvalidConnectionString,
    Unauthorized,
    Forbidden,
    EgressDenied,
    NotFound,
    DatabaseNotFound,
    ProjectNotFound,
    MethodNotAllowed,
    Conflict,
    TooLarge,
    ConnectionFailed,
    InvalidCredentials,
    Timeout,
    RegistryUnavailable,
    Internal,
}

impl Code {
    const fn label(self) -> &'static str {
        match self {
            Self::BadRequest => "BAD_REQUEST",
            Self::UnknownField => "UNKNOWN_FIELD",
            Self::InvalidConnectionString => "INVALID_CONNECTION_STRING",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Forbidden => "FORBIDDEN",
            Self::EgressDenied => "EGRESS_DENIED",
            Self::NotFound => "NOT_FOUND",
            Self::DatabaseNotFound => "DB_NOT_FOUND",
            Self::ProjectNotFound => "PROJECT_NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::Conflict => "CONFLICT",
            Self::TooLarge => "TOO_LARGE",
            Self::ConnectionFailed => "DB_CONNECTION_FAILED",
            Self::InvalidCredentials => "DB_INVALID_CREDENTIALS",
            Self::Timeout => "DB_TIMEOUT",
            Self::RegistryUnavailable => "REGISTRY_UNAVAILABLE",
            Self::Internal => "INTERNAL",
        }
    }

    /// A failed connection test is the caller's to mend, so it is 400 like other bad input.
    const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest
            | Self::UnknownField
            | Self::InvalidConnectionString
            | Self::ConnectionFailed
            | Self::InvalidCredentials
            | Self::Timeout => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::EgressDenied => StatusCode::FORBIDDEN,
            Self::NotFound | Self::DatabaseNotFound | Self::ProjectNotFound => {
                StatusCode::NOT_FOUND
            }
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RegistryUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    const fn retryable(self) -> bool {
        matches!(
            self,
            Self::ConnectionFailed | Self::Timeout | Self::RegistryUnavailable | Self::Internal
        )
    }
}

/// An error as it is told.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) details: Value,
}

impl ApiError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: json!({}),
        }
    }

    /// The object that goes under `error`.
    pub(super) fn body(&self) -> Value {
        json!({
            "code": self.code.label(),
            "message": self.message,
            "details": self.details,
            "retryable": self.code.retryable(),
        })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.body() }));
        let mut response = (self.code.status(), body).into_response();
        if self.code == Code::Unauthorized {
            let challenge = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        let code = match &error {
            RegistryError::NotFound {
                what: "database", ..
            } => Code::DatabaseNotFound,
            RegistryError::NotFound {
                what: "project", ..
            } => Code::ProjectNotFound,
            RegistryError::NotFound { .. } => Code::NotFound,
            RegistryError::Conflict(_) => Code::Conflict,
            RegistryError::Invalid { .. } => Code::BadRequest,
            RegistryError::Target(_) => Code::InvalidConnectionString,
            RegistryError::Storage(_)
            | RegistryError::Unavailable
            | RegistryError::File { .. }
            | RegistryError::TooNew { .. } => Code::RegistryUnavailable,
            RegistryError::Damaged { .. } | RegistryError::Crypto(_) => Code::Internal,
        };
        if matches!(code, Code::RegistryUnavailable | Code::Internal) {
            tracing::error!(%error, "the admin API cannot answer");
        }
        Self::new(code, error.to_string())
    }
}

/// A failed test: which step, why, and what to do.
impl From<DialFault> for ApiError {
    fn from(fault: DialFault) -> Self {
        let code = match fault.step {
            DialStep::Name | DialStep::Connect | DialStep::Tls | DialStep::Ping => {
                Code::ConnectionFailed
            }
            DialStep::Login => Code::InvalidCredentials,
        };
        let hint = fault.hint.filter(|hint| !hint.is_empty());
        let advice = hint
            .as_ref()
            .map(|hint| format!("; {hint}"))
            .unwrap_or_default();
        Self {
            code,
            message: format!(
                "the connection test failed at the step '{}': {}{advice}",
                fault.step, fault.cause
            ),
            details: json!({ "step": fault.step.label(), "cause": fault.cause, "hint": hint }),
        }
    }
}

/// 200 with a JSON body.
pub(super) fn ok(body: impl Serialize) -> Response {
    Json(body).into_response()
}

/// 201 with a JSON body; with `no-store`, since what was just made may hold a secret.
pub(super) fn created(body: impl Serialize) -> Response {
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    (StatusCode::CREATED, no_store, Json(body)).into_response()
}

/// 204.
pub(super) fn gone() -> Response {
    StatusCode::NO_CONTENT.into_response()
}
