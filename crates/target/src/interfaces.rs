//! The interfaces of this network namespace, and at which of them packets are to be counted.
//!
//! Asked of the kernel by netlink: `/sys/class/net` shows the namespace in which sysfs was mounted, which need not be
//! ours.

use std::{collections::HashMap, io};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its frames begin with an Ethernet header, else with that of IP.
    pub ethernet: bool,
    /// A device stands behind it: it may cut and put together packets that the stack hands over in one piece.
    pub hardware: bool,
    /// Where its packets are counted.
    pub points: Points,
    /// It is an end of a veth pair.
    pub veth: bool,
    /// The other end of a veth pair, where it is in this namespace too.
    pub peer: Option<u32>,
}

/// Where an interface's packets are counted, so that none is counted twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Points {
    /// As they come in and as they go out.
    Both,
    /// As they go out only: what comes in went out of an interface of this namespace (loopback, both ends of a
    /// veth pair).
    EgressOnly,
    /// Nowhere: they pass an interface that this one stands on (VLAN, bridge, bond …), and are counted there.
    Nowhere,
}

/// All interfaces, by index.
///
/// # Errors
/// When the kernel does not answer.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let links = dump()?;
    let controllers: HashMap<u32, ()> =
        links.iter().filter_map(|link| link.controller.map(|index| (index, ()))).collect();
    let veths: HashMap<u32, Option<u32>> =
        links.iter().filter(|link| link.veth).map(|link| (link.index, link.lower)).collect();
    let points = |link: &Link| {
        if link.loopback {
            return Points::EgressOnly;
        }
        if link.veth {
            let peer = link.lower.and_then(|peer| veths.get(&peer).copied());
            return if peer == Some(Some(link.index)) { Points::EgressOnly } else { Points::Both };
        }
        if link.mirror || link.stacked && link.lower.is_some() || controllers.contains_key(&link.index) {
            return Points::Nowhere;
        }
        Points::Both
    };
    let interface = |link: &Link| Interface {
        index: link.index,
        name: link.name.clone(),
        ethernet: link.ethernet,
        hardware: link.hardware,
        points: points(link),
        veth: link.veth,
        peer: link.lower.filter(|_| link.veth),
    };
    let mut interfaces: Vec<_> = links.iter().map(interface).collect();
    interfaces.sort_by_key(|interface| interface.index);
    Ok(interfaces)
}

/// Tells when interfaces come, go or change.
#[derive(Debug)]
pub struct Changes {
    socket: Socket,
}

impl Changes {
    /// From now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new() -> io::Result<Self> {
        /// `RTMGRP_LINK`
        const LINKS: u32 = 1;
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, LINKS))?;
        Ok(Self { socket })
    }

    /// Waits for the next change.
    ///
    /// # Errors
    /// When the kernel refuses; that messages were lost is a change.
    pub fn wait(&mut self) -> io::Result<()> {
        /// `ENOBUFS`
        const OVERRUN: i32 = 105;
        match self.socket.recv_from_full() {
            Err(error) if error.raw_os_error() != Some(OVERRUN) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

#[derive(Default)]
struct Link {
    index: u32,
    name: String,
    ethernet: bool,
    loopback: bool,
    hardware: bool,
    veth: bool,
    stacked: bool,
    /// It is handed packets that came by another interface (ifb).
    mirror: bool,
    /// The interface below, or the other end; only where it is in this namespace.
    lower: Option<u32>,
    controller: Option<u32>,
}

fn link(message: LinkMessage) -> Link {
    let header = &message.header;
    let mut link = Link {
        index: header.index,
        ethernet: matches!(header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback),
        loopback: header.flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    let mut elsewhere = false;
    for attribute in message.attributes {
        // The kernel tells much more than is wanted here.
        #[allow(clippy::wildcard_enum_match_arm)]
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Link(lower) => link.lower = Some(lower).filter(|lower| *lower != header.index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::Controller(index) => link.controller = Some(index).filter(|index| *index != 0),
            LinkAttribute::ParentDevName(_) => link.hardware = true,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.veth = kind == InfoKind::Veth;
                        link.mirror = kind == InfoKind::Ifb;
                        link.stacked = matches!(
                            kind,
                            InfoKind::Vlan
                                | InfoKind::MacVlan
                                | InfoKind::MacVtap
                                | InfoKind::IpVlan
                                | InfoKind::IpVtap
                        );
                    }
                }
            }
            _ => {}
        }
    }
    if elsewhere {
        link.lower = None;
    }
    link
}

fn dump() -> io::Result<Vec<Link>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
    let mut request = NetlinkMessage::new(header, payload);
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut links = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
                Ok(message) => message,
                // One that cannot be read, for its name perhaps, must not hide the others.
                Err(error) => {
                    let Some((link, behind)) = unreadable(rest) else {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
                    };
                    links.push(link);
                    rest = behind;
                    continue;
                }
            };
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
            #[allow(clippy::wildcard_enum_match_arm)] // answers to other requests than ours do not come
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(links),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(found)) => links.push(link(found)),
                _ => {}
            }
            if length == 0 {
                break;
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// What can be told of a link by the fixed part of its message: named by its index, `#7`. And what is behind it.
fn unreadable(message: &[u8]) -> Option<(Link, &[u8])> {
    let length = u32::from_ne_bytes(*message.first_chunk()?);
    let length = usize::try_from(length).ok().filter(|length| *length >= 32)?;
    let kind = u16::from_ne_bytes(*message.get(18..)?.first_chunk()?);
    let index = u32::from_ne_bytes(*message.get(20..)?.first_chunk()?);
    let behind = message.get(length.next_multiple_of(4)..).unwrap_or_default();
    // ARPHRD_ETHER
    Some((Link { index, name: format!("#{index}"), ethernet: kind == 1, ..Link::default() }, behind))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_counted_on_its_way_out() {
        let interfaces = interfaces().unwrap();
        let lo = interfaces.iter().find(|interface| interface.name == "lo").unwrap();
        assert_eq!((lo.index, lo.ethernet, lo.hardware, lo.points), (1, true, false, Points::EgressOnly));
    }
}
