//! The node agent as users run it: a real API server names what pods call, a real Prometheus sees the first call.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use common::{
    Agent, AgentSetup, Metrics, SOON, Turn, free_port, get,
    keda::{Cluster, Process},
    nodes::{Node, Pod, Reject, Rules, request},
    text, wait_for, wait_until,
};
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/shop/services";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";

/// A node, and a control plane within its network namespace.
fn cluster(name: &str) -> (Node, Cluster) {
    let node = Node::with(name, Rules::Nftables, Reject::Reset);
    node.enter();
    let cluster = Cluster::start(&[]);
    cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}}));
    (node, cluster)
}

fn agent(cluster: &Cluster) -> Agent {
    agent_with(cluster, &[])
}

fn agent_with(cluster: &Cluster, env: &[(&str, &str)]) -> Agent {
    let setup = AgentSetup::node()
        .env("MODE", "cluster")
        .env("KUBECONFIG", cluster.kubeconfig().to_str().unwrap())
        .config(&format!("node: {{ demand: {{ listen: '127.0.0.1:{}' }} }}", free_port()));
    let agent = env.iter().fold(setup, |setup, (name, value)| setup.env(name, value)).start();
    agent.wait_ready();
    agent
}

fn service(cluster: &Cluster, name: &str, ip: &str, annotations: &Value) {
    cluster.create(
        SERVICES,
        &json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"clusterIP": ip, "ports": [{"port": 80, "targetPort": 8080}]},
        }),
    );
}

/// A pod that runs, as a kubelet would tell.
fn pod(cluster: &Cluster, name: &str, ip: &str) {
    cluster.create(
        PODS,
        &json!({
            "metadata": {"name": name, "labels": {"app": "cart"}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "x", "image": "x"}]},
        }),
    );
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
    cluster.merge(&format!("{PODS}/{name}/status"), &status);
}

fn endpoint(cluster: &Cluster, service: &str, ip: &str) {
    cluster.create(
        SLICES,
        &json!({
            "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        }),
    );
}

/// Calls so often from a pod, whatever comes of it.
fn call(pod: &Pod, comm: &str, address: &str, times: u32) {
    let script = format!(
        "open('/proc/self/comm', 'w').write('{comm}')\nimport socket\nip, port = '{address}'.rsplit(':', 1)\nfor n in range({times}):\n s = socket.socket()\n s.connect_ex((ip, int(port)))\n s.close()"
    );
    let output = pod.command("python3").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

fn attempts(metrics: &Metrics, labels: &[(&str, &str)]) -> u64 {
    metrics.sum("internal_tcp_attempts_total", labels)
}

fn to<'a>(service: &'a str, pod: &'a str) -> [(&'a str, &'a str); 3] {
    [("destination_namespace", "shop"), ("destination_service", service), ("destination_pod", pod)]
}

#[test]
fn ten_thousand_calls_to_a_service_without_pods_stand_under_its_name_and_their_process() {
    let _turn = Turn::alone();
    let (node, cluster) = cluster("named");
    let (client, server) = (node.client_pod("client"), node.server_pod("server", 8080));
    service(&cluster, "cart", "10.96.0.10", &json!({}));
    let at = node.service("10.96.0.10", 80);
    let agent = agent(&cluster);
    let zero = agent.wait_metrics(SOON, "the Service is known", |metrics| {
        metrics.select("internal_tcp_attempts_total", &to("cart", "")).next().is_some()
    });
    assert_eq!(attempts(&zero, &to("cart", "")), 0);
    call(&client, "gwt-shopper", "10.96.0.10:80", 10_000);
    let seen = |metrics: &Metrics| {
        attempts(metrics, &[&to("cart", "")[..], &[("process_comm", "gwt-shopper")]].concat())
    };
    let metrics = agent.wait_metrics(SOON, "10,000 calls", |metrics| seen(metrics) >= 10_000);
    assert_eq!(seen(&metrics), 10_000);
    assert_eq!(metrics.lost(), 0);
    let refused = [&to("cart", "")[..], &[("outcome", "refused")]].concat();
    agent.wait_metrics(SOON, "all were refused", |metrics| {
        metrics.sum("gatewatch_tcp_attempt_ends_total", &refused) == 10_000
    });

    // A Service that is made while the agent runs is there at 0 within a second.
    let made = Instant::now();
    service(&cluster, "late", "10.96.0.11", &json!({}));
    agent.wait_metrics(SOON, "the new Service is known", |metrics| {
        metrics.select("internal_tcp_attempts_total", &to("late", "")).next().is_some()
    });
    assert!(made.elapsed() < Duration::from_secs(3), "{:?}", made.elapsed());

    // With a pod: by the Service's address without its name, by its own with it.
    let ip = server.pod.ip.to_string();
    pod(&cluster, "cart-1", &ip);
    endpoint(&cluster, "cart", &ip);
    at.endpoints(&[&server]);
    thread::sleep(Duration::from_secs(1));
    call(&client, "gwt-warm", "10.96.0.10:80", 100);
    call(&client, "gwt-direct", &format!("{ip}:8080"), 100);
    let by = |labels: [(&'static str, &'static str); 3], comm: &'static str| {
        [&labels[..], &[("process_comm", comm)]].concat()
    };
    let metrics = agent.wait_metrics(SOON, "calls by pod", |metrics| {
        attempts(metrics, &by(to("cart", "cart-1"), "gwt-direct")) == 100
    });
    assert_eq!(attempts(&metrics, &by(to("cart", ""), "gwt-warm")), 100);

    // The Service goes, and its series with it; its address gets another name at once.
    cluster.delete(&format!("{SERVICES}/cart"));
    service(&cluster, "basket", "10.96.0.10", &json!({}));
    thread::sleep(Duration::from_secs(1));
    call(&client, "gwt-again", "10.96.0.10:80", 10);
    let metrics = agent.wait_metrics(SOON, "calls to the new Service", |metrics| {
        attempts(metrics, &by(to("basket", ""), "gwt-again")) == 10
    });
    assert_eq!(attempts(&metrics, &[("destination_service", "cart"), ("destination_pod", "")]), 0);
}

/// Debian's, that scrapes the agent each second.
fn prometheus(cluster: &Cluster, agent: &Agent) -> (Process, u16) {
    let (port, config) = (free_port(), cluster.path("prometheus.yml"));
    let text = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: node, static_configs: [{{targets: ['127.0.0.1:{}']}}]}}]\n",
        agent.port
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", cluster.path("prometheus").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let process = Process::start(&mut command, cluster.path("prometheus.log"));
    wait_until(SOON, "Prometheus is ready", || {
        get(port, "/-/ready").is_some_and(|(status, _)| status == 200)
    });
    (process, port)
}

