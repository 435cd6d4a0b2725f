//! Accepting, within bounds: connections, time for a request's head, time and bytes for all of it.

use crate::access::Caller;
use crate::house::House;
use crate::problem::Problem;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{from_fn, Next};
use axum::response::{IntoResponse, Response};
use axum::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// What strangers can cost at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Over this listener; one more is accepted and closed at once.
    pub connections: usize,
    /// Until the head of a request is there, also between two requests on one connection.
    pub head: Duration,
    /// For all of a request and its answer.
    pub request: Duration,
    pub head_bytes: usize,
    pub body_bytes: usize,
    /// Header fields in one request.
    pub headers: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 256,
            head: Duration::from_secs(10),
            // A handover waits for what the standby lacks.
            request: Duration::from_secs(60),
            // Under 8 KiB hyper does not go.
            head_bytes: 16 * 1024,
            body_bytes: 64 * 1024,
            headers: 64,
        }
    }
}

/// A listener whose machine has run out of descriptors rests for so long.
const REST: Duration = Duration::from_millis(200);

/// Serves for as long as the future is polled; dropping it closes the connections.
pub async fn serve(listener: TcpListener, house: Arc<dyn House>, limits: Limits) {
    let within = move |request: Request, next: Next| async move {
        match tokio::time::timeout(limits.request, next.run(request)).await {
            Ok(response) => response,
            Err(_) => too_late(),
        }
    };
    let router = crate::router(house).layer(DefaultBodyLimit::max(limits.body_bytes)).layer(from_fn(within));
    let mut connections = JoinSet::new();
    let mut full = false;
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "HTTP: nothing accepted");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        if connections.len() >= limits.connections {
            if !std::mem::replace(&mut full, true) {
                warn!(max = limits.connections, "HTTP: too many connections, closing new ones at once");
            }
            continue;
        }
        full = false;
        connections.spawn(converse(stream, router.clone().layer(Extension(Caller(from))), limits, from));
    }
}

fn too_late() -> Response {
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "the answer took too long; ask again how things stand").into_response()
}

async fn converse(stream: TcpStream, router: axum::Router, limits: Limits, from: SocketAddr) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes)
        .max_headers(limits.headers)
        .keep_alive(true);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await {
        debug!(%from, %error, "HTTP: a connection is over");
    }
}
