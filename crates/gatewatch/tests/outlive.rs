//! Counting outlives the agent, mends itself, and goes when it is told to.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use common::{
    AgentSetup, Metrics, SOON, Turn,
    net::{HERE, Pod, adds_up, agent, frames, ip, packets, sink},
    run, signal,
};
use rustix::process::Signal;

/// A directory for pins, removed with what is in it.
struct Pins(PathBuf);

impl Pins {
    fn new(name: &str) -> Self {
        // What it says of the gateways of other tests does not matter here.
        let prepare = ["doctor", "--prepare", "--patience", "0"];
        let told = Command::new(env!("CARGO_BIN_EXE_gatewatch")).args(prepare).output().unwrap();
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        assert!(mounts.contains(" /sys/fs/bpf bpf "), "{}", common::text(&told.stdout));
        Self(Path::new("/sys/fs/bpf").join(format!("gwt-{name}-{}", std::process::id())))
    }

    fn config(&self) -> String {
        format!("network: {{pin_dir: {}}}", self.0.display())
    }

    fn unload(&self) -> String {
        run(env!("CARGO_BIN_EXE_gatewatch"), &["unload", "--all", "--pin-dir", self.0.to_str().unwrap()])
    }

    /// All pinned links, those of packets that come in first.
    fn links(&self) -> Vec<PathBuf> {
        fn collect(directory: &Path, to: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    collect(&entry.path(), to);
                } else if entry.file_name().to_str().unwrap().starts_with("link_") {
                    to.push(entry.path());
                }
            }
        }
        let mut links = Vec::new();
        collect(&self.0, &mut links);
        links.sort();
        links
    }

    fn files(&self) -> usize {
        fn count(directory: &Path) -> usize {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
        }
        count(&self.0)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let unload = ["unload", "--all", "--pin-dir", self.0.to_str().unwrap()];
        let _gone = Command::new(env!("CARGO_BIN_EXE_gatewatch")).args(unload).output();
        let _gone = std::fs::remove_dir(&self.0);
    }
}

const IN: [(&str, &str); 3] = [("interface", "eth0"), ("direction", "ingress"), ("protocol", "udp")];

