//! Every packet, once.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use gatewatch_capture::yardstick::{Way, Yardstick};

use common::{
    Metrics, SOON, Turn,
    net::{HERE, Pod, THERE, adds_up, agent, frames, packets},
};

const SIX_HERE: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
const SIX_THERE: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2);

/// Frames of one kind, and how they are to be counted.
struct Kind {
    family: &'static str,
    protocol: &'static str,
    frames: Vec<Vec<u8>>,
}

/// Every kind; from this end, or to it.
fn kinds(outward: bool) -> Vec<Kind> {
    let (from, to, six_from, six_to) =
        if outward { (HERE, THERE, SIX_HERE, SIX_THERE) } else { (THERE, HERE, SIX_THERE, SIX_HERE) };
    let v4 = |protocol, payload: &[u8]| frames::ip(&frames::ipv4(from, to, protocol, &[], 0, 7, payload));
    let v6 = |next, payload: &[u8]| frames::ip(&frames::ipv6(six_from, six_to, next, payload));
    let udp = frames::udp(4000, 5000, &[b'u'; 100]);
    let tcp = frames::tcp(4001, 5001, 0x10, &[b't'; 60]);
    let tagged = |outer: &[u8], packet: &[u8]| {
        let mut frame = frames::ethernet(0x8100, &[]);
        frame.truncate(12);
        [frame.as_slice(), outer, packet].concat()
    };
    // A datagram of three fragments; only the first has the ports.
    let whole = frames::udp(4002, 5002, &[b'f'; 3 * 800 - 8]);
    let fragments = |id: u16| {
        [(0u16, true), (100, true), (200, false)].map(|(offset, more)| {
            let part = &whole[usize::from(offset) * 8..usize::from(offset) * 8 + 800];
            frames::ip(&frames::ipv4(from, to, 17, &[], offset | u16::from(more) << 13, id, part))
        })
    };
    let six_fragments = |id: u32| {
        [(0u16, true), (100, true), (200, false)].map(|(offset, more)| {
            let part = &whole[usize::from(offset) * 8..usize::from(offset) * 8 + 800];
            let mut header = vec![17, 0];
            header.extend((offset << 3 | u16::from(more)).to_be_bytes());
            header.extend(id.to_be_bytes());
            v6(44, &[header.as_slice(), part].concat())
        })
    };
    // Hop by hop, then destination options, then routing: eight bytes each but the second.
    let extended =
        [&[60, 0, 1, 4, 0, 0, 0, 0][..], &[43, 1, 1, 12], &[0; 12], &[17, 0, 0, 0, 0, 0, 0, 0], &udp];
    let many = |n: usize, frame: Vec<u8>| vec![frame; n];
    let kind = |_name, family, protocol, frames| Kind { family, protocol, frames };
    vec![
        kind("tcp", "ipv4", "tcp", many(101, v4(6, &tcp))),
        kind("udp", "ipv4", "udp", many(102, v4(17, &udp))),
        kind("icmp", "ipv4", "icmp", many(103, v4(1, &[0; 64]))),
        kind("sctp", "ipv4", "sctp", many(104, v4(132, &[4, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]))),
        kind("gre", "ipv4", "other", many(105, v4(47, &[0; 24]))),
        kind(
            "options",
            "ipv4",
            "udp",
            many(106, frames::ip(&frames::ipv4(from, to, 17, &[1; 40], 0, 7, &udp))),
        ),
        kind("fragments", "ipv4", "udp", (0..30).flat_map(fragments).collect()),
        kind("tcp", "ipv6", "tcp", many(107, v6(6, &tcp))),
        kind("udp", "ipv6", "udp", many(108, v6(17, &udp))),
        kind("icmp", "ipv6", "icmp", many(109, v6(58, &[200, 0, 0, 0]))),
        kind("extension headers", "ipv6", "udp", many(110, v6(0, &extended.concat()))),
        kind("fragments", "ipv6", "udp", (0..31).flat_map(six_fragments).collect()),
        kind(
            "vlan",
            "ipv4",
            "udp",
            many(111, tagged(&[0x81, 0, 0, 100, 8, 0], &frames::ipv4(from, to, 17, &[], 0, 7, &udp))),
        ),
        kind(
            "qinq",
            "ipv6",
            "udp",
            many(
                112,
                tagged(
                    &[0x88, 0xa8, 0, 100, 0x81, 0, 0, 200, 0x86, 0xdd],
                    &frames::ipv6(six_from, six_to, 17, &udp),
                ),
            ),
        ),
        kind("arp", "other", "other", many(113, frames::ethernet(0x0806, &[0; 28]))),
        kind("unknown", "other", "other", many(114, frames::ethernet(0x88b5, &[7; 46]))),
        // The last two a length that goes beyond the frame, and an IP header cut in two.
        kind("too long", "ipv4", "other", many(5, [&v4(6, &tcp)[..40], &[0; 4]].concat())),
        kind("cut", "ipv4", "other", many(6, v4(6, &tcp)[..24].to_vec())),
    ]
}

