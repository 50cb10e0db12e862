//! The hot loop: one thread that owns its state; drain, decode, attribute, fold, and on.

mod apply;

use std::{
    collections::HashSet,
    fs::File,
    io,
    sync::{Arc, atomic::AtomicBool, mpsc::Receiver},
    time::Duration,
};

use anyhow::{Context, Result};
use gatewatch_capture::{
    CaptureError, clock,
    nginx::{LAYOUTS_MAX, NginxProbe, Sites},
    process::{ProcessChange, ProcessProbe},
};
use gatewatch_config::{Config, Detail};
use gatewatch_export::{
    http::Meeting,
    log::{Level, Log},
    snapshot::Reloads,
};
use gatewatch_insight::{
    ledger::{Ledger, Stage},
    traffic::Traffic,
};
use gatewatch_target::{
    binary::{Binary, BinaryError, FileKey},
    process::{GatewayProcess, ProcRoot},
};

use super::{
    fleet::{Fleet, Sums},
    folding::{Folding, Memos},
    live::Live,
    lua::LuaProbes,
    prepared::Prepared,
    proof::{self, Watched},
    publish,
    reaper::Reaper,
    reload::News,
    status,
    watch::{self, Finding, Watcher},
};
use crate::settings;

/// How long the loop sleeps when there is little to do. A line is in the log, a count in the metrics, so much later.
const NAP: Duration = Duration::from_millis(10);
/// How long it sleeps while a gateway has begun and is not attached yet, and for how long that may be.
const SHORT_NAP: Duration = Duration::from_millis(1);
const HURRY_NS: u64 = 200_000_000;
/// Records read between two looks at everything else.
const BATCH: usize = 20_000;
/// How often the slow work is done: workers, clock, ledger.
const TICK_NS: u64 = 250_000_000;

/// Where the start of a request is probed.
const START: &str = "ngx_http_process_request";

/// Everything the hot loop owns.
pub struct Agent {
    probe: NginxProbe,
    processes: Option<ProcessProbe>,
    watcher: Watcher,
    watched: Vec<Option<Watched>>,
    lean: bool,
    known_names: Vec<String>,
    folding: Folding,
    meeting: Arc<Meeting>,
    window: publish::Window,
    next_tick_ns: u64,
    exited: Vec<u32>,
    hurry_until_ns: u64,
    lua: LuaProbes,
    lua_wanted: Arc<AtomicBool>,
    status: status::Slot,
    news: Receiver<News>,
    live: Arc<Live>,
    reloads: Reloads,
    reaper: Reaper,
    /// Probes are being ended: what waits for it is done then.
    ending: bool,
    /// Found while its probes of before were being ended.
    postponed: Vec<(Arc<Binary>, File, GatewayProcess)>,
    /// Binaries that the watcher before this one found, and this one has not yet.
    unconfirmed: HashSet<FileKey>,
    /// Binaries that wait for the one that is watched to end (before Linux 5.15), and of which that was said.
    waiting: HashSet<FileKey>,
}

/// What the agent shares with others.
pub struct Ends {
    /// With the HTTP server.
    pub meeting: Arc<Meeting>,
    /// With who switches the Lua probes.
    pub lua_wanted: Arc<AtomicBool>,
    /// With who asks the gateway for its count.
    pub status: status::Slot,
    /// From who looks at the configuration's file.
    pub news: Receiver<News>,
    /// To all who follow the configuration.
    pub live: Arc<Live>,
}

