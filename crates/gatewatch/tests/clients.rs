//! aiohttp and Go's net/http, each as client and as server: every request counted, by method, path and status.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use common::{
    Agent, SOON, Turn, certificate, free_port, install, run,
    served::{Server, agent, answered, holds_exactly, requests, tool, wait_tls_is_read},
};
use tempfile::TempDir;

const WEB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/web.py");
const GO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/go/main.go");

/// Method, last part of the path, bytes of the body, how often; and the status that both servers give it.
const PLAN: [(&str, &str, u32, u64, &str); 10] = [
    ("GET", "items", 0, 300, "2xx"),
    ("POST", "items", 20, 200, "2xx"),
    ("PUT", "made", 3000, 60, "2xx"),
    ("DELETE", "missing", 0, 40, "4xx"),
    ("GET", "broken", 0, 30, "5xx"),
    ("PATCH", "moved", 1, 20, "3xx"),
    ("HEAD", "items", 0, 25, "2xx"),
    ("GET", "large", 0, 20, "2xx"),
    ("GET", "streamed", 0, 35, "2xx"),
    ("POST", "chunked", 100_000, 20, "2xx"),
];

/// A server, its ports, and the agent that watches it.
struct Bench {
    comm: String,
    port: u16,
    tls: u16,
    agent: Agent,
    made: u64,
    _server: Server,
    _dir: TempDir,
}

impl Bench {
    /// `command` is given the ports, the certificate and the key.
    fn new(comm: &str, command: impl FnOnce(&Path) -> Command) -> Self {
        let agent = agent();
        let dir = tempfile::tempdir().unwrap();
        certificate(dir.path());
        let (port, tls) = (free_port(), free_port());
        let mut command = command(dir.path());
        command.args([port, tls].map(|port| port.to_string()));
        command.args(["cert.pem", "key.pem"].map(|name| dir.path().join(name)));
        let server = Server::start(port, &mut command);
        wait_tls_is_read(&agent, tls, comm);
        Self { comm: comm.to_owned(), port, tls, agent, made: 0, _server: server, _dir: dir }
    }

    fn aiohttp(comm: &str) -> Self {
        Self::new(comm, |_| {
            let mut command = Command::new(tool("python"));
            command.args([WEB, "serve", comm]);
            command
        })
    }

    fn go(comm: &str, program: &Path) -> Self {
        Self::new(comm, |dir| {
            let copy = dir.join(comm);
            install(program, &copy);
            let mut command = Command::new(copy);
            command.arg("serve");
            command
        })
    }

    /// What a client does by the plan is what is counted. `prefix` keeps its paths apart from those of others.
    fn check(&mut self, prefix: &str, secure: bool, client: impl FnOnce(&str, &str)) {
        let (scheme, port) = if secure { ("https", self.tls) } else { ("http", self.port) };
        let path = |last: &str| format!("/{prefix}/{last}");
        let plan: Vec<_> =
            PLAN.iter().map(|(method, last, size, times, _)| (method, path(last), size, times)).collect();
        let before = self.agent.metrics();
        client(&format!("{scheme}://127.0.0.1:{port}"), &serde_json::to_string(&plan).unwrap());
        let all: u64 = PLAN.iter().map(|entry| entry.3).sum();
        self.made += all;
        let comm = ("process_comm", self.comm.as_str());
        let counted = |metrics: &common::Metrics| {
            requests(metrics, &[comm]) - requests(metrics, &[comm, ("path", "/probe")])
        };
        self.agent.wait_metrics(SOON, &format!("{prefix}: {all} requests"), |metrics| {
            counted(metrics) >= self.made
        });
        let mut statuses = BTreeMap::new();
        for (method, last, _, times, status) in PLAN {
            // The client's end is not counted: there is nobody else with this path.
            holds_exactly(&self.agent, &[("method", method), ("path", &path(last))], times);
            let labels = [comm, ("method", method), ("path", &path(last)), ("source_ip", "127.0.0.1")];
            holds_exactly(&self.agent, &labels, times);
            *statuses.entry((method.to_owned(), status.to_owned())).or_default() += times;
        }
        let after = self.agent.metrics();
        assert_eq!(counted(&after), self.made, "{prefix}: besides those that were made there are others");
        assert_eq!(answered(&before, &after, "http"), statuses, "{prefix}");
    }

    fn check_aiohttp(&mut self) {
        let python = tool("python").display().to_string();
        for (prefix, secure) in [("aiohttp", false), ("aiohttp-tls", true)] {
            self.check(prefix, secure, |url, plan| drop(run(&python, &[WEB, "load", url, plan])));
        }
    }

    fn check_go(&mut self, program: &Path, protocol: &str) {
        let program = program.display().to_string();
        for secure in [false, true] {
            let prefix = format!("go-{protocol}{}", if secure { "-tls" } else { "" });
            self.check(&prefix, secure, |url, plan| drop(run(&program, &["load", protocol, url, plan])));
        }
    }
}

/// net/http, built. With `-s -w` it has no symbols.
fn go_program(flags: &str, dir: &Path) -> PathBuf {
    let program = dir.join("go-http");
    let cache = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/go-cache");
    let built = Command::new(tool("go"))
        .args(["build", "-ldflags", flags, "-o"])
        .args([&program, Path::new(GO)])
        .env("GOCACHE", cache)
        .env("GOPROXY", "off")
        .env("GO111MODULE", "off")
        .status();
    assert!(built.unwrap().success());
    program
}

#[test]
fn aiohttp_serves() {
    let dir = tempfile::tempdir().unwrap();
    let program = go_program("", dir.path());
    tool("python");
    let _turn = Turn::alone();
    let mut bench = Bench::aiohttp("gwt-aiohttp");
    bench.check_aiohttp();
    bench.check_go(&program, "http1");
}

fn go_serves(comm: &str, flags: &str) {
    let dir = tempfile::tempdir().unwrap();
    let program = go_program(flags, dir.path());
    tool("python");
    let _turn = Turn::alone();
    let mut bench = Bench::go(comm, &program);
    bench.check_aiohttp();
    bench.check_go(&program, "http1");
    bench.check_go(&program, "http2");
}

#[test]
fn go_serves_with_symbols() {
    go_serves("gwt-go", "");
}

#[test]
fn go_serves_without_symbols() {
    go_serves("gwt-go-stripped", "-s -w");
}
