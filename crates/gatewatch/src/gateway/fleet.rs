//! Gateway instances and their workers: who a record came from, and what the gateway itself counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gatewatch_capture::{
    clock,
    nginx::{NginxProbe, Overflow, Worker},
};
use gatewatch_event::request::LUA_PHASES;
use gatewatch_export::snapshot;
use gatewatch_target::{
    binary::Binary,
    counters::{Counters, Reading},
    process::{GatewayProcess, NameRule, ProcRoot},
};

/// Readings at which a quiet moment is waited for.
const PATIENCE: u32 = 40;

/// How long the counts have to stand still to be at rest: a worker that is kept from running goes on sooner.
const REST_NS: u64 = 200_000_000;
/// Names of masters kept.
const NAMES_MAX: usize = 256;

/// Powers of two the kernel tells overflowed durations apart by.
const OVERFLOW_BUCKETS: usize = 40;

/// Requests that may be on their way between our count and the gateway's: one a worker.
const SLACK: u64 = 16;
/// The same where the counts never stood still while they were read.
const SLACK_BUSY: u64 = 64;

/// A worker, as its first record made it known.
#[derive(Debug)]
pub struct Member {
    /// Index of its instance.
    pub instance: usize,
    /// The kernel's number of it.
    pub pid: u32,
    agent_pid: u32,
    began: u64,
}

/// One gateway: a master process and its workers, over restarts that keep its name.
#[derive(Debug, Default)]
pub struct Instance {
    /// Its name: the label `gateway`.
    pub name: String,
    /// Its id among the traffic's names.
    pub id: u32,
    /// Requests reported.
    pub reported: u64,
    /// Requests left out by the filters.
    pub filtered: u64,
    /// Records of it that were read.
    pub drained: u64,
    /// Index of its binary's layout.
    pub layout: u16,
    retired: Sums,
    /// The gateway's own counters, by master process: an upgrade runs two for a while.
    sources: Vec<Source>,
    /// What masters that are gone had counted.
    carried: u64,
    /// Requests the gateway counted and the probes never saw: they ended before it was watched.
    pub missed: u64,
    /// Of those: because monitoring was switched off.
    pub missed_off: u64,
    off: Off,
    /// What the gateway had counted when the probes' own count stood at 0, once it is known.
    base: Option<Base>,
    base_tries: u32,
    /// It was none of ours for a while.
    abandoned: bool,
    /// The gateway's count and ours, when they were looked at last, and since when they have not moved.
    last_moment: Option<((i128, u64), u64)>,
}

/// Whether its probes were taken away by the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Off {
    #[default]
    No,
    /// They are: what the gateway counts meanwhile is missed.
    Now,
    /// They were, and the counts have not been at rest since: what is missed may be of that time.
    Was,
}

/// What a worker's counts are taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worked {
    /// It works on.
    On,
    /// It has ended: what was open will never end.
    Dead,
    /// It works on unseen: what was open ends without us.
    Unseen,
}

#[derive(Debug)]
struct Source {
    master: u32,
    counters: Counters,
    last: Reading,
}

#[derive(Clone, Copy, Debug, Default)]
struct Base {
    /// May be below 0: ours goes on when a gateway is restarted, its own does not.
    ended: i128,
    /// How far that is uncertain.
    slack: u64,
}

/// What the kernel counted, over workers.
#[derive(Clone, Debug)]
pub struct Sums {
    /// Requests that ended.
    pub ended: u64,
    /// Records handed over.
    pub submitted: u64,
    /// Records that found no room.
    pub ring_full: u64,
    /// Starts that found no room.
    pub start_dropped: u64,
    /// Requests open when their worker died.
    pub died: u64,
    /// Requests in flight now.
    pub in_flight: u64,
    /// Workers alive.
    pub workers: u64,
    overflow: BTreeMap<u16, u64>,
    overflow_ns: u64,
    /// By power of two, in nanoseconds.
    overflow_durations: [u64; OVERFLOW_BUCKETS],
    lua_ns: [u64; LUA_PHASES.len()],
    lua_calls: [u64; LUA_PHASES.len()],
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            ended: 0,
            submitted: 0,
            ring_full: 0,
            start_dropped: 0,
            died: 0,
            in_flight: 0,
            workers: 0,
            overflow: BTreeMap::new(),
            overflow_ns: 0,
            overflow_durations: [0; OVERFLOW_BUCKETS],
            lua_ns: [0; LUA_PHASES.len()],
            lua_calls: [0; LUA_PHASES.len()],
        }
    }
}

