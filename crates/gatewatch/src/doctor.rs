//! `gatewatch doctor`: what this kernel, these rights and these gateways allow, and what to do about each lack.

mod network;
pub mod node;

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use gatewatch_capture::{
    CaptureError, clock,
    kernel::{self, Capability},
    nginx::{NginxProbe, Sites},
};
use gatewatch_config::Config;
use gatewatch_decode::nginx::request;
use gatewatch_export::log::plain;
use gatewatch_target::{
    binary::{Binary, FileKey},
    process::{GatewayProcess, ProcRoot},
};

use crate::{
    gateway::proof::{Outcome, Watched},
    settings,
};

/// One finding.
enum Mark {
    Good,
    /// Works, with less.
    Less,
    /// Does not work.
    Bad,
}

#[derive(Default)]
struct Report {
    text: String,
    bad: usize,
}

impl Report {
    fn title(&mut self, title: &str) {
        let _infallible = writeln!(self.text, "\n{title}");
    }

    fn add(&mut self, mark: Mark, what: &str, detail: &str) {
        let sign = match mark {
            Mark::Good => "ok  ",
            Mark::Less => "less",
            Mark::Bad => {
                self.bad += 1;
                "BAD "
            }
        };
        let _infallible = writeln!(self.text, "  {sign}  {what:<22} {}", plain(detail));
    }

    /// With the verdict on `command`; whether it would work.
    fn print(&self, command: &str) -> bool {
        let verdict = match self.bad {
            0 => format!("{command} will work here."),
            n => format!("{n} thing(s) marked BAD stand in the way of `{command}`."),
        };
        crate::say(&format!("{}\n\n{verdict}", self.text.trim()));
        self.bad == 0
    }
}

/// Where BPF file systems are mounted by custom.
const BPF_FS: &str = "/sys/fs/bpf";

/// Mounts a BPF file system where there is none.
///
/// # Errors
/// When the kernel refuses.
pub fn prepare() -> Result<()> {
    use rustix::mount::{MountFlags, mount};
    if is_mounted("bpf") {
        crate::say("prepare: a BPF file system is mounted already");
        return Ok(());
    }
    mount("bpf", BPF_FS, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None).with_context(|| {
        format!(
            "cannot mount a BPF file system at {BPF_FS}: it needs CAP_SYS_ADMIN and a mounted /sys. On the host: `mount -t bpf bpf {BPF_FS}`; or set network.pin: false"
        )
    })?;
    crate::say(&format!("prepare: mounted a BPF file system at {BPF_FS}"));
    Ok(())
}

/// The nearest directory above that exists is in a BPF file system.
fn is_in_bpf_fs(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let kind_at = |path: &Path| {
        let of = |line: &str| {
            let mut words = line.split(' ').skip(1);
            (words.next()? == path.to_str()?).then(|| words.next().map(str::to_owned))?
        };
        mounts.lines().rev().find_map(of)
    };
    path.ancestors().find_map(kind_at).is_some_and(|kind| kind == "bpf")
}

fn is_mounted(kind: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind))
}

/// Prints the report; whether `gatewatch gateway` would work. Layouts are proven on live requests that come in
/// within `patience`.
pub fn run(config: &Config, patience: Duration) -> bool {
    let mut report = Report::default();
    machine(&mut report);
    mounts(&mut report);
    rights(&mut report);
    network::report(&mut report, config);
    gateways(&mut report, config, patience);
    report.print("gatewatch gateway")
}

