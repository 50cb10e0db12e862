//! A Service at zero pods answers its very first request.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[allow(dead_code, unreachable_pub)]
#[path = "../src/node/hold/mod.rs"]
mod hold;

use std::{
    io::ErrorKind,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use common::{
    Turn,
    nodes::{ANSWER, Node, Pod, Reject, Rules, request},
    wait_until,
};
use hold::{Counts, Hold, Settings, Wanted};

const LIMIT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(800);

/// A hold on a node; told that all is well as a node's loop does.
struct Agent {
    hold: std::sync::Arc<Hold>,
    over: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Agent {
    fn on(node: &Node, settings: Settings) -> Self {
        let hold = std::sync::Arc::new(node.inside(move || Hold::new(settings).unwrap()));
        let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (ticked, ends) = (hold.clone(), over.clone());
        thread::spawn(move || {
            while !ends.load(std::sync::atomic::Ordering::Relaxed) {
                ticked.tick();
                thread::sleep(Duration::from_millis(100));
            }
        });
        Self { hold, over }
    }

    fn holds(&self, addresses: &[SocketAddr], limit: Duration) {
        let wanted = addresses.iter().map(|address| Wanted { address: *address, limit, ready: false });
        self.hold.services(wanted.collect());
        let addresses = addresses.len() as u64;
        self.until("it holds", |counts| {
            counts.addresses == addresses && (counts.interfaces > 0) == (addresses > 0)
        });
    }

    fn until(&self, what: &str, holds: impl Fn(&Counts) -> bool) {
        let waited = wait_for_counts(&self.hold, &holds);
        assert!(waited, "{what}: {:?}, {:?}", self.hold.counts(), self.hold.notes());
    }
}

fn wait_for_counts(hold: &Hold, holds: &impl Fn(&Counts) -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds(&hold.counts()) {
        if Instant::now() > until {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.over.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

type Asked = thread::JoinHandle<(std::io::Result<Vec<u8>>, Instant)>;

/// A request that goes on; what became of it, and when.
fn ask(client: &Pod, to: SocketAddr) -> Asked {
    client.thread(move || {
        let answer = request(to, Duration::from_secs(30));
        (answer, Instant::now())
    })
}

fn first_request(node: &Node) {
    let (client, server) = (node.client_pod("c"), node.server_pod("s", 8080));
    let agent = Agent::on(node, Settings::default());
    for address in ["10.96.0.10", "fd00:96::10"] {
        let service = node.service(address, 80);
        agent.holds(&[service.address], LIMIT);
        for wait in [0, 50, 400, 1300] {
            service.without_endpoints();
            agent.holds(&[service.address], LIMIT);
            let asked = ask(&client, service.address);
            agent.until("the SYN is held", |counts| counts.waiting == 1);
            thread::sleep(Duration::from_millis(wait));
            service.endpoints(&[&server]);
            let ready = Instant::now();
            agent.hold.ready(service.address);
            let (answer, at) = asked.join().unwrap();
            assert_eq!(answer.unwrap(), ANSWER);
            let after = at - ready;
            println!("{address} after {wait} ms: {after:?}");
            assert!(after < Duration::from_millis(200), "{after:?}");
            agent.until("nobody waits", |counts| counts.waiting == 0);
        }
        agent.holds(&[], LIMIT);
    }
    println!("{:?} {:?}", agent.hold.counts(), agent.hold.notes());
}

#[test]
fn the_first_request_is_answered_nftables() {
    let _turn = Turn::shared();
    first_request(&Node::new("h1"));
}

#[test]
fn the_first_request_is_answered_iptables() {
    let _turn = Turn::shared();
    first_request(&Node::with("h2", Rules::Iptables, Reject::Port));
}
