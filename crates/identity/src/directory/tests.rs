use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use proptest::{collection::vec, prelude::*, sample::subsequence};

use super::*;
use crate::{
    cgroup::Uid,
    change::{NodeRecord, ObjectKey, PodRecord, ServiceRecord, SliceRecord},
};

const SECOND: u64 = 1_000_000_000;

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn at(last: u8, port: u16) -> SocketAddr {
    (ip(last), port).into()
}

fn uid(number: u32) -> Uid {
    Uid::parse(&format!("{number:032x}")).unwrap()
}

fn container(number: u32) -> ContainerId {
    ContainerId::parse(&format!("{number:064x}")).unwrap()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "ns".into(), name: name.into() }
}

fn object(name: &str) -> ObjectKey {
    ObjectKey { namespace: "ns".into(), name: name.into() }
}

fn tcp(port: u16) -> ServicePort {
    ServicePort { port, node_port: 0, tcp: true }
}

fn service(name: &str, ips: &[IpAddr]) -> ServiceRecord {
    ServiceRecord {
        key: key(name),
        created: 1,
        cluster_ips: ips.to_vec(),
        external_ips: Vec::new(),
        balancer_ips: Vec::new(),
        ports: vec![tcp(80)],
        hold: None,
    }
}

fn slice(name: &str, service: &str, endpoints: &[(IpAddr, bool)], ports: &[u16]) -> SliceRecord {
    let (endpoints, ports) = (endpoints.to_vec(), ports.to_vec());
    SliceRecord { key: object(name), service: service.into(), endpoints, ports }
}

fn pod(name: &str, number: u32, addresses: &[IpAddr]) -> PodRecord {
    PodRecord {
        pod: Pod {
            namespace: "ns".into(),
            name: name.into(),
            workload: Workload { kind: "Pod".into(), name: name.into() },
            node: "node".into(),
            labels: Vec::new(),
            host_network: false,
        },
        uid: uid(number),
        static_uid: None,
        created: i64::from(number),
        version: u64::from(number),
        addresses: addresses.to_vec(),
        containers: vec![container(number)],
    }
}

fn told(changes: impl IntoIterator<Item = Change>) -> Directory {
    let mut directory = Directory::new(Limits::default());
    changes.into_iter().for_each(|change| directory.apply(change, 0));
    directory
}

fn name_at(directory: &Directory, to: SocketAddr) -> Option<String> {
    directory.destination(to).service.map(|key| key.name.to_string())
}

#[test]
fn a_process_is_known_for_a_while_after_its_pod_is_gone_but_an_address_is_not() {
    let mut directory = told([Change::Pod(pod("a", 1, &[ip(1)]).into())]);
    let origin = Origin { pod: Some(uid(1)), container: None };
    let by_container = Origin { pod: None, container: Some(container(1)) };
    directory.apply(Change::PodGone(object("a"), uid(1)), 10 * SECOND);
    assert_eq!(directory.pod_of_address(ip(1)), None);
    for (now, known) in [(11, true), (70, true), (71, false)] {
        directory.apply(Change::Heard(Kind::Pod), now * SECOND);
        assert_eq!(directory.pod_of(&origin).is_some(), known, "{now}");
        assert_eq!(directory.pod_of(&by_container).is_some(), known, "{now}");
    }
    assert_eq!(directory.size().departed, 0);
}

#[test]
fn a_container_that_was_replaced_is_known_for_a_while_and_one_that_is_listed_again_stays() {
    let mut directory = told([Change::Pod(pod("a", 1, &[]).into())]);
    let mut second = pod("a", 1, &[]);
    second.containers = vec![container(2)];
    directory.apply(Change::Pod(second.clone().into()), SECOND);
    assert!(directory.pod_of_container(&container(1).to_string()).is_some());
    second.containers = vec![container(1), container(2)];
    directory.apply(Change::Pod(second.clone().into()), 2 * SECOND);
    directory.apply(Change::Heard(Kind::Pod), 100 * SECOND);
    assert!(directory.pod_of_container(&container(1).to_string()).is_some());
    second.containers = vec![container(2)];
    directory.apply(Change::Pod(second.into()), 101 * SECOND);
    directory.apply(Change::Heard(Kind::Pod), 200 * SECOND);
    assert!(directory.pod_of_container(&container(1).to_string()).is_none());
    assert!(directory.pod_of_container(&container(2).to_string()).is_some());
}