fn of_connection(agent: &common::Agent, ends: &[String; 2], protocol: &str) -> (u64, u64, u64, u64) {
    let rows = agent.connections();
    let row = rows.iter().find(|row| {
        let at = |key: &str| row[key].as_str().unwrap().to_owned();
        at("protocol") == protocol && [at("local"), at("remote")] == *ends
    });
    let row = row.unwrap_or_else(|| panic!("no {protocol} {ends:?} in {rows:#?}"));
    let n = |key: &str| row[key].as_u64().unwrap();
    (n("packets_out"), n("packets_in"), n("bytes_out"), n("bytes_in"))
}

fn every_kind(ingress: &str, mode: &str) {
    let _turn = Turn::shared();
    let pod = Pod::new(&format!("kinds{ingress}"));
    let agent = agent("gw-kinds", &format!("network: {{ingress: {ingress}, pin: false}}")).start();
    let watched = |metrics: &Metrics| {
        metrics
            .select("gatewatch_network_attached", &[("interface", "eth0"), ("mode", mode)])
            .next()
            .is_some()
    };
    agent.wait_metrics(SOON, "eth0 is watched", watched);
    for outward in [true, false] {
        let direction = if outward { "egress" } else { "ingress" };
        let mut expected = std::collections::BTreeMap::<_, (u64, u64)>::new();
        let kinds = kinds(outward);
        for kind in &kinds {
            let counted = expected.entry((kind.family, kind.protocol)).or_default();
            counted.0 += u64::try_from(kind.frames.len()).unwrap();
            counted.1 += u64::try_from(kind.frames.iter().map(Vec::len).sum::<usize>()).unwrap();
        }
        let frames: Vec<Vec<u8>> = kinds.into_iter().flat_map(|kind| kind.frames).collect();
        if outward {
            pod.send("eth0", &frames)
        } else {
            pod.receive(&frames)
        }
        let metrics = agent.metrics();
        for ((family, protocol), amount) in &expected {
            let labels = [
                ("interface", "eth0"),
                ("direction", direction),
                ("family", *family),
                ("protocol", *protocol),
            ];
            assert_eq!(packets(&metrics, &labels), *amount, "{direction} {family} {protocol}");
        }
    }
    let metrics = agent.metrics();
    adds_up(&agent);
    let unaccounted =
        |reason| metrics.sum("gatewatch_network_unaccounted_packets_total", &[("reason", reason)]);
    assert_eq!(unaccounted("not_ip"), 2 * (113 + 114));
    assert_eq!(unaccounted("malformed"), 2 * (5 + 6));
    // Per connection, both ways; options and VLANs have the same ends, fragments find theirs.
    let rows = agent.connections();
    let sum = |filter: &dyn Fn(&serde_json::Value) -> bool, key: &str| -> u64 {
        rows.iter().filter(|row| filter(row)).map(|row| row[key].as_u64().unwrap()).sum()
    };
    let udp = |port: u16, address: String| {
        move |row: &serde_json::Value| {
            row["protocol"] == "udp"
                && [&row["local"], &row["remote"]].iter().any(|end| **end == format!("{address}:{port}"))
        }
    };
    // From 4000 to 5000 on the way out, and the other way round: two connections, each with one direction.
    assert_eq!(sum(&udp(4000, HERE.to_string()), "packets_out"), 102 + 106 + 111);
    assert_eq!(sum(&udp(5000, HERE.to_string()), "packets_in"), 102 + 106 + 111);
    assert_eq!(sum(&udp(4002, HERE.to_string()), "packets_out"), 90, "{rows:#?}");
    assert_eq!(sum(&udp(4002, HERE.to_string()), "bytes_out"), 90 * 834);
    assert_eq!(sum(&udp(5002, HERE.to_string()), "packets_in"), 90);
    assert_eq!(sum(&udp(4002, format!("[{SIX_HERE}]")), "packets_out"), 93);
    assert_eq!(sum(&udp(4000, format!("[{SIX_HERE}]")), "packets_out"), 108 + 110 + 112);
    let tcp = [format!("{HERE}:4001"), format!("{THERE}:5001")];
    assert_eq!(of_connection(&agent, &tcp, "tcp"), (101, 0, 101 * 114, 0));
}

