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
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};

use super::{
    Snapshot, metrics,
    scrapers::{Scraper, Scrapers},
};
use crate::{
    port::{self, Limits},
    stream,
};

/// How long a scrape waits for the hot loop to publish; past that it gets the last picture.
const PATIENCE: Duration = Duration::from_millis(1000);
/// Scrapes written at once; more wait.
const SCRAPES: usize = 2;
/// A hot loop that has not turned for so long is not healthy.
const STALE_NS: u64 = 5_000_000_000;
/// What a scraper of Prometheus' kind says with each question, and a person does not.
const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";

/// Where the hot loop and the server meet. The loop never waits for the server.
pub struct Exchange {
    wanted: AtomicBool,
    latest: watch::Sender<Arc<Snapshot>>,
    turned_ns: AtomicU64,
    ready: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Exchange {
    /// `wake` ends the hot loop's sleep.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            wanted: AtomicBool::new(false),
            latest: watch::Sender::new(Arc::default()),
            turned_ns: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            wake: Box::new(wake),
        }
    }

    /// For the hot loop: it turns, at `now_ns` of the clock [`serve`] was given. Whether somebody waits for a snapshot.
    pub fn turn(&self, now_ns: u64) -> bool {
        self.turned_ns.store(now_ns, Ordering::Relaxed);
        self.wanted.swap(false, Ordering::AcqRel)
    }

    /// For the hot loop: a new snapshot.
    pub fn publish(&self, snapshot: Snapshot) {
        self.latest.send_replace(Arc::new(snapshot));
    }

    /// For the hot loop: it sees what it is to see, or does not.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// It sees what it is to see.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// A snapshot not older than this call, if the hot loop publishes one in time, else the last.
    pub async fn fresh(&self) -> Arc<Snapshot> {
        let mut latest = self.latest.subscribe();
        latest.mark_unchanged();
        self.wanted.store(true, Ordering::Release);
        (self.wake)();
        let _in_time = tokio::time::timeout(PATIENCE, latest.changed()).await;
        Arc::clone(&latest.borrow())
    }
}

#[derive(Clone)]
struct App {
    exchange: Arc<Exchange>,
    now_ns: fn() -> u64,
    scrapes: Arc<Semaphore>,
    scrapers: Arc<Mutex<Scrapers>>,
}

/// Serves until `stop` resolves. `now_ns` is the clock the hot loop turns by.
pub async fn serve(
    listener: TcpListener,
    exchange: Arc<Exchange>,
    now_ns: fn() -> u64,
    stop: impl Future<Output = ()>,
) {
    let app = App { exchange, now_ns, scrapes: Arc::new(Semaphore::new(SCRAPES)), scrapers: Arc::default() };
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
    let snapshot = app.exchange.fresh().await;
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
    let age = (app.now_ns)().saturating_sub(app.exchange.turned_ns.load(Ordering::Relaxed));
    if age < STALE_NS {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        let text = format!("the hot loop has not turned for {} s\n", age / 1_000_000_000);
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn ready(State(app): State<App>) -> (StatusCode, &'static str) {
    if app.exchange.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the cluster has not been read yet: see the log\n")
    }
}
