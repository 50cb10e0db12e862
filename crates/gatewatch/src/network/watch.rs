//! One watch: probes loaded, interfaces followed, accounts gathered, what breaks mended.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;
use gatewatch_capture::{
    CaptureError, clock,
    connection::ConnectionProbe,
    network::{self, Ingress, Modes, NetworkProbe, Sample, Takeover},
    pin,
};
use gatewatch_config::Config;
use gatewatch_decode::{
    mask::Masker,
    network::{flow, flow_id, socket},
    protocol::{Direction, Ports, Recogniser},
};
use gatewatch_event::{
    Transport,
    connection::{FlowId, IpProtocol, Socket, TcpState},
};
use gatewatch_export::{http::Meeting, log::Level, network::Desk};
use gatewatch_insight::connections::{Carried, Connections, Fate};
use gatewatch_target::{
    interfaces::{Interface, Points, interfaces},
    process::{NameRule, ProcRoot},
};

use super::{
    Shared,
    listing::{self, Sources},
    picture,
    wanted::Wanted,
};
use crate::{gateway::live::Newest, settings};

/// Samples are taken from their ring so often: at 3,000 new connections a second it fills in one.
const NAP: Duration = Duration::from_millis(100);
/// Interfaces and attachments are looked at so often; new interfaces wake the watcher besides.
const CHECK_NS: u64 = 500_000_000;
/// A walk through all accounts may take this share of a CPU.
const WALK_SHARE: u64 = 100;
/// Connections whose protocol is being found out.
const RECOGNISERS_MAX: usize = 4096;
const SAMPLES_A_TURN: usize = 50_000;
/// Between two messages about the same lack.
const SAY_NS: u64 = 60_000_000_000;
/// Between two looks for processes of control groups that are not known.
const LOOK_NS: u64 = 10_000_000_000;

/// Everything the network's thread owns.
pub struct Watch<'a> {
    meeting: &'a Meeting,
    pub(super) packets: NetworkProbe,
    pub(super) tcp: Option<ConnectionProbe>,
    wanted: Wanted,
    pin: Option<PathBuf>,
    masker: Masker,
    names: Vec<String>,
    rules: Vec<NameRule>,
    root: ProcRoot,
    pub(super) connections: Connections,
    recognisers: HashMap<FlowId, Recogniser>,
    pub(super) containers: HashMap<u64, String>,
    pub(super) repairs: BTreeMap<&'static str, u64>,
    pub(super) blind_ns: u64,
    pub(super) beyond: picture::Beyond,
    pub(super) drop_reasons: BTreeMap<u32, String>,
    refused: BTreeMap<String, String>,
    checked_ns: u64,
    walked_ns: u64,
    walk_cost_ns: u64,
    looked_ns: u64,
    tcp_failed: Option<String>,
    said_full_ns: u64,
    changed: Arc<AtomicBool>,
}

impl<'a> Watch<'a> {
    /// Loads the probes, and takes over what an earlier agent left.
    pub fn start(config: &Config, meeting: &'a Meeting) -> Result<Self> {
        let desk = &meeting.network;
        let mut pin = config.network.pin.then(|| config.network.pin_dir.clone());
        let load = |pin: &Option<PathBuf>| {
            NetworkProbe::load(&network::Settings {
                max_flows: config.network.max_connections,
                pin: pin.clone(),
            })
        };
        let (packets, takeover) = match load(&pin) {
            Err(error @ (CaptureError::NoBpfFs { .. } | CaptureError::CannotPin { .. })) => {
                desk.say(Level::Warn, format!("counting will end with this agent: {error}"));
                pin = None;
                load(&pin)?
            }
            other => other?,
        };
        if let Some(root) = &pin {
            bury(root, desk);
        }
        let now = clock::monotonic();
        match takeover {
            Takeover::TakenOver { began_ns } => {
                let seconds = now.saturating_sub(began_ns) / 1_000_000_000;
                let text = format!(
                    "packets have been counted for {seconds} s by programs an earlier agent left: taken over"
                );
                desk.say(Level::Info, text);
            }
            Takeover::Replaced => desk.say(
                Level::Warn,
                "what an earlier agent pinned has another layout: removed, and counting begins at 0"
                    .to_owned(),
            ),
            Takeover::Fresh | Takeover::Unpinned => {}
        }
        let mut watch = Self {
            meeting,
            packets,
            tcp: None,
            wanted: Wanted::new(config),
            pin,
            masker: settings::masker(config)?,
            names: settings::process_names(config),
            rules: settings::instance_names(config),
            root: ProcRoot::default(),
            connections: Connections::default(),
            recognisers: HashMap::new(),
            containers: HashMap::new(),
            repairs: [("attachment", 0), ("interface", 0), ("probe", 0)].into(),
            blind_ns: 0,
            beyond: picture::Beyond::default(),
            drop_reasons: gatewatch_capture::connection::drop_reasons().into_iter().collect(),
            refused: BTreeMap::new(),
            checked_ns: now,
            walked_ns: 0,
            walk_cost_ns: 0,
            looked_ns: 0,
            tcp_failed: None,
            said_full_ns: 0,
            changed: Arc::default(),
        };
        // One that is as it was stays: while it is exchanged all packets pass.
        if !watch.packets.filters_by(&watch.wanted.filter) {
            watch.packets.set_filter(&watch.wanted.filter)?;
        }
        watch.follow_interfaces(now, true)?;
        watch.packets.drop_strangers();
        watch.follow_tcp();
        watch.walk(now);
        Ok(watch)
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.wanted.enabled
    }