impl Agent {
    /// Loads the probes and begins to look for gateways.
    ///
    /// # Errors
    /// The kernel's refusal, or a configuration that does not hold.
    pub fn new(prepared: Prepared, ends: Ends) -> Result<Self> {
        let Prepared { config, changes: _, traffic, masker, filter } = prepared;
        let config = &*config;
        let Ends { meeting, lua_wanted, status, news, live } = ends;
        meeting.offer_metrics(config.metrics.enabled);
        let root = ProcRoot::default();
        let names = settings::process_names(config);
        let mut log = Log::new(settings::log(config), io::stdout()).context("cannot start the log")?;
        let probe = NginxProbe::load(settings::capture(config, &root))?;
        let now = clock::realtime();
        let processes = match ProcessProbe::load(root.pid_namespace()) {
            Ok(processes) => Some(processes),
            Err(error) => {
                log.say(
                    Level::Warn,
                    now,
                    &format!("new processes are noticed by looking every 2 s only: {error}"),
                );
                None
            }
        };
        let text =
            format!("serving on {}; looking for processes named {}", config.listen.0, names.join(" or "));
        log.say(Level::Info, now, &text);
        for key in config.not_yet_effective() {
            log.say(
                Level::Warn,
                now,
                &format!("`{key}` is understood, but this version does nothing with it yet"),
            );
        }
        if !config.monitoring.enabled {
            log.say(Level::Warn, now, "`monitoring.enabled` is false: no gateway will be watched");
        }
        let watcher = Watcher::start(watch_settings(config, &root))?;
        let fleet = Fleet::new(
            root.clone(),
            names.clone(),
            settings::instance_names(config),
            config.gateway.detail == Detail::Full,
        );
        let folding = Folding {
            root,
            fleet,
            traffic: Traffic::new(traffic),
            masker,
            filter,
            memos: Memos::default(),
            log,
            ledger: Ledger::default(),
            clock_offset: clock::offset(),
        };
        Ok(Self {
            probe,
            processes,
            watcher,
            watched: Vec::new(),
            lean: config.gateway.detail == Detail::Lean,
            known_names: names,
            folding,
            meeting,
            window: publish::Window::new(clock::monotonic(), config.stats.interval),
            next_tick_ns: 0,
            exited: Vec::new(),
            hurry_until_ns: 0,
            lua: LuaProbes::new(Arc::clone(&lua_wanted)),
            lua_wanted,
            status,
            news,
            live,
            reloads: Reloads { last_applied_ns: now, ..Reloads::default() },
            reaper: Reaper::start().context("cannot start")?,
            ending: false,
            postponed: Vec::new(),
            unconfirmed: HashSet::new(),
            waiting: HashSet::new(),
        })
    }

    /// One turn of the loop.
    pub fn turn(&mut self) {
        let read = self.drain();
        self.take_news();
        self.settle();
        self.follow();
        let now = clock::monotonic();
        if now >= self.next_tick_ns {
            self.tick(now);
        }
        if self.meeting.hot_loop.turn(now) {
            self.calibrate();
            let mut snapshot = publish::snapshot(publish::Scene {
                probe: &self.probe,
                processes: self.processes.as_ref(),
                fleet: &mut self.folding.fleet,
                traffic: &self.folding.traffic,
                ledger: &self.folding.ledger,
                window: &self.window,
                watched: &self.watched,
                reloads: self.reloads,
                clock_offset: self.folding.clock_offset,
            });
            let learned = self.status.try_lock().ok().and_then(|learned| *learned);
            // What was read from memory is newer; of several gateways the page does not tell whose it is.
            if let (Some(learned), [gateway]) = (learned, snapshot.gateways.as_mut_slice())
                && gateway.coverage.is_none()
            {
                gateway.counted_by_gateway = Some(learned.counted);
                gateway.coverage = learned.coverage;
            }
            self.meeting.hot_loop.publish(snapshot);
        }
        for (level, message) in self.meeting.network.messages() {
            self.folding.say(level, &message);
        }
        self.folding.log.flush();
        if read < BATCH {
            let nap = if now < self.hurry_until_ns { SHORT_NAP } else { NAP };
            self.probe.wait(nap, self.processes.as_ref());
        }
    }

    /// The last turn: what was seen is reported, and the statistics are said once more.
    pub fn finish(&mut self) {
        while self.drain() > 0 {}
        self.tick(clock::monotonic());
        self.say_statistics(clock::monotonic());
        for (level, message) in self.meeting.network.messages() {
            self.folding.say(level, &message);
        }
        self.folding.log.finish();
    }

    fn drain(&mut self) -> usize {
        let Self { probe, watched, folding, .. } = self;
        let mut changed = false;
        let read = probe.drain(BATCH, |bytes| changed |= folding.record(probe, watched, bytes));
        if changed {
            self.set_layouts();
        }
        read
    }

    /// Makes the layouts in use known to the programs, after one was refuted.
    fn set_layouts(&mut self) {
        for (id, watched) in (0u16..).zip(&self.watched) {
            let Some(candidate) = watched.as_ref().and_then(Watched::candidate) else {
                continue;
            };
            if let Err(error) = self.probe.set_layout(id, &candidate.layout) {
                self.folding.say(Level::Error, &error.to_string());
            }
        }
    }

