//! Where TLS is done on this node: found in processes as they begin, and looked for again now and then.
//!
//! Looking into programs takes its time: a thread of its own does it, and the hot loop only attaches.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, PoisonError,
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
    binary::FileKey,
    process::ProcRoot,
    tls::{Finder, TlsFile},
};

/// How often all processes are looked at again: a library may be loaded long after the process began.
const AGAIN_NS: u64 = 30_000_000_000;
/// The longest sleep of the thread.
const NAP: Duration = Duration::from_millis(200);
/// Files that wait to be attached to.
const WAITING: usize = 64;

/// What the thread tells.
enum News {
    /// TLS is done in a file, which is held open: its process may end before it is attached to.
    Found(TlsFile, File),
    /// No process has the file any more: as long as it is probed, its file system cannot be let go.
    Unused(FileKey),
}

/// Finds and attaches.
pub struct Tls {
    news: Receiver<News>,
    attached: HashMap<FileKey, TlsAttachment>,
    /// Files that could not be attached to: to be looked at again.
    failed: Arc<Mutex<Vec<FileKey>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tls {
    /// Begins to look.
    ///
    /// # Errors
    /// When the kernel refuses to tell of processes.
    pub fn new(pid_namespace: u32) -> Result<Self> {
        let (sender, news) = sync_channel(WAITING);
        let failed = Arc::new(Mutex::new(Vec::new()));
        let (started, start) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (stop, failed) = (Arc::clone(&stop), Arc::clone(&failed));
            // The probe is made by the thread that drains it: its ring stays there.
            thread::Builder::new().name("tls-finder".to_owned()).spawn(move || {
                match ProcessProbe::load(pid_namespace) {
                    Ok(processes) => {
                        let _waiting = started.send(Ok(()));
                        look(&processes, &sender, &stop, &failed);
                    }
                    Err(error) => {
                        let _waiting = started.send(Err(error));
                    }
                }
            })?
        };
        start.recv().context("the thread that finds TLS ended before it began")??;
        Ok(Self { news, attached: HashMap::new(), failed, stop, thread: Some(thread) })
    }

    /// Attaches to what was found; what could not be attached to.
    pub fn attach(&mut self, probe: &mut SocketProbe) -> Vec<String> {
        let mut said = Vec::new();
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Found(file, _open) => match probe.attach_tls(&file) {
                    Ok(attachment) => drop(self.attached.insert(file.key, attachment)),
                    Err(error) => {
                        said.push(error.to_string());
                        self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(file.key);
                    }
                },
                News::Unused(key) => {
                    if let Some(attachment) = self.attached.remove(&key) {
                        // The kernel waits until no program runs any more.
                        thread::spawn(move || drop(attachment));
                    }
                }
            }
        }
        said
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
        while self.news.try_recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been said.
            let _ended = thread.join();
        }
    }
}

fn look(processes: &ProcessProbe, news: &SyncSender<News>, stop: &AtomicBool, failed: &Mutex<Vec<FileKey>>) {
    let (root, mut finder) = (ProcRoot::new("/proc"), Finder::default());
    let mut waiting = VecDeque::new();
    let mut all_ns: Option<u64> = None;
    while !stop.load(Ordering::Relaxed) {
        let now = clock::monotonic();
        if all_ns.is_none_or(|all_ns| now.saturating_sub(all_ns) > AGAIN_NS) {
            all_ns = Some(now);
            let pids = root.pids();
            for key in failed.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                finder.forget(key);
            }
            for key in finder.unused(&root, &pids) {
                if news.send(News::Unused(key)).is_err() {
                    return;
                }
            }
            waiting.extend(pids);
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
        for mut file in finder.look(&root, pid) {
            let Ok(open) = File::open(&file.path) else {
                // Gone with its process: another may have it, too.
                finder.forget(file.key);
                continue;
            };
            file.path = format!("/proc/self/fd/{}", open.as_raw_fd()).into();
            if news.send(News::Found(file, open)).is_err() {
                return;
            }
        }
    }
}
