//! The directory against a real control plane.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../gatewatch/tests/common/cluster.rs"]
mod cluster;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use cluster::{ControlPlane, ControlPlaneSetup, running};
use gatewatch_identity::{
    change::Change,
    directory::{Destination, Directory, Limits, Service, ServiceKey},
    watch::{self, Changes, Patience, WatchSettings},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service as ServiceObject},
};
use serde_json::{Value, json};

/// The mapping must be right so soon after a change.
const SOON: Duration = Duration::from_secs(1);
/// What is no matter of the mapper's own speed.
const LATER: Duration = Duration::from_secs(60);

/// What the agent's hot loop does with the watch, and nothing else.
struct Mapper {
    directory: Directory,
    changes: Changes,
    notices: Vec<String>,
    began: Instant,
}

impl Mapper {
    fn start(plane: &ControlPlane, settings: WatchSettings) -> Self {
        let (watch, changes) = watch::start(settings);
        plane.runtime().spawn(watch);
        let directory = Directory::new(Limits::default());
        Self { directory, changes, notices: Vec::new(), began: Instant::now() }
    }

    /// As this user of the control plane, and complete.
    fn of(plane: &ControlPlane, user: &str) -> Self {
        let settings =
            WatchSettings { kubeconfig: Some(plane.kubeconfig_of(user)), ..WatchSettings::default() };
        let mut mapper = Self::start(plane, settings);
        mapper.wait(LATER, "the map is complete", |mapper| mapper.age().is_some());
        mapper
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    fn turn(&mut self) {
        for _ in 0..1000 {
            let Some(change) = self.changes.take() else { return };
            if let Change::Notice(notice) = &change {
                self.notices.push(notice.clone());
            }
            let now_ns = self.now_ns();
            self.directory.apply(change, now_ns);
        }
    }

    /// Turns as the hot loop does until this holds; how long it took.
    fn wait(&mut self, limit: Duration, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let began = Instant::now();
        loop {
            self.turn();
            if holds(self) {
                return began.elapsed();
            }
            let size = self.directory.size();
            assert!(
                began.elapsed() < limit,
                "waited {limit:?} in vain: {what}; {size:?}, it said {:#?}",
                self.notices
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn age(&self) -> Option<Duration> {
        self.directory.age_ns(self.now_ns()).map(Duration::from_nanos)
    }

    fn service(&self, name: &str) -> Option<&Service> {
        self.directory.service(&key(name))
    }

    /// Namespace and Service, pod, and node at an address.
    fn at(&self, address: &str) -> (String, String, String) {
        names(&self.directory.destination(address.parse::<SocketAddr>().unwrap()))
    }

    fn pod_at(&self, ip: &str) -> Option<String> {
        self.directory.pod_of_address(ip.parse::<IpAddr>().unwrap()).map(|pod| pod.name.to_string())
    }
}

/// `namespace/name`
fn key(name: &str) -> ServiceKey {
    let (namespace, name) = name.split_once('/').unwrap();
    ServiceKey { namespace: namespace.into(), name: name.into() }
}

fn names(to: &Destination) -> (String, String, String) {
    let service = to.service.as_ref().map(|key| format!("{}/{}", key.namespace, key.name));
    let pod = to.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name));
    (service.unwrap_or_default(), pod.unwrap_or_default(), to.node.as_deref().unwrap_or_default().to_owned())
}

fn told(service: &str, pod: &str, node: &str) -> (String, String, String) {
    (service.to_owned(), pod.to_owned(), node.to_owned())
}

fn cluster_ip(service: &ServiceObject) -> String {
    service.spec.as_ref().unwrap().cluster_ip.clone().unwrap()
}

/// Exactly what the agent asks for.
fn let_see(plane: &ControlPlane) {
    let verbs: &[&str] = &["list", "watch"];
    plane.allow(
        "node",
        None,
        &[("", &["services", "pods", "nodes"], verbs), ("discovery.k8s.io", &["endpointslices"], verbs)],
    );
}

#[test]
fn services_and_pods_are_named_within_a_second_of_each_change() {
    let plane = ControlPlaneSetup::default().dual_stack().start();
    let_see(&plane);
    plane.namespace("shop");
    plane.node("node-1", "192.0.2.1");
    let mut mapper = Mapper::of(&plane, "node");
    assert_eq!(mapper.at("192.0.2.1:22"), told("", "", "node-1"));

    // Without an endpoint, with all its addresses.
    let web = plane.service(
        "shop",
        "web",
        80,
        &json!({ "type": "LoadBalancer", "externalIPs": ["198.51.100.9"], "ipFamilyPolicy": "RequireDualStack" }),
    );
    let ips = web.spec.as_ref().unwrap().cluster_ips.clone().unwrap();
    let node_port = web.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].node_port.unwrap();
    mapper.wait(SOON, "a Service without endpoints", |mapper| mapper.service("shop/web").is_some());
    assert_eq!(mapper.service("shop/web").unwrap().ready_endpoints, 0);
    assert_eq!(
        mapper.directory.take_changed().iter().filter(|changed| **changed == key("shop/web")).count(),
        1
    );
    assert_eq!(ips.len(), 2);
    for ip in &ips {
        let ip: IpAddr = ip.parse().unwrap();
        let at = |port| names(&mapper.directory.destination(SocketAddr::new(ip, port)));
        assert_eq!(at(80), told("shop/web", "", ""));
        assert_eq!(at(81), told("", "", ""), "a port it does not have");
    }
    assert_eq!(mapper.at("198.51.100.9:80"), told("shop/web", "", ""));
    assert_eq!(mapper.at(&format!("192.0.2.1:{node_port}")), told("shop/web", "", "node-1"));
    let loopback = SocketAddr::new("127.0.0.1".parse().unwrap(), u16::try_from(node_port).unwrap());
    assert_eq!(names(&mapper.directory.destination_on_host(loopback)), told("shop/web", "", ""));
    assert_eq!(names(&mapper.directory.destination(loopback)), told("", "", ""), "a pod's own loopback");
    let balancer =
        json!({ "loadBalancer": { "ingress": [{ "ip": "203.0.113.7" }, { "hostname": "x.example" }] } });
    let _patched: ServiceObject = plane.patch_status("shop", "web", balancer);
    mapper.wait(SOON, "its load balancer", |mapper| mapper.at("203.0.113.7:80") == told("shop/web", "", ""));

    // Its first endpoint.
    plane.pod("shop", "web-0", "node-1", None, &json!({ "metadata": { "labels": { "app": "web" } } }));
    plane.run_pod("shop", "web-0", "10.1.0.5");
    mapper.wait(SOON, "a pod's address", |mapper| mapper.at("10.1.0.5:8080") == told("", "shop/web-0", ""));
    plane.slice("shop", "web", 0, 8080, &[("10.1.0.5", false)]);
    mapper.wait(SOON, "its endpoint", |mapper| {
        mapper.at("10.1.0.5:8080") == told("shop/web", "shop/web-0", "")
    });
    assert_eq!(mapper.service("shop/web").unwrap().ready_endpoints, 0);
    plane.slice("shop", "web", 6, 8080, &[("fd00:1::5", true)]);
    mapper.directory.take_changed();
    plane.set_slice("shop", "web", 0, &[("10.1.0.5", true)]);
    let ready = |mapper: &Mapper| mapper.service("shop/web").unwrap().ready_endpoints == 1;
    let took = mapper.wait(SOON, "it is ready", ready);
    println!("readiness was known {took:?} after the API server had taken it");
    assert_eq!(mapper.directory.take_changed(), [key("shop/web")]);
    assert_eq!(mapper.at("10.1.0.5:9090"), told("", "shop/web-0", ""), "a port that is not the Service's");
    plane.set_slice("shop", "web", 0, &[]);
    plane.set_slice("shop", "web", 6, &[]);
    mapper.wait(SOON, "no endpoint", |mapper| mapper.service("shop/web").unwrap().ready_endpoints == 0);

    // The address goes to a new pod; the old one has not told its end.
    plane.pod("shop", "other", "node-1", None, &json!({}));
    // Times of creation have no fractions.
    std::thread::sleep(Duration::from_millis(1100));
    plane.pod("shop", "newer", "node-1", Some("10.1.0.5"), &json!({}));
    mapper.wait(SOON, "the newer pod", |mapper| mapper.pod_at("10.1.0.5").as_deref() == Some("newer"));
    plane.run_pod("shop", "web-0", "10.1.0.5");
    plane.run_pod("shop", "other", "10.1.0.6");
    mapper.wait(SOON, "another", |mapper| mapper.pod_at("10.1.0.6").as_deref() == Some("other"));
    assert_eq!(mapper.pod_at("10.1.0.5").as_deref(), Some("newer"), "an older pod takes nothing back");
    // Ended pods have no address.
    let _patched: Pod = plane.patch_status("shop", "newer", json!({ "phase": "Succeeded" }));
    mapper.wait(SOON, "an ended pod has no address", |mapper| mapper.pod_at("10.1.0.5").is_none());
    plane.delete::<Pod>("shop", "other");
    mapper.wait(SOON, "nor has a deleted one", |mapper| mapper.pod_at("10.1.0.6").is_none());
    // The same name again, with another address.
    plane.pod("shop", "other", "node-1", Some("10.1.0.7"), &json!({}));
    mapper.wait(SOON, "the same name anew", |mapper| mapper.pod_at("10.1.0.7").as_deref() == Some("other"));
    assert_eq!(mapper.pod_at("10.1.0.6"), None);
    // The node's address is the node's.
    plane.pod("shop", "proxy", "node-1", Some("192.0.2.1"), &json!({ "spec": { "hostNetwork": true } }));
    plane.pod("shop", "last", "node-1", Some("10.1.0.8"), &json!({}));
    mapper.wait(SOON, "the last pod", |mapper| mapper.pod_at("10.1.0.8").is_some());
    assert_eq!(mapper.at("192.0.2.1:22"), told("", "", "node-1"));

    // Headless, and a name in DNS only.
    plane.service("shop", "db", 5432, &json!({ "clusterIP": "None" }));
    plane.slice("shop", "db", 0, 5432, &[("10.1.0.8", true), ("10.1.77.1", true)]);
    plane.service("shop", "dns", 80, &json!({ "type": "ExternalName", "externalName": "example.com" }));
    mapper.wait(SOON, "a name in DNS", |mapper| mapper.service("shop/dns").is_some());
    mapper.wait(SOON, "a headless Service", |mapper| {
        mapper.at("10.1.0.8:5432") == told("shop/db", "shop/last", "")
    });
    assert_eq!(mapper.at("10.1.77.1:5432"), told("shop/db", "", ""), "an endpoint that is no pod");
    assert!(mapper.service("shop/db").unwrap().cluster_ips.is_empty());
    assert!(mapper.service("shop/dns").unwrap().cluster_ips.is_empty());

    // How long a refusal is held back.
    for (text, wanted, warns) in
        [("10s", Some(10), false), ("1h", Some(60), true), ("soon", None, true), ("5s", Some(5), false)]
    {
        let patch = json!({ "metadata": { "annotations": { "gatewatch.io/hold": text } } });
        let _patched: ServiceObject = plane.patch("shop", "web", patch);
        let wanted = wanted.map(Duration::from_secs);
        mapper.wait(SOON, text, |mapper| mapper.service("shop/web").unwrap().hold == wanted);
        let said = mapper
            .notices
            .iter()
            .any(|notice| notice.contains("shop/web") && notice.contains(&format!("`{text}`")));
        assert_eq!(said, warns, "{text}: {:?}", mapper.notices);
    }

    plane.delete::<ServiceObject>("shop", "web");
    mapper.wait(SOON, "a deleted Service", |mapper| mapper.service("shop/web").is_none());
    for ip in ips {
        assert_eq!(
            names(&mapper.directory.destination(SocketAddr::new(ip.parse().unwrap(), 80))),
            told("", "", "")
        );
    }
    assert_eq!(mapper.directory.size().refused, 0);
}

#[test]
fn workloads_are_named_with_no_right_to_see_them() {
    let plane = ControlPlane::with_controllers();
    let_see(&plane);
    plane.namespace("shop");
    // The controller of slices wants to know where an endpoint is.
    plane.node("node-1", "192.0.2.1");
    plane.node("node-2", "192.0.2.2");
    let labels = vec!["app".into(), "absent".into()];
    let kubeconfig = Some(plane.kubeconfig_of("node"));
    let node = Some("node-1".to_owned());
    let mut mapper =
        Mapper::start(&plane, WatchSettings { kubeconfig, labels, node, ..WatchSettings::default() });
    let _made: Deployment = plane.deployment("shop", "front-end", 2);
    plane.create::<k8s_openapi::api::batch::v1::CronJob>(
        "shop",
        json!({
            "metadata": { "name": "backup" },
            "spec": { "schedule": "* * * * *", "jobTemplate": { "spec": { "template": { "spec": {
                "restartPolicy": "Never", "containers": [{ "name": "main", "image": "none" }],
            }}}}},
        }),
    );
    plane.service("shop", "front", 80, &json!({ "selector": { "app": "front-end" } }));
    mapper.wait(LATER, "two pods", |mapper| mapper.directory.size().pods >= 2);
    let pods = plane.list::<Pod>("shop");
    let ids = ["a", "b"].map(|digit| digit.repeat(64));
    for (number, pod) in
        (1_u8..).zip(pods.iter().filter(|pod| pod.metadata.labels.as_ref().unwrap().contains_key("app")))
    {
        let name = pod.metadata.name.as_deref().unwrap();
        let binding = json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
            "target": { "apiVersion": "v1", "kind": "Node", "name": format!("node-{number}") } });
        let bind = http::Request::post(format!("/api/v1/namespaces/shop/pods/{name}/binding"));
        let bind =
            bind.header("Content-Type", "application/json").body(binding.to_string().into_bytes()).unwrap();
        plane.runtime().block_on(plane.client().request_text(bind)).unwrap();
        let mut status = running(&format!("10.1.0.{number}"));
        status["containerStatuses"] = json!([{ "name": "main", "ready": true, "restartCount": 0, "image": "none",
            "imageID": "", "containerID": format!("containerd://{}", ids[usize::from(number) - 1]) }]);
        let _patched: Pod = plane.patch_status("shop", name, status);
    }
    // The real controller makes the slice.
    mapper.wait(LATER, "both are ready", |mapper| {
        mapper.service("shop/front").is_some_and(|service| service.ready_endpoints == 2)
    });
    mapper.wait(SOON, "both are named", |mapper| {
        mapper.pod_at("10.1.0.1").is_some() && mapper.pod_at("10.1.0.2").is_some()
    });
    let pod = mapper.directory.pod_of_address("10.1.0.1".parse().unwrap()).unwrap();
    assert_eq!((&*pod.workload.kind, &*pod.workload.name), ("Deployment", "front-end"));
    assert_eq!(pod.labels, [("app".into(), "front-end".into())] as [(Arc<str>, Arc<str>); 1]);
    assert_eq!(&*pod.node, "node-1");
    assert!(Arc::ptr_eq(pod, mapper.directory.pod_of_container(&ids[0]).unwrap()));
    assert!(mapper.directory.pod_of_container(&ids[1]).is_none(), "another node's");
    // Of both, by the UID in the path of their control group.
    for pod in pods.iter().filter(|pod| pod.metadata.labels.as_ref().unwrap().contains_key("app")) {
        let path =
            format!("/kubepods/besteffort/pod{}/{}", pod.metadata.uid.as_deref().unwrap(), "c".repeat(64));
        let found = mapper.directory.pod_of(&gatewatch_identity::cgroup::Origin::of_path(&path)).unwrap();
        assert_eq!(*found.name, **pod.metadata.name.as_ref().unwrap());
    }
    // The controller of CronJobs makes one at each full minute.
    let cron = |mapper: &Mapper, plane: &ControlPlane| {
        let pods = plane.list::<Pod>("shop");
        let pod = pods.iter().find(|pod| pod.metadata.name.as_deref().unwrap().starts_with("backup-"))?;
        let path = format!("/kubepods/pod{}", pod.metadata.uid.as_deref().unwrap());
        mapper.directory.pod_of(&gatewatch_identity::cgroup::Origin::of_path(&path)).cloned()
    };
    mapper.wait(Duration::from_secs(80), "the CronJob's pod", |mapper| {
        std::thread::sleep(Duration::from_millis(200));
        cron(mapper, &plane).is_some()
    });
    let pod = cron(&mapper, &plane).unwrap();
    assert_eq!((&*pod.workload.kind, &*pod.workload.name), ("CronJob", "backup"));
    assert!(mapper.notices.is_empty(), "{:?}", mapper.notices);
}