impl Sums {
    /// Runs of Lua phases.
    pub fn lua_calls(&self) -> u64 {
        self.lua_calls.iter().sum()
    }

    fn add(&mut self, worker: &Worker, overflow: impl FnOnce() -> Overflow, worked: Worked) {
        self.ended += worker.ended;
        self.submitted += worker.submitted;
        self.ring_full += worker.ring_full;
        self.start_dropped += worker.start_dropped;
        let open = worker.started.saturating_sub(worker.finished);
        match worked {
            Worked::On => {
                self.in_flight += open;
                self.workers += 1;
            }
            Worked::Dead => self.died += open,
            Worked::Unseen => {}
        }
        if worker.ring_full > 0 {
            let overflow = overflow();
            self.overflow_ns += overflow.duration_ns;
            for (sum, n) in self.overflow_durations.iter_mut().zip(overflow.duration) {
                *sum += n;
            }
            for (status, n) in (0u16..).zip(overflow.status).filter(|(_, n)| *n > 0) {
                *self.overflow.entry(status).or_default() += n;
            }
        }
        for (sum, n) in self.lua_ns.iter_mut().zip(worker.lua_ns) {
            *sum += n;
        }
        for (sum, n) in self.lua_calls.iter_mut().zip(worker.lua_calls) {
            *sum += n;
        }
    }
}

/// All of them.
pub struct Fleet {
    root: ProcRoot,
    names: Vec<String>,
    rules: Vec<NameRule>,
    /// When this process began, in clock ticks after boot.
    began: u64,
    /// Starts are probed.
    counts_starts: bool,
    /// Names by master and when it began: to find one takes a look through all its sockets.
    known_names: HashMap<(u32, u64), String>,
    /// Names that masters keep against the rules.
    kept_names: HashMap<(u32, u64), String>,
    members: HashMap<u32, Member>,
    instances: Vec<Instance>,
}

impl Fleet {
    /// None yet.
    pub fn new(root: ProcRoot, names: Vec<String>, rules: Vec<NameRule>, counts_starts: bool) -> Self {
        let began = gatewatch_target::process::began();
        Self {
            root,
            names,
            rules,
            began,
            counts_starts,
            known_names: HashMap::new(),
            kept_names: HashMap::new(),
            members: HashMap::new(),
            instances: Vec::new(),
        }
    }

    /// The instance of the worker in this row, if its first record was seen to.
    pub fn instance_of(&mut self, row: u32) -> Option<&mut Instance> {
        let member = self.members.get(&row)?;
        self.instances.get_mut(member.instance)
    }

    /// Makes the worker in a row known. `id` gives an instance's name its id.
    pub fn join(&mut self, row: u32, worker: &Worker, binary: Option<&Binary>, id: impl FnOnce(&str) -> u32) {
        let process = self.root.gateway_at(worker.agent_pid, &self.names);
        let master = process.as_ref().map(|process| self.root.master_of(process, &self.names));
        let layout = u16::try_from(worker.layout).unwrap_or(0);
        let name = match &master {
            // Its master was killed: it is still of that gateway.
            Some(orphan) if orphan.is_worker => match self.name_of_the_unseen(layout) {
                Some(name) => name,
                None => self.name_of(&orphan.clone()),
            },
            Some(master) => self.name_of(&master.clone()),
            None => self.name_of_the_unseen(layout).unwrap_or_else(|| "unknown".to_owned()),
        };
        let instance = self.instance(name, layout, id);
        let began = process.map_or(0, |process| process.began);
        self.members.insert(row, Member { instance, pid: worker.pid, agent_pid: worker.agent_pid, began });
        let master = master.filter(|master| !master.is_worker);
        if let (Some(binary), Some(master), Some(instance)) =
            (binary, master, self.instances.get_mut(instance))
        {
            instance.open_counters(&self.root, &master, master.began > self.began, binary);
        }
    }

