//! The nginx probe: `bpf/nginx.bpf.c`, loaded, attached, read.

use std::{
    collections::BTreeMap,
    mem::{self, MaybeUninit},
    path::Path,
    time::Duration,
};

use gatewatch_target::{layout::Layout, lua::Site as LuaSite};
use libbpf_rs::{
    AsRawLibbpf, Link, MapCore, MapFlags, ProgramAttachType, ProgramImpl, UprobeMultiOpts, UprobeOpts,
    skel::{OpenSkel, Skel, SkelBuilder},
};

use crate::{
    CaptureError, MapMemory, kernel,
    process::ProcessProbe,
    ring::{self, Ring},
    skeleton::nginx::{NginxSkel, NginxSkelBuilder, types},
    values::{self, bytes, lookup, map_error, plain, value},
    verifier,
};

pub use types::{
    nginx_overflow as Overflow, nginx_record as Record, nginx_record_flags as Flags, nginx_try as Try,
    nginx_worker as Worker,
};

plain!(
    types::nginx_overflow,
    types::nginx_record,
    types::nginx_try,
    types::nginx_worker,
    types::nginx_layout,
);

/// Bytes kept of each text; what is longer is cut, and the record tells the whole length.
pub mod limits {
    /// Of the request line.
    pub const LINE: usize = 1024;
    /// Of the host.
    pub const HOST: usize = 256;
    /// Of the user agent.
    pub const AGENT: usize = 256;
    /// Of an upstream peer's name.
    pub const PEER: usize = 64;
}

/// Phases a record may carry times of.
pub const LUA_PHASES: usize = 8;

const NO_MEMBER: u16 = 0xffff;
/// Gateway builds that can be told apart at once.
pub const LAYOUTS_MAX: u16 = 32;

/// How large the probe's tables are.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of the ring that carries records; a power of two, at least a page.
    pub ring_bytes: u32,
    /// Worker processes told apart at once.
    pub max_workers: u32,
    /// Requests in flight whose start is kept, per worker; a power of two.
    pub starts_per_worker: u32,
    /// Inode of the pid namespace in which the agent names processes; 0: its own.
    pub pid_namespace: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { ring_bytes: 8 << 20, max_workers: 64, starts_per_worker: 4096, pid_namespace: 0 }
    }
}

/// Where one gateway binary is to be probed: offsets in the file, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sites {
    /// `ngx_http_process_request`; `None` for the lean tier, which takes nginx's own millisecond times.
    pub start: Option<u64>,
    /// `ngx_http_free_request`.
    pub end: u64,
}

/// A binary being probed; detached when dropped, for which the kernel may take a fifth of a second a probe.
#[derive(Debug)]
pub struct Attachment {
    _links: Vec<Link>,
    start: Option<Link>,
}

impl Attachment {
    /// Leaves the probe that counts requests, at their end; the one at their start, to be detached.
    pub fn split_start(&mut self) -> Option<Self> {
        self.start.take().map(|start| Self { _links: vec![start], start: None })
    }
}

/// Names a layout given to [`NginxProbe::set_layout`]; one for each binary.
pub type LayoutId = u16;

/// The loaded probe.
pub struct NginxProbe {
    ring: Ring,
    skel: NginxSkel<'static>,
    generations: Vec<u8>,
    multi: bool,
}

/// One record as the kernel wrote it.
#[derive(Clone, Copy)]
pub struct RawRecord<'a> {
    /// The fixed part.
    pub head: Record,
    /// What stands behind it: tries, texts, Lua times.
    pub text: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// Try `index` of those told one by one; `None` where the record ends before it.
    #[must_use]
    pub fn tried(&self, index: usize) -> Option<Try> {
        let from = index.checked_mul(size_of::<Try>())?;
        let bytes = self.text.get(from..from.checked_add(size_of::<Try>())?)?;
        value(bytes)
    }

    /// Nanoseconds of each Lua phase, where they were measured.
    #[must_use]
    pub fn lua_ns(&self) -> Option<[u64; LUA_PHASES]> {
        if self.head.flags & Flags::NGINX_LUA.0 == 0 {
            return None;
        }
        let (_, last) = self.text.split_at_checked(self.text.len().checked_sub(LUA_PHASES * 8)?)?;
        let mut phases = [0; LUA_PHASES];
        for (phase, bytes) in phases.iter_mut().zip(last.chunks_exact(8)) {
            *phase = u64::from_ne_bytes(bytes.try_into().ok()?);
        }
        Some(phases)
    }

    /// `None` where `bytes` is shorter than the fixed part.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let (head, text) = bytes.split_at_checked(size_of::<Record>())?;
        Some(Self { head: value(head)?, text })
    }
}

