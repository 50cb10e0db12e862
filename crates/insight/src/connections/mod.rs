//! Connections as their packets show them: what each application and container had of the traffic, and when a
//! connection that never says goodbye has ended.

use std::{collections::BTreeMap, net::SocketAddr};

use gatewatch_event::{
    Application,
    connection::{Flow, FlowId, IpProtocol, tcp_flags},
};
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// A closed TCP connection's account is kept so long for packets that come late.
const LATE_NS: u64 = 2_000_000_000;
/// Pairs of containers told apart; further ones are counted together.
const PAIRS_MAX: usize = 4096;
/// The control group that stands for all that are not told apart.
pub const OTHERS: u64 = u64::MAX;

/// Packets and bytes of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Packets.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// Connections that began.
    pub connections: u64,
}

/// What a connection carries, as far as its first bytes told. Masked by whoever made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Its protocol.
    pub application: Application,
    /// Host of its first request, TLS' server name, or the name a DNS query asks for.
    pub host: Option<String>,
    /// Path of its first request.
    pub path: Option<String>,
    /// TLS' version.
    pub tls_version: Option<&'static str>,
    /// The protocol TLS' handshake agreed on.
    pub alpn: Option<String>,
}

/// What is to become of an account in the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It lives.
    Keep,
    /// It has ended: take it out, and tell [`Connections::ended`].
    End,
}

#[derive(Debug)]
struct Known {
    packets: [u64; 2],
    bytes: [u64; 2],
    walk: u32,
    application: Application,
    /// It stands among its application's connections, or among those of the one its ports suggested.
    counted: bool,
    carried: Option<Box<Carried>>,
}

/// Sender's and receiver's control group (0: outside, or not known), and what they spoke.
pub type Pair = (u64, u64, Application);

/// All connections accounted for.
#[derive(Debug, Default)]
pub struct Connections {
    known: HashMap<FlowId, Known, FxBuildHasher>,
    applications: BTreeMap<Application, Share>,
    pairs: BTreeMap<Pair, Share>,
    live: BTreeMap<(IpProtocol, Application), u64>,
    walk: u32,
    ended: u64,
    ended_udp: u64,
}

impl Connections {
    /// A walk through the kernel's table begins.
    pub fn begin_walk(&mut self) {
        self.walk = self.walk.wrapping_add(1);
        self.live.clear();
    }

    /// An account found in the table at `now_ns`; flows without a close of their own end after `idle_ns` of silence.
    pub fn seen(&mut self, id: &FlowId, flow: &Flow, now_ns: u64, idle_ns: u64) -> Fate {
        self.account(id, flow);
        if has_ended(id, flow, now_ns, idle_ns) {
            return Fate::End;
        }
        let application = self.known.get(id).map_or(Application::Unknown, |known| known.application);
        *self.live.entry((id.protocol, application)).or_default() += 1;
        Fate::Keep
    }

    /// An account was taken out of the table, as it last stood.
    pub fn ended(&mut self, id: &FlowId, flow: &Flow) {
        self.account(id, flow);
        self.known.remove(id);
        self.ended += 1;
        self.ended_udp += u64::from(id.protocol == IpProtocol::Udp);
    }

    /// The walk is over: what it did not find, the kernel has evicted.
    pub fn end_walk(&mut self) {
        let walk = self.walk;
        self.known.retain(|_, known| known.walk == walk);
        // A flood leaves a large table behind.
        if self.known.capacity() > 4096 && self.known.len() < self.known.capacity() / 8 {
            self.known.shrink_to_fit();
        }
    }

    /// What a connection carries has been recognised. What it came to before, and the connection itself where a walk has
    /// found it, stay counted where they are: a counter never falls.
    pub fn recognised(&mut self, id: &FlowId, carried: Carried) {
        let walk = self.walk;
        let known = self.known.entry(*id).or_insert_with(|| begin(id, walk));
        known.application = carried.application;
        known.carried = Some(Box::new(carried));
    }

    /// What a connection carries.
    #[must_use]
    pub fn carried(&self, id: &FlowId) -> (Application, Option<&Carried>) {
        self.known.get(id).map_or((by_port(id), None), |known| (known.application, known.carried.as_deref()))
    }

    /// Packets, bytes and connections by application.
    pub fn applications(&self) -> impl Iterator<Item = (Application, Share)> {
        self.applications.iter().map(|(application, share)| (*application, *share))
    }

    /// The same by who sent to whom.
    pub fn pairs(&self) -> impl Iterator<Item = (Pair, Share)> {
        self.pairs.iter().map(|(pair, share)| (*pair, *share))
    }

