//! A hundred thousand sockets connected at once, most of which say half a request or nonsense: the good requests among
//! them are counted to the last one, memory stays bounded, and what an agent misses that stands still is told.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

use common::{
    Metrics, SOON, Setup, Turn, curl, install,
    served::{agent, requests},
    signal, wait_for,
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// What the agent may grow by for so many. HTTP that has not ended holds 64 MiB at most; each connection has its place.
const GROWTH_MAX: u64 = 256 << 20;
const COMM: (&str, &str) = ("process_comm", "gwt-flood");
/// Method and path of the good ones.
const GOOD: [(&str, &str); 3] = [("GET", "piped"), ("POST", "whole"), ("GET", "bytes")];
/// Requests in one piece of a pipeline.
const PIPED: u64 = 4;

/// Sockets and nginx in a network namespace of their own, where all has been said and answered, and all is still open.
struct Flood {
    child: Child,
    told: Value,
    _dir: TempDir,
}

impl Flood {
    fn start(connections: u64) -> Self {
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
             server {{ listen 127.0.0.1:8080 reuseport backlog=65535; location / {{ return 200 'ok'; }} }} }}"
        );
        fs::write(&config, text).unwrap();
        // Seventeen busy processes would leave the agent a seventeenth of the machine: it is to have what it asks for.
        let mut child = Command::new("timeout")
            .args(["--foreground", "240", "nice", "-n", "10", "unshare", "--net", "python3"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/flood/flood.py"))
            .arg(connections.to_string())
            .args([&nginx, &config])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let flood = Self { child, told, _dir: dir };
        assert_eq!(flood.made("established"), connections, "connected at once");
        flood
    }

    fn made(&self, what: &str) -> u64 {
        self.told[what].as_u64().unwrap()
    }

    fn all(&self) -> u64 {
        GOOD.iter().map(|(_, kind)| self.made(kind)).sum()
    }

    fn end(mut self) {
        writeln!(self.child.stdin.take().unwrap()).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // Without its input it ends by itself, and its nginx with it.
        drop(self.child.stdin.take());
        let _gone = self.child.wait();
    }
}

fn counted(metrics: &Metrics, (method, kind): (&str, &str)) -> u64 {
    requests(metrics, &[COMM, ("method", method), ("path", &format!("/{kind}"))])
}

fn lost(metrics: &Metrics, reason: &str) -> u64 {
    metrics.sum("gatewatch_lost_total", &[("reason", reason)])
}

#[test]
fn good_requests_among_a_hundred_thousand_sockets_are_counted() {
    let _turn = Turn::alone();
    let agent = agent();
    let before = agent.metrics().sum("gatewatch_agent_resident_bytes", &[]);
    let flood = Flood::start(100_000);
    let all = flood.all();
    let good = |metrics: &Metrics| GOOD.iter().map(|good| counted(metrics, *good)).sum::<u64>();
    agent.wait_metrics(SOON, &format!("{all} good requests"), |metrics| good(metrics) >= all);
    let metrics = agent.metrics();
    let full = metrics.sum("gatewatch_agent_resident_bytes", &[]);
    let followed = metrics.sum("gatewatch_http_connections", &[]);
    eprintln!("{}; {followed} followed, {} MiB after {} MiB", flood.told, full >> 20, before >> 20);
    for good in GOOD {
        assert_eq!(counted(&metrics, good), flood.made(good.1), "{good:?}");
    }
    // Half a request is none, and nonsense is at most one.
    assert_eq!(counted(&metrics, ("GET", "half")), 0);
    assert!(requests(&metrics, &[COMM]) <= all + flood.made("garbage"));
    assert_eq!(requests(&metrics, &[COMM, ("path", "")]), 0);
    assert!(lost(&metrics, "garbage") > 0);
    let told: Vec<_> = metrics.select("gatewatch_lost_total", &[]).filter(|it| it.value > 0.0).collect();
    assert_eq!(metrics.lost(), lost(&metrics, "garbage") + lost(&metrics, "too_long"), "{told:?}");
    assert!(followed >= flood.made("half") && full < before + GROWTH_MAX, "{full} bytes after {before}");

    flood.end();
    let metrics = agent.metrics();
    assert_eq!(counted(&metrics, ("GET", "half")), 0, "what was never whole is never counted");
}

#[test]
fn an_agent_that_stood_still_tells_what_it_missed() {
    let _turn = Turn::alone();
    let agent = agent();
    signal(agent.pid(), Signal::STOP);
    let flood = Flood::start(48_000);
    signal(agent.pid(), Signal::CONT);
    let mut last = 0;
    let metrics = wait_for(
        SOON,
        || "all that was kept is read".to_owned(),
        || {
            let metrics = agent.metrics();
            let seen = metrics.sum("gatewatch_exchanges_total", &[]);
            (std::mem::replace(&mut last, seen) == seen && seen > 0).then_some(metrics)
        },
    );
    let pieces = lost(&metrics, "piece_ring_full");
    let seen: u64 = GOOD.iter().map(|good| counted(&metrics, *good)).sum();
    eprintln!("{}; {seen} of {} seen, {pieces} pieces lost", flood.told, flood.all());
    assert!(pieces > 0 && seen < flood.all(), "{seen} seen, {pieces} pieces lost");
    assert!(flood.all() - seen <= pieces * PIPED, "{seen} seen, {pieces} pieces lost");
    for good in GOOD {
        assert!(counted(&metrics, good) <= flood.made(good.1), "{good:?}");
    }
    // Of some only the beginning was kept: no path is made up for them.
    let names = ["/piped", "/whole", "/bytes", "/garbage", ""];
    let paths = metrics.select("internal_http_requests_total", std::slice::from_ref(&COMM));
    let made_up: Vec<_> = paths.filter(|sample| !names.contains(&sample.label("path"))).collect();
    assert!(made_up.is_empty(), "{made_up:#?}");
    flood.end();

    // It goes on as if nothing had been.
    let nginx = Setup::new("gwt-after", "server { listen 127.0.0.1:@PORT@; return 200 'ok'; }").start();
    for _ in 0..20 {
        curl(&[&nginx.url("/after"), "-o", "/dev/null"]);
    }
    agent.wait_metrics(SOON, "20 requests", |metrics| requests(metrics, &[("path", "/after")]) == 20);
}
