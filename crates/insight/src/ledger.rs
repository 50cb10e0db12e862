//! No number without its loss: what ended is reported or counted here, and the sums agree.

use std::collections::BTreeMap;

/// Where something was lost, in the order of the data's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// In the kernel programs and their maps.
    Capture,
    /// Between bytes and requests.
    Decode,
    /// Left out because `monitoring.filters` says so: wanted, not lost.
    Filter,
    /// On the way out.
    Export,
}

impl Stage {
    /// The label's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Decode => "decode",
            Self::Filter => "filter",
            Self::Export => "export",
        }
    }
}

/// Every way a request can be lost. Each is exposed from the start, at 0.
///
/// For the stages `capture`, `decode` and `filter`: seen = reported + Σ lost. A line of the log that could not be written
/// (`export`) belongs to a request that is reported all the same.
pub const REASONS: [(Stage, &str); 14] = [
    (Stage::Capture, "not_yet_watched"),
    (Stage::Capture, "monitoring_off"),
    (Stage::Capture, "ring_full"),
    (Stage::Capture, "worker_table_full"),
    (Stage::Capture, "worker_died"),
    (Stage::Decode, "malformed_record"),
    (Stage::Decode, "unreadable_memory"),
    (Stage::Decode, "not_a_request"),
    (Stage::Decode, "layout_unproven"),
    (Stage::Filter, "method"),
    (Stage::Filter, "status"),
    (Stage::Filter, "host"),
    (Stage::Filter, "network"),
    (Stage::Export, "log_blocked"),
];

/// Counts of what was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    lost: BTreeMap<(Stage, &'static str), u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { lost: REASONS.into_iter().map(|key| (key, 0)).collect() }
    }
}

impl Ledger {
    /// Counts `n` more.
    pub fn lose(&mut self, stage: Stage, reason: &'static str, n: u64) {
        *self.lost.entry((stage, reason)).or_default() += n;
    }

    /// Sets a count that is kept elsewhere (the kernel's) and never falls.
    pub fn set(&mut self, stage: Stage, reason: &'static str, total: u64) {
        let kept = self.lost.entry((stage, reason)).or_default();
        *kept = total.max(*kept);
    }

    /// How many were lost so.
    #[must_use]
    pub fn lost(&self, stage: Stage, reason: &'static str) -> u64 {
        self.lost.get(&(stage, reason)).copied().unwrap_or(0)
    }

    /// All rows, also those at 0.
    pub fn rows(&self) -> impl Iterator<Item = (Stage, &'static str, u64)> {
        self.lost.iter().map(|((stage, reason), n)| (*stage, *reason, *n))
    }

    /// Requests that ended and should have been reported, and are not.
    #[must_use]
    pub fn requests_lost(&self) -> u64 {
        self.rows()
            .filter(|(stage, ..)| matches!(stage, Stage::Capture | Stage::Decode))
            .map(|(_, _, n)| n)
            .sum()
    }
}

#[cfg(test)]
mod tests;