    fn desk(&self) -> &'a Desk {
        &self.meeting.network
    }

    /// Until it is told to stop.
    pub(super) fn run(mut self, newest: &mut Newest, shared: &Shared) -> Result<()> {
        let watcher = thread::current();
        let changed = Arc::clone(&self.changed);
        // Ends with the process: it only ever waits for the kernel.
        let _waker = thread::Builder::new().name("interfaces".to_owned()).spawn(move || {
            let Ok(mut changes) = gatewatch_target::interfaces::Changes::new() else { return };
            while changes.wait().is_ok() {
                changed.store(true, Ordering::Release);
                watcher.unpark();
            }
        });
        while !shared.stop.load(Ordering::Acquire) {
            if newest.has_changed().unwrap_or(false) {
                let config = Arc::clone(&newest.borrow_and_update());
                self.configure(&config)?;
            }
            self.turn()?;
            thread::park_timeout(NAP.min(self.wanted.interval));
        }
        if shared.unload.load(Ordering::Acquire) {
            let Self { packets, tcp, .. } = self;
            if let Some(tcp) = tcp {
                tcp.unload()?;
            }
            packets.unload()?;
        }
        Ok(())
    }

    fn configure(&mut self, config: &Config) -> Result<()> {
        let before = std::mem::replace(&mut self.wanted, Wanted::new(config));
        self.masker = settings::masker(config)?;
        self.names = settings::process_names(config);
        self.rules = settings::instance_names(config);
        if before.filter != self.wanted.filter {
            self.packets.set_filter(&self.wanted.filter)?;
        }
        if before.ingress != self.wanted.ingress {
            self.exchange_hooks()?;
        }
        let now = clock::monotonic();
        self.follow_interfaces(now, true)?;
        self.follow_tcp();
        if before.enabled && !self.wanted.enabled {
            self.desk()
                .say(Level::Info, "packets and connections are not watched while that is so".to_owned());
            self.desk().close();
            self.desk().publish(picture::take(self));
        } else if self.wanted.enabled {
            self.desk().open(thread::current());
        }
        Ok(())
    }

    /// Another hook for what comes in, interface by interface. Between the two a packet may go uncounted.
    fn exchange_hooks(&mut self) -> Result<()> {
        for (interface, _) in self.packets.watched().into_iter().filter(|(interface, _)| interface.both) {
            let began = clock::monotonic();
            self.packets.unwatch(interface.index);
            let modes = self.packets.watch(&interface, self.wanted.ingress)?;
            let blind_ns = clock::monotonic().saturating_sub(began);
            self.blind_ns += blind_ns;
            self.say_modes(&interface, modes, " anew");
            let text = format!(
                "between its hooks packets of interface {} may have gone uncounted for {} ms",
                interface.name,
                blind_ns.div_ceil(1_000_000)
            );
            self.desk().say(Level::Warn, text);
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        self.take_samples();
        let now = clock::monotonic();
        if self.changed.swap(false, Ordering::AcqRel) {
            self.follow_interfaces(now, false)?;
        }
        if now.saturating_sub(self.checked_ns) >= CHECK_NS {
            self.follow_interfaces(now, false)?;
            self.mend(now);
            self.follow_tcp();
            let (_, ended_udp) = self.connections.ended_counts();
            self.packets.beat(ended_udp)?;
            if self.pin.is_some() && !self.packets.is_pinned() {
                self.pin = None;
                let text = "somebody has removed what was pinned: counting will end with this agent. Restart it to pin anew";
                self.desk().say(Level::Warn, text.to_owned());
            }
            self.checked_ns = now;
        }
        let interval_ns = u64::try_from(self.wanted.interval.as_nanos()).unwrap_or(u64::MAX);
        let since_walk = now.saturating_sub(self.walked_ns);
        let asked = self.desk().is_asked();
        let affordable = since_walk >= self.walk_cost_ns.saturating_mul(WALK_SHARE);
        if since_walk >= interval_ns && affordable || asked && since_walk >= self.walk_cost_ns * 10 {
            self.walk(now);
        }
        if asked {
            let picture = picture::take(self);
            self.desk().publish(picture);
        }
        if self.desk().is_asked_for_connections() {
            let rows = self.list();
            self.desk().publish_connections(rows);
        }
        Ok(())
    }

    /// Interfaces that came, went, or are wanted no longer.
    fn follow_interfaces(&mut self, now: u64, all: bool) -> Result<()> {
        let found = interfaces()?;
        let wanted = |interface: &Interface| {
            let names = &self.wanted.interfaces;
            self.wanted.enabled
                && interface.points != Points::Nowhere
                && (names.is_empty() || names.contains(&interface.name))
        };
        let is_watched = |index: u32| found.iter().any(|other| other.index == index && wanted(other));
        let there: Vec<network::Interface> = found
            .iter()
            .filter(|interface| wanted(interface))
            .map(|interface| {
                // What comes in went out of the other end, and is counted there, if that one is watched.
                let peer_counts = interface.peer.is_none_or(is_watched);
                network::Interface {
                    both: interface.points == Points::Both || !peer_counts,
                    ..counted(interface)
                }
            })
            .collect();
        let watched = self.packets.watched();
        for (old, _) in &watched {
            if !there.contains(old) {
                self.packets.unwatch(old.index);
                if !there.iter().any(|interface| interface.index == old.index) {
                    let text = format!("interface {} is watched no longer", old.name);
                    self.desk().say(Level::Info, text);
                }
            }
        }
        for name in self.wanted.interfaces.iter().filter(|_| all && self.wanted.enabled) {
            let why = match found.iter().find(|interface| interface.name == *name) {
                None => "which is not there: it is watched once it is",
                Some(interface) if interface.points == Points::Nowhere => {
                    "which stands on another: name that one, its packets are counted there"
                }
                Some(_) => continue,
            };
            self.desk().say(Level::Warn, format!("monitoring.filters names interface {name}, {why}"));
        }
        self.refused.retain(|name, _| there.iter().any(|interface| interface.name == *name));
        for interface in &there {
            if watched.iter().any(|(old, _)| old == interface)
                || (!all && self.refused.contains_key(&interface.name))
            {
                continue;
            }
            let changed = watched.iter().any(|(old, _)| old.index == interface.index);
            let known = self.packets.knows(&interface.name) && !changed;
            match self.packets.watch(interface, self.wanted.ingress) {
                Ok(modes) => {
                    if !all && !changed {
                        self.blind_ns += now.saturating_sub(self.checked_ns).min(CHECK_NS);
                        if known {
                            *self.repairs.entry("interface").or_default() += 1;
                        }
                    }
                    let again = if known && !all { " again" } else { "" };
                    self.say_modes(interface, modes, again);
                }
                Err(error) => {
                    let text = error.to_string();
                    if self.refused.insert(interface.name.clone(), text.clone()).is_none() {
                        let text = format!("interface {} is not watched: {text}", interface.name);
                        self.desk().say(Level::Error, text);
                    }
                }
            }
        }
        Ok(())
    }

    fn say_modes(&self, interface: &network::Interface, modes: Modes, again: &str) {
        let name = |mode: Option<gatewatch_capture::Mode>| mode.map_or("nothing", |mode| mode.as_str());
        let fallback = match (self.wanted.ingress, modes.ingress) {
            (Ingress::Xdp, Some(mode)) if !mode.as_str().starts_with("xdp") => {
                " (XDP could not be attached: see `gatewatch doctor`)"
            }
            _ => "",
        };
        let text = match modes.ingress {
            Some(_) => format!(
                "interface {} is watched{again}: in by {}{fallback}, out by {}",
                interface.name,
                name(modes.ingress),
                name(modes.egress)
            ),
            None => format!(
                "interface {} is watched{again}: each packet once, as it goes out, by {}",
                interface.name,
                name(modes.egress)
            ),
        };
        self.desk().say(Level::Info, text);
    }

    /// Attachments that somebody took off.
    fn mend(&mut self, now: u64) {
        for index in self.packets.broken() {
            let interface = self.packets.watched().into_iter().find(|(it, _)| it.index == index);
            let Some((interface, _)) = interface else { continue };
            self.packets.unwatch(index);
            let still_there = interfaces()
                .is_ok_and(|found| found.iter().any(|it| it.index == index && it.name == interface.name));
            if !still_there {
                continue;
            }
            let blind_ns = now.saturating_sub(self.checked_ns);
            match self.packets.watch(&interface, self.wanted.ingress) {
                Ok(modes) => {
                    self.blind_ns += blind_ns;
                    *self.repairs.entry("attachment").or_default() += 1;
                    let text = format!(
                        "somebody had taken the programs off interface {}: its packets may have gone uncounted for {} ms",
                        interface.name,
                        blind_ns / 1_000_000
                    );
                    self.desk().say(Level::Warn, text);
                    self.say_modes(&interface, modes, " again");
                }
                Err(error) => self.desk().say(Level::Error, error.to_string()),
            }
        }
    }

    /// TCP's own probe; without it packets are counted all the same.
    fn follow_tcp(&mut self) {
        match (&mut self.tcp, self.wanted.enabled) {
            (None, true) => match ConnectionProbe::load(self.pin.as_ref()) {
                Ok((probe, _)) => {
                    if self.tcp_failed.take().is_some() {
                        *self.repairs.entry("probe").or_default() += 1;
                    }
                    self.tcp = Some(probe);
                }
                Err(error) => {
                    let text = format!("TCP's states are not followed: {error}");
                    if self.tcp_failed.as_ref() != Some(&text) {
                        self.desk().say(Level::Error, text.clone());
                        self.tcp_failed = Some(text);
                    }
                }
            },
            (Some(_), true) | (None, false) => {}
            (Some(probe), false) => probe.pause(),
        }
        if let (Some(probe), true) = (&mut self.tcp, self.wanted.enabled)
            && let Err(error) = probe.resume()
        {
            self.desk().say(Level::Error, format!("TCP's states are not followed: {error}"));
        }
    }

    /// First bytes of connections.
    fn take_samples(&mut self) {
        let Self { packets, connections, recognisers, masker, wanted, .. } = self;
        let mut told = Vec::new();
        packets.samples(SAMPLES_A_TURN, |sample: Sample<'_>| {
            if !wanted.protocols {
                return;
            }
            let id = flow_id(&sample.head.key);
            let transport = match id.protocol {
                IpProtocol::Tcp => Transport::Tcp,
                IpProtocol::Udp => Transport::Udp,
                IpProtocol::Icmp | IpProtocol::Icmp6 | IpProtocol::Sctp | IpProtocol::Other(_) => return,
            };
            if !recognisers.contains_key(&id) && recognisers.len() >= RECOGNISERS_MAX {
                // What has not been told by now will hardly be.
                recognisers.clear();
            }
            let recogniser = recognisers.entry(id).or_default();
            let [a, b] = id.ends.map(|end| end.port());
            let direction = if sample.head.sender == 0 { Direction::AToB } else { Direction::BToA };
            let wire_len = usize::try_from(sample.head.wire_len).unwrap_or(usize::MAX);
            recogniser.feed(direction, sample.bytes, wire_len, transport, Ports { a, b });
            told.push(id);
        });
        for id in told {
            let Some(recogniser) = recognisers.get_mut(&id) else { continue };
            let verdict = recogniser.verdict();
            if verdict.confident {
                connections.recognised(&id, carried(masker, verdict));
            }
            if recogniser.settled() {
                recognisers.remove(&id);
            }
        }
    }

    /// Gathers what the connections came to, and takes those out that have ended.
    fn walk(&mut self, now: u64) {
        let began = clock::monotonic();
        let idle_ns = u64::try_from(self.wanted.idle.as_nanos()).unwrap_or(u64::MAX);
        let before = picture::Counted::now(&self.packets);
        let Self { packets, connections, .. } = self;
        let mut over = Vec::new();
        let mut strange = false;
        let containers = &self.containers;
        let mut live = 0u64;
        connections.begin_walk();
        let walked = packets.flows(|key, account| {
            live += 1;
            let (id, flow) = (flow_id(key), flow(account));
            strange |= flow.cgroup.iter().any(|cgroup| *cgroup != 0 && !containers.contains_key(cgroup));
            if connections.seen(&id, &flow, now, idle_ns) == Fate::End {
                over.push((*key, id));
            }
        });
        if let Err(error) = walked {
            // Half a walk would take what it did not see for evicted.
            self.desk().say(Level::Error, error.to_string());
            return;
        }
        connections.end_walk();
        for (key, id) in over {
            if let Some(last) = packets.end_flow(&key) {
                connections.ended(&id, &flow(&last));
                live = live.saturating_sub(1);
                self.recognisers.remove(&id);
            }
        }
        let evictions = self.beyond.evictions;
        self.beyond.update(&before, &self.connections, live);
        if self.beyond.evictions > evictions
            && (self.said_full_ns == 0 || now.saturating_sub(self.said_full_ns) >= SAY_NS)
        {
            self.said_full_ns = now;
            let text = format!(
                "the table of connections is full: {} accounts have given way to others (their packets stay in all other counts). A larger network.max_connections avoids that, at the next start",
                self.beyond.evictions
            );
            self.desk().say(Level::Warn, text);
        }
        self.walked_ns = now;
        self.walk_cost_ns = clock::monotonic().saturating_sub(began);
        if strange && now.saturating_sub(self.looked_ns) >= LOOK_NS {
            self.looked_ns = now;
            self.learn_containers();
        }
    }

    pub(super) fn sockets(&self) -> Vec<Socket> {
        let mut sockets = Vec::new();
        if let Some(tcp) = &self.tcp
            && let Err(error) = tcp.rows(|row| {
                let passes = |it: &Socket| self.wanted.passes([it.local, it.remote]);
                sockets.extend(socket(row).filter(|it| it.state == TcpState::Listen || passes(it)));
            })
        {
            self.desk().say(Level::Warn, error.to_string());
        }
        sockets
    }

    /// The kernel tells control groups by number only: a socket's process tells the name.
    fn learn_containers(&mut self) {
        let owners = self.root.socket_owners();
        for socket in self.sockets() {
            if let Some(owner) = owners.get(&socket.inode) {
                // Outside of containers and units a control group is the whole machine's.
                let name = if owner.container.is_empty() { "host" } else { &owner.container };
                self.containers.entry(socket.cgroup).or_insert_with(|| name.to_owned());
            }
        }
    }

    fn list(&mut self) -> Vec<gatewatch_export::network::Connection> {
        self.take_samples();
        let mut flows = Vec::new();
        if let Err(error) = self.packets.flows(|key, account| flows.push((flow_id(key), flow(account)))) {
            self.desk().say(Level::Error, error.to_string());
        }
        let owners = self.root.socket_owners();
        let interfaces: HashMap<u32, String> =
            self.packets.watched().into_iter().map(|(it, _)| (it.index, it.name)).collect();
        let gateway_of = |pid| {
            let process = self.root.gateway_at(pid, &self.names)?;
            let master = self.root.master_of(&process, &self.names);
            Some(self.root.instance_name(&master, &self.rules))
        };
        let known = std::cell::RefCell::new(HashMap::<u32, Option<String>>::new());
        let gateway_of = |pid: u32| known.borrow_mut().entry(pid).or_insert_with(|| gateway_of(pid)).clone();
        listing::list(&Sources {
            sockets: &self.sockets(),
            flows: &flows,
            connections: &self.connections,
            owners: &owners,
            interfaces: &interfaces,
            gateway_of: &gateway_of,
            now_ns: clock::monotonic(),
        })
    }
}

/// Removes what agents of network namespaces that are gone have left: nobody else will.
fn bury(root: &Path, desk: &Desk) {
    for instance in pin::instances(root).unwrap_or_default() {
        if instance.abandoned && pin::unload(&instance).is_ok() {
            let text = format!("{}: its network namespace is gone; removed", instance.directory.display());
            desk.say(Level::Info, text);
        }
    }
}

fn counted(interface: &Interface) -> network::Interface {
    network::Interface {
        index: interface.index,
        name: interface.name.clone(),
        ethernet: interface.ethernet,
        hardware: interface.hardware,
        both: interface.points == Points::Both,
    }
}

/// Nothing of a verdict leaves unmasked.
fn carried(masker: &Masker, verdict: gatewatch_decode::protocol::Verdict) -> Carried {
    let tls = verdict.tls.unwrap_or_default();
    let host = verdict.host.or(tls.sni);
    Carried {
        application: verdict.application,
        host: host.map(|host| masker.mask_header(host.as_bytes()).into_owned()),
        path: verdict.path.map(|path| masker.mask_target(path.as_bytes()).into_owned()),
        tls_version: tls.version.map(gatewatch_event::TlsVersion::as_str),
        alpn: tls.alpn,
    }
}
