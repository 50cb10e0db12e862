//! Facts about the running kernel and this process's rights in it.

use std::{fs, os::linux::fs::MetadataExt, path::Path};

/// `major`, `minor` of the running kernel.
#[must_use]
pub fn version() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// The kernel describes its own types.
#[must_use]
pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Uprobes can be attached by `uprobe.multi` links, which need no `CAP_SYS_ADMIN` (Linux 6.6).
#[must_use]
pub fn has_uprobe_multi() -> bool {
    version() >= (6, 6)
}

/// Programs can ask which attachment they were run for (Linux 5.15).
#[must_use]
pub fn has_cookies() -> bool {
    version() >= (5, 15)
}

/// Programs can loop as long as user space says (Linux 5.17), and the verifier comes to an end with it (6.1's does not).
#[must_use]
pub fn has_loop() -> bool {
    version() >= (6, 4)
}

/// Programs can be attached to interfaces by TCX links (Linux 6.6).
#[must_use]
pub fn has_tcx() -> bool {
    version() >= (6, 6)
}

/// Tracepoints tell what was sent and received on sockets, after whichever call (Linux 6.4, or where it was carried
/// back to).
#[must_use]
pub fn has_socket_tracepoints() -> bool {
    libbpf_rs::btf::Btf::from_vmlinux().is_ok_and(|btf| {
        btf.type_by_name::<libbpf_rs::btf::types::Typedef<'_>>("btf_trace_sock_send_length").is_some()
    })
}

/// Return probes can kill no process: on x86-64 they are a system call since Linux 6.11, which seccomp filters saw until
/// 6.14.
#[must_use]
pub fn return_probes_are_safe() -> bool {
    !cfg!(target_arch = "x86_64") || !((6, 11)..(6, 14)).contains(&version())
}

/// XDP programs can be attached by links (Linux 5.9) and read what does not lie in one piece (5.18).
#[must_use]
pub fn has_xdp() -> bool {
    version() >= (5, 18)
}

/// Frames can be put in at an interface (Linux 5.18, or where it was carried back to). An older kernel may take a frame and
/// merely try the program on it.
#[must_use]
pub fn has_live_frames() -> bool {
    libbpf_rs::btf::Btf::from_vmlinux()
        .is_ok_and(|btf| btf.type_by_name::<libbpf_rs::btf::types::Struct<'_>>("xdp_test_data").is_some())
}

/// Inode of this network namespace.
#[must_use]
pub fn network_namespace() -> u32 {
    fs::metadata("/proc/self/ns/net").ok().and_then(|meta| u32::try_from(meta.st_ino()).ok()).unwrap_or(0)
}

/// A number of this network namespace that is never given again (Linux 5.14); 0 where the kernel has none.
#[must_use]
pub fn network_namespace_cookie() -> u64 {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let Ok(socket) = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)) else { return 0 };
    let mut cookie = 0u64;
    let mut len = 8;
    // SAFETY: the descriptor is open; `cookie` is writable for the `len` bytes told.
    let failed = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut len,
        )
    };
    if failed == 0 { cookie } else { 0 }
}

/// Inode of the pid namespace this process is in; what its `/proc` numbers processes by.
#[must_use]
pub fn pid_namespace() -> u32 {
    fs::metadata("/proc/self/ns/pid").ok().and_then(|meta| u32::try_from(meta.st_ino()).ok()).unwrap_or(0)
}

/// `none`, `integrity` or `confidentiality`; `None` where lockdown is not built in or securityfs not mounted.
#[must_use]
pub fn lockdown() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let chosen = text.split_once('[')?.1.split_once(']')?.0;
    Some(chosen.to_owned())
}

/// A capability gatewatch may need, by its number in `linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Capability {
    NetAdmin = 12,
    NetRaw = 13,
    SysPtrace = 19,
    SysAdmin = 21,
    Perfmon = 38,
    Bpf = 39,
}

impl Capability {
    /// As in `capabilities(7)`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }

    /// This process has it in effect.
    #[must_use]
    pub fn held(self) -> bool {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0);
        effective >> (self as u32) & 1 == 1
    }
}

/// The capabilities that loading and attaching need on this kernel and that this process lacks.
#[must_use]
pub fn missing_capabilities() -> Vec<Capability> {
    let mut needed = vec![Capability::Bpf, Capability::Perfmon];
    if !has_uprobe_multi() {
        needed.push(Capability::SysAdmin);
    }
    // CAP_SYS_ADMIN implies the two younger ones for the kernel.
    if Capability::SysAdmin.held() {
        needed.clear();
    }
    needed.push(Capability::SysPtrace);
    needed.retain(|capability| !capability.held());
    needed
}
