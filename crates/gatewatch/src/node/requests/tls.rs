//! Where TLS is done on this node: found in processes as they begin, and looked for again now and then.

use std::collections::VecDeque;

use gatewatch_capture::{
    CaptureError,
    process::{ProcessChange, ProcessProbe},
    socket::SocketProbe,
    tls::TlsAttachment,
};
use gatewatch_target::{process::ProcRoot, tls::Finder};

/// Processes looked at in one turn.
const LOOKS: usize = 32;
/// How often all processes are looked at again: a library may be loaded long after the process began.
const AGAIN_NS: u64 = 30_000_000_000;

/// Finds and attaches.
pub struct Tls {
    finder: Finder,
    attached: Vec<TlsAttachment>,
    processes: ProcessProbe,
    waiting: VecDeque<u32>,
    root: ProcRoot,
    looked_ns: Option<u64>,
}

impl Tls {
    /// Nothing looked at yet.
    ///
    /// # Errors
    /// When the kernel refuses to tell of processes.
    pub fn new(pid_namespace: u32) -> Result<Self, CaptureError> {
        Ok(Self {
            finder: Finder::default(),
            attached: Vec::new(),
            processes: ProcessProbe::load(pid_namespace)?,
            waiting: VecDeque::new(),
            root: ProcRoot::new("/proc"),
            looked_ns: None,
        })
    }

    /// Looks at a few processes; what could not be probed.
    pub fn look(&mut self, probe: &mut SocketProbe, now_ns: u64) -> Vec<String> {
        if self.looked_ns.is_none_or(|looked_ns| now_ns.saturating_sub(looked_ns) > AGAIN_NS) {
            self.looked_ns = Some(now_ns);
            self.waiting.extend(self.root.pids());
        }
        let waiting = &mut self.waiting;
        self.processes.drain(|change| {
            if let ProcessChange::Exec { pid: pid @ 1.., .. } = change {
                waiting.push_front(pid);
            }
        });
        let mut failed = Vec::new();
        for _ in 0..LOOKS {
            let Some(pid) = self.waiting.pop_front() else { break };
            for file in self.finder.look(&self.root, pid) {
                match probe.attach_tls(&file) {
                    Ok(attachment) => self.attached.push(attachment),
                    Err(error) => failed.push(error.to_string()),
                }
            }
        }
        failed
    }

    /// Files probed.
    pub fn files(&self) -> usize {
        self.attached.len()
    }
}
