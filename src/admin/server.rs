//! HTTP/1.1 on the gateway's own listener, so that every connection is a task that shutdown knows.

use std::{sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};

use super::Admin;
use crate::net::Stream;

/// How long a caller may take to send the head of a request.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(15);

impl Admin {
    /// Serves one connection until it ends; while draining, until its request in progress is answered.
    pub async fn serve(self: Arc<Self>, stream: Stream) {
        let router = self.router(stream.peer());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.parts.shutdown.draining() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "admin connection ended");
        }
    }
}
