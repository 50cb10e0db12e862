//! `bpf/yardstick.bpf.c`: programs that do nothing, or the least, to measure against; and frames put in by the kernel
//! itself, faster than any socket can. For tests and benchmarks.

use std::{mem::MaybeUninit, time::Duration};

use libbpf_rs::{
    ProgramInput,
    libbpf_sys::{self, BPF_F_TEST_XDP_LIVE_FRAMES, BPF_TCX_EGRESS, BPF_TCX_INGRESS, XDP_PASS, XDP_TX},
    skel::{OpenSkel, SkelBuilder},
};

use crate::{
    CaptureError, Mode,
    attach::{self, Attached},
    nginx::run_time,
    skeleton::yardstick::{YardstickSkel, YardstickSkelBuilder},
    values::map_error,
    verifier,
};

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Nothing, at XDP.
    Xdp,
    /// Nothing, at TC's ingress.
    Ingress,
    /// Nothing, at TC's egress.
    Egress,
    /// The least that counts packets and bytes by connection, at TC's ingress.
    Counter,
}

/// Which way frames are put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They come in by the interface, as if its driver had received them.
    In,
    /// They leave by it; at a veth's other end they come in from the wire (which takes an XDP program there).
    Out,
}

/// How many programs are attached to an interface by TCX, both ways.
#[must_use]
pub fn tcx_programs(ifindex: u32) -> u32 {
    let at = |hook| {
        let mut options = libbpf_sys::bpf_prog_query_opts {
            sz: size_of::<libbpf_sys::bpf_prog_query_opts>().try_into().unwrap_or_default(),
            ..libbpf_sys::bpf_prog_query_opts::default()
        };
        let target = i32::try_from(ifindex).unwrap_or(i32::MAX);
        // SAFETY: `options` lives through the call, tells its own size, and offers no room for lists.
        let failed = unsafe { libbpf_sys::bpf_prog_query_opts(target, hook, &raw mut options) };
        // SAFETY: every member of the union is this count.
        if failed == 0 { unsafe { options.__bindgen_anon_1.count } } else { 0 }
    };
    at(BPF_TCX_INGRESS) + at(BPF_TCX_EGRESS)
}

/// The loaded programs.
pub struct Yardstick {
    skel: YardstickSkel<'static>,
    attached: Vec<Attached>,
}

impl Yardstick {
    /// Loads them.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn load() -> Result<Self, CaptureError> {
        verifier::listen();
        let load = verifier::load_error("yardstick");
        // libbpf's object must stay where it is for the program's life, which is the process's.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let open = YardstickSkelBuilder::default().open(storage).map_err(load)?;
        Ok(Self { skel: open.load().map_err(load)?, attached: Vec::new() })
    }

    /// Attaches one to an interface.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn attach(&mut self, which: Which, ifindex: u32) -> Result<Mode, CaptureError> {
        let progs = &self.skel.progs;
        let attached = match which {
            Which::Xdp => attach::xdp(&progs.yardstick_xdp, ifindex, false),
            Which::Ingress => attach::tc(&progs.yardstick_ingress, ifindex, true),
            Which::Egress => attach::tc(&progs.yardstick_egress, ifindex, false),
            Which::Counter => attach::tc(&progs.yardstick_counter, ifindex, true),
        };
        let attached =
            attached.map_err(|source| CaptureError::Interface { interface: ifindex.to_string(), source })?;
        let mode = attached.mode();
        self.attached.push(attached);
        Ok(mode)
    }

    /// Nanoseconds run and times run, where the kernel counts them.
    #[must_use]
    pub fn run_time(&self, which: Which) -> Option<(u64, u64)> {
        let progs = &self.skel.progs;
        run_time(match which {
            Which::Xdp => &progs.yardstick_xdp,
            Which::Ingress => &progs.yardstick_ingress,
            Which::Egress => &progs.yardstick_egress,
            Which::Counter => &progs.yardstick_counter,
        })
    }

    /// Puts `n` copies of `frame` on an interface (Linux 5.18), with so many source addresses in turn (65,536 at
    /// most); how long the kernel took.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn inject(
        &mut self,
        way: Way,
        ifindex: u32,
        frame: &[u8],
        n: u32,
        flows: u32,
    ) -> Result<Duration, CaptureError> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        let mut context = [0u8; 24];
        let end = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        for (at, value) in [(4, end), (12, ifindex)] {
            if let Some(place) = context.get_mut(at..at + 4) {
                place.copy_from_slice(&value.to_ne_bytes());
            }
        }
        if let Some(bss) = &mut self.skel.maps.bss_data {
            bss.next_flow = 0;
        }
        if let Some(data) = &mut self.skel.maps.data_data {
            data.flows = flows;
            data.verdict = match way {
                Way::In => XDP_PASS,
                Way::Out => XDP_TX,
            };
        }
        let began = std::time::Instant::now();
        let input = ProgramInput {
            context_in: Some(&mut context),
            data_in: Some(frame),
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            repeat: n,
            ..ProgramInput::default()
        };
        self.skel.progs.yardstick_vary.test_run(input).map_err(map_error("inject frames"))?;
        Ok(began.elapsed())
    }
}