#[test]
fn one_namespace_needs_a_role_of_that_namespace_only() {
    let plane = ControlPlane::start();
    let verbs: &[&str] = &["list", "watch"];
    for namespace in ["mine", "theirs"] {
        plane.namespace(namespace);
        plane.service(namespace, "web", 80, &json!({}));
    }
    plane.node("node-1", "192.0.2.1");
    plane.allow(
        "one-namespace",
        Some("mine"),
        &[("", &["services", "pods"], verbs), ("discovery.k8s.io", &["endpointslices"], verbs)],
    );
    let kubeconfig = Some(plane.kubeconfig_of("one-namespace"));
    let namespace = Some("mine".to_owned());
    let mut mapper =
        Mapper::start(&plane, WatchSettings { kubeconfig, namespace, ..WatchSettings::default() });
    mapper.wait(LATER, "the map is complete without nodes", |mapper| mapper.age().is_some());
    assert!(mapper.service("mine/web").is_some() && mapper.service("theirs/web").is_none());
    assert_eq!(mapper.at("192.0.2.1:80"), told("", "", ""));
    plane.pod("mine", "pod", "node-1", Some("10.1.0.1"), &json!({}));
    mapper.wait(SOON, "a pod", |mapper| mapper.pod_at("10.1.0.1").is_some());
    assert!(mapper.notices.is_empty(), "that nodes are refused is as it should be: {:?}", mapper.notices);

    // Who may see nothing gets nothing, and is told once of each kind.
    let kubeconfig = Some(plane.kubeconfig_of("nobody"));
    let mut mapper = Mapper::start(&plane, WatchSettings { kubeconfig, ..WatchSettings::default() });
    mapper.wait(LATER, "all four are refused", |mapper| mapper.notices.len() == 4);
    assert_eq!(mapper.age(), None);
}

