//! The node's HTTP server. Its routes:
//!
//! | route | answer |
//! | --- | --- |
//! | `/metrics` | everything counted, in OpenMetrics' text format |
//! | `/healthz` | 200 while the hot loop turns, else 503 |
//! | `/readyz` | 200 once the probes are loaded and the cluster has been read, else 503 |

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{
    Snapshot, metrics,
    scrapers::{Scraper, Scrapers},
};
use crate::{
    hot_loop::HotLoop,
    port::{self, Limits},
    stream,
};

/// Scrapes written at once; more wait.
const SCRAPES: usize = 2;
/// What a scraper of Prometheus' kind says with each question, and a person does not.
const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";

#[derive(Clone)]
struct App {
    hot_loop: Arc<HotLoop<Snapshot>>,
    now_ns: fn() -> u64,
    scrapes: Arc<Semaphore>,
    scrapers: Arc<Mutex<Scrapers>>,
}

/// Serves until `stop` resolves. `now_ns` is the clock the hot loop turns by.
pub async fn serve(
    listener: TcpListener,
    hot_loop: Arc<HotLoop<Snapshot>>,
    now_ns: fn() -> u64,
    stop: impl Future<Output = ()>,
) {
    let app = App { hot_loop, now_ns, scrapes: Arc::new(Semaphore::new(SCRAPES)), scrapers: Arc::default() };
    let router = Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .with_state(app);
    port::serve(listener, router, Limits::USUAL, stop).await;
}

async fn serve_metrics(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    // The semaphore is never closed.
    let Ok(turn) = Arc::clone(&app.scrapes).acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let snapshot = app.hot_loop.fresh().await;
    let body = stream::body(move |to| {
        let _turn = turn;
        let Some(scraper) = scraper(peer, &headers) else {
            return metrics::render(&snapshot, u64::MAX, to);
        };
        let scrapers = || app.scrapers.lock().unwrap_or_else(PoisonError::into_inner);
        let seen_until = scrapers().seen_until(&scraper, snapshot.taken_ns);
        metrics::render(&snapshot, seen_until, to)?;
        scrapers().shown(scraper, snapshot.taken_ns);
        Ok(())
    });
    ([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], body).into_response()
}

/// Who asks, if it asks regularly.
fn scraper(peer: SocketAddr, headers: &HeaderMap) -> Option<Scraper> {
    headers.get(SCRAPE_TIMEOUT)?;
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    Some(Scraper::new(peer.ip(), agent))
}

async fn healthy(State(app): State<App>) -> Response {
    app.hot_loop.health((app.now_ns)())
}

async fn ready(State(app): State<App>) -> Response {
    app.hot_loop.readiness("the cluster has not been read yet: see the log\n")
}