fn machine(report: &mut Report) {
    report.title("Kernel");
    let (major, minor) = kernel::version();
    let found = format!("Linux {major}.{minor}");
    match (major, minor) {
        v if v >= (6, 6) => report.add(Mark::Good, "version", &format!("{found}: everything")),
        v if v >= (5, 15) => {
            let text = format!("{found}: uprobes need CAP_SYS_ADMIN before 6.6");
            report.add(Mark::Less, "version", &text);
        }
        v if v >= (5, 8) => {
            let text = format!(
                "{found}: uprobes need CAP_SYS_ADMIN before 6.6; no Lua phases, and one gateway binary at a time, before 5.15"
            );
            report.add(Mark::Less, "version", &text);
        }
        _ => report.add(
            Mark::Bad,
            "version",
            &format!("{found}: gatewatch needs 5.8 or newer. Upgrade the kernel"),
        ),
    }
    if kernel::has_btf() {
        report.add(Mark::Good, "BTF", "/sys/kernel/btf/vmlinux");
    } else {
        let text = "/sys/kernel/btf/vmlinux is missing: mount sysfs, or use a kernel built with CONFIG_DEBUG_INFO_BTF=y";
        report.add(Mark::Bad, "BTF", text);
    }
    match kernel::lockdown().as_deref() {
        Some("confidentiality") => {
            let text = "confidentiality: the kernel lets no program read memory. Boot with lockdown=integrity or none";
            report.add(Mark::Bad, "lockdown", text);
        }
        Some(mode) => report.add(Mark::Good, "lockdown", &format!("{mode}: no hindrance")),
        None => report.add(Mark::Good, "lockdown", "not active (or securityfs is not mounted)"),
    }
    let stats = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").unwrap_or_default();
    if stats.trim() == "1" {
        report.add(Mark::Good, "bpf_stats_enabled", "1: gatewatch_program_run_seconds_total is counted");
    } else {
        let text = "0: gatewatch_program_run_seconds_total stays 0. `sysctl kernel.bpf_stats_enabled=1` counts it, for some 0.05 µs a run";
        report.add(Mark::Less, "bpf_stats_enabled", text);
    }
}

fn mounts(report: &mut Report) {
    for (kind, path, need) in [
        ("tracefs", "/sys/kernel/tracing", "not needed: uprobes are attached by perf events or links"),
        (
            "bpf",
            BPF_FS,
            "needed only for counting to outlive the agent: `gatewatch doctor --prepare` mounts it",
        ),
    ] {
        let text =
            if is_mounted(kind) { format!("{path} is mounted") } else { format!("not mounted; {need}") };
        report.add(Mark::Good, kind, &text);
    }
}

fn rights(report: &mut Report) {
    report.title("Rights");
    let missing = kernel::missing_capabilities();
    let need = |capability: Capability| match capability {
        Capability::Bpf => "loads the programs and their maps",
        Capability::NetAdmin | Capability::NetRaw => "attaches programs to network interfaces",
        Capability::Perfmon => "lets them read memory and be attached",
        Capability::SysAdmin => "attaches uprobes on kernels before 6.6",
        Capability::SysPtrace => {
            "opens the gateway's binary, map and counters through /proc, where it runs as another user"
        }
    };
    for capability in [Capability::Bpf, Capability::Perfmon, Capability::SysAdmin, Capability::SysPtrace] {
        let name = capability.name();
        if capability.held() {
            report.add(Mark::Good, name, need(capability));
        } else if missing.contains(&capability) {
            report.add(
                Mark::Bad,
                name,
                &format!(
                    "missing: it {}. Add it to the container's capabilities, or run as root",
                    need(capability)
                ),
            );
        } else {
            report.add(Mark::Good, name, "not held, and not needed on this kernel");
        }
    }
}

fn gateways(report: &mut Report, config: &Config, patience: Duration) {
    let root = ProcRoot::default();
    let names = settings::process_names(config);
    report.title(&format!("Gateways (processes named {}, in {})", names.join(" or "), root.path().display()));
    let found = root.gateways(&names);
    if found.is_empty() {
        let text = "none runs now. gatewatch attaches as soon as one begins. In a pod, set shareProcessNamespace: true; other names are set by KONG_PROCESS_NAME";
        report.add(Mark::Less, "processes", text);
        return;
    }
    let probe = NginxProbe::load(settings::capture(config, &root));
    let probe = match probe {
        Ok(probe) => Some(probe),
        Err(error) => {
            report.add(Mark::Bad, "programs", &error.to_string());
            None
        }
    };
    let mut watched = Vec::new();
    for master in found.iter().filter(|process| !process.is_worker) {
        gateway(report, config, &root, master, probe.as_ref(), &mut watched);
    }
    if let Some(probe) = probe {
        prove(&probe, &mut watched, patience);
        for (name, watched) in &watched {
            let source = watched.describe();
            if watched.is_proven() {
                report.add(Mark::Good, name, &format!("layout proven by live requests: {source}"));
            } else if watched.candidate().is_none() {
                report.add(Mark::Bad, name, "no known layout fits: install the binary's debug symbols, or add a table row (docs/layouts.md)");
            } else {
                let text = format!(
                    "layout not proven yet, for want of requests in {} s: {source}. Send a request and run doctor again; gatewatch gateway proves it by itself",
                    patience.as_secs()
                );
                report.add(Mark::Less, name, &text);
            }
        }
    }
}

