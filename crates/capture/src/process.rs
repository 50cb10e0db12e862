//! Processes that begin or end: `bpf/process.bpf.c`, loaded, attached, read.

use std::{mem::MaybeUninit, os::fd::BorrowedFd};

use libbpf_rs::{
    Link,
    skel::{OpenSkel, SkelBuilder},
};

use crate::{
    CaptureError,
    nginx::{check_rights, run_times},
    ring::Ring,
    skeleton::process::{ProcessSkel, ProcessSkelBuilder, types},
    verifier,
};

/// A process that began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessChange {
    /// It has run `exec`; `pid` as the agent's `/proc` names it.
    Exec {
        /// 0: not visible there.
        pid: u32,
        /// The program's name, cut to 15 bytes and ended by NULs.
        comm: [u8; 16],
    },
    /// It is gone; `pid` as the kernel's first namespace names it.
    Exit {
        /// Of the process.
        pid: u32,
    },
}

/// The loaded and attached probe.
pub struct ProcessProbe {
    pub(crate) ring: Ring,
    _links: Vec<Link>,
    skel: ProcessSkel<'static>,
}

impl ProcessProbe {
    /// Loads and attaches. Processes are named as the pid namespace with this inode names them.
    ///
    /// # Errors
    /// A missing capability or BTF, or the kernel's refusal.
    pub fn load(pid_namespace: u32) -> Result<Self, CaptureError> {
        check_rights("load the process programs")?;
        verifier::listen();
        let load = verifier::load_error("process");
        // libbpf's object must stay where it is for the probe's life, which is the process's.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = ProcessSkelBuilder::default().open(storage).map_err(load)?;
        if let Some(rodata) = &mut open.maps.rodata_data {
            rodata.agent_pid_namespace = pid_namespace;
        }
        let skel = open.load().map_err(load)?;
        let links = vec![
            skel.progs.process_exec.attach_raw_tracepoint("sched_process_exec").map_err(load)?,
            skel.progs.process_exit.attach_raw_tracepoint("sched_process_exit").map_err(load)?,
        ];
        let ring = Ring::new(&skel.maps.process_events).map_err(load)?;
        Ok(Self { ring, _links: links, skel })
    }

    /// Nanoseconds run and times run of each program, where the kernel counts them.
    #[must_use]
    pub fn run_times(&self) -> Vec<(&'static str, u64, u64)> {
        let progs = &self.skel.progs;
        run_times([("process_exec", &progs.process_exec), ("process_exit", &progs.process_exit)])
    }

    /// Has something to read when a process has begun or ended; see [`crate::wait`].
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.ring.descriptor()
    }

    /// Hands over what happened since the last call.
    pub fn drain(&self, mut sink: impl FnMut(ProcessChange)) {
        self.ring.drain(10_000, &mut |bytes: &[u8]| {
            if bytes.len() < size_of::<types::process_event>() {
                return;
            }
            // SAFETY: the length was checked; the type is made of integers only, of which any bytes are a
            // value; `read_unaligned` asks for no alignment.
            let event = unsafe { bytes.as_ptr().cast::<types::process_event>().read_unaligned() };
            if event.change == types::process_change::PROCESS_EXEC.0 {
                let comm = event.comm.map(|byte| byte.cast_unsigned());
                sink(ProcessChange::Exec { pid: event.agent_pid, comm });
            } else if event.change == types::process_change::PROCESS_EXIT.0 {
                sink(ProcessChange::Exit { pid: event.pid });
            }
        });
    }
}
