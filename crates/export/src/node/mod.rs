//! What `gatewatch node` shows: its snapshot, and the server.

pub mod http;
pub mod metrics;
mod newborn;
mod scrapers;

use gatewatch_insight::{
    demand::{Callee, Callees},
    exchanges::{Answers, Requests},
};

use crate::{
    figures::Figure,
    network::Map,
    snapshot::{Agent, Program},
};

/// Everything, at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// When, by CLOCK_MONOTONIC in nanoseconds: the clock of all births.
    pub taken_ns: u64,
    /// What to add for nanoseconds since 1970.
    pub offset_ns: u64,
    /// Attempts and what became of them; without, where none are watched.
    pub callees: Vec<(Callee, Callees)>,
    /// Requests received, by series.
    pub requests: Vec<Requests>,
    /// How they were answered.
    pub answers: Vec<Answers>,
    /// Attempts by the kernel programs' count, from the beginning of the agent on.
    pub attempts_seen: u64,
    /// Those of them that are counted in a series.
    pub attempts_reported: u64,
    /// Left out, because of the process that made them.
    pub attempts_excluded: u64,
    /// Counted together, because a bound was reached.
    pub attempts_folded: u64,
    /// How addresses are learnt, see `gatewatch_capture::attempt::Tier`.
    pub attempts_tier: &'static str,
    /// What was lost: stage, reason, how many.
    pub lost: Vec<(&'static str, &'static str, u64)>,
    /// What is known of the cluster; `None`: none is asked.
    pub cluster: Option<Cluster>,
    /// Figures of single parts.
    pub figures: Vec<Figure>,
    /// Histograms of single parts.
    pub durations: Vec<Durations>,
    /// Kernel memory of the maps.
    pub maps: Vec<Map>,
    /// The kernel programs' own cost.
    pub programs: Vec<Program>,
    /// This process's own cost.
    pub agent: Agent,
}

/// A histogram that a part of the agent shows.
#[derive(Clone, Debug)]
pub struct Durations {
    /// The family's name.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// Upper bounds in seconds, the last infinite, and how many fell between each and the one before it.
    pub buckets: Vec<(f64, u64)>,
    /// Their sum.
    pub sum_seconds: f64,
    /// Their number.
    pub count: u64,
}

/// What is known of the cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cluster {
    /// The whole of it has been read once.
    pub synced: bool,
    /// Since the API server was last heard, nanoseconds.
    pub age_ns: u64,
    /// Services known.
    pub services: usize,
    /// Pods known.
    pub pods: usize,
}