fn survives(ingress: &str) {
    let _turn = Turn::alone();
    let pod = Pod::new(&format!("crash{ingress}"));
    let _sink = sink();
    let pins = Pins::new(&format!("crash{ingress}"));
    let config = format!("network: {{pin_dir: {}, ingress: {ingress}}}", pins.0.display());
    let first = agent("gw-crash", &config).start();
    first.wait_attached("eth0");
    let listener = std::net::TcpListener::bind((HERE, 0)).unwrap();
    let kept: Vec<std::net::TcpStream> =
        (0..10).map(|_| std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
    let n = 150_000;
    let mut sender = pod.load(n);
    let begun = |metrics: &Metrics| packets(metrics, &IN).0 > 1000;
    let before = first.wait_metrics(SOON, "the load has begun", begun);
    assert!(packets(&before, &IN).0 < u64::from(n));
    signal(first.pid(), Signal::KILL);
    drop(first);
    std::thread::sleep(Duration::from_secs(5));
    assert!(pins.files() > 10, "pinned");
    let second = agent("gw-crash", &config).start();
    second.wait_said("taken over");
    assert!(sender.wait().unwrap().success());
    let all = |metrics: &Metrics| packets(metrics, &IN).0 >= u64::from(n);
    let metrics = second.wait_metrics(SOON, "all are counted", all);
    assert_eq!(packets(&metrics, &IN), (u64::from(n), u64::from(n) * 142), "{}", metrics.network());
    adds_up(&second);
    let absent = metrics.select("gatewatch_agent_absent_seconds_total", &[]).next().unwrap().value;
    assert!((5.0..15.0).contains(&absent), "requests went unwatched for {absent} s");
    let opened = metrics.sum("gatewatch_connections_opened_total", &[("protocol", "tcp")]);
    assert!(opened >= 10, "TCP's counts go on: {}", metrics.network());
    let age = second.connections().iter().filter(|row| row.get("age_seconds").is_some()).count();
    assert!(age >= 10, "the first agent saw them begin");
    drop(kept);
}

#[test]
fn counting_survives_kill_by_tc() {
    survives("tc");
}

#[test]
fn counting_survives_kill_by_xdp() {
    survives("xdp");
}

#[test]
fn unload_removes_everything() {
    let _turn = Turn::shared();
    let pod = Pod::new("unload");
    let socket = sink();
    let pins = Pins::new("unload");
    let mut first = agent("gw-unload", &pins.config()).start();
    first.wait_attached("eth0");
    assert!(first.end().success(), "SIGTERM");
    assert!(pins.files() > 10, "another agent may come");
    let programs: Vec<u64> =
        pins.links().iter().map(|link| pinned(link)["prog_id"].as_u64().unwrap()).collect();
    assert!(programs.len() >= 8, "{programs:?}");
    pod.receive(&vec![frames::ip(&frames::ipv4(HERE, HERE, 17, &[], 0, 1, &frames::udp(1, 2, b"x"))); 10]);
    let said = pins.unload();
    assert!(said.contains("removed"), "{said}");
    assert_eq!(pins.files(), 0);
    let is_gone = |id: &u64| {
        let shown = Command::new("bpftool").args(["prog", "show", "id", &id.to_string()]).output();
        !shown.unwrap().status.success()
    };
    common::wait_until(SOON, "the programs are gone", || programs.iter().all(is_gone));
    assert!(pins.unload().contains("nothing is pinned"));

    // A person who has seen enough leaves nothing behind.
    let mut second = agent("gw-unload", &pins.config()).start();
    second.wait_attached("eth0");
    signal(second.pid(), Signal::INT);
    assert!(second.wait_end().success());
    assert_eq!(pins.files(), 0);
    // What an agent left for a network namespace that is gone, the next one anywhere removes.
    let mut left = agent("gw-unload", &pins.config()).start();
    left.wait_attached("eth0");
    left.end();
    assert!(pins.files() > 10);
    drop((pod, socket));
    let _pod = Pod::new("unload2");
    let mut third = agent("gw-unload", &pins.config()).args(&["--duration", "4"]).start();
    third.wait_said("its network namespace is gone; removed");
    assert!(third.wait_end().success());
    assert_eq!(pins.files(), 0);
}

#[test]
fn two_agents_refuse_each_other() {
    let _turn = Turn::shared();
    let _pod = Pod::new("two");
    let first = agent("gw-two", "network: {pin: false}").start();
    first.wait_attached("eth0");
    let mut second = agent("gw-two-b", "network: {pin: false}").spawn();
    assert_eq!(second.wait_end().code(), Some(1));
    let said = second.stderr();
    assert!(said.contains(&format!("another gatewatch (process {})", first.pid())), "{said}");
    assert!(said.contains("--no-network"), "{said}");
    let unload = Command::new(env!("CARGO_BIN_EXE_gatewatch")).arg("unload").output().unwrap();
    let said = common::text(&unload.stderr);
    assert!(!unload.status.success() && said.contains(&format!("process {}", first.pid())), "{said}");
    // Without packets there is room for it.
    AgentSetup::new("gw-two-b").start();
}

fn repaired(metrics: &Metrics, what: &str) -> u64 {
    metrics.sum("gatewatch_repairs_total", &[("what", what)])
}

/// What is broken is mended within a second, counted and said.
fn mends(ingress: &str, kind: &str) {
    let _turn = Turn::shared();
    let pod = Pod::new(&format!("mend{ingress}"));
    let _sink = sink();
    let pins = Pins::new(&format!("mend{ingress}"));
    let config = format!("network: {{pin_dir: {}, ingress: {ingress}}}", pins.0.display());
    let agent = agent("gw-mend", &config).start();
    agent.wait_attached("eth0");
    let frame = frames::ip(&frames::ipv4(HERE, HERE, 17, &[], 0, 1, &frames::udp(1, 7777, b"x")));
    let counted = |more: u64, from: u64| {
        pod.receive(&vec![frame.clone(); usize::try_from(more).unwrap()]);
        agent.wait_metrics(SOON, "they are counted", |metrics| packets(metrics, &IN).0 == from + more);
        from + more
    };
    let mut n = counted(10, 0);

    // Another tool takes the programs off.
    let at_eth0 = |link: &&PathBuf| !link.ends_with("link_0_out");
    let links = pins.links();
    let links: Vec<_> =
        links.iter().filter(at_eth0).filter(|link| link.to_str().unwrap().contains("packets")).collect();
    assert_eq!(links.len(), 2, "in and out: {links:?}");
    let first = pinned(links[0])["type"].clone();
    // Older bpftools do not know TCX by name.
    assert!(first == kind || (kind == "tcx" && first == 11), "{first}");
    for link in links {
        run("bpftool", &["link", "detach", "pinned", link.to_str().unwrap()]);
    }
    let since = Instant::now();
    let mended = agent.wait_metrics(SOON, "it is mended", |metrics| repaired(metrics, "attachment") == 1);
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert!(mended.select("gatewatch_network_blind_seconds_total", &[]).next().unwrap().value > 0.0);
    agent.wait_said("somebody had taken the programs off interface eth0");
    n = counted(20, n);

    // The interface goes, and comes back under its name: its counters go on.
    ip("link del eth0");
    pod.join();
    agent.wait_said("interface eth0 is watched again");
    assert_eq!(repaired(&agent.metrics(), "interface"), 1);
    n = counted(30, n);

    // A new one is watched from its first moment.
    ip("link add extra0 type veth peer name extra1");
    ip("link set extra0 up");
    agent.wait_attached("extra0");
    counted(5, n);
}

/// What bpftool tells of a pinned link.
fn pinned(link: &Path) -> serde_json::Value {
    let told: serde_json::Value =
        serde_json::from_str(&run("bpftool", &["-j", "link", "show", "pinned", link.to_str().unwrap()]))
            .unwrap();
    if told.is_array() { told[0].clone() } else { told }
}

#[test]
fn mends_itself_by_tc() {
    mends("tc", "tcx");
}

#[test]
fn mends_itself_by_xdp() {
    mends("xdp", "xdp");
}

/// What the filters keep out is counted as such, and nowhere else.
#[test]
fn filters() {
    let _turn = Turn::shared();
    let pod = Pod::new("filters");
    let send = |port: u16, protocol: u8, from: [u8; 4], n: usize| {
        let payload = if protocol == 17 {
            frames::udp(40_000, port, b"xxxx")
        } else {
            frames::tcp(40_000, port, 2, b"")
        };
        vec![frames::ip(&frames::ipv4(from.into(), HERE, protocol, &[], 0, 1, &payload)); n]
    };
    let cases = [
        ("- protocol: tcp\n    - port: 80,443,8080", 30 + 40),
        ("- protocol: udp", 100),
        ("- port: [80, 9]", 30 + 100 + 50),
        ("- {network: '10.98.0.0/16, 192.0.2.1'}", 50),
        ("- {network: '10.99.0.0/16', port: 443}", 40),
        ("- interface: lo", 0),
        ("- method: GET", 30 + 40 + 50 + 100),
    ];
    for (filters, expected) in cases {
        let config = format!("network: {{pin: false}}\nmonitoring:\n  filters:\n    {filters}\n");
        let mut agent = agent("gw-filters", &config).start();
        agent.wait_attached(if expected == 0 { "lo" } else { "eth0" });
        let sent = [
            send(80, 6, [10, 99, 0, 2], 30),
            send(443, 6, [10, 99, 0, 2], 40),
            send(9, 6, [10, 98, 0, 2], 50),
            send(9, 17, [10, 97, 0, 2], 100),
        ];
        pod.receive(&sent.concat());
        let labels = [("interface", "eth0"), ("direction", "ingress"), ("family", "ipv4")];
        let metrics = agent.metrics();
        assert_eq!(packets(&metrics, &labels).0, expected, "{filters}: {}", metrics.network());
        let kept_out = metrics.sum(
            "gatewatch_network_filtered_packets_total",
            &[("interface", "eth0"), ("direction", "ingress")],
        );
        if expected > 0 {
            assert_eq!(kept_out, 220 - expected, "{filters}");
        }
        adds_up(&agent);
        agent.end();
    }
}
