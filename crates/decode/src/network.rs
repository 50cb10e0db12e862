//! From the packet and connection programs' structures to events.

use std::net::SocketAddr;

use gatewatch_capture::{
    connection::Row,
    network::{self, FlowKey},
};
use gatewatch_event::connection::{Flow, FlowId, IpProtocol, Socket, TcpState, plain_address};

/// Whose packets a kernel's account is of.
#[must_use]
pub fn flow_id(key: &FlowKey) -> FlowId {
    let [first, second] = key.address;
    let [first_port, second_port] = key.port;
    FlowId {
        ends: [
            SocketAddr::new(plain_address(first), first_port),
            SocketAddr::new(plain_address(second), second_port),
        ],
        protocol: IpProtocol::of(key.protocol),
        interface: key.ifindex,
        vlan: key.vlan,
    }
}

/// The account itself.
#[must_use]
pub fn flow(flow: &network::Flow) -> Flow {
    Flow {
        packets: flow.packets,
        bytes: flow.bytes,
        payload: flow.payload,
        cgroup: flow.cgroup,
        first_ns: flow.first_ns,
        // The coarse clock lags behind the exact one.
        last_ns: flow.last_ns.max(flow.first_ns),
        tcp_flags: flow.tcp_flags,
        local: flow.egress.map(|egress| egress != 0),
        first: usize::from(flow.first & 1),
    }
}

/// A socket; `None` in a state this version does not know.
#[must_use]
pub fn socket(row: &Row) -> Option<Socket> {
    Some(Socket {
        local: SocketAddr::new(plain_address(row.local), row.local_port),
        remote: SocketAddr::new(plain_address(row.remote), row.remote_port),
        state: TcpState::of(row.state)?,
        inode: row.inode,
        cgroup: row.cgroup,
        sent: row.sent,
        received: row.received,
        opened_ns: row.opened_ns,
        rtt_us: row.rtt_us,
        retransmits: row.retransmits,
    })
}
