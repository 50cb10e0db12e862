//! gRPC by grpcio, unary and streamed: every call counted, by service and method, and by gRPC's own status.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{collections::BTreeMap, process::Command};

use common::{
    SOON, Turn, certificate, free_port, run,
    served::{Server, agent, answered, holds_exactly, requests, tool},
};

const RPC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/rpc.py");
/// Calls of each method.
const TIMES: u64 = 60;
/// Each method, and how it ends at the server; `None`: server and client break it off at about the same time.
const METHODS: [(&str, Option<&str>); 11] = [
    ("Get", Some("OK")),
    ("List", Some("OK")),
    ("Fill", Some("OK")),
    ("Chat", Some("OK")),
    ("Missing", Some("NOT_FOUND")),
    ("Denied", Some("PERMISSION_DENIED")),
    ("Broken", Some("UNKNOWN")),
    ("Torn", Some("DATA_LOSS")),
    ("Nothing", Some("UNIMPLEMENTED")),
    ("Late", None),
    ("Endless", None),
];

#[test]
fn grpcio_is_counted_by_method_and_status() {
    let python = tool("python");
    let python = python.to_str().unwrap();
    let _turn = Turn::alone();
    let agent = agent();
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path());
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name).display().to_string());
    let (port, tls) = (free_port(), free_port());
    let comm = ("process_comm", "gwt-grpcio");
    let _server = Server::start(
        port,
        Command::new(python).args([RPC, "serve", comm.1, &port.to_string(), &tls.to_string(), &cert, &key]),
    );
    let times = TIMES.to_string();

    let before = agent.metrics();
    let told = run(python, &[RPC, "load", &format!("localhost:{port}"), &times]);
    let told: BTreeMap<String, BTreeMap<String, u64>> = serde_json::from_str(&told).unwrap();
    let mut statuses = BTreeMap::new();
    for (method, status) in METHODS {
        let path = format!("/shop.v1.Cart/{method}");
        holds_exactly(&agent, &[comm, ("method", "POST"), ("path", &path)], TIMES);
        holds_exactly(&agent, &[("path", &path)], TIMES);
        if let Some(status) = status {
            assert_eq!(told[method], [(status.to_owned(), TIMES)].into(), "{method}, as the client has it");
            *statuses.entry(("POST".to_owned(), status.to_owned())).or_insert(0) += TIMES;
        }
    }
    assert_eq!(told["Late"], [("DEADLINE_EXCEEDED".to_owned(), TIMES)].into());
    assert_eq!(told["Endless"], [("CANCELLED".to_owned(), TIMES)].into());
    let all = TIMES * u64::try_from(METHODS.len()).unwrap();
    let after = agent.metrics();
    assert_eq!(requests(&after, &[comm]), all);
    let mut seen = answered(&before, &after, "grpc");
    assert_eq!(answered(&before, &after, "http"), BTreeMap::new(), "calls that are not taken for gRPC");
    assert_eq!(seen.values().sum::<u64>(), all);
    // Those that were broken off: with the server's own status, if it was quicker, or with none.
    seen.retain(|key, _| statuses.contains_key(key));
    assert_eq!(seen, statuses);

    // Its TLS is its own: nothing is read, the handshakes are told, and nothing is taken for a request.
    let handshakes = |metrics: &common::Metrics| metrics.sum("gatewatch_tls_handshakes_total", &[]);
    run(python, &[RPC, "load", &format!("localhost:{tls}"), &times, &cert]);
    agent.wait_metrics(SOON, "its handshakes", |metrics| handshakes(metrics) >= handshakes(&after) + 2);
    let closed = agent.metrics();
    assert_eq!(requests(&closed, &[comm]), all);
    assert_eq!(answered(&after, &closed, "grpc"), BTreeMap::new());
    assert_eq!(closed.lost(), 0);
}