#[test]
fn every_kind_of_packet_by_tc() {
    every_kind("tc", "tcx");
}

#[test]
fn every_kind_of_packet_by_xdp() {
    every_kind("xdp", "xdp-native");
}

/// A frame that is shaped at random, or cut, passes and is counted.
#[test]
fn random_frames() {
    let _turn = Turn::shared();
    let pod = Pod::new("random");
    let agent = agent("gw-random", "network: {ingress: xdp, pin: false}").start();
    agent.wait_attached("eth0");
    // xorshift: the same frames each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let models: Vec<Vec<u8>> = kinds(false).into_iter().map(|kind| kind.frames[0].clone()).collect();
    let frames: Vec<Vec<u8>> = (0..20_000)
        .map(|i| {
            let length = 14 + usize::try_from(next() % 200).unwrap();
            if i % 2 == 0 {
                return (0..length).map(|_| next().to_le_bytes()[0]).collect();
            }
            // A good frame with some bytes changed, and perhaps its end cut off.
            let mut frame = models[usize::try_from(next()).unwrap_or(0) % models.len()].clone();
            for _ in 0..next() % 6 {
                let at = 12 + usize::try_from(next()).unwrap_or(0) % (frame.len() - 12);
                frame[at] = next().to_le_bytes()[0];
            }
            let keep = 14 + usize::try_from(next()).unwrap_or(0) % (frame.len() - 13);
            frame.truncate(keep.max(14));
            frame
        })
        .collect();
    let bytes = u64::try_from(frames.iter().map(Vec::len).sum::<usize>()).unwrap();
    pod.receive(&frames);
    let in_all = [("interface", "eth0"), ("direction", "ingress")];
    let metrics =
        agent.wait_metrics(Duration::from_secs(5), "all are counted", |m| packets(m, &in_all).0 >= 20_000);
    assert_eq!(packets(&metrics, &in_all), (20_000, bytes), "{}", metrics.network());
    adds_up(&agent);
    let [_, (received, received_bytes)] = common::net::statistics("eth0");
    assert_eq!(received, 20_000, "the interface counted {received_bytes} bytes");
}

