//! What programs send and receive on TCP sockets where it looks like HTTP: `bpf/socket.bpf.c`, loaded, attached, read.

use std::{
    mem::MaybeUninit,
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use libbpf_rs::{
    Link, MapCore, MapFlags, ProgramAttachType, ProgramInput,
    skel::{OpenSkel, Skel, SkelBuilder},
};

use crate::{
    CaptureError, MapMemory, kernel,
    nginx::{check_rights, run_times},
    ring::{self, Ring},
    skeleton::socket::{SocketSkel, SocketSkelBuilder, types},
    values::{self, lookup, lookup_percpu, map_error, plain, value},
    verifier,
};

use types::{socket_flags as Flags, socket_record as Record, socket_tally as Tally};

plain!(types::socket_record, types::socket_account);

/// Most bytes of one piece; a call that moved more hands over several.
pub const BYTES_MAX: usize = 16384;

/// How the probe is to be loaded.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of the ring that carries pieces; a power of two, at least a page.
    pub ring_bytes: u32,
    /// Names of processes (as in `/proc/PID/comm`) whose connections are left out. Our own process always is.
    pub exclude_comms: Vec<String>,
    /// HTTP of the ends that call is left out: each request is seen where it is received.
    pub servers_only: bool,
    /// Connections within TLS that are known at once; above it, the longest silent are forgotten.
    pub tls_connections: u32,
    /// Look at the ends of system calls, as on kernels that tell nothing at sockets (before 6.4): dearer for all, and
    /// what `sendmmsg` and `recvmmsg` move is seen in part. Otherwise it is done only where it must.
    pub by_calls: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ring_bytes: 8 << 20,
            exclude_comms: Vec::new(),
            servers_only: false,
            tls_connections: 16384,
            by_calls: false,
        }
    }
}

/// Which way bytes went, as this end of the connection sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// The process took them from the socket.
    Received,
    /// It put them into the socket.
    Sent,
}

/// What this end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// It connected.
    Client,
    /// It accepted.
    Server,
}

/// What the bytes of a piece are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Content {
    /// As they are on the wire.
    Plain,
    /// TLS records as they are on the wire, of the handshake's beginning only.
    Handshake,
    /// What a TLS library was given to encrypt, or has decrypted.
    Decrypted,
}

/// A stream of bytes in two directions. One socket can have two: its own, and the one decrypted from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The socket's cookie, which the kernel never gives twice; where `process` is not 0, the address of a TLS
    /// library's object.
    pub number: u64,
    /// 0: a socket. Else the process whose library's object it is: the socket is not known.
    pub process: u32,
    /// The bytes are [`Content::Decrypted`].
    pub decrypted: bool,
}

/// Bytes that one system call, or one call of a TLS library, moved.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Whose they are.
    pub connection: ConnectionId,
    /// Which way they went.
    pub direction: Direction,
    /// What they are.
    pub content: Content,
    /// What this end is; `None`: the kernel could not tell.
    pub side: Option<Side>,
    /// Bytes had been moved on this connection before the first piece that was seen.
    pub joined: bool,
    /// Place of the first byte in the stream of its direction: bytes since the connection began, also for connections
    /// older than the agent; of decrypted ones, since it was met. A piece that begins behind the end of the one
    /// before tells that bytes between them were not seen.
    pub position: u64,
    /// How many bytes were moved.
    pub length: u32,
    /// The first of them; fewer than `length` where the rest was not wanted or not to be had.
    pub bytes: &'a [u8],
    /// The call has no memory to copy from (sendfile, splice, io_uring).
    pub bufferless: bool,
    /// CLOCK_MONOTONIC, nanoseconds: of what was received, the call's end; of what was sent, when the kernel began to
    /// send it where that is known, for an answer may be read by another thread before the call ends.
    pub at_ns: u64,
    /// The process, as the kernel's first pid namespace names it.
    pub pid: u32,
    /// The process's name, cut to 15 bytes and ended by NULs.
    pub comm: [u8; 16],
    /// Id of its cgroup in the v2 hierarchy.
    pub cgroup: u64,
    /// Inode of the socket's network namespace; 0: no socket is known.
    pub network_namespace: u32,
    /// This end; `None`: no socket is known. IPv4 as such, not as mapped.
    pub local: Option<SocketAddr>,
    /// The other end, likewise.
    pub remote: Option<SocketAddr>,
}

/// A connection that had pieces is over.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Which; where it is a socket's, what was decrypted from it is over as well.
    pub connection: ConnectionId,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub at_ns: u64,
}

/// What the probe hands out.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Bytes were moved.
    Piece(Piece<'a>),
    /// A connection is over.
    End(End),
}

