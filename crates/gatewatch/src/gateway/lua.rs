//! The class of Lua probes: attached while wanted, to each gateway that has Lua.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use gatewatch_capture::{
    kernel,
    nginx::{Attachment, NginxProbe},
};
use gatewatch_export::log::Level;
use gatewatch_target::{binary::FileKey, lua, process::ProcRoot};

use super::reaper::Reaper;

/// Looks at a process's memory map before it is said to have no Lua: nginx loads modules a while after it begins.
const LOOKS: u32 = 8;

/// The class, wanted or not.
pub struct LuaProbes {
    wanted: Arc<AtomicBool>,
    attached: Vec<(FileKey, Attachment)>,
    /// Processes looked at, and how often.
    looks: HashMap<u32, u32>,
    /// Probes of before may still run: others beside them would count twice.
    ending: bool,
    requests_before: u64,
    /// Requests and runs of phases when the class was attached.
    since: (u64, u64),
}

impl LuaProbes {
    /// `wanted` may change at any time.
    pub fn new(wanted: Arc<AtomicBool>) -> Self {
        Self {
            wanted,
            attached: Vec::new(),
            looks: HashMap::new(),
            ending: false,
            requests_before: 0,
            since: (0, 0),
        }
    }

    /// Brings what is attached in line with what is wanted, for the gateway processes `pids`; what there is to say
    /// about it.
    pub fn tick(
        &mut self,
        probe: &mut NginxProbe,
        reaper: &mut Reaper,
        root: &ProcRoot,
        pids: &[u32],
        requests: u64,
        calls: u64,
    ) -> Vec<(Level, String)> {
        if self.ending && reaper.is_done() {
            self.ending = false;
            // What the last runs left behind.
            probe.set_lua_attached(false);
        }
        let mut said = Vec::new();
        if !self.wanted.load(Ordering::Relaxed) {
            if !self.attached.is_empty() {
                said.push((
                    Level::Info,
                    format!("Lua phases are no longer probed; {}", self.describe(probe, requests, calls)),
                ));
                self.let_go(probe, reaper);
            }
            self.looks.clear();
            return said;
        }
        if self.ending {
            return said;
        }
        self.looks.retain(|pid, _| pids.contains(pid));
        for pid in pids {
            let looks = self.looks.entry(*pid).or_default();
            if *looks >= LOOKS {
                continue;
            }
            *looks += 1;
            let Some((module, sites)) = lua::find(root, *pid) else {
                if *looks == LOOKS {
                    said.push((Level::Info, format!("process {pid} has no Lua module: no phases to probe")));
                }
                continue;
            };
            *looks = LOOKS;
            let Ok(key) = FileKey::of(&module) else { continue };
            if self.attached.iter().any(|(known, _)| *known == key) {
                continue;
            }
            match attach(probe, root, *pid, &module, &sites) {
                Ok(attachment) => {
                    let text = "Lua phases are probed: two traps more for each phase a request runs (SIGUSR2 switches it off)";
                    said.push((Level::Info, text.to_owned()));
                    if self.attached.is_empty() {
                        self.since = (requests, calls);
                    }
                    self.attached.push((key, attachment));
                }
                Err(refusal) => said.push((Level::Warn, refusal)),
            }
        }
        said
    }

    /// Detaches everywhere; what is wanted stays wanted.
    pub fn let_go(&mut self, probe: &mut NginxProbe, reaper: &mut Reaper) {
        self.looks.clear();
        if !self.attached.is_empty() {
            self.ending = true;
            reaper.end(self.attached.drain(..).map(|(_, attachment)| attachment).collect());
            probe.set_lua_attached(false);
        }
    }

    /// The class's cost so far, while it is attached and requests come.
    pub fn cost(&mut self, probe: &NginxProbe, requests: u64, calls: u64) -> Option<String> {
        let before = std::mem::replace(&mut self.requests_before, requests);
        (!self.attached.is_empty() && requests > before).then(|| self.describe(probe, requests, calls))
    }

    #[allow(clippy::cast_precision_loss)] // figures for people
    fn describe(&self, probe: &NginxProbe, requests: u64, calls: u64) -> String {
        let (requests, calls) = (requests - self.since.0.min(requests), calls - self.since.1.min(calls));
        let runs = probe.run_times().into_iter().filter(|(name, ..)| name.contains("lua"));
        let (ns, runs) = runs.fold((0, 0), |(ns, runs), (_, more_ns, more)| (ns + more_ns, runs + more));
        let timed = if runs > 0 {
            format!(", in which our programs run {:.2} µs each", ns as f64 / 1000.0 / runs as f64)
        } else {
            " (sysctl kernel.bpf_stats_enabled=1 tells how long our programs run in them)".to_owned()
        };
        let each = 2.0 * calls as f64 / requests.max(1) as f64;
        format!("Lua probes: {each:.1} traps a request or more, over {requests} requests{timed}")
    }
}

fn attach(
    probe: &mut NginxProbe,
    root: &ProcRoot,
    pid: u32,
    module: &Path,
    sites: &[lua::Site],
) -> Result<Attachment, String> {
    if !kernel::has_cookies() {
        return Err(
            "Lua phases cannot be told apart on this kernel: Linux 5.15 or newer is needed".to_owned()
        );
    }
    // Since 6.11 a return probe enters the kernel by a system call of its own, which a filter may answer by killing.
    if kernel::version() >= (6, 11) && root.has_seccomp_filter(pid) != Some(false) {
        return Err(format!(
            "Lua phases of process {pid} are not probed: it runs under a seccomp filter, which on this kernel could kill it for a return probe. To measure, run the gateway without one for a while (in Kubernetes: seccompProfile type Unconfined)"
        ));
    }
    probe.attach_lua(module, sites).map_err(|error| error.to_string())
}
