//! A node of a cluster in network namespaces: pods, each behind a veth pair, and Services by rules as kube-proxy writes
//! them. No namespace has a way out: addresses of other networks end at a cable that leads nowhere.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};

use super::{SOON, net::ip, run, text, wait_until};

mod rules;
use rules::{Endpoints, Proxy};
pub use rules::{Reject, Rules};

/// A node: a network namespace that forwards between its pods. Deleted, with its pods, when dropped.
pub struct Node {
    name: String,
    ns: Namespace,
    /// kube-proxy, of each family.
    proxies: [Mutex<Proxy>; 2],
    pods: AtomicU16,
}

/// A pod of a node: a network namespace of its own, `eth0` in it, `interface` at the node's side.
pub struct Pod {
    ns: Namespace,
    /// The veth's end at the node.
    pub interface: String,
    pub ip: Ipv4Addr,
    pub ip6: Ipv6Addr,
}

/// A pod with a server in it: a thread of this process that answers each connection.
pub struct ServerPod {
    pub pod: Pod,
    pub port: u16,
    served: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

/// One port of a Service at one address of it. Its rules are what was last said.
pub struct Service<'a> {
    node: &'a Node,
    pub address: SocketAddr,
}

/// What every server of this file answers.
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

impl Node {
    /// With kube-proxy's nftables rules. `name` is short: it is part of names the kernel cuts.
    pub fn new(name: &str) -> Self {
        Self::with(name, Rules::Nftables, Reject::Port)
    }

    /// Rules of this kind; what has no endpoint is refused so.
    pub fn with(name: &str, rules: Rules, reject: Reject) -> Self {
        let ns = Namespace::new(&format!("gwn-{name}-{}", std::process::id()));
        for setting in [
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv6.conf.default.accept_dad=0",
            // The kernel tells a caller once a second that it is refused; the rest wait.
            "net.ipv4.icmp_ratelimit=0",
            "net.ipv6.icmp.ratelimit=0",
        ] {
            ns.run(&["sysctl", "-qw", setting]);
        }
        // A node has a default route, or its kernel would answer before the rules do.
        for words in [
            "link set lo up",
            "link add out type veth peer name nowhere",
            "link set nowhere up",
            "link set out up",
            "addr add 192.0.2.1/24 dev out",
            "-6 addr add fd00:2::1/64 dev out nodad",
            "route add default dev out",
            "-6 route add default dev out",
        ] {
            ns.ip(words);
        }
        let proxies = [false, true].map(|six| Proxy::new(rules, reject, six));
        proxies.iter().for_each(|proxy| ns.apply(proxy.program(), &proxy.base()));
        Self { name: name.to_owned(), ns, proxies: proxies.map(Mutex::new), pods: AtomicU16::new(0) }
    }

    /// Its network namespace's name, for `ip netns`.
    pub fn namespace(&self) -> &str {
        &self.ns.name
    }

    /// A pod that calls: addresses 10.244.x.y and fd00:244::x:y.
    pub fn client_pod(&self, name: &str) -> Pod {
        let number = self.pods.fetch_add(1, Ordering::Relaxed) + 2;
        let [high, low] = number.to_be_bytes();
        let (ip4, ip6) =
            (Ipv4Addr::new(10, 244, high, low), Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, number));
        let ns = Namespace::new(&format!("gwn-{}-{name}-{}", self.name, std::process::id()));
        ns.run(&["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"]);
        let interface = format!("veth{number}");
        self.ns.ip(&format!("link add {interface} type veth peer name eth0 netns {}", ns.name));
        // As CNI's ptp plugin does: the node answers at an address that every pod has for its gateway.
        self.ns.ip(&format!("addr add 10.244.255.1/32 dev {interface}"));
        self.ns.ip(&format!("-6 addr add fd00:244::ffff/128 dev {interface} nodad"));
        self.ns.ip(&format!("link set {interface} up"));
        self.ns.ip(&format!("route add {ip4}/32 dev {interface}"));
        self.ns.ip(&format!("-6 route add {ip6}/128 dev {interface}"));
        for words in [
            "link set lo up".to_owned(),
            "link set eth0 up".to_owned(),
            format!("addr add {ip4}/32 dev eth0"),
            format!("-6 addr add {ip6}/128 dev eth0 nodad"),
            "route add 10.244.255.1 dev eth0".to_owned(),
            "route add default via 10.244.255.1".to_owned(),
            "-6 route add fd00:244::ffff dev eth0".to_owned(),
            "-6 route add default via fd00:244::ffff".to_owned(),
        ] {
            ns.ip(&words);
        }
        let pod = Pod { ns, interface, ip: ip4, ip6 };
        // The kernel takes up to a second to find that a new link is up.
        for gateway in ["10.244.255.1:9", "[fd00:244::ffff]:9"] {
            let gateway: SocketAddr = gateway.parse().unwrap();
            let answers = move || {
                let closed = TcpStream::connect_timeout(&gateway, Duration::from_millis(100));
                closed.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            };
            pod.inside(move || wait_until(SOON, "the node answers its pod", answers));
        }
        pod
    }

    /// A pod that answers each connection to `port` (IPv4 and IPv6) with [`ANSWER`] once it has read something.
    pub fn server_pod(&self, name: &str, port: u16) -> ServerPod {
        let pod = self.client_pod(name);
        let listener = pod.inside(move || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
        let (served, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ends) = (Arc::clone(&served), Arc::clone(&over));
        thread::spawn(move || serve(&listener, &count, &ends));
        ServerPod { pod, port, served, over }
    }

    /// A Service without endpoints; at `0.0.0.0` or `::`, `port` is a node port, at all of the node's addresses.
    pub fn service(&self, address: &str, port: u16) -> Service<'_> {
        let service = Service { node: self, address: SocketAddr::new(address.parse().unwrap(), port) };
        service.without_endpoints();
        service
    }

    /// Many Services without endpoints, in one step.
    pub fn services(&self, addresses: &[SocketAddr]) -> Vec<Service<'_>> {
        self.sync(addresses.iter().map(|address| (*address, Some(Vec::new()))).collect());
        addresses.iter().map(|address| Service { node: self, address: *address }).collect()
    }

    /// Connections to these go to those servers from now on, in one step.
    pub fn endpoints<'a>(&self, of: impl Iterator<Item = (&'a Service<'a>, &'a [&'a ServerPod])>) {
        self.sync(of.map(|(service, servers)| service.with(servers)).collect());
    }

    /// One transaction of each family that has changes.
    fn sync(&self, changes: Vec<(SocketAddr, Endpoints)>) {
        let (six, four): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(address, _)| address.is_ipv6());
        for (proxy, changes) in self.proxies.iter().zip([four, six]) {
            if changes.is_empty() {
                continue;
            }
            // kube-proxy's rounds of one family follow each other.
            let mut proxy = proxy.lock().unwrap();
            let text = proxy.sync(changes);
            if !text.is_empty() {
                self.ns.apply(proxy.program(), &text);
            }
        }
    }

    /// Runs in a thread of the node's namespace, to its end.
    pub fn inside<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        self.ns.inside(f).join().unwrap()
    }

    /// This thread, and what it starts, is in the node's namespace from now on.
    pub fn enter(&self) {
        enter(&self.ns.name);
    }

    /// Runs a program in the node's namespace; its output.
    pub fn run(&self, words: &[&str]) -> String {
        self.ns.run(words)
    }
}