/// A record as the kernel would write it: for tests and fuzzing of what reads records.
#[doc(hidden)]
#[must_use]
pub fn bytes_of_record(head: &Record, text: &[u8]) -> Vec<u8> {
    [bytes(head), text].concat()
}

/// The same for a try, which stands in a record's text.
#[doc(hidden)]
#[must_use]
pub fn bytes_of_try(tried: &Try) -> Vec<u8> {
    bytes(tried).to_vec()
}

impl NginxProbe {
    /// Loads the programs; attaches nothing yet.
    ///
    /// # Errors
    /// A missing capability or BTF, or the kernel's refusal.
    pub fn load(settings: Settings) -> Result<Self, CaptureError> {
        check_rights("load the nginx programs")?;
        verifier::listen();
        let load = verifier::load_error("nginx");
        let multi = kernel::has_uprobe_multi();
        // libbpf's object must stay where it is for the probe's life, which is the process's.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = NginxSkelBuilder::default().open(storage).map_err(load)?;

        let sets = (settings.starts_per_worker / 4).max(1).next_power_of_two();
        if let Some(rodata) = &mut open.maps.rodata_data {
            rodata.agent_pid_namespace = match settings.pid_namespace {
                0 => kernel::pid_namespace(),
                inode => inode,
            };
            rodata.start_sets = sets;
            rodata.wake_at = settings.ring_bytes / 8;
            rodata.cookies = kernel::has_cookies();
        }
        open.maps.http_events.set_max_entries(settings.ring_bytes).map_err(load)?;
        for map in [
            &mut open.maps.workers,
            &mut open.maps.scratches,
            &mut open.maps.overflow,
            &mut open.maps.free_workers,
            &mut open.maps.lua_stacks,
        ] {
            map.set_max_entries(settings.max_workers).map_err(load)?;
        }
        open.maps.request_starts.set_max_entries(settings.max_workers * sets).map_err(load)?;
        if !kernel::has_cookies() {
            open.progs.nginx_lua_enter.set_autoload(false);
            open.progs.nginx_lua_leave.set_autoload(false);
        }
        open.maps.worker_ids.set_max_entries(settings.max_workers * 2).map_err(load)?;
        if multi {
            open.progs.nginx_request_start.set_attach_type(ProgramAttachType::TraceUprobeMulti);
            open.progs.nginx_request_end.set_attach_type(ProgramAttachType::TraceUprobeMulti);
            open.progs.nginx_lua_enter.set_attach_type(ProgramAttachType::TraceUprobeMulti);
            open.progs.nginx_lua_leave.set_attach_type(ProgramAttachType::TraceUprobeMulti);
        }

        let skel = open.load().map_err(load)?;
        let ring = Ring::new(&skel.maps.http_events).map_err(load)?;
        let probe = Self { ring, skel, generations: Vec::new(), multi };
        for index in 0..settings.max_workers {
            probe.free_worker_row(index, 0)?;
        }
        Ok(Self { generations: vec![0; usize::try_from(settings.max_workers).unwrap_or(0)], ..probe })
    }

    fn free_worker_row(&self, index: u32, generation: u8) -> Result<(), CaptureError> {
        let slot = index | u32::from(generation) << 16;
        self.skel
            .maps
            .free_workers
            .update(&[], &slot.to_ne_bytes(), MapFlags::ANY)
            .map_err(map_error("free a row of the worker table"))
    }

