//! The node's hot loop: drains what the kernel programs saw, names it, counts it.

use std::{
    collections::HashSet,
    os::{fd::AsFd as _, linux::fs::MetadataExt as _},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use gatewatch_capture::{
    attempt::{AttemptProbe, Tally, Tier},
    clock,
};
use gatewatch_config::Config;
use gatewatch_decode::attempt::{Told, told};
use gatewatch_event::{Attempt, AttemptEnd, Outcome};
use gatewatch_export::{
    figures::{Figure, Kind},
    hot_loop::HotLoop,
    log::{Level, Log},
    node::Snapshot,
};
use gatewatch_insight::demand::{Bounds, Demand};
use gatewatch_scaler::demand::Board;
use gatewatch_target::process::ProcRoot;

use super::{
    bell::Bell,
    cluster::{self, Cluster},
    hold::{self, Hold, Wanted},
    publish,
    requests::Requests,
};
use crate::settings;

/// The longest sleep.
const NAP: Duration = Duration::from_millis(200);
/// The same where pieces come in that wake nobody.
const NAP_WITH_REQUESTS: Duration = Duration::from_millis(20);
/// After a turn with work the loop rests so long: however many attempts are made, few of them wake it.
const REST: Duration = Duration::from_millis(1);
/// How long attempts wait for the cluster to be read, at the start, to be named at all.
const PATIENCE_NS: u64 = 10_000_000_000;
/// How many may wait so.
const UNNAMED_MAX: usize = 65_536;
/// How often what is old is let go.
const HOUSEKEEPING_NS: u64 = 10_000_000_000;

/// What the hot loop shares with others.
pub struct Ends {
    /// With the server.
    pub hot_loop: Arc<HotLoop<Snapshot>>,
    /// With whoever has something for it.
    pub bell: Arc<Bell>,
    /// With the API server.
    pub cluster: Option<Cluster>,
    /// With the scalers.
    pub board: Option<Board>,
}

/// Its state.
pub struct Agent {
    probe: Option<AttemptProbe>,
    counts: Counts,
    ends: Ends,
    log: Log,
    hold: Option<Hold>,
    /// What it was told last, by address.
    held: Vec<Wanted>,
    /// That callers in the node's own network are not held was said.
    unheld_told: bool,
    requests: Option<Requests>,
    kept_house_ns: u64,
    /// What was seen before the cluster was known; `None`: it is.
    unnamed: Option<Vec<Told>>,
    began_ns: u64,
    knew: bool,
}

/// What is counted, and by what it is named.
struct Counts {
    demand: Demand,
    excluded_comms: HashSet<String>,
    excluded: u64,
    reported: u64,
    malformed: u64,
    /// The network namespace where the hold's programs are attached, the node's own.
    own_namespace: u32,
    /// Attempts from there that were refused, though their Service asks for the hold.
    unheld: u64,
}

impl Agent {
    /// Loads and attaches.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(config: &Config, ends: Ends) -> Result<Self> {
        let mut log = Log::new(settings::log(config), std::io::stdout())?;
        let pid_namespace = ProcRoot::new("/proc").pid_namespace();
        // Loaded first, for it takes long: nothing is drained until all is ready.
        let requests = config.node.requests.enabled.then(|| Requests::new(config, pid_namespace));
        let probe = match config.node.attempts.enabled {
            true => Some(AttemptProbe::load(pid_namespace)?),
            false => None,
        };
        let now = clock::realtime();
        let version = env!("CARGO_PKG_VERSION");
        log.say(
            Level::Info,
            now,
            &format!("gatewatch {version} watches this node; metrics at {}", config.listen.0),
        );
        if let Some(probe) = &probe {
            let less = match probe.tier() {
                Tier::Socket => {
                    "attempts that fail before a packet is sent are not seen, nor the addresses a socket load balancer translates"
                }
                Tier::Behind => "attempts are told by the address that a socket load balancer translates to",
                Tier::First | Tier::Alone | Tier::SystemCall => "",
            };
            if !less.is_empty() {
                log.say(Level::Warn, now, &format!("{less}: {}", probe.why()));
            }
        }
        if !config.node.attempts.enabled && !config.node.requests.enabled {
            log.say(Level::Warn, now, "nothing is watched: ENABLE_L4 and ENABLE_L7_HTTP are both off");
        }
        // Attempts are what a Service at zero waits for: they go on.
        let requests = requests.and_then(|requests| {
            requests
                .map_err(|error| {
                    log.say(Level::Error, now, &format!("HTTP requests are not read: {error:#}"));
                })
                .ok()
        });
        log.flush();
        let unnamed = ends.cluster.is_some().then(Vec::new);
        let hold = match ends.cluster.is_some() && config.node.hold.enabled {
            true => Some(Hold::new(hold::Settings::default())?),
            false => None,
        };
        Ok(Self {
            probe,
            counts: Counts {
                demand: Demand::new(Bounds::default()),
                excluded_comms: config.node.attempts.exclude_comms.iter().cloned().collect(),
                excluded: 0,
                reported: 0,
                malformed: 0,
                own_namespace: network_namespace(),
                unheld: 0,
            },
            ends,
            log,
            kept_house_ns: clock::monotonic(),
            unnamed,
            hold,
            held: Vec::new(),
            unheld_told: false,
            requests,
            began_ns: clock::monotonic(),
            knew: false,
        })
    }

    /// Sleeps until there is something to do, and does it.
    pub fn turn(&mut self) {
        let nap = if self.requests.is_some() { NAP_WITH_REQUESTS } else { NAP };
        gatewatch_capture::wait(
            nap,
            &[self.probe.as_ref().map(AttemptProbe::descriptor), Some(self.ends.bell.as_fd())],
        );
        self.ends.bell.hush();
        let now = clock::monotonic();
        self.learn(now);
        let drained = self.drain();
        if now.saturating_sub(self.kept_house_ns) > HOUSEKEEPING_NS {
            self.kept_house_ns = now;
            self.counts.demand.expire(now);
            if let Some(requests) = &mut self.requests {
                requests.keep_house(now, self.ends.cluster.as_ref());
            }
        }
        if let Some(requests) = &mut self.requests {
            for failed in requests.attach_tls() {
                self.log.say(Level::Warn, clock::realtime(), &failed);
            }
        }
        if self.ends.hot_loop.turn(now) {
            let snapshot = self.snapshot();
            self.ends.hot_loop.publish(snapshot);
        }
        self.log.flush();
        if drained > 0 {
            std::thread::sleep(REST);
        }
    }

    /// Counts what is left.
    pub fn finish(mut self) {
        self.drain();
        self.name_what_waits();
        self.log.say(Level::Info, clock::realtime(), "ends");
        self.log.finish();
    }

    /// What is new of the cluster.
    fn learn(&mut self, now: u64) {
        let Some(cluster) = &mut self.ends.cluster else {
            self.ends.hot_loop.set_ready(true);
            return;
        };
        let news = cluster.catch_up(now);
        for notice in &news.notices {
            self.log.say(Level::Warn, clock::realtime(), notice);
        }
        for key in &news.services {
            let callee = cluster::service(key);
            match cluster.directory().service(key) {
                Some(_) => self.counts.demand.known(&callee, now),
                None => {
                    self.counts.demand.gone(&callee);
                    if let Some(board) = &mut self.ends.board {
                        board.forget(&key.namespace, &key.name);
                    }
                }
            }
        }
        if let Some(hold) = &self.hold {
            if news.nodes || !news.services.is_empty() {
                // Most Services ask for no hold: what is new of them is not told.
                let wanted = cluster.wanted_holds();
                if wanted != self.held {
                    hold.services(wanted.clone());
                    self.held = wanted;
                }
            }
            hold.tick();
            for note in hold.notes() {
                self.log.say(Level::Warn, clock::realtime(), &note);
            }
        }
        let known = cluster.is_known(now);
        if known && !self.knew {
            let told = cluster.told(now);
            let text = format!("the cluster is known: {} Services, {} pods", told.services, told.pods);
            self.log.say(Level::Info, clock::realtime(), &text);
            if let Some(namespace) = cluster.empty_namespace() {
                let text = format!(
                    "namespace `{namespace}` holds neither Services nor pods: if `kubectl get namespace {namespace}` does not find it, mend WATCH_NAMESPACE"
                );
                self.log.say(Level::Warn, clock::realtime(), &text);
            }
        }
        self.knew |= known;
        self.ends.hot_loop.set_ready(known);
        if self.unnamed.is_some() && (known || now.saturating_sub(self.began_ns) > PATIENCE_NS) {
            self.name_what_waits();
        }
        if news.more {
            self.ends.bell.ring();
        }
    }

    /// Counts what was seen before there were names.
    fn name_what_waits(&mut self) {
        for told in self.unnamed.take().into_iter().flatten() {
            self.counts.take(told, &mut self.ends, &self.held);
        }
    }

    fn drain(&mut self) -> usize {
        let cluster = self.ends.cluster.as_ref();
        let pieces = self.requests.as_mut().map_or(0, |requests| requests.drain(clock::monotonic(), cluster));
        let attempts = self.drain_attempts();
        if self.counts.unheld > 0 && !self.unheld_told {
            self.unheld_told = true;
            let text = "a first request was refused though its Service asks for the hold: a caller in the node's own network (hostNetwork) cannot be held; gatewatch_hold_unheld_total counts them";
            self.log.say(Level::Warn, clock::realtime(), text);
        }
        pieces + attempts
    }

    fn drain_attempts(&mut self) -> usize {
        let Some(probe) = &self.probe else { return 0 };
        let (counts, ends, unnamed) = (&mut self.counts, &mut self.ends, &mut self.unnamed);
        let held = &self.held;
        probe.drain(|record| match (told(record), &mut *unnamed) {
            (Some(told), Some(unnamed)) if unnamed.len() < UNNAMED_MAX => unnamed.push(told),
            (Some(told), _) => counts.take(told, ends, held),
            (None, _) => counts.malformed += 1,
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
                ("capture", "attempt_end_mptcp", probe.tally(Tally::ATTEMPTS_UNFOLLOWED)),
                ("decode", "attempt_malformed", counts.malformed),
            ]);
        }
        let up = [("attempts", self.probe.is_some()), ("requests", self.requests.is_some())];
        snapshot.figures.push(Figure::by(
            "probe",
            Kind::Gauge,
            "gatewatch_probe_up",
            "1: watched; 0: not, see the log.",
            up.map(|(probe, up)| (probe, u64::from(up))),
        ));
        snapshot.attempts_reported = counts.reported;
        snapshot.attempts_excluded = counts.excluded;
        snapshot.attempts_folded = counts.demand.folded();
        snapshot.lost.push(("export", "log_blocked", self.log.lost()));
        snapshot.cluster = self.ends.cluster.as_ref().map(|cluster| cluster.told(snapshot.taken_ns));
        if let Some(requests) = &self.requests {
            publish::requests(&mut snapshot, requests);
        }
        if let Some(hold) = &self.hold {
            publish::hold(&mut snapshot, &hold.counts(), self.counts.unheld);
        }
        snapshot
    }
}

