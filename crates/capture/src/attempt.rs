//! Attempts to connect: `bpf/attempt.bpf.c`, loaded, attached, read.

use std::{
    fs::{self, File},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, BorrowedFd, RawFd},
        linux::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    ptr::NonNull,
};

use libbpf_rs::{
    AsRawLibbpf as _, Link, ProgramImpl, TracepointCategory, libbpf_sys,
    skel::{OpenSkel, Skel as _, SkelBuilder},
};

use crate::{
    CaptureError, MapMemory, kernel,
    nginx::{check_network_rights, run_times},
    ring::Ring,
    skeleton::attempt::{AttemptSkel, AttemptSkelBuilder, types},
    values::{self, lookup_percpu, plain, value},
    verifier,
};

pub use types::{
    attempt_outcome as Outcome, attempt_record as Record, attempt_stage as Stage, attempt_tally as Tally,
};

plain!(types::attempt_record);

/// Where the unified hierarchy may be: of the host first, seen through its first process.
const ROOTS: [&str; 6] = [
    "/proc/1/root/sys/fs/cgroup",
    "/proc/1/root/sys/fs/cgroup/unified",
    "/host/sys/fs/cgroup",
    "/host/sys/fs/cgroup/unified",
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/unified",
];
/// Records taken at once.
const BATCH: usize = 4096;

/// How the address that was asked for is learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Before every other program of the control groups.
    First,
    /// After those that were there already; there were none.
    Alone,
    /// Others translate before us: the system call's own tracepoint tells.
    SystemCall,
    /// Others translate before us, and the tracepoint is not to be had: the address is the one they chose.
    Behind,
    /// No program could be attached to the control groups: what fails before a socket begins is not seen, and the address
    /// is the one a socket load balancer chose.
    Socket,
}

impl Tier {
    /// As logs and metrics name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "cgroup-first",
            Self::Alone => "cgroup",
            Self::SystemCall => "cgroup-and-system-call",
            Self::Behind => "cgroup-behind-others",
            Self::Socket => "socket-state",
        }
    }
}

/// The loaded and attached probe.
pub struct AttemptProbe {
    ring: Ring,
    _links: Vec<Link>,
    skel: AttemptSkel<'static>,
    tier: Tier,
    why: String,
}

impl AttemptProbe {
    /// Loads and attaches. Processes are named as the pid namespace with this inode names them.
    ///
    /// # Errors
    /// A missing capability or BTF, or the kernel's refusal.
    pub fn load(pid_namespace: u32) -> Result<Self, CaptureError> {
        match Hierarchy::open() {
            Ok(hierarchy) => match Self::load_at(pid_namespace, Some(&hierarchy)) {
                Err(
                    error @ (CaptureError::Capability { .. }
                    | CaptureError::NoBtf
                    | CaptureError::OldKernel { .. }),
                ) => Err(error),
                Err(error) => {
                    let mut probe = Self::load_at(pid_namespace, None)?;
                    probe.why = error.to_string();
                    Ok(probe)
                }
                probe => probe,
            },
            Err(why) => {
                let mut probe = Self::load_at(pid_namespace, None)?;
                probe.why = why;
                Ok(probe)
            }
        }
    }

