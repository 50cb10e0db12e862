//! Packets' and connections' own words: flows as packets show them, sockets as the kernel keeps them.

use std::net::{IpAddr, SocketAddr};

/// IP's protocol above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP.
    Icmp,
    /// ICMP of IPv6.
    Icmp6,
    /// SCTP.
    Sctp,
    /// Any other, by IP's number.
    Other(u8),
}

impl IpProtocol {
    /// By IP's number.
    #[must_use]
    pub fn of(number: u8) -> Self {
        match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            1 => Self::Icmp,
            58 => Self::Icmp6,
            132 => Self::Sctp,
            other => Self::Other(other),
        }
    }

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp | Self::Icmp6 => "icmp",
            Self::Sctp => "sctp",
            Self::Other(_) => "other",
        }
    }
}

/// The two ends of a connection, where it was seen. The same whichever way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    /// Addresses; ports are 0 where the protocol has none.
    pub ends: [SocketAddr; 2],
    /// The protocol.
    pub protocol: IpProtocol,
    /// Index of the interface.
    pub interface: u32,
    /// VLAN tags, outer and inner; 0: none.
    pub vlan: [u16; 2],
}

/// What the packets of a connection came to. Index 0: sent by the first end of [`FlowId::ends`], 1: by the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Packets.
    pub packets: [u64; 2],
    /// Bytes of their frames.
    pub bytes: [u64; 2],
    /// Bytes behind the headers of TCP or UDP.
    pub payload: [u64; 2],
    /// The sender's control group by its number; 0: not known.
    pub cgroup: [u64; 2],
    /// When the first was seen, in nanoseconds of the monotonic clock.
    pub first_ns: u64,
    /// When the last was, to a few milliseconds.
    pub last_ns: u64,
    /// TCP flags seen, as in the header.
    pub tcp_flags: [u8; 2],
    /// That end sends from this machine.
    pub local: [bool; 2],
    /// The end that sent the first packet.
    pub first: usize,
}

/// Flags of a TCP header.
pub mod tcp_flags {
    #![allow(missing_docs)]
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// States of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum TcpState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl TcpState {
    /// All, in the kernel's order.
    pub const ALL: [Self; 11] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
    ];

    /// By the kernel's number; a handshake whose socket is not made yet counts as `SynRecv`.
    #[must_use]
    pub fn of(number: u16) -> Option<Self> {
        if number == 12 {
            return Some(Self::SynRecv);
        }
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// As `ss` writes it, with underscores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::FinWait1 => "fin_wait_1",
            Self::FinWait2 => "fin_wait_2",
            Self::TimeWait => "time_wait",
            Self::Close => "close",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
        }
    }
}

/// A TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its own address.
    pub local: SocketAddr,
    /// The other end's; unspecified while it listens.
    pub remote: SocketAddr,
    /// Its state.
    pub state: TcpState,
    /// Inode of its file; 0: not accepted yet, or closed by its program.
    pub inode: u64,
    /// Its control group by number.
    pub cgroup: u64,
    /// Payload bytes sent, without repetitions.
    pub sent: u64,
    /// Payload bytes received.
    pub received: u64,
    /// When it was opened, in nanoseconds of the monotonic clock; 0: before counting began.
    pub opened_ns: u64,
    /// Smoothed round-trip time, in microseconds; 0: none measured.
    pub rtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
}

/// An address without the disguise IPv4 wears in IPv6 sockets.
#[must_use]
pub fn plain_address(address: [u8; 16]) -> IpAddr {
    IpAddr::from(address).to_canonical()
}
