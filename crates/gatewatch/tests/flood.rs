//! A hundred thousand sockets connected at once, most of which say half a request or nonsense: the good requests among
//! them are counted to the last one, what is given up is told, and memory stays bounded.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    SOON, Turn, install,
    served::{agent, requests},
};
use serde_json::Value;

const CONNECTIONS: u64 = 100_000;
/// What the agent may grow by, of which HTTP that is not ended holds 64 MiB at most.
const GROWTH_MAX: u64 = 256 << 20;

#[test]
fn a_hundred_thousand_sockets_at_once() {
    let _turn = Turn::alone();
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let nginx = dir.path().join("gwt-flood");
    install("/usr/sbin/nginx".as_ref(), &nginx);
    let config = dir.path().join("nginx.conf");
    let text = format!(
        "daemon off; worker_processes 8; user root; pid {at}/pid; error_log {at}/error.log crit;
         events {{ worker_connections 19000; }}
         http {{ access_log off; client_header_timeout 600s; keepalive_timeout 600s; lingering_close off;
         client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
         uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
         server {{ listen 127.0.0.1:8080 reuseport backlog=65535; location / {{ return 200 'ok'; }} }} }}",
    );
    fs::write(&config, text).unwrap();

    let agent = agent();
    let resident = || agent.metrics().sum("gatewatch_agent_resident_bytes", &[]);
    let before = resident();
    let mut flood = Command::new("timeout")
        .args(["--foreground", "240", "unshare", "--net", "python3"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/flood/flood.py"))
        .arg(CONNECTIONS.to_string())
        .args([&nginx, &config])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(flood.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    let made = |key: &str| told[key].as_u64().unwrap();
    assert_eq!(made("established"), CONNECTIONS, "connected at once");

    let comm = ("process_comm", "gwt-flood");
    let good = [("GET", "piped"), ("POST", "whole"), ("GET", "bytes")];
    let all: u64 = good.iter().map(|(_, kind)| made(kind)).sum();
    let counted = |metrics: &common::Metrics| -> u64 {
        let each = |(method, kind): &(&str, &str)| {
            requests(metrics, &[comm, ("method", method), ("path", &format!("/{kind}"))])
        };
        good.iter().map(each).sum()
    };
    agent.wait_metrics(SOON, &format!("{all} good requests"), |metrics| counted(metrics) >= all);
    let metrics = agent.metrics();
    let lost: Vec<_> =
        metrics.select("gatewatch_lost_total", &[]).filter(|sample| sample.value > 0.0).collect();
    let full = resident();
    eprintln!(
        "{told}; {} connections followed; {} MiB resident, {} before; lost: {lost:?}",
        metrics.sum("gatewatch_http_connections", &[]),
        full >> 20,
        before >> 20
    );
    for (method, kind) in good {
        let path = format!("/{kind}");
        assert_eq!(requests(&metrics, &[comm, ("method", method), ("path", &path)]), made(kind), "{kind}");
    }
    // Half a request is none, and nonsense is at most one.
    assert_eq!(requests(&metrics, &[comm, ("path", "/half")]), 0);
    assert!(requests(&metrics, &[comm]) <= all + made("garbage"));
    let given_up = |reason| metrics.sum("gatewatch_lost_total", &[("reason", reason)]);
    assert!(given_up("garbage") > 0);
    assert_eq!(metrics.lost(), given_up("garbage") + given_up("too_long"), "{lost:?}");
    assert!(full < before + GROWTH_MAX, "{full} after {before}");

    writeln!(flood.stdin.take().unwrap()).unwrap();
    assert!(flood.wait().unwrap().success());
    let metrics = agent.wait_metrics(Duration::from_secs(60), "no connection is left", |metrics| {
        metrics.sum("gatewatch_http_connections", &[]) < 100
    });
    assert_eq!(requests(&metrics, &[comm, ("path", "/half")]), 0, "what was never whole is never counted");
}
