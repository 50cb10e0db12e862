//! Connections: their births, deaths, states, bytes, owners, and what they carry.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use common::{
    Agent, Metrics, SOON, Setup, Turn,
    net::{HERE, Pod, THERE, adds_up, agent, ip, packets, statistics},
    run, wait_until,
};

const UNPINNED: &str = "network: {pin: false}";

fn tcp(metrics: &Metrics, state: &str) -> u64 {
    metrics.sum("gatewatch_connections", &[("protocol", "tcp"), ("state", state)])
}

fn counter(metrics: &Metrics, name: &str) -> u64 {
    metrics.sum(&format!("gatewatch_connections_{name}_total"), &[("protocol", "tcp")])
}

/// Connections between this end and a server that keeps them, and what went each way.
struct Kept {
    _listener: TcpListener,
    pairs: Vec<(TcpStream, TcpStream)>,
}

impl Kept {
    /// `n` connections over loopback; connection `i` carries `i` bytes one way and `2 * i` the other.
    fn open(n: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let pairs = (0..n)
            .map(|i| {
                let mut client = TcpStream::connect(address).unwrap();
                let (mut server, _) = listener.accept().unwrap();
                client.write_all(&vec![b'c'; i]).unwrap();
                server.write_all(&vec![b's'; 2 * i]).unwrap();
                server.read_exact(&mut vec![0; i]).unwrap();
                client.read_exact(&mut vec![0; 2 * i]).unwrap();
                (client, server)
            })
            .collect();
        Self { _listener: listener, pairs }
    }
}

#[test]
fn connections_older_than_the_agent() {
    let _turn = Turn::shared();
    let _pod = Pod::new("old");
    let kept = Kept::open(1000);
    let agent = agent("gw-old", UNPINNED).start();
    let metrics = agent.wait_attached("lo");
    // The agent's own server has a connection or two, closed ones linger.
    let own = 3;
    let established = tcp(&metrics, "established");
    assert!((1000..=1000 + own).contains(&established), "{}", metrics.network());
    let rows = agent.connections();
    for (i, (client, _)) in kept.pairs.iter().enumerate() {
        let local = client.local_addr().unwrap().to_string();
        let remote = client.peer_addr().unwrap().to_string();
        let ends = |row: &&serde_json::Value| {
            let (a, b) = (&row["local"], &row["remote"]);
            *a == local && *b == remote || *a == remote && *b == local
        };
        let found: Vec<_> = rows.iter().filter(ends).collect();
        assert_eq!(found.len(), 1, "{local} {remote} once, of {}: {found:#?}", rows.len());
        let row = found[0];
        assert_eq!(row["local"], local, "seen from the end that called");
        assert_eq!(
            (row["payload_out"].as_u64(), row["payload_in"].as_u64()),
            (Some(i as u64), Some(2 * i as u64))
        );
        assert_eq!((&row["state"], &row["direction"]), (&"established".into(), &"inner".into()), "{row}");
        assert_eq!(row["process"]["pid"].as_u64(), Some(std::process::id().into()), "{row}");
        assert!(row.get("age_seconds").is_none(), "older than the counting: {row}");
    }
    let closed_before = counter(&agent.metrics(), "closed");
    drop(kept);
    thread::sleep(Duration::from_millis(300));
    let metrics = agent.metrics();
    // And those of a scrape or two.
    let closed = counter(&metrics, "closed") - closed_before;
    assert!((1000..=1002).contains(&closed), "{closed}, each once: {}", metrics.network());
}

/// What `f` adds to the counters, with the agent's own scrapes taken out by their port.
fn births_and_deaths(agent: &Agent, f: impl FnOnce()) -> BTreeMap<&'static str, u64> {
    let read = |metrics: &Metrics| {
        let failed = |reason| metrics.sum("gatewatch_connections_failed_total", &[("reason", reason)]);
        let reset = |direction| metrics.sum("gatewatch_tcp_resets_total", &[("direction", direction)]);
        BTreeMap::from([
            ("opened", counter(metrics, "opened")),
            ("closed", counter(metrics, "closed")),
            ("refused", failed("refused")),
            ("timeout", failed("timeout")),
            ("abandoned", failed("abandoned")),
            ("unreachable", failed("unreachable")),
            ("resets sent", reset("sent")),
            ("resets received", reset("received")),
        ])
    };
    let before = read(&agent.metrics());
    f();
    let after = read(&agent.metrics());
    after.into_iter().map(|(what, n)| (what, n - before[what])).collect()
}