/// The inode of this process's; 0: not to be seen.
fn network_namespace() -> u32 {
    let inode = std::fs::metadata("/proc/self/ns/net").map(|meta| meta.st_ino());
    inode.ok().and_then(|inode| u32::try_from(inode).ok()).unwrap_or_default()
}

impl Counts {
    fn take(&mut self, told: Told, ends: &mut Ends, held: &[Wanted]) {
        match told {
            Told::Began(attempt) => self.began(&attempt, ends),
            Told::Ended(end) => {
                self.unheld += u64::from(self.is_unheld(&end, held));
                self.ended(&end, ends.cluster.as_ref());
            }
        }
    }

    fn began(&mut self, attempt: &Attempt, ends: &mut Ends) {
        if self.excluded_comms.contains(&attempt.caller.comm) {
            self.excluded += 1;
            return;
        }
        self.reported += 1;
        let callee = ends.cluster.as_ref().map(|cluster| cluster.callee(attempt)).unwrap_or_default();
        if let Some(board) = &mut ends.board
            && !callee.service.is_empty()
        {
            let at_ns = attempt.at_ns.saturating_add(clock::offset());
            board.called(&callee.namespace, &callee.service, 1, at_ns);
        }
        self.demand.called(callee, &attempt.caller.comm, attempt.at_ns);
    }

    /// Refused to a caller that the hold cannot reach: its packets pass no pod's interface.
    fn is_unheld(&self, end: &AttemptEnd, held: &[Wanted]) -> bool {
        let asked = end.attempt.asked;
        end.outcome == Outcome::Refused
            && end.attempt.caller.network_namespace == self.own_namespace
            && held
                .binary_search_by_key(&asked, |wanted| wanted.address)
                .is_ok_and(|at| held.get(at).is_some_and(|wanted| !wanted.ready))
    }

    fn ended(&mut self, end: &AttemptEnd, cluster: Option<&Cluster>) {
        if self.excluded_comms.contains(&end.attempt.caller.comm) {
            return;
        }
        let callee = cluster.map(|cluster| cluster.callee(&end.attempt)).unwrap_or_default();
        let ended_ns = end.attempt.at_ns.saturating_add(end.duration_ns);
        self.demand.ended(&callee, end.outcome, end.duration_ns, ended_ns);
    }
}
