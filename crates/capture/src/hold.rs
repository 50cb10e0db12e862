//! The first request's hold: `bpf/hold.bpf.c`, loaded, attached to pods' interfaces, read; and frames put in on either
//! way.

use std::{
    collections::HashMap,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use libbpf_rs::{
    Link, MapCore, MapFlags, ProgramInput,
    libbpf_sys::BPF_F_TEST_XDP_LIVE_FRAMES,
    skel::{OpenSkel, SkelBuilder},
};
use rustix::event::{EventfdFlags, eventfd};

use crate::{
    CaptureError, Mode,
    attach::{self, Attached},
    kernel,
    nginx::{check_network_rights, run_times},
    packet_socket::{packet_socket, send},
    ring::{Ring, wait_beside},
    skeleton::hold::{HoldSkel, HoldSkelBuilder, types},
    values::{bytes, lookup_percpu, map_error, plain, value, walk},
    verifier,
};

plain!(types::hold_address, types::hold_terms, types::hold_key, types::hold_attempt, types::hold_event);

/// What is held at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Attempts at once, of all pods.
    pub attempts: u32,
    /// Attempts of one pod at once.
    pub per_pod: u32,
}

/// An attempt to connect: who to whom, by which veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Who calls.
    pub client: SocketAddr,
    /// Who is called.
    pub service: SocketAddr,
    /// The host's end of the pod's veth pair.
    pub ifindex: u32,
}

impl From<&types::hold_key> for Key {
    fn from(key: &types::hold_key) -> Self {
        let end = |address: [u8; 16], port| {
            SocketAddr::new(IpAddr::from(address).to_canonical(), u16::from_be(port))
        };
        Self {
            client: end(key.client, key.client_port),
            service: end(key.service, key.service_port),
            ifindex: key.ifindex,
        }
    }
}

impl From<&Key> for types::hold_key {
    fn from(key: &Key) -> Self {
        Self {
            client: mapped(key.client),
            service: mapped(key.service),
            client_port: key.client.port().to_be(),
            service_port: key.service.port().to_be(),
            ifindex: key.ifindex,
        }
    }
}

/// As the programs write it: IPv4 as ::ffff:a.b.c.d.
fn mapped(address: SocketAddr) -> [u8; 16] {
    match address.ip() {
        IpAddr::V4(four) => four.to_ipv6_mapped().octets(),
        IpAddr::V6(six) => six.octets(),
    }
}

fn kernel_address(address: SocketAddr) -> types::hold_address {
    types::hold_address { address: mapped(address), port: address.port().to_be(), pad: 0 }
}

/// What happened to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// Its first SYN came; what the key stood for before is over.
    Began {
        /// Until when it is held, monotonic.
        until_ns: u64,
        /// Of the socket; 0: not known.
        cookie: u64,
    },
    /// The SYN-ACK passes to the pod.
    Connected,
    /// Its time was over, and a refusal passes to the pod.
    Refused,
    /// A refusal of it was held back, the first of its address.
    Closed,
}

/// An event.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Of an attempt.
    Attempt {
        /// Of whom to whom.
        key: Key,
        /// Which attempt of this key.
        isn: u32,
        /// Monotonic nanoseconds.
        at_ns: u64,
        /// What.
        happened: Happened,
    },
    /// The socket with this cookie was closed before it was connected.
    GaveUp {
        /// Of the socket.
        cookie: u64,
    },
}

/// An attempt as the kernel has it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Which attempt of its key.
    pub isn: u32,
    /// When its first SYN came, monotonic.
    pub first_ns: u64,
    /// Until when it is held.
    pub until_ns: u64,
    /// Of the socket; 0: not known.
    pub cookie: u64,
    /// A SYN-ACK has passed.
    pub answered: bool,
    /// The frame of its newest SYN, cut behind its headers; its checksum may be partial.
    pub syn: Vec<u8>,
}

