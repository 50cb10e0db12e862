//! Every request is reported or counted as lost: under full load, over HTTP/2, and with the agent held up.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{process::Command, thread, time::Duration};

use common::{Agent, AgentSetup, Metrics, Nginx, Setup, Turn, run, signal, text};
use rustix::process::Signal;

const GATEWAY: &str = r#"
    server {
        listen 127.0.0.1:@PORT@ backlog=4096;
        location /api/ { return 200 "hello\n"; }
        location = /stub { stub_status; }
    }
    server {
        listen 127.0.0.1:@TLS@ ssl http2;
        ssl_certificate @DIR@/cert.pem;
        ssl_certificate_key @DIR@/key.pem;
        http2_max_concurrent_streams 128;
        location /api/ { return 200 "hello\n"; }
    }
"#;

struct Bench {
    gateway: Nginx,
    agent: Agent,
    first: u64,
}

impl Bench {
    fn new(name: &str, workers: u32, config: &str) -> Self {
        let gateway = Setup::new(name, GATEWAY).workers(workers).start();
        let agent = AgentSetup::new(name).config(config).args(&["--no-requests"]).watch();
        let first = gateway.stub_status();
        Self { gateway, agent, first }
    }

    /// Requests since the agent watches, by the gateway's own count: the two that ask for it included.
    fn counted(&self) -> u64 {
        self.gateway.settled_status() - self.first + 1
    }

    /// Nothing is lost, and everybody agrees.
    fn check_exact(&self, what: &str, sent: std::ops::RangeInclusive<u64>) {
        let counted = self.counted();
        let metrics = self.agent.wait_reported(counted);
        let asked = metrics.sum("gatewatch_http_requests_total", &[("path", "/stub")]);
        println!(
            "{what}: sent {sent:?}, counted {counted}, reported {}, lost {}",
            metrics.reported(),
            metrics.lost()
        );
        assert_eq!(metrics.reported(), counted, "{what}: reported = counted by the gateway");
        assert!(sent.contains(&(counted - asked)), "{what}: {} of {sent:?} sent", counted - asked);
        for sample in metrics.select("gatewatch_lost_total", &[]) {
            assert!(sample.value == 0.0, "{what}: lost {sample:?}");
        }
        let coverage: Vec<f64> =
            metrics.select("gatewatch_capture_coverage_ratio", &[]).map(|s| s.value).collect();
        assert_eq!(coverage, [1.0], "{what}: coverage");
        assert_eq!(
            metrics.sum("gatewatch_gateway_requests_total", &[]),
            counted,
            "{what}: the gateway's count"
        );
        let durations = metrics.sum("gatewatch_http_request_duration_seconds_count", &[]);
        assert_eq!(durations, counted, "{what}: every request has a duration");
        assert_eq!(metrics.sum("gatewatch_http_requests_in_flight", &[]), 0, "{what}: in flight");
    }
}

