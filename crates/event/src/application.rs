//! What a connection speaks: its application protocol, and what a TLS handshake tells of itself.

/// What carries a connection's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Transport {
    Tcp,
    Udp,
}

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Application {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 in clear text. Inside TLS it cannot be seen; [`Tls::alpn`] tells of it.
    Http2,
    /// gRPC over HTTP/2 in clear text.
    Grpc,
    /// HTTP/1.1 that became WebSocket.
    WebSocket,
    /// Any TLS; what is inside stays unknown but for [`Tls`].
    Tls,
    /// DNS, mDNS and LLMNR included.
    Dns,
    /// Named by its well-known port alone; always a name of [`Application::by_port`].
    Other(&'static str),
    /// Neither bytes nor ports tell.
    #[default]
    Unknown,
}

impl Application {
    /// The value of a label: lower case, from a bounded set.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::WebSocket => "websocket",
            Self::Tls => "tls",
            Self::Dns => "dns",
            Self::Other(name) => name,
            Self::Unknown => "unknown",
        }
    }

    /// What a well-known port of a server suggests.
    ///
    /// HTTP and TLS have no row: they are known by their bytes, and their usual ports carry much else.
    #[must_use]
    pub fn by_port(transport: Transport, port: u16) -> Self {
        let name = match (transport, port) {
            (_, 53 | 5353 | 5355) => return Self::Dns,
            (Transport::Tcp, 21) => "ftp",
            (Transport::Tcp, 22) => "ssh",
            (Transport::Tcp, 23) => "telnet",
            (Transport::Tcp, 25 | 465 | 587) => "smtp",
            (Transport::Tcp, 110 | 995) => "pop3",
            (Transport::Tcp, 143 | 993) => "imap",
            (Transport::Tcp, 179) => "bgp",
            (Transport::Tcp, 389 | 636) => "ldap",
            (Transport::Tcp, 445) => "smb",
            (Transport::Tcp, 1433) => "mssql",
            (Transport::Tcp, 1521) => "oracle",
            (Transport::Tcp, 1883 | 8883) => "mqtt",
            (Transport::Tcp, 2049) => "nfs",
            (Transport::Tcp, 2181) => "zookeeper",
            (Transport::Tcp, 2379 | 2380) => "etcd",
            (Transport::Tcp, 3306 | 33060) => "mysql",
            (Transport::Tcp, 3389) => "rdp",
            (Transport::Tcp, 4222) => "nats",
            (Transport::Tcp, 5432 | 6432) => "postgres",
            (Transport::Tcp, 5671 | 5672) => "amqp",
            (Transport::Tcp, 6379) => "redis",
            (Transport::Tcp, 9042) => "cassandra",
            (Transport::Tcp, 9092) => "kafka",
            (_, 11211) => "memcached",
            (Transport::Tcp, 27017) => "mongodb",
            (Transport::Udp, 67 | 68) => "dhcp",
            (Transport::Udp, 69) => "tftp",
            (Transport::Udp, 123) => "ntp",
            (Transport::Udp, 161 | 162) => "snmp",
            (Transport::Udp, 443) => "quic",
            (_, 514) => "syslog",
            (Transport::Udp, 1812 | 1813) => "radius",
            (Transport::Udp, 4789) => "vxlan",
            (Transport::Udp, 8125) => "statsd",
            (Transport::Udp, 51820) => "wireguard",
            _ => return Self::Unknown,
        };
        Self::Other(name)
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum TlsVersion {
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

impl TlsVersion {
    /// By its number on the wire; `None` for drafts, SSL, and what is made up to keep servers tolerant (RFC 8701).
    #[must_use]
    pub fn of(number: u16) -> Option<Self> {
        match number {
            0x0301 => Some(Self::Tls10),
            0x0302 => Some(Self::Tls11),
            0x0303 => Some(Self::Tls12),
            0x0304 => Some(Self::Tls13),
            _ => None,
        }
    }

    /// `1.0` … `1.3`, as OpenTelemetry's `tls.protocol.version` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls10 => "1.0",
            Self::Tls11 => "1.1",
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// What the clear part of a TLS handshake told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// What the server chose; the highest that was offered while its answer was not seen.
    pub version: Option<TlsVersion>,
    /// The server's name as the client asked for it: lower case, at most 255 bytes, U+FFFD for what no host has.
    pub sni: Option<String>,
    /// What the server chose, where that is in clear text (up to TLS 1.2); else the first the client offered.
    pub alpn: Option<String>,
    /// The cipher suite the server chose, by its number at IANA.
    pub cipher: Option<u16>,
}

#[cfg(test)]
mod tests;
