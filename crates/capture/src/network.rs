//! The packet programs: `bpf/network.bpf.c`, loaded or taken over, attached to interfaces, read.

use std::{
    collections::BTreeMap,
    mem::MaybeUninit,
    path::{Path, PathBuf},
};

use libbpf_rs::{
    Link, MapCore, MapFlags,
    skel::{OpenSkel, Skel, SkelBuilder},
};

use crate::{
    CaptureError, MapMemory, Mode,
    attach::{self, Attached},
    clock, kernel,
    nginx::{check_network_rights, run_times},
    pin::{Pins, first_value},
    ring::Ring,
    skeleton::network::{NetworkSkel, NetworkSkelBuilder, types},
    values::{self, bytes, lookup, lookup_percpu, map_error, plain, value},
    verifier,
};

pub use types::{
    network_class as Class, network_count as Count, network_family as Family, network_flow as Flow,
    network_flow_key as FlowKey, network_protocol as Protocol, network_sample as SampleHead,
    network_tally as Tally,
};

plain!(
    types::network_count,
    types::network_flow,
    types::network_flow_key,
    types::network_sample,
    types::network_slot,
    types::network_interface,
    types::network_filter,
    types::network_prefix,
    types::network_identity,
);

/// Interfaces counted at once.
pub const SLOTS: u32 = 256;
/// The label of interfaces whose slots others were given.
const GONE: &str = "(gone)";
/// Interface indices below this stand in an array (`NETWORK_LOW_INDICES`).
const LOW_INDICES: u32 = 1024;
/// Families a packet is counted by.
pub const FAMILIES: u32 = 3;
/// Protocols a packet is counted by.
pub const PROTOCOLS: u32 = 5;

/// What the probe is loaded with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Connections accounted for at once.
    pub max_flows: u32,
    /// Where to pin maps and links; `None`: nowhere.
    pub pin: Option<PathBuf>,
}

/// Which hook counts packets that come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// XDP in the driver of a device, TC elsewhere.
    Auto,
    /// XDP wherever it can be attached.
    Xdp,
    /// TC.
    Tc,
}

/// An interface to count at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name: 15 bytes at most.
    pub name: String,
    /// Its frames begin with an Ethernet header.
    pub ethernet: bool,
    /// Hardware stands behind it.
    pub hardware: bool,
    /// What comes in is counted; otherwise only what goes out.
    pub both: bool,
}

/// What is watched. An empty list of a kind lets everything pass; kinds combine by AND.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Bits by [`Protocol`].
    pub protocols: Option<u32>,
    /// Ports, of either end.
    pub ports: Option<Vec<u16>>,
    /// Networks of either end.
    pub networks: Option<Vec<Prefix>>,
}

impl Filter {
    fn head(&self) -> types::network_filter {
        let kinds = [
            (self.protocols.is_some(), types::network_filter_kind::NETWORK_BY_PROTOCOL),
            (self.ports.is_some(), types::network_filter_kind::NETWORK_BY_PORT),
            (self.networks.is_some(), types::network_filter_kind::NETWORK_BY_NETWORK),
        ];
        let kinds = kinds.iter().filter(|(set, _)| *set).fold(0, |bits, (_, kind)| bits | kind.0);
        types::network_filter { kinds, protocols: self.protocols.unwrap_or(0) }
    }

    /// A bit for each port.
    fn words(&self) -> Vec<u64> {
        let mut words = vec![0u64; 1024];
        for port in self.ports.iter().flatten() {
            if let Some(word) = words.get_mut(usize::from(port >> 6)) {
                *word |= 1 << (port & 63);
            }
        }
        words
    }
}

/// A network: IPv4 as `::ffff:a.b.c.d`, its length 96 more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// It is of IPv4.
    pub ipv4: bool,
    /// Its length.
    pub bits: u32,
    /// Its address.
    pub address: [u8; 16],
}

impl Prefix {
    fn key(&self) -> types::network_prefix {
        let family = if self.ipv4 { Family::NETWORK_IPV4.0 } else { Family::NETWORK_IPV6.0 };
        types::network_prefix { bits: 32 + self.bits, family, address: self.address }
    }
}

/// How an interface is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    /// What comes in; `None`: not counted, or not attached.
    pub ingress: Option<Mode>,
    /// What goes out.
    pub egress: Option<Mode>,
}