    fn load_at(pid_namespace: u32, hierarchy: Option<&Hierarchy>) -> Result<Self, CaptureError> {
        check_network_rights("see attempts to connect")?;
        verifier::listen();
        let load = verifier::load_error("attempt");
        // libbpf's object must stay where it is for the probe's life, which is the process's.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = AttemptSkelBuilder::default().open(storage).map_err(load)?;
        if let Some(rodata) = &mut open.maps.rodata_data {
            rodata.agent_pid_namespace = pid_namespace;
            rodata.begins_at_state = hierarchy.is_none();
        }
        let preorder = hierarchy.is_some() && kernel::version() >= (6, 15);
        let assisted = hierarchy.is_some_and(|hierarchy| !preorder && hierarchy.has_others());
        open.progs.attempt_connect4.set_autoload(hierarchy.is_some());
        open.progs.attempt_connect6.set_autoload(hierarchy.is_some());
        open.progs.attempt_release.set_autoload(hierarchy.is_some() && kernel::version() >= (5, 9));
        open.progs.attempt_call.set_autoload(assisted);
        open.progs.attempt_called.set_autoload(assisted);
        let skel = open.load().map_err(load)?;
        let ring = Ring::new(&skel.maps.attempt_events).map_err(load)?;
        let progs = &skel.progs;
        // The end first: an attempt is never seen to begin without a chance to see its end.
        let mut links = vec![progs.attempt_state.attach_raw_tracepoint("inet_sock_set_state").map_err(load)?];
        let mut why = String::new();
        if let Some(hierarchy) = hierarchy {
            if kernel::version() >= (5, 9) {
                links.push(hierarchy.attach(&progs.attempt_release, false).map_err(load)?);
            }
            if assisted {
                let point = |program: &ProgramImpl<'_, libbpf_rs::Mut>, name| {
                    program.attach_tracepoint(TracepointCategory::Syscalls, name)
                };
                // What is left of a call must go, or the thread's next one would be told by it.
                let both = point(&progs.attempt_called, "sys_exit_connect")
                    .and_then(|end| Ok([end, point(&progs.attempt_call, "sys_enter_connect")?]));
                match both {
                    Ok(both) => links.extend(both),
                    Err(error) => {
                        why = format!(
                            "other programs choose addresses before this one, and the tracepoint of the system call is not to be had: mount tracefs at /sys/kernel/tracing ({error:#})"
                        );
                    }
                }
            }
            for program in [&progs.attempt_connect4, &progs.attempt_connect6] {
                links.push(hierarchy.attach(program, preorder).map_err(load)?);
            }
        }
        let tier = match (hierarchy, preorder, assisted) {
            (None, ..) => Tier::Socket,
            (_, true, _) => Tier::First,
            (_, _, true) if why.is_empty() => Tier::SystemCall,
            (_, _, true) => Tier::Behind,
            (_, _, false) => Tier::Alone,
        };
        Ok(Self { ring, _links: links, skel, tier, why })
    }

    /// How the address is learnt.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Why it is not learnt better; empty: it is.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Has something to read when an attempt was made or ended; see [`crate::wait`].
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.ring.descriptor()
    }

    /// Hands over what became known since the last call, oldest first; how much it was, and at most a few thousand.
    pub fn drain(&self, mut sink: impl FnMut(&Record)) -> usize {
        self.ring.drain(BATCH, &mut |bytes: &[u8]| {
            if let Some(record) = value::<Record>(bytes) {
                sink(&record);
            }
        })
    }

    /// One of the counts.
    #[must_use]
    pub fn tally(&self, tally: Tally) -> u64 {
        lookup_percpu::<u64>(&self.skel.maps.attempt_tallies, tally.0).into_iter().sum()
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
            ("attempt_connect4", &progs.attempt_connect4),
            ("attempt_connect6", &progs.attempt_connect6),
            ("attempt_release", &progs.attempt_release),
            ("attempt_state", &progs.attempt_state),
            ("attempt_call", &progs.attempt_call),
            ("attempt_called", &progs.attempt_called),
        ])
    }
}

/// The root of the machine's unified hierarchy of control groups.
struct Hierarchy(File);

impl Hierarchy {
    fn open() -> Result<Self, String> {
        let is_root = |path: &PathBuf| {
            // Of the whole machine's, and of no namespace's, root the inode is 1.
            is_unified(path) && fs::metadata(path).is_ok_and(|meta| meta.st_ino() == 1)
        };
        let root = ROOTS.map(PathBuf::from).into_iter().find(is_root).ok_or(
            "the machine's cgroup v2 hierarchy is not to be seen: mount the host's /sys/fs/cgroup, or use the host's PID namespace",
        )?;
        File::open(&root).map(Self).map_err(|error| format!("{}: {error}", root.display()))
    }

    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Another program decides about connects, for all processes.
    fn has_others(&self) -> bool {
        [libbpf_sys::BPF_CGROUP_INET4_CONNECT, libbpf_sys::BPF_CGROUP_INET6_CONNECT].into_iter().any(|kind| {
            let mut count = 0;
            // SAFETY: the descriptor is open; no room for ids is given, and none is told.
            let failed = unsafe {
                libbpf_sys::bpf_prog_query(
                    self.fd(),
                    kind,
                    libbpf_sys::BPF_F_QUERY_EFFECTIVE,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    &raw mut count,
                )
            };
            // ENOSPC: there are some.
            (failed == 0 || failed == -28) && count > 0
        })
    }

    fn attach(&self, program: &ProgramImpl<'_, libbpf_rs::Mut>, first: bool) -> libbpf_rs::Result<Link> {
        if !first {
            return program.attach_cgroup(self.fd());
        }
        let options = libbpf_sys::bpf_cgroup_opts {
            sz: size_of::<libbpf_sys::bpf_cgroup_opts>().try_into().unwrap_or_default(),
            flags: libbpf_sys::BPF_F_PREORDER,
            ..Default::default()
        };
        // SAFETY: the program is loaded, the descriptor is open, and the options live through the call.
        let link = unsafe {
            libbpf_sys::bpf_program__attach_cgroup_opts(
                program.as_libbpf_object().as_ptr(),
                self.fd(),
                &raw const options,
            )
        };
        let link =
            NonNull::new(link).ok_or_else(|| libbpf_rs::Error::from(std::io::Error::last_os_error()))?;
        // SAFETY: libbpf made it just now, and nobody else has it.
        Ok(unsafe { Link::from_ptr(link) })
    }
}

fn is_unified(path: &Path) -> bool {
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    rustix::fs::statfs(path).is_ok_and(|told| told.f_type == CGROUP2_SUPER_MAGIC)
}