    /// Makes an instance known before it has served anything, once it listens and so has a lasting name; the name,
    /// if it is new.
    pub fn introduce(
        &mut self,
        master: &GatewayProcess,
        layout: u16,
        binary: &Binary,
        id: impl FnOnce(&str) -> u32,
    ) -> Option<String> {
        let name = self.name_of(master);
        if name.contains(":pid-") {
            return None;
        }
        let new = self.instances.iter().all(|instance| instance.name != name).then(|| name.clone());
        let index = self.instance(name, layout, id);
        let from_birth = master.began > self.began;
        if let Some(instance) = self.instances.get_mut(index) {
            instance.open_counters(&self.root, master, from_birth, binary);
        }
        new
    }

    /// The index of an instance by its name.
    fn instance(&mut self, name: String, layout: u16, id: impl FnOnce(&str) -> u32) -> usize {
        let index = match self.instances.iter().position(|instance| instance.name == name) {
            Some(index) => index,
            None => {
                let id = id(&name);
                self.instances.push(Instance { name, id, ..Instance::default() });
                self.instances.len() - 1
            }
        };
        if let Some(known) = self.instances.get_mut(index) {
            known.layout = layout;
        }
        index
    }

    fn name_of(&mut self, master: &GatewayProcess) -> String {
        let key = (master.pid, master.began);
        if let Some(name) = self.kept_names.get(&key).or_else(|| self.known_names.get(&key)) {
            return name.clone();
        }
        let name = self.root.instance_name(master, &self.rules);
        // Until it listens its name is not the lasting one.
        if !name.contains(":pid-") {
            if self.known_names.len() >= NAMES_MAX {
                self.known_names.clear();
            }
            self.known_names.insert(key, name.clone());
        }
        name
    }

    /// A worker that is gone already, or in a process namespace that is not ours to see: of the one instance that
    /// runs its binary, if there is but one.
    fn name_of_the_unseen(&self, layout: u16) -> Option<String> {
        let mut same = self.instances.iter().filter(|instance| instance.layout == layout);
        match (same.next(), same.next()) {
            (Some(instance), None) => Some(instance.name.clone()),
            _ => None,
        }
    }

    /// The worker in this row is known.
    pub fn has(&self, row: u32) -> bool {
        self.members.contains_key(&row)
    }

    /// Workers that have served requests, as the agent's `/proc` names them.
    pub fn pids(&self) -> Vec<u32> {
        self.members.values().map(|member| member.agent_pid).filter(|pid| *pid != 0).collect()
    }

    /// Rows whose process is gone.
    pub fn dead(&self, exited: &[u32], look: bool) -> Vec<u32> {
        let gone = |member: &Member| {
            exited.contains(&member.pid)
                || (look && member.agent_pid != 0 && !self.root.is_alive(member.agent_pid, member.began))
        };
        self.members.iter().filter(|(_, member)| gone(member)).map(|(row, _)| *row).collect()
    }

    /// Takes a dead worker's last counts over and forgets it.
    pub fn leave(&mut self, row: u32, worker: &Worker, overflow: impl FnOnce() -> Overflow) {
        let Some(member) = self.members.remove(&row) else {
            return;
        };
        if let Some(instance) = self.instances.get_mut(member.instance) {
            instance.retired.add(worker, overflow, Worked::Dead);
        }
    }