    /// Connections that live, by protocol and application, as of the last walk.
    pub fn live(&self) -> impl Iterator<Item = (IpProtocol, Application, u64)> {
        self.live.iter().map(|((protocol, application), n)| (*protocol, *application, *n))
    }

    /// Accounts taken out because their connection had ended: all, and those of UDP.
    #[must_use]
    pub fn ended_counts(&self) -> (u64, u64) {
        (self.ended, self.ended_udp)
    }

    fn account(&mut self, id: &FlowId, flow: &Flow) {
        let walk = self.walk;
        let Self { known, applications, pairs, .. } = self;
        let known = known.entry(*id).or_insert_with(|| begin(id, walk));
        known.walk = walk;
        let share = applications.entry(known.application).or_default();
        share.connections += u64::from(!known.counted);
        known.counted = true;
        for end in [0, 1] {
            let ([packets, bytes], [packets_before, bytes_before]) = (
                [at(&flow.packets, end), at(&flow.bytes, end)],
                [at(&known.packets, end), at(&known.bytes, end)],
            );
            // An account that was evicted and began anew is smaller than the one known.
            let (packets, bytes) =
                match (packets.checked_sub(packets_before), bytes.checked_sub(bytes_before)) {
                    (Some(packets), Some(bytes)) => (packets, bytes),
                    (None, _) | (_, None) => (packets, bytes),
                };
            if packets == 0 {
                continue;
            }
            share.packets += packets;
            share.bytes += bytes;
            let mut pair = (at(&flow.cgroup, end), at(&flow.cgroup, 1 - end), known.application);
            if !pairs.contains_key(&pair) && pairs.len() >= PAIRS_MAX {
                pair = (OTHERS, OTHERS, Application::Unknown);
            }
            let between = pairs.entry(pair).or_default();
            between.packets += packets;
            between.bytes += bytes;
        }
        known.packets = flow.packets;
        known.bytes = flow.bytes;
    }
}

fn at(values: &[u64; 2], end: usize) -> u64 {
    values.get(end).copied().unwrap_or(0)
}

fn begin(id: &FlowId, walk: u32) -> Known {
    let (packets, bytes) = ([0; 2], [0; 2]);
    Known { packets, bytes, walk, application: by_port(id), counted: false, carried: None }
}

/// What the ports suggest; the lower one first, which mostly is the server's.
#[must_use]
pub fn by_port(id: &FlowId) -> Application {
    let transport = match id.protocol {
        IpProtocol::Tcp => gatewatch_event::Transport::Tcp,
        IpProtocol::Udp => gatewatch_event::Transport::Udp,
        IpProtocol::Icmp | IpProtocol::Icmp6 | IpProtocol::Sctp | IpProtocol::Other(_) => {
            return Application::Unknown;
        }
    };
    let [a, b] = id.ends.map(|end| end.port());
    let guess = |port| Some(Application::by_port(transport, port)).filter(|it| *it != Application::Unknown);
    guess(a.min(b)).or_else(|| guess(a.max(b))).unwrap_or_default()
}

fn has_ended(id: &FlowId, flow: &Flow, now_ns: u64, idle_ns: u64) -> bool {
    let silent_ns = now_ns.saturating_sub(flow.last_ns);
    if id.protocol != IpProtocol::Tcp {
        return silent_ns >= idle_ns;
    }
    let [a, b] = flow.tcp_flags;
    let reset = (a | b) & tcp_flags::RST != 0;
    let both_finished = a & b & tcp_flags::FIN != 0;
    if reset || both_finished {
        return silent_ns >= LATE_NS;
    }
    // A handshake that was never answered, or never taken up.
    let is_open = a & b & tcp_flags::ACK != 0;
    !is_open && silent_ns >= idle_ns
}

/// The end that opened the connection. `listens` tells whether an address is listened at.
#[must_use]
pub fn initiator(id: &FlowId, flow: &Flow, listens: impl Fn(&SocketAddr) -> bool) -> usize {
    let first = flow.first;
    let saw_handshake = flow.tcp_flags.get(first).is_some_and(|flags| flags & tcp_flags::SYN != 0);
    if id.protocol == IpProtocol::Tcp && saw_handshake {
        return first;
    }
    let [a, b] = &id.ends;
    match (listens(a), listens(b)) {
        (true, false) => 1,
        (false, true) => 0,
        _ if id.protocol != IpProtocol::Tcp => first,
        // The server's port is mostly the lower one.
        _ => usize::from(a.port() < b.port()),
    }
}

#[cfg(test)]
mod tests;