/// The value of an expression without labels.
fn query(port: u16, expression: &str) -> Option<f64> {
    let escaped: String =
        expression
            .bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect();
    let (_, body) = get(port, &format!("/api/v1/query?query={escaped}"))?;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["status"], "success", "{body}");
    answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

#[test]
fn one_single_connect_by_a_process_never_seen_to_a_service_never_called_raises_the_query() {
    let _turn = Turn::alone();
    let (node, cluster) = cluster("prom");
    let client = node.client_pod("client");
    service(&cluster, "my-svc", "10.96.0.20", &json!({}));
    let _cold = node.service("10.96.0.20", 80);
    let agent = agent(&cluster);
    let (_prometheus, port) = prometheus(&cluster, &agent);
    const QUERY: &str = r#"sum(rate(internal_tcp_attempts_total{destination_service="my-svc"}[1m]))"#;
    wait_until(SOON, "the series is there, at 0", || query(port, QUERY) == Some(0.0));
    call(&client, "gwt-once", "10.96.0.20:80", 1);
    wait_for(
        SOON,
        || format!("the query rises: {:?}", query(port, QUERY)),
        || query(port, QUERY).filter(|value| *value > 0.0),
    );
    let exact = query(port, r#"sum(internal_tcp_attempts_total{destination_service="my-svc"})"#);
    assert_eq!(exact, Some(1.0));
    // A person who looks sees the value at once.
    assert_eq!(attempts(&agent.metrics(), &to("my-svc", "")), 1);
}

#[test]
fn the_map_serves_on_while_the_api_server_is_away() {
    let _turn = Turn::alone();
    let (node, mut cluster) = cluster("away");
    let client = node.client_pod("client");
    service(&cluster, "cart", "10.96.0.30", &json!({}));
    let _cold = node.service("10.96.0.30", 80);
    let agent = agent(&cluster);
    cluster.stop_apiserver();
    call(&client, "gwt-blind", "10.96.0.30:80", 50);
    let metrics =
        agent.wait_metrics(SOON, "calls are named", |metrics| attempts(metrics, &to("cart", "")) == 50);
    assert_eq!(metrics.lost(), 0);
    wait_until(SOON, "the map's age is told", || {
        let metrics = agent.metrics();
        metrics.select("gatewatch_cluster_age_seconds", &[]).next().is_some_and(|age| age.value > 2.0)
    });
}

#[test]
fn the_very_first_request_of_a_service_at_zero_is_answered() {
    let _turn = Turn::alone();
    let (node, cluster) = cluster("first");
    let (client, server) = (node.client_pod("client"), node.server_pod("server", 8080));
    service(&cluster, "cart", "10.96.0.40", &json!({"gatewatch.io/hold": "10s"}));
    service(&cluster, "plain", "10.96.0.41", &json!({}));
    let (at, _plain) = (node.service("10.96.0.40", 80), node.service("10.96.0.41", 80));
    let agent = agent(&cluster);
    agent.wait_metrics(SOON, "the hold is on", |metrics| {
        metrics.select("gatewatch_hold_addresses", &[]).next().is_some_and(|held| held.value > 0.0)
            && metrics.select("gatewatch_hold_interfaces", &[]).next().is_some_and(|held| held.value > 0.0)
    });
    let asked = |address: &str| {
        let address: SocketAddr = address.parse().unwrap();
        client.thread(move || {
            let began = Instant::now();
            (request(address, Duration::from_secs(15)), began.elapsed())
        })
    };
    let (refused, after) = asked("10.96.0.41:80").join().unwrap();
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(after < Duration::from_secs(1), "{after:?}");

    // A caller in the node's own network cannot be held, and is told of.
    let unheld = node.inside(|| request("10.96.0.40:80".parse().unwrap(), Duration::from_secs(15)));
    assert_eq!(unheld.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    let of_host = [("reason", "host_network")];
    agent.wait_metrics(SOON, "it is counted", |metrics| {
        metrics.sum("gatewatch_hold_unheld_total", &of_host) == 1
    });

    let waiting = asked("10.96.0.40:80");
    thread::sleep(Duration::from_millis(700));
    assert!(!waiting.is_finished(), "the refusal is held back");
    at.endpoints(&[&server]);
    let ip = server.pod.ip.to_string();
    pod(&cluster, "cart-1", &ip);
    endpoint(&cluster, "cart", &ip);
    let ready = Instant::now();
    let (answer, _) = waiting.join().unwrap();
    assert!(text(&answer.unwrap()).ends_with("ok"));
    assert!(ready.elapsed() < Duration::from_millis(900), "{:?}", ready.elapsed());
    let metrics = agent.wait_metrics(SOON, "it was connected by the hold", |metrics| {
        metrics.sum("gatewatch_hold_connected_total", &[]) == 1
    });
    assert_eq!(attempts(&metrics, &to("cart", "")), 2);
    assert_eq!(metrics.sum("gatewatch_hold_unheld_total", &[]), 1);
}

/// docs/metrics-node.md has a row for each family that is exposed, and no other.
#[test]
fn documented_metrics_of_the_node() {
    let _turn = Turn::alone();
    let (node, cluster) = cluster("docs");
    let client = node.client_pod("client");
    let server = node.server_pod("server", 8080);
    let agent = AgentSetup::node()
        .env("MODE", "cluster")
        .env("ENABLE_L7_HTTP", "true")
        .env("KUBECONFIG", cluster.kubeconfig().to_str().unwrap())
        .config(&format!("node: {{ demand: {{ listen: '127.0.0.1:{}' }} }}", free_port()))
        .start();
    agent.wait_ready();
    let at = server.at(false);
    client.inside(move || request(at, SOON).unwrap());
    let metrics = agent
        .wait_metrics(SOON, "a request", |metrics| metrics.sum("internal_http_requests_total", &[]) >= 1);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics-node.md");
    let text = fs::read_to_string(file).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`').to_owned(), cells[2].to_owned())
    });
    let documented: std::collections::BTreeSet<_> = rows.collect();
    let families = metrics.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        let end = if kind == "counter" { "_total" } else { "" };
        (format!("{name}{end}"), kind.to_owned())
    });
    let exposed: std::collections::BTreeSet<_> = families.collect();
    assert_eq!(exposed, documented);
}

#[test]
fn a_namespace_that_does_not_exist_is_told() {
    let _turn = Turn::shared();
    let cluster = Cluster::start(&[]);
    cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}}));
    service(&cluster, "cart", "10.96.0.10", &json!({}));
    for (namespace, told) in [("shop", false), ("shpo", true)] {
        let agent = agent_with(&cluster, &[("WATCH_NAMESPACE", namespace), ("ENABLE_L4", "false")]);
        agent.wait_said("the cluster is known");
        if told {
            agent.wait_said("mend WATCH_NAMESPACE");
        } else {
            assert!(!agent.stdout().contains("WATCH_NAMESPACE"), "{}", agent.stdout());
        }
    }
}
