//! One row of the exported metrics: an endpoint and what is counted of it.

use std::sync::Arc;

use gatewatch_event::request::{Method, Protocol};

/// Upper bounds of the duration histogram, in seconds: OpenTelemetry's for HTTP servers, and four below them,
/// since a gateway's own answers take less than a millisecond.
pub const BUCKETS: [f64; 18] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
    7.5, 10.0,
];
pub(super) const BUCKETS_NS: [u64; 18] = [
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];

/// A histogram over [`BUCKETS`]; the last count is for what is beyond them. Not cumulative.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Counts by bucket.
    pub counts: [u64; BUCKETS.len() + 1],
    /// Sum of what was added, in nanoseconds.
    pub sum_ns: u64,
}

impl Histogram {
    /// Counts one duration: in the first bucket whose bound is not below it, as Prometheus does.
    pub fn add(&mut self, ns: u64) {
        let bucket = BUCKETS_NS.partition_point(|bound| *bound < ns);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum_ns = self.sum_ns.wrapping_add(ns);
    }

    /// How many were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What tells endpoints apart. Ids are those of the traffic's name tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    /// The gateway instance.
    pub gateway: u32,
    /// The host; 0: other.
    pub host: u32,
    /// The path's group; `u32::MAX`: other.
    pub path: u32,
    /// The service, from 1; 0: none.
    pub service: u32,
    /// The method.
    pub method: Method,
}

/// The same in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// The gateway instance.
    pub gateway: Arc<str>,
    /// The host, without port.
    pub host: Arc<str>,
    /// The path's group.
    pub path: Arc<str>,
    /// The service; empty where no rule applies.
    pub service: Arc<str>,
    /// The method.
    pub method: Method,
}

/// One endpoint's counts since the beginning.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Which one.
    pub labels: Arc<Labels>,
    /// Requests by status and protocol; few.
    pub requests: Vec<(u16, Protocol, u64)>,
    /// Durations.
    pub duration: Histogram,
    /// Bytes of requests.
    pub request_bytes: u64,
    /// Bytes of responses.
    pub response_bytes: u64,
}

impl Endpoint {
    pub(super) fn new(labels: Labels) -> Self {
        Self {
            labels: Arc::new(labels),
            requests: Vec::new(),
            duration: Histogram::default(),
            request_bytes: 0,
            response_bytes: 0,
        }
    }

    pub(super) fn count(&mut self, status: u16, protocol: Protocol) {
        match self.requests.iter_mut().find(|(s, p, _)| *s == status && *p == protocol) {
            Some((_, _, n)) => *n += 1,
            None => self.requests.push((status, protocol, 1)),
        }
    }
}

/// Tries at one upstream server for one service.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The gateway instance.
    pub gateway: Arc<str>,
    /// The service; empty where no rule applies.
    pub service: Arc<str>,
    /// The server, as nginx names it; `other` beyond the bound.
    pub peer: Arc<str>,
    /// Durations of the tries.
    pub duration: Histogram,
}