#[test]
fn births_and_deaths_are_counted_once() {
    let _turn = Turn::shared();
    let pod = Pod::new("births");
    let agent = agent("gw-births", UNPINNED).start();
    agent.wait_attached("eth0");
    // Between two readings the scrapes themselves open one connection and close one.
    let idle = births_and_deaths(&agent, || ());
    let net = |told: &BTreeMap<&'static str, u64>, what: &str| told[what] - idle[what];

    let told = births_and_deaths(&agent, || drop(Kept::open(200)));
    assert_eq!((net(&told, "opened"), net(&told, "closed")), (200, 200), "{told:?} {idle:?}");

    let told = births_and_deaths(&agent, || {
        for _ in 0..50 {
            assert!(TcpStream::connect((HERE, 9)).is_err(), "nobody listens");
        }
    });
    assert_eq!((told["refused"], told["resets sent"], told["resets received"]), (50, 50, 50), "{told:?}");
    assert_eq!(net(&told, "opened"), 0);

    // Nobody has that address: the packets find no way, and the program does not wait for it.
    let told = births_and_deaths(&agent, || {
        for last in 0..5 {
            let nobody = (Ipv4Addr::new(10, 99, 0, 200 + last), 9).into();
            assert!(TcpStream::connect_timeout(&nobody, Duration::from_millis(100)).is_err());
        }
    });
    assert_eq!(told["abandoned"], 5, "{told:?}");

    // Incoming, from the other end; half of them torn down with a reset.
    let listener = TcpListener::bind((HERE, 7000)).unwrap();
    let server = thread::spawn(move || {
        for _ in 0..40 {
            let (mut stream, _) = listener.accept().unwrap();
            let _closed = stream.read(&mut [0; 16]);
        }
    });
    let script = "
import socket, struct, sys
for i in range(40):
    s = socket.create_connection(('10.99.0.1', 7000))
    if i % 2: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()
";
    let words = pod.there_words();
    let told = births_and_deaths(&agent, || {
        run(
            &words[0],
            &[&words[1..].iter().map(String::as_str).collect::<Vec<_>>()[..], &["python3", "-c", script]]
                .concat(),
        );
        server.join().unwrap();
    });
    assert_eq!((net(&told, "opened"), net(&told, "closed")), (40, 40), "{told:?}");
    assert_eq!(told["resets received"], 20, "{told:?}");
}

/// Packets and bytes, out and in.
type BothWays = [(u64, u64); 2];

/// What went out of `eth0` and came in, by our count and by its own, read while nothing moves.
fn at_rest(agent: &Agent) -> (BothWays, BothWays) {
    loop {
        let own = statistics("eth0");
        let metrics = agent.metrics();
        let ours = ["egress", "ingress"]
            .map(|direction| packets(&metrics, &[("interface", "eth0"), ("direction", direction)]));
        thread::sleep(Duration::from_millis(100));
        if statistics("eth0") == own {
            return (ours, own);
        }
    }
}

