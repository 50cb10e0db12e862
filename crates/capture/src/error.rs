use std::{io, path::PathBuf};

/// Why something could not be had from the kernel; the text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The kernel refused for want of a capability.
    #[error(
        "cannot {action}: this process lacks {capability}. Give the process CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE (for packets, and for attempts to connect, CAP_NET_ADMIN; for the first request's hold CAP_NET_RAW; and CAP_SYS_ADMIN on kernels before 6.6), or run it as root"
    )]
    Capability {
        /// What was tried.
        action: &'static str,
        /// What is missing, as far as can be told.
        capability: String,
    },
    /// The kernel is too old.
    #[error("this is Linux {major}.{minor}: gatewatch needs 5.8 or newer. Upgrade the kernel")]
    OldKernel {
        /// Its version.
        major: u32,
        /// Likewise.
        minor: u32,
    },
    /// The kernel is too old for one thing.
    #[error("this kernel cannot {what}: Linux {needs} or newer is needed for that")]
    Lacks {
        /// What it cannot do.
        what: &'static str,
        /// The first version that can.
        needs: &'static str,
    },
    /// The kernel has no type information of itself.
    #[error(
        "this kernel has no BTF (/sys/kernel/btf/vmlinux): gatewatch needs Linux 5.8 or newer built with CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf,
    /// The kernel refused a program or map.
    #[error(
        "the kernel did not take the {object} programs: {source}{said}. `gatewatch doctor` tells what this kernel lacks"
    )]
    Load {
        /// Which BPF object.
        object: &'static str,
        /// libbpf's own words.
        source: libbpf_rs::Error,
        /// The verifier's last sentence, if it had one.
        said: String,
    },
    /// A probe could not be attached to a binary.
    #[error("cannot attach to {path}: {source}. `gatewatch doctor` tells what is missing")]
    Attach {
        /// The binary.
        path: PathBuf,
        /// libbpf's own words.
        source: libbpf_rs::Error,
    },
    /// The programs could not tell this binary from the one watched already.
    #[error(
        "another gateway's binary is watched already, and before Linux 5.15 the programs cannot tell two apart. It is watched when that one has ended"
    )]
    OneBinary,
    /// Nothing can be pinned in the BPF file system by this user.
    #[error(
        "{path} cannot be made for pins: {source}. Let it belong to this user, or set network.pin: false to do without"
    )]
    CannotPin {
        /// Where pins were to be.
        path: PathBuf,
        /// Its own words.
        source: io::Error,
    },
    /// There is no BPF file system to pin in.
    #[error(
        "{path} is not in a BPF file system: nothing can be pinned there. `gatewatch doctor --prepare` mounts one; network.pin: false does without"
    )]
    NoBpfFs {
        /// Where pins were to be.
        path: PathBuf,
    },
    /// A program could not be attached to an interface.
    #[error("cannot attach to interface {interface}: {source}")]
    Interface {
        /// Its name.
        interface: String,
        /// libbpf's own words.
        source: libbpf_rs::Error,
    },
    /// All slots are taken.
    #[error(
        "interface {interface} is not watched: {slots} are already. Name those that matter in monitoring.filters"
    )]
    NoSlot {
        /// Its name.
        interface: String,
        /// How many there are.
        slots: u32,
    },
    /// A map could not be read or written.
    #[error("cannot {action}: {source}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// libbpf's own words.
        source: libbpf_rs::Error,
    },
    /// The operating system failed otherwise.
    #[error("cannot {action}: {source}")]
    Os {
        /// What was tried.
        action: &'static str,
        /// Its own words.
        source: io::Error,
    },
}
