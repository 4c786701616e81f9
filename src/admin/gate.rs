//! Who may call: the `Host` check, the bearer token, and what its role allows.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::Response,
};
use tokio::time::timeout;

use super::{
    Admin,
    answer::{ApiError, Code},
};
use crate::registry::{Actor, TokenRole};

/// The token's name in the audit log when it is the one of the configuration.
const ADMIN_TOKEN_NAME: &str = "admin-token";

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The bounds of a request, for the extractor of bodies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) body_bytes_max: usize,
}

/// Around every route: only known names, and no request for ever.
pub(super) async fn doorstep(
    State(admin): State<Arc<Admin>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let settings = &admin.parts.settings;
    if !host_is_known(request.headers(), &settings.hosts) {
        return Err(ApiError::new(
            Code::Forbidden,
            "unknown Host; name it under admin.hosts if it is yours",
        ));
    }
    request.extensions_mut().insert(Limits {
        body_bytes_max: settings.body_bytes_max,
    });
    timeout(settings.request_wait_max, next.run(request))
        .await
        .map_err(|_| ApiError::new(Code::Internal, "the request took too long"))
}

/// Around every route of the API: a token, and a role that covers the request.
pub(super) async fn token_needed(
    State(admin): State<Arc<Admin>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let peer = peer_of(&request);
    let (name, role) = caller(&admin, request.headers()).await?;
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    covers(
        role,
        if reads {
            TokenRole::Viewer
        } else {
            TokenRole::Operator
        },
    )?;
    request.extensions_mut().insert(role);
    request.extensions_mut().insert(Actor {
        kind: if name == ADMIN_TOKEN_NAME {
            "service"
        } else {
            "token"
        },
        name,
        address: peer,
    });
    Ok(next.run(request).await)
}

/// Around the routes of tokens, within [`token_needed`]: owners only, to read as well.
pub(super) async fn owner_needed(
    Extension(role): Extension<TokenRole>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    covers(role, TokenRole::Owner)?;
    Ok(next.run(request).await)
}

/// Around `/metrics`: open on this machine, by token from elsewhere.
pub(super) async fn token_needed_from_afar(
    State(admin): State<Arc<Admin>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !peer_of(&request).is_some_and(|address| address.to_canonical().is_loopback()) {
        caller(&admin, request.headers()).await?;
    }
    Ok(next.run(request).await)
}

async fn caller(admin: &Admin, headers: &HeaderMap) -> Result<(String, TokenRole), ApiError> {
    let unauthorized = |message: &str| ApiError::new(Code::Unauthorized, message);
    let token = bearer(headers)
        .ok_or_else(|| unauthorized("a token is needed: 'Authorization: Bearer <token>'"))?;
    if admin.parts.token.matches(token.as_bytes()) {
        return Ok((ADMIN_TOKEN_NAME.to_owned(), TokenRole::Owner));
    }
    admin
        .parts
        .registry
        .check_token(token)
        .await?
        .ok_or_else(|| unauthorized("the token is not valid"))
}

/// Studio sends the token as `apikey`, everybody else as bearer.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &header::HeaderValue| value.to_str().ok())
    };
    let authorization = text("authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    authorization.or_else(|| text("apikey"))
}

fn covers(role: TokenRole, needed: TokenRole) -> Result<(), ApiError> {
    if role >= needed {
        return Ok(());
    }
    Err(ApiError::new(
        Code::Forbidden,
        format!("this token has the role '{role}'; '{needed}' is needed"),
    ))
}

/// Against DNS rebinding: a page of a foreign name cannot speak to us under that name.
fn host_is_known(headers: &HeaderMap, known: &[String]) -> bool {
    let Some(host) = headers
        .get(header::HOST)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    if host.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
        || known.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn peer_of(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<Peer>().map(|peer| peer.0.ip())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn foreign_names_are_refused() {
        let known = ["gw.example.com".to_owned()];
        let accepts = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            host_is_known(&headers, &known)
        };
        let good = [
            "127.0.0.1:8432",
            "[::1]:8432",
            "[::1]",
            "localhost",
            "GW.example.com:1",
        ];
        assert!(good.into_iter().all(accepts));
        assert!(
            !["evil.example.com", "", "localhost.evil.com:8432"]
                .into_iter()
                .any(accepts)
        );
        assert!(!host_is_known(&HeaderMap::new(), &known));
    }
}