/// More connections than there is room for: memory is bounded, and the sums agree.
#[test]
fn a_flood_of_connections() {
    let _turn = Turn::alone();
    let pod = Pod::new("flood");
    let mut agent = agent("gw-flood", "network: {pin: false, max_connections: 16384}").start();
    agent.wait_attached("eth0");
    let n = 1_000_000u32;
    let frames: Vec<Vec<u8>> = (0..n)
        .map(|i| {
            let from = SocketAddr::new(
                std::net::Ipv4Addr::from(0x0a63_0100 + (i >> 14)).into(),
                (i & 0x3fff) as u16 + 1024,
            );
            frames::datagram(from, SocketAddr::new(HERE.into(), 53), b"x")
        })
        .collect();
    pod.receive(&frames);
    let udp = [("interface", "eth0"), ("direction", "ingress"), ("protocol", "udp")];
    let metrics = agent.wait_metrics(SOON, "all are counted", |m| packets(m, &udp).0 >= u64::from(n));
    assert_eq!(packets(&metrics, &udp), (u64::from(n), u64::from(n) * 43), "{}", metrics.network());
    let metrics = adds_up(&agent);
    let live = metrics.sum("gatewatch_connections", &[("protocol", "udp")]);
    let opened = metrics.sum("gatewatch_connections_opened_total", &[("protocol", "udp")]);
    let closed = metrics.sum("gatewatch_connections_closed_total", &[("protocol", "udp")]);
    let evicted = metrics.sum("gatewatch_connections_evicted_total", &[]);
    assert!(live <= 16384, "{live}");
    assert_eq!(opened, u64::from(n));
    // Evicted ones may also be of TCP: the few scrapes.
    let all = live + closed + evicted;
    assert!((opened..=opened + 10).contains(&all), "{}", metrics.network());
    agent.wait_said("the table of connections is full");
    let resident = metrics.sum("gatewatch_agent_resident_bytes", &[]);
    assert!(resident < 64 << 20, "{resident} bytes");
    assert!(agent.is_running());
}

/// More than a million packets a second, let in by the kernel itself: counted = sent.
#[test]
fn a_million_a_second() {
    let _turn = Turn::alone();
    for (ingress, mode) in [("tc", "tcx"), ("xdp", "xdp-native")] {
        let pod = Pod::new(&format!("million{ingress}"));
        let mut agent = agent("gw-million", &format!("network: {{ingress: {ingress}, pin: false}}")).start();
        agent.wait_attached("eth0");
        let labels = [("interface", "eth0"), ("direction", "ingress"), ("protocol", "udp")];
        let index = |name: &str| {
            let found = gatewatch_target::interfaces::interfaces().unwrap();
            found.into_iter().find(|it| it.name == name).unwrap().index
        };
        let frame =
            frames::datagram(SocketAddr::new(THERE.into(), 9), SocketAddr::new(HERE.into(), 9), &[b'x'; 18]);
        let (n, connections) = (3_000_000, 10_000);
        let inject = move |way, interface| {
            Yardstick::load().unwrap().inject(way, interface, &frame, n, connections).unwrap()
        };
        let took = match ingress {
            "tc" => inject(Way::In, index("eth0")),
            // What is let in here has passed the driver: at XDP it has to come over the wire.
            _ => pod.at_the_other_end(move || inject(Way::Out, index("eth0"))),
        };
        let rate = f64::from(n) / took.as_secs_f64();
        let metrics = agent.wait_metrics(SOON, "all are counted", |m| packets(m, &labels).0 >= u64::from(n));
        let bytes = u64::from(n) * 60;
        assert_eq!(packets(&metrics, &labels), (u64::from(n), bytes), "{mode}: {}", metrics.network());
        let metrics = adds_up(&agent);
        assert_eq!(
            metrics.sum("gatewatch_connections_opened_total", &[("protocol", "udp")]),
            u64::from(connections)
        );
        assert_eq!(metrics.sum("gatewatch_connections", &[("protocol", "udp")]), u64::from(connections));
        assert_eq!(metrics.sum("gatewatch_connections_evicted_total", &[]), 0);
        // Told, not asserted: a machine may be slower.
        println!("{mode}: {rate:.0} packets a second");
        agent.end();
    }
}