#[test]
fn a_static_pod_is_found_by_its_files_hash_also_when_it_is_made_anew() {
    let of = |number| {
        let mut record = pod("static", number, &[]);
        record.static_uid = Some(uid(99));
        Change::Pod(record.into())
    };
    let origin = Origin { pod: Some(uid(99)), container: None };
    let mut directory = told([of(1)]);
    assert!(directory.pod_of(&origin).is_some());
    directory.apply(of(2), SECOND);
    directory.apply(Change::Heard(Kind::Pod), 100 * SECOND);
    assert!(directory.pod_of(&origin).is_some());
    directory.apply(Change::PodGone(object("static"), uid(1)), 101 * SECOND);
    assert_eq!(directory.size().pods, 1, "that was another one");
    directory.apply(Change::PodGone(object("static"), uid(2)), 102 * SECOND);
    directory.apply(Change::Heard(Kind::Pod), 200 * SECOND);
    assert!(directory.pod_of(&origin).is_none());
}

#[test]
fn what_is_gone_is_bounded_and_what_exists_is_not() {
    let mut directory = Directory::new(Limits { ttl: Duration::from_secs(60), capacity: 3 });
    for number in 1..=10 {
        directory.apply(Change::Pod(pod(&format!("p{number}"), number, &[]).into()), 0);
        directory.apply(Change::Service(service(&format!("s{number}"), &[]).into()), 0);
    }
    assert_eq!((directory.size().pods, directory.size().services), (10, 10));
    for number in 1..=10 {
        directory.apply(Change::PodGone(object(&format!("p{number}")), uid(number)), 0);
    }
    assert_eq!((directory.size().departed, directory.size().services), (3, 10));
    let known = (1..=10)
        .filter(|number| directory.pod_of(&Origin { pod: Some(uid(*number)), container: None }).is_some());
    assert_eq!(known.collect::<Vec<_>>(), [8, 9, 10]);
}

#[test]
fn nobody_takes_a_cluster_ip_by_naming_it_as_external() {
    let mut thief = service("a-thief", &[ip(66)]);
    thief.created = 0;
    thief.external_ips = vec![ip(1)];
    thief.balancer_ips = vec![ip(1)];
    let mut directory =
        told([Change::Service(thief.into()), Change::Service(service("web", &[ip(1)]).into())]);
    assert_eq!(name_at(&directory, at(1, 80)).as_deref(), Some("web"));
    directory.apply(Change::ServiceGone(key("web")), 0);
    assert_eq!(name_at(&directory, at(1, 80)).as_deref(), Some("a-thief"));
    directory.apply(Change::ServiceGone(key("a-thief")), 0);
    assert_eq!(name_at(&directory, at(1, 80)), None);
}

#[test]
fn node_ports_are_at_nodes_and_on_the_hosts_loopback() {
    let mut record = service("web", &[ip(1)]);
    record.ports = vec![
        ServicePort { port: 80, node_port: 30_080, tcp: true },
        ServicePort { port: 53, node_port: 30_053, tcp: false },
    ];
    let node = NodeRecord { name: "node".into(), addresses: vec![ip(9)] };
    let directory = told([Change::Service(record.into()), Change::Node(node.into())]);
    let found = directory.destination(at(9, 30_080));
    assert_eq!((found.service, found.node.as_deref(), found.pod), (Some(key("web")), Some("node"), None));
    assert_eq!(name_at(&directory, at(9, 30_053)), None, "that is UDP");
    assert_eq!(name_at(&directory, at(8, 30_080)), None);
    assert_eq!(name_at(&directory, at(1, 30_080)), None);
    let loopback: SocketAddr = "127.0.0.1:30080".parse().unwrap();
    assert_eq!(directory.destination(loopback), Destination::default());
    assert_eq!(directory.destination_on_host(loopback).service, Some(key("web")));
    let mapped: SocketAddr = "[::ffff:10.0.0.9]:30080".parse().unwrap();
    assert_eq!(directory.destination(mapped).service, Some(key("web")));
}

#[test]
fn of_several_services_at_an_endpoint_the_one_that_can_be_called_is_named() {
    let mut directory = told([
        Change::Slice(slice("a-1", "a-headless", &[(ip(5), true)], &[0]).into()),
        Change::Slice(slice("b-1", "b-headless", &[(ip(5), true)], &[8080]).into()),
        Change::Slice(slice("c-1", "c-web", &[(ip(5), false)], &[8080]).into()),
        Change::Slice(slice("d-1", "d-web", &[(ip(5), true)], &[8080]).into()),
    ]);
    assert_eq!(name_at(&directory, at(5, 8080)), None, "no Service is known yet");
    let wanted =
        [("a-headless", "a-headless"), ("b-headless", "b-headless"), ("d-web", "d-web"), ("c-web", "c-web")];
    for (name, best) in wanted {
        let ips: &[IpAddr] = if name.ends_with("web") { &[ip(200)] } else { &[] };
        directory.apply(Change::Service(service(name, ips).into()), 0);
        assert_eq!(name_at(&directory, at(5, 8080)).as_deref(), Some(best));
        assert_eq!(name_at(&directory, at(5, 1)).as_deref(), Some("a-headless"), "every port is its");
    }
    assert_eq!(directory.service(&key("c-web")).unwrap().ready_endpoints, 0);
    assert_eq!(directory.service(&key("d-web")).unwrap().ready_endpoints, 1);
}

