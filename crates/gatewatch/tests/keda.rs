//! KEDA's own operator, against a real API server, scales a Deployment from zero by what gatewatch tells it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use common::{
    Agent, AgentSetup, SOON, Turn, free_port, get,
    keda::{self, Cluster, Process},
    nodes::{Node as Machine, Pod, Reject, Rules},
    wait_for, wait_until,
};
use gatewatch_scaler::{
    demand::{self, Board},
    externalscaler::{ScaledObjectRef, external_scaler_client::ExternalScalerClient},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// How long KEDA may take to take notice of a ScaledObject.
const NOTICED: Duration = Duration::from_secs(60);
/// KEDA's own default, in seconds: push does not wait for it.
const POLLING: u64 = 30;
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/market/deployments";
const SCALED_OBJECTS: &str = "/apis/keda.sh/v1alpha1/namespaces/market/scaledobjects";

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}

/// A cluster with KEDA and a namespace.
fn cluster_with_keda() -> (Process, Cluster) {
    let cluster = Cluster::start(&["deployment-controller", "replicaset-controller"]);
    cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": "market"}}));
    (keda::start_keda(&cluster), cluster)
}

/// A Deployment without a pod, and KEDA's order to scale it by this trigger.
fn deploy(cluster: &Cluster, name: &str, polling: u64, trigger: &Value) {
    let labels = json!({"app": name});
    cluster.create(DEPLOYMENTS, &json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "x", "image": "x"}]}},
        },
    }));
    cluster.create(
        SCALED_OBJECTS,
        &json!({
            "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
            "metadata": {"name": name},
            "spec": {
                "scaleTargetRef": {"name": name},
                "minReplicaCount": 0, "maxReplicaCount": 10,
                "pollingInterval": polling,
                "cooldownPeriod": 5,
                "triggers": [trigger],
            },
        }),
    );
}

fn wait_noticed(cluster: &Cluster, keda: &Process, name: &str) {
    let path = format!("{SCALED_OBJECTS}/{name}");
    let status = || cluster.get(&path).map(|object| object["status"].clone()).unwrap_or_default();
    wait_for(
        NOTICED,
        || format!("{name}: {}\n{}", status(), common::tail(&keda.said())),
        || {
            let status = status();
            let ready = status["conditions"]
                .as_array()?
                .iter()
                .any(|it| it["type"] == "Ready" && it["status"] == "True");
            (ready && status["externalMetricNames"].is_array()).then_some(())
        },
    );
}

fn replicas(cluster: &Cluster, name: &str) -> i64 {
    cluster.get(&format!("{DEPLOYMENTS}/{name}")).unwrap()["spec"]["replicas"].as_i64().unwrap()
}

fn scaled(name: &str) -> impl Fn(&Value) -> bool {
    move |object| object["metadata"]["name"] == name && object["spec"]["replicas"] == 1
}

/// A node agent's demand, served from this process.
struct Node {
    board: Board,
    address: SocketAddr,
    _runtime: Runtime,
}

impl Node {
    fn start(name: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (board, feed) = demand::board(demand::Settings::new(name.to_owned(), unix_ns()));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime
            .spawn(async move { demand::serve(listener, feed, None, std::future::pending()).await.unwrap() });
        Self { board, address, _runtime: runtime }
    }
}

/// A machine with a pod that calls, its control plane with KEDA, and `gatewatch node` on it.
struct Scene {
    // Ended in this order.
    agent: Agent,
    demand: SocketAddr,
    keda: Process,
    cluster: Cluster,
    client: Pod,
    machine: Machine,
}

impl Scene {
    fn start(name: &str) -> Self {
        let machine = Machine::with(name, Rules::Nftables, Reject::Reset);
        machine.enter();
        let client = machine.client_pod("client");
        let (keda, cluster) = cluster_with_keda();
        let demand: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
        let agent = AgentSetup::node()
            .env("MODE", "cluster")
            .env("KUBECONFIG", cluster.kubeconfig().to_str().unwrap())
            .config(&format!("node: {{ demand: {{ listen: '{demand}' }} }}"))
            .start();
        agent.wait_ready();
        Self { agent, demand, keda, cluster, client, machine }
    }

