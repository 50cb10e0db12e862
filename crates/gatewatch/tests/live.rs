//! The configuration changes while the agent runs, and no count is lost.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{
    Agent, AgentSetup, Client, Metrics, Nginx, SOON, Setup, Turn, get,
    net::{HERE, Pod, THERE, adds_up, frames, packets, sink, statistics},
    signal, wait_for, wait_until,
};
use rustix::process::Signal;
use tempfile::TempDir;

const REQUESTS: &str = "gatewatch_http_requests_total";

const GATEWAY: &str = r#"
    server {
        listen 127.0.0.1:@PORT@ backlog=4096;
        location / { return 200 "hello\n"; }
        location /missing { return 404; }
        location = /stub { stub_status; }
    }
"#;

/// The document's file, unchanged.
const CONTRACT: &str = include_str!("../../config/tests/contract.yaml");

/// A configuration's file in a directory of its own, changed in each way a file is.
struct File {
    dir: TempDir,
    versions: u32,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    /// Opened and written to.
    InPlace,
    /// Another file gets its name.
    Rename,
    /// As the kubelet exchanges a `ConfigMap`: a link on the way is replaced.
    Swap,
}

impl File {
    fn new(text: &str) -> Self {
        let file = Self { dir: tempfile::Builder::new().prefix("gwc-").tempdir().unwrap(), versions: 0 };
        fs::write(file.path(), text).unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("gatewatch.yaml")
    }

    fn set(&mut self, way: Way, bytes: &[u8]) {
        let path = |name: &str| self.dir.path().join(name);
        match way {
            Way::InPlace => fs::write(self.path(), bytes).unwrap(),
            Way::Rename => {
                fs::write(path("new"), bytes).unwrap();
                fs::rename(path("new"), self.path()).unwrap();
            }
            Way::Swap => {
                self.versions += 1;
                let version = format!("..{}", self.versions);
                fs::create_dir(path(&version)).unwrap();
                fs::write(path(&version).join("gatewatch.yaml"), bytes).unwrap();
                symlink(&version, path("..data_tmp")).unwrap();
                fs::rename(path("..data_tmp"), path("..data")).unwrap();
                // Only the first time, and after the others' ways, does the file itself become a link.
                if !self.path().is_symlink() {
                    symlink("..data/gatewatch.yaml", path("link")).unwrap();
                    fs::rename(path("link"), self.path()).unwrap();
                }
            }
        }
    }

    /// Written and applied.
    fn apply(&mut self, agent: &Agent, text: &str) {
        let before = reloads(agent, "applied");
        self.set(Way::Rename, text.as_bytes());
        signal(agent.pid(), Signal::HUP);
        let told = || format!("the configuration is applied; it said:\n{}", common::tail(&agent.stdout()));
        wait_for(SOON, told, || (reloads(agent, "applied") > before).then_some(()));
    }
}

/// `u64::MAX` while there are no metrics.
fn reloads(agent: &Agent, result: &str) -> u64 {
    match get(agent.port, "/metrics") {
        Some((200, body)) => {
            Metrics::parse(&body).sum("gatewatch_config_reloads_total", &[("result", result)])
        }
        _ => u64::MAX,
    }
}

fn watch(name: &str, file: &File, args: &[&str]) -> Agent {
    AgentSetup::new(name).args(&["--config", file.path().to_str().unwrap()]).args(args).watch()
}

fn ask(gateway: &Nginx, host: &str, path: &str) {
    let mut client = Client::new(gateway.port());
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
    client.response();
}

/// Requests by host, path and service.
fn by_labels(metrics: &Metrics) -> BTreeMap<(String, String, String), u64> {
    let mut counts = BTreeMap::new();
    for sample in metrics.select(REQUESTS, &[]) {
        let label = |name: &str| sample.label(name).to_owned();
        let labels = [
            ("host", sample.label("host")),
            ("path", sample.label("path")),
            ("service", sample.label("service")),
        ];
        counts.insert((label("host"), label("path"), label("service")), metrics.sum(REQUESTS, &labels));
    }
    counts
}

