//! What the hold did, in numbers.

use gatewatch_capture::hold::Tallies;

/// Upper bounds of a histogram's buckets but the last, which has none; milliseconds.
pub const BOUNDS_MS: [u64; 14] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000];

/// Durations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many fell between a bound of [`BOUNDS_MS`] and the one before it; the last is above all.
    pub buckets: [u64; BOUNDS_MS.len() + 1],
    /// Nanoseconds in all.
    pub sum_ns: u64,
}

impl Histogram {
    pub(super) fn observe(&mut self, ns: u64) {
        let place = BOUNDS_MS.iter().take_while(|bound| ns > **bound * 1_000_000).count();
        if let Some(bucket) = self.buckets.get_mut(place) {
            *bucket += 1;
        }
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// All since the start, but for what says "now".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// What the kernel programs counted.
    pub kernel: Tallies,
    /// Addresses held now.
    pub addresses: u64,
    /// Attempts waiting now.
    pub waiting: u64,
    /// Interfaces the programs are attached to now.
    pub interfaces: u64,
    /// SYNs sent once more.
    pub replays: u64,
    /// Replays that the kernel did not take.
    pub replay_failures: u64,
    /// Attempts found to be led astray by the node's table of connections, and set free.
    pub astray: u64,
    /// Held attempts that were connected.
    pub connected: u64,
    /// Attempts that reached their limit, or whose Service is held no more, and were refused.
    pub expired: u64,
    /// Attempts whose client waited no longer.
    pub gave_up: u64,
    /// From the first SYN to the SYN-ACK.
    pub wait: Histogram,
    /// From the first ready endpoint, or the first SYN if that came later, to the SYN-ACK.
    pub after_ready: Histogram,
}
