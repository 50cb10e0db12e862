//! How often a Service was called in the last minutes, in slices of time.
//!
//! A node counts by slices of its own clock, and tells whole slices: so every scaler has the same figures, whenever it
//! came, and a slice told twice counts once.

use std::{collections::VecDeque, time::Duration};

/// A slice of time. A window's edge inside a slice takes its share of it.
pub(crate) const SLICE_NS: u64 = 5_000_000_000;
/// For how long calls are remembered: the longest window.
pub const KEPT: Duration = Duration::from_mins(10);
/// Slices remembered: those of [`KEPT`], the one that has begun, and one for the edge.
const SLICES_MAX: usize = 122;

/// Counts by slice, the oldest first. Never more than 122.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    slices: VecDeque<(u64, u64)>,
}

impl History {
    /// So many attempts more, at `at_ns`.
    pub(crate) fn add(&mut self, at_ns: u64, attempts: u64) {
        let count = self.slice(at_ns / SLICE_NS);
        *count = count.saturating_add(attempts);
        self.trim();
    }

    /// The slice of this number counts so many.
    pub(crate) fn set(&mut self, number: u64, attempts: u64) {
        *self.slice(number) = attempts;
        self.trim();
    }

    fn slice(&mut self, number: u64) -> &mut u64 {
        // Nearly always the last, or one after it.
        let place = self.slices.partition_point(|(other, _)| *other < number);
        if self.slices.get(place).is_none_or(|(other, _)| *other != number) {
            self.slices.insert(place, (number, 0));
        }
        #[allow(clippy::indexing_slicing)] // found or made above
        &mut self.slices[place].1
    }

    fn trim(&mut self) {
        while self.slices.len() > SLICES_MAX {
            self.slices.pop_front();
        }
    }

    /// Slices from the one of `from_ns` on: number and count.
    pub(crate) fn since(&self, from_ns: u64) -> impl Iterator<Item = (u64, u64)> {
        let first = from_ns / SLICE_NS;
        self.slices.iter().copied().filter(move |(number, _)| *number >= first)
    }

    /// Attempts from `from_ns` on. Of the slice in which that lies, its share.
    #[allow(clippy::cast_precision_loss)] // a rate needs no more than 53 bits
    pub(crate) fn attempts(&self, from_ns: u64) -> f64 {
        let share = |(number, attempts): (u64, u64)| {
            let begin = number.saturating_mul(SLICE_NS);
            let missed = from_ns.saturating_sub(begin).min(SLICE_NS);
            attempts as f64 * (SLICE_NS - missed) as f64 / SLICE_NS as f64
        };
        self.since(from_ns).map(share).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_window_takes_its_share_of_the_slice_at_its_edge() {
        let mut history = History::default();
        history.add(101 * S, 10);
        history.add(107 * S, 5);
        assert_eq!(history.attempts(100 * S), 15.0);
        assert_eq!(history.attempts(102 * S), 11.0);
        assert_eq!(history.attempts(105 * S), 5.0);
        assert_eq!(history.attempts(200 * S), 0.0);
    }

    #[test]
    fn slices_come_in_any_order_and_are_bounded() {
        let mut history = History::default();
        for number in (0..1000).rev() {
            history.set(number, 1);
            history.set(number, 2);
        }
        history.set(5000, 7);
        assert_eq!(history.slices.len(), SLICES_MAX);
        assert!(history.slices.iter().is_sorted());
        assert_eq!(history.slices.back(), Some(&(5000, 7)));
        history.set(u64::MAX, u64::MAX);
        history.add(u64::MAX, u64::MAX);
        assert!(history.attempts(0) > 0.0);
    }
}