/// Each key of the document's file that is about requests does what it says, and its switches do, one by one, while
/// the agent runs.
#[test]
fn the_contracts_keys() {
    let _turn = Turn::shared();
    let name = "gw-live-g9";
    let gateway = Setup::new(name, GATEWAY).start();
    let mut file = File::new(CONTRACT);
    let agent = watch(name, &file, &[]);
    let asked = [
        ("api.example.com", "/v1/users/7", ("api.example.com", "/v1/users/*", "user-service")),
        ("api.example.com", "/v1/orders/9", ("api.example.com", "/v1/orders/*", "order-service")),
        ("admin.example.com", "/v1/x", ("admin.example.com", "/v1/x", "admin-service")),
        ("static.example.com", "/v2/y", ("static.example.com", "/v2/y", "static-service")),
        // Not tracked, or excluded: folded, and still of their service.
        ("api.example.com", "/private", ("api.example.com", "(untracked)", "")),
        ("api.example.com", "/health", ("api.example.com", "(untracked)", "")),
        ("admin.example.com", "/metrics", ("admin.example.com", "(untracked)", "admin-service")),
        ("health.example.com", "/api/z", ("(untracked)", "/api/z", "")),
        ("example.com", "/api/z", ("(untracked)", "/api/z", "")),
        ("other.org", "/health", ("(untracked)", "(untracked)", "")),
    ];
    let mut expected: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    let mut sent = 0;
    let mut check = |hosts: bool, paths: bool, services: bool| {
        for (host, path, labels) in asked {
            ask(&gateway, host, path);
            let named = if services { labels.1 } else { path };
            let path = match labels.1 {
                _ if !paths => "",
                "(untracked)" => "(untracked)",
                _ => named,
            };
            let host = if hosts { labels.0 } else { "" };
            let service = if services { labels.2 } else { "" };
            *expected.entry((host.to_owned(), path.to_owned(), service.to_owned())).or_default() += 1;
            sent += 1;
        }
        let metrics = agent.wait_reported(sent);
        assert_eq!(by_labels(&metrics), expected);
        assert_eq!((metrics.reported(), metrics.lost()), (sent, 0));
    };
    check(true, true, true);
    let off = |section: &str| {
        let from = format!("{section}:\n  enabled: true");
        assert!(CONTRACT.contains(&from), "{section}");
        CONTRACT.replace(&from, &format!("{section}:\n  enabled: false"))
    };
    // Without rules nothing but what is learned names a path, and what is asked for but once keeps its own words.
    file.apply(&agent, &off("domain_analysis"));
    check(false, true, true);
    file.apply(&agent, &off("path_analysis"));
    check(true, false, true);
    file.apply(&agent, CONTRACT);
    check(true, true, true);
    file.apply(
        &agent,
        &off("path_analysis").replace("routing:\n  enabled: true", "routing:\n  enabled: false"),
    );
    check(true, false, false);

    file.apply(&agent, &off("monitoring"));
    assert_eq!(get(agent.port, "/readyz").unwrap().0, 503, "no gateway is watched");
    ask(&gateway, "api.example.com", "/v1/users/7");
    file.apply(&agent, CONTRACT);
    agent.wait_ready();
    check(true, true, true);

    assert_eq!(get(agent.port, "/metrics").unwrap().0, 200);
    file.set(Way::InPlace, off("metrics").as_bytes());
    wait_until(SOON, "no metrics", || get(agent.port, "/metrics").unwrap().0 == 404);
    assert_eq!(get(agent.port, "/healthz").unwrap().0, 200);
    file.set(Way::InPlace, CONTRACT.as_bytes());
    wait_until(SOON, "metrics", || get(agent.port, "/metrics").unwrap().0 == 200);
    agent.wait_said("configuration changed: `metrics.enabled`: true → false");
}

