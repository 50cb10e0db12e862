//! What no real API server sends. (What one does is tested in `tests/mapper.rs`.)

use std::{
    io::Write,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Instant,
};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::directory::{Directory, Limits, ServiceKey};

/// What is done with a request, one after the other. Then the connection is closed.
#[derive(Clone)]
enum Step {
    Send(String),
    /// The same again and again, for as long as it is taken.
    Forever(String),
    /// Each byte by itself, so far apart.
    Drip(String, Duration),
    Hang,
}

use Step::{Drip, Forever, Hang, Send};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";

fn ok(body: impl std::fmt::Display) -> Step {
    Send(format!("{HEAD}{body}"))
}

fn status(code: u16, headers: &str) -> Vec<Step> {
    let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no", "reason": "x" });
    vec![Send(format!("HTTP/1.1 {code} No\r\n{headers}Connection: close\r\n\r\n{body}"))]
}

/// A list's only page.
fn list(items: &[Value]) -> Step {
    ok(json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "10" }, "items": items }))
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": kind, "object": object }))
}

fn bookmark() -> String {
    event("BOOKMARK", &json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "resourceVersion": "11" } }))
}

fn service(name: &str, ip: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "ns", "resourceVersion": "5", "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "clusterIP": ip, "clusterIPs": [ip], "ports": [{ "port": 80, "protocol": "TCP" }] },
        "status": { "loadBalancer": {} },
    })
}

fn pod(name: &str, number: u32, ip: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "ns", "uid": format!("00000000-0000-0000-0000-{number:012}"), "resourceVersion": "5" },
        "spec": { "nodeName": "node", "containers": [] },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] },
    })
}

struct Fake {
    kubeconfig: NamedTempFile,
    /// The targets that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    /// Bytes that were taken from it.
    taken: Arc<AtomicU64>,
    open: Arc<AtomicUsize>,
}

impl Fake {
    /// `answer`: to what target, and how many times it was asked before.
    async fn start(answer: impl Fn(&str, usize) -> Vec<Step> + std::marker::Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let mut kubeconfig = NamedTempFile::new().unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{ "name": "it", "cluster": { "server": server } }],
            "users": [{ "name": "it", "user": {} }],
            "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
        });
        kubeconfig.write_all(config.to_string().as_bytes()).unwrap();
        let (asked, taken, open) = <(Arc<Mutex<Vec<String>>>, Arc<AtomicU64>, Arc<AtomicUsize>)>::default();
        let fake = Self { kubeconfig, asked: asked.clone(), taken: taken.clone(), open: open.clone() };
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, asked, taken, open) =
                    (answer.clone(), asked.clone(), taken.clone(), open.clone());
                tokio::spawn(async move {
                    open.fetch_add(1, Ordering::Relaxed);
                    let _closed = serve(stream, &*answer, &asked, &taken).await;
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        fake
    }

    /// A watch with little patience.
    fn watch(&self) -> Mapper {
        let patience = Patience {
            answer: Duration::from_secs(1),
            whole: Duration::from_secs(1),
            silence: Duration::from_millis(700),
            longest: 1 << 20,
        };
        let kubeconfig = Some(self.kubeconfig.path().to_owned());
        let (watch, changes) = start(WatchSettings { kubeconfig, patience, ..WatchSettings::default() });
        tokio::spawn(watch);
        Mapper {
            directory: Directory::new(Limits::default()),
            changes,
            notices: Vec::new(),
            began: Instant::now(),
        }
    }

    fn asked(&self, part: &str) -> Vec<String> {
        self.asked.lock().unwrap().iter().filter(|target| target.contains(part)).cloned().collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: &(impl Fn(&str, usize) -> Vec<Step> + Sync),
    asked: &Mutex<Vec<String>>,
    taken: &AtomicU64,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8(request).unwrap();
    let target = request.split(' ').nth(1).unwrap().to_owned();
    let before = {
        let mut asked = asked.lock().unwrap();
        let before = asked.iter().filter(|other| **other == target).count();
        asked.push(target.clone());
        before
    };
    for step in answer(&target, before) {
        match step {
            Send(text) => stream.write_all(text.as_bytes()).await?,
            Forever(text) => loop {
                stream.write_all(text.as_bytes()).await?;
                taken.fetch_add(text.len().try_into().unwrap(), Ordering::Relaxed);
            },
            Drip(text, pause) => {
                stream.set_nodelay(true)?;
                for byte in text.bytes().cycle() {
                    stream.write_u8(byte).await?;
                    time::sleep(pause).await;
                }
            }
            // Until the other side has enough of it.
            Hang => while stream.read_u8().await.is_ok() {},
        }
    }
    stream.shutdown().await
}

struct Mapper {
    directory: Directory,
    changes: Changes,
    notices: Vec<String>,
    began: Instant,
}

impl Mapper {
    async fn wait(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            assert!(self.began.elapsed() < Duration::from_secs(60), "{what}: {:#?}", self.notices);
            let change = time::timeout(Duration::from_millis(100), self.changes.next()).await;
            let Ok(change) = change.map(Option::unwrap) else { continue };
            if let Change::Notice(notice) = &change {
                assert!(notice.len() < 1000 && !notice.contains(char::is_control), "{notice}");
                self.notices.push(notice.clone());
            }
            let now_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap();
            self.directory.apply(change, now_ns);
        }
    }

    fn said(&self, part: &str) -> bool {
        self.notices.iter().any(|notice| notice.contains(part))
    }

    fn has_service(&self, name: &str) -> bool {
        self.directory.service(&ServiceKey { namespace: "ns".into(), name: name.into() }).is_some()
    }

    fn pod_at(&self, ip: &str) -> Option<&str> {
        self.directory.pod_of_address(ip.parse().unwrap()).map(|pod| &*pod.name)
    }
}

