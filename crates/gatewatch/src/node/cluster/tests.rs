use gatewatch_identity::{
    change::{NodeRecord, ServiceRecord},
    directory::ServicePort,
};

use super::*;

fn service(directory: &mut Directory, name: &str, ip: &str, node_port: u16, hold: Option<u64>) {
    let record = ServiceRecord {
        key: ServiceKey { namespace: "shop".into(), name: name.into() },
        created: 1,
        cluster_ips: vec![ip.parse().unwrap()],
        external_ips: vec![],
        balancer_ips: vec![],
        ports: vec![
            ServicePort { port: 80, node_port, tcp: true },
            ServicePort { port: 53, node_port: 0, tcp: false },
        ],
        hold: hold.map(Duration::from_secs),
    };
    directory.apply(Change::Service(Box::new(record)), 0);
}

fn node(directory: &mut Directory, name: &str, addresses: &[&str]) {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    directory.apply(Change::Node(Box::new(NodeRecord { name: name.into(), addresses })), 0);
}

fn addresses(directory: &Directory) -> Vec<String> {
    holds(directory).iter().map(|wanted| wanted.address.to_string()).collect()
}

#[test]
fn a_service_is_held_at_its_addresses_and_at_its_node_port_on_each_node() {
    let mut directory = Directory::new(Limits::default());
    service(&mut directory, "cart", "10.96.0.1", 30_080, Some(10));
    service(&mut directory, "plain", "10.96.0.2", 30_081, None);
    service(&mut directory, "never", "10.96.0.3", 30_082, Some(0));
    assert_eq!(addresses(&directory), ["10.96.0.1:80"]);
    node(&mut directory, "one", &["192.0.2.1", "fd00:2::1"]);
    node(&mut directory, "two", &["192.0.2.2"]);
    let all = ["10.96.0.1:80", "192.0.2.1:30080", "192.0.2.2:30080", "[fd00:2::1]:30080"];
    assert_eq!(addresses(&directory), all);
    directory.apply(Change::NodeGone("one".into()), 0);
    assert_eq!(addresses(&directory), ["10.96.0.1:80", "192.0.2.2:30080"]);
}

#[test]
fn node_ports_of_a_great_cluster_leave_room_for_other_addresses() {
    let mut directory = Directory::new(Limits::default());
    service(&mut directory, "cart", "10.96.0.1", 30_080, Some(10));
    let nodes = u32::try_from(NODE_PORTS).unwrap();
    let name = |i: u32| (format!("node-{i}"), std::net::Ipv4Addr::from(0x0a00_0000 + i).to_string());
    for (name, ip) in (0..nodes).map(name) {
        node(&mut directory, &name, &[&ip]);
    }
    assert_eq!(addresses(&directory).len(), NODE_PORTS + 1);
    node(&mut directory, "one more", &["192.0.2.1"]);
    assert_eq!(addresses(&directory), ["10.96.0.1:80"]);
}