/// What became of what an earlier agent had pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// Nothing is pinned: counting ends with the agent.
    Unpinned,
    /// There was nothing: counting begins.
    Fresh,
    /// Counting went on and goes on; it began at this `CLOCK_MONOTONIC` time.
    TakenOver {
        /// Nanoseconds.
        began_ns: u64,
    },
    /// Counting begins anew: what was there was of another layout, and is removed.
    Replaced,
}

struct Watched {
    interface: Interface,
    slot: u32,
    ingress: Option<Attached>,
    egress: Option<Attached>,
}

/// The loaded probe.
pub struct NetworkProbe {
    skel: NetworkSkel<'static>,
    ring: Ring,
    pins: Option<Pins>,
    watched: BTreeMap<u32, Watched>,
    slots: Vec<String>,
    identity: types::network_identity,
    ended_udp_before: u64,
}

/// A payload's beginning, as the kernel handed it over.
#[derive(Clone, Copy)]
pub struct Sample<'a> {
    /// Whose, and how long it really was.
    pub head: SampleHead,
    /// Its first bytes.
    pub bytes: &'a [u8],
}

/// A link is attached to an interface, or to something else that does not go away.
pub(crate) fn is_live(link: &Link) -> bool {
    !attach::is_at_interface(link) || attach::interface_of(link).is_some()
}

/// The directory of this network namespace's pins under `root`.
#[must_use]
pub fn instance_directory(root: &Path) -> PathBuf {
    let cookie = kernel::network_namespace_cookie();
    let name = match cookie {
        0 => format!("net-i{}", kernel::network_namespace()),
        cookie => format!("net-{cookie}"),
    };
    root.join(name)
}

fn layout() -> u64 {
    env!("NETWORK_LAYOUT").parse().unwrap_or(0)
}

impl NetworkProbe {
    /// Loads the programs, into maps an earlier agent pinned where there are any; attaches nothing new yet.
    ///
    /// # Errors
    /// A missing capability or BTF, no BPF file system, or the kernel's refusal.
    pub fn load(settings: &Settings) -> Result<(Self, Takeover), CaptureError> {
        check_network_rights("count packets")?;
        verifier::listen();
        let load = verifier::load_error("network");
        let directory = settings.pin.as_ref().map(|root| instance_directory(root).join("packets"));
        let mut takeover = if directory.is_some() { Takeover::Fresh } else { Takeover::Unpinned };
        let mut pins = directory.clone().map(Pins::open).transpose()?;
        let pinned = pins.as_ref().and_then(|pins| pins.map("network_identity"));
        let found = pinned.as_ref().and_then(first_value::<types::network_identity>);
        if let (Some(found), Some(there), Some(directory)) = (found, &pins, directory) {
            takeover = Takeover::TakenOver { began_ns: found.began_ns };
            if found.layout != layout() || found.netns_cookie != kernel::network_namespace_cookie() {
                let clear = |source| CaptureError::Os { action: "remove an older agent's pins", source };
                there.clear().map_err(clear)?;
                pins = Some(Pins::open(directory)?);
                takeover = Takeover::Replaced;
            }
        }

        // libbpf's object must stay where it is for the probe's life, which is the process's.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = NetworkSkelBuilder::default().open(storage).map_err(load)?;
        open.maps.network_flows.set_max_entries(settings.max_flows).map_err(load)?;
        if let Some(rodata) = &mut open.maps.rodata_data {
            rodata.has_sampling = true;
        }
        open.progs.network_xdp.set_autoload(kernel::has_xdp());
        if let Some(pins) = &pins {
            pins.reuse(open.open_object_mut())?;
        }
        let mut skel = open.load().map_err(load)?;
        let now = clock::monotonic();
        let mut identity = types::network_identity {
            layout: layout(),
            netns_cookie: kernel::network_namespace_cookie(),
            began_ns: now,
            alive_ns: now,
            absent_ns: 0,
            ended_udp: 0,
        };
        if let (Takeover::TakenOver { .. }, Some(found)) = (takeover, found) {
            identity.began_ns = found.began_ns;
            identity.ended_udp = found.ended_udp;
            identity.absent_ns = found.absent_ns + now.saturating_sub(found.alive_ns);
        }
        if let Some(pins) = &pins {
            pins.keep(skel.object_mut())?;
        }
        let ring = Ring::new(&skel.maps.network_samples).map_err(load)?;
        let slots = (0..SLOTS)
            .map(|slot| {
                let slot: types::network_slot = lookup(&skel.maps.network_slots, slot).unwrap_or_default();
                text(&slot.name)
            })
            .collect();
        let mut probe = Self {
            skel,
            ring,
            pins,
            watched: BTreeMap::new(),
            slots,
            identity,
            ended_udp_before: identity.ended_udp,
        };
        probe.beat(0)?;
        Ok((probe, takeover))
    }