impl From<&types::hold_attempt> for Attempt {
    fn from(found: &types::hold_attempt) -> Self {
        Self {
            isn: found.isn,
            first_ns: found.first_ns,
            until_ns: found.until_ns,
            cookie: found.cookie,
            answered: found.state != 0,
            syn: found.syn.get(..usize::from(found.len)).unwrap_or_default().to_vec(),
        }
    }
}

/// What the programs counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Attempts held.
    pub attempts: u64,
    /// SYNs of attempts that were held already: clients' own and our replays.
    pub retransmitted: u64,
    /// Resets held back.
    pub dropped_resets: u64,
    /// ICMP errors held back.
    pub dropped_icmp: u64,
    /// SYN-ACKs that passed to held attempts.
    pub connected: u64,
    /// Refusals let through at the limit.
    pub refused: u64,
    /// SYNs and refusals nothing was done with: user space had not renewed its lease.
    pub lease_over: u64,
    /// Attempts not held: no room.
    pub no_room: u64,
    /// Attempts not held: their pod has as many as it may.
    pub quota: u64,
    /// Events lost.
    pub no_event: u64,
}

/// Wakes the thread that waits in [`HoldProbe::wait`].
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A new one.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> Result<Self, CaptureError> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| CaptureError::Os { action: "make an eventfd", source: error.into() })?;
        Ok(Self(Arc::new(fd)))
    }

    /// Ends the wait, the present or the next one.
    pub fn wake(&self) {
        // Full is awake.
        let _full = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Waits, for `timeout` at most, without a probe.
    pub fn wait(&self, timeout: Option<Duration>) {
        wait_beside(timeout, None, self.0.as_fd());
        self.clear();
    }

    fn clear(&self) {
        let _empty = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

/// The loaded programs. Belongs to one thread, which must be in the namespace of the interfaces.
pub struct HoldProbe {
    skel: HoldSkel<'static>,
    ring: Ring,
    attached: HashMap<u32, [Attached; 2]>,
    gave_up: Option<Link>,
    packets: OwnedFd,
    live_frames: bool,
}

impl HoldProbe {
    /// Loads the programs, and attaches none.
    ///
    /// # Errors
    /// A missing capability or BTF, or the kernel's refusal.
    pub fn load(limits: Limits) -> Result<Self, CaptureError> {
        check_network_rights("hold first requests")?;
        verifier::listen();
        let load = verifier::load_error("hold");
        // libbpf's object must stay where it is for the programs' life, which is the process's.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = HoldSkelBuilder::default().open(storage).map_err(load)?;
        if let Some(rodata) = &mut open.maps.rodata_data {
            rodata.attempts_per_pod = limits.per_pod;
        }
        open.maps.hold_attempts.set_max_entries(limits.attempts).map_err(load)?;
        let skel = open.load().map_err(load)?;
        let ring = Ring::new(&skel.maps.hold_events).map_err(load)?;
        Ok(Self {
            skel,
            ring,
            attached: HashMap::new(),
            gave_up: None,
            packets: packet_socket()?,
            live_frames: kernel::has_live_frames(),
        })
    }

    /// Attaches to the host's end of a pod's veth pair.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn attach(&mut self, ifindex: u32) -> Result<Mode, CaptureError> {
        let refused = |source| CaptureError::Interface { interface: format!("#{ifindex}"), source };
        if self.gave_up.is_none() {
            let link = self.skel.progs.hold_gave_up.attach_raw_tracepoint("inet_sock_set_state");
            self.gave_up = Some(link.map_err(verifier::load_error("hold"))?);
        }
        for map in [&self.skel.maps.hold_begun, &self.skel.maps.hold_ended] {
            map.update(&ifindex.to_ne_bytes(), &0u64.to_ne_bytes(), MapFlags::ANY)
                .map_err(map_error("make room for a pod"))?;
        }
        let progs = &self.skel.progs;
        let priority = attach::PRIORITY_HOLD;
        let to = attach::tc_at(&progs.hold_to_pod, ifindex, false, priority).map_err(refused)?;
        let from = match attach::tc_at(&progs.hold_from_pod, ifindex, true, priority) {
            Ok(from) => from,
            Err(error) => {
                to.detach();
                return Err(refused(error));
            }
        };
        let mode = to.mode();
        if let Some(old) = self.attached.insert(ifindex, [from, to]) {
            // An interface that is gone left its number to this one; a link to it is taken off as it is dropped.
            drop(old);
        }
        Ok(mode)
    }

    /// Takes the programs off an interface. What is held for it must have been forgotten.
    pub fn detach(&mut self, ifindex: u32) {
        for attached in self.attached.remove(&ifindex).into_iter().flatten() {
            attached.detach();
        }
        for map in [&self.skel.maps.hold_begun, &self.skel.maps.hold_ended] {
            let _none = map.delete(&ifindex.to_ne_bytes());
        }
        if self.attached.is_empty() {
            self.gave_up = None;
        }
    }

    /// Where programs are attached; interfaces that are gone are left out from now on.
    pub fn attached(&mut self) -> Vec<u32> {
        let live =
            |(index, both): (&u32, &[Attached; 2])| (*index, both.iter().all(|one| one.is_live(*index)));
        let (live, dead): (Vec<_>, Vec<_>) = self.attached.iter().map(live).partition(|(_, live)| *live);
        dead.into_iter().for_each(|(index, _)| self.detach(index));
        live.into_iter().map(|(index, _)| index).collect()
    }

    /// Refusals of attempts at this address are held back from now on, each attempt for `limit`.
    ///
    /// # Errors
    /// When there are as many as the programs have room for.
    pub fn hold(&mut self, address: SocketAddr, limit: Duration) -> Result<(), CaptureError> {
        let terms = types::hold_terms {
            limit_ns: u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX >> 1),
            refuses: 0,
        };
        let map = &self.skel.maps.hold_addresses;
        map.update(bytes(&kernel_address(address)), bytes(&terms), MapFlags::ANY)
            .map_err(map_error("hold an address"))
    }

    /// Refusals of attempts at this address pass from now on.
    pub fn release(&mut self, address: SocketAddr) {
        let _none = self.skel.maps.hold_addresses.delete(bytes(&kernel_address(address)));
    }

    /// The programs hold until then.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lease(&mut self, until_ns: u64) -> Result<(), CaptureError> {
        let map = &self.skel.maps.hold_lease;
        map.update(&0u32.to_ne_bytes(), &until_ns.to_ne_bytes(), MapFlags::ANY)
            .map_err(map_error("renew the hold's lease"))
    }

    /// An attempt, if it is known still.
    #[must_use]
    pub fn attempt(&self, key: &Key) -> Option<Attempt> {
        let found =
            self.skel.maps.hold_attempts.lookup(bytes(&types::hold_key::from(key)), MapFlags::ANY).ok()??;
        value::<types::hold_attempt>(&found).as_ref().map(Attempt::from)
    }

    /// Hands over every attempt known.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attempts(&self, mut sink: impl FnMut(Key, Attempt)) -> Result<(), CaptureError> {
        walk(&self.skel.maps.hold_attempts, |key: &types::hold_key, found: &types::hold_attempt| {
            sink(key.into(), found.into());
        })
        .map_err(|source| CaptureError::Os { action: "read the held attempts", source })
    }

    /// Forgets an attempt, unless its key stands for another by now.
    pub fn forget(&mut self, key: &Key, isn: u32) {
        // Between the look and the deletion are some microseconds: were the port used again just then, the new
        // attempt would be refused as if it had not been held.
        if self.attempt(key).is_none_or(|attempt| attempt.isn != isn)
            || self.skel.maps.hold_attempts.delete(bytes(&types::hold_key::from(key))).is_err()
        {
            return;
        }
        let (map, index) = (&self.skel.maps.hold_ended, key.ifindex.to_ne_bytes());
        let Some(ended) = map.lookup(&index, MapFlags::ANY).ok().flatten().and_then(|v| value::<u64>(&v))
        else {
            return;
        };
        let _gone = map.update(&index, &(ended + 1).to_ne_bytes(), MapFlags::EXIST);
    }

    /// Puts a frame in at the veth, as if the pod had sent it.
    ///
    /// # Errors
    /// A kernel before 5.18, or its refusal.
    pub fn from_pod(&mut self, ifindex: u32, frame: &[u8]) -> Result<(), CaptureError> {
        if !self.live_frames {
            return Err(CaptureError::Lacks { what: "ask for them", needs: "5.18" });
        }
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        let mut context = [0u8; 24];
        let end = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        for (at, value) in [(4, end), (12, ifindex)] {
            if let Some(place) = context.get_mut(at..at + 4) {
                place.copy_from_slice(&value.to_ne_bytes());
            }
        }
        let input = ProgramInput {
            context_in: Some(&mut context),
            data_in: Some(frame),
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            repeat: 1,
            ..ProgramInput::default()
        };
        self.skel.progs.hold_inject.test_run(input).map(drop).map_err(map_error("replay a SYN"))
    }

    /// Sends a frame out of the veth, to the pod.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn to_pod(&self, ifindex: u32, frame: &[u8]) -> Result<(), CaptureError> {
        send(&self.packets, ifindex, frame)
            .map_err(|source| CaptureError::Os { action: "send a refusal to a pod", source })
    }

    /// Hands over events; how many there were.
    pub fn events(&self, limit: usize, mut sink: impl FnMut(Event)) -> usize {
        self.ring.drain(limit, &mut |bytes| {
            let Some(event) = value::<types::hold_event>(bytes) else { return };
            use types::hold_event_kind as Kind;
            let happened = match Kind(event.kind) {
                Kind::HOLD_BEGAN => Happened::Began { until_ns: event.until_ns, cookie: event.cookie },
                Kind::HOLD_CONNECTED => Happened::Connected,
                Kind::HOLD_REFUSED => Happened::Refused,
                Kind::HOLD_REFUSES => Happened::Closed,
                _ => return sink(Event::GaveUp { cookie: event.cookie }),
            };
            sink(Event::Attempt { key: (&event.key).into(), isn: event.isn, at_ns: event.at_ns, happened });
        })
    }

    /// Waits for an event or the waker, for `timeout` at most.
    pub fn wait(&self, timeout: Option<Duration>, waker: &Waker) {
        wait_beside(timeout, Some(&self.ring), waker.0.as_fd());
        waker.clear();
    }

    /// What the programs counted.
    #[must_use]
    pub fn tallies(&self) -> Tallies {
        let of = |which: types::hold_tally| {
            lookup_percpu::<u64>(&self.skel.maps.hold_tallies, which.0).iter().sum()
        };
        use types::hold_tally as T;
        Tallies {
            attempts: of(T::HOLD_ATTEMPTS),
            retransmitted: of(T::HOLD_RETRANSMITTED),
            dropped_resets: of(T::HOLD_DROPPED_RESETS),
            dropped_icmp: of(T::HOLD_DROPPED_ICMP),
            connected: of(T::HOLD_TALLY_CONNECTED),
            refused: of(T::HOLD_TALLY_REFUSED),
            lease_over: of(T::HOLD_LEASE_OVER),
            no_room: of(T::HOLD_NO_ROOM),
            quota: of(T::HOLD_QUOTA),
            no_event: of(T::HOLD_NO_EVENT),
        }
    }

    /// Nanoseconds run and times run of each program, where the kernel counts them.
    #[must_use]
    pub fn run_times(&self) -> Vec<(&'static str, u64, u64)> {
        let progs = &self.skel.progs;
        run_times([
            ("hold_from_pod", &progs.hold_from_pod),
            ("hold_to_pod", &progs.hold_to_pod),
            ("hold_gave_up", &progs.hold_gave_up),
        ])
    }
}

impl Drop for HoldProbe {
    fn drop(&mut self) {
        // Filters would outlive the agent.
        for attached in self.attached.drain().flat_map(|(_, both)| both) {
            attached.detach();
        }
    }
}