fn is_watch(target: &str) -> bool {
    target.contains("watch=true")
}

/// A quiet cluster without anything.
fn quiet(target: &str) -> Vec<Step> {
    if is_watch(target) { vec![ok(""), Hang] } else { vec![list(&[])] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_given_up_and_asked_again() {
    let fake = Fake::start(|target, before| match (target, before) {
        (target, 0) if target.contains("/services?") => vec![Hang],
        (target, 0) if target.contains("/pods?") => vec![ok("{\"kind\":\"PodList\",\"items\":["), Hang],
        (target, 0) if target.contains("/nodes?") => {
            vec![ok(""), Drip(" ".into(), Duration::from_millis(20))]
        }
        (target, 0) if target.contains("/endpointslices?") => Vec::new(),
        (target, _) => quiet(target),
    })
    .await;
    let mut mapper = fake.watch();
    mapper.wait("in the end all is known", |mapper| mapper.directory.age_ns(0).is_some()).await;
    for kind in Kind::ALL {
        assert!(
            mapper.said(&format!("{} are not heard of", kind.resource())),
            "{kind:?}: {:?}",
            mapper.notices
        );
    }
    // What was given up is closed. What is watched now is silent, and is asked for again and again.
    mapper.wait("watches are renewed", |_| fake.asked("watch=true").len() > 8).await;
    assert!(fake.open.load(Ordering::Relaxed) <= 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_end_is_asked_for_in_smaller_pages() {
    let fake = Fake::start(|target, _| match target {
        target
            if target.contains("/pods?")
                && !is_watch(target)
                && !target.contains("limit=15&")
                && !target.ends_with("limit=15") =>
        {
            vec![ok("{\"items\":["), Forever(" \n".repeat(4096))]
        }
        target => quiet(target),
    })
    .await;
    let mut mapper = fake.watch();
    mapper.wait("a page that is small enough", |mapper| mapper.directory.age_ns(0).is_some()).await;
    let limits: Vec<_> =
        [250, 62, 15].iter().map(|limit| fake.asked(&format!("limit={limit}")).len()).collect();
    assert!(limits.iter().all(|asked| *asked >= 1), "{:?}", fake.asked("/pods?"));
    assert!(fake.taken.load(Ordering::Relaxed) < 64 << 20, "it was not taken for ever");
    assert!(mapper.said("too long"), "{:?}", mapper.notices);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_a_watch_is_passed_over_and_what_comes_after_is_seen() {
    let long = "n".repeat(100_000);
    let fake = Fake::start(move |target, before| {
        if !is_watch(target) || !target.contains("/services?") {
            return quiet(target);
        }
        let mut absurd = service("absurd", "10.0.0.9");
        absurd["spec"]["ports"] = json!([{ "port": -1 }, { "port": 65_536 }, { "port": i64::MAX, "nodePort": -5 }, { "protocol": "TCP" }]);
        absurd["spec"]["clusterIPs"] = json!(["none", "999.1.1.1", "127.0.0.1", "0.0.0.0", "255.255.255.255", "ff02::1", "", long]);
        absurd["metadata"]["creationTimestamp"] = "yesterday".into();
        absurd["metadata"]["annotations"] = json!({ "gatewatch.io/hold": long });
        let mut nulls = service("nulls", "10.0.0.10");
        nulls["metadata"]["annotations"] = Value::Null;
        nulls["metadata"]["creationTimestamp"] = Value::Null;
        nulls["spec"]["ports"] = Value::Null;
        nulls["status"]["loadBalancer"]["ingress"] = Value::Null;
        let mut many = service("many", "10.0.0.11");
        many["spec"]["ports"] = (1..20_000).map(|port| json!({ "port": port })).collect();
        let object = |event: &str, object| self::event(event, object);
        let part = match before {
            0 => "what is this?\n".to_owned(),
            1 => "{\"type\":\"ADDED\",\"object\":{\"metadata\":17}}\n".to_owned(),
            2 => "\u{0}\u{1}\u{1b}[2J\n\n\n[]\nnull\n".to_owned(),
            3 => "[".repeat(200_000) + "\n",
            4 => long.repeat(20),
            5 => object("ERROR", &json!({ "kind": "Status", "code": 410, "message": long, "status": "Failure", "reason": "Expired" })),
            6 => object("ADDED", &service(&long, "10.0.0.1")) + &object("ADDED", &service("a\nb", "10.0.0.2")) + &object("DELETED", &service("", "")),
            7 => object("NONSENSE", &service("nonsense", "10.0.0.3")),
            _ => [&absurd, &nulls, &many, &service("good", "10.0.0.4")].map(|it| object("ADDED", it)).concat(),
        };
        vec![ok(bookmark() + &part), Send(bookmark()), Hang]
    })
    .await;
    let mut mapper = fake.watch();
    mapper.wait("what is good", |mapper| mapper.has_service("good")).await;
    let get = |name: &str| {
        mapper.directory.service(&ServiceKey { namespace: "ns".into(), name: name.into() }).unwrap()
    };
    let absurd = get("absurd");
    assert!(
        absurd.cluster_ips.is_empty()
            || absurd.cluster_ips == ["10.0.0.9".parse::<std::net::IpAddr>().unwrap()]
    );
    assert!(absurd.ports.is_empty() && absurd.hold.is_none());
    assert!(get("nulls").ports.is_empty());
    assert_eq!(get("many").ports.len(), crate::change::PORTS_MAX);
    assert_eq!(mapper.directory.size().services, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_pods_slices_and_nodes_have_no_names() {
    let pods = || {
        let mut good = pod("good", 1, "10.0.0.1");
        good["status"]["containerStatuses"] =
            json!([{ "containerID": "containerd://short" }, { "containerID": 5.to_string() }, {}]);
        let mut nameless = pod("", 2, "10.0.0.2");
        nameless["metadata"]["ownerReferences"] = Value::Null;
        let mut no_uid = pod("no-uid", 3, "10.0.0.3");
        no_uid["metadata"]["uid"] = "root".into();
        let mut loopback = pod("loopback", 4, "127.0.0.1");
        loopback["metadata"]["ownerReferences"] =
            json!([{ "controller": true, "kind": "", "name": "\u{1b}" }]);
        let mut greedy = pod("greedy", 5, "10.0.0.5");
        greedy["status"]["podIPs"] =
            (0..5_000).map(|at| json!({ "ip": format!("10.9.{}.{}", at / 250, at % 250) })).collect();
        vec![good, nameless, no_uid, loopback, greedy]
    };
    let slices = || {
        let endpoints: Vec<_> = (0..5_000)
            .map(|at| json!({ "addresses": [format!("10.8.{}.{}", at / 250, at % 250)] }))
            .collect();
        let slice = |name: &str, service: &str| {
            json!({
                "metadata": { "name": name, "namespace": "ns", "resourceVersion": "1", "labels": { "kubernetes.io/service-name": service } },
                "endpoints": endpoints, "ports": [{ "port": 80 }],
            })
        };
        vec![
            slice("a", "web"),
            slice("b", ""),
            json!({ "metadata": { "name": "c", "namespace": "ns", "resourceVersion": "1" }, "endpoints": null, "ports": null }),
            json!({ "metadata": { "name": "d", "namespace": "ns", "resourceVersion": "1", "labels": { "kubernetes.io/service-name": "web" } },
                "endpoints": [{ "addresses": null, "conditions": {} }, { "conditions": { "ready": null } }, {}], "ports": [{}, { "port": -7 }] }),
        ]
    };
    let fake = Fake::start(move |target, _| match target {
        target if is_watch(target) => quiet(target),
        target if target.contains("/pods?") => vec![list(&pods())],
        target if target.contains("/services?") => vec![list(&[service("web", "10.0.0.200")])],
        target if target.contains("/endpointslices?") => vec![list(&slices())],
        _ => vec![list(&[json!({ "metadata": { "name": "node", "resourceVersion": "1" }, "status": { "addresses": [
            { "type": "InternalIP", "address": "not-an-address" }, { "type": "Hostname", "address": "10.0.0.77" }, {},
        ]}})])],
    })
    .await;
    let mut mapper = fake.watch();
    mapper.wait("all is known", |mapper| mapper.directory.age_ns(0).is_some()).await;
    assert_eq!(mapper.pod_at("10.0.0.1"), Some("good"));
    for ip in ["10.0.0.2", "10.0.0.3", "127.0.0.1", "10.9.1.1"] {
        assert_eq!(mapper.pod_at(ip), None, "{ip}");
    }
    assert!(mapper.directory.node_of_address("10.0.0.77".parse().unwrap()).is_none());
    let size = mapper.directory.size();
    assert_eq!((size.pods, size.slices, size.nodes), (3, 2, 1));
    let web = mapper.directory.services().next().unwrap();
    assert_eq!(web.ready_endpoints, crate::change::ENDPOINTS_MAX);
    assert!(mapper.said("passed over"), "{:?}", mapper.notices);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_waits_until_somebody_takes_it() {
    let fake = Fake::start(|target, _| {
        if !is_watch(target) || !target.contains("/pods?") {
            return quiet(target);
        }
        let flood: String = (0..100)
            .map(|at| event("MODIFIED", &pod(&format!("pod-{at}"), at, &format!("10.0.0.{at}"))))
            .collect();
        vec![ok(""), Forever(flood)]
    })
    .await;
    let mut mapper = fake.watch();
    mapper.wait("it has begun", |mapper| mapper.directory.size().pods > 0).await;
    // Nobody takes anything: what is on the way fills up, and then nothing moves.
    let settled = |fake: &Fake| fake.taken.load(Ordering::Relaxed);
    let mut before = settled(&fake);
    for _ in 0..50 {
        time::sleep(Duration::from_millis(200)).await;
        let now = settled(&fake);
        if now == before {
            break;
        }
        before = now;
    }
    time::sleep(Duration::from_millis(500)).await;
    assert_eq!(settled(&fake), before, "it is still being taken");
    assert!(before < 32 << 20, "{before} bytes are on the way");
    // It goes on, and what exists is bounded.
    for _ in 0..20_000 {
        let change = mapper.changes.next().await.unwrap();
        mapper.directory.apply(change, 0);
    }
    assert_eq!(mapper.directory.size().pods, 100);
    drop(mapper);
    while fake.open.load(Ordering::Relaxed) > 0 {
        assert!(before > 0);
        time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_tried_again_not_at_once_and_not_when_the_server_likes() {
    let fake = Fake::start(|target, before| match (target, before) {
        (target, 0) if target.contains("/services?") => status(500, ""),
        (target, 0) if target.contains("/pods?") => status(429, "Retry-After: 100000\r\n"),
        (target, _) if target.contains("/nodes?") => status(403, ""),
        (target, 0) if target.contains("/endpointslices?") => status(410, ""),
        (target, _) => quiet(target),
    })
    .await;
    let mut mapper = fake.watch();
    mapper.wait("all but nodes", |mapper| mapper.directory.age_ns(0).is_some()).await;
    assert!(mapper.said("refuses nodes"), "{:?}", mapper.notices);
    assert!(fake.asked("/nodes?").len() < 5, "who is refused does not ask again and again");
    assert_eq!(fake.asked("/services?").iter().filter(|target| !is_watch(target)).count(), 2);
}