/// What was counted since the probe was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Pieces handed over.
    pub pieces: u64,
    /// Bytes in them.
    pub copied_bytes: u64,
    /// Pieces that found no room in the ring.
    pub lost: u64,
    /// Bytes that had been moved in those.
    pub lost_bytes: u64,
    /// Ends of connections that found no room.
    pub lost_ends: u64,
    /// Pieces of which not all bytes were copied.
    pub cut: u64,
    /// Pieces without bytes, for the call had no buffer.
    pub bufferless: u64,
    /// Pieces whose bytes could not all be read.
    pub faults: u64,
    /// Connections left out: of 32-bit processes.
    pub compat: u64,
    /// Connections left out by their process's name.
    pub excluded: u64,
    /// Connections left out: they speak neither HTTP nor TLS.
    pub other: u64,
    /// Connections left out: they call, and only what is served is wanted ([`Settings::servers_only`]).
    pub callers: u64,
    /// Pieces left out: the kernel had no memory to remember their connection.
    pub no_state: u64,
    /// Connections found to speak HTTP.
    pub http: u64,
    /// Connections found to speak TLS.
    pub tls: u64,
}

impl ConnectionId {
    fn of(record: &Record) -> Self {
        let process = if has(record, Flags::SOCKET_NO_SOCKET) { record.pid } else { 0 };
        Self { number: record.connection, process, decrypted: has(record, Flags::SOCKET_DECRYPTED) }
    }
}

fn has(record: &Record, flag: Flags) -> bool {
    u32::from(record.flags) & flag.0 != 0
}

fn address(ip: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port)
}

impl<'a> Event<'a> {
    /// One record as the kernel wrote it; `None` where it is none.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let (head, text) = bytes.split_at_checked(size_of::<Record>())?;
        let record: Record = value(head)?;
        let connection = ConnectionId::of(&record);
        if u32::from(record.kind) == types::socket_record_kind::SOCKET_END.0 {
            return Some(Self::End(End { connection, at_ns: record.at_ns }));
        }
        let known = record.ends.network_namespace != 0;
        Some(Self::Piece(Piece {
            connection,
            direction: match u32::from(record.direction) == types::socket_direction::SOCKET_SENT.0 {
                true => Direction::Sent,
                false => Direction::Received,
            },
            content: match has(&record, Flags::SOCKET_HANDSHAKE) {
                true => Content::Handshake,
                false if connection.decrypted => Content::Decrypted,
                false => Content::Plain,
            },
            side: match (has(&record, Flags::SOCKET_CALLED), has(&record, Flags::SOCKET_CALLER)) {
                (true, _) => Some(Side::Server),
                (_, true) => Some(Side::Client),
                (false, false) => None,
            },
            joined: has(&record, Flags::SOCKET_JOINED),
            position: record.position,
            length: record.length,
            bytes: text.get(..usize::try_from(record.copied).ok()?)?,
            bufferless: has(&record, Flags::SOCKET_NO_BUFFER),
            at_ns: record.at_ns,
            pid: record.pid,
            comm: record.comm.map(i8::cast_unsigned),
            cgroup: record.cgroup,
            network_namespace: record.ends.network_namespace,
            local: known.then(|| address(record.ends.local, record.ends.local_port)),
            remote: known.then(|| address(record.ends.remote, record.ends.remote_port)),
        }))
    }
}

/// The loaded and attached probe.
pub struct SocketProbe {
    pub(crate) ring: Ring,
    links: Vec<Link>,
    /// Rows of scratch memory: two for each CPU.
    rows: u32,
    by_calls: bool,
    pub(crate) skel: SocketSkel<'static>,
}

impl SocketProbe {
    /// Loads the programs; attaches nothing yet.
    ///
    /// # Errors
    /// A missing capability or BTF, or the kernel's refusal.
    pub fn load(settings: &Settings) -> Result<Self, CaptureError> {
        check_rights("load the socket programs")?;
        verifier::listen();
        let load = verifier::load_error("socket");
        // libbpf's object must stay where it is for the probe's life, which is the process's.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = SocketSkelBuilder::default().open(storage).map_err(load)?;
        let by_calls = settings.by_calls || !kernel::has_socket_tracepoints();
        open.progs.socket_call.set_autoload(by_calls && kernel::has_loop());
        open.progs.socket_call_few.set_autoload(by_calls && !kernel::has_loop());
        open.progs.socket_sent.set_autoload(!by_calls);
        open.progs.socket_received.set_autoload(!by_calls);
        let maps = &mut open.maps;
        for map in [&mut maps.tls_objects, &mut maps.tls_sockets, &mut maps.tls_claims] {
            map.set_max_entries(settings.tls_connections.max(64)).map_err(load)?;
        }
        if !by_calls {
            open.maps.socket_states_by_address.set_max_entries(64).map_err(load)?;
        }
        if let Some(rodata) = &mut open.maps.rodata_data {
            rodata.by_calls = by_calls;
            rodata.excludes = !settings.exclude_comms.is_empty();
            rodata.servers_only = settings.servers_only;
            rodata.wake_at = settings.ring_bytes / 8;
        }
        open.maps.socket_records.set_max_entries(settings.ring_bytes).map_err(load)?;
        let cpus = libbpf_rs::num_possible_cpus().map_err(load)?;
        let rows = u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(2);
        open.maps.socket_scratch.set_max_entries(rows).map_err(load)?;
        open.maps.socket_accounts.set_max_entries(rows).map_err(load)?;

        for program in [
            &mut open.progs.tls_enter,
            &mut open.progs.tls_leave,
            &mut open.progs.tls_free,
            &mut open.progs.tls_go_read_enter,
            &mut open.progs.tls_go_read_leave,
            &mut open.progs.tls_go_write,
        ] {
            program.set_autoload(kernel::has_cookies());
            if kernel::has_uprobe_multi() {
                program.set_attach_type(ProgramAttachType::TraceUprobeMulti);
            }
        }

        let skel = open.load().map_err(load)?;
        for name in &settings.exclude_comms {
            let mut comm = [0; 16];
            comm.iter_mut().zip(name.bytes().take(15)).for_each(|(to, byte)| *to = byte);
            skel.maps
                .socket_excluded
                .update(&comm, &1u32.to_ne_bytes(), MapFlags::ANY)
                .map_err(map_error("leave a process out (at most 256 names)"))?;
        }
        // Our own sockets are left out: this tells the programs who we are.
        skel.progs.socket_agent.test_run(ProgramInput::default()).map_err(load)?;
        let ring = Ring::new(&skel.maps.socket_records).map_err(load)?;
        Ok(Self { ring, links: Vec::new(), rows, by_calls, skel })
    }

