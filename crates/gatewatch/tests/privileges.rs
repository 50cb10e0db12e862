//! The least that works, and a clear word where less is given.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{AgentSetup, Setup, Turn, get, net::Pod};

const GATEWAY: &str = "server { listen 127.0.0.1:@PORT@; location / { return 200 hello; } }";

const NOBODY: u32 = 65534;

/// Words that start a program as this user, with these capabilities and no other.
fn with(user: u32, capabilities: &[&str]) -> Vec<String> {
    let list = capabilities.iter().fold("-all".to_owned(), |list, name| format!("{list},+{name}"));
    let mut words = vec!["setpriv".to_owned()];
    words.extend([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    words.extend(["inh-caps", "ambient-caps", "bounding-set"].map(|set| format!("--{set}={list}")));
    words
}

fn start(name: &str, user: u32, capabilities: &[&str]) -> AgentSetup {
    let words = with(user, capabilities);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    AgentSetup::new(name).wrapper(&words)
}

#[test]
fn three_capabilities_are_enough() {
    works_with_three("gw-least", NOBODY);
}

/// As in a container that runs as root and drops what it does not need.
#[test]
fn three_capabilities_are_enough_for_root() {
    works_with_three("gw-least-0", 0);
}

fn works_with_three(name: &str, user: u32) {
    let _turn = Turn::shared();
    let gateway = Setup::new(name, GATEWAY).workers(2).start();
    let agent = start(name, user, &["bpf", "perfmon", "sys_ptrace"]).watch();
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let user = format!("Uid:\t{user}\t{user}\t{user}\t{user}");
    for line in ["CapEff:\t000000c000080000", "CapBnd:\t000000c000080000", &user] {
        assert!(status.contains(line), "{line} in\n{status}");
    }
    for i in 0..50 {
        assert_eq!(get(gateway.port(), &format!("/r/{i}")).unwrap().0, 200);
    }
    let metrics = agent.wait_reported(50);
    assert_eq!((metrics.reported(), metrics.lost()), (50, 0), "{}", metrics.brief());
    let ratio = "gatewatch_capture_coverage_ratio";
    let known = |metrics: &common::Metrics| metrics.select(ratio, &[]).next().is_some();
    let metrics = agent.wait_metrics(common::SOON, "coverage is known", known);
    let coverage: Vec<f64> = metrics.select(ratio, &[]).map(|sample| sample.value).collect();
    assert_eq!(coverage, [1.0], "{}", metrics.brief());
    let label = format!("nginx:{}", gateway.port());
    assert_eq!(agent.wait_requests(50)[0].str("gateway"), label, "its port is seen too");
    for line in agent.lines() {
        assert!(!["warn", "error"].contains(&line.str("level")), "{}", line.raw);
    }
}

#[test]
fn a_missing_capability_is_named() {
    let _turn = Turn::shared();
    let gateway = Setup::new("gw-lacking", GATEWAY).start();
    let cases: [(&[&str], &str); 5] = [
        (&["perfmon", "sys_ptrace"], "CAP_BPF"),
        (&["bpf", "sys_ptrace"], "CAP_PERFMON"),
        (&["bpf", "perfmon"], "CAP_SYS_PTRACE"),
        (&["sys_ptrace"], "CAP_BPF"),
        (&[], "CAP_BPF"),
    ];
    let mut faults = String::new();
    for (held, missing) in cases {
        let mut agent = start("gw-lacking", NOBODY, held).args(&["--duration", "3"]).spawn();
        let status = agent.wait_end();
        let said = agent.stderr();
        let soup = [
            "os error",
            "Operation not permitted",
            "Permission denied",
            "EPERM",
            "EACCES",
            "libbpf",
            "panicked",
        ];
        let clear = said.contains(missing)
            && said.lines().count() == 1
            && said.starts_with("gatewatch: ")
            && !soup.iter().any(|word| said.contains(word));
        if !clear || status.code() != Some(1) {
            faults +=
                &format!("with only {held:?}: {status}; stderr: {said:?}; stdout: {}\n", agent.stdout());
        }
    }
    drop(gateway);
    assert!(faults.is_empty(), "one line naming what is missing, and exit code 1:\n{faults}");
}

/// Packets need one capability more; without it requests are watched all the same.
#[test]
fn packets_need_a_fourth() {
    let _turn = Turn::shared();
    let _pod = Pod::new("rights");
    let gateway = Setup::new("gw-fourth", GATEWAY).start();
    let three = ["bpf", "perfmon", "sys_ptrace"];
    let mut lacking = start("gw-fourth", 0, &three).network().config("network: {pin: false}").watch();
    let said = lacking.wait_said("packets and connections are not watched");
    assert!(said.raw.contains("CAP_NET_ADMIN") && said.str("level") == "warn", "{}", said.raw);
    assert_eq!(get(gateway.port(), "/r").unwrap().0, 200);
    lacking.wait_reported(1);
    lacking.end();
    let four = ["bpf", "perfmon", "sys_ptrace", "net_admin"];
    let agent = start("gw-fourth", 0, &four).network().config("network: {pin: false}").watch();
    agent.wait_attached("lo");
    let told = agent.connections();
    assert!(told.iter().any(|row| row["direction"] == "inner"), "{told:?}");
    for line in agent.lines() {
        assert!(!["warn", "error"].contains(&line.str("level")), "{}", line.raw);
    }
}
