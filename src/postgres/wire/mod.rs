//! PostgreSQL's frontend/backend protocol, version 3, as bytes: cutting, reading and making messages.
//!
//! Pure: no I/O, no state of a session, nothing that can panic or grow without a bound.
//! See <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

mod body;
mod frame;
mod make;
mod startup;

#[cfg(test)]
mod tests;

pub(crate) use body::{
    bind, bound_values, columns_digest, error_fields, fields_of_row, named, parse, split_cstr,
    status_pair,
};
pub(crate) use frame::{Frame, HEADER_BYTES, backend_head, frontend_head, run_of};
pub(crate) use make::{
    authentication, authentication_ok, backend_key, bind_with_name, cancel_request,
    close_statement, data, error_response, named_message, negotiate_minor, parameter_status,
    parse_with_name, parse_with_types, password, query, ready, run_apart, sasl_initial,
    startup_message, tagged,
};
pub(crate) use startup::{
    APPLICATION_PROTOCOL, BAD_LENGTH, MINOR_MAX, SSL_REQUEST, Startup, StartupParameters,
    read as read_startup,
};
