//! `gatewatch doctor node` as users run it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::process::Command;

use common::{Turn, keda::Cluster, text};
use serde_json::json;

/// Whether all is well, and what it says.
fn doctor(env: &[(&str, &str)]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_gatewatch"))
        .args(["doctor", "node"])
        .envs(env.iter().copied())
        .output()
        .unwrap();
    assert_eq!(text(&output.stderr), "");
    (output.status.success(), text(&output.stdout))
}

/// The marks of the lines on this.
fn marks<'a>(said: &'a str, what: &str) -> Vec<&'a str> {
    let marked = said.lines().filter_map(|line| line.trim().split_once(' '));
    marked.filter(|(_, rest)| rest.trim_start().starts_with(what)).map(|(mark, _)| mark).collect()
}

#[test]
fn without_a_cluster_it_tells_what_the_kernel_takes() {
    let _turn = Turn::shared();
    let (works, said) = doctor(&[("MODE", "local"), ("ENABLE_L7_HTTP", "true")]);
    assert!(works, "{said}");
    for part in ["Attempts to connect", "HTTP requests", "The first request's hold", "MODE"] {
        assert!(said.contains(part), "no {part}: {said}");
    }
    assert_eq!(marks(&said, "CAP_BPF"), ["ok"], "{said}");
    assert_eq!(marks(&said, "cgroup"), ["ok"], "attempts are seen by control groups: {said}");
    assert!(said.trim_end().ends_with("gatewatch node will work here."), "{said}");
}

#[test]
fn of_a_cluster_it_tells_rights_and_whether_the_namespace_is_there() {
    let _turn = Turn::shared();
    let cluster = Cluster::start(&[]);
    cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}}));
    let kubeconfig = cluster.kubeconfig();
    let asked = |namespace| {
        doctor(&[
            ("KUBECONFIG", kubeconfig.to_str().unwrap()),
            ("WATCH_NAMESPACE", namespace),
            ("MODE", "cluster"),
        ])
    };
    let (works, said) = asked("shop");
    assert!(works, "{said}");
    assert_eq!(marks(&said, "watch endpointslices"), ["ok"], "{said}");
    assert_eq!(marks(&said, "WATCH_NAMESPACE"), ["ok"], "{said}");
    let (works, said) = asked("shpo");
    assert!(!works, "{said}");
    assert_eq!(marks(&said, "WATCH_NAMESPACE"), ["BAD"], "{said}");
    let (works, said) = doctor(&[("KUBECONFIG", "/nowhere"), ("MODE", "cluster")]);
    assert!(!works && marks(&said, "API server") == ["BAD"], "{said}");
}
