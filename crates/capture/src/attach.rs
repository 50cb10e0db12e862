//! Programs at network interfaces: XDP, TCX, and TC's older hook.

use std::{os::fd::AsFd, ptr::NonNull};

use libbpf_rs::{
    AsRawLibbpf, Link, ProgramImpl, TC_EGRESS, TC_INGRESS, TcHook, TcHookBuilder, Xdp, XdpFlags,
    libbpf_sys::{self, bpf_tcx_opts},
    query::LinkTypeInfo,
};

use crate::kernel;

/// Where and how a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// XDP in the driver.
    XdpNative,
    /// The kernel's XDP for any interface.
    XdpGeneric,
    /// A TCX link (Linux 6.6).
    Tcx,
    /// A filter of a clsact qdisc.
    Clsact,
}

impl Mode {
    /// As labels and messages name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

type Program<'a> = ProgramImpl<'a, libbpf_rs::Mut>;

/// A program at an interface.
#[derive(Debug)]
pub(crate) enum Attached {
    Link { link: Link, mode: Mode },
    Filter { hook: TcHook, priority: u32 },
}

/// Our filters among others of the same qdisc; those of the hold stand behind those that count.
const HANDLE: u32 = 0x6761;
const PRIORITY: u32 = 49_000;
pub(crate) const PRIORITY_HOLD: u32 = 49_001;

impl Attached {
    pub(crate) fn mode(&self) -> Mode {
        match self {
            Self::Link { mode, .. } => *mode,
            Self::Filter { .. } => Mode::Clsact,
        }
    }

    /// It is still where it was put.
    pub(crate) fn is_live(&self, ifindex: u32) -> bool {
        match self {
            Self::Link { link, .. } => interface_of(link) == Some(ifindex),
            Self::Filter { hook, priority } => {
                let mut hook = *hook;
                hook.handle(HANDLE).priority(*priority).query().is_ok_and(|program| program != 0)
            }
        }
    }

    /// Takes it off, at once. A link that is dropped only is there as long as another has its descriptor, such as a
    /// child that has not run its own program yet.
    pub(crate) fn detach(self) {
        // Gone already is as good.
        let _gone = match self {
            Self::Link { link, .. } => link.detach(),
            Self::Filter { mut hook, priority } => hook.handle(HANDLE).priority(priority).detach(),
        };
    }
}

/// A link of the kind that is attached to an interface.
pub(crate) fn is_at_interface(link: &Link) -> bool {
    link.info().is_ok_and(|info| matches!(info.info, LinkTypeInfo::Xdp(_) | LinkTypeInfo::Tcx(_)))
}

/// The interface a link is attached to; `None` for one that lost its own.
pub(crate) fn interface_of(link: &Link) -> Option<u32> {
    let info = link.info().ok()?;
    #[allow(clippy::wildcard_enum_match_arm)] // no other kind is attached to an interface
    let index = match info.info {
        LinkTypeInfo::Xdp(xdp) => xdp.ifindex,
        LinkTypeInfo::Tcx(tcx) => tcx.ifindex,
        _ => 0,
    };
    (index != 0).then_some(index)
}

fn signed(ifindex: u32) -> i32 {
    // Interface indices are positive 32-bit numbers.
    i32::try_from(ifindex).unwrap_or(i32::MAX)
}

/// XDP; natively, else generically unless `native_only`.
pub(crate) fn xdp(program: &Program<'_>, ifindex: u32, native_only: bool) -> libbpf_rs::Result<Attached> {
    let link = program.attach_xdp(signed(ifindex))?;
    let mode = xdp_mode(program, ifindex);
    if native_only && mode == Mode::XdpGeneric {
        return Err(libbpf_rs::Error::from_raw_os_error(95)); // EOPNOTSUPP; the link goes as it is dropped
    }
    Ok(Attached::Link { link, mode })
}

/// How the interface runs its XDP program.
pub(crate) fn xdp_mode(program: &Program<'_>, ifindex: u32) -> Mode {
    let told = Xdp::new(program.as_fd()).query(signed(ifindex), XdpFlags::NONE);
    let generic = told.is_ok_and(|told| u32::from(told.attach_mode) == libbpf_sys::XDP_ATTACHED_SKB);
    if generic { Mode::XdpGeneric } else { Mode::XdpNative }
}

/// TC: a TCX link where the kernel has them, else a filter.
pub(crate) fn tc(program: &Program<'_>, ifindex: u32, ingress: bool) -> libbpf_rs::Result<Attached> {
    tc_at(program, ifindex, ingress, PRIORITY)
}

/// The same; a filter stands at this priority among others of its qdisc.
pub(crate) fn tc_at(
    program: &Program<'_>,
    ifindex: u32,
    ingress: bool,
    priority: u32,
) -> libbpf_rs::Result<Attached> {
    if kernel::has_tcx() {
        let options = bpf_tcx_opts {
            sz: size_of::<bpf_tcx_opts>().try_into().unwrap_or_default(),
            ..bpf_tcx_opts::default()
        };
        // SAFETY: the program is loaded; `options` lives through the call and tells its own size. The pointer that
        // comes back is null or a link that is ours.
        let link = unsafe {
            let link = libbpf_sys::bpf_program__attach_tcx(
                program.as_libbpf_object().as_ptr(),
                signed(ifindex),
                &options,
            );
            NonNull::new(link).map(|link| Link::from_ptr(link))
        };
        let Some(link) = link else { return Err(std::io::Error::last_os_error().into()) };
        return Ok(Attached::Link { link, mode: Mode::Tcx });
    }
    let point = if ingress { TC_INGRESS } else { TC_EGRESS };
    let mut hook = TcHookBuilder::new(program.as_fd())
        .ifindex(signed(ifindex))
        .replace(true)
        .handle(HANDLE)
        .priority(priority)
        .hook(point);
    // A qdisc that is there already serves as well.
    let _there = hook.create();
    Ok(Attached::Filter { hook: hook.attach()?, priority })
}