#[test]
fn the_last_map_serves_while_the_api_server_is_away() {
    let mut plane = ControlPlane::start();
    let_see(&plane);
    let web = cluster_ip(&plane.service("default", "web", 80, &json!({}))) + ":80";
    plane.pod("default", "gone", "node-1", Some("10.1.0.1"), &json!({}));
    plane.pod("default", "stays", "node-1", Some("10.1.0.2"), &json!({}));
    let kubeconfig = Some(plane.kubeconfig_of("node"));
    let patience =
        Patience { silence: Duration::from_secs(90), answer: Duration::from_secs(3), ..Patience::default() };
    let mut mapper =
        Mapper::start(&plane, WatchSettings { kubeconfig, patience, ..WatchSettings::default() });
    mapper.wait(LATER, "the map is complete", |mapper| mapper.age().is_some());
    mapper.wait(SOON, "the pods", |mapper| mapper.directory.size().pods == 2);

    for round in 0..2 {
        plane.kill_api();
        mapper.wait(LATER, "it is said", |mapper| {
            mapper.notices.iter().any(|notice| notice.contains("not heard of"))
        });
        mapper.wait(Duration::from_secs(10), "its age grows", |mapper| {
            mapper.age().unwrap() > Duration::from_secs(2)
        });
        assert_eq!(mapper.at(&web), told("default/web", "", ""), "round {round}");
        assert_eq!(mapper.pod_at("10.1.0.2").as_deref(), Some("stays"));
        let before = mapper.age().unwrap();
        plane.restart_api();
        let name = format!("new-{round}");
        plane.service("default", &name, 80, &json!({}));
        let took =
            mapper.wait(LATER, "what is new", |mapper| mapper.service(&format!("default/{name}")).is_some());
        println!("{took:?} after the API server was back; the map had been {before:?} old");
        assert_eq!(mapper.at(&web), told("default/web", "", ""));
    }
    plane.delete::<Pod>("default", "gone");
    mapper.wait(LATER, "what is gone", |mapper| mapper.pod_at("10.1.0.1").is_none());
    mapper.wait(LATER, "it is said", |mapper| {
        mapper.notices.iter().any(|notice| notice.contains("heard of again"))
    });

    // It stands still: nobody is told, and nothing breaks.
    plane.stall_api();
    let still = Instant::now();
    while still.elapsed() < Duration::from_secs(5) {
        mapper.turn();
        assert_eq!(mapper.at(&web), told("default/web", "", ""));
        std::thread::sleep(Duration::from_millis(10));
    }
    plane.resume_api();
    plane.pod("default", "after", "node-1", Some("10.1.0.3"), &json!({}));
    let took = mapper.wait(LATER, "what came after", |mapper| mapper.pod_at("10.1.0.3").is_some());
    println!("{took:?} after it had gone on");
}

