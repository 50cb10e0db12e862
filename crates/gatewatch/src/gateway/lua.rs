//! The class of Lua probes: attached while wanted, to each gateway that has Lua.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use gatewatch_capture::{
    kernel,
    nginx::{Attachment, NginxProbe},
};
use gatewatch_export::log::Level;
use gatewatch_target::{binary::FileKey, lua, process::ProcRoot};

use super::proof::Watched;

/// Looks at a gateway's memory map before it is said to have no Lua: nginx loads modules a while after it begins.
const LOOKS: u32 = 40;

/// The class, wanted or not.
pub struct LuaProbes {
    wanted: Arc<AtomicBool>,
    attached: Vec<(FileKey, Attachment)>,
    looks: Vec<(FileKey, u32)>,
    runs_before: u64,
}

impl LuaProbes {
    /// `wanted` may change at any time.
    pub fn new(wanted: Arc<AtomicBool>) -> Self {
        Self { wanted, attached: Vec::new(), looks: Vec::new(), runs_before: 0 }
    }

    /// Brings what is attached in line with what is wanted; what there is to say about it.
    pub fn tick(
        &mut self,
        probe: &mut NginxProbe,
        root: &ProcRoot,
        watched: &[Option<Watched>],
        requests: u64,
    ) -> Vec<(Level, String)> {
        let mut said = Vec::new();
        if !self.wanted.load(Ordering::Relaxed) {
            if !self.attached.is_empty() {
                said.push((
                    Level::Info,
                    format!("Lua phases are no longer probed; {}", cost(probe, requests)),
                ));
            }
            if !self.attached.is_empty() || !self.looks.is_empty() {
                self.attached.clear();
                self.looks.clear();
                probe.set_lua_attached(false);
            }
            return said;
        }
        for binary in watched.iter().flatten() {
            let key = binary.binary.key;
            if self.attached.iter().any(|(known, _)| *known == key) {
                continue;
            }
            let looks = match self.looks.iter_mut().find(|(known, _)| *known == key) {
                Some((_, looks)) => looks,
                None => {
                    self.looks.push((key, 0));
                    continue;
                }
            };
            if *looks > LOOKS {
                continue;
            }
            *looks += 1;
            let refusal = match attach(probe, root, binary.pid) {
                Ok(Some(attachment)) => {
                    let text = "Lua phases are probed: two traps more for each phase a request runs (send SIGUSR2 to switch it off)";
                    said.push((Level::Info, text.to_owned()));
                    self.attached.push((key, attachment));
                    continue;
                }
                Ok(None) if *looks <= LOOKS => continue,
                Ok(None) => format!("process {} has no Lua module: no phases to probe", binary.pid),
                Err(refusal) => refusal,
            };
            *looks = LOOKS + 1;
            said.push((Level::Warn, refusal));
        }
        self.attached.retain(|(key, _)| watched.iter().flatten().any(|watched| watched.binary.key == *key));
        said
    }

    /// The class's cost so far, while it is attached.
    pub fn cost(&mut self, probe: &NginxProbe, requests: u64) -> Option<String> {
        let since = requests - std::mem::replace(&mut self.runs_before, requests).min(requests);
        (!self.attached.is_empty() && since > 0).then(|| cost(probe, requests))
    }
}

fn attach(probe: &mut NginxProbe, root: &ProcRoot, pid: u32) -> Result<Option<Attachment>, String> {
    if !kernel::has_cookies() {
        return Err(
            "Lua phases cannot be told apart on this kernel: Linux 5.15 or newer is needed".to_owned()
        );
    }
    // Since 6.11 a return probe enters the kernel by a system call of its own, which a filter may answer by killing.
    if kernel::version() >= (6, 11) && root.has_seccomp_filter(pid) != Some(false) {
        return Err(format!(
            "Lua phases of process {pid} are not probed: it runs under a seccomp filter, which on this kernel could kill it for a return probe. Run the gateway's container with a profile that allows `uretprobe`, or unconfined, to measure"
        ));
    }
    let Some((module, sites)) = lua::find(root, pid) else { return Ok(None) };
    probe.attach_lua(&module, &sites).map(Some).map_err(|error| error.to_string())
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn cost(probe: &NginxProbe, requests: u64) -> String {
    let calls: u64 = probe.workers().values().map(|worker| worker.lua_calls.iter().sum::<u64>()).sum();
    let per_request = calls as f64 / requests.max(1) as f64;
    let own: u64 =
        probe.run_times().iter().filter(|(name, ..)| name.contains("lua")).map(|(_, ns, _)| ns).sum();
    let timed = if own > 0 {
        format!(
            ", of which our programs ran {:.2} µs a request",
            own as f64 / 1000.0 / requests.max(1) as f64
        )
    } else {
        String::new()
    };
    format!("Lua probes: {:.1} traps a request ({calls} runs of phases in all){timed}", 2.0 * per_request)
}
