//! Following the gateways: a thread that looks at processes and binaries, so that the hot loop need not.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::Duration,
};

use gatewatch_target::{
    binary::{Binary, BinaryError, FileKey},
    process::{GatewayProcess, ProcRoot},
};

/// How often all processes are looked at; a new one is looked at as soon as it begins.
const SCAN: Duration = Duration::from_secs(2);
/// Scans a binary is not seen in before it is let go: a restart should find it attached.
const PATIENCE: u32 = 30;

/// What was found out.
#[derive(Debug)]
pub enum Finding {
    /// A binary to probe: it is run by at least this process.
    Binary {
        /// What it is.
        binary: Arc<Binary>,
        /// The file, held open: the process may be gone before the probes stand (nginx leaves its first behind when
        /// it turns into a daemon).
        file: File,
        /// A process that runs it.
        process: GatewayProcess,
    },
    /// A process bears a gateway's name and cannot be watched; told once for each file.
    Unwatchable {
        /// The process.
        process: GatewayProcess,
        /// Why.
        error: BinaryError,
    },
    /// No process runs this binary any more.
    Gone(FileKey),
    /// The masters that run now, with the binary each runs.
    Masters(Vec<(GatewayProcess, FileKey)>),
}

/// The hot loop's end of the watcher.
pub struct Watcher {
    hints: SyncSender<Hint>,
    findings: Receiver<Finding>,
}

/// What to look for, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Off: nothing is looked for.
    pub enabled: bool,
    /// The procfs.
    pub root: ProcRoot,
    /// Names of gateway processes.
    pub names: Vec<String>,
    /// Where separate debug files stand.
    pub debug_dir: PathBuf,
}

impl Watcher {
    /// Begins to look.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(settings: Settings) -> std::io::Result<Self> {
        let (hints, hinted) = mpsc::sync_channel(1024);
        let (found, findings) = mpsc::channel();
        if !settings.enabled {
            return Ok(Self { hints, findings });
        }
        thread::Builder::new().name("watch".to_owned()).spawn(move || {
            let mut search = Search { settings, binaries: HashMap::new() };
            if search.scan().into_iter().any(|finding| found.send(finding).is_err()) {
                return;
            }
            loop {
                let more = match hinted.recv_timeout(SCAN) {
                    Ok(Hint::Began(pid)) => search.look_at(pid),
                    Ok(Hint::Forget(key)) => {
                        search.binaries.remove(&key);
                        Vec::new()
                    }
                    Err(RecvTimeoutError::Timeout) => search.scan(),
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                if more.into_iter().any(|finding| found.send(finding).is_err()) {
                    return;
                }
            }
        })?;
        Ok(Self { hints, findings })
    }

    /// A process has begun to run a program. A hint that finds no room is made good by the next scan.
    pub fn hint(&self, pid: u32) {
        let _room = self.hints.try_send(Hint::Began(pid));
    }

    /// A binary could not be attached to: it is to be found again.
    pub fn forget(&self, key: FileKey) {
        let _room = self.hints.try_send(Hint::Forget(key));
    }

    /// The next finding, if there is one.
    pub fn next(&self) -> Option<Finding> {
        self.findings.try_recv().ok()
    }
}

enum Hint {
    /// A process runs a new program.
    Began(u32),
    Forget(FileKey),
}

/// One binary, by its file.
struct Known {
    watched: bool,
    missed: u32,
}

struct Search {
    settings: Settings,
    binaries: HashMap<FileKey, Known>,
}

impl Search {
    fn look_at(&mut self, pid: u32) -> Vec<Finding> {
        let process = self.settings.root.gateway_at(pid, &self.settings.names);
        process.and_then(|process| self.judge(process)).into_iter().collect()
    }

    /// All processes that bear a gateway's name now, without waiting for the first scan.
    fn scan(&mut self) -> Vec<Finding> {
        let processes = self.settings.root.gateways(&self.settings.names);
        let mut findings = Vec::new();
        let mut seen = HashSet::new();
        let mut masters = Vec::new();
        for process in processes {
            if let Ok(key) = FileKey::of(&self.settings.root.exe(process.pid)) {
                seen.insert(key);
                if !process.is_worker {
                    masters.push((process.clone(), key));
                }
            }
            findings.extend(self.judge(process));
        }
        findings.push(Finding::Masters(masters));
        for (key, known) in &mut self.binaries {
            known.missed = if seen.contains(key) { 0 } else { known.missed + 1 };
            if known.missed > PATIENCE && known.watched {
                findings.push(Finding::Gone(*key));
            }
        }
        self.binaries.retain(|_, known| known.missed <= PATIENCE);
        findings
    }

    fn judge(&mut self, process: GatewayProcess) -> Option<Finding> {
        let exe = self.settings.root.exe(process.pid);
        let key = match FileKey::of(&exe) {
            Ok(key) => key,
            // Between its end and its parent's notice a process has no file: not worth a word.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(source) => {
                // Without a file there is no key to remember it by: the process number serves.
                let key = FileKey { device: 0, inode: u64::from(process.pid) };
                let known = self.binaries.insert(key, Known { watched: false, missed: 0 });
                let error = BinaryError::Unreadable { path: exe, source };
                return known.is_none().then_some(Finding::Unwatchable { process, error });
            }
        };
        if self.binaries.contains_key(&key) {
            return None;
        }
        let file = File::open(&exe).ok()?;
        let inspected = Binary::inspect(&exe, &self.settings.debug_dir);
        self.binaries.insert(key, Known { watched: inspected.is_ok(), missed: 0 });
        Some(match inspected {
            Ok(binary) => Finding::Binary { binary: Arc::new(binary), file, process },
            Err(error) => {
                if matches!(&error, BinaryError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound)
                {
                    // Gone while it was looked at: its next process is looked at again.
                    self.binaries.remove(&key);
                    return None;
                }
                Finding::Unwatchable { process, error }
            }
        })
    }
}
