//! Demand: who called which Service, how often, and what became of it.
//!
//! A series lives as long as its Service does, from the moment that is known on, at 0. What is counted besides
//! (pods, addresses nobody names) is let go after a time without calls. All of it is bounded: past the bound,
//! processes are counted together, under [`OTHER`].

use std::{collections::HashMap, sync::Arc};

use gatewatch_event::Outcome;

use crate::traffic::Histogram;

#[cfg(test)]
mod tests;

/// The process's name where too many have called.
pub const OTHER: &str = "_other";

/// Outcomes, as labels name them.
pub const OUTCOMES: [(Outcome, &str); 8] = [
    (Outcome::Established, "established"),
    (Outcome::Refused, "refused"),
    (Outcome::TimedOut, "timed_out"),
    (Outcome::Unreachable, "unreachable"),
    (Outcome::Reset, "reset"),
    (Outcome::NotSent, "not_sent"),
    (Outcome::Abandoned, "abandoned"),
    (Outcome::Failed, "failed"),
];

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most series of attempts; those at 0 of Services come on top.
    pub series: usize,
    /// Most processes told apart for one callee.
    pub processes: usize,
    /// How long a series of no Service lives without a call, nanoseconds.
    pub idle_ns: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { series: 50_000, processes: 64, idle_ns: 3_600_000_000_000 }
    }
}

/// Who is called. Empty texts: not known, or not so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Callee {
    /// Of the Service, or of the pod.
    pub namespace: Arc<str>,
    /// The Service's bare name.
    pub service: Arc<str>,
    /// The pod, where the address asked for was a pod's.
    pub pod: Arc<str>,
}

impl Callee {
    fn is_service(&self) -> bool {
        !self.service.is_empty() && self.pod.is_empty()
    }
}

/// Attempts of one process at one callee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// The process's name; empty: the series a Service has before anybody calls.
    pub comm: Arc<str>,
    /// How many.
    pub count: u64,
    /// When the series began, by the clock that `now_ns` is of.
    pub born_ns: u64,
}

/// What became of the attempts at one callee.
#[derive(Clone, Debug, Default)]
pub struct Callees {
    /// Attempts, by process.
    pub attempts: Vec<Attempts>,
    /// Ends, as in [`OUTCOMES`], and when each series began.
    pub outcomes: [(u64, u64); OUTCOMES.len()],
    /// From asking to the answer, of those established.
    pub durations: Histogram,
    /// When that series began.
    pub durations_born_ns: u64,
    last_ns: u64,
    known: bool,
}

/// All callees.
#[derive(Debug, Default)]
pub struct Demand {
    bounds: Bounds,
    callees: HashMap<Callee, Callees>,
    series: usize,
    folded: u64,
}

impl Demand {
    /// Nothing yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// A Service exists.
    pub fn known(&mut self, callee: &Callee, now_ns: u64) {
        let entry = self.callees.entry(callee.clone()).or_default();
        entry.known = true;
        if entry.attempts.iter().all(|attempts| !attempts.comm.is_empty()) {
            entry.attempts.push(Attempts { comm: Arc::from(""), count: 0, born_ns: now_ns });
        }
    }

    /// A Service is no more: its series end.
    pub fn gone(&mut self, callee: &Callee) {
        if let Some(entry) = self.callees.remove(callee) {
            self.series = self.series.saturating_sub(counted(&entry));
        }
    }

    /// Somebody called.
    pub fn called(&mut self, callee: Callee, comm: &str, now_ns: u64) {
        let full = self.series >= self.bounds.series;
        // Past the bound, what is of no Service is counted together.
        let callee = match full && !callee.is_service() && !self.callees.contains_key(&callee) {
            true => Callee::default(),
            false => callee,
        };
        let entry = self.callees.entry(callee).or_default();
        entry.last_ns = now_ns;
        let processes = counted(entry);
        let place = entry.attempts.iter().position(|attempts| &*attempts.comm == comm);
        let place = place.or_else(|| {
            if !full && processes < self.bounds.processes {
                return None;
            }
            self.folded += 1;
            entry.attempts.iter().position(|attempts| &*attempts.comm == OTHER)
        });
        let folds = full || processes >= self.bounds.processes;
        match place.and_then(|place| entry.attempts.get_mut(place)) {
            Some(attempts) => attempts.count += 1,
            None => {
                let comm = if folds { OTHER } else { comm };
                entry.attempts.push(Attempts { comm: Arc::from(comm), count: 1, born_ns: now_ns });
                self.series += 1;
            }
        }
    }

    /// An attempt ended.
    pub fn ended(&mut self, callee: &Callee, outcome: Outcome, duration_ns: u64, now_ns: u64) {
        let key = if self.callees.contains_key(callee) { callee } else { &Callee::default() };
        let Some(entry) = self.callees.get_mut(key) else { return };
        let index = OUTCOMES.iter().position(|(known, _)| *known == outcome).unwrap_or_default();
        if let Some((count, born_ns)) = entry.outcomes.get_mut(index) {
            if *count == 0 {
                *born_ns = now_ns;
            }
            *count += 1;
        }
        if outcome == Outcome::Established {
            if entry.durations.count() == 0 {
                entry.durations_born_ns = now_ns;
            }
            entry.durations.add(duration_ns);
        }
    }

    /// Lets go what is of no Service and has long been quiet.
    pub fn expire(&mut self, now_ns: u64) {
        let (idle, series) = (self.bounds.idle_ns, &mut self.series);
        self.callees.retain(|_, entry| {
            let keep = entry.known || now_ns.saturating_sub(entry.last_ns) < idle;
            if !keep {
                *series = series.saturating_sub(counted(entry));
            }
            keep
        });
    }

    /// All callees with what is counted of them, in no order.
    pub fn callees(&self) -> impl Iterator<Item = (&Callee, &Callees)> {
        self.callees.iter()
    }

    /// Attempts counted under [`OTHER`] or without a callee, because a bound was reached.
    #[must_use]
    pub fn folded(&self) -> u64 {
        self.folded
    }
}

/// Series that count against the bound.
fn counted(entry: &Callees) -> usize {
    entry.attempts.iter().filter(|attempts| !attempts.comm.is_empty()).count()
}