    /// Makes a layout known to the programs under `id`, in place of the one it named before.
    ///
    /// # Errors
    /// When `id` is not below [`LAYOUTS_MAX`].
    pub fn set_layout(&self, id: LayoutId, layout: &Layout) -> Result<(), CaptureError> {
        self.skel
            .maps
            .layouts
            .update(&u32::from(id).to_ne_bytes(), bytes(&kernel_layout(layout)), MapFlags::ANY)
            .map_err(map_error("store a layout"))
    }

    /// Probes every process, now and later, that runs `binary` (best given as `/proc/PID/exe`).
    ///
    /// # Errors
    /// When the kernel refuses; [`CaptureError::OneBinary`] where it has no cookies and `layout` is not 0.
    pub fn attach(&self, binary: &Path, sites: Sites, layout: LayoutId) -> Result<Attachment, CaptureError> {
        if layout != 0 && !kernel::has_cookies() {
            return Err(CaptureError::OneBinary);
        }
        // The end first: a request that is seen to start but not to end would look as if it were in flight.
        let end = self.attach_one(&self.skel.progs.nginx_request_end, binary, sites.end, layout)?;
        let mut attachment = Attachment { _links: vec![end], start: None };
        if let Some(start) = sites.start {
            self.attach_start(&mut attachment, binary, start, layout)?;
        }
        Ok(attachment)
    }