    /// The same of a worker that is no longer probed and works on.
    pub fn part(&mut self, row: u32, worker: &Worker, overflow: impl FnOnce() -> Overflow) {
        let member = self.members.remove(&row);
        if let Some(instance) = member.and_then(|member| self.instances.get_mut(member.instance)) {
            instance.retired.add(worker, overflow, Worked::Unseen);
        }
    }

    /// Monitoring was switched off, or on again: what gateways count meanwhile is told apart.
    pub fn set_off(&mut self, off: bool) {
        for instance in &mut self.instances {
            instance.off = match (off, instance.off) {
                (true, _) => Off::Now,
                (false, Off::Now) => Off::Was,
                (false, was) => was,
            };
        }
    }

    /// Starts are probed, or no longer.
    pub fn set_counts_starts(&mut self, counts_starts: bool) {
        self.counts_starts = counts_starts;
    }

    /// Gateways with these layouts are none of ours any more: their own counts are no longer read.
    pub fn abandon(&mut self, layouts: &[u16]) {
        for instance in self.instances.iter_mut().filter(|instance| layouts.contains(&instance.layout)) {
            for source in instance.sources.drain(..) {
                instance.carried += source.last.ended();
            }
            // Should it come back, what it counts meanwhile is none of ours either.
            (instance.abandoned, instance.base, instance.base_tries) = (true, None, 0);
        }
    }

    /// Processes are gateways by other names from now on.
    pub fn set_names(&mut self, names: Vec<String>) {
        self.names = names;
    }

    /// Instances are called by other rules from now on, those that run too; what there is to say about it. A name
    /// is what counts are kept under, so that two gateways under one name stay together, and one does not take the
    /// name of another. `id` gives a name its id.
    pub fn rename(&mut self, rules: Vec<NameRule>, mut id: impl FnMut(&str) -> u32) -> Vec<String> {
        self.rules = rules;
        self.known_names.clear();
        self.kept_names.clear();
        let mut said = Vec::new();
        for index in 0..self.instances.len() {
            let masters = self.masters_of(index);
            let names: BTreeSet<String> =
                masters.iter().map(|master| self.root.instance_name(master, &self.rules)).collect();
            let Some(instance) = self.instances.get(index) else { continue };
            let old = instance.name.clone();
            let mut names = names.into_iter().filter(|name| !name.contains(":pid-"));
            let (Some(new), more) = (names.next(), names.next()) else { continue };
            if new == old && more.is_none() {
                continue;
            }
            if more.is_some() || self.instances.iter().any(|other| other.name == new) {
                said.push(format!("gateway {old} keeps its name until it or gatewatch is restarted: others are counted with it, or under the name it would get"));
                let keep = masters.iter().map(|master| ((master.pid, master.began), old.clone()));
                self.kept_names.extend(keep);
                continue;
            }
            said.push(format!("gateway {old} is called {new} from now on"));
            let new_id = id(&new);
            if let Some(instance) = self.instances.get_mut(index) {
                (instance.name, instance.id) = (new, new_id);
            }
        }
        said
    }

    /// The masters of an instance that run now.
    fn masters_of(&self, index: usize) -> Vec<GatewayProcess> {
        let sources = self.instances.get(index).into_iter().flat_map(|instance| &instance.sources);
        let of_sources = sources.filter_map(|source| self.root.gateway_at(source.master, &self.names));
        let members = self.members.values().filter(|member| member.instance == index);
        let of_members = members.filter_map(|member| {
            let process = self.root.gateway_at(member.agent_pid, &self.names)?;
            Some(self.root.master_of(&process, &self.names)).filter(|master| !master.is_worker)
        });
        let mut masters: Vec<GatewayProcess> = of_sources.chain(of_members).collect();
        masters.sort_by_key(|master| master.pid);
        masters.dedup_by_key(|master| master.pid);
        masters
    }

