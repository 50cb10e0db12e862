//! Attempts to connect: exactly one for each connect, with the address that was asked for, whatever becomes of it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{net::SocketAddrV4, path::PathBuf, process::Command};

use common::{
    Agent, AgentSetup, Metrics, SOON, Turn,
    nodes::{Node, Pod, Reject, Rules},
    text,
};
use gatewatch_capture::{
    attempt::{AttemptProbe, Tally, Tier},
    balancer::Balancer,
};
use gatewatch_decode::attempt::{Told, told};
use gatewatch_event::{AttemptEnd, Outcome};
use gatewatch_target::process::ProcRoot;

/// Runs Python in a pod, under a name of its own; what it prints.
fn python(pod: Option<&Pod>, comm: &str, script: &str) -> String {
    let script = format!("open('/proc/self/comm', 'w').write('{comm}')\nimport socket, os, time\n{script}");
    let mut command = match pod {
        Some(pod) => pod.command("python3"),
        None => Command::new("python3"),
    };
    let output = command.args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn attempts(metrics: &Metrics, comm: &str) -> u64 {
    metrics.sum("internal_tcp_attempts_total", &[("process_comm", comm)])
}

/// So many attempts of this process, and nothing lost; and that it stays so.
fn holds_exactly(agent: &Agent, comm: &str, count: u64) {
    agent.wait_metrics(SOON, &format!("{count} attempts of {comm}"), |m| attempts(m, comm) >= count);
    let metrics = agent.metrics();
    assert_eq!(attempts(&metrics, comm), count, "{}", metrics.text);
    assert_eq!(metrics.lost(), 0);
    let [seen, reported, excluded] = ["seen", "reported", "excluded"]
        .map(|what| metrics.sum(&format!("gatewatch_attempts_{what}_total"), &[]));
    assert_eq!(seen, reported + excluded);
}

/// The ends of this process's attempts, from the probe itself.
struct Probe(AttemptProbe);

impl Probe {
    fn load() -> Self {
        Self(AttemptProbe::load(ProcRoot::new("/proc").pid_namespace()).unwrap())
    }

    fn ends(&self, comm: &str) -> Vec<AttemptEnd> {
        let mut ends = Vec::new();
        let mut began = 0;
        while self.0.drain(|record| match told(record) {
            Some(Told::Ended(end)) if end.attempt.caller.comm == comm => ends.push(end),
            Some(Told::Began(attempt)) if attempt.caller.comm == comm => began += 1,
            Some(_) => {}
            None => panic!("a record of no kind"),
        }) > 0
        {}
        assert_eq!(began, ends.len(), "each that began has ended");
        ends
    }
}

#[test]
fn ten_thousand_connects_to_a_service_without_pods_are_ten_thousand_attempts() {
    let _turn = Turn::alone();
    let node = Node::with("att", Rules::Nftables, Reject::Reset);
    let client = node.client_pod("client");
    let _service = node.service("10.96.0.10", 80);
    let agent = AgentSetup::node().start();
    python(
        Some(&client),
        "gwt-refused",
        "for n in range(10000):\n s = socket.socket()\n try: s.connect(('10.96.0.10', 80)); raise SystemExit('connected')\n except ConnectionRefusedError: pass\n s.close()",
    );
    holds_exactly(&agent, "gwt-refused", 10_000);
}

#[test]
fn ten_thousand_connects_behind_address_translation_are_ten_thousand_attempts() {
    let _turn = Turn::alone();
    let node = Node::new("dnat");
    let (client, server) = (node.client_pod("client"), node.server_pod("server", 8080));
    let service = node.service("10.96.0.11", 80);
    service.endpoints(&[&server]);
    let agent = AgentSetup::node().start();
    python(
        Some(&client),
        "gwt-warm",
        "import struct\nfor n in range(10000):\n s = socket.socket()\n s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n s.connect(('10.96.0.11', 80)); s.close()",
    );
    holds_exactly(&agent, "gwt-warm", 10_000);
}

/// The root of the unified hierarchy here.
fn hierarchy() -> PathBuf {
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    roots.into_iter().find(|root| root.join("cgroup.controllers").exists()).unwrap()
}

#[test]
fn ten_thousand_connects_behind_a_socket_load_balancer_are_told_by_the_services_address() {
    let _turn = Turn::alone();
    let node = Node::new("slb");
    let (client, server) = (node.client_pod("client"), node.server_pod("server", 8080));
    let mut balancer = Balancer::load().unwrap();
    let (warm, cold): (SocketAddrV4, SocketAddrV4) =
        ("10.96.0.12:80".parse().unwrap(), "10.96.0.13:80".parse().unwrap());
    let endpoint = SocketAddrV4::new(server.pod.ip, 8080);
    balancer.service(warm, Some(endpoint)).unwrap();
    balancer.service(cold, None).unwrap();
    // It was there before the agent, as a CNI is.
    balancer.attach(&hierarchy()).unwrap();
    let probe = Probe::load();
    let mut ends = Vec::new();
    for _ in 0..10 {
        python(
            Some(&client),
            "gwt-balanced",
            "import struct\nfor n in range(500):\n s = socket.socket()\n s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n s.connect(('10.96.0.12', 80)); s.close()\n s = socket.socket()\n try: s.connect(('10.96.0.13', 80)); raise SystemExit('connected')\n except PermissionError: pass\n s.close()",
        );
        ends.extend(probe.ends("gwt-balanced"));
    }
    assert_eq!(ends.len(), 10_000);
    if probe.0.tier() == Tier::Socket {
        panic!("no control group to attach to: {}", probe.0.why());
    }
    let of = |asked: SocketAddrV4| ends.iter().filter(move |end| end.attempt.asked == asked.into());
    assert_eq!(of(warm).count(), 5000);
    assert!(
        of(warm).all(|end| end.outcome == Outcome::Established && end.translated == Some(endpoint.into()))
    );
    assert_eq!(of(cold).count(), 5000);
    assert!(of(cold).all(|end| end.outcome == Outcome::NotSent && end.translated.is_none()));
    assert_eq!(probe.0.tally(Tally::ATTEMPTS_RING_FULL) + probe.0.tally(Tally::ATTEMPTS_TABLE_FULL), 0);
}

#[test]
fn each_connect_is_one_attempt_and_ends_as_it_ends() {
    let _turn = Turn::alone();
    let node = Node::new("kinds");
    let (client, server) = (node.client_pod("client"), node.server_pod("server", 8080));
    let _cold = node.service("10.96.0.14", 80);
    let (ip, ip6) = (server.pod.ip, server.pod.ip6);
    let probe = Probe::load();
    let ends = |script: &str| {
        python(Some(&client), "gwt-kinds", script);
        probe.ends("gwt-kinds")
    };
    let one = |script: &str| {
        let ends = ends(script);
        assert_eq!(ends.len(), 1, "{script}: {ends:#?}");
        ends.into_iter().next().unwrap()
    };

    let end = one(&format!("s = socket.socket(); s.connect(('{ip}', 8080))"));
    assert_eq!((end.outcome, end.attempt.asked), (Outcome::Established, server.at(false)));
    assert_eq!(end.local.unwrap().ip(), client.address(false));
    assert!(end.duration_ns > 0);

    let end = one(&format!("s = socket.socket(socket.AF_INET6); s.connect(('{ip6}', 8080))"));
    assert_eq!((end.outcome, end.attempt.asked), (Outcome::Established, server.at(true)));

    // IPv4 behind IPv6's socket is IPv4.
    let end = one(&format!("s = socket.socket(socket.AF_INET6); s.connect(('::ffff:{ip}', 8080))"));
    assert_eq!((end.outcome, end.attempt.asked), (Outcome::Established, server.at(false)));

    // Without blocking, asked again and again whether it is there.
    let end = one(&format!(
        "import select\ns = socket.socket(); s.setblocking(False)\nfor n in range(5): s.connect_ex(('{ip}', 8080))\nselect.select([], [s], [], 5)\nfor n in range(5): s.connect_ex(('{ip}', 8080))"
    ));
    assert_eq!(end.outcome, Outcome::Established);

    // TCP fast open begins by sending.
    let end = one(&format!(
        "s = socket.socket(); s.sendto(b'GET / HTTP/1.0\\r\\n\\r\\n', 0x20000000, ('{ip}', 8080)); s.recv(10)"
    ));
    assert_eq!((end.outcome, end.attempt.asked), (Outcome::Established, server.at(false)));

    let end =
        one("s = socket.socket()\ntry: s.connect(('10.96.0.14', 80))\nexcept ConnectionRefusedError: pass");
    assert_eq!(end.outcome, Outcome::Refused);

    let end = one(&format!(
        "s = socket.socket()\ntry: s.connect(('{ip}', 9))\nexcept ConnectionRefusedError: pass"
    ));
    assert_eq!(end.outcome, Outcome::Refused);

    // Nobody is there: the program gives up, or the kernel does.
    let end = one(
        "s = socket.socket(); s.settimeout(0.2)\ntry: s.connect(('192.0.2.77', 80))\nexcept TimeoutError: pass\ns.close()",
    );
    assert_eq!(end.outcome, Outcome::Abandoned);
    let end = one(
        "s = socket.socket(); s.setsockopt(6, 18, 300)\ntry: s.connect(('192.0.2.77', 80))\nexcept OSError: pass",
    );
    assert!(matches!(end.outcome, Outcome::TimedOut | Outcome::Unreachable), "{end:?}");

    // No packet leaves: the kernel knows of no way for an address of a family that has no routes.
    client.run(&["ip", "route", "add", "unreachable", "203.0.113.0/24"]);
    let end = one("s = socket.socket()\ntry: s.connect(('203.0.113.1', 80))\nexcept OSError: pass");
    assert_eq!((end.outcome, end.local), (Outcome::NotSent, None));

    // The same socket tries twice, and then has it.
    let three = ends(&format!(
        "s = socket.socket()\nfor n in range(2):\n try: s.connect(('203.0.113.1', 80))\n except OSError: pass\ns.connect(('{ip}', 8080))"
    ));
    let outcomes: Vec<_> = three.iter().map(|end| end.outcome).collect();
    assert_eq!(outcomes, [Outcome::NotSent, Outcome::NotSent, Outcome::Established]);

    // What is no attempt at TCP.
    let none = ends(&format!(
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('{ip}', 53)); s.send(b'x')\nu = socket.socket(socket.AF_UNIX)\ntry: u.connect('/nowhere')\nexcept OSError: pass\nl = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen()"
    ));
    assert_eq!(none, []);
}