/// Real programs over a veth pair and over loopback: what the interface counted, and each connection once.
#[test]
fn real_traffic() {
    let _turn = Turn::alone();
    let pod = Pod::new("real");
    for command in ["ip addr add fd99::2/64 dev eth0 nodad", "true"] {
        if command != "true" {
            pod.there("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0");
        }
        pod.there(command);
    }
    std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0").unwrap();
    ip("addr add fd99::1/64 dev eth0 nodad");
    let agent = agent("gw-real", UNPINNED).start();
    agent.wait_attached("eth0");
    let words = pod.there_words();
    let mut server = Command::new(&words[0])
        .args(&words[1..])
        .args(["iperf3", "-s", "-1"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let listens = || pod.there("ss -Htln sport = :5201").contains("5201");
    let measure = |arguments: &[&str]| {
        let (before, own_before) = at_rest(&agent);
        run("iperf3", arguments);
        let (after, own_after) = at_rest(&agent);
        let mut count = [(0, 0); 4];
        for way in 0..2 {
            count[way] = (after[way].0 - before[way].0, after[way].1 - before[way].1);
            count[way + 2] = (own_after[way].0 - own_before[way].0, own_after[way].1 - own_before[way].1);
        }
        count
    };
    wait_until(SOON, "iperf3 listens", listens);
    let there = THERE.to_string();
    for arguments in [["-c", &there, "-n", "50M", "-4", "-P2"], ["-c", "fd99::2", "-n", "50M", "-6", "-R"]] {
        let count = measure(&arguments);
        assert_eq!(count[0], count[2], "out: as the interface counted: {arguments:?}");
        assert_eq!(count[1], count[3], "in: as the interface counted: {arguments:?}");
        assert!(count[0].1.max(count[1].1) > 45 << 20, "{count:?}");
        server.wait().unwrap();
        server = Command::new(&words[0])
            .args(&words[1..])
            .args(["iperf3", "-s", "-1"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until(SOON, "iperf3 listens", listens);
    }
    let count = measure(&["-c", &there, "-u", "-b", "40M", "-n", "5M", "-l", "1000"]);
    assert_eq!((count[0], count[1]), (count[2], count[3]), "datagrams");
    server.wait().unwrap();

    // Loopback: what goes out is what comes in, and is counted once.
    for (address, family) in [("127.0.0.1:0", "ipv4"), ("[::1]:0", "ipv6")] {
        let (from, to) = (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
        for _ in 0..1000 {
            from.send_to(&[b'x'; 500], to.local_addr().unwrap()).unwrap();
            to.recv(&mut [0; 500]).unwrap();
        }
        let frame = if family == "ipv4" { 542 } else { 562 };
        let labels = [("interface", "lo"), ("family", family), ("protocol", "udp")];
        assert_eq!(packets(&agent.metrics(), &labels), (1000, 1000 * frame), "{family}");
    }
    adds_up(&agent);
}

/// The row of the connection with this port at its far end.
fn row_of(agent: &Agent, port: u16) -> serde_json::Value {
    let rows = agent.connections();
    let end = format!(":{port}");
    let ends_so = |row: &&serde_json::Value| row["remote"].as_str().unwrap().ends_with(&end);
    rows.iter().find(ends_so).unwrap_or_else(|| panic!("nothing to {port} in {rows:#?}")).clone()
}

#[test]
fn what_connections_carry() {
    let _turn = Turn::shared();
    let _pod = Pod::new("carry");
    let gateway = Setup::new(
        "gw-carry",
        "map $http_upgrade $connection_upgrade { default upgrade; '' close; }
         server {
             listen 127.0.0.1:@PORT@; listen 127.0.0.1:@TLS@ ssl http2;
             ssl_certificate @DIR@/cert.pem; ssl_certificate_key @DIR@/key.pem;
             location / { return 200 hello; }
         }",
    )
    .start();
    let agent = agent("gw-carry", UNPINNED).start();
    agent.wait_attached("lo");
    let mut plain = TcpStream::connect((Ipv4Addr::LOCALHOST, gateway.port())).unwrap();
    plain.write_all(b"GET /v1/users/7?token=secret HTTP/1.1\r\nHost: api.example.com\r\n\r\n").unwrap();
    plain.read_exact(&mut [0; 40]).unwrap();
    let row = row_of(&agent, gateway.port());
    assert_eq!(
        (&row["application"], &row["host"], &row["path"]),
        (&"http1".into(), &"api.example.com".into(), &"/v1/users/7".into()),
        "{row}"
    );
    assert_eq!(row["process"]["name"], std::fs::read_to_string("/proc/self/comm").unwrap().trim());
    assert_eq!(row["peer"]["gateway"], format!("nginx:{}", gateway.port()), "{row}");

    let tls = gateway.tls();
    let mut client = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &format!("127.0.0.1:{tls}"),
            "-servername",
            "shop.example.com",
            "-alpn",
            "h2,http/1.1",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(SOON, "the handshake is seen", || {
        let rows = agent.connections();
        rows.iter().any(|row| {
            row["application"] == "tls"
                && row["host"] == "shop.example.com"
                && row["tls_version"] == "1.2"
                && row["alpn"] == "h2"
        })
    });
    client.kill().unwrap();
    client.wait().unwrap();

    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let query =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x07example\x03com\x00\x00\x01\x00\x01";
    socket.send_to(query, server.local_addr().unwrap()).unwrap();
    let row = row_of(&agent, server.local_addr().unwrap().port());
    assert_eq!(
        (&row["application"], &row["host"], &row["protocol"]),
        (&"dns".into(), &"db.example.com".into(), &"udp".into()),
        "{row}"
    );
    let metrics = agent.metrics();
    for application in ["http1", "tls", "dns"] {
        let labels = [("application", application)];
        assert!(metrics.sum("gatewatch_application_packets_total", &labels) > 0, "{application}");
        assert!(metrics.sum("gatewatch_application_connections_total", &labels) > 0, "{application}");
    }
    adds_up(&agent);

    let table = run(
        env!("CARGO_BIN_EXE_gatewatch"),
        &["connections", "--agent", &format!("127.0.0.1:{}", agent.port)],
    );
    assert!(table.starts_with("PROTO") && table.contains("http1 api.example.com/v1/users/7"), "{table}");
    let json = run(
        env!("CARGO_BIN_EXE_gatewatch"),
        &["connections", "--agent", &format!("127.0.0.1:{}", agent.port), "-o", "json"],
    );
    assert!(json.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{json}");
    assert!(!json.contains("secret") && !table.contains("secret"));
}

/// Which container talks to which, over what: by the control groups of the two ends.
#[test]
fn containers_on_loopback() {
    let _turn = Turn::shared();
    let _pod = Pod::new("groups");
    let groups = Groups::new(["web", "shop"]);
    let server = "
import socket
s = socket.create_server(('127.0.0.1', 8600))
print('listens', flush=True)
c, _ = s.accept()
for _ in range(100):
    c.recv(4096); c.sendall(b'HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n')
c.recv(1)
";
    let client = "
import socket, time
c = socket.create_connection(('127.0.0.1', 8600))
for _ in range(100):
    c.sendall(b'GET /stock HTTP/1.1\\r\\nhost: shop\\r\\n\\r\\n'); c.recv(4096)
print('done', flush=True)
time.sleep(20)
";
    let agent = agent("gw-groups", UNPINNED).start();
    agent.wait_attached("lo");
    let mut server = groups.start("shop", server);
    let mut client = groups.start("web", client);
    let share = |metrics: &Metrics, from: &str, to: &str| {
        metrics.sum(
            "gatewatch_container_packets_total",
            &[("source", from), ("destination", to), ("application", "http1")],
        )
    };
    agent.wait_metrics(Duration::from_secs(30), "both are named", |metrics| {
        share(metrics, "web", "shop") >= 100 && share(metrics, "shop", "web") >= 100
    });
    let rows = agent.connections();
    let row = rows.iter().find(|row| row["remote"] == "127.0.0.1:8600").unwrap();
    assert_eq!((&row["process"]["container"], &row["peer"]["container"]), (&"web".into(), &"shop".into()));
    for child in [&mut server, &mut client] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Control groups of version 2, wherever it is mounted.
struct Groups {
    root: std::path::PathBuf,
    names: Vec<&'static str>,
}

impl Groups {
    fn new<const N: usize>(names: [&'static str; N]) -> Self {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let place = |line: &str| {
            let mut words = line.split(' ');
            let (_, path, kind) = (words.next()?, words.next()?, words.next()?);
            (kind == "cgroup2").then(|| path.to_owned())
        };
        let root: std::path::PathBuf =
            mounts.lines().find_map(place).expect("control groups of version 2").into();
        let root = root.join(format!("gwt-{}", std::process::id()));
        for name in names {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        Self { root, names: names.to_vec() }
    }

    /// Runs it in this group; returns when it has said something.
    fn start(&self, group: &str, script: &str) -> std::process::Child {
        let procs = self.root.join(group).join("cgroup.procs");
        let mut child = Command::new("sh")
            .args(["-c", "echo $$ > $0; exec python3 -c \"$1\"", procs.to_str().unwrap(), script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        child
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for name in &self.names {
            let _gone = std::fs::remove_dir(self.root.join(name));
        }
        let _gone = std::fs::remove_dir(&self.root);
    }
}
