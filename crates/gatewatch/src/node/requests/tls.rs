//! Where TLS is done on this node: found in processes as they begin, and looked for again now and then.
//!
//! Looking into programs takes its time: a thread of its own does it, and the hot loop only attaches.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use gatewatch_capture::{
    clock,
    process::{ProcessChange, ProcessProbe},
    socket::SocketProbe,
    tls::TlsAttachment,
};
use gatewatch_target::{
    process::ProcRoot,
    tls::{Finder, TlsFile},
};

/// How often all processes are looked at again: a library may be loaded long after the process began.
const AGAIN_NS: u64 = 30_000_000_000;
/// The longest sleep of the thread.
const NAP: Duration = Duration::from_millis(200);
/// Files that wait to be attached to.
const WAITING: usize = 64;

/// Finds and attaches.
pub struct Tls {
    found: Receiver<TlsFile>,
    attached: Vec<TlsAttachment>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tls {
    /// Begins to look.
    ///
    /// # Errors
    /// When the kernel refuses to tell of processes.
    pub fn new(pid_namespace: u32) -> Result<Self> {
        let (sender, found) = sync_channel(WAITING);
        let (started, start) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = Arc::clone(&stop);
            // The probe is made by the thread that drains it: its ring stays there.
            thread::Builder::new().name("tls-finder".to_owned()).spawn(move || {
                match ProcessProbe::load(pid_namespace) {
                    Ok(processes) => {
                        let _waiting = started.send(Ok(()));
                        look(&processes, &sender, &stop);
                    }
                    Err(error) => {
                        let _waiting = started.send(Err(error));
                    }
                }
            })?
        };
        start.recv().context("the thread that finds TLS ended before it began")??;
        Ok(Self { found, attached: Vec::new(), stop, thread: Some(thread) })
    }

    /// Attaches to what was found; what could not be attached to.
    pub fn attach(&mut self, probe: &mut SocketProbe) -> Vec<String> {
        let mut failed = Vec::new();
        while let Ok(file) = self.found.try_recv() {
            match probe.attach_tls(&file) {
                Ok(attachment) => self.attached.push(attachment),
                Err(error) => failed.push(error.to_string()),
            }
        }
        failed
    }

    /// Files probed.
    pub fn files(&self) -> usize {
        self.attached.len()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // One that waits to hand over a file ends when nobody takes it any more.
        while self.found.try_recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been said.
            let _ended = thread.join();
        }
    }
}

fn look(processes: &ProcessProbe, found: &SyncSender<TlsFile>, stop: &AtomicBool) {
    let (root, mut finder) = (ProcRoot::new("/proc"), Finder::default());
    let mut waiting = VecDeque::new();
    let mut all_ns: Option<u64> = None;
    while !stop.load(Ordering::Relaxed) {
        let now = clock::monotonic();
        if all_ns.is_none_or(|all_ns| now.saturating_sub(all_ns) > AGAIN_NS) {
            all_ns = Some(now);
            waiting.extend(root.pids());
        }
        // Those that begin are about to speak: they go first.
        processes.drain(|change| {
            if let ProcessChange::Exec { pid: pid @ 1.., .. } = change {
                waiting.push_front(pid);
            }
        });
        let Some(pid) = waiting.pop_front() else {
            gatewatch_capture::wait(NAP, &[Some(processes.descriptor())]);
            continue;
        };
        for file in finder.look(&root, pid) {
            if found.send(file).is_err() {
                return;
            }
        }
    }
}
