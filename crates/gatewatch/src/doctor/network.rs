//! The doctor's part on packets and connections.

use gatewatch_capture::{
    connection::ConnectionProbe,
    kernel::{self, Capability},
    network::{NetworkProbe, Settings, instance_directory},
    pin::instances,
};
use gatewatch_config::{Config, Ingress};
use gatewatch_target::interfaces::{Points, interfaces};

use super::{Mark, Report};

pub(super) fn report(report: &mut Report, config: &Config) {
    report.title("Packets and connections");
    if !config.network.enabled {
        return report.add(Mark::Good, "network.enabled", "false: they are not to be watched");
    }
    if !Capability::NetAdmin.held() {
        let text = "missing: packets and connections will not be watched, requests will. Add it to the container's capabilities, or set network.enabled: false";
        return report.add(Mark::Less, Capability::NetAdmin.name(), text);
    }
    report.add(Mark::Good, Capability::NetAdmin.name(), "attaches programs to network interfaces");
    if let Some(who) = crate::network::lock::holder() {
        let text =
            format!("{who} counts in this network namespace already: a second agent needs --no-network");
        report.add(Mark::Less, "another agent", &text);
    }
    hooks(report, config);
    pins(report, config);
    memory(report, config);
}

fn hooks(report: &mut Report, config: &Config) {
    let tc = if kernel::has_tcx() { "TCX" } else { "TC's clsact qdisc (TCX needs Linux 6.6)" };
    let found = match interfaces() {
        Ok(found) => found,
        Err(error) => return report.add(Mark::Bad, "interfaces", &format!("cannot be listed: {error}")),
    };
    for interface in found {
        let wants_xdp = match config.network.ingress {
            Ingress::Auto => interface.hardware,
            Ingress::Xdp => true,
            Ingress::Tc => false,
        };
        let into = match (wants_xdp, kernel::has_xdp()) {
            (true, true) => "XDP where its driver takes it, else TC".to_owned(),
            (true, false) => format!("{tc}, for XDP needs Linux 5.18 here"),
            (false, _) => tc.to_owned(),
        };
        let text = match interface.points {
            Points::Both => format!("in by {into}; out by {tc}"),
            Points::EgressOnly => {
                format!("each packet once, as it goes out, by {tc}: what comes in went out of this namespace")
            }
            Points::Nowhere => "not itself: it stands on another, where its packets are counted".to_owned(),
        };
        report.add(Mark::Good, &interface.name, &text);
    }
}

fn pins(report: &mut Report, config: &Config) {
    let root = &config.network.pin_dir;
    if !config.network.pin {
        return report.add(Mark::Less, "network.pin", "false: counting ends with the agent");
    }
    if !super::is_in_bpf_fs(root) {
        let text = format!(
            "{} is not in a BPF file system: counting ends with the agent. `gatewatch doctor --prepare` mounts one at {fs} where there is none; choose a network.pin_dir below it",
            root.display(),
            fs = super::BPF_FS
        );
        return report.add(Mark::Less, "pins", &text);
    }
    let ours = instance_directory(root);
    let text = match instances(root).map(|found| found.into_iter().find(|it| it.directory == ours)) {
        Ok(Some(instance)) => format!(
            "{}: {} attachments count, and the next agent takes them over; `gatewatch unload --pin-dir {}` removes them",
            ours.display(),
            instance.live_links,
            root.display()
        ),
        Ok(None) => format!("{}: nothing yet", ours.display()),
        Err(error) => {
            let text = format!(
                "{}: {error}. Its owner is who ran the agent: run doctor as that user",
                root.display()
            );
            return report.add(Mark::Less, "pins", &text);
        }
    };
    report.add(Mark::Good, "pins", &text);
}

/// Loads the programs, attached to nothing, and asks what their maps cost.
fn memory(report: &mut Report, config: &Config) {
    let settings = Settings { max_flows: config.network.max_connections, pin: None };
    let maps = match NetworkProbe::load(&settings) {
        Ok((probe, _)) => {
            report.add(Mark::Good, "packet programs", "the kernel takes them");
            probe.memory()
        }
        Err(error) => return report.add(Mark::Less, "packet programs", &error.to_string()),
    };
    let mut all = maps;
    match ConnectionProbe::load_only() {
        Ok(probe) => {
            report.add(Mark::Good, "connection programs", "the kernel takes them");
            all.extend(probe.memory());
        }
        Err(error) => report.add(Mark::Less, "connection programs", &error.to_string()),
    }
    all.sort_by_key(|map| std::cmp::Reverse(map.bytes));
    let total: u64 = all.iter().map(|map| map.bytes).sum();
    let kib = |bytes: u64| format!("{} KiB", bytes.div_ceil(1024));
    let largest: Vec<String> =
        all.iter().take(4).map(|map| format!("{} {}", map.name, kib(map.bytes))).collect();
    let text = format!("{} of kernel memory: {} …", kib(total), largest.join(", "));
    report.add(Mark::Good, "maps", &text);
}