const SERVICES: u32 = 5_000;
const PODS: u32 = 20_000;

/// Resident memory, MiB.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn uid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn stored_service(number: u32) -> (String, Value) {
    let name = format!("service-{number}");
    let ip = format!("10.96.{}.{}", 16 + number / 250, number % 250 + 1);
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "default", "uid": uid(number), "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None", "selector": { "app": name },
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080 },
                      { "name": "metrics", "port": 9090, "protocol": "TCP", "targetPort": 9090 }] },
        "status": { "loadBalancer": {} },
    });
    (format!("/registry/services/specs/default/service-{number}"), object)
}

fn pod_ip(number: u32) -> String {
    format!("10.{}.{}.{}", 128 + number / 62_500, number / 250 % 250, number % 250 + 1)
}

fn stored_slice(number: u32) -> (String, Value) {
    let name = format!("service-{number}-x");
    let endpoints: Vec<Value> = (0..PODS / SERVICES)
        .map(|at| json!({ "addresses": [pod_ip(number * 4 + at)], "conditions": { "ready": true, "serving": true, "terminating": false } }))
        .collect();
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": "default", "uid": uid(number), "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "kubernetes.io/service-name": format!("service-{number}") } },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }, { "name": "metrics", "port": 9090, "protocol": "TCP" }],
    });
    (format!("/registry/endpointslices/default/{name}"), object)
}