    /// Processes and binaries that came or went.
    fn follow(&mut self) {
        if let Some(processes) = &self.processes {
            let (watcher, exited, names) = (&self.watcher, &mut self.exited, &self.known_names);
            let hurry_until_ns = &mut self.hurry_until_ns;
            processes.drain(|change| match change {
                ProcessChange::Exec { pid, comm } => {
                    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
                    let comm = comm.get(..end).unwrap_or(&comm);
                    // Until it is attached the loop hardly sleeps: each moment it can miss requests.
                    if pid != 0 && names.iter().any(|name| name.as_bytes().starts_with(comm)) {
                        watcher.hint(pid);
                        *hurry_until_ns = clock::monotonic() + HURRY_NS;
                    }
                }
                ProcessChange::Exit { pid } => exited.push(pid),
            });
        }
        while let Some(finding) = self.watcher.next() {
            match finding {
                Finding::Binary { binary, file, process } => self.attach(&binary, file, &process),
                Finding::Unwatchable { process, error } => {
                    // Scripts and wrappers bear the name too: no reason to worry anybody.
                    // What titles itself as nginx does is one.
                    let level = match error {
                        _ if process.title.starts_with("nginx: ") => Level::Error,
                        BinaryError::NotNginx { .. } | BinaryError::NotElf { .. } => Level::Debug,
                        BinaryError::Unreadable { .. }
                        | BinaryError::NoFunction { .. }
                        | BinaryError::NoLayout { .. } => Level::Error,
                    };
                    let title = self.folding.masker.mask_header(process.title.as_bytes());
                    let text = format!("process {} ({title}) is not watched: {error}", process.pid);
                    self.folding.say(level, &text);
                }
                Finding::Masters(masters) => {
                    self.let_go_of_unconfirmed();
                    for (master, key) in masters {
                        let runs =
                            |watched: &Option<Watched>| watched.as_ref().is_some_and(|w| w.binary.key == key);
                        let layout = self.watched.iter().position(runs);
                        let Some(layout) = layout else { continue };
                        let binary = self.watched.get(layout).and_then(Option::as_ref).map(|w| &*w.binary);
                        if let (Some(binary), Ok(layout)) = (binary, u16::try_from(layout)) {
                            let Folding { fleet, traffic, .. } = &mut self.folding;
                            let new = fleet.introduce(&master, layout, binary, |name| traffic.gateway(name));
                            if let Some(name) = new {
                                let text = format!(
                                    "gateway {name}: process {}, {} {}",
                                    master.pid, binary.product, binary.version
                                );
                                self.folding.say(Level::Info, &text);
                            }
                        }
                    }
                }
                Finding::Gone(key) => {
                    if !self.let_go(|watched| watched.binary.key == key).is_empty() {
                        self.folding.say(Level::Info, "a gateway's binary is no longer run: let go");
                    }
                }
            }
        }
        self.meeting.hot_loop.set_ready(self.watched.iter().flatten().any(|watched| !watched.is_detached()));
    }

    fn attach(&mut self, binary: &Arc<Binary>, file: File, process: &GatewayProcess) {
        self.unconfirmed.remove(&binary.key);
        let known = self.watched.iter_mut().flatten().find(|watched| watched.binary.key == binary.key);
        if let Some(known) = known {
            if known.is_detached() {
                self.postponed.push((Arc::clone(binary), file, process.clone()));
                return;
            }
            // Found anew by another watcher, which may know of other debug files.
            if known.is_refused() {
                known.retry(Arc::clone(binary));
                self.set_layouts();
            }
            return;
        }
        let free = self.watched.iter().position(Option::is_none).unwrap_or(self.watched.len());
        let id = match u16::try_from(free).ok().filter(|id| *id < LAYOUTS_MAX) {
            Some(id) => id,
            None => {
                let text = format!(
                    "more than {LAYOUTS_MAX} gateway builds at once: process {} is not watched; run a second gatewatch for it",
                    process.pid
                );
                return self.folding.say(Level::Error, &text);
            }
        };
        let Some(first) = binary.candidates.first() else {
            return;
        };
        let site = |name: &str| binary.functions.get(name).copied();
        let Some(end) = site("ngx_http_free_request") else {
            return;
        };
        let sites = Sites { start: site(START).filter(|_| !self.lean), end };
        let exe = proof::path_of(&file);
        let attached =
            self.probe.set_layout(id, &first.layout).and_then(|()| self.probe.attach(&exe, sites, id));
        match attached {
            Ok(attachment) => {
                self.waiting.clear();
                let text = format!(
                    "watching {} {} (process {}): layout from {}, to be proven on its first requests",
                    binary.product, binary.version, process.pid, first.source
                );
                self.folding.say(Level::Info, &text);
                for remark in &binary.remarks {
                    self.folding.say(Level::Warn, remark);
                }
                let watched = Watched::new(Arc::clone(binary), file, attachment);
                match self.watched.get_mut(free) {
                    Some(place) => *place = Some(watched),
                    None => self.watched.push(Some(watched)),
                }
            }
            Err(error) => {
                // It is found anew, and tried anew, at each look: what cannot be helped is said once.
                let again = matches!(error, CaptureError::OneBinary) && !self.waiting.insert(binary.key);
                if !again {
                    self.folding.say(Level::Error, &format!("process {}: {error}", process.pid));
                }
                self.watcher.forget(binary.key);
            }
        }
    }

