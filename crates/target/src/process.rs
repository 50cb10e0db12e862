//! Gateway processes: found by name, told apart by master process, named for people.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::linux::fs::MetadataExt,
    path::{Path, PathBuf},
};

use procfs::process::{FDTarget, Process};

/// The procfs processes are looked for in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcRoot(PathBuf);

/// What a gateway instance is called, decided by the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRule {
    /// Part of the master's command line.
    pub matches: String,
    /// The name.
    pub name: String,
}

/// A process that may be a gateway's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayProcess {
    /// As [`ProcRoot`] names it.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Clock ticks after boot at which it began: tells two users of one number apart.
    pub began: u64,
    /// Its command line, as it titles itself.
    pub title: String,
    /// A worker or helper of its parent, by its title.
    pub is_worker: bool,
}

/// When this process began, in clock ticks after boot.
#[must_use]
pub fn began() -> u64 {
    Process::myself().and_then(|process| process.stat()).map_or(0, |stat| stat.starttime)
}

impl Default for ProcRoot {
    /// `/host/proc` where the host's is mounted there, else `/proc`.
    fn default() -> Self {
        let host = Path::new("/host/proc");
        Self(if host.join("1/stat").exists() { host } else { Path::new("/proc") }.to_owned())
    }
}

impl ProcRoot {
    /// This one.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// It names processes as our own pid namespace does.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.0 == Path::new("/proc")
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file a process runs; opens the right one even where it was replaced or is in another mount namespace.
    #[must_use]
    pub fn exe(&self, pid: u32) -> PathBuf {
        self.0.join(pid.to_string()).join("exe")
    }

    /// Inode of the pid namespace whose numbers this procfs shows.
    #[must_use]
    pub fn pid_namespace(&self) -> u32 {
        /// The first namespace's, fixed in the kernel (`PROC_PID_INIT_INO`).
        const FIRST: u32 = 0xefff_fffc;
        let of = if self.is_ours() { "self/ns/pid" } else { "1/ns/pid" };
        fs::metadata(self.0.join(of)).ok().and_then(|meta| u32::try_from(meta.st_ino()).ok()).unwrap_or(FIRST)
    }

    /// All processes now, in no order.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Processes whose name (`comm`) or program is one of `names`.
    #[must_use]
    pub fn gateways(&self, names: &[String]) -> Vec<GatewayProcess> {
        let Ok(all) = procfs::process::all_processes_with_root(&self.0) else {
            return Vec::new();
        };
        all.filter_map(Result::ok).filter_map(|process| self.gateway(&process, names)).collect()
    }

    /// The same for one process.
    #[must_use]
    pub fn gateway_at(&self, pid: u32, names: &[String]) -> Option<GatewayProcess> {
        self.gateway(&self.process(pid)?, names)
    }

    fn process(&self, pid: u32) -> Option<Process> {
        Process::new_with_root(self.0.join(pid.to_string())).ok()
    }

    fn gateway(&self, process: &Process, names: &[String]) -> Option<GatewayProcess> {
        let stat = process.stat().ok()?;
        if stat.state == 'Z' {
            return None;
        }
        let named = |name: &str| names.iter().any(|wanted| wanted == name);
        let program = || {
            let exe = process.exe().ok()?;
            Some(exe.file_name()?.to_string_lossy().trim_end_matches(" (deleted)").to_owned())
        };
        if !named(&stat.comm) && !program().is_some_and(|name| named(&name)) {
            return None;
        }
        // A title that a process gives itself often ends in NULs or spaces.
        let title = process.cmdline().unwrap_or_default().join(" ").trim().to_owned();
        let is_worker = title.strip_prefix("nginx: ").is_some_and(|role| !role.starts_with("master process"));
        Some(GatewayProcess {
            pid: u32::try_from(stat.pid).ok()?,
            parent: u32::try_from(stat.ppid).unwrap_or(0),
            began: stat.starttime,
            title,
            is_worker,
        })
    }

    /// The master of a gateway's process: itself, or the parent of a worker.
    #[must_use]
    pub fn master_of(&self, process: &GatewayProcess, names: &[String]) -> GatewayProcess {
        if process.is_worker
            && let Some(parent) = self.gateway_at(process.parent, names)
        {
            return parent;
        }
        process.clone()
    }