    /// A Service without pods, with rules that refuse.
    fn service(&self, name: &str, number: usize) -> SocketAddr {
        let ip = format!("10.96.7.{number}");
        self.cluster.create(
            "/api/v1/namespaces/market/services",
            &json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}}),
        );
        self.machine.service(&ip, 80).address
    }

    /// Whoever asks is refused.
    fn call(&self, address: SocketAddr) {
        let connected = self.client.inside(move || std::net::TcpStream::connect(address));
        assert_eq!(connected.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

/// `gatewatch scaler` as a process.
struct Scaler {
    process: Process,
    port: u16,
    metrics: u16,
}

impl Scaler {
    fn start(cluster: &Cluster, port: u16, nodes: &[&Node], more: &[&str]) -> Self {
        let nodes: Vec<_> = nodes.iter().map(|node| node.address).collect();
        Self::of(cluster, port, &nodes, more)
    }

    fn of(cluster: &Cluster, port: u16, nodes: &[SocketAddr], more: &[&str]) -> Self {
        let metrics = free_port();
        let nodes: Vec<_> = nodes.iter().map(SocketAddr::to_string).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatewatch"));
        command
            .args(["scaler", "--listen", &format!("127.0.0.1:{port}"), "--nodes", &nodes.join(",")])
            .args(["--metrics", &format!("127.0.0.1:{metrics}")])
            .args(more);
        let process = Process::start(&mut command, cluster.path(&format!("scaler-{metrics}.log")));
        let scaler = Self { process, port, metrics };
        let ready = || get(metrics, "/readyz").is_some_and(|(status, _)| status == 200);
        wait_until(SOON, "the scaler is ready", ready);
        scaler
    }

    /// A trigger that asks it.
    fn trigger(&self, service: &str) -> Value {
        let address = format!("127.0.0.1:{}", self.port);
        json!({"type": "external-push", "metadata": {"scalerAddress": address, "service": service}})
    }

    fn metric(&self, name: &str) -> u64 {
        let (_, text) = get(self.metrics, "/metrics").unwrap();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn wait_streams(&self, n: u64) {
        wait_until(NOTICED, "KEDA opens its streams", || self.metric("gatewatch_scaler_streams") == n);
    }
}

fn report(what: &str, mut taken: Vec<Duration>) {
    taken.sort_unstable();
    let n = taken.len();
    println!(
        "{what}: median {:?}, p99 {:?}, most {:?} of {n}",
        taken[n / 2],
        taken[n * 99 / 100],
        taken[n - 1]
    );
}

#[test]
fn the_first_call_scales_from_zero_at_once_by_push() {
    const SERVICES: usize = 20;
    let _turn = Turn::alone();
    let (keda, cluster) = cluster_with_keda();
    let mut node = Node::start("a");
    let scaler = Scaler::start(&cluster, free_port(), &[&node], &[]);
    for i in 0..SERVICES {
        deploy(&cluster, &format!("shop{i}"), POLLING, &scaler.trigger(&format!("shop{i}")));
    }
    for i in 0..SERVICES {
        wait_noticed(&cluster, &keda, &format!("shop{i}"));
    }
    scaler.wait_streams(SERVICES as u64);
    let watch = cluster.watch(DEPLOYMENTS);
    let mut taken = Vec::new();
    for i in 0..SERVICES {
        let name = format!("shop{i}");
        assert_eq!(replicas(&cluster, &name), 0);
        let called = Instant::now();
        node.board.called("market", &name, 1, unix_ns());
        let at = watch.until(SOON, "it is scaled", scaled(&name));
        taken.push(at - called);
    }
    report("push: call → spec.replicas = 1", taken.clone());
    taken.sort_unstable();
    assert!(taken[SERVICES / 2] < Duration::from_secs(2), "{taken:?}");
    assert!(scaler.metric("gatewatch_scaler_activations_total") >= SERVICES as u64);
    assert_eq!(scaler.metric("gatewatch_scaler_bad_questions_total"), 0, "{}", common::tail(&keda.said()));
}

#[test]
fn one_connect_in_a_pod_scales_from_zero_at_once_by_push() {
    const SERVICES: usize = 10;
    let _turn = Turn::alone();
    let scene = Scene::start("push");
    let scaler = Scaler::of(&scene.cluster, free_port(), &[scene.demand], &[]);
    let name = |i: usize| format!("shop{i}");
    let addresses: Vec<_> = (0..SERVICES).map(|i| scene.service(&name(i), i + 1)).collect();
    for i in 0..SERVICES {
        deploy(&scene.cluster, &name(i), POLLING, &scaler.trigger(&name(i)));
    }
    for i in 0..SERVICES {
        wait_noticed(&scene.cluster, &scene.keda, &name(i));
    }
    scaler.wait_streams(SERVICES as u64);
    let watch = scene.cluster.watch(DEPLOYMENTS);
    let mut taken = Vec::new();
    for (i, address) in addresses.into_iter().enumerate() {
        assert_eq!(replicas(&scene.cluster, &name(i)), 0);
        let called = Instant::now();
        scene.call(address);
        taken.push(watch.until(SOON, "it is scaled", scaled(&name(i))) - called);
    }
    report("connect() in a pod, push: → spec.replicas = 1", taken.clone());
    taken.sort_unstable();
    // KEDA asks each 30 seconds; this did not wait for it.
    assert!(taken[SERVICES / 2] < Duration::from_secs(2), "{taken:?}");
}

/// Asked as KEDA asks: from the system call to the word on the stream.
#[test]
fn one_connect_in_a_pod_turns_the_stream_active_within_ten_milliseconds() {
    const SERVICES: usize = 200;
    let _turn = Turn::alone();
    let scene = Scene::start("wake");
    let addresses: Vec<_> = (0..SERVICES).map(|i| scene.service(&format!("shop{i}"), i + 1)).collect();
    let last = format!("destination_service=\"shop{}\"", SERVICES - 1);
    let shown = || get(scene.agent.port, "/metrics").is_some_and(|(_, text)| text.contains(&last));
    wait_until(SOON, "the node agent knows all Services", shown);
    let scaler = Scaler::of(&scene.cluster, free_port(), &[scene.demand], &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let taken = runtime.block_on(async {
        let url = format!("http://127.0.0.1:{}", scaler.port);
        let mut client = ExternalScalerClient::connect(url).await.unwrap();
        let mut taken = Vec::new();
        for (i, address) in addresses.into_iter().enumerate() {
            let asked = ScaledObjectRef {
                name: "x".to_owned(),
                namespace: "market".to_owned(),
                scaler_metadata: [("service".to_owned(), format!("shop{i}"))].into(),
            };
            let mut stream = client.stream_is_active(asked).await.unwrap().into_inner();
            assert!(!stream.message().await.unwrap().unwrap().result);
            let called = Instant::now();
            scene.call(address);
            let answer = tokio::time::timeout(SOON, stream.message()).await.unwrap();
            assert!(answer.unwrap().unwrap().result);
            taken.push(called.elapsed());
        }
        taken
    });
    report("connect() in a pod → StreamIsActive true", taken.clone());
    let mut taken = taken;
    taken.sort_unstable();
    // The goal is 10 ms at the 99th percentile; others may hold the machine's cores.
    assert!(taken[SERVICES / 2] < Duration::from_millis(10), "{taken:?}");
}

#[test]
fn a_call_while_no_scaler_runs_scales_as_soon_as_one_does() {
    let _turn = Turn::alone();
    let (keda, cluster) = cluster_with_keda();
    let mut node = Node::start("a");
    let port = free_port();
    let scaler = Scaler::start(&cluster, port, &[&node], &[]);
    deploy(&cluster, "shop", POLLING, &scaler.trigger("shop"));
    wait_noticed(&cluster, &keda, "shop");
    scaler.wait_streams(1);
    let watch = cluster.watch(DEPLOYMENTS);
    let ended = scaler.process.stop();
    assert!(ended.success(), "{ended}");
    let called = Instant::now();
    node.board.called("market", "shop", 1, unix_ns());
    thread::sleep(Duration::from_millis(500));
    assert_eq!(replicas(&cluster, "shop"), 0);
    let again = Instant::now();
    let _scaler = Scaler::start(&cluster, port, &[&node], &[]);
    let at = watch.until(SOON, "it is scaled", scaled("shop"));
    println!("scaler restarted: {:?} after the call, {:?} after its start", at - called, at - again);
}

#[test]
fn keda_asks_over_tls() {
    let _turn = Turn::alone();
    let (keda, cluster) = cluster_with_keda();
    let mut node = Node::start("a");
    let dir = cluster.path("scaler-certificates");
    fs::create_dir(&dir).unwrap();
    keda::self_signed(&dir, "tls.crt", "tls.key");
    let file = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (file("tls.crt"), file("tls.key"));
    let scaler =
        Scaler::start(&cluster, free_port(), &[&node], &["--tls-cert", &certificate, "--tls-key", &key]);
    cluster.create("/api/v1/namespaces/market/secrets", &json!({
        "metadata": {"name": "scaler-ca"}, "stringData": {"ca": fs::read_to_string(&certificate).unwrap()},
    }));
    cluster.create(
        "/apis/keda.sh/v1alpha1/namespaces/market/triggerauthentications",
        &json!({
            "apiVersion": "keda.sh/v1alpha1", "kind": "TriggerAuthentication", "metadata": {"name": "scaler"},
            "spec": {"secretTargetRef": [{"parameter": "caCert", "name": "scaler-ca", "key": "ca"}]},
        }),
    );
    let mut trigger = scaler.trigger("shop");
    trigger["metadata"]["scalerAddress"] = format!("localhost:{}", scaler.port).into();
    trigger["authenticationRef"] = json!({"name": "scaler"});
    deploy(&cluster, "shop", POLLING, &trigger);
    wait_noticed(&cluster, &keda, "shop");
    scaler.wait_streams(1);
    let watch = cluster.watch(DEPLOYMENTS);
    node.board.called("market", "shop", 1, unix_ns());
    watch.until(SOON, "it is scaled", scaled("shop"));
}

/// Scraped and polled each second; `GATEWATCH_TEST_INTERVALS="15 30"` shows what usual intervals make of it.
#[test]
fn the_first_call_scales_from_zero_by_prometheus() {
    const SERVICES: usize = 3;
    let _turn = Turn::alone();
    let intervals = std::env::var("GATEWATCH_TEST_INTERVALS").unwrap_or_else(|_| "1 1".to_owned());
    let mut seconds = intervals.split(' ').map(|it| it.parse().unwrap());
    let (scrape, polling): (u64, u64) = (seconds.next().unwrap(), seconds.next().unwrap());
    let scene = Scene::start("keda");
    let prometheus = Prometheus::start(&scene.cluster, scrape, scene.agent.port);
    let mut addresses = Vec::new();
    for i in 0..SERVICES {
        let name = format!("shop{i}");
        addresses.push(scene.service(&name, i + 1));
        // The contract's own words.
        let query = format!("sum(rate(internal_tcp_attempts_total{{destination_service=\"{name}\"}}[1m]))");
        let metadata = json!({
            "serverAddress": format!("http://127.0.0.1:{}", prometheus.port),
            "query": query, "threshold": "1", "activationThreshold": "0",
        });
        deploy(&scene.cluster, &name, polling, &json!({"type": "prometheus", "metadata": metadata}));
    }
    for i in 0..SERVICES {
        wait_noticed(&scene.cluster, &scene.keda, &format!("shop{i}"));
    }
    // The series is there at 0 before the call.
    let known = || prometheus.knows("count_over_time(internal_tcp_attempts_total[1m])>1");
    wait_until(NOTICED, "Prometheus knows the series", known);
    let watch = scene.cluster.watch(DEPLOYMENTS);
    let mut taken = Vec::new();
    for (i, address) in addresses.into_iter().enumerate() {
        let name = format!("shop{i}");
        assert_eq!(replicas(&scene.cluster, &name), 0);
        let called = Instant::now();
        scene.call(address);
        taken.push(watch.until(NOTICED, "it is scaled", scaled(&name)) - called);
    }
    report(&format!("Prometheus every {scrape} s, KEDA every {polling} s: call → spec.replicas = 1"), taken);
}

/// Debian's, that scrapes one target.
struct Prometheus {
    _process: Process,
    port: u16,
}

impl Prometheus {
    fn start(cluster: &Cluster, interval: u64, target: u16) -> Self {
        let (port, config) = (free_port(), cluster.path("prometheus.yml"));
        let text = format!(
            "global: {{scrape_interval: {interval}s}}\n\
             scrape_configs: [{{job_name: node, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n"
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
        Self { _process: process, port }
    }

    fn knows(&self, query: &str) -> bool {
        let answer = get(self.port, &format!("/api/v1/query?query={query}"));
        answer.is_some_and(|(_, body)| body.contains("destination_service"))
    }
}