/// As large as pods are: some 4 KB, most of it of no interest.
fn stored_pod(number: u32) -> (String, Value) {
    let of = number / 4;
    let name = format!("service-{of}-5d8f7c9b6d-{number:05}");
    let ip = pod_ip(number);
    let environment: Vec<Value> = (0..40)
        .map(|at| json!({ "name": format!("SOME_SETTING_{at}"), "value": format!("a value of some length {at}") }))
        .collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "uid": uid(number), "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "app": format!("service-{of}"), "pod-template-hash": "5d8f7c9b6d" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("service-{of}-5d8f7c9b6d"),
                "uid": uid(of), "controller": true, "blockOwnerDeletion": true }] },
        "spec": { "nodeName": format!("node-{}", number % 200), "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "securityContext": {},
            "containers": [{ "name": "main", "image": "registry.example.com/some/image:1.2.3", "env": environment,
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent" }] },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "qosClass": "BestEffort",
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [{ "name": "main", "ready": true, "restartCount": 0, "image": "registry.example.com/some/image:1.2.3",
                "imageID": "", "containerID": format!("containerd://{:064x}", number), "state": { "running": {} } }] },
    });
    (format!("/registry/pods/default/{name}"), object)
}

#[test]
fn five_thousand_services_and_twenty_thousand_pods_fit() {
    let plane = ControlPlane::start();
    let_see(&plane);
    let stored = Instant::now();
    plane.store((0..SERVICES).map(stored_service));
    plane.store((0..SERVICES).map(stored_slice));
    plane.store((0..PODS).map(stored_pod));
    println!("stored in {:?}", stored.elapsed());
    let before = memory();
    let kubeconfig = Some(plane.kubeconfig_of("node"));
    let node = Some("node-7".to_owned());
    let mut mapper = Mapper::start(&plane, WatchSettings { kubeconfig, node, ..WatchSettings::default() });
    let took = mapper.wait(LATER, "all of them", |mapper| mapper.age().is_some());
    let size = mapper.directory.size();
    println!("{size:?} in {took:?}, {:.1} MiB before, {:.1} MiB after", before, memory());
    assert_eq!((size.services, size.slices, size.pods), (5_001, 5_000, 20_000), "with the API server's own");
    assert!(memory() - before < 64.0, "the map may take half of what the whole agent may");
    for number in [0, 1, 9_999, 19_999] {
        let of = format!("default/service-{}", number / 4);
        let pod = format!("default/service-{}-5d8f7c9b6d-{number:05}", number / 4);
        assert_eq!(mapper.at(&format!("{}:8080", pod_ip(number))), told(&of, &pod, ""));
    }

    // It is still quick.
    let mut times = Vec::new();
    for number in 0..20_u8 {
        let name = format!("late-{number}");
        let ip = format!("172.16.0.{number}");
        plane.pod("default", &name, "node-7", Some(&ip), &json!({}));
        times.push(mapper.wait(SOON, &name, |mapper| mapper.pod_at(&ip).is_some()));
    }
    times.sort();
    println!("a pod's address is known after {:?} at most, {:?} in the middle", times[19], times[10]);

    // All is told anew: what is the same costs nothing.
    let asked = Instant::now();
    let to: SocketAddr = format!("{}:8080", pod_ip(777)).parse().unwrap();
    let mut found = 0;
    for _ in 0..1_000_000 {
        found += u32::from(std::hint::black_box(mapper.directory.destination(to)).service.is_some());
    }
    println!("a destination is told in {:?}", asked.elapsed() / 1_000_000);
    assert_eq!(found, 1_000_000);

    // At rest.
    let (before, began) = (cpu_seconds(), Instant::now());
    while began.elapsed() < Duration::from_secs(5) {
        mapper.turn();
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("at rest {:.2} % of a core, the loop's turns included", (cpu_seconds() - before) / 5.0 * 100.0);
}

/// Seconds of CPU that this process has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
