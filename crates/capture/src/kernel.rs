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