#[test]
fn an_endpoint_that_moves_from_slice_to_slice_is_never_lost() {
    let mut directory = told([
        Change::Service(service("web", &[ip(1)]).into()),
        Change::Slice(slice("one", "web", &[(ip(5), true)], &[80]).into()),
        Change::Slice(slice("two", "web", &[(ip(5), true)], &[80]).into()),
    ]);
    directory.apply(Change::Slice(slice("one", "web", &[], &[80]).into()), 0);
    assert_eq!(name_at(&directory, at(5, 80)).as_deref(), Some("web"));
    directory.apply(Change::SliceGone(object("one")), 0);
    assert_eq!(directory.service(&key("web")).unwrap().ready_endpoints, 1);
    directory.apply(Change::SliceGone(object("two")), 0);
    assert_eq!(name_at(&directory, at(5, 80)), None);
    assert_eq!(directory.service(&key("web")).unwrap().ready_endpoints, 0);
}

#[test]
fn the_age_is_that_of_the_kind_heard_least_lately() {
    let mut directory = Directory::new(Limits::default());
    assert_eq!(directory.age_ns(5), None);
    for kind in [Kind::Service, Kind::Slice, Kind::Pod] {
        directory.apply(Change::Complete(kind), 10);
    }
    assert_eq!(directory.age_ns(20), None, "nodes are missing");
    directory.apply(Change::Refused(Kind::Node), 10);
    assert_eq!(directory.age_ns(20), Some(10), "nodes are refused");
    directory.apply(Change::Heard(Kind::Pod), 30);
    directory.apply(Change::Heard(Kind::Slice), 30);
    assert_eq!(directory.age_ns(40), Some(30));
    directory.apply(Change::Heard(Kind::Service), 35);
    assert_eq!(directory.age_ns(40), Some(10));
    directory.apply(Change::Complete(Kind::Node), 36);
    assert_eq!(directory.age_ns(40), Some(10));
    Kind::ALL.into_iter().for_each(|kind| directory.apply(Change::Refused(kind), 40));
    assert_eq!(directory.age_ns(50), Some(20), "it serves, and grows old");
    Kind::ALL.into_iter().for_each(|kind| directory.apply(Change::Heard(kind), 50));
    assert_eq!(directory.age_ns(50), Some(0));
}