/// What does not pass is not reported, is counted, and is no loss of coverage.
#[test]
fn filters() {
    let _turn = Turn::shared();
    let name = "gw-live-filter";
    let gateway = Setup::new(name, GATEWAY).start();
    let filters = "monitoring: { filters: [{ method: GET }, { status: 2xx }, { host: '*.a.org', network: 127.0.0.0/8 }] }";
    let mut file = File::new(filters);
    let agent = watch(name, &file, &[]);
    let first = gateway.stub_status();
    let mut client = Client::new(gateway.port());
    for host in ["x.a.org", "y.a.org", "a.org", "b.org"] {
        for (method, path) in [("GET", "/1"), ("POST", "/2"), ("GET", "/missing")] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
            client.send(request.as_bytes());
            client.response();
        }
    }
    let counted = gateway.stub_status() - first + 1;
    let all = |metrics: &Metrics| metrics.reported() + metrics.lost() >= counted;
    let metrics = agent.wait_metrics(SOON, "all are accounted for", all);
    let kept_out = |kind| metrics.sum("gatewatch_lost_total", &[("stage", "filter"), ("reason", kind)]);
    assert_eq!(metrics.reported(), 2, "{}", metrics.brief());
    // The two questions for the count came for host `test`.
    assert_eq!([kept_out("method"), kept_out("status"), kept_out("host"), kept_out("network")], [4, 4, 4, 0]);
    assert_eq!(metrics.lost(), 12);
    assert_eq!(metrics.sum("gatewatch_http_requests_seen_total", &[]), counted);
    let coverage: Vec<f64> =
        metrics.select("gatewatch_capture_coverage_ratio", &[]).map(|s| s.value).collect();
    assert_eq!(coverage, [1.0], "what is left out on purpose is not missing");
    assert_eq!(agent.wait_requests(2).len(), 2, "no line either");

    file.apply(&agent, "monitoring: { filters: [{ network: 10.0.0.0/8 }] }");
    ask(&gateway, "x.a.org", "/1");
    let kept_out = |metrics: &Metrics| metrics.sum("gatewatch_lost_total", &[("reason", "network")]);
    agent.wait_metrics(SOON, "the client's network is filtered", |metrics| kept_out(metrics) == 1);
    file.apply(&agent, "{}");
    ask(&gateway, "b.org", "/missing");
    agent.wait_reported(3);
}

