//! Network namespaces, frames made by hand, and what sends them.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::{Command, Stdio},
};

use super::{Agent, AgentSetup, Metrics, SOON, run, text};

/// A network namespace for this thread and all it starts, with `eth0` to a second one. Neither has a way out.
pub struct Pod {
    peer: String,
}

/// Nobody answers with ICMP, which would end the sender's calls.
pub fn sink() -> std::net::UdpSocket {
    std::net::UdpSocket::bind((HERE, 7777)).unwrap()
}

/// This end of `eth0`, and the other.
pub const HERE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
pub const THERE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

impl Pod {
    pub fn new(name: &str) -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let peer = format!("gwt-{name}-{}", std::process::id());
        // IPv6 talks by itself as soon as an interface is up; where it is wanted the test switches it on.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        ip("link set lo up");
        run("ip", &["netns", "add", &peer]);
        let pod = Self { peer };
        pod.there("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        pod.there("ip link set lo up");
        pod.join();
        pod
    }

    /// Makes `eth0` (anew).
    pub fn join(&self) {
        let peer = &self.peer;
        ip(&format!("link add eth0 type veth peer name eth0 netns {peer}"));
        ip(&format!("addr add {HERE}/24 dev eth0"));
        ip("link set eth0 up");
        self.there(&format!("ip addr add {THERE}/24 dev eth0"));
        self.there("ip link set eth0 up");
    }

    /// A command at the other end.
    pub fn there(&self, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        run("ip", &[&["netns", "exec", &self.peer], words.as_slice()].concat())
    }

    /// How a command is started at the other end.
    pub fn there_words(&self) -> Vec<String> {
        vec!["ip".to_owned(), "netns".to_owned(), "exec".to_owned(), self.peer.clone()]
    }

    /// Runs in a thread at the other end.
    pub fn at_the_other_end<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        let peer = std::fs::File::open(format!("/run/netns/{}", self.peer)).unwrap();
        let there = move || {
            nix::sched::setns(peer, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            f()
        };
        std::thread::spawn(there).join().unwrap()
    }

    /// Sends `n` datagrams from the other end, at some 20,000 a second, and does not wait for its end.
    pub fn load(&self, n: u32) -> std::process::Child {
        let script = format!(
            "
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('10.99.0.1', 7777))
for i in range({n}):
    try: s.send(b'x' * 100)
    except ConnectionRefusedError: s.send(b'x' * 100)
    if i % 200 == 0: time.sleep(0.01)
"
        );
        let words = self.there_words();
        Command::new(&words[0])
            .args(&words[1..])
            .args(["python3", "-c", &script])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Puts frames on `interface` at this end; they leave by it.
    pub fn send(&self, interface: &str, frames: &[Vec<u8>]) {
        transmit(&[], interface, frames);
    }

    /// Puts frames on the other end's `eth0`; they come in here.
    pub fn receive(&self, frames: &[Vec<u8>]) {
        transmit(&self.there_words(), "eth0", frames);
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _gone = Command::new("ip").args(["netns", "del", &self.peer]).status();
    }
}

pub fn ip(words: &str) {
    run("ip", &words.split(' ').collect::<Vec<_>>());
}

/// Reads frames, each behind its length, and sends them as they are.
const SENDER: &str = r"
import socket, struct, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
s.bind((sys.argv[1], 0))
data = sys.stdin.buffer.read()
at = 0
while at < len(data):
    n, = struct.unpack_from('=I', data, at)
    frame = data[at + 4:at + 4 + n]
    at += 4 + n
    while True:
        try:
            s.send(frame)
            break
        except OSError as error:
            if error.errno != 105: raise   # ENOBUFS: the queue is full for a moment
";

/// Sends frames by `interface` of the namespace that the words enter.
pub fn transmit(prefix: &[String], interface: &str, frames: &[Vec<u8>]) {
    let mut words: Vec<&str> = prefix.iter().map(String::as_str).collect();
    words.extend(["python3", "-c", SENDER, interface]);
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend(u32::try_from(frame.len()).unwrap().to_ne_bytes());
        bytes.extend(frame);
    }
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// An agent that counts here; interfaces are there at once, and nothing else in its configuration.
pub fn agent(name: &str, config: &str) -> AgentSetup {
    AgentSetup::new(name).network().config(config)
}

/// Ethernet frames, made by hand.
pub mod frames {
    use super::*;

    pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
        [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &kind.to_be_bytes(), payload].concat()
    }

    /// An IPv4 packet; `options` are a multiple of four bytes, `fragment` is the field as it stands.
    pub fn ipv4(
        from: Ipv4Addr,
        to: Ipv4Addr,
        protocol: u8,
        options: &[u8],
        fragment: u16,
        id: u16,
        payload: &[u8],
    ) -> Vec<u8> {
        let length = 20 + options.len() + payload.len();
        let mut packet = vec![0x40 | u8::try_from(5 + options.len() / 4).unwrap(), 0];
        packet.extend(u16::try_from(length).unwrap().to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0]);
        packet.extend(from.octets());
        packet.extend(to.octets());
        packet.extend(options);
        packet.extend(payload);
        packet
    }

    /// An IPv6 packet; `payload` begins with whatever `next` says.
    pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        packet.extend([next, 64]);
        packet.extend(from.octets());
        packet.extend(to.octets());
        packet.extend(payload);
        packet
    }

    pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).unwrap();
        [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
    }

    pub fn tcp(from: u16, to: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut segment = [from.to_be_bytes(), to.to_be_bytes()].concat();
        segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
        segment.extend(payload);
        segment
    }

    /// A frame with IP's packet of either kind in it.
    pub fn ip(packet: &[u8]) -> Vec<u8> {
        ethernet(if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd }, packet)
    }

    pub fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let udp = udp(from.port(), to.port(), payload);
        match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ip(&ipv4(from, to, 17, &[], 0, 0, &udp)),
            (IpAddr::V6(from), IpAddr::V6(to)) => ip(&ipv6(from, to, 17, &udp)),
            _ => panic!("one family"),
        }
    }
}

/// Packets and bytes that fit the labels.
pub fn packets(metrics: &Metrics, labels: &[(&str, &str)]) -> (u64, u64) {
    (
        metrics.sum("gatewatch_network_packets_total", labels),
        metrics.sum("gatewatch_network_bytes_total", labels),
    )
}

/// What the interface itself counted: packets and bytes out, and in.
pub fn statistics(interface: &str) -> [(u64, u64); 2] {
    let text = run("ip", &["-j", "-s", "link", "show", "dev", interface]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    ["tx", "rx"].map(|way| {
        let of = |what: &str| json[0]["stats64"][way][what].as_u64().unwrap();
        (of("packets"), of("bytes"))
    })
}

/// Waits until everything counted is accounted to a connection, or to a reason: accounts are gathered a moment later.
pub fn adds_up(agent: &Agent) -> Metrics {
    let both = |metrics: &Metrics| {
        ["packets", "bytes"].map(|what| {
            let sum = |name: &str| metrics.sum(&format!("gatewatch_{name}_{what}_total"), &[]);
            (sum("network"), sum("application") + sum("network_unaccounted"))
        })
    };
    let until = std::time::Instant::now() + SOON;
    loop {
        let metrics = agent.metrics();
        let sums = both(&metrics);
        if sums.iter().all(|(counted, accounted)| counted == accounted) {
            return metrics;
        }
        assert!(std::time::Instant::now() < until, "{sums:?}: {}", metrics.network());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}
