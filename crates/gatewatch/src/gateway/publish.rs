//! From the hot loop's state to what the exporters show.

use std::time::Duration;

use gatewatch_capture::{nginx::NginxProbe, process::ProcessProbe};
use gatewatch_export::{
    network::Map,
    snapshot::{Figures, Program, Reloads, Row, Snapshot, Statistics},
};
use gatewatch_insight::{
    ledger::Ledger,
    traffic::{Dimension, Summary, Traffic, Windowed},
};

use crate::cost;

use super::{
    fleet::{Fleet, Layout},
    proof::Watched,
};

/// Values a dimension is shown with.
const ROWS: usize = 100;

const DIMENSIONS: [(Dimension, &str); 7] = [
    (Dimension::Gateway, "gateway"),
    (Dimension::Method, "method"),
    (Dimension::StatusClass, "status"),
    (Dimension::Host, "host"),
    (Dimension::Path, "path"),
    (Dimension::Service, "service"),
    (Dimension::Protocol, "protocol"),
];

/// The statistics' window.
pub struct Window {
    began_ns: u64,
    interval_ns: u64,
    last: Statistics,
}

impl Window {
    /// The first begins at `now`.
    pub fn new(now: u64, interval: Duration) -> Self {
        let mut window = Self { began_ns: now, interval_ns: 0, last: Statistics::default() };
        window.set_interval(interval);
        window
    }

    /// How long one lasts, from the one that has begun on.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
    }

    /// It is time for the next; never, where no interval is set.
    pub fn is_over(&self, now: u64) -> bool {
        self.interval_ns > 0 && now.saturating_sub(self.began_ns) >= self.interval_ns
    }

    /// How long it has lasted.
    #[allow(clippy::cast_precision_loss)] // seconds for people
    pub fn seconds(&self, now: u64) -> f64 {
        now.saturating_sub(self.began_ns) as f64 / 1e9
    }

    /// The next begins at `now`; `last` are the statistics of the one that ended.
    pub fn begin(&mut self, now: u64, last: Statistics) {
        self.began_ns = now;
        self.last = last;
    }

    /// The last whole window's.
    pub fn statistics(&self) -> &Statistics {
        &self.last
    }
}

/// Counts and percentiles of the window that has just been rotated away.
pub fn statistics(traffic: &Traffic, seconds: f64) -> Statistics {
    Statistics {
        window_seconds: seconds,
        all: row(String::new(), traffic.all()),
        last_request_ns: traffic.last_ended_ns(),
        dimensions: DIMENSIONS
            .into_iter()
            .map(|(dimension, name)| (name, rows(traffic, dimension)))
            .collect(),
    }
}

fn rows(traffic: &Traffic, dimension: Dimension) -> Vec<Row> {
    let mut busiest: Vec<_> = traffic.rows(dimension).collect();
    busiest.sort_by_key(|(_, counts)| std::cmp::Reverse((counts.last.requests, counts.requests())));
    busiest.truncate(ROWS);
    busiest.into_iter().map(|(name, counts)| row(name, counts)).collect()
}

fn row(name: String, counts: &Windowed) -> Row {
    Row { name, total: figures(&counts.total()), window: figures(&counts.last) }
}

fn figures(summary: &Summary) -> Figures {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // durations: neither negative nor centuries
    let percentile = |q| summary.quantile(q).map_or(0, |ns| ns as u64);
    Figures {
        requests: summary.requests,
        client_errors: summary.client_errors(),
        server_errors: summary.server_errors(),
        request_bytes: summary.request_bytes,
        response_bytes: summary.response_bytes,
        mean_ns: summary.mean_ns(),
        percentiles_ns: [percentile(0.5), percentile(0.9), percentile(0.99)],
    }
}

/// A binary's layout in words.
pub fn layout(watched: &[Option<Watched>], id: u16) -> Layout {
    match watched.get(usize::from(id)).and_then(Option::as_ref) {
        Some(watched) => Layout {
            version: watched.binary.version.clone(),
            source: watched.describe(),
            proven: watched.is_proven(),
        },
        None => Layout { version: String::new(), source: "no longer run".to_owned(), proven: false },
    }
}

/// What a picture is taken of.
pub struct Scene<'a> {
    /// The nginx probe.
    pub probe: &'a NginxProbe,
    /// The process probe, if it could be loaded.
    pub processes: Option<&'a ProcessProbe>,
    /// The gateways.
    pub fleet: &'a mut Fleet,
    /// The counts.
    pub traffic: &'a Traffic,
    /// The losses.
    pub ledger: &'a Ledger,
    /// The statistics.
    pub window: &'a Window,
    /// The binaries.
    pub watched: &'a [Option<Watched>],
    /// What became of changes of the configuration.
    pub reloads: Reloads,
    /// From the monotonic clock to the calendar.
    pub clock_offset: u64,
}

/// Everything, now.
pub fn snapshot(scene: Scene<'_>) -> Snapshot {
    let Scene { probe, processes, fleet, traffic, ledger, window, watched, reloads, clock_offset } = scene;
    let describe = |id: u16| layout(watched, id);
    let coarse_starts = fleet.sums(probe).iter().map(|sums| sums.start_dropped).sum();
    let programs =
        probe.run_times().into_iter().chain(processes.map(ProcessProbe::run_times).unwrap_or_default());
    Snapshot {
        taken_ns: gatewatch_capture::clock::monotonic() + clock_offset,
        endpoints: traffic.endpoints().to_vec(),
        upstreams: traffic.upstreams().to_vec(),
        gateways: fleet.reconcile(probe, describe),
        ledger: ledger.clone(),
        folded: traffic.folded(),
        coarse_starts,
        maps: probe
            .memory()
            .into_iter()
            .map(|map| Map { name: map.name, bytes: map.bytes, max_entries: map.max_entries.into() })
            .collect(),
        programs: programs.map(|(name, run_ns, runs)| Program { name, run_ns, runs }).collect(),
        agent: cost::read(),
        reloads,
        statistics: Statistics { all: row(String::new(), traffic.all()), ..window.statistics().clone() },
    }
}