    /// Begins to look, unless it does.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn attach(&mut self) -> Result<(), CaptureError> {
        if !self.links.is_empty() {
            return Ok(());
        }
        let load = verifier::load_error("socket");
        let progs = &self.skel.progs;
        // The ends first, so that none is missed of what is begun.
        let mut programs = vec![&progs.socket_state_changed, &progs.socket_destroyed];
        match self.by_calls {
            true if kernel::has_loop() => programs.push(&progs.socket_call),
            true => programs.push(&progs.socket_call_few),
            false => programs.extend([&progs.socket_sent, &progs.socket_received]),
        }
        self.links = programs
            .into_iter()
            .map(|program| program.attach_trace().map_err(load))
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    /// From now on sockets are tied to the objects of TLS libraries.
    pub(crate) fn set_tls_attached(&mut self) {
        if let Some(bss) = &mut self.skel.maps.bss_data {
            bss.tls_attached = true;
        }
    }

    /// Stops looking. What is in the ring stays there to be drained.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// Hands up to `limit` waiting events to `sink`; how many there were.
    pub fn drain(&self, limit: usize, mut sink: impl FnMut(Event<'_>)) -> usize {
        self.ring.drain(limit, &mut |bytes: &[u8]| {
            if let Some(event) = Event::new(bytes) {
                sink(event);
            }
        })
    }

    /// Sleeps for `timeout`, or less when the ring has filled to an eighth.
    pub fn wait(&self, timeout: Duration) {
        ring::wait(timeout, &[Some(self.ring.descriptor())]);
    }

    /// What was counted.
    #[must_use]
    pub fn tallies(&self) -> Tallies {
        let of = |tally: Tally| lookup_percpu::<u64>(&self.skel.maps.socket_tallies, tally.0).iter().sum();
        let accounts: Vec<types::socket_account> =
            (0..self.rows).filter_map(|row| lookup(&self.skel.maps.socket_accounts, row)).collect();
        Tallies {
            pieces: of(Tally::SOCKET_PIECES) + accounts.iter().map(|account| account.pieces).sum::<u64>(),
            copied_bytes: of(Tally::SOCKET_COPIED)
                + accounts.iter().map(|account| account.copied).sum::<u64>(),
            lost: of(Tally::SOCKET_LOST),
            lost_bytes: of(Tally::SOCKET_LOST_BYTES),
            lost_ends: of(Tally::SOCKET_LOST_ENDS),
            cut: of(Tally::SOCKET_CUT),
            bufferless: of(Tally::SOCKET_BUFFERLESS),
            faults: of(Tally::SOCKET_FAULTS),
            compat: of(Tally::SOCKET_COMPAT),
            excluded: of(Tally::SOCKET_EXCLUDED),
            other: of(Tally::SOCKET_OTHER),
            callers: of(Tally::SOCKET_CALLERS),
            no_state: of(Tally::SOCKET_NO_STATE),
            http: of(Tally::SOCKET_WATCHED),
            tls: of(Tally::SOCKET_TLS),
        }
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
            ("socket_received", &progs.socket_received),
            ("socket_sent", &progs.socket_sent),
            ("socket_call", &progs.socket_call),
            ("socket_call_few", &progs.socket_call_few),
            ("socket_state_changed", &progs.socket_state_changed),
            ("socket_destroyed", &progs.socket_destroyed),
            ("tls_enter", &progs.tls_enter),
            ("tls_leave", &progs.tls_leave),
            ("tls_free", &progs.tls_free),
            ("tls_go_read_enter", &progs.tls_go_read_enter),
            ("tls_go_read_leave", &progs.tls_go_read_leave),
            ("tls_go_write", &progs.tls_go_write),
        ])
    }
}
