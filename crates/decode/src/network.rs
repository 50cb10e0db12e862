//! From the packet and connection programs' structures to events.

use std::net::{IpAddr, SocketAddr};

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
    let address = |bytes: [u8; 16]| match key.family {
        0 => plain_address(bytes),
        // IPv6 may carry what looks like IPv4 in disguise: another connection than the one of IPv4.
        _ => IpAddr::from(bytes),
    };
    FlowId {
        ends: [SocketAddr::new(address(first), first_port), SocketAddr::new(address(second), second_port)],
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Two accounts of the kernel must never be one here: what they came to would be taken for ups and downs of one.
    #[test]
    fn what_differs_there_differs_here() {
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
        let key =
            FlowKey { address: [mapped; 2], port: [1, 2], ifindex: 3, protocol: 47, ..FlowKey::default() };
        let others = [
            FlowKey { protocol: 50, ..key },
            FlowKey { protocol: 1, ..key },
            FlowKey { family: 1, ..key },
            FlowKey { ifindex: 4, ..key },
            FlowKey { vlan: [0, 7], ..key },
            FlowKey { port: [2, 1], ..key },
        ];
        for other in others {
            assert_ne!(flow_id(&key), flow_id(&other), "{:?}", flow_id(&other));
        }
        assert_eq!(flow_id(&key).ends[0].to_string(), "10.0.0.1:1");
        let icmp = |protocol| flow_id(&FlowKey { protocol, family: 1, ..key });
        assert_ne!(icmp(1), icmp(58), "both are ICMP's, and two accounts");
    }
}
