//! What a scaler counts of its own work.

use std::sync::atomic::{AtomicU64, Ordering};

/// A scaler's figures, for its metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Addresses of node agents, as last resolved.
    pub nodes: u64,
    /// Node agents that tell their demand now.
    pub nodes_connected: u64,
    /// Node agents that tell no more, and whose last word still counts.
    pub nodes_lost: u64,
    /// Names of node agents that could not be resolved, so far.
    pub resolve_failures: u64,
    /// Streams of node agents that could not begin or broke, so far.
    pub node_failures: u64,
    /// Messages of node agents, so far.
    pub updates: u64,
    /// Services called in the last ten minutes.
    pub services: u64,
    /// Streams on which KEDA waits now.
    pub streams: u64,
    /// Streams refused because of too many, so far.
    pub refused_streams: u64,
    /// Times a Service was called active on a stream after having been inactive, so far.
    pub activations: u64,
    /// Questions of KEDA, so far: method and number.
    pub questions: [(&'static str, u64); 4],
    /// Questions whose metadata was wrong, so far.
    pub bad_questions: u64,
    /// Questions that could not be answered because no node tells its demand, so far.
    pub unsure: u64,
}

/// The figures while they are counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) nodes: Count,
    pub(crate) resolve_failures: Count,
    pub(crate) node_failures: Count,
    pub(crate) updates: Count,
    pub(crate) streams: Count,
    pub(crate) refused_streams: Count,
    pub(crate) activations: Count,
    pub(crate) is_active: Count,
    pub(crate) stream_is_active: Count,
    pub(crate) get_metric_spec: Count,
    pub(crate) get_metrics: Count,
    pub(crate) bad_questions: Count,
    pub(crate) unsure: Count,
}

#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn one_more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn one_less(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// One more, unless there are `most` already.
    pub(crate) fn one_more_within(&self, most: u64) -> bool {
        let within = |n: u64| (n < most).then(|| n + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    pub(crate) fn set(&self, n: usize) {
        self.0.store(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
