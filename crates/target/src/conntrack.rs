//! What the node's table of connections (conntrack) has for an attempt to connect, and how to be rid of it.
//!
//! A connection is translated as the rules say when its first packet passes, for as long as it is in the table. A SYN
//! that passed while the rules changed, or went to a pod that is gone, would lead every later one the same way.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple},
};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};

/// The table of this thread's network namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens it.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        Ok(Self { socket })
    }

    /// Who answers in the place of `service` to a TCP connection of `client`; `service` itself where it is not
    /// translated, `None` where it is not known.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn answers(&mut self, client: SocketAddr, service: SocketAddr) -> io::Result<Option<SocketAddr>> {
        let found = self.ask(&ConntrackMessage::Get(connection(client, service)), service, NLM_F_REQUEST)?;
        let reply = found.into_iter().flatten().find_map(|attribute| {
            #[allow(clippy::wildcard_enum_match_arm)] // the kernel tells much more
            match attribute {
                ConntrackAttribute::CtaTupleReply(tuple) => source(&tuple),
                _ => None,
            }
        });
        Ok(reply)
    }

    /// Removes a TCP connection; that it is not there is as good.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget(&mut self, client: SocketAddr, service: SocketAddr) -> io::Result<()> {
        let message = ConntrackMessage::Delete(connection(client, service));
        self.ask(&message, service, NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// What the kernel answers; `None`: there is no such connection.
    fn ask(
        &mut self,
        message: &ConntrackMessage,
        of: SocketAddr,
        flags: u16,
    ) -> io::Result<Option<Vec<ConntrackAttribute>>> {
        /// `ENOENT`
        const NONE: i32 = 2;
        let family = if of.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message.clone());
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        let answer = NetlinkMessage::<NetfilterMessage>::deserialize(&answer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        #[allow(clippy::wildcard_enum_match_arm)] // answers to other requests than ours do not come
        match answer.payload {
            NetlinkPayload::Error(error) => match error.to_io() {
                error if error.raw_os_error() == Some(NONE) => Ok(None),
                error if error.raw_os_error() == Some(0) => Ok(Some(Vec::new())),
                error => Err(error),
            },
            NetlinkPayload::InnerMessage(NetfilterMessage {
                inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                ..
            }) => Ok(Some(attributes)),
            _ => Ok(None),
        }
    }
}

fn connection(client: SocketAddr, service: SocketAddr) -> Vec<ConntrackAttribute> {
    vec![ConntrackAttribute::CtaTupleOrig(vec![
        Tuple::Ip(vec![IPTuple::SourceAddress(client.ip()), IPTuple::DestinationAddress(service.ip())]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(Protocol::Tcp),
            ProtoTuple::SourcePort(client.port()),
            ProtoTuple::DestinationPort(service.port()),
        ]),
    ])]
}

fn source(tuple: &[Tuple]) -> Option<SocketAddr> {
    let (mut ip, mut port): (Option<IpAddr>, Option<u16>) = (None, None);
    for part in tuple {
        #[allow(clippy::wildcard_enum_match_arm)] // the other end
        match part {
            Tuple::Ip(parts) => {
                ip = parts.iter().find_map(|part| match part {
                    IPTuple::SourceAddress(ip) => Some(*ip),
                    _ => None,
                });
            }
            Tuple::Proto(parts) => {
                port = parts.iter().find_map(|part| match part {
                    ProtoTuple::SourcePort(port) => Some(*port),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(SocketAddr::new(ip?, port?))
}
