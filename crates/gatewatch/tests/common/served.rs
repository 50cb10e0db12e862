//! The node agent that reads requests, and programs that serve them.

use std::{
    collections::BTreeMap,
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use super::{Agent, AgentSetup, Metrics, SOON, curl, run, wait_until};

/// One that reads requests.
pub fn agent() -> Agent {
    let agent = AgentSetup::node().env("ENABLE_L7_HTTP", "true").start();
    agent.wait_ready();
    agent
}

pub fn requests(metrics: &Metrics, labels: &[(&str, &str)]) -> u64 {
    metrics.sum("internal_http_requests_total", labels)
}

/// So many requests of these labels, and nothing lost; and that it stays so.
pub fn holds_exactly(agent: &Agent, labels: &[(&str, &str)], count: u64) -> Metrics {
    agent.wait_metrics(SOON, &format!("{count} requests {labels:?}"), |m| requests(m, labels) >= count);
    let metrics = agent.metrics();
    let seen: Vec<_> = metrics.select("internal_http_requests_total", labels).collect();
    assert_eq!(requests(&metrics, labels), count, "{seen:#?}");
    assert_eq!(metrics.lost(), 0, "{:#?}", metrics.select("gatewatch_lost_total", &[]).collect::<Vec<_>>());
    metrics
}

/// Answers counted by these labels, of this node's agent in a place without a cluster.
pub fn responses(metrics: &Metrics, labels: &[(&str, &str)]) -> u64 {
    metrics.sum("gatewatch_http_responses_total", labels)
}

/// How many answers of each method and status came in between; `protocol` is `http` or `grpc`.
pub fn answered(before: &Metrics, after: &Metrics, protocol: &str) -> BTreeMap<(String, String), u64> {
    let mut all = BTreeMap::new();
    for sample in after.select("gatewatch_http_responses_total", &[("protocol", protocol)]) {
        let (method, status) = (sample.label("method"), sample.label("status"));
        let labels = [("protocol", protocol), ("method", method), ("status", status)];
        let count = responses(after, &labels) - responses(before, &labels);
        if count > 0 {
            all.insert((method.to_owned(), status.to_owned()), count);
        }
    }
    all
}

/// Asks over TLS until the agent reads what this process decrypts: its library is attached to then.
pub fn wait_tls_is_read(agent: &Agent, tls: u16, comm: &str) {
    wait_until(SOON, "TLS is read", || {
        curl(&["-k", "--http1.1", &format!("https://127.0.0.1:{tls}/probe"), "-o", "/dev/null"]);
        requests(&agent.metrics(), &[("process_comm", comm), ("path", "/probe")]) > 0
    });
}

/// A program that serves, ended when dropped.
pub struct Server(Child);

impl Server {
    pub fn start(port: u16, command: &mut Command) -> Self {
        let server =
            Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_until(SOON, "the server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// A program of `scripts/`, which prints the path of what it finds or installs.
pub fn tool(script: &str) -> PathBuf {
    let script = format!("{}/../../scripts/{script}", env!("CARGO_MANIFEST_DIR"));
    run(&script, &[]).trim().into()
}
