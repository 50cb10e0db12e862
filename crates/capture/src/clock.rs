//! The kernel programs' clock and the calendar.

use rustix::time::{ClockId, clock_gettime};

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    // Neither clock is ever before its epoch, nor 500 years past it.
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Nanoseconds of `CLOCK_MONOTONIC`: what `bpf_ktime_get_ns` counts.
#[must_use]
pub fn monotonic() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Nanoseconds since 1970, UTC.
#[must_use]
pub fn realtime() -> u64 {
    nanoseconds(ClockId::Realtime)
}

/// What to add to a monotonic time to get the calendar's, now. Take it anew now and then: the calendar is
/// corrected, the monotonic clock is not.
#[must_use]
pub fn offset() -> u64 {
    // The difference is read three times and the tightest pair kept: a preemption between two reads shows as a
    // wide one.
    (0..3)
        .map(|_| {
            let before = monotonic();
            let real = realtime();
            let after = monotonic();
            (after - before, real.saturating_sub(before + (after - before) / 2))
        })
        .min_by_key(|(width, _)| *width)
        .map_or(0, |(_, offset)| offset)
}
