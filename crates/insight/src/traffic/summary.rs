//! Count, errors, bytes and latency of some part of the traffic.

use sketches_ddsketch::{Config, DDSketch};

/// Relative error of a percentile.
const ACCURACY: f64 = 0.01;
/// Bins a sketch may have: 1 ns to days at this accuracy.
const BINS: u32 = 2048;
/// Sketches add in nanoseconds; below this they are one bin.
const SMALLEST: f64 = 1.0;

/// What is counted of requests: exact, but for percentiles, which are within 1 %.
#[derive(Clone)]
pub struct Summary {
    /// Requests.
    pub requests: u64,
    /// Requests by status class: 0 none, 1xx … 5xx.
    pub classes: [u64; 6],
    /// Bytes of requests.
    pub request_bytes: u64,
    /// Bytes of responses.
    pub response_bytes: u64,
    /// Sum of durations, in nanoseconds.
    pub duration_ns: u64,
    sketch: DDSketch,
}

impl std::fmt::Debug for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Summary")
            .field("requests", &self.requests)
            .field("classes", &self.classes)
            .finish_non_exhaustive()
    }
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            requests: 0,
            classes: [0; 6],
            request_bytes: 0,
            response_bytes: 0,
            duration_ns: 0,
            sketch: DDSketch::new(Config::new(ACCURACY, BINS, SMALLEST)),
        }
    }
}

/// What a summary takes of a request.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Status sent; 0: none.
    pub status: u16,
    /// In nanoseconds.
    pub duration_ns: u64,
    /// Of the request.
    pub request_bytes: u64,
    /// Of the response.
    pub response_bytes: u64,
}

/// The class of a status: 0 where there is none.
#[must_use]
pub fn class(status: u16) -> usize {
    match status {
        100..600 => usize::from(status / 100),
        _ => 0,
    }
}

impl Summary {
    /// Counts one request.
    pub fn add(&mut self, sample: Sample) {
        self.requests += 1;
        if let Some(class) = self.classes.get_mut(class(sample.status)) {
            *class += 1;
        }
        self.request_bytes = self.request_bytes.wrapping_add(sample.request_bytes);
        self.response_bytes = self.response_bytes.wrapping_add(sample.response_bytes);
        self.duration_ns = self.duration_ns.wrapping_add(sample.duration_ns);
        // Durations beyond 2^52 ns are 52 days; what an f64 then rounds away is far below the accuracy.
        #[allow(clippy::cast_precision_loss)]
        self.sketch.add(sample.duration_ns as f64);
    }

    /// Takes another's counts over.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        for (mine, theirs) in self.classes.iter_mut().zip(other.classes) {
            *mine += theirs;
        }
        self.request_bytes = self.request_bytes.wrapping_add(other.request_bytes);
        self.response_bytes = self.response_bytes.wrapping_add(other.response_bytes);
        self.duration_ns = self.duration_ns.wrapping_add(other.duration_ns);
        // Both have the same configuration, the only ground for a refusal.
        let _same_configuration = self.sketch.merge(&other.sketch);
    }

    /// Requests answered with 4xx.
    #[must_use]
    pub fn client_errors(&self) -> u64 {
        self.classes[4]
    }

    /// Requests answered with 5xx.
    #[must_use]
    pub fn server_errors(&self) -> u64 {
        self.classes[5]
    }

    /// The duration, in nanoseconds, that a share `q` (0 to 1) of the requests did not exceed, within 1 %: by nearest
    /// rank, so that the 99th percentile of two is the larger. `None` without requests.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // counts beyond 2^53 do not occur
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let n = self.requests as f64;
        let rank = (q * n).ceil().clamp(1.0, n.max(1.0));
        // The sketch takes the rank as a share of the distance from first to last; half a rank more keeps
        // rounding from falling to the one before.
        let share = if n > 1.0 { ((rank - 0.5) / (n - 1.0)).min(1.0) } else { q };
        self.sketch.quantile(share).ok().flatten()
    }

    /// Mean duration in nanoseconds; 0 without requests.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        self.duration_ns.checked_div(self.requests).unwrap_or(0)
    }
}

/// Totals, the window that is being filled, and the one before it.
#[derive(Clone, Debug, Default)]
pub struct Windowed {
    before: Summary,
    /// The current window.
    pub window: Summary,
    /// The last whole window.
    pub last: Summary,
}

impl Windowed {
    /// Counts one request.
    pub fn add(&mut self, sample: Sample) {
        self.window.add(sample);
    }

    /// Ends the window.
    pub fn rotate(&mut self) {
        if self.window.requests == 0 {
            if self.last.requests > 0 {
                self.last = Summary::default();
            }
            return;
        }
        self.last = std::mem::take(&mut self.window);
        self.before.merge(&self.last);
    }

    /// All since the beginning.
    #[must_use]
    pub fn total(&self) -> Summary {
        let mut total = self.before.clone();
        total.merge(&self.window);
        total
    }

    /// Requests since the beginning.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.before.requests + self.window.requests
    }
}
