//! One Service's calls, counted by the hot loop and read by the keeper, with no lock between them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::service::Service;

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) service: Service,
    attempts: AtomicU64,
    last_call_ns: AtomicU64,
    /// The keeper looks here by itself, or has been rung for. Only a call of a quiet Service rings.
    loud: AtomicBool,
    gone: AtomicBool,
}

impl Slot {
    pub(super) fn new(service: Service) -> Self {
        Self {
            service,
            attempts: AtomicU64::new(0),
            last_call_ns: AtomicU64::new(0),
            loud: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        }
    }

    /// Counts, and says whether the keeper is to be rung for.
    pub(super) fn called(&self, count: u64, unix_ns: u64) -> bool {
        self.last_call_ns.fetch_max(unix_ns, Ordering::Relaxed);
        // Released, so that who sees the count sees the time too.
        self.attempts.fetch_add(count, Ordering::Release);
        // A keeper that takes the flag away afterwards sees what was counted before.
        !self.loud.swap(true, Ordering::AcqRel)
    }

    /// From here on the next call rings. What was counted before it is seen by whoever reads after this.
    pub(super) fn quieten(&self) {
        self.loud.swap(false, Ordering::AcqRel);
    }

    /// The keeper goes on looking after all.
    pub(super) fn keep_loud(&self) {
        self.loud.swap(true, Ordering::AcqRel);
    }

    /// All calls ever.
    pub(super) fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Acquire)
    }

    pub(super) fn last_call_ns(&self) -> u64 {
        self.last_call_ns.load(Ordering::Relaxed)
    }

    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}
