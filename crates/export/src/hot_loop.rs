//! Where a hot loop and its server meet. The loop never waits for the server.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use tokio::sync::watch;

/// How long a scrape waits for the hot loop to publish; past that it gets the last picture.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// A hot loop that has not turned for so long is not healthy.
const STALE_NS: u64 = 5_000_000_000;

/// What the server sees of a hot loop that publishes snapshots `S`.
pub struct HotLoop<S> {
    wanted: AtomicBool,
    latest: watch::Sender<Arc<S>>,
    turned_ns: AtomicU64,
    ready: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl<S> fmt::Debug for HotLoop<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotLoop").field("turned_ns", &self.turned_ns).finish_non_exhaustive()
    }
}

/// One that sleeps too little to need waking.
impl<S: Default> Default for HotLoop<S> {
    fn default() -> Self {
        Self::new(|| ())
    }
}

impl<S: Default> HotLoop<S> {
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
}

impl<S> HotLoop<S> {
    /// For the loop: it turns, at `now_ns` of the clock the server was given. Whether somebody waits for a snapshot.
    pub fn turn(&self, now_ns: u64) -> bool {
        self.turned_ns.store(now_ns, Ordering::Relaxed);
        self.wanted.swap(false, Ordering::AcqRel)
    }

    /// For the loop: a new snapshot.
    pub fn publish(&self, snapshot: S) {
        self.latest.send_replace(Arc::new(snapshot));
    }

    /// For the loop: it sees what it is to see, or does not.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// It sees what it is to see.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// A snapshot not older than this call, if the loop publishes one in time, else the last.
    pub async fn fresh(&self) -> Arc<S> {
        let mut latest = self.latest.subscribe();
        latest.mark_unchanged();
        self.wanted.store(true, Ordering::Release);
        (self.wake)();
        let _in_time = tokio::time::timeout(PATIENCE, latest.changed()).await;
        Arc::clone(&latest.borrow())
    }

    /// The answer to `/healthz`.
    pub(crate) fn health(&self, now_ns: u64) -> Response {
        let age_ns = now_ns.saturating_sub(self.turned_ns.load(Ordering::Relaxed));
        if age_ns < STALE_NS {
            return "ok\n".into_response();
        }
        let text = format!("the hot loop has not turned for {} s\n", age_ns / 1_000_000_000);
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }

    /// The answer to `/readyz`; `why_not` where it is not.
    pub(crate) fn readiness(&self, why_not: &'static str) -> Response {
        match self.is_ready() {
            true => "ok\n".into_response(),
            false => (StatusCode::SERVICE_UNAVAILABLE, why_not).into_response(),
        }
    }
}
