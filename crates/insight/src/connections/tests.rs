#![allow(clippy::unwrap_used)]

use super::*;

const SECOND: u64 = 1_000_000_000;
const IDLE: u64 = 30 * SECOND;

fn id(protocol: IpProtocol, a: &str, b: &str) -> FlowId {
    FlowId { ends: [a.parse().unwrap(), b.parse().unwrap()], protocol, interface: 1, vlan: [0, 0] }
}

fn tcp() -> FlowId {
    id(IpProtocol::Tcp, "10.0.0.1:40000", "10.0.0.2:8000")
}

fn flow(packets: [u64; 2], flags: [u8; 2], last_ns: u64) -> Flow {
    Flow {
        packets,
        bytes: packets.map(|n| n * 100),
        tcp_flags: flags,
        last_ns,
        cgroup: [7, 8],
        ..Flow::default()
    }
}

fn total(connections: &Connections) -> (u64, u64) {
    connections.applications().fold((0, 0), |(p, b), (_, share)| (p + share.packets, b + share.bytes))
}

#[test]
fn growth_is_counted_once() {
    let mut all = Connections::default();
    let open = tcp_flags::SYN | tcp_flags::ACK;
    for packets in [[3, 2], [3, 2], [10, 20]] {
        all.begin_walk();
        assert_eq!(all.seen(&tcp(), &flow(packets, [open, open], 0), SECOND, IDLE), Fate::Keep);
        all.end_walk();
    }
    assert_eq!(total(&all), (30, 3000));
    let pairs: Vec<_> = all.pairs().collect();
    assert_eq!(pairs.len(), 2);
    assert!(pairs.iter().any(|((from, to, _), share)| (*from, *to, share.packets) == (8, 7, 20)));
}

#[test]
fn an_evicted_account_begins_anew() {
    let mut all = Connections::default();
    for packets in [[100, 100], [1, 0]] {
        all.begin_walk();
        all.seen(&tcp(), &flow(packets, [0, 0], 0), SECOND, IDLE);
        all.end_walk();
    }
    assert_eq!(total(&all).0, 201);
    all.begin_walk();
    all.end_walk();
    assert_eq!(all.carried(&tcp()).1, None);
    assert_eq!(all.live().count(), 0);
}

#[test]
fn ends() {
    let (fin, ack, rst, syn) = (tcp_flags::FIN, tcp_flags::ACK, tcp_flags::RST, tcp_flags::SYN);
    let cases = [
        ("both finished, just now", tcp(), [fin | ack, fin | ack], 10 * SECOND, 11 * SECOND, Fate::Keep),
        ("both finished", tcp(), [fin | ack, fin | ack], 10 * SECOND, 13 * SECOND, Fate::End),
        ("one finished", tcp(), [fin | ack, ack], 10 * SECOND, 1000 * SECOND, Fate::Keep),
        ("reset", tcp(), [syn, rst | ack], 10 * SECOND, 13 * SECOND, Fate::End),
        ("never answered", tcp(), [syn, 0], 10 * SECOND, 41 * SECOND, Fate::End),
        ("idle", tcp(), [ack, ack], 10 * SECOND, 100_000 * SECOND, Fate::Keep),
        ("datagrams", id(IpProtocol::Udp, "1.1.1.1:1", "1.1.1.2:53"), [0, 0], SECOND, 31 * SECOND, Fate::End),
        (
            "datagrams of late",
            id(IpProtocol::Udp, "1.1.1.1:1", "1.1.1.2:53"),
            [0, 0],
            SECOND,
            30 * SECOND,
            Fate::Keep,
        ),
    ];
    for (name, id, flags, last, now, fate) in cases {
        let mut all = Connections::default();
        all.begin_walk();
        assert_eq!(all.seen(&id, &flow([1, 1], flags, last), now, IDLE), fate, "{name}");
    }
}

#[test]
fn recognition_moves_what_comes_and_no_counter_falls() {
    let mut all = Connections::default();
    all.begin_walk();
    all.seen(&tcp(), &flow([1, 0], [0, 0], 0), SECOND, IDLE);
    all.end_walk();
    all.recognised(&tcp(), Carried { application: Application::Http1, ..Carried::default() });
    all.begin_walk();
    all.seen(&tcp(), &flow([5, 4], [0, 0], 0), SECOND, IDLE);
    all.end_walk();
    let shares: BTreeMap<_, _> = all.applications().collect();
    let share = |packets, connections| Share { packets, bytes: packets * 100, connections };
    assert_eq!(shares[&Application::Unknown], share(1, 1));
    assert_eq!(shares[&Application::Http1], share(8, 0));
    // One that is recognised before a walk finds it is of its application from the start.
    let other = id(IpProtocol::Tcp, "10.0.0.1:40001", "10.0.0.2:8000");
    all.recognised(&other, Carried { application: Application::Http1, ..Carried::default() });
    all.begin_walk();
    all.seen(&tcp(), &flow([5, 4], [0, 0], 0), SECOND, IDLE);
    all.seen(&other, &flow([0, 0], [0, 0], 0), SECOND, IDLE);
    all.end_walk();
    assert_eq!(all.applications().find(|(it, _)| *it == Application::Http1).unwrap().1, share(8, 1));
    all.ended(&tcp(), &flow([6, 4], [0, 0], 0));
    assert_eq!(total(&all).0, 10);
    assert_eq!(all.ended_counts(), (1, 0));
}

#[test]
fn who_opened_it() {
    let syn = tcp_flags::SYN;
    let nobody = |_: &SocketAddr| false;
    let handshake = Flow { first: 1, tcp_flags: [syn, syn], ..Flow::default() };
    assert_eq!(initiator(&tcp(), &handshake, nobody), 1);
    let middle = Flow { first: 1, ..Flow::default() };
    assert_eq!(initiator(&tcp(), &middle, nobody), 0, "8000 is the lower port");
    let first_listens = |end: &SocketAddr| end.port() == 40000;
    assert_eq!(initiator(&tcp(), &middle, first_listens), 1);
    assert_eq!(initiator(&id(IpProtocol::Udp, "1.1.1.1:9", "1.1.1.2:53"), &middle, nobody), 1);
}