fn wrk(url: &str, seconds: u32) -> u64 {
    let said = run("wrk", &["-t2", "-c64", &format!("-d{seconds}s"), url]);
    let line = said.lines().find(|line| line.contains("requests in")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// All of them must have been answered.
fn h2load(args: &[&str]) -> u64 {
    let said = run("h2load", args);
    let line = said.lines().find(|line| line.starts_with("requests:")).unwrap();
    let number = |what: &str| -> u64 {
        let before = line.split(what).next().unwrap();
        before.split_whitespace().next_back().unwrap().parse().unwrap()
    };
    assert_eq!(number(" succeeded"), number(" total"), "{line}");
    number(" succeeded")
}

fn full_load(name: &str, workers: u32) {
    let _turn = Turn::alone();
    let bench = Bench::new(name, workers, "");
    let sent = wrk(&bench.gateway.url("/api/load"), 10);
    // wrk goes away with up to one request a connection under way, and does not count it.
    bench.check_exact("wrk", sent..=sent + 64);
}

#[test]
fn full_load_on_one_worker() {
    full_load("gw-exact-1", 1);
}

#[test]
fn full_load_on_two_workers() {
    full_load("gw-exact-2", 2);
}

#[test]
fn http2_over_tls() {
    let _turn = Turn::alone();
    let bench = Bench::new("gw-exact-h2", 2, "");
    let url = format!("https://127.0.0.1:{}/api/load", bench.gateway.tls());
    let sent = h2load(&["-n", "100000", "-c", "64", "-m", "10", &url]);
    assert_eq!(sent, 100_000);
    bench.check_exact("h2load", sent..=sent);
    let metrics = bench.agent.metrics();
    assert_eq!(metrics.sum("gatewatch_http_requests_total", &[("protocol", "h2"), ("status", "200")]), sent);
}

#[test]
fn an_exact_client_over_http1() {
    let _turn = Turn::alone();
    let bench = Bench::new("gw-exact-h1", 2, "");
    let sent = h2load(&["--h1", "-n", "100000", "-c", "64", &bench.gateway.url("/api/load")]);
    assert_eq!(sent, 100_000);
    bench.check_exact("h2load --h1", sent..=sent);
}

/// With one trap a request the counts are no less exact.
#[test]
fn lean() {
    let _turn = Turn::alone();
    let name = "gw-exact-lean";
    let gateway = Setup::new(name, GATEWAY).workers(2).start();
    let agent = AgentSetup::new(name).args(&["--no-requests", "--lean"]).watch();
    let sent = h2load(&["--h1", "-n", "50000", "-c", "64", &gateway.url("/api/load")]);
    let metrics = agent.wait_reported(sent);
    assert_eq!((metrics.reported(), metrics.lost()), (sent, 0));
    assert_eq!(
        metrics.select("gatewatch_http_requests_in_flight", &[]).count(),
        0,
        "not known in the lean tier"
    );
}

/// The log too: a line for each request, or its loss counted.
#[test]
fn a_line_for_each() {
    let _turn = Turn::alone();
    let name = "gw-exact-log";
    let gateway = Setup::new(name, GATEWAY).start();
    let mut agent = AgentSetup::new(name).watch();
    let sent = h2load(&["--h1", "-n", "50000", "-c", "16", &gateway.url("/api/load")]);
    let lines = |agent: &Agent| u64::try_from(agent.requests_count()).unwrap();
    // The last chunk is handed over a moment after its requests are counted.
    let metrics = agent.wait_metrics(common::SOON, "a line or a loss for each", |metrics| {
        let blocked = metrics.sum("gatewatch_lost_total", &[("reason", "log_blocked")]);
        metrics.reported() >= sent && lines(&agent) + blocked >= sent
    });
    let blocked = metrics.sum("gatewatch_lost_total", &[("reason", "log_blocked")]);
    agent.end();
    assert_eq!((metrics.reported(), lines(&agent) + blocked, metrics.lost()), (sent, sent, 0));
}

/// Held up for 3 s under load: what was reported and what was lost are what was sent.
fn held_up(name: &str, config: &str, check: impl Fn(&Metrics)) {
    let _turn = Turn::alone();
    let bench = Bench::new(name, 2, config);
    let url = bench.gateway.url("/api/load");
    let mut load = Command::new("wrk")
        .args(["-t2", "-c64", "-d5s", &url])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_secs(1));
    signal(bench.agent.pid(), Signal::STOP);
    thread::sleep(Duration::from_secs(3));
    signal(bench.agent.pid(), Signal::CONT);
    assert!(load.wait().unwrap().success());
    let counted = bench.counted();
    let all = |metrics: &Metrics| metrics.reported() + metrics.lost();
    let metrics = bench
        .agent
        .wait_metrics(common::SOON, &format!("all {counted} are accounted for"), |m| all(m) >= counted);
    println!("counted {counted}, reported {}, lost {}", metrics.reported(), metrics.lost());
    assert_eq!(all(&metrics), counted, "reported + lost = counted by the gateway");
    check(&metrics);
    let coverage = metrics.select("gatewatch_capture_coverage_ratio", &[]).next().unwrap().value;
    let truth = text(format!("{:.9}", ratio(metrics.reported(), counted)).as_bytes());
    assert_eq!(format!("{coverage:.9}"), truth, "coverage is what was reported of what was counted");
}

#[allow(clippy::cast_precision_loss)]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[test]
fn an_agent_held_up() {
    held_up("gw-exact-stop", "", |_| ());
}

#[test]
fn an_agent_held_up_with_little_room() {
    held_up("gw-exact-ring", "capture:\n  ring_bytes: 256KiB\n", |metrics| {
        let full = metrics.sum("gatewatch_lost_total", &[("reason", "ring_full")]);
        assert!(full > 0, "3 s of load fit into 256 KiB?");
        assert_eq!(metrics.sum("gatewatch_http_overflow_requests_total", &[]), full, "by status");
        assert_eq!(
            metrics.sum("gatewatch_http_overflow_requests_total", &[("status", "200")]),
            full,
            "by status 200"
        );
    });
}