    /// The kernel's counts by instance, in the instances' order.
    pub fn sums(&self, probe: &NginxProbe) -> Vec<Sums> {
        let mut sums: Vec<Sums> = self.instances.iter().map(|instance| instance.retired.clone()).collect();
        for (row, member) in &self.members {
            if let (Some(worker), Some(sums)) = (probe.worker(*row), sums.get_mut(member.instance)) {
                sums.add(&worker, || probe.overflow(*row), Worked::On);
            }
        }
        sums
    }

    /// Reads the gateways' own counts, to know where they stood when a master goes.
    pub fn calibrate(&mut self, probe: &NginxProbe, describe: impl Fn(u16) -> Layout) {
        // Requests in a worker without a row are lost and counted already: then the gateway is ahead for a known reason.
        let learn = probe.no_worker() == 0;
        self.compare(probe, describe, learn);
    }

    /// Requests that ended before their gateway was watched.
    pub fn missed(&self) -> u64 {
        self.instances.iter().map(|instance| instance.missed - instance.missed_off).sum()
    }

    /// Requests that ended while monitoring was off, as far as the gateways' own counts tell.
    pub fn missed_off(&self) -> u64 {
        self.instances.iter().map(|instance| instance.missed_off).sum()
    }

    /// Every instance with its sums, and with what its gateway counted meanwhile.
    pub fn reconcile(
        &mut self,
        probe: &NginxProbe,
        describe: impl Fn(u16) -> Layout,
    ) -> Vec<snapshot::Gateway> {
        self.compare(probe, describe, false)
    }

    /// Every worker's row has to be known when something is to be learnt: what an unknown one ended would look missed.
    fn compare(
        &mut self,
        probe: &NginxProbe,
        describe: impl Fn(u16) -> Layout,
        learn: bool,
    ) -> Vec<snapshot::Gateway> {
        let before = self.sums(probe);
        let readings: Vec<Option<Reading>> = self.instances.iter_mut().map(Instance::read_counters).collect();
        let after = self.sums(probe);
        let counts_starts = self.counts_starts;
        self.instances
            .iter_mut()
            .zip(readings)
            .zip(before.into_iter().zip(after))
            .map(|((instance, reading), (before, after))| {
                instance.show(reading, &before, after, &describe, counts_starts, learn)
            })
            .collect()
    }
}

/// A layout in words.
#[derive(Default)]
pub struct Layout {
    /// nginx's version.
    pub version: String,
    /// Where it came from.
    pub source: String,
    /// Live requests have proven it.
    pub proven: bool,
}

impl Instance {
    fn show(
        &mut self,
        reading: Option<Reading>,
        before: &Sums,
        after: Sums,
        describe: impl Fn(u16) -> Layout,
        counts_starts: bool,
        learn: bool,
    ) -> snapshot::Gateway {
        let layout = describe(self.layout);
        let counted = reading.and_then(|reading| self.counted(reading, before, &after, learn, layout.proven));
        // What the kernel handed over and we have not read yet is not lost.
        let accounted = self.reported + self.filtered + after.submitted.saturating_sub(self.drained);
        #[allow(clippy::cast_precision_loss)] // a ratio for people
        let coverage =
            counted.filter(|counted| *counted > 0).map(|counted| accounted as f64 / counted as f64);
        let phases = LUA_PHASES.into_iter().zip(after.lua_ns).zip(after.lua_calls);
        snapshot::Gateway {
            name: self.name.clone(),
            version: layout.version,
            layout: layout.source,
            proven: layout.proven,
            workers: after.workers,
            in_flight: counts_starts.then_some(after.in_flight),
            seen: after.ended + after.died + self.missed,
            reported: self.reported,
            filtered: self.filtered,
            counted_by_gateway: counted,
            coverage,
            overflow: after.overflow.into_iter().collect(),
            overflow_duration_ns: after.overflow_ns,
            overflow_durations: after.overflow_durations.to_vec(),
            lua: phases
                .filter(|(_, calls)| *calls > 0)
                .map(|((phase, ns), calls)| (phase, ns, calls))
                .collect(),
        }
    }

