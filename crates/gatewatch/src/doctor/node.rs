//! The doctor's part on `gatewatch node`.

use gatewatch_capture::{
    attempt::{AttemptProbe, Tier},
    hold::{HoldProbe, Limits},
    kernel::{self, Capability},
    socket::{self, SocketProbe},
};
use gatewatch_config::{Config, Mode};
use gatewatch_identity::{
    change::Kind,
    watch::access::{self, Access, Presence},
};
use gatewatch_target::process::ProcRoot;

use super::{Mark, Report};
use crate::node::watch_settings;

/// Prints the report; whether `gatewatch node` would work.
pub fn run(config: &Config) -> bool {
    let mut report = Report::default();
    super::machine(&mut report);
    rights(&mut report, config, Capability::held);
    namespaces(&mut report);
    attempts(&mut report, config);
    requests(&mut report, config);
    hold(&mut report, config);
    report.title("Kubernetes");
    if config.node.mode == Mode::Local {
        report.add(Mark::Good, "MODE", "local: no cluster is asked, addresses have no names");
    } else {
        let settings = watch_settings(config);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let asked =
            runtime.map_err(|error| error.to_string()).and_then(|it| it.block_on(access::ask(&settings)));
        cluster(&mut report, &asked);
    }
    report.print("gatewatch node")
}

/// What each capability is for, and what is lost without it.
fn rights(report: &mut Report, config: &Config, held: impl Fn(Capability) -> bool) {
    report.title("Rights");
    let node = &config.node;
    let holds = node.hold.enabled && node.mode == Mode::Cluster;
    let all = held(Capability::SysAdmin);
    let some = node.attempts.enabled || node.requests.enabled || holds;
    for (capability, needed, implied, lost, what) in [
        (Capability::Bpf, some, all, Mark::Bad, "loads the programs and their maps"),
        (Capability::Perfmon, some, all, Mark::Bad, "lets them read memory and be attached"),
        (
            Capability::NetAdmin,
            node.attempts.enabled || holds,
            false,
            if node.attempts.enabled { Mark::Bad } else { Mark::Less },
            "attaches to control groups (attempts) and interfaces (the first request's hold)",
        ),
        (Capability::NetRaw, holds, false, Mark::Less, "sends what the first request's hold has to send"),
        (
            Capability::SysPtrace,
            node.requests.enabled,
            false,
            Mark::Bad,
            "looks into other processes, whose requests are read",
        ),
        (
            Capability::SysAdmin,
            some && !kernel::has_uprobe_multi(),
            false,
            Mark::Bad,
            "lets the programs be attached on kernels before 6.6",
        ),
    ] {
        let name = capability.name();
        if held(capability) {
            report.add(Mark::Good, name, what);
        } else if !needed || implied {
            report.add(Mark::Good, name, "not held, and not needed as it is configured");
        } else {
            let text = format!(
                "missing: it {what}. Add it to the container's capabilities (user 0: others lose them), or run as root"
            );
            report.add(lost, name, &text);
        }
    }
}

/// Pods are outside of the agent's own container.
fn namespaces(report: &mut Report) {
    report.title("Place");
    let inode = |path: String| std::fs::read_link(path).ok();
    for (kind, field, lost) in [
        ("net", "hostNetwork: true", "pods' interfaces are not there, and first requests are not held"),
        ("pid", "hostPID: true", "processes of other containers are not seen"),
    ] {
        let what = format!("{kind} namespace");
        // The machine's first process, unless it is that of a container.
        match (inode(format!("/proc/1/ns/{kind}")), inode(format!("/proc/self/ns/{kind}"))) {
            (Some(first), Some(own)) if first == own => {
                report.add(Mark::Good, &what, "that of process 1; in a container that wants hostPID: true");
            }
            (Some(_), Some(_)) => {
                let text = format!("not that of process 1: {lost}. Set {field} on the pod");
                report.add(Mark::Less, &what, &text);
            }
            (None, _) | (_, None) => {
                let text = format!(
                    "cannot be compared with that of process 1: /proc/1 cannot be read. If this is not the machine's own, {lost}: set {field} on the pod"
                );
                report.add(Mark::Less, &what, &text);
            }
        }
    }
}

fn attempts(report: &mut Report, config: &Config) {
    report.title("Attempts to connect");
    if !config.node.attempts.enabled {
        return report.add(Mark::Good, "ENABLE_L4", "false: they are not to be seen");
    }
    // Attached for a moment: what the kernel takes is what counts.
    let probe = match AttemptProbe::load(ProcRoot::new("/proc").pid_namespace()) {
        Ok(probe) => probe,
        Err(error) => return report.add(Mark::Bad, "programs", &error.to_string()),
    };
    let (mark, text) = match probe.tier() {
        Tier::First => (Mark::Good, "cgroup/connect, before all others' programs".to_owned()),
        Tier::Alone => (Mark::Good, "cgroup/connect, where no other program stands".to_owned()),
        Tier::SystemCall => (
            Mark::Good,
            "cgroup/connect, and the system call because others' programs stand before".to_owned(),
        ),
        Tier::Behind => (
            Mark::Less,
            format!(
                "cgroup/connect behind others' programs, so that addresses are told as those translated them: mount tracefs at /sys/kernel/tracing ({})",
                probe.why()
            ),
        ),
        Tier::Socket => (
            Mark::Less,
            format!(
                "socket states only, so that attempts which fail before a packet is sent are not seen: {}",
                probe.why()
            ),
        ),
    };
    report.add(mark, probe.tier().as_str(), &text);
}

