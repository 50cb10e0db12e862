//! The connections one by one: the kernel's sockets, the packets' accounts and the processes, brought together.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use gatewatch_event::connection::{Flow, FlowId, IpProtocol, Socket, TcpState};
use gatewatch_export::network::{Connection, Process};
use gatewatch_insight::connections::{Connections, initiator};
use gatewatch_target::sockets::Owner;

/// What is brought together.
pub struct Sources<'a> {
    /// All TCP sockets.
    pub sockets: &'a [Socket],
    /// All accounts.
    pub flows: &'a [(FlowId, Flow)],
    /// What the connections carry.
    pub connections: &'a Connections,
    /// Owners by the socket's inode.
    pub owners: &'a HashMap<u64, Owner>,
    /// Names of interfaces by index.
    pub interfaces: &'a HashMap<u32, String>,
    /// The gateway instance a process works for.
    pub gateway_of: &'a dyn Fn(u32) -> Option<String>,
    /// `CLOCK_MONOTONIC`.
    pub now_ns: u64,
}

/// Counts connections by state, each once: of two sockets that are the ends of one, that of the end that called.
pub fn by_state(sockets: &[Socket]) -> HashMap<TcpState, u64> {
    let listeners = listeners(sockets);
    let all: HashSet<(SocketAddr, SocketAddr)> = sockets.iter().map(|s| (s.local, s.remote)).collect();
    let mut states = HashMap::new();
    for socket in sockets {
        if !is_other_end(socket, &all, &listeners) {
            *states.entry(socket.state).or_default() += 1;
        }
    }
    states
}

fn listeners(sockets: &[Socket]) -> HashSet<SocketAddr> {
    sockets.iter().filter(|socket| socket.state == TcpState::Listen).map(|socket| socket.local).collect()
}

fn listens(listeners: &HashSet<SocketAddr>, address: &SocketAddr) -> bool {
    use std::net::{Ipv4Addr, Ipv6Addr};
    let port = address.port();
    listeners.contains(address)
        || listeners.contains(&(Ipv4Addr::UNSPECIFIED, port).into())
        || listeners.contains(&(Ipv6Addr::UNSPECIFIED, port).into())
}

/// The end that was called, of a connection whose calling end is here too.
fn is_other_end(
    socket: &Socket,
    all: &HashSet<(SocketAddr, SocketAddr)>,
    listeners: &HashSet<SocketAddr>,
) -> bool {
    if socket.local == socket.remote || !all.contains(&(socket.remote, socket.local)) {
        return false;
    }
    match (listens(listeners, &socket.local), listens(listeners, &socket.remote)) {
        (true, false) => true,
        (false, true) => false,
        _ => (socket.local.port(), socket.local.ip()) < (socket.remote.port(), socket.remote.ip()),
    }
}

/// All connections, those with most bytes first.
pub fn list(sources: &Sources<'_>) -> Vec<Connection> {
    let listeners = listeners(sources.sockets);
    let ends: HashSet<(SocketAddr, SocketAddr)> =
        sources.sockets.iter().map(|socket| (socket.local, socket.remote)).collect();
    let by_ends: HashMap<(SocketAddr, SocketAddr), &Socket> =
        sources.sockets.iter().map(|socket| ((socket.local, socket.remote), socket)).collect();
    let mut tcp_flows: HashMap<(SocketAddr, SocketAddr), Vec<&(FlowId, Flow)>> = HashMap::new();
    let mut rows = Vec::new();
    for account in sources.flows {
        let [a, b] = account.0.ends;
        if account.0.protocol == IpProtocol::Tcp {
            tcp_flows.entry((a, b)).or_default().push(account);
            if a != b {
                tcp_flows.entry((b, a)).or_default().push(account);
            }
        } else {
            rows.push(packets_only(sources, account, &listeners, "active"));
        }
    }
    for socket in sources.sockets {
        // What waits in TIME_WAIT has ended, and the kernel keeps no more of it than its ends.
        let lives = !matches!(socket.state, TcpState::Listen | TcpState::TimeWait);
        if !lives || is_other_end(socket, &ends, &listeners) {
            continue;
        }
        let flows = tcp_flows.get(&(socket.local, socket.remote)).map_or(&[][..], Vec::as_slice);
        let peer = by_ends.get(&(socket.remote, socket.local)).copied();
        rows.push(row(sources, socket, flows, peer, &listeners));
    }
    for account in sources.flows.iter().filter(|(id, _)| id.protocol == IpProtocol::Tcp) {
        let [a, b] = account.0.ends;
        let waits = |ends| by_ends.get(&ends).is_none_or(|socket| socket.state == TcpState::TimeWait);
        if waits((a, b)) && waits((b, a)) {
            // Just closed, or on its way through this machine.
            rows.push(packets_only(sources, account, &listeners, "no_socket"));
        }
    }
    rows.sort_by_key(|row| {
        std::cmp::Reverse((row.bytes_in + row.bytes_out, row.payload_in + row.payload_out))
    });
    rows
}