/// What can happen, over few names and addresses so that they meet.
#[derive(Clone, Debug)]
enum Event {
    Pod {
        name: u8,
        anew: bool,
        addresses: Vec<u8>,
    },
    PodGone(u8),
    Service {
        name: u8,
        created: i64,
        ips: Vec<u8>,
        external: Vec<u8>,
        ports: Vec<u16>,
        node_port: u16,
    },
    ServiceGone(u8),
    Slice {
        name: u8,
        service: u8,
        endpoints: Vec<(u8, bool)>,
        ports: Vec<u16>,
    },
    SliceGone(u8),
    /// All of one kind are told anew, but for some that are gone meanwhile.
    Again {
        kind: u8,
        gone: Vec<u8>,
        interrupted: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let addresses = || subsequence((1..6_u8).collect::<Vec<_>>(), 0..3);
    let ports = || subsequence(vec![0_u16, 80, 443], 0..3);
    prop_oneof![
        4 => (0..5_u8, any::<bool>(), addresses()).prop_map(|(name, anew, addresses)| Event::Pod { name, anew, addresses }),
        1 => (0..5_u8).prop_map(Event::PodGone),
        3 => (0..4_u8, 0..2_i64, addresses(), addresses(), subsequence(vec![80_u16, 443], 0..3), 0..2_u16).prop_map(
            |(name, created, ips, external, ports, node_port)| Event::Service { name, created, ips, external, ports, node_port }
        ),
        1 => (0..4_u8).prop_map(Event::ServiceGone),
        4 => (0..4_u8, 0..4_u8, vec((1..6_u8, any::<bool>()), 0..4), ports()).prop_map(
            |(name, service, mut endpoints, ports)| {
                endpoints.sort_unstable();
                endpoints.dedup_by_key(|(ip, _)| *ip);
                Event::Slice { name, service, endpoints, ports }
            }
        ),
        1 => (0..4_u8).prop_map(Event::SliceGone),
        1 => (0..3_u8, vec(0..5_u8, 0..4), any::<bool>()).prop_map(|(kind, gone, interrupted)| Event::Again { kind, gone, interrupted }),
    ]
}

/// The cluster as it really is.
#[derive(Default)]
struct Truth {
    pods: BTreeMap<u8, PodRecord>,
    services: BTreeMap<u8, ServiceRecord>,
    slices: BTreeMap<u8, SliceRecord>,
    /// Pods that got an address with the last event.
    got: Vec<(u8, IpAddr)>,
    next: u32,
}

impl Truth {
    /// Does it, and tells of it.
    fn happens(&mut self, event: Event) -> Vec<Change> {
        self.next += 1;
        match event {
            Event::Pod { name, anew, addresses } => {
                let number = match self.pods.get(&name) {
                    Some(known) if !anew => u32::try_from(known.created).unwrap(),
                    _ => self.next,
                };
                let ips: Vec<_> = addresses.into_iter().map(ip).collect();
                let mut record = pod(&format!("pod-{name}"), number, &ips);
                record.version = u64::from(self.next);
                let before = self.pods.insert(name, record.clone());
                let had =
                    before.iter().filter(|known| known.uid == record.uid).flat_map(|known| &known.addresses);
                let had: Vec<_> = had.collect();
                let got = record.addresses.iter().filter(|ip| !had.contains(ip));
                self.got.extend(got.map(|ip| (name, *ip)));
                let before = before.filter(|known| known.uid != record.uid);
                let gone = before.map(|known| Change::PodGone(object(&known.pod.name), known.uid));
                // Now and then its end was missed.
                let gone = gone.filter(|_| self.next.is_multiple_of(2));
                gone.into_iter().chain([Change::Pod(record.into())]).collect()
            }
            Event::PodGone(name) => {
                let gone = self.pods.remove(&name);
                gone.map(|gone| Change::PodGone(object(&gone.pod.name), gone.uid)).into_iter().collect()
            }
            Event::Service { name, created, ips, external, ports, node_port } => {
                let mut record = service(&format!("service-{name}"), &[]);
                record.created = created;
                record.cluster_ips = ips.into_iter().map(ip).collect();
                record.external_ips = external.into_iter().map(ip).collect();
                record.ports = ports
                    .into_iter()
                    .map(|port| ServicePort { port, node_port: node_port * port, tcp: true })
                    .collect();
                self.services.insert(name, record.clone());
                vec![Change::Service(record.into())]
            }
            Event::ServiceGone(name) => {
                let gone = self.services.remove(&name);
                gone.map(|gone| Change::ServiceGone(gone.key)).into_iter().collect()
            }
            Event::Slice { name, service, endpoints, ports } => {
                let endpoints: Vec<_> =
                    endpoints.into_iter().map(|(last, ready)| (ip(last), ready)).collect();
                let record =
                    slice(&format!("slice-{name}"), &format!("service-{service}"), &endpoints, &ports);
                self.slices.insert(name, record.clone());
                vec![Change::Slice(record.into())]
            }
            Event::SliceGone(name) => {
                let gone = self.slices.remove(&name);
                gone.map(|gone| Change::SliceGone(gone.key)).into_iter().collect()
            }
            Event::Again { kind, gone, interrupted } => self.again(kind, &gone, interrupted),
        }
    }

    fn again(&mut self, kind: u8, gone: &[u8], interrupted: bool) -> Vec<Change> {
        let (kind, all): (_, Vec<Change>) = match kind {
            0 => {
                self.pods.retain(|name, _| !gone.contains(name));
                (Kind::Pod, self.pods.values().map(|record| Change::Pod(record.clone().into())).collect())
            }
            1 => {
                self.services.retain(|name, _| !gone.contains(name));
                (
                    Kind::Service,
                    self.services.values().map(|record| Change::Service(record.clone().into())).collect(),
                )
            }
            _ => {
                self.slices.retain(|name, _| !gone.contains(name));
                (
                    Kind::Slice,
                    self.slices.values().map(|record| Change::Slice(record.clone().into())).collect(),
                )
            }
        };
        // The first try may break off half-way.
        let half = if interrupted { all.len() / 2 } else { 0 };
        let first = std::iter::once(Change::Began(kind)).chain(all.iter().take(half).cloned());
        let second = std::iter::once(Change::Began(kind)).chain(all.iter().cloned());
        first.filter(|_| interrupted).chain(second).chain([Change::Complete(kind)]).collect()
    }