    fn open_counters(
        &mut self,
        root: &ProcRoot,
        master: &GatewayProcess,
        watched_from_birth: bool,
        binary: &Binary,
    ) {
        if self.sources.iter().any(|source| source.master == master.pid) {
            return;
        }
        let Ok(counters) = Counters::open(root, master.pid, binary) else { return };
        if !watched_from_birth || self.abandoned {
            // It has counted before we watched: how much, a quiet moment will tell.
            (self.base, self.base_tries) = (None, 0);
        } else if self.sources.is_empty() && self.base.is_none() {
            self.base = Some(Base::default());
        }
        self.sources.push(Source { master: master.pid, counters, last: Reading::default() });
    }

    /// What all masters counted together; what one that is gone had counted is carried on.
    fn read_counters(&mut self) -> Option<Reading> {
        let mut sum = Reading { settled: true, ..Reading::default() };
        let carried = &mut self.carried;
        self.sources.retain_mut(|source| match source.counters.read() {
            Ok(reading) => {
                source.last = reading;
                sum.requests += reading.requests;
                sum.open += reading.open;
                sum.settled &= reading.settled;
                true
            }
            Err(_) => {
                *carried += source.last.ended();
                false
            }
        });
        (!self.sources.is_empty()).then_some(sum)
    }

    /// The gateway's own count of requests that ended while we watched. The two counts cannot be read at the same
    /// moment, so ours is read before and after: a count of the gateway's in between is ours.
    fn counted(
        &mut self,
        reading: Reading,
        before: &Sums,
        after: &Sums,
        learn: bool,
        proven: bool,
    ) -> Option<u64> {
        // nginx never learns that the requests of a worker that died have ended.
        let ended = i128::from(reading.ended()) + i128::from(self.carried) + i128::from(after.died);
        let (low, high) = (before.ended + before.died, after.ended + after.died);
        let moment = (ended, high);
        let still = reading.settled && high == low;
        // Nothing has moved for a while: no request is on its way between the two counts.
        let now = clock::monotonic();
        let since = match self.last_moment {
            Some((last, since)) if last == moment => since,
            _ => now,
        };
        self.last_moment = Some((moment, since));
        let quiet = learn && (proven || self.off == Off::Now) && still && now - since >= REST_NS;
        let Some(base) = &mut self.base else {
            if !learn {
                return None;
            }
            self.base_tries += 1;
            // A gateway that never stands still has to do with less.
            if still || self.base_tries > PATIENCE {
                let slack = if still { SLACK } else { SLACK_BUSY };
                self.base = Some(Base { ended: ended - i128::from(high) - i128::from(self.missed), slack });
            }
            return None;
        };
        // How many more the gateway counted than we saw and know to have missed.
        let ahead = ended - base.ended - i128::from(high);
        let drift = ahead - i128::from(self.missed);
        if quiet {
            if drift.unsigned_abs() <= u128::from(base.slack) {
                base.ended += drift;
                base.slack = 0;
            } else if drift > 0 {
                self.miss(ahead);
            }
            if self.off == Off::Was {
                self.off = Off::No;
            }
        } else if learn && self.off != Off::No && drift > i128::from(SLACK_BUSY) {
            // No rest yet: what is sure already.
            self.miss(ahead - i128::from(SLACK_BUSY));
        }
        let base = self.base?;
        // Fewer than ours: the last moments of a master that is gone were not read. A few more: a request is on its
        // way between the two counts.
        let way = if quiet { 0 } else { SLACK.max(base.slack) };
        let counted = u64::try_from(ended - base.ended).unwrap_or(0);
        let ours = high + self.missed;
        Some(if counted <= ours + way { ours } else { counted })
    }

    /// So many were missed in all.
    fn miss(&mut self, missed: i128) {
        let missed = u64::try_from(missed).unwrap_or(self.missed).max(self.missed);
        if self.off != Off::No {
            self.missed_off += missed - self.missed;
        }
        self.missed = missed;
    }
}
