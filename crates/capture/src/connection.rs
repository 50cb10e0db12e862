//! The connection programs: `bpf/connection.bpf.c`, loaded or taken over, read.

use std::{io::Read, mem::MaybeUninit, path::PathBuf};

use libbpf_rs::{
    Iter, Link, MapCore, MapFlags, ProgramImpl,
    skel::{OpenSkel, Skel, SkelBuilder},
};

use crate::{
    CaptureError, MapMemory, clock, kernel,
    network::{Takeover, instance_directory},
    nginx::{check_network_rights, run_times},
    pin::{Pins, first_value},
    skeleton::connection::{ConnectionSkel, ConnectionSkelBuilder, types},
    values::{self, bytes, lookup_percpu, map_error, plain, value},
    verifier,
};

pub use types::{connection_row as Row, connection_tally as Tally};

plain!(types::connection_row, types::connection_identity);

/// Buckets of the histograms: bucket `i` counts values up to 2^`i` µs.
pub const BUCKETS: u32 = 40;
/// Numbers of drop reasons told apart; the last stands for all beyond.
pub const DROPS: u32 = 256;

/// The loaded probe.
pub struct ConnectionProbe {
    skel: ConnectionSkel<'static>,
    links: Vec<Link>,
    rows: Option<Link>,
    pins: Option<Pins>,
}

/// `name`: of the program, of its pin and of its tracepoint.
type Point<'a> = (&'static str, &'static str, &'a ProgramImpl<'static, libbpf_rs::Mut>);

fn layout() -> u64 {
    env!("CONNECTION_LAYOUT").parse().unwrap_or(0)
}

impl ConnectionProbe {
    /// Loads and attaches the programs; of those an earlier agent pinned, only the maps are kept, and the tracepoints
    /// are without a program for a millisecond.
    ///
    /// # Errors
    /// A missing capability or BTF, no BPF file system, or the kernel's refusal.
    pub fn load(pin: Option<&PathBuf>) -> Result<(Self, Takeover), CaptureError> {
        let (mut probe, takeover) = Self::open(pin)?;
        probe.resume()?;
        Ok((probe, takeover))
    }

    /// Loads them, and attaches and pins nothing: to see whether the kernel takes them.
    ///
    /// # Errors
    /// See [`Self::load`].
    pub fn load_only() -> Result<Self, CaptureError> {
        Self::open(None).map(|(probe, _)| probe)
    }

    fn open(pin: Option<&PathBuf>) -> Result<(Self, Takeover), CaptureError> {
        check_network_rights("follow connections")?;
        verifier::listen();
        let load = verifier::load_error("connection");
        let directory = pin.map(|root| instance_directory(root).join("connections"));
        let mut takeover = if directory.is_some() { Takeover::Fresh } else { Takeover::Unpinned };
        let mut pins = directory.clone().map(Pins::open).transpose()?;
        let identity = pins.as_ref().and_then(|pins| pins.map("connection_identity"));
        let identity = identity.as_ref().and_then(first_value::<types::connection_identity>);
        if let (Some(found), Some(there), Some(directory)) = (identity, &pins, directory) {
            takeover = Takeover::TakenOver { began_ns: found.began_ns };
            if found.layout != layout() || found.netns_cookie != kernel::network_namespace_cookie() {
                let clear = |source| CaptureError::Os { action: "remove an older agent's pins", source };
                there.clear().map_err(clear)?;
                pins = Some(Pins::open(directory)?);
                takeover = Takeover::Replaced;
            }
        }
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = ConnectionSkelBuilder::default().open(storage).map_err(load)?;
        if let Some(rodata) = &mut open.maps.rodata_data {
            rodata.network_namespace = kernel::network_namespace();
        }
        let iterates = kernel::version() >= (5, 9);
        open.progs.connection_rows.set_autoload(iterates);
        if let Some(pins) = &pins {
            pins.reuse(open.open_object_mut())?;
        }
        let mut skel = open.load().map_err(load)?;
        let identity = types::connection_identity {
            layout: layout(),
            netns_cookie: kernel::network_namespace_cookie(),
            began_ns: match takeover {
                Takeover::TakenOver { began_ns } => began_ns,
                Takeover::Unpinned | Takeover::Fresh | Takeover::Replaced => clock::monotonic(),
            },
        };
        skel.maps
            .connection_identity
            .update(&0u32.to_ne_bytes(), bytes(&identity), MapFlags::ANY)
            .map_err(map_error("say whose the maps are"))?;
        if let Some(pins) = &pins {
            pins.keep(skel.object_mut())?;
        }
        let rows = match iterates {
            true => Some(skel.progs.connection_rows.attach().map_err(load)?),
            false => None,
        };
        Ok((Self { skel, links: Vec::new(), rows, pins }, takeover))
    }