fn gateway(
    report: &mut Report,
    config: &Config,
    root: &ProcRoot,
    master: &GatewayProcess,
    probe: Option<&NginxProbe>,
    watched: &mut Vec<(String, Watched)>,
) {
    let exe = root.exe(master.pid);
    let name = root.instance_name(master, &settings::instance_names(config));
    let known = FileKey::of(&exe).ok().is_some_and(|key| watched.iter().any(|(_, w)| w.binary.key == key));
    let shown = fs::read_link(&exe).unwrap_or_else(|_| exe.clone());
    let binary = match Binary::inspect(&exe, Path::new(&config.gateway.debug_dir)) {
        Ok(binary) => Arc::new(binary),
        Err(error) => return report.add(Mark::Bad, &name, &error.to_string()),
    };
    let text = format!("process {}, {} {} ({})", master.pid, binary.product, binary.version, shown.display());
    report.add(Mark::Good, &name, &text);
    for remark in &binary.remarks {
        report.add(Mark::Less, &name, remark);
    }
    if binary.counters.len() < 3 {
        let text = "built without stub_status: its own count of requests is not to be had, nor the coverage. Set gateway.status_url if it has another";
        report.add(Mark::Less, &name, text);
    }
    if known {
        return report.add(Mark::Good, &name, "runs the same binary as one above");
    }
    let (Some(probe), Some(first)) = (probe, binary.candidates.first()) else { return };
    let Some(end) = binary.functions.get("ngx_http_free_request").copied() else { return };
    let Ok(id) = u16::try_from(watched.len()) else { return };
    let file = match fs::File::open(&exe) {
        Ok(file) => file,
        Err(error) => return report.add(Mark::Bad, &name, &format!("its binary cannot be opened: {error}")),
    };
    let attached =
        probe.set_layout(id, &first.layout).and_then(|()| probe.attach(&exe, Sites { start: None, end }, id));
    match attached {
        Ok(attachment) => watched.push((name, Watched::new(binary, file, attachment))),
        Err(error @ CaptureError::OneBinary) => report.add(Mark::Less, &name, &error.to_string()),
        Err(error) => report.add(Mark::Bad, &name, &error.to_string()),
    }
}

/// Waits for live requests, and tries candidate after candidate on them.
fn prove(probe: &NginxProbe, watched: &mut [(String, Watched)], patience: Duration) {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline
        && watched.iter().any(|(_, watched)| !watched.is_proven() && watched.candidate().is_some())
    {
        probe.wait(Duration::from_millis(20), None);
        let mut refuted = Vec::new();
        probe.drain(10_000, |bytes| {
            let Some(record) = gatewatch_capture::nginx::RawRecord::new(bytes) else { return };
            let id = record.head.layout;
            let Some((_, watched)) = watched.get_mut(usize::from(id)) else { return };
            if let Outcome::Refuted { .. } = watched.judge(bytes, &request(bytes), clock::realtime()) {
                refuted.push(id);
            }
        });
        for id in refuted {
            let candidate = watched.get(usize::from(id)).and_then(|(_, watched)| watched.candidate());
            // A map of a loaded probe can be written; if not, the next record says so again.
            let _written = candidate.map(|candidate| probe.set_layout(id, &candidate.layout));
        }
    }
}