fn requests(report: &mut Report, config: &Config) {
    report.title("HTTP requests");
    let wanted = &config.node.requests;
    if !wanted.enabled {
        return report.add(Mark::Good, "ENABLE_L7_HTTP", "false: they are not to be read");
    }
    let settings = socket::Settings { servers_only: true, ..socket::Settings::default() };
    let attached = SocketProbe::load(&settings).and_then(|mut probe| probe.attach());
    if let Err(error) = attached {
        return report.add(Mark::Bad, "programs", &error.to_string());
    }
    if kernel::has_socket_tracepoints() {
        let text = "tracepoints sock_send_length and sock_recv_length: whichever call moves the bytes";
        report.add(Mark::Good, "programs", text);
    } else {
        let text = "system calls, for want of the tracepoints sock_send_length and sock_recv_length (Linux 6.4): they cost more, and what is not moved by a system call is not seen";
        report.add(Mark::Less, "programs", text);
    }
    match (wanted.tls, kernel::has_cookies()) {
        (false, _) => {
            report.add(Mark::Good, "node.requests.tls", "false: what is encrypted is not to be read")
        }
        (true, true) => report.add(Mark::Good, "TLS", "read in the libraries that encrypt"),
        (true, false) => {
            report.add(
                Mark::Less,
                "TLS",
                "not read: Linux 5.15 is needed. Upgrade the kernel, or set node.requests.tls: false",
            );
        }
    }
}

fn hold(report: &mut Report, config: &Config) {
    report.title("The first request's hold");
    if !config.node.hold.enabled || config.node.mode == Mode::Local {
        return report.add(Mark::Good, "node.hold.enabled", "false, or there is no cluster: none is held");
    }
    if let Err(error) = HoldProbe::load(Limits { attempts: 64, per_pod: 64 }) {
        return report.add(Mark::Less, "programs", &error.to_string());
    }
    report.add(Mark::Good, "programs", "the kernel takes them");
    let tc = match kernel::has_tcx() {
        true => "TCX at the host's end of each pod's veth pair: they end with the agent",
        false => "TC's clsact qdisc at the host's end of each pod's veth pair (TCX needs Linux 6.6)",
    };
    report.add(Mark::Good, "hook", tc);
    match kernel::has_live_frames() {
        true => report.add(Mark::Good, "replay", "SYNs are put in again as XDP live frames"),
        false => {
            let text = "SYNs cannot be put in again before Linux 5.18: a held client connects at its own next SYN, after one, three, seven … seconds";
            report.add(Mark::Less, "replay", text);
        }
    }
}

/// What the API server said.
fn cluster(report: &mut Report, asked: &Result<Access, String>) {
    let access = match asked {
        Ok(access) => access,
        Err(why) => {
            let text = format!(
                "no way to it: {why}. In a pod it is found by its service account (automountServiceAccountToken, network policies); elsewhere by KUBECONFIG. Without a cluster: MODE=local"
            );
            return report.add(Mark::Bad, "API server", &text);
        }
    };
    report.add(Mark::Good, "API server", &format!("{}, {}", access.server, access.version));
    let of_one = access.namespace.as_ref().map(|(name, _)| name.as_str());
    for right in &access.rights {
        let what = format!("{} {}", right.verb, right.kind.resource());
        let role = of_one.map_or("ClusterRole".to_owned(), |name| format!("Role in namespace {name}"));
        match (right.granted, right.kind, of_one) {
            (true, ..) => report.add(Mark::Good, &what, "granted"),
            (false, Kind::Node, Some(_)) => {
                let text =
                    "not granted, as is usual where one namespace is watched: node ports have no names";
                report.add(Mark::Less, &what, text);
            }
            (false, ..) => {
                let text = format!("not granted: add it to the {role} of this agent's service account");
                report.add(Mark::Bad, &what, &text);
            }
        }
    }
    if let Some((name, presence)) = &access.namespace {
        let (mark, text) = match presence {
            Presence::There => (Mark::Good, format!("{name}: is there")),
            Presence::Missing => {
                (Mark::Bad, format!("{name}: there is none of that name. Create it, or mend WATCH_NAMESPACE"))
            }
            Presence::Untold => (
                Mark::Good,
                format!(
                    "{name}: whether it exists the role does not let us ask, nor is that needed to watch it"
                ),
            ),
        };
        report.add(mark, "WATCH_NAMESPACE", &text);
    }
}

#[cfg(test)]
mod tests;