    /// The Service at an address of its own.
    fn service_at(&self, to: SocketAddr) -> Option<&ServiceKey> {
        let claims =
            self.services.values().filter(|record| record.ports.iter().any(|port| port.port == to.port()));
        let right = |record: &ServiceRecord| {
            let cluster = record.cluster_ips.contains(&to.ip()).then_some(0);
            cluster.or(record.external_ips.contains(&to.ip()).then_some(1))
        };
        let best = claims.filter_map(|record| Some((right(record)?, record.created, &record.key))).min();
        best.map(|(_, _, key)| key)
    }

    /// The Service of an endpoint.
    fn served_at(&self, to: SocketAddr) -> Option<&ServiceKey> {
        let best = |port: u16| {
            let slices = self.slices.values().filter(|record| {
                record.ports.contains(&port) && record.endpoints.iter().any(|(ip, _)| *ip == to.ip())
            });
            let services =
                slices.filter_map(|slice| self.services.values().find(|it| it.key.name == slice.service));
            services.map(|record| (record.cluster_ips.is_empty(), &record.key)).min().map(|(_, key)| key)
        };
        best(to.port()).or_else(|| best(0))
    }

    fn ready(&self, key: &ServiceKey) -> usize {
        let slices = self.slices.values().filter(|record| record.service == key.name);
        slices.map(|record| record.endpoints.iter().filter(|(_, ready)| *ready).count()).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn it_says_of_the_cluster_what_is_true(events in vec(event(), 1..60)) {
        let mut truth = Truth::default();
        let mut directory = Directory::new(Limits { ttl: Duration::from_secs(5), capacity: 4 });
        let mut before: BTreeMap<ServiceKey, Service> = BTreeMap::new();
        for (now, event) in (0_u64..).zip(events) {
            let shown = format!("{event:?}");
            for change in truth.happens(event) {
                directory.apply(change, now * SECOND);
            }

            for last in 1..6 {
                // An address is never given a name that is not its.
                if let Some(found) = directory.pod_of_address(ip(last)) {
                    let record = truth.pods.values().find(|record| record.pod == **found);
                    prop_assert!(record.is_some(), "{shown}: {found:?} is gone");
                    let record = record.unwrap();
                    prop_assert!(record.addresses.contains(&ip(last)), "{shown}: {found:?} has lost {last}");
                }
                for port in [80, 443, 9] {
                    let to = at(last, port);
                    let found = directory.destination(to);
                    let wanted = truth.service_at(to).or_else(|| truth.served_at(to));
                    prop_assert_eq!(found.service.as_ref(), wanted, "{}: {}", shown, to);
                }
            }
            // Who has just got an address has it, whoever else says so.
            for (name, ip) in std::mem::take(&mut truth.got) {
                let pod = directory.pod_of_address(ip).map(|pod| &**pod);
                prop_assert_eq!(pod, Some(&truth.pods[&name].pod), "{}", shown);
            }
            let after: BTreeMap<_, _> = directory.services().map(|it| (it.key.clone(), it.clone())).collect();
            prop_assert_eq!(after.len(), truth.services.len());
            for record in truth.services.values() {
                let known = &after[&record.key];
                prop_assert_eq!(&known.cluster_ips, &record.cluster_ips);
                prop_assert_eq!(known.ready_endpoints, truth.ready(&record.key), "{}", shown);
            }
            let changed: BTreeSet<_> = directory.take_changed().into_iter().collect();
            for key in before.keys().chain(after.keys()) {
                prop_assert!(before.get(key) == after.get(key) || changed.contains(key), "{shown}: {key:?}");
            }
            before = after;
            let size = directory.size();
            prop_assert_eq!((size.pods, size.slices), (truth.pods.len(), truth.slices.len()));
            prop_assert!(size.departed <= 4 && size.refused == 0);
            for record in truth.pods.values() {
                let origin = Origin { pod: Some(record.uid), container: None };
                prop_assert_eq!(directory.pod_of(&origin).map(|pod| &**pod), Some(&record.pod));
            }
        }
        // When all is gone, nothing is left behind.
        for kind in Kind::ALL {
            directory.apply(Change::Began(kind), 1000 * SECOND);
            directory.apply(Change::Complete(kind), 1000 * SECOND);
        }
        directory.apply(Change::Heard(Kind::Pod), 2000 * SECOND);
        prop_assert_eq!(directory.size(), Size::default());
        prop_assert!(directory.services.is_empty() && directory.pods.is_empty());
    }
}