impl Pod {
    pub fn namespace(&self) -> &str {
        &self.ns.name
    }

    /// Its address of this family.
    pub fn address(&self, six: bool) -> IpAddr {
        if six { self.ip6.into() } else { self.ip.into() }
    }

    /// Runs in a thread of the pod's namespace, to its end.
    pub fn inside<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        self.ns.inside(f).join().unwrap()
    }

    /// The same without waiting for it.
    pub fn thread<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        self.ns.inside(f)
    }

    /// A program that runs in the pod.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns.name, program]);
        command
    }

    pub fn run(&self, words: &[&str]) -> String {
        self.ns.run(words)
    }
}

impl ServerPod {
    /// Connections answered.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    pub fn at(&self, six: bool) -> SocketAddr {
        SocketAddr::new(self.pod.address(six), self.port)
    }
}

impl Drop for ServerPod {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn serve(listener: &TcpListener, served: &Arc<AtomicU64>, over: &AtomicBool) {
    listener.set_nonblocking(true).unwrap();
    while !over.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_micros(200));
            continue;
        };
        let served = Arc::clone(served);
        thread::spawn(move || {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            if stream.read(&mut [0; 2048]).is_ok_and(|n| n > 0) && stream.write_all(ANSWER).is_ok() {
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// This thread, and what it starts, is in the namespace of this name from now on.
pub fn enter(namespace: &str) {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
}

/// One request to an address, from the namespace of this thread; what was answered.
pub fn request(address: SocketAddr, limit: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

impl Service<'_> {
    /// Connections are refused from now on.
    pub fn without_endpoints(&self) {
        self.node.sync(vec![(self.address, Some(Vec::new()))]);
    }

    /// Connections go to these servers from now on; with none, no rule knows the Service.
    pub fn endpoints(&self, servers: &[&ServerPod]) {
        self.node.sync(vec![self.with(servers)]);
    }

    fn with(&self, servers: &[&ServerPod]) -> (SocketAddr, Endpoints) {
        let six = self.address.is_ipv6();
        let at = servers.iter().map(|server| server.at(six)).collect();
        (self.address, (!servers.is_empty()).then_some(at))
    }
}

/// A named network namespace; deleted when dropped.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new(name: &str) -> Self {
        // What a killed test of the same number left behind.
        let _left = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        ip(&format!("netns add {name}"));
        Self { name: name.to_owned() }
    }

    fn ip(&self, words: &str) {
        run("ip", &[&["-n", &self.name], words.split(' ').collect::<Vec<_>>().as_slice()].concat());
    }

    fn run(&self, words: &[&str]) -> String {
        run("ip", &[&["netns", "exec", &self.name], words].concat())
    }

    fn inside<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let name = self.name.clone();
        thread::spawn(move || {
            enter(&name);
            f()
        })
    }

    /// Gives a program its input; started by a thread that is inside, which is quicker than `ip netns exec`.
    fn apply(&self, program: &'static [&'static str], input: &str) {
        let input = input.to_owned();
        let applied = self.inside(move || {
            let mut child = Command::new(program[0])
                .args(&program[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{program:?}: {}\n{input}", text(&output.stderr));
        });
        applied.join().unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _gone = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}
