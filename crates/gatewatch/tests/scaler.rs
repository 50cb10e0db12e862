//! `gatewatch scaler` as a command: its words, its metrics, its end.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output},
    time::{Duration, Instant},
};

use common::{SOON, free_port, get, keda::Process, text, wait_until};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewatch"));
    command.arg("scaler").args(args).env_clear();
    command
}

fn fails(args: &[&str]) -> String {
    let Output { status, stderr, .. } = command(args).output().unwrap();
    assert!(!status.success(), "{args:?}");
    text(&stderr)
}

#[test]
fn what_is_wrong_at_the_start_is_said() {
    let any = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--nodes", "127.0.0.1:1"];
    let with = |more: &[&'static str]| fails(&[&any[..], more].concat());
    assert!(fails(&any[..4]).contains("--nodes"));
    assert!(with(&["--tls-cert", "/no/such/file"]).contains("--tls-key"));
    let said = with(&["--tls-cert", "/no/such/file", "--tls-key", "/no/such/file"]);
    assert!(said.contains("cannot read /no/such/file"), "{said}");
    let said = with(&["--tls-cert", "/dev/null", "--tls-key", "/dev/null"]);
    assert!(said.contains("cannot use the TLS certificate"), "{said}");
    assert!(with(&["--node-ca", "/dev/null"]).contains("--node-name"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = fails(&["--listen", &address, "--metrics", "127.0.0.1:0", "--nodes", "x:1"]);
    assert!(said.contains("--listen or SCALER_ADDR"), "{said}");
}

#[test]
fn its_metrics_are_documented_and_it_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = free_port();
    let mut command = command(&["--nodes", "127.0.0.1:1,no-such-name.invalid:1"]);
    command.envs([("SCALER_ADDR", "127.0.0.1:0"), ("METRICS_ADDR", &format!("127.0.0.1:{metrics}"))]);
    let process = Process::start(&mut command, dir.path().join("log"));
    wait_until(SOON, "it is alive", || get(metrics, "/healthz").is_some_and(|(status, _)| status == 200));
    let (status, why) = get(metrics, "/readyz").unwrap();
    assert!(status == 503 && why.contains("--nodes"), "{status} {why}");
    wait_until(SOON, "it warns", || process.said().contains("cannot resolve no-such-name.invalid:1"));

    let (_, exposed) = get(metrics, "/metrics").unwrap();
    let exposed: BTreeSet<_> = exposed
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap().to_owned())
        .collect();
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/scaler.md")).unwrap();
    let documented = page.lines().filter_map(|line| line.strip_prefix("| `gatewatch_scaler_"));
    let documented: BTreeSet<_> =
        documented.map(|line| format!("gatewatch_scaler_{}", line.split('`').next().unwrap())).collect();
    assert_eq!(exposed, documented);

    let began = Instant::now();
    assert!(process.stop().success());
    assert!(began.elapsed() < Duration::from_secs(2));
}
