//! The table of routes.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Extension, Router,
    http::{Method, Uri},
    middleware::{from_fn, from_fn_with_state, map_response},
    response::Response,
    routing::{delete, get, post},
};

use super::{
    Admin,
    answer::{ApiError, Code},
    control, credentials, databases, figures,
    gate::{Peer, doorstep, owner_needed, token_needed, token_needed_from_afar},
    health, projects, tokens,
};

pub(super) fn router(admin: Arc<Admin>, peer: SocketAddr) -> Router {
    let api = api().route_layer(from_fn_with_state(Arc::clone(&admin), token_needed));
    let metrics = Router::new()
        .route("/metrics", get(health::metrics))
        .route_layer(from_fn_with_state(
            Arc::clone(&admin),
            token_needed_from_afar,
        ));
    Router::new()
        .nest("/api/platform", api)
        .merge(metrics)
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&admin), doorstep))
        .layer(map_response(hardened))
        .layer(Extension(Peer(peer)))
        .with_state(admin)
}

fn api() -> Router<Arc<Admin>> {
    let for_owners = Router::new()
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{id}", delete(tokens::revoke))
        .route_layer(from_fn(owner_needed));
    Router::new()
        .merge(for_owners)
        .route("/databases", get(databases::list).post(databases::register))
        .route("/databases/test", post(databases::test))
        .route(
            "/databases/{id}",
            get(databases::show)
                .patch(databases::change)
                .delete(databases::remove),
        )
        .route("/databases/{id}/test", post(databases::test_registered))
        .route("/databases/{id}/pause", post(control::pause))
        .route("/databases/{id}/resume", post(control::resume))
        .route("/databases/{id}/drain", post(control::drain))
        .route("/databases/{id}/reconnect", post(control::reconnect))
        .route(
            "/databases/{id}/credentials",
            get(credentials::of_database).post(credentials::issue_for_database),
        )
        .route(
            "/databases/{id}/credentials/{credential}",
            delete(credentials::revoke),
        )
        .route("/projects", get(projects::list).post(projects::create))
        .route("/projects/{ref}", get(projects::show))
        .route(
            "/projects/{ref}/credentials",
            get(credentials::of_project).post(credentials::issue_for_project),
        )
        .route(
            "/projects/{ref}/credentials/{credential}",
            delete(credentials::revoke),
        )
        .route(
            "/credentials/{credential}",
            delete(credentials::revoke_by_id),
        )
        .route("/audit", get(projects::audit))
        .route("/info", get(figures::info))
        .route("/stats", get(figures::stats))
        .route("/pools", get(figures::pools))
        .route("/clients", get(figures::clients))
}

async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::new(
        Code::NotFound,
        format!("there is nothing at {}", uri.path()),
    )
}

async fn wrong_method(method: Method) -> ApiError {
    ApiError::new(
        Code::MethodNotAllowed,
        format!("Method {method} Not Allowed"),
    )
}

/// What every answer says to browsers.
async fn hardened(mut response: Response) -> Response {
    use axum::http::{HeaderValue, header};
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache"));
    response
}