fn process(sources: &Sources<'_>, socket: &Socket) -> Option<Process> {
    let owner = sources.owners.get(&socket.inode)?;
    Some(Process {
        pid: owner.pid,
        name: owner.name.clone(),
        container: owner.container.clone(),
        gateway: (sources.gateway_of)(owner.pid),
    })
}

#[allow(clippy::cast_precision_loss)] // seconds for people
fn age(now_ns: u64, since_ns: u64) -> Option<f64> {
    (since_ns != 0).then(|| now_ns.saturating_sub(since_ns) as f64 / 1e9)
}

fn row(
    sources: &Sources<'_>,
    socket: &Socket,
    flows: &[&(FlowId, Flow)],
    peer: Option<&Socket>,
    listeners: &HashSet<SocketAddr>,
) -> Connection {
    let mut row = Connection {
        protocol: IpProtocol::Tcp.as_str().to_owned(),
        state: socket.state.as_str().to_owned(),
        local: socket.local.to_string(),
        remote: socket.remote.to_string(),
        payload_out: socket.sent,
        payload_in: socket.received,
        rtt_us: (socket.rtt_us > 0).then_some(socket.rtt_us),
        retransmits: Some(socket.retransmits),
        age_seconds: age(sources.now_ns, socket.opened_ns),
        process: process(sources, socket),
        peer: peer.and_then(|peer| process(sources, peer)),
        direction: match peer {
            Some(_) => "inner",
            None if flows.first().is_some_and(|(id, flow)| {
                let [a, b] = id.ends;
                [a, b].get(initiator(id, flow, |end| listens(listeners, end))) == Some(&socket.local)
            }) =>
            {
                "outgoing"
            }
            None if flows.is_empty() && !listens(listeners, &socket.local) => "outgoing",
            None => "incoming",
        }
        .to_owned(),
        ..Connection::default()
    };
    let usual =
        FlowId { ends: [socket.local, socket.remote], protocol: IpProtocol::Tcp, interface: 0, vlan: [0, 0] };
    row.application = sources.connections.carried(&usual).0.as_str().to_owned();
    for (id, flow) in flows {
        let local = usize::from(id.ends[0] != socket.local);
        add(sources, &mut row, id, flow, local);
    }
    row
}

/// Adds what the packets of an account came to, seen from its end `local`.
fn add(sources: &Sources<'_>, row: &mut Connection, id: &FlowId, flow: &Flow, local: usize) {
    let of = |values: &[u64; 2], end: usize| values.get(end).copied().unwrap_or(0);
    row.packets_out += of(&flow.packets, local);
    row.packets_in += of(&flow.packets, 1 - local);
    row.bytes_out += of(&flow.bytes, local);
    row.bytes_in += of(&flow.bytes, 1 - local);
    if let Some(name) = sources.interfaces.get(&id.interface) {
        row.interface.clone_from(name);
    }
    let (application, carried) = sources.connections.carried(id);
    row.application = application.as_str().to_owned();
    if let Some(carried) = carried {
        row.host.clone_from(&carried.host);
        row.path.clone_from(&carried.path);
        row.tls_version = carried.tls_version.map(str::to_owned);
        row.alpn.clone_from(&carried.alpn);
    }
}

/// A connection without a socket to ask.
fn packets_only(
    sources: &Sources<'_>,
    (id, flow): &(FlowId, Flow),
    listeners: &HashSet<SocketAddr>,
    state: &str,
) -> Connection {
    let opened_by = initiator(id, flow, |end| listens(listeners, end));
    let (local, direction) = match flow.local {
        [true, false] => (0, if opened_by == 0 { "outgoing" } else { "incoming" }),
        [false, true] => (1, if opened_by == 1 { "outgoing" } else { "incoming" }),
        [true, true] => (opened_by, "inner"),
        [false, false] => (1 - opened_by, "incoming"),
    };
    let end = |index: usize| id.ends.get(index).map(ToString::to_string).unwrap_or_default();
    let payload = |index: usize| flow.payload.get(index).copied().unwrap_or(0);
    let mut row = Connection {
        protocol: id.protocol.as_str().to_owned(),
        state: state.to_owned(),
        direction: direction.to_owned(),
        local: end(local),
        remote: end(1 - local),
        payload_out: payload(local),
        payload_in: payload(1 - local),
        age_seconds: age(sources.now_ns, flow.first_ns),
        ..Connection::default()
    };
    add(sources, &mut row, id, flow, local);
    row
}