    /// Says that an agent runs, and how many UDP flows it has found ended. A later one tells by it for how long there
    /// was none, and goes on counting.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn beat(&mut self, ended_udp: u64) -> Result<(), CaptureError> {
        self.identity.alive_ns = clock::monotonic();
        self.identity.ended_udp = self.ended_udp_before + ended_udp;
        self.skel
            .maps
            .network_identity
            .update(&0u32.to_ne_bytes(), bytes(&self.identity), MapFlags::ANY)
            .map_err(map_error("say whose the maps are"))
    }

    /// UDP flows that earlier agents found ended.
    #[must_use]
    pub fn ended_udp_before(&self) -> u64 {
        self.ended_udp_before
    }

    /// What is to outlive the agent is still pinned.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.pins.as_ref().is_some_and(|pins| pins.has("network_identity"))
    }

    /// For how long no agent ran since counting began, in nanoseconds: packets were counted meanwhile, requests not.
    #[must_use]
    pub fn absent_ns(&self) -> u64 {
        self.identity.absent_ns
    }

    /// Counts at this interface from now on, or goes on with the attachments an earlier agent pinned.
    ///
    /// # Errors
    /// When no slot is free, or the kernel refuses every way.
    pub fn watch(&mut self, interface: &Interface, how: Ingress) -> Result<Modes, CaptureError> {
        let slot = self.slot(interface)?;
        let settings = types::network_interface {
            slot,
            flags: types::network_interface_flags::NETWORK_KNOWN.0
                | u32::from(interface.ethernet)
                | u32::from(interface.hardware) << 1,
        };
        self.set_interface(interface.index, settings)?;
        let ingress = match interface.both {
            true => Some(self.attach(interface, slot, Some(how))?),
            false => {
                self.forget_link(slot, true);
                None
            }
        };
        let egress = self.attach(interface, slot, None)?;
        let modes = Modes { ingress: ingress.as_ref().map(Attached::mode), egress: Some(egress.mode()) };
        let watched = Watched { interface: interface.clone(), slot, ingress, egress: Some(egress) };
        self.watched.insert(interface.index, watched);
        Ok(modes)
    }

    /// Counts there no longer. What was counted stays.
    pub fn unwatch(&mut self, index: u32) {
        let Some(watched) = self.watched.remove(&index) else { return };
        for (attached, ingress) in [(watched.ingress, true), (watched.egress, false)] {
            self.forget_link(watched.slot, ingress);
            attached.into_iter().for_each(Attached::detach);
        }
        self.forget_interface(index);
    }

    fn set_interface(&self, index: u32, settings: types::network_interface) -> Result<(), CaptureError> {
        let maps = &self.skel.maps;
        let key = index.to_ne_bytes();
        let set = match index < LOW_INDICES {
            true => maps.network_low.update(&key, bytes(&settings), MapFlags::ANY),
            false => maps.network_interfaces.update(&key, bytes(&settings), MapFlags::ANY),
        };
        set.map_err(map_error("make an interface known"))
    }

    fn forget_interface(&self, index: u32) {
        let _gone = match index < LOW_INDICES {
            true => self.set_interface(index, types::network_interface::default()).is_ok(),
            // Gone already is as good.
            false => self.skel.maps.network_interfaces.delete(&index.to_ne_bytes()).is_ok(),
        };
    }

    /// Pinned links of interfaces that are not watched: an earlier agent watched them. They are removed.
    pub fn drop_strangers(&mut self) {
        let ours: Vec<_> = self
            .watched
            .values()
            .flat_map(|watched| [true, false].map(|ingress| link_name(watched.slot, ingress)))
            .collect();
        if let Some(pins) = &self.pins {
            pins.links().iter().filter(|name| !ours.contains(name)).for_each(|name| pins.drop_link(name));
        }
        let high = self.skel.maps.network_interfaces.keys().filter_map(|key| value::<u32>(&key));
        let known: Vec<u32> = high.chain(0..LOW_INDICES).collect();
        for index in known {
            if !self.watched.contains_key(&index) {
                self.forget_interface(index);
            }
        }
    }

    /// The interfaces watched, and how.
    #[must_use]
    pub fn watched(&self) -> Vec<(Interface, Modes)> {
        let modes = |watched: &Watched| Modes {
            ingress: watched.ingress.as_ref().map(Attached::mode),
            egress: watched.egress.as_ref().map(Attached::mode),
        };
        self.watched.values().map(|watched| (watched.interface.clone(), modes(watched))).collect()
    }

    /// An interface of this name is or was watched.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.slots.iter().any(|slot| slot == name)
    }

    /// Interfaces of which somebody has taken a program off, by index.
    #[must_use]
    pub fn broken(&self) -> Vec<u32> {
        let broken = |watched: &&Watched| {
            let mut attached = watched.ingress.iter().chain(&watched.egress);
            attached.any(|attached| !attached.is_live(watched.interface.index))
        };
        self.watched.values().filter(broken).map(|watched| watched.interface.index).collect()
    }

    fn slot(&mut self, interface: &Interface) -> Result<u32, CaptureError> {
        let name = &interface.name;
        let known = self.slots.iter().position(|known| known == name);
        let last = self.slots.len().saturating_sub(1);
        let free = || self.slots.iter().take(last).position(String::is_empty);
        let Some(at) = known.or_else(free).or_else(|| self.reclaim()) else {
            return Err(CaptureError::NoSlot { interface: name.clone(), slots: SLOTS - 1 });
        };
        let slot = u32::try_from(at).unwrap_or(u32::MAX);
        let mut value = types::network_slot { ifindex: interface.index, ..Default::default() };
        for (to, from) in value.name.iter_mut().zip(name.bytes().take(15)) {
            *to = from.cast_signed();
        }
        self.skel
            .maps
            .network_slots
            .update(&slot.to_ne_bytes(), bytes(&value), MapFlags::ANY)
            .map_err(map_error("keep an interface's name"))?;
        if let Some(known) = self.slots.get_mut(at) {
            known.clone_from(name);
        }
        Ok(slot)
    }

    /// A slot of an interface that is watched no longer: what it counted goes to the last slot, where all that are gone
    /// stand together, so that sums stay whole.
    fn reclaim(&mut self) -> Option<usize> {
        let last = self.slots.len().checked_sub(1)?;
        let in_use = |at: usize| self.watched.values().any(|it| usize::try_from(it.slot) == Ok(at));
        let at = (0..last).find(|at| !in_use(*at))?;
        let (from, to) = (u32::try_from(at).ok()?, u32::try_from(last).ok()?);
        let counts = &self.skel.maps.network_counts;
        for class in 0..2 * Class::NETWORK_CLASSES.0 {
            let [from, to] = [from, to].map(|slot| slot * 2 * Class::NETWORK_CLASSES.0 + class);
            let moved = lookup_percpu::<Count>(counts, from);
            if moved.iter().all(|count| count.packets == 0) {
                continue;
            }
            // No program writes to either: the one is watched no longer, the other is no interface's.
            let add =
                |(a, b): (&Count, Count)| Count { packets: a.packets + b.packets, bytes: a.bytes + b.bytes };
            let sums: Vec<Vec<u8>> = moved
                .iter()
                .zip(lookup_percpu::<Count>(counts, to))
                .map(|sum| bytes(&add(sum)).to_vec())
                .collect();
            let none: Vec<Vec<u8>> = moved.iter().map(|_| bytes(&Count::default()).to_vec()).collect();
            counts.update_percpu(&to.to_ne_bytes(), &sums, MapFlags::ANY).ok()?;
            counts.update_percpu(&from.to_ne_bytes(), &none, MapFlags::ANY).ok()?;
        }
        let mut gone = types::network_slot::default();
        for (to, from) in gone.name.iter_mut().zip(GONE.bytes()) {
            *to = from.cast_signed();
        }
        self.skel.maps.network_slots.update(&to.to_ne_bytes(), bytes(&gone), MapFlags::ANY).ok()?;
        GONE.clone_into(self.slots.get_mut(last)?);
        Some(at)
    }

    /// Attaches what counts packets that come in (`ingress` says how), or that go out.
    fn attach(
        &self,
        interface: &Interface,
        slot: u32,
        ingress: Option<Ingress>,
    ) -> Result<Attached, CaptureError> {
        let progs = &self.skel.progs;
        let name = link_name(slot, ingress.is_some());
        let tc = if ingress.is_some() { &progs.network_ingress } else { &progs.network_egress };
        let wants_xdp = kernel::has_xdp()
            && match ingress {
                Some(Ingress::Auto) => interface.hardware,
                Some(Ingress::Xdp) => true,
                Some(Ingress::Tc) | None => false,
            };
        // What an earlier agent left goes on counting while its program is exchanged for ours.
        if let Some(pins) = &self.pins
            && let Some(mut link) = pins.link(&name)
        {
            let of_xdp =
                matches!(link.info().map(|info| info.info), Ok(libbpf_rs::query::LinkTypeInfo::Xdp(_)));
            let program = if of_xdp { &progs.network_xdp } else { tc };
            let fits = attach::interface_of(&link) == Some(interface.index) && (wants_xdp || !of_xdp);
            if fits && (of_xdp || !matches!(ingress, Some(Ingress::Xdp))) && link.update_prog(program).is_ok()
            {
                let mode = if of_xdp { attach::xdp_mode(program, interface.index) } else { Mode::Tcx };
                return Ok(Attached::Link { link, mode });
            }
        }
        self.forget_link(slot, ingress.is_some());
        let refused = |source| CaptureError::Interface { interface: interface.name.clone(), source };
        let native_only = ingress == Some(Ingress::Auto);
        let by_xdp =
            if wants_xdp { attach::xdp(&progs.network_xdp, interface.index, native_only).ok() } else { None };
        let mut attached = match by_xdp {
            Some(attached) => attached,
            None => attach::tc(tc, interface.index, ingress.is_some()).map_err(refused)?,
        };
        if let (Some(pins), Attached::Link { link, .. }) = (&self.pins, &mut attached) {
            pins.keep_link(&name, link)?;
        }
        Ok(attached)
    }

    fn forget_link(&self, slot: u32, ingress: bool) {
        if let Some(pins) = &self.pins {
            pins.drop_link(&link_name(slot, ingress));
        }
    }

    /// The programs filter so already: an earlier agent told them.
    #[must_use]
    pub fn filters_by(&self, filter: &Filter) -> bool {
        let maps = &self.skel.maps;
        let head: types::network_filter = lookup(&maps.network_filter, 0).unwrap_or_default();
        let wanted = filter.head();
        let mut networks: Vec<Vec<u8>> = maps.network_prefixes.keys().collect();
        let mut wanted_networks: Vec<Vec<u8>> =
            filter.networks.iter().flatten().map(|network| bytes(&network.key()).to_vec()).collect();
        networks.sort();
        wanted_networks.sort();
        wanted_networks.dedup();
        (head.kinds, head.protocols) == (wanted.kinds, wanted.protocols)
            && networks == wanted_networks
            && (0u32..)
                .zip(filter.words())
                .all(|(index, word)| lookup(&maps.network_ports, index) == Some(word))
    }

    /// What is watched from now on.
    ///
    /// # Errors
    /// When a map cannot be written; the programs then may watch more than is asked, never less.
    pub fn set_filter(&mut self, filter: &Filter) -> Result<(), CaptureError> {
        let maps = &self.skel.maps;
        let zero = 0u32.to_ne_bytes();
        let set = |value: types::network_filter| {
            maps.network_filter
                .update(&zero, bytes(&value), MapFlags::ANY)
                .map_err(map_error("set the filter"))
        };
        // All pass while the lists change: too much for a moment rather than a hole.
        set(types::network_filter::default())?;
        let words = filter.words();
        for (index, word) in (0u32..).zip(&words) {
            maps.network_ports
                .update(&index.to_ne_bytes(), &word.to_ne_bytes(), MapFlags::ANY)
                .map_err(map_error("set the filter's ports"))?;
        }
        let before: Vec<_> = maps.network_prefixes.keys().collect();
        for key in before {
            let _gone = maps.network_prefixes.delete(&key);
        }
        for network in filter.networks.iter().flatten() {
            maps.network_prefixes
                .update(bytes(&network.key()), &1u32.to_ne_bytes(), MapFlags::ANY)
                .map_err(map_error("set the filter's networks"))?;
        }
        set(filter.head())
    }

    /// Counts by interface name, direction (0: in, 1: out) and class, of all interfaces ever watched.
    pub fn counts(&self, mut sink: impl FnMut(&str, u32, u32, Count)) {
        for (slot, name) in (0u32..).zip(&self.slots) {
            if name.is_empty() {
                continue;
            }
            for direction in 0..2 {
                for class in 0..Class::NETWORK_CLASSES.0 {
                    let at = (slot * 2 + direction) * Class::NETWORK_CLASSES.0 + class;
                    let sum = lookup_percpu::<Count>(&self.skel.maps.network_counts, at).into_iter().fold(
                        Count::default(),
                        |sum, count| Count {
                            packets: sum.packets + count.packets,
                            bytes: sum.bytes + count.bytes,
                        },
                    );
                    if sum.packets > 0 {
                        sink(name, direction, class, sum);
                    }
                }
            }
        }
    }

    /// One of the other counts.
    #[must_use]
    pub fn tally(&self, tally: Tally) -> u64 {
        lookup_percpu::<u64>(&self.skel.maps.network_tallies, tally.0).into_iter().sum()
    }

    /// All connections accounted for, now. One that begins or ends meanwhile may be missing or come twice.
    ///
    /// # Errors
    /// When the kernel does not let them be read: what came until then is not all.
    pub fn flows(&self, sink: impl FnMut(&FlowKey, &Flow)) -> Result<(), CaptureError> {
        values::walk(&self.skel.maps.network_flows, sink)
            .map_err(|source| CaptureError::Os { action: "read the table of connections", source })
    }

    /// Ends the account of a connection; its last state, if it was still there.
    #[must_use]
    pub fn end_flow(&self, key: &FlowKey) -> Option<Flow> {
        let map = &self.skel.maps.network_flows;
        match map.lookup_and_delete(bytes(key)) {
            Ok(flow) => value(&flow?),
            // Before Linux 5.14 in two steps: a packet in between is not accounted to the connection.
            Err(_) => {
                let flow = map.lookup(bytes(key), MapFlags::ANY).ok().flatten()?;
                map.delete(bytes(key)).ok()?;
                value(&flow)
            }
        }
    }

    /// Hands up to `limit` waiting samples to `sink`; how many there were.
    pub fn samples(&self, limit: usize, mut sink: impl FnMut(Sample<'_>)) -> usize {
        self.ring.drain(limit, &mut |record: &[u8]| {
            let Some(head) = value::<SampleHead>(record) else { return };
            let Some(bytes) = record.get(size_of::<SampleHead>()..) else { return };
            let bytes = bytes.get(..usize::from(head.len)).unwrap_or(bytes);
            sink(Sample { head, bytes });
        })
    }

    /// Kernel memory of each map.
    #[must_use]
    pub fn memory(&self) -> Vec<MapMemory> {
        self.skel.object().maps().filter_map(|map| values::memory(&map)).collect()
    }

    /// Nanoseconds run and times run of each program, where the kernel counts them.
    #[must_use]
    pub fn run_times(&self) -> Vec<(&'static str, u64, u64)> {
        let progs = &self.skel.progs;
        run_times([
            ("network_ingress", &progs.network_ingress),
            ("network_egress", &progs.network_egress),
            ("network_xdp", &progs.network_xdp),
        ])
    }

    /// Detaches everything and removes the pins: nothing is counted any longer.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn unload(mut self) -> Result<(), CaptureError> {
        let watched: Vec<u32> = self.watched.keys().copied().collect();
        watched.into_iter().for_each(|index| self.unwatch(index));
        match &self.pins {
            Some(pins) => {
                pins.clear().map_err(|source| CaptureError::Os { action: "remove the pins", source })
            }
            None => Ok(()),
        }
    }
}

fn link_name(slot: u32, ingress: bool) -> String {
    format!("{slot}_{}", if ingress { "in" } else { "out" })
}

fn text(bytes: &[i8]) -> String {
    let bytes: Vec<u8> =
        bytes.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