    /// Probes the start of requests too, unless it is probed already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_start(
        &self,
        attachment: &mut Attachment,
        binary: &Path,
        start: u64,
        layout: LayoutId,
    ) -> Result<(), CaptureError> {
        if attachment.start.is_none() {
            let program = &self.skel.progs.nginx_request_start;
            attachment.start = Some(self.attach_one(program, binary, start, layout)?);
        }
        Ok(())
    }

    /// Probes the Lua phases of every process that runs `module`: an entry and a return probe a function.
    ///
    /// # Errors
    /// When the kernel refuses, or has no cookies (before 5.15) to tell the phases apart.
    pub fn attach_lua(&mut self, module: &Path, sites: &[LuaSite]) -> Result<Attachment, CaptureError> {
        let mut links = Vec::new();
        for site in sites {
            let cookie = u64::from(site.phase) | if site.argument == 2 { 8 } else { 0 };
            let progs = &self.skel.progs;
            links.push(self.attach_probe(&progs.nginx_lua_leave, module, site.offset, cookie, true)?);
            links.push(self.attach_probe(&progs.nginx_lua_enter, module, site.offset, cookie, false)?);
        }
        self.set_lua_attached(true);
        Ok(Attachment { _links: links, start: None })
    }

    /// Whether records carry the times of Lua phases. Switch it off when the last attachment is gone.
    pub fn set_lua_attached(&mut self, attached: bool) {
        if let Some(bss) = &mut self.skel.maps.bss_data {
            bss.lua_attached = attached;
        }
        if !attached {
            // What is left of open requests would be given to later ones at the same address.
            let keys: Vec<_> = self.skel.maps.request_lua.keys().collect();
            for key in keys {
                // Gone already: as wanted.
                let _gone = self.skel.maps.request_lua.delete(&key);
            }
        }
    }

    fn attach_one(
        &self,
        program: &ProgramImpl<'_, libbpf_rs::Mut>,
        binary: &Path,
        offset: u64,
        layout: LayoutId,
    ) -> Result<Link, CaptureError> {
        self.attach_probe(program, binary, offset, layout.into(), false)
    }

    fn attach_probe(
        &self,
        program: &ProgramImpl<'_, libbpf_rs::Mut>,
        binary: &Path,
        offset: u64,
        cookie: u64,
        retprobe: bool,
    ) -> Result<Link, CaptureError> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let link = if self.multi {
            let options = UprobeMultiOpts {
                offsets: vec![offset],
                cookies: vec![cookie],
                retprobe,
                ..Default::default()
            };
            program.attach_uprobe_multi_with_opts(-1, binary, "", options)
        } else {
            let options = UprobeOpts { cookie, retprobe, ..Default::default() };
            program.attach_uprobe_with_opts(-1, binary, offset, options)
        };
        link.map_err(|source| CaptureError::Attach { path: binary.to_owned(), source })
    }

    /// Hands up to `limit` waiting records to `sink`; how many there were.
    pub fn drain(&self, limit: usize, mut sink: impl FnMut(&[u8])) -> usize {
        self.ring.drain(limit, &mut sink)
    }

    /// Sleeps for `timeout`, or less when the ring has filled so far that the kernel wakes the agent, or when one of
    /// `processes` has begun or ended.
    pub fn wait(&self, timeout: Duration, processes: Option<&ProcessProbe>) {
        ring::wait(
            timeout,
            &[Some(self.ring.descriptor()), processes.map(|processes| processes.ring.descriptor())],
        );
    }

    /// The rows in use of the worker table, by index.
    #[must_use]
    pub fn workers(&self) -> BTreeMap<u32, Worker> {
        (0..u32::try_from(self.generations.len()).unwrap_or(0))
            .filter_map(|index| Some((index, self.worker(index)?)))
            .collect()
    }

    /// One row of the worker table; `None` where it is not in use.
    #[must_use]
    pub fn worker(&self, index: u32) -> Option<Worker> {
        lookup::<Worker>(&self.skel.maps.workers, index).filter(|worker| worker.pid != 0)
    }

    /// What is kept of a worker's requests that found no room in the ring.
    #[must_use]
    pub fn overflow(&self, worker: u32) -> Overflow {
        lookup(&self.skel.maps.overflow, worker).unwrap_or_default()
    }

    /// Entries of probed functions by processes for which the worker table had no row left.
    #[must_use]
    pub fn no_worker(&self) -> u64 {
        let rows = self.skel.maps.no_worker.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY);
        let sum = |row: &Vec<u8>| row.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        rows.ok().flatten().map_or(0, |rows| rows.iter().map(sum).sum())
    }

    /// Gives the row of a worker back that is dead, or no longer probed. Read its counters first.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn release_worker(&mut self, index: u32, worker: &Worker) -> Result<(), CaptureError> {
        let maps = &self.skel.maps;
        let key = index.to_ne_bytes();
        let place = (worker.pid & 1023).to_ne_bytes();
        maps.worker_memo
            .update(&place, &0u64.to_ne_bytes(), MapFlags::ANY)
            .map_err(map_error("forget a worker"))?;
        maps.worker_ids.delete(&worker.pid.to_ne_bytes()).map_err(map_error("forget a worker"))?;
        maps.overflow
            .update(&key, bytes(&Overflow::default()), MapFlags::ANY)
            .map_err(map_error("clear a worker's overflow"))?;
        maps.workers
            .update(&key, bytes(&Worker::default()), MapFlags::ANY)
            .map_err(map_error("clear a worker's row"))?;
        let Some(generation) = usize::try_from(index).ok().and_then(|index| self.generations.get_mut(index))
        else {
            return Ok(());
        };
        // Starts the worker left behind carry the old generation and count as free places.
        *generation = generation.wrapping_add(1);
        let generation = *generation;
        self.free_worker_row(index, generation)
    }

    /// Kernel memory of each map.
    #[must_use]
    pub fn memory(&self) -> Vec<MapMemory> {
        self.skel.object().maps().filter_map(|map| values::memory(&map)).collect()
    }

    /// Nanoseconds run and times run of each program, where the kernel counts them
    /// (`kernel.bpf_stats_enabled`).
    #[must_use]
    pub fn run_times(&self) -> Vec<(&'static str, u64, u64)> {
        let progs = &self.skel.progs;
        run_times([
            ("nginx_request_start", &progs.nginx_request_start),
            ("nginx_request_end", &progs.nginx_request_end),
            ("nginx_lua_enter", &progs.nginx_lua_enter),
            ("nginx_lua_leave", &progs.nginx_lua_leave),
        ])
    }
}

/// Nanoseconds run and times run of each of these programs, where the kernel counts them.
pub(crate) fn run_times<const N: usize>(
    programs: [(&'static str, &ProgramImpl<'_, libbpf_rs::Mut>); N],
) -> Vec<(&'static str, u64, u64)> {
    let of = |(name, program)| run_time(program).map(|(ns, runs)| (name, ns, runs));
    programs.into_iter().filter_map(of).collect()
}

