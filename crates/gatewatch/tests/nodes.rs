//! The node in network namespaces that other tests stand on: it does what a node does.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use common::{
    Turn,
    nodes::{ANSWER, Node, Reject, Rules, request},
};

const LIMIT: Duration = Duration::from_secs(5);

fn refuses_and_answers(node: &Node) {
    let (client, server) = (node.client_pod("c"), node.server_pod("s", 8080));
    let other = node.server_pod("t", 8081);
    for (address, six) in [("10.96.0.10", false), ("fd00:96::10", true)] {
        let service = node.service(address, 80);
        let to: SocketAddr = service.address;
        let ask = || client.inside(move || request(to, LIMIT));
        assert!(ask().is_err());
        service.endpoints(&[&server]);
        assert_eq!(ask().unwrap(), ANSWER);
        service.endpoints(&[&server, &other]);
        let before = (server.served(), other.served());
        (0..40).for_each(|_| assert_eq!(ask().unwrap(), ANSWER));
        let (a, b) = (server.served() - before.0, other.served() - before.1);
        assert!(a > 0 && b > 0 && a + b == 40, "{a} and {b}");
        // From the node itself.
        assert_eq!(node.inside(move || request(to, LIMIT)).unwrap(), ANSWER);
        let pod = server.at(six);
        assert_eq!(client.inside(move || request(pod, LIMIT)).unwrap(), ANSWER);
        service.without_endpoints();
        assert!(ask().is_err());
    }
}

#[test]
fn kube_proxys_nftables() {
    let _turn = Turn::shared();
    refuses_and_answers(&Node::new("nft"));
}

#[test]
fn kube_proxys_iptables() {
    let _turn = Turn::shared();
    refuses_and_answers(&Node::with("ipt", Rules::Iptables, Reject::Port));
}

#[test]
fn every_refusal() {
    let _turn = Turn::shared();
    for rules in [Rules::Nftables, Rules::Iptables] {
        for (reject, kind) in [
            (Reject::Port, ErrorKind::ConnectionRefused),
            (Reject::Host, ErrorKind::HostUnreachable),
            (Reject::Reset, ErrorKind::ConnectionRefused),
        ] {
            let node = Node::with("rej", rules, reject);
            let client = node.client_pod("c");
            for address in ["10.96.0.10", "fd00:96::10"] {
                let to = node.service(address, 80).address;
                let error = client.inside(move || request(to, LIMIT)).unwrap_err();
                assert_eq!(error.kind(), kind, "{rules:?} {reject:?} {address}: {error}");
            }
        }
    }
}
