//! A finished HTTP request, as a gateway handled it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// A request method of the contract; others are told apart only in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Patch,
    Options,
    Connect,
    Trace,
    /// Any other, WebDAV's included.
    Other,
    /// The request was not understood so far that its method was known.
    Unknown,
}

impl Method {
    /// By its exact name.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"PATCH" => Self::Patch,
            b"OPTIONS" => Self::Options,
            b"CONNECT" => Self::Connect,
            b"TRACE" => Self::Trace,
            b"" => Self::Unknown,
            _ => Self::Other,
        }
    }

    /// Its name, or OpenTelemetry's `_OTHER` where it is none of the known ones.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Patch => "PATCH",
            Self::Options => "OPTIONS",
            Self::Connect => "CONNECT",
            Self::Trace => "TRACE",
            Self::Other => "_OTHER",
            Self::Unknown => "",
        }
    }
}

/// What the request was carried in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Protocol {
    Http09,
    Http10,
    Http11,
    Http2,
    Http3,
    /// Not said before the request ended.
    Unknown,
}

impl Protocol {
    /// `http/1.1`, `h2`, `h3`: ALPN's names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http09 => "http/0.9",
            Self::Http10 => "http/1.0",
            Self::Http11 => "http/1.1",
            Self::Http2 => "h2",
            Self::Http3 => "h3",
            Self::Unknown => "",
        }
    }
}

/// K4's `error_code`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorCode {
    /// Nothing wrong.
    #[default]
    Ok = 0,
    /// The request was not understood by the gateway, or its line not by us.
    Parse = 1,
    /// Some of the request's memory could not be read.
    Memory = 2,
}

/// Which texts are longer than what was captured of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Cut {
    pub target: bool,
    pub host: bool,
    pub user_agent: bool,
    /// More upstream tries than are told one by one, or a peer's name too long.
    pub upstream: bool,
}

impl Cut {
    /// Anything was cut.
    #[must_use]
    pub fn any(self) -> bool {
        self.target || self.host || self.user_agent || self.upstream
    }
}

/// The client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remote {
    /// Over IP.
    Ip(SocketAddr),
    /// Over a Unix socket.
    Unix,
    /// Not known.
    Unknown,
}

impl Remote {
    /// The IP address, if there is one.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Unix | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.ip().fmt(f),
            Self::Unix => f.write_str("unix:"),
            Self::Unknown => Ok(()),
        }
    }
}

/// One try at an upstream server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Try<'a> {
    /// `address:port` or `unix:path`, as nginx names it; hostile bytes are possible where names are dynamic.
    pub peer: &'a [u8],
    /// 0: no response came.
    pub status: u16,
    /// Milliseconds until the connection stood; `None`: it did not come to it.
    pub connect_ms: Option<u32>,
    /// Milliseconds until the response's header was read.
    pub header_ms: Option<u32>,
    /// Milliseconds until the try ended.
    pub response_ms: Option<u32>,
    /// Bytes received from the server.
    pub bytes_received: u64,
}

/// Tries told one by one.
pub const TRIES_MAX: usize = 4;

/// A finished request. Texts are raw bytes from the network: mask and escape before they go anywhere.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Row of the worker in the capture's table.
    pub worker: u32,
    /// The worker's process id, as the kernel's first namespace names it.
    pub pid: u32,
    /// The thread's.
    pub tid: u32,
    /// When it ended, in nanoseconds of the monotonic clock.
    pub ended_ns: u64,
    /// From the header's completion to the end, in nanoseconds.
    pub duration_ns: u64,
    /// `duration_ns` was measured to the nanosecond; else it is nginx's own, to the millisecond.
    pub precise: bool,
    /// The method.
    pub method: Method,
    /// Its name as sent.
    pub method_name: &'a [u8],
    /// What was asked for, as sent: path and query, or an absolute URL.
    pub target: &'a [u8],
    /// The host as nginx normalised it, lower case, without port.
    pub host: &'a [u8],
    /// The port the client named with the host.
    pub host_port: Option<u16>,
    /// The user agent as sent.
    pub user_agent: &'a [u8],
    /// The client's address.
    pub remote: Remote,
    /// The protocol.
    pub protocol: Protocol,
    /// Over TLS.
    pub tls: bool,
    /// Status sent, as `$status` in nginx; 0: none.
    pub status: u16,
    /// nginx's number of the connection.
    pub connection: u64,
    /// How many requests the connection has had with this one.
    pub connection_request: u64,
    /// Bytes of the request, header and body.
    pub request_bytes: u64,
    /// Bytes of the response, header and body.
    pub response_bytes: u64,
    /// Tries at upstream servers in all.
    pub tries: u16,
    /// The first of them.
    pub upstream: [Try<'a>; TRIES_MAX],
    /// Nanoseconds of Lua by phase, in the order of [`LUA_PHASES`]; 0 where not measured.
    pub lua_ns: [u64; LUA_PHASES.len()],
    /// What was cut.
    pub cut: Cut,
    /// K4's code.
    pub error: ErrorCode,
}

/// Lua's phases in a request, by their index in records.
pub const LUA_PHASES: [&str; 8] =
    ["rewrite", "access", "content", "balancer", "header_filter", "body_filter", "log", "other"];

/// A target's path: without scheme, authority, query and fragment. `*` for `OPTIONS *`.
#[must_use]
pub fn path_of(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len());
    let target = target.get(..end).unwrap_or(target);
    if target.first() == Some(&b'/') {
        return target;
    }
    let Some(scheme) = target.windows(3).position(|three| three == b"://") else { return target };
    let rest = target.get(scheme + 3..).unwrap_or(b"");
    match rest.iter().position(|byte| *byte == b'/') {
        Some(slash) => rest.get(slash..).unwrap_or(b"/"),
        None => b"/",
    }
}

impl<'a> Request<'a> {
    /// The tries that are told one by one.
    #[must_use]
    pub fn told_tries(&self) -> &[Try<'a>] {
        self.upstream.get(..usize::from(self.tries).min(TRIES_MAX)).unwrap_or(&[])
    }

    /// The target's path: see [`path_of`].
    #[must_use]
    pub fn path(&self) -> &'a [u8] {
        path_of(self.target)
    }

    /// When the response's first byte could be sent at the earliest, in milliseconds after the last try began:
    /// the upstream's header time.
    #[must_use]
    pub fn upstream_header_ms(&self) -> Option<u32> {
        self.told_tries().last().and_then(|last| last.header_ms)
    }

    /// Milliseconds spent on upstream servers over all told tries.
    #[must_use]
    pub fn upstream_ms(&self) -> Option<u64> {
        let told = self.told_tries();
        (!told.is_empty()).then(|| told.iter().filter_map(|t| t.response_ms).map(u64::from).sum())
    }
}

#[cfg(test)]
mod tests;