pub(crate) fn run_time(program: &ProgramImpl<'_, libbpf_rs::Mut>) -> Option<(u64, u64)> {
    let mut info = libbpf_rs::libbpf_sys::bpf_prog_info::default();
    let mut len = u32::try_from(mem::size_of_val(&info)).ok()?;
    // SAFETY: the program is loaded, so its descriptor is open; `info` is writable for `len` bytes.
    let failed = unsafe {
        let fd = libbpf_rs::libbpf_sys::bpf_program__fd(program.as_libbpf_object().as_ptr());
        libbpf_rs::libbpf_sys::bpf_prog_get_info_by_fd(fd, &raw mut info, &raw mut len)
    };
    (failed == 0).then_some((info.run_time_ns, info.run_cnt))
}

/// One clear sentence instead of an errno.
pub(crate) fn check_rights(action: &'static str) -> Result<(), CaptureError> {
    let (major, minor) = kernel::version();
    if (major, minor) < (5, 8) {
        return Err(CaptureError::OldKernel { major, minor });
    }
    if !kernel::has_btf() {
        return Err(CaptureError::NoBtf);
    }
    lacks(action, &kernel::missing_capabilities())
}

/// The same for programs at interfaces.
pub(crate) fn check_network_rights(action: &'static str) -> Result<(), CaptureError> {
    let mut missing = kernel::missing_capabilities();
    missing.retain(|capability| *capability != kernel::Capability::SysPtrace);
    if !kernel::Capability::NetAdmin.held() {
        missing.push(kernel::Capability::NetAdmin);
    }
    lacks(action, &missing)
}

fn lacks(action: &'static str, missing: &[kernel::Capability]) -> Result<(), CaptureError> {
    if missing.is_empty() {
        return Ok(());
    }
    let capability = missing.iter().map(|c| c.name()).collect::<Vec<_>>().join(" and ");
    Err(CaptureError::Capability { action, capability })
}

fn kernel_layout(layout: &Layout) -> types::nginx_layout {
    let (request, connection, state) = (&layout.request, &layout.connection, &layout.upstream_state);
    let last = [
        request.connection,
        request.upstream_states,
        request.host,
        request.user_agent,
        request.server + 8,
        request.status,
        request.start_msec,
        request.method,
        request.http_version,
        request.request_line + 8,
        request.main,
        request.request_length,
        request.err_status,
    ]
    .into_iter()
    .max()
    .unwrap_or(0);
    let connection_members = [
        connection.sent,
        connection.sockaddr,
        connection.socklen,
        connection.pool,
        connection.number,
        connection.requests,
        connection.ssl.unwrap_or(connection.number),
    ];
    let from = connection_members.into_iter().min().unwrap_or(0);
    let to = connection_members.into_iter().max().unwrap_or(0) + 8;
    types::nginx_layout {
        request_read: last + 8,
        connection: request.connection,
        upstream_states: request.upstream_states,
        host: request.host,
        user_agent: request.user_agent,
        server: request.server,
        status: request.status,
        start_sec: request.start_sec,
        start_msec: request.start_msec,
        method: request.method,
        http_version: request.http_version,
        request_line: request.request_line,
        main: request.main,
        request_length: request.request_length,
        err_status: request.err_status,
        connection_from: from,
        connection_read: to - from,
        sent: connection.sent - from,
        sockaddr: connection.sockaddr - from,
        socklen: connection.socklen - from,
        ssl: connection.ssl.map_or(NO_MEMBER, |ssl| ssl - from),
        pool: connection.pool - from,
        number: connection.number - from,
        requests: connection.requests - from,
        table_elt_value: layout.table_elt_value,
        state_size: state.size,
        state_status: state.status,
        state_response_time: state.response_time,
        state_connect_time: state.connect_time,
        state_header_time: state.header_time,
        state_bytes_received: state.bytes_received,
        state_peer: state.peer,
    }
}