    /// Attaches the programs, if they are not.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn resume(&mut self) -> Result<(), CaptureError> {
        if !self.links.is_empty() {
            return Ok(());
        }
        let load = verifier::load_error("connection");
        let progs = &self.skel.progs;
        let points: [Point<'_>; 5] = [
            ("state", "inet_sock_set_state", &progs.connection_state),
            ("retransmit", "tcp_retransmit_skb", &progs.connection_retransmit),
            ("send_reset", "tcp_send_reset", &progs.connection_send_reset),
            ("receive_reset", "tcp_receive_reset", &progs.connection_receive_reset),
            ("drop", "kfree_skb", &progs.connection_drop),
        ];
        let mut links = Vec::new();
        for (name, tracepoint, program) in points {
            if let Some(pins) = &self.pins {
                // Two at once would count twice: the older goes first.
                pins.drop_link(name);
            }
            let mut link = program.attach_raw_tracepoint(tracepoint).map_err(load)?;
            if let Some(pins) = &self.pins {
                pins.keep_link(name, &mut link)?;
            }
            links.push(link);
        }
        self.links = links;
        Ok(())
    }

    /// Detaches the programs. What was counted stays.
    pub fn pause(&mut self) {
        if let Some(pins) = &self.pins {
            pins.links().iter().for_each(|name| pins.drop_link(name));
        }
        self.links.clear();
    }

    /// All TCP sockets of this network namespace, now.
    ///
    /// # Errors
    /// When the kernel does not let them be listed.
    pub fn rows(&self, mut sink: impl FnMut(&Row)) -> Result<(), CaptureError> {
        let failed = |source| CaptureError::Map { action: "list the sockets", source };
        let Some(rows) = &self.rows else { return Ok(()) };
        let mut iterator = Iter::new(rows).map_err(failed)?;
        let mut buffer = vec![0; size_of::<Row>() * 512];
        let mut held = 0;
        loop {
            let read = iterator
                .read(buffer.get_mut(held..).unwrap_or_default())
                .map_err(|source| CaptureError::Os { action: "list the sockets", source })?;
            if read == 0 {
                return Ok(());
            }
            held += read;
            let whole = held / size_of::<Row>() * size_of::<Row>();
            for row in buffer.get(..whole).unwrap_or_default().chunks_exact(size_of::<Row>()) {
                if let Some(row) = value(row) {
                    sink(&row);
                }
            }
            buffer.copy_within(whole..held, 0);
            held -= whole;
        }
    }

    /// One of the counts.
    #[must_use]
    pub fn tally(&self, tally: Tally) -> u64 {
        lookup_percpu::<u64>(&self.skel.maps.connection_tallies, tally.0).into_iter().sum()
    }

    /// Round-trip times of connections that ended.
    #[must_use]
    pub fn rtts(&self) -> Vec<u64> {
        histogram(&self.skel.maps.connection_rtts)
    }

    /// How long connections that ended were established.
    #[must_use]
    pub fn durations(&self) -> Vec<u64> {
        histogram(&self.skel.maps.connection_durations)
    }

    /// Packets dropped, by the kernel's number of the reason; only those that are not 0.
    #[must_use]
    pub fn drops(&self) -> Vec<(u32, u64)> {
        let count = |reason| lookup_percpu::<u64>(&self.skel.maps.connection_drops, reason).into_iter().sum();
        (0..DROPS).map(|reason| (reason, count(reason))).filter(|(_, count)| *count > 0).collect()
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
            ("connection_state", &progs.connection_state),
            ("connection_retransmit", &progs.connection_retransmit),
            ("connection_send_reset", &progs.connection_send_reset),
            ("connection_receive_reset", &progs.connection_receive_reset),
            ("connection_drop", &progs.connection_drop),
            ("connection_rows", &progs.connection_rows),
        ])
    }

    /// Detaches everything and removes the pins.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn unload(self) -> Result<(), CaptureError> {
        match &self.pins {
            Some(pins) => {
                pins.clear().map_err(|source| CaptureError::Os { action: "remove the pins", source })
            }
            None => Ok(()),
        }
    }
}

fn histogram(map: &impl MapCore) -> Vec<u64> {
    (0..BUCKETS).map(|bucket| lookup_percpu::<u64>(map, bucket).into_iter().sum()).collect()
}

/// The kernel's names of the reasons it drops packets for, by number; empty before Linux 5.17.
#[must_use]
pub fn drop_reasons() -> Vec<(u32, String)> {
    let Ok(btf) = libbpf_rs::btf::Btf::from_vmlinux() else { return Vec::new() };
    let Some(reasons) = btf.type_by_name::<libbpf_rs::btf::types::Enum<'_>>("skb_drop_reason") else {
        return Vec::new();
    };
    reasons
        .iter()
        .filter_map(|member| {
            let name = member.name?.to_str()?;
            let name = name.strip_prefix("SKB_DROP_REASON_").or_else(|| name.strip_prefix("SKB_"))?;
            let number = u32::try_from(i128::from(member.value)).ok()?;
            Some((number, name.to_lowercase()))
        })
        .collect()
}
