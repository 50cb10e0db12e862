//! What the hot loop publishes: an immutable picture of everything the exporters show.

use gatewatch_insight::{
    ledger::Ledger,
    traffic::{Endpoint, Folded, Upstream},
};

/// Everything, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When, in nanoseconds since 1970.
    pub taken_ns: u64,
    /// Requests by endpoint.
    pub endpoints: Vec<Endpoint>,
    /// Tries by upstream server.
    pub upstreams: Vec<Upstream>,
    /// By gateway instance.
    pub gateways: Vec<Gateway>,
    /// What was lost.
    pub ledger: Ledger,
    /// What was counted with less detail.
    pub folded: Folded,
    /// Requests whose start found no room in the kernel's table: their duration is to the millisecond.
    pub coarse_starts: u64,
    /// Kernel memory of the requests' maps.
    pub maps: Vec<crate::network::Map>,
    /// The kernel programs' own cost.
    pub programs: Vec<Program>,
    /// This process's own cost.
    pub agent: Agent,
    /// What became of changes of the configuration.
    pub reloads: Reloads,
    /// The statistics of the last whole window and since the beginning.
    pub statistics: Statistics,
}

/// One gateway instance.
#[derive(Clone, Debug, Default)]
pub struct Gateway {
    /// Its name.
    pub name: String,
    /// nginx's version.
    pub version: String,
    /// Where the layout came from, and how it fared.
    pub layout: String,
    /// The layout is proven, and requests are reported.
    pub proven: bool,
    /// Worker processes alive that have served requests.
    pub workers: u64,
    /// Requests begun and not ended; `None` where starts are not probed.
    pub in_flight: Option<u64>,
    /// Requests that ended, by the kernel programs' count.
    pub seen: u64,
    /// Requests reported.
    pub reported: u64,
    /// Requests seen, and left out by `monitoring.filters`.
    pub filtered: u64,
    /// Requests that ended since the probes were attached, by the gateway's own count.
    pub counted_by_gateway: Option<u64>,
    /// `reported` and `filtered` over `counted_by_gateway`; `None` until there is something to compare.
    pub coverage: Option<f64>,
    /// Requests whose record found no room, by status: how many. Their detail is lost, their number is not.
    pub overflow: Vec<(u16, u64)>,
    /// Sum of the overflowed requests' durations, in nanoseconds.
    pub overflow_duration_ns: u64,
    /// The overflowed requests by duration: how many took less than 2^i ns, and not less than half of it.
    pub overflow_durations: Vec<u64>,
    /// Lua time and calls by phase, while probed.
    pub lua: Vec<(&'static str, u64, u64)>,
}

/// One kernel program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Nanoseconds run, where the kernel counts them.
    pub run_ns: u64,
    /// Times run, likewise.
    pub runs: u64,
}

/// What this process costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Agent {
    /// CPU time used, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory resident, in bytes.
    pub resident_bytes: u64,
}

/// Changes of the configuration while running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// Applied.
    pub applied: u64,
    /// Refused: the old configuration stayed.
    pub refused: u64,
    /// Another file, or a signal, and the same configuration as before.
    pub unchanged: u64,
    /// When the configuration in use was applied, in nanoseconds since 1970.
    pub last_applied_ns: u64,
}

/// Counts and percentiles by dimension.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Seconds the window covers.
    pub window_seconds: f64,
    /// All requests.
    pub all: Row,
    /// When the last request ended, in nanoseconds since 1970; 0: none yet.
    pub last_request_ns: u64,
    /// By dimension: its name, and its values with most requests first.
    pub dimensions: Vec<(&'static str, Vec<Row>)>,
}

/// One value of a dimension: since the beginning, and in the last whole window.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The value.
    pub name: String,
    /// Since the beginning.
    pub total: Figures,
    /// In the last whole window.
    pub window: Figures,
}

/// Counts exact, percentiles within 1 %.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Requests.
    pub requests: u64,
    /// Of those, answered with 4xx.
    pub client_errors: u64,
    /// Of those, answered with 5xx.
    pub server_errors: u64,
    /// Bytes of requests.
    pub request_bytes: u64,
    /// Bytes of responses.
    pub response_bytes: u64,
    /// Mean duration in nanoseconds.
    pub mean_ns: u64,
    /// Percentiles of the duration, in nanoseconds: 50, 90, 99.
    pub percentiles_ns: [u64; 3],
}