#[test]
fn addresses_that_are_none_are_no_attempts_and_addresses_that_change_are_what_the_kernel_took() {
    let _turn = Turn::alone();
    let node = Node::new("bad");
    let (client, server) = (node.client_pod("client"), node.server_pod("server", 8080));
    let ip = server.pod.ip;
    let probe = Probe::load();
    let c = "import ctypes, struct\nlibc = ctypes.CDLL(None, use_errno=True)\ndef connect(address, length):\n s = socket.socket()\n r = libc.connect(s.fileno(), address, length)\n s.close()\n return r\n";
    python(
        Some(&client),
        "gwt-bad",
        &format!(
            "{c}good = struct.pack('!HH4s8x', 0, 8080, socket.inet_aton('{ip}'))\ngood = struct.pack('=H', 2) + good[2:]\nfor length in [0, 1, 2, 3, 4, 7, 8, 15, 129, 4096, 2**31 - 1, -1]: connect(good, length)\nfor address in [None, ctypes.c_void_p(1), ctypes.c_void_p(2**47 - 4096), ctypes.c_void_p(-1)]: connect(address, 16)\nfor family in [1, 3, 10, 17, 255, 65535]: connect(struct.pack('=H', family) + good[2:], 16)\nconnect(struct.pack('=H', 0) + good[2:], 16)"
        ),
    );
    // Of all these only what the kernel itself takes for an address is one.
    let ends = probe.ends("gwt-bad");
    assert!(ends.iter().all(|end| end.attempt.asked == server.at(false)), "{ends:#?}");

    // A thread rewrites the address while another connects: told is what the kernel connected to, each once.
    python(
        Some(&client),
        "gwt-racing",
        &format!(
            "{c}import threading\nbuffer = ctypes.create_string_buffer(struct.pack('=H', 2) + struct.pack('!H4s8x', 8080, socket.inet_aton('{ip}')))\nstop = False\ndef race():\n while not stop:\n  buffer[3] = 0x90; buffer[3] = 0x91\nt = threading.Thread(target=race); t.start()\nfor n in range(2000): connect(buffer, 16)\nstop = True; t.join()"
        ),
    );
    let ends = probe.ends("gwt-racing");
    assert_eq!(ends.len(), 2000);
    assert!(
        ends.iter().all(|end| end.translated.is_none()),
        "the address asked for is the one that was taken"
    );
}

#[test]
fn processes_that_are_excluded_are_counted_apart() {
    let _turn = Turn::shared();
    let agent = AgentSetup::node().env("EXCLUDE_COMMS", "gwt-out, kubelet").start();
    let call = "for n in range(7):\n s = socket.socket()\n try: s.connect(('127.0.0.1', 1))\n except ConnectionRefusedError: pass";
    python(None, "gwt-out", call);
    python(None, "gwt-in", call);
    holds_exactly(&agent, "gwt-in", 7);
    let metrics = agent.metrics();
    assert_eq!(attempts(&metrics, "gwt-out"), 0);
    assert!(metrics.sum("gatewatch_attempts_excluded_total", &[]) >= 7);
}
