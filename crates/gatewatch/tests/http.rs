//! HTTP read from sockets: requests seen are requests made, by clients and servers nobody here wrote.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{fs, path::Path, process::Command};

use common::{
    Nginx, SOON, Setup, Turn, curl, free_port, get, run,
    served::{Server, agent, holds_exactly, requests, wait_tls_is_read},
    text,
};

/// One that speaks HTTP/1, HTTP/2 over TLS, and HTTP/2 in plaintext on the port that comes with it.
fn nginx(name: &str) -> (Nginx, u16) {
    let plain = free_port();
    let text = "server { listen 127.0.0.1:@PORT@; listen 127.0.0.1:@TLS@ ssl http2; listen 127.0.0.1:@H2C@ http2; ssl_certificate @DIR@/cert.pem; ssl_certificate_key @DIR@/key.pem;
         location / { return 200 'ok'; } location /no { return 404; } location /later { return 302 /; } location /stub { stub_status; } }";
    (Setup::new(name, text.replace("@H2C@", &plain.to_string())).start(), plain)
}

#[test]
fn a_hundred_thousand_requests_are_a_hundred_thousand() {
    let _turn = Turn::alone();
    let (nginx, _) = nginx("gwt-http");
    let agent = agent();
    run("h2load", &["--h1", "-n", "100000", "-c", "16", &nginx.url("/load")]);
    holds_exactly(&agent, &[("process_comm", "gwt-http"), ("method", "GET"), ("path", "/load")], 100_000);
}

#[test]
fn method_path_and_status_of_each_request_are_right() {
    let _turn = Turn::alone();
    let (nginx, _) = nginx("gwt-kinds");
    let agent = agent();
    let server = [("process_comm", "gwt-kinds")];
    for (method, path, times) in [
        ("GET", "/a", 3),
        ("POST", "/a", 2),
        ("PUT", "/no", 1),
        ("DELETE", "/later", 4),
        ("OPTIONS", "/b?x=secret", 5),
    ] {
        for _ in 0..times {
            curl(&["-X", method, &nginx.url(path), "-o", "/dev/null"]);
        }
        let path = path.split('?').next().unwrap();
        let labels =
            [&server[..], &[("method", method), ("path", path), ("source_ip", "127.0.0.1")]].concat();
        holds_exactly(&agent, &labels, times);
    }
    let metrics = agent.metrics();
    assert!(!metrics.text.contains("secret"));
    for (status, count) in [("4xx", 1), ("3xx", 4), ("2xx", 10)] {
        assert!(metrics.sum("gatewatch_http_responses_total", &[("status", status)]) >= count, "{status}");
    }
    // Health checks are counted apart.
    curl(&[&nginx.url("/healthz"), "-o", "/dev/null"]);
    curl(&["-A", "kube-probe/1.36", &nginx.url("/anything"), "-o", "/dev/null"]);
    agent.wait_metrics(SOON, "two health checks", |metrics| {
        metrics.sum("gatewatch_exchanges_apart_total", &[("reason", "health_check")]) >= 2
    });
    assert_eq!(requests(&agent.metrics(), &[&server[..], &[("path", "/anything")]].concat()), 0);
}

#[test]
fn http2_over_tls_and_in_plaintext_is_read_from_the_first_stream_on() {
    let _turn = Turn::alone();
    let (nginx, plain) = nginx("gwt-h2");
    let agent = agent();
    wait_tls_is_read(&agent, nginx.tls(), "gwt-h2");
    run("h2load", &["-n", "20000", "-c", "4", "-m", "16", &format!("https://127.0.0.1:{}/tls", nginx.tls())]);
    holds_exactly(&agent, &[("process_comm", "gwt-h2"), ("method", "GET"), ("path", "/tls")], 20_000);
    run("h2load", &["-n", "20000", "-c", "4", "-m", "16", &format!("http://127.0.0.1:{plain}/plain")]);
    holds_exactly(&agent, &[("process_comm", "gwt-h2"), ("method", "GET"), ("path", "/plain")], 20_000);
}

#[test]
fn servers_in_python_and_node_are_read() {
    let _turn = Turn::alone();
    let agent = agent();
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file.txt"), "x".repeat(100_000)).unwrap();
    let _python = Server::start(
        port,
        Command::new("python3")
            .args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()])
            .current_dir(&dir),
    );
    for _ in 0..200 {
        assert!(get(port, "/file.txt").is_some_and(|(status, _)| status == 200));
    }
    holds_exactly(&agent, &[("process_comm", "python3"), ("path", "/file.txt")], 200);
    if !Path::new("/usr/bin/node").exists() && Command::new("node").arg("-v").output().is_err() {
        panic!("this test needs node");
    }
    let port = free_port();
    let script = format!("require('http').createServer((q, s) => s.end('ok')).listen({port}, '127.0.0.1')");
    let _node = Server::start(port, Command::new("node").args(["-e", &script]));
    let output =
        text(run("wrk", &["-t1", "-c8", "-d2s", &format!("http://127.0.0.1:{port}/node")]).as_bytes());
    let made: u64 = output
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .and_then(|(count, _)| count.parse().ok())
        .unwrap_or_else(|| panic!("{output}"));
    let metrics = agent
        .wait_metrics(SOON, "node's requests", |metrics| requests(metrics, &[("path", "/node")]) >= made);
    // wrk leaves with requests under way.
    let seen = requests(&metrics, &[("path", "/node")]);
    assert!(seen <= made + 8, "{seen} of {made}");
    assert_eq!(metrics.lost(), 0);
}