fn wrk(gateway: &Nginx, path: &str, seconds: u32) -> Child {
    Command::new("wrk")
        .args(["-t1", "-c16", &format!("-d{seconds}s"), &gateway.url(path)])
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn stop(mut load: Child) {
    signal(load.id(), Signal::INT);
    load.wait().unwrap();
}

/// Reported + lost = the gateway's own count since `first`, and it stays so.
fn check_accounted(gateway: &Nginx, agent: &Agent, first: u64) -> Metrics {
    let counted = gateway.stub_status() - first + 1;
    let all = |metrics: &Metrics| metrics.reported() + metrics.lost();
    let what = format!("all {counted} are accounted for");
    agent.wait_metrics(SOON, &what, |metrics| all(metrics) >= counted);
    std::thread::sleep(Duration::from_millis(600));
    let metrics = agent.metrics();
    println!("counted {counted}, reported {}, lost {}", metrics.reported(), metrics.lost());
    assert_eq!(all(&metrics), counted, "{}", metrics.brief());
    assert_eq!(metrics.sum("gatewatch_http_requests_seen_total", &[]), counted, "{}", metrics.brief());
    metrics
}

/// Switched off and on at rest: what the gateway served meanwhile is told, to the request.
#[test]
fn monitoring_off_and_on() {
    let _turn = Turn::shared();
    let name = "gw-live-off";
    let gateway = Setup::new(name, GATEWAY).workers(2).start();
    let mut file = File::new("{}");
    let agent = watch(name, &file, &[]);
    let first = gateway.stub_status();
    let mut unseen = 0;
    for round in 1..=3 {
        for _ in 0..10 {
            ask(&gateway, "test", "/on");
        }
        let on = 1 + round * 10;
        agent.wait_reported(on);
        // Its own count is read at rest.
        wait_until(SOON, "the gateway's count is known", || {
            agent.metrics().select("gatewatch_capture_coverage_ratio", &[]).next().is_some()
        });
        std::thread::sleep(Duration::from_millis(600));
        file.apply(&agent, "monitoring: { enabled: false }");
        for _ in 0..25 {
            ask(&gateway, "test", "/off");
        }
        unseen += 25;
        let off = |metrics: &Metrics| metrics.sum("gatewatch_lost_total", &[("reason", "monitoring_off")]);
        // Told while it is off already.
        let metrics = agent.wait_metrics(SOON, "what is missed is told", |metrics| off(metrics) >= unseen);
        assert_eq!(
            (metrics.reported(), off(&metrics), metrics.lost()),
            (on, unseen, unseen),
            "{}",
            metrics.brief()
        );
        file.apply(&agent, "{}");
        agent.wait_ready();
    }
    let metrics = check_accounted(&gateway, &agent, first);
    assert_eq!((metrics.reported(), metrics.lost()), (32, 75), "{}", metrics.brief());
    assert_eq!(metrics.sum("gatewatch_http_requests_in_flight", &[]), 0);
}

/// The same under load, with requests on their way at each switch.
#[test]
fn monitoring_off_and_on_under_load() {
    let _turn = Turn::alone();
    let name = "gw-live-toggle";
    let gateway = Setup::new(name, GATEWAY).workers(2).start();
    let mut file = File::new("{}");
    let agent = watch(name, &file, &["--no-requests"]);
    let first = gateway.stub_status();
    agent.wait_reported(1);
    wait_until(SOON, "the gateway's count is known", || {
        agent.metrics().select("gatewatch_capture_coverage_ratio", &[]).next().is_some()
    });
    std::thread::sleep(Duration::from_millis(600));
    let load = wrk(&gateway, "/load", 60);
    for _ in 0..5 {
        file.apply(&agent, "monitoring: { enabled: false }");
        std::thread::sleep(Duration::from_millis(300));
        file.apply(&agent, "{}");
        agent.wait_ready();
        std::thread::sleep(Duration::from_millis(300));
    }
    stop(load);
    // What the load left behind is to have ended.
    gateway.settled_status();
    let metrics = check_accounted(&gateway, &agent, first);
    let off = metrics.sum("gatewatch_lost_total", &[("reason", "monitoring_off")]);
    assert!(off > 0, "{}", metrics.brief());
    assert_eq!(metrics.sum("gatewatch_http_requests_in_flight", &[]), 0, "no start is left behind");
    // No start of before is taken for one of later.
    let longest = metrics.sum("gatewatch_http_request_duration_seconds_bucket", &[("le", "2.5")]);
    assert_eq!(longest, metrics.reported(), "no request took as long as the switch was off");
}

/// The counters of one scrape.
fn counters(metrics: &Metrics) -> BTreeMap<String, f64> {
    let counts = |name: &str| ["_total", "_count", "_bucket"].iter().any(|end| name.ends_with(end));
    let counters = metrics.samples.iter().filter(|sample| counts(&sample.name));
    counters.map(|sample| (format!("{} {:?}", sample.name, sample.labels), sample.value)).collect()
}

/// Good and bad configurations by turns, in each way a file is changed, while the gateway is at load.
#[test]
fn two_hundred_changes_under_load() {
    const CHANGES: usize = 200;
    let _turn = Turn::alone();
    let name = "gw-live-200";
    let http = GATEWAY.replace(
        "location /missing",
        "location /api/ { content_by_lua_block { ngx.say('hello') } }\nlocation /missing",
    );
    let gateway = Setup::new(name, http).lua().start();
    let mut file = File::new("{}");
    let mut agent = watch(name, &file, &["--no-requests"]);
    let first = gateway.stub_status();
    agent.wait_reported(1);
    let load = wrk(&gateway, "/api/users/1?token=secret", 120);
    let good = [
        "routing: { rules: [{ path: '/api/*', service: one }, { domain: 127.0.0.1, service: two }] }\n",
        "log: { level: debug }\n",
        "monitoring: { filters: [{ method: POST }] }\n",
        "mask: { query_values: false, patterns: ['[0-9]+'] }\n",
        "domain_analysis: { enabled: false }\n",
        "gateway: { lua_phases: true }\n",
        "routing: { rules: [{ path: '/api/users/*', service: two }] }\npaths: { templates: ['/api/users/{id}'] }\n",
        "gateway: { detail: lean }\nlog: { level: error }\n",
        "domain_analysis: { track_domains: ['*.org'] }\npath_analysis: { exclude_paths: ['/api/*'] }\n",
        "monitoring: { filters: [{ status: 5xx }, { host: other }] }\nstats: { interval: 1s }\n",
        "gateway: { names: [{ match: nginx, name: called }] }\nseries: { max_hosts: 5 }\n",
    ];
    let mut last = counters(&agent.metrics());
    let mut expected = (0, 0);
    for n in 0..CHANGES {
        let bad: [Vec<u8>; 5] = [
            format!("log: {{ # {n}\n").into_bytes(),
            format!("nonsense_{n}: true\n").into_bytes(),
            vec![0xff, 0xfe, 0, u8::try_from(n).unwrap()],
            Vec::new(),
            format!("series: {{ max: {n}, max_hosts: 1000 }}\n").into_bytes(),
        ];
        let way = [Way::InPlace, Way::Rename, Way::Swap][n % 3];
        if n % 2 == 0 {
            let text = format!("{}capture: {{ max_workers: {} }}\n", good[n / 2 % good.len()], 100 + n);
            file.set(way, text.as_bytes());
            expected.0 += 1;
        } else {
            file.set(way, &bad[n / 2 % bad.len()]);
            expected.1 += 1;
        }
        // Now and then it has to be noticed without a word.
        if n % 20 != 0 {
            signal(agent.pid(), Signal::HUP);
        }
        let results = |metrics: &Metrics| {
            let of = |result| metrics.sum("gatewatch_config_reloads_total", &[("result", result)]);
            (of("applied"), of("refused"))
        };
        let what = format!("change {n} ({way:?}) is taken: {expected:?}");
        let metrics = agent.wait_metrics(SOON, &what, |metrics| results(metrics) == expected);
        let now = counters(&metrics);
        for (name, before) in &last {
            // A gateway's own series go on under its new name; those by endpoint stay for ever.
            let of_gateway = ["http_requests_seen", "gateway_requests", "lua_phase", "http_overflow"];
            let of_gateway = of_gateway.iter().any(|kind| name.starts_with(&format!("gatewatch_{kind}")));
            let renamed = of_gateway && !now.contains_key(name);
            assert!(
                renamed || now.get(name).is_some_and(|now| now >= before),
                "{what}: {name} fell from {before} to {:?}",
                now.get(name)
            );
        }
        last = now;
    }
    stop(load);
    // What the load left behind is to have ended.
    gateway.settled_status();
    let metrics = check_accounted(&gateway, &agent, first);
    let of = |result| metrics.sum("gatewatch_config_reloads_total", &[("result", result)]);
    assert_eq!((of("applied"), of("refused")), (100, 100));
    assert_eq!(get(agent.port, "/healthz").unwrap().0, 200);
    assert!(agent.is_running());
    let filtered = metrics.sum("gatewatch_lost_total", &[("stage", "filter")]);
    println!("filtered {filtered}\n{}", metrics.brief());
    assert!(filtered > 0 && metrics.reported() > 0, "{}", metrics.brief());
    assert!(agent.end().success());
    assert!(!agent.stderr().contains("panicked"), "{}", agent.stderr());
    let said = agent.stdout();
    assert!(said.contains("takes effect at the next start"), "{}", common::tail(&said));
    assert!(said.contains("Lua phases are probed"), "Lua was never on");
}

/// What is refused is said once, the rest goes on, and a moment without a file is no matter.
#[test]
fn refused_once() {
    let _turn = Turn::shared();
    let name = "gw-live-bad";
    let gateway = Setup::new(name, GATEWAY).start();
    let mut file = File::new("log: { level: info }");
    let agent = watch(name, &file, &[]);
    let said = |part: &str| agent.lines().iter().filter(|line| line.raw.contains(part)).count();
    file.set(Way::Rename, b"log: { levle: warn }");
    agent.wait_said("levle");
    std::thread::sleep(Duration::from_millis(1600));
    assert_eq!(said("levle"), 1, "{}", agent.stdout());
    let refused = |n: u64| {
        let what = format!("{n} refused; it said {}", common::tail(&agent.stdout()));
        wait_until(SOON, &what, || reloads(&agent, "refused") == n);
    };
    refused(1);
    fs::remove_file(file.path()).unwrap();
    refused(2);
    agent.wait_said("is gone");
    // What is no file holds nobody up.
    common::run("mkfifo", &[file.path().to_str().unwrap()]);
    refused(3);
    agent.wait_said("it is a FIFO");
    fs::remove_file(file.path()).unwrap();
    fs::create_dir(file.path()).unwrap();
    refused(4);
    fs::remove_dir(file.path()).unwrap();
    file.set(Way::Rename, &vec![b'#'; (1 << 20) + 1]);
    refused(5);
    file.set(Way::InPlace, b"log: { level: info }");
    wait_until(SOON, "the old one is back", || reloads(&agent, "unchanged") >= 1);
    file.apply(&agent, "log: { level: debug }");
    let line = agent.wait_said("configuration changed: `log.level`: info → debug");
    assert_eq!(line.str("level"), "info");
    ask(&gateway, "test", "/x");
    agent.wait_reported(1);
    let config = |file: &Path| {
        Command::new(env!("CARGO_BIN_EXE_gatewatch")).args(["check", "config"]).arg(file).output().unwrap()
    };
    common::run("mkfifo", &[file.dir.path().join("fifo").to_str().unwrap()]);
    let checked = config(&file.dir.path().join("fifo"));
    assert!(!checked.status.success() && common::text(&checked.stderr).contains("it is a FIFO"));
}

/// Another detail, another name, other process names: what is watched goes on being counted.
#[test]
fn detail_names_and_processes() {
    let _turn = Turn::shared();
    let name = "gw-live-names";
    let config = |more: &str| format!("gateway: {{ process_name: '{name}', {more} }}");
    let mut file = File::new(&config(""));
    // Without the variable: it would stand over the file.
    let agent = AgentSetup::new("").args(&["--config", file.path().to_str().unwrap()]).start();
    // It begins under the agent's eyes: then its own count is known from the first request on.
    let gateway = Setup::new(name, GATEWAY).start();
    agent.wait_ready();
    let mut sent = 0;
    let mut ask = |n: u64| {
        (0..n).for_each(|_| ask(&gateway, "test", "/x"));
        sent += n;
        let metrics = agent.wait_reported(sent);
        assert_eq!((metrics.reported(), metrics.lost()), (sent, 0), "{}", metrics.brief());
        metrics
    };
    ask(5);
    file.apply(&agent, &config("detail: lean"));
    let metrics = ask(5);
    assert_eq!(metrics.select("gatewatch_http_requests_in_flight", &[]).count(), 0);
    file.apply(&agent, &config("detail: full"));
    let metrics = ask(5);
    assert_eq!(metrics.sum("gatewatch_http_requests_in_flight", &[]), 0);
    assert!(metrics.select("gatewatch_http_requests_in_flight", &[]).count() == 1);
    file.apply(&agent, &config("names: [{ match: nginx, name: called }]"));
    let metrics = ask(5);
    assert_eq!(metrics.sum(REQUESTS, &[("gateway", "called")]), 5);
    assert_eq!(metrics.sum("gatewatch_http_requests_seen_total", &[("gateway", "called")]), 20);
    assert_eq!(metrics.sum("gatewatch_http_requests_seen_total", &[]), 20);
    // Others join it, and it stays watched; then it is none any more, and then one again.
    file.apply(&agent, &format!("gateway: {{ process_name: 'nobody, {name}', debug_dir: /nowhere }}"));
    ask(5);
    file.apply(&agent, "gateway: { process_name: nobody }");
    wait_until(SOON, "it is let go", || get(agent.port, "/readyz").unwrap().0 == 503);
    for _ in 0..7 {
        gateway.stub_status();
    }
    file.apply(&agent, &config(""));
    agent.wait_ready();
    ask(5);
    std::thread::sleep(Duration::from_millis(600));
    let metrics = agent.metrics();
    assert_eq!((metrics.reported(), metrics.lost()), (sent, 0), "{}", metrics.brief());
}

/// A status page that is none is told of, once, although it is asked for again and again.
#[test]
fn a_status_url_of_no_use() {
    let _turn = Turn::shared();
    let name = "gw-live-status";
    let gateway = Setup::new(name, GATEWAY).start();
    let mut file = File::new("{}");
    let agent = watch(name, &file, &[]);
    file.apply(&agent, &format!("gateway: {{ status_url: '{}' }}", gateway.url("/missing")));
    agent.wait_said("gateway.status_url is of no use now: it answers 404");
    let asked = || agent.requests().iter().filter(|line| line.str("path") == "/missing").count();
    wait_until(SOON * 2, "it is asked for again", || asked() >= 2);
    let told = agent.lines().iter().filter(|line| line.raw.contains("is of no use now")).count();
    assert_eq!(told, 1, "{}", agent.stdout());
}

/// Packets are counted, or counted as kept out, whatever becomes of the filters meanwhile.
#[test]
fn packets_while_the_configuration_changes() {
    let _turn = Turn::alone();
    let pod = Pod::new("live");
    let _sink = sink();
    let with = |filters: &str, rest: &str| {
        format!("network: {{pin: false}}\nmonitoring:\n  interval: {rest}\n  filters: [{filters}]\n")
    };
    let mut file = File::new(&with("", "1s"));
    let setup = AgentSetup::new("gw-live-net").network().args(&["--config", file.path().to_str().unwrap()]);
    let agent = setup.start();
    agent.wait_attached("eth0");
    let incoming = [("interface", "eth0"), ("direction", "ingress")];
    let [_, before] = statistics("eth0");
    assert_eq!(packets(&agent.metrics(), &incoming), before);
    let mut sender = pod.load(150_000);
    let filters = [
        "",
        "{protocol: tcp}",
        "{port: '53,80'}",
        "{network: 10.98.0.0/16}",
        "{protocol: udp}",
        "{port: 7777}",
    ];
    let (mut applied, mut refused) = (0, 0);
    for (i, way) in (0..40).zip([Way::InPlace, Way::Rename, Way::Swap].into_iter().cycle()) {
        if i % 4 == 3 {
            let bad = ["monitoring: [", "nothing: 1\n", "network: {max_connections: 1}\n"][i % 3];
            // The same once more is not another refusal.
            file.set(way, format!("{bad}# {i}\n").as_bytes());
            refused += 1;
        } else {
            file.set(
                way,
                with(filters[i % filters.len()], if i % 2 == 0 { "200ms" } else { "1s" }).as_bytes(),
            );
            applied += 1;
        }
        signal(agent.pid(), Signal::HUP);
        let done = || reloads(&agent, "applied") >= applied && reloads(&agent, "refused") >= refused;
        wait_until(SOON, "it is read", done);
    }
    assert!(sender.wait().unwrap().success());
    file.apply(&agent, &with("", "100ms"));
    let metrics = adds_up(&agent);
    let kept_out = |what| metrics.sum(&format!("gatewatch_network_filtered_{what}_total"), &incoming);
    let counted = packets(&metrics, &incoming);
    let [_, own] = statistics("eth0");
    assert!(counted.0 > 1000 && kept_out("packets") > 1000, "both happened: {}", metrics.network());
    assert_eq!(
        (counted.0 + kept_out("packets"), counted.1 + kept_out("bytes")),
        own,
        "{}",
        metrics.network()
    );

    // Off: nothing is attached, and nothing falls; on: it goes on.
    let off = with("", "1s").replace("monitoring:", "monitoring:\n  enabled: false");
    file.apply(&agent, &off);
    let attached = |metrics: &Metrics| metrics.select("gatewatch_network_attached", &[]).count();
    agent.wait_metrics(SOON, "nothing is attached", |metrics| attached(metrics) == 0);
    assert!(pod.load(1000).wait().unwrap().success());
    assert_eq!(packets(&agent.metrics(), &incoming), counted);
    file.apply(&agent, &with("", "1s"));
    agent.wait_attached("eth0");
    assert!(pod.load(1000).wait().unwrap().success());
    let udp = [incoming[0], incoming[1], ("protocol", "udp")];
    let (before, after) = (packets(&metrics, &udp).0, packets(&agent.metrics(), &udp).0);
    assert_eq!(after - before, 1000);
    file.apply(&agent, &with("", "1s").replace("{pin: false}", "{pin: false, ingress: xdp}"));
    agent.wait_said("between its hooks packets of interface eth0 may have gone uncounted");
    let metrics = agent.wait_attached("eth0");
    assert!(metrics.select("gatewatch_network_attached", &[("mode", "xdp-native")]).next().is_some());
    assert!(metrics.select("gatewatch_network_blind_seconds_total", &[]).next().unwrap().value > 0.0);
    let before = packets(&agent.metrics(), &incoming);
    file.apply(&agent, &with("", "1s").replace("{pin: false}", "{pin: false, enabled: false}"));
    let up = |metrics: &Metrics| metrics.sum("gatewatch_probe_up", &[]);
    let metrics = agent.wait_metrics(SOON, "no probe counts", |metrics| up(metrics) == 0);
    assert_eq!(packets(&metrics, &incoming), before, "nothing falls");
    assert_eq!(get(agent.port, "/api/v1/connections").unwrap().0, 503);
    file.apply(&agent, &with("", "1s"));
    agent.wait_metrics(SOON, "both count", |metrics| up(metrics) == 2);
    assert!(!agent.connections().is_empty());
    file.apply(&agent, &with("{interface: nosuch0}", "1s"));
    agent.wait_said("interface nosuch0, which is not there");
    file.apply(&agent, &with("{interface: lo}", "1s"));
    agent.wait_metrics(SOON, "only lo is watched", |metrics| attached(metrics) == 1);
}

/// The document's filter: TCP at three ports.
#[test]
fn the_contracts_packets() {
    let _turn = Turn::shared();
    let pod = Pod::new("contract");
    let file = File::new(&format!("{CONTRACT}network: {{pin: false}}\n"));
    let setup = AgentSetup::new("gw-live-g9p").network().args(&["--config", file.path().to_str().unwrap()]);
    let agent = setup.start();
    agent.wait_attached("eth0");
    let send = |protocol: u8, port: u16, n: usize| {
        let payload = match protocol {
            6 => frames::tcp(40_000, port, 2, b""),
            _ => frames::udp(40_000, port, b""),
        };
        vec![frames::ip(&frames::ipv4(THERE, HERE, protocol, &[], 0, 1, &payload)); n]
    };
    let sent = [send(6, 80, 1), send(6, 443, 2), send(6, 8080, 4), send(6, 8000, 8), send(17, 80, 16)];
    pod.receive(&sent.concat());
    let metrics = agent.metrics();
    let incoming = [("interface", "eth0"), ("direction", "ingress")];
    assert_eq!(packets(&metrics, &incoming).0, 1 + 2 + 4, "{}", metrics.network());
    assert_eq!(metrics.sum("gatewatch_network_filtered_packets_total", &incoming), 8 + 16);
    for line in agent.lines().iter().filter(|line| line.raw.contains("does nothing with it yet")) {
        assert!(
            line.raw.contains("metrics.endpoint") || line.raw.contains("alerts.thresholds"),
            "{}",
            line.raw
        );
    }
}
