//! The HTTP server. Its routes:
//!
//! | route | answer |
//! | --- | --- |
//! | `/metrics` | everything counted, in OpenMetrics' text format; 404 while it is off |
//! | `/healthz` | 200 while the hot loop turns, else 503 |
//! | `/readyz` | 200 once the probes are loaded and a gateway is watched, else 503 |
//! | `/api/v1/statistics` | counts and percentiles by dimension, as JSON |
//! | `/api/v1/connections` | the connections now, a JSON object a line |

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    hot_loop::HotLoop,
    log::FiguresLine,
    metrics,
    network::Desk,
    port::{self, Limits},
    snapshot::Snapshot,
    stream,
};

/// Scrapes written at once; more wait. Many at once would take the CPU the hot loop needs.
const SCRAPES: usize = 2;
/// Warnings that wait to be logged.
const WARNINGS_MAX: usize = 100;

/// Where hot loop, watcher and server meet. Neither waits for the server.
#[derive(Debug)]
pub struct Meeting {
    /// Where the hot loop answers.
    pub hot_loop: HotLoop<Snapshot>,
    /// Where the network's watcher answers.
    pub network: Desk,
    metrics: AtomicBool,
    warnings: Mutex<Vec<String>>,
}

impl Default for Meeting {
    fn default() -> Self {
        Self {
            hot_loop: HotLoop::default(),
            network: Desk::default(),
            metrics: AtomicBool::new(true),
            warnings: Mutex::default(),
        }
    }
}

impl Meeting {
    /// `/metrics` is offered, or is not.
    pub fn offer_metrics(&self, offer: bool) {
        self.metrics.store(offer, Ordering::Relaxed);
    }

    /// For others than the hot loop: a warning for the log, which is the hot loop's.
    pub fn say(&self, warning: String) {
        if let Ok(mut warnings) = self.warnings.lock()
            && warnings.len() < WARNINGS_MAX
        {
            warnings.push(warning);
        }
    }

    /// For the hot loop: what others had to say.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.try_lock().map(|mut warnings| std::mem::take(&mut *warnings)).unwrap_or_default()
    }
}

#[derive(Clone)]
struct App {
    meeting: Arc<Meeting>,
    now_ns: fn() -> u64,
    scrapes: Arc<Semaphore>,
}

/// Serves until `stop` resolves. `now_ns` is the clock the hot loop turns by.
pub async fn serve(
    listener: TcpListener,
    meeting: Arc<Meeting>,
    now_ns: fn() -> u64,
    stop: impl Future<Output = ()>,
) {
    let app = Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .route("/api/v1/statistics", get(statistics))
        .route("/api/v1/connections", get(connections))
        .with_state(App { meeting, now_ns, scrapes: Arc::new(Semaphore::new(SCRAPES)) });
    port::serve(listener, app, Limits::USUAL, stop).await;
}

async fn serve_metrics(State(app): State<App>) -> Response {
    if !app.meeting.metrics.load(Ordering::Relaxed) {
        return StatusCode::NOT_FOUND.into_response();
    }
    // The semaphore is never closed.
    let Ok(turn) = Arc::clone(&app.scrapes).acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let (snapshot, network) = tokio::join!(app.meeting.hot_loop.fresh(), app.meeting.network.fresh());
    let body = stream::body(move |to| {
        let _turn = turn;
        metrics::render(snapshot, network, to)
    });
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], body).into_response()
}

async fn healthy(State(app): State<App>) -> Response {
    app.meeting.hot_loop.health((app.now_ns)())
}

async fn ready(State(app): State<App>) -> Response {
    app.meeting.hot_loop.readiness("no gateway is watched yet: see the log, or run `gatewatch doctor`\n")
}

async fn connections(State(app): State<App>) -> Response {
    let Some(connections) = app.meeting.network.connections().await else {
        let text = "connections are not watched: see the log, or run `gatewatch doctor`\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let mut lines = Vec::new();
    for connection in connections.iter() {
        if let Err(error) = serde_json::to_writer(&mut lines, connection) {
            return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
        }
        lines.push(b'\n');
    }
    ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response()
}

#[derive(Serialize)]
struct StatisticsAnswer<'a> {
    window_seconds: f64,
    total: FiguresLine,
    window: FiguresLine,
    dimensions: std::collections::BTreeMap<&'static str, Vec<RowAnswer<'a>>>,
}

#[derive(Serialize)]
struct RowAnswer<'a> {
    name: &'a str,
    total: FiguresLine,
    window: FiguresLine,
}

async fn statistics(State(app): State<App>) -> Response {
    let snapshot = app.meeting.hot_loop.fresh().await;
    let statistics = &snapshot.statistics;
    let answer = StatisticsAnswer {
        window_seconds: statistics.window_seconds,
        total: (&statistics.all.total).into(),
        window: (&statistics.all.window).into(),
        dimensions: statistics
            .dimensions
            .iter()
            .map(|(name, rows)| {
                let rows = rows.iter();
                let rows = rows.map(|row| RowAnswer {
                    name: &row.name,
                    total: (&row.total).into(),
                    window: (&row.window).into(),
                });
                (*name, rows.collect())
            })
            .collect(),
    };
    match serde_json::to_string(&answer) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests;
