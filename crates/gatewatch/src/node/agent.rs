//! The node's hot loop: drains what the kernel programs saw, names it, counts it.

use std::{collections::HashSet, os::fd::AsFd as _, sync::Arc, time::Duration};

use anyhow::Result;
use gatewatch_capture::{
    attempt::{AttemptProbe, Tally, Tier},
    clock,
};
use gatewatch_config::Config;
use gatewatch_decode::attempt::{Told, told};
use gatewatch_event::{Attempt, AttemptEnd};
use gatewatch_export::{
    log::{Level, Log},
    node::{Snapshot, http::Exchange},
};
use gatewatch_insight::demand::{Bounds, Callee, Demand};
use gatewatch_target::process::ProcRoot;

use super::{bell::Bell, publish};
use crate::settings;

/// The longest sleep.
const NAP: Duration = Duration::from_millis(200);
/// After a turn with work the loop rests so long: however many attempts are made, few of them wake it.
const REST: Duration = Duration::from_millis(1);
/// How often what is old is let go.
const HOUSEKEEPING_NS: u64 = 10_000_000_000;

/// What the hot loop shares with others.
pub struct Ends {
    /// With the server.
    pub exchange: Arc<Exchange>,
    /// With whoever has something for it.
    pub bell: Arc<Bell>,
}

/// Its state.
pub struct Agent {
    probe: Option<AttemptProbe>,
    counts: Counts,
    ends: Ends,
    log: Log,
    kept_house_ns: u64,
}

/// What is counted, and by what it is named.
struct Counts {
    demand: Demand,
    excluded_comms: HashSet<String>,
    excluded: u64,
    reported: u64,
    malformed: u64,
}

impl Agent {
    /// Loads and attaches.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(config: &Config, ends: Ends) -> Result<Self> {
        let mut log = Log::new(settings::log(config), std::io::stdout())?;
        let probe = match config.node.attempts.enabled {
            true => Some(AttemptProbe::load(ProcRoot::new("/proc").pid_namespace())?),
            false => None,
        };
        let now = clock::realtime();
        let version = env!("CARGO_PKG_VERSION");
        log.say(
            Level::Info,
            now,
            &format!("gatewatch {version} watches this node; metrics at {}", config.listen.0),
        );
        if let Some(probe) = &probe
            && probe.tier() == Tier::Socket
        {
            let text = format!(
                "attempts that fail before a packet is sent are not seen, nor the addresses a socket load balancer translates: {}",
                probe.why()
            );
            log.say(Level::Warn, now, &text);
        }
        log.flush();
        ends.exchange.set_ready(true);
        Ok(Self {
            probe,
            counts: Counts {
                demand: Demand::new(Bounds::default()),
                excluded_comms: config.node.attempts.exclude_comms.iter().cloned().collect(),
                excluded: 0,
                reported: 0,
                malformed: 0,
            },
            ends,
            log,
            kept_house_ns: clock::monotonic(),
        })
    }

    /// Sleeps until there is something to do, and does it.
    pub fn turn(&mut self) {
        gatewatch_capture::wait(
            NAP,
            &[self.probe.as_ref().map(AttemptProbe::descriptor), Some(self.ends.bell.as_fd())],
        );
        self.ends.bell.hush();
        let drained = self.drain();
        let now = clock::monotonic();
        if now.saturating_sub(self.kept_house_ns) > HOUSEKEEPING_NS {
            self.kept_house_ns = now;
            self.counts.demand.expire(now);
        }
        if self.ends.exchange.turn(now) {
            let snapshot = self.snapshot();
            self.ends.exchange.publish(snapshot);
        }
        self.log.flush();
        if drained > 0 {
            std::thread::sleep(REST);
        }
    }

    /// Counts what is left.
    pub fn finish(mut self) {
        self.drain();
        self.log.say(Level::Info, clock::realtime(), "ends");
        self.log.finish();
    }

    fn drain(&mut self) -> usize {
        let Some(probe) = &self.probe else { return 0 };
        let counts = &mut self.counts;
        probe.drain(|record| match told(record) {
            Some(Told::Began(attempt)) => counts.began(&attempt),
            Some(Told::Ended(end)) => counts.ended(&end),
            None => counts.malformed += 1,
        })
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = publish::common();
        let counts = &self.counts;
        if let Some(probe) = &self.probe {
            snapshot.callees =
                counts.demand.callees().map(|(callee, calls)| (callee.clone(), calls.clone())).collect();
            snapshot.attempts_seen = probe.tally(Tally::ATTEMPTS_SEEN);
            snapshot.attempts_tier = probe.tier().as_str();
            publish::probe(&mut snapshot, probe.memory(), probe.run_times());
            snapshot.lost.extend([
                ("capture", "attempt_ring_full", probe.tally(Tally::ATTEMPTS_RING_FULL)),
                ("capture", "attempt_end_ring_full", probe.tally(Tally::ATTEMPT_ENDS_RING_FULL)),
                ("capture", "attempt_table_full", probe.tally(Tally::ATTEMPTS_TABLE_FULL)),
                ("decode", "attempt_malformed", counts.malformed),
            ]);
        }
        snapshot.attempts_reported = counts.reported;
        snapshot.attempts_excluded = counts.excluded;
        snapshot.attempts_folded = counts.demand.folded();
        snapshot.lost.push(("export", "log_blocked", self.log.lost()));
        snapshot
    }
}

impl Counts {
    fn began(&mut self, attempt: &Attempt) {
        if self.excluded_comms.contains(&attempt.caller.comm) {
            self.excluded += 1;
            return;
        }
        self.reported += 1;
        self.demand.called(Callee::default(), &attempt.caller.comm, attempt.at_ns);
    }

    fn ended(&mut self, end: &AttemptEnd) {
        if self.excluded_comms.contains(&end.attempt.caller.comm) {
            return;
        }
        let ended_ns = end.attempt.at_ns.saturating_add(end.duration_ns);
        self.demand.ended(&Callee::default(), end.outcome, end.duration_ns, ended_ns);
    }
}