    /// What an instance is called: by the user's rules, else by product and lowest listening port
    /// ("kong:8000"), which stays the same over restarts and upgrades.
    #[must_use]
    pub fn instance_name(&self, master: &GatewayProcess, rules: &[NameRule]) -> String {
        if let Some(rule) = rules.iter().find(|rule| master.title.contains(&rule.matches)) {
            return rule.name.clone();
        }
        let exe = fs::read_link(self.exe(master.pid)).unwrap_or_default();
        let exe = exe.to_string_lossy();
        let product = ["kong", "openresty"]
            .into_iter()
            .find(|product| master.title.contains(product) || exe.contains(product))
            .unwrap_or("nginx");
        let Some(port) = self.lowest_port(master.pid) else { return format!("{product}:pid-{}", master.pid) };
        match self.pod(master.pid) {
            Some(pod) => format!("{product}:{port}@{pod}"),
            None => format!("{product}:{port}"),
        }
    }

    /// What tells gateways of several pods apart, where a process is in another network namespace than we are: the
    /// name its container was given, or the namespace's number.
    fn pod(&self, pid: u32) -> Option<String> {
        let namespace = |path: PathBuf| fs::metadata(path).ok().map(|meta| meta.st_ino());
        let theirs = namespace(self.0.join(pid.to_string()).join("ns/net"))?;
        if Some(theirs) == namespace(PathBuf::from("/proc/self/ns/net")) {
            return None;
        }
        let environment = fs::read(self.0.join(pid.to_string()).join("environ")).unwrap_or_default();
        let name = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"HOSTNAME="));
        let fit = |name: &&[u8]| {
            (1..=63).contains(&name.len())
                && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        };
        Some(match name.filter(fit) {
            Some(name) => String::from_utf8_lossy(name).into_owned(),
            None => format!("net-{theirs}"),
        })
    }

    fn lowest_port(&self, pid: u32) -> Option<u16> {
        let process = self.process(pid)?;
        let Ok(fds) = process.fd() else { return self.lowest_port_by_pidfd(pid) };
        let sockets: HashSet<u64> = fds
            .filter_map(|fd| if let FDTarget::Socket(inode) = fd.ok()?.target { Some(inode) } else { None })
            .collect();
        let entries = process.tcp().unwrap_or_default().into_iter().chain(process.tcp6().unwrap_or_default());
        entries
            .filter(|entry| entry.state == procfs::net::TcpState::Listen && sockets.contains(&entry.inode))
            .map(|entry| entry.local_address.port())
            .min()
    }

    /// The same where `/proc/PID/fd` is another user's: by copies of its first descriptors, which need
    /// CAP_SYS_PTRACE only. A listening socket is asked for its address; nothing is done to it.
    fn lowest_port_by_pidfd(&self, pid: u32) -> Option<u16> {
        const DESCRIPTORS: i32 = 256;
        if !self.is_ours() {
            return None;
        }
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
        let port = |fd| {
            let copy =
                rustix::process::pidfd_getfd(&process, fd, rustix::process::PidfdGetfdFlags::empty()).ok()?;
            if !rustix::net::sockopt::socket_acceptconn(&copy).ok()? {
                return None;
            }
            let address: std::net::SocketAddr = rustix::net::getsockname(&copy).ok()?.try_into().ok()?;
            Some(address.port())
        };
        (0..DESCRIPTORS).filter_map(port).min()
    }

    /// Whether a seccomp filter watches the process (`None`: not known): return probes may then kill it.
    #[must_use]
    pub fn has_seccomp_filter(&self, pid: u32) -> Option<bool> {
        Some(self.process(pid)?.status().ok()?.seccomp? == 2)
    }

    /// Whether it is still there, and the same one.
    #[must_use]
    pub fn is_alive(&self, pid: u32, began: u64) -> bool {
        self.process(pid)
            .and_then(|process| process.stat().ok())
            .is_some_and(|stat| stat.starttime == began && stat.state != 'Z')
    }

    /// Files mapped into the process to be run, by path in its own mount namespace.
    #[must_use]
    pub fn mapped_programs(&self, pid: u32) -> BTreeMap<PathBuf, u64> {
        let Some(maps) = self.process(pid).and_then(|process| process.maps().ok()) else {
            return BTreeMap::new();
        };
        let mut found = BTreeMap::new();
        for map in maps {
            if let procfs::process::MMapPath::Path(path) = map.pathname {
                let base = map.address.0.saturating_sub(map.offset);
                found.entry(path).or_insert(base);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests;