    fn tick(&mut self, now: u64) {
        let looks_at_all =
            self.processes.is_none() || now / 2_000_000_000 != self.next_tick_ns / 2_000_000_000;
        self.next_tick_ns = now + TICK_NS;
        self.folding.clock_offset = clock::offset();
        self.bury(looks_at_all);
        self.calibrate();
        let sums = self.folding.fleet.sums(&self.probe);
        let ledger = &mut self.folding.ledger;
        ledger.set(Stage::Capture, "not_yet_watched", self.folding.fleet.missed());
        ledger.set(Stage::Capture, "monitoring_off", self.folding.fleet.missed_off());
        ledger.set(Stage::Capture, "ring_full", sums.iter().map(|sums| sums.ring_full).sum());
        ledger.set(Stage::Capture, "worker_died", sums.iter().map(|sums| sums.died).sum());
        ledger.set(Stage::Capture, "worker_table_full", self.probe.no_worker());
        ledger.set(Stage::Export, "log_blocked", self.folding.log.lost());
        let requests = self.folding.traffic.all().requests();
        let pids = self.folding.fleet.pids();
        let calls = sums.iter().map(Sums::lua_calls).sum();
        let Self { lua, probe, reaper, folding, .. } = self;
        for (level, text) in lua.tick(probe, reaper, &folding.root, &pids, requests, calls) {
            self.folding.say(level, &text);
        }
        for warning in self.meeting.warnings() {
            self.folding.say(Level::Warn, &warning);
        }
        if self.window.is_over(now) {
            self.say_statistics(now);
        }
    }

    /// Compares our counts with the gateways' own.
    fn calibrate(&mut self) {
        // A worker that has begun requests and ended none is in the table without a record.
        for (row, worker) in self.probe.workers() {
            if !self.folding.fleet.has(row) {
                self.folding.join(row, &worker, &self.watched);
            }
        }
        let watched = &self.watched;
        self.folding.fleet.calibrate(&self.probe, |layout| publish::layout(watched, layout));
    }

    fn say_statistics(&mut self, now: u64) {
        let in_flight =
            (!self.lean).then(|| self.folding.fleet.sums(&self.probe).iter().map(|s| s.in_flight).sum());
        let calls = self.folding.fleet.sums(&self.probe).iter().map(Sums::lua_calls).sum();
        if let Some(cost) = self.lua.cost(&self.probe, self.folding.traffic.all().requests(), calls) {
            self.folding.say(Level::Info, &cost);
        }
        self.folding.traffic.rotate();
        self.window.begin(now, publish::statistics(&self.folding.traffic, self.window.seconds(now)));
        let lost = self.folding.ledger.requests_lost();
        self.folding.log.statistics(
            now + self.folding.clock_offset,
            self.window.statistics(),
            in_flight,
            lost,
        );
    }

    /// Workers that are gone: what they left is read (their last records are in the ring before their exit is
    /// known), their rows are free again.
    fn bury(&mut self, look_at_all: bool) {
        let exited = std::mem::take(&mut self.exited);
        if exited.is_empty() && !look_at_all {
            return;
        }
        let dead = self.folding.fleet.dead(&exited, look_at_all);
        if dead.is_empty() {
            return;
        }
        while self.drain() > 0 {}
        let workers = self.probe.workers();
        for row in dead {
            let Some(worker) = workers.get(&row) else { continue };
            self.folding.fleet.leave(row, worker, || self.probe.overflow(row));
            if let Err(error) = self.probe.release_worker(row, worker) {
                self.folding.say(Level::Error, &error.to_string());
            }
        }
    }
}

fn watch_settings(config: &Config, root: &ProcRoot) -> watch::Settings {
    watch::Settings {
        enabled: config.monitoring.enabled,
        root: root.clone(),
        names: settings::process_names(config),
        debug_dir: config.gateway.debug_dir.clone(),
    }
}
