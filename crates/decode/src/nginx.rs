//! Records of the nginx probe, read as requests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use gatewatch_capture::nginx::{self, Flags, RawRecord, limits};

use gatewatch_event::request::{Cut, ErrorCode, Method, Protocol, Remote, Request, TRIES_MAX, Try};

/// Why a record is not reported as a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Undecodable {
    /// Shorter than its fixed part, or its texts end outside of it.
    Malformed,
    /// The request's memory could not be read.
    Unreadable,
    /// What was read is not a request: the layout does not fit, or memory was overwritten.
    NotARequest,
}

impl Undecodable {
    /// The ledger's `reason`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed_record",
            Self::Unreadable => "unreadable_memory",
            Self::NotARequest => "not_a_request",
        }
    }
}

fn set(flags: u32, flag: Flags) -> bool {
    flags & flag.0 != 0
}

/// Reads one record.
///
/// # Errors
/// Why it tells of no request.
pub fn request(bytes: &[u8]) -> Result<Request<'_>, Undecodable> {
    let record = RawRecord::new(bytes).ok_or(Undecodable::Malformed)?;
    let head = record.head;
    if set(head.flags, Flags::NGINX_NO_REQUEST) {
        return Err(Undecodable::Unreadable);
    }
    if set(head.flags, Flags::NGINX_BAD_SIGNATURE) || set(head.flags, Flags::NGINX_NOT_MAIN) {
        return Err(Undecodable::NotARequest);
    }
    let text = |at: usize, len: usize| record.text.get(at..at.checked_add(len)?);
    let part = |at: u16, len: u16| text(at.into(), len.into()).ok_or(Undecodable::Malformed);
    let line = part(head.line_at, head.line_captured)?;
    let host = part(head.host_at, head.host_captured)?;
    let user_agent = part(head.agent_at, head.agent_captured)?;
    let behind_host = text(usize::from(head.host_at) + host.len(), head.host_behind.into()).unwrap_or(b"");
    let line_cut = widen(head.line_len) > limits::LINE;
    let parts = Line::parse(line, line_cut);

    let (upstream, upstream_cut) = tries(&record)?;
    let precise = set(head.flags, Flags::NGINX_STARTED);
    let status = if head.err_status != 0 { head.err_status } else { head.status };
    let unread = [
        Flags::NGINX_NO_CONNECTION,
        Flags::NGINX_LINE_UNREAD,
        Flags::NGINX_HOST_UNREAD,
        Flags::NGINX_AGENT_UNREAD,
        Flags::NGINX_ADDRESS_UNREAD,
        Flags::NGINX_UPSTREAM_UNREAD,
    ];
    let error = if unread.into_iter().any(|flag| set(head.flags, flag)) {
        ErrorCode::Memory
    } else if parts.is_none() {
        ErrorCode::Parse
    } else {
        ErrorCode::Ok
    };
    let parts = parts.unwrap_or_default();
    Ok(Request {
        worker: head.worker,
        pid: head.pid,
        tid: head.tid,
        ended_ns: head.end_ns,
        duration_ns: if precise { head.end_ns.saturating_sub(head.start_ns) } else { 0 },
        precise,
        method: Method::of(parts.method),
        method_name: parts.method,
        target: parts.target,
        host,
        host_port: port(behind_host),
        user_agent,
        remote: remote(&head),
        // nginx begins with 1.0 and keeps it where no line was understood to its end; it has then counted no bytes.
        protocol: if parts.method.is_empty() || (parts.version.is_empty() && head.request_bytes == 0) {
            Protocol::Unknown
        } else {
            protocol(head.http_version, parts.version)
        },
        tls: set(head.flags, Flags::NGINX_TLS),
        status,
        connection: head.connection,
        connection_request: head.connection_requests,
        request_bytes: head.request_bytes,
        response_bytes: head.response_bytes,
        tries: head.tries,
        upstream,
        lua_ns: record.lua_ns().unwrap_or_default(),
        cut: Cut {
            target: line_cut,
            host: widen(head.host_len) > limits::HOST,
            user_agent: widen(head.agent_len) > limits::AGENT,
            upstream: upstream_cut,
        },
        error,
    })
}

fn widen(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// nginx's own start time, for requests whose start was not seen: nanoseconds since 1970, to the millisecond.
#[must_use]
pub fn started_by_nginx(bytes: &[u8]) -> Option<u64> {
    let head = RawRecord::new(bytes)?.head;
    let plausible = head.start_sec < 1 << 33 && head.start_msec < 1000;
    (plausible && head.start_sec > 0)
        .then(|| (head.start_sec * 1000 + u64::from(head.start_msec)) * 1_000_000)
}

#[derive(Clone, Copy, Default)]
struct Line<'a> {
    method: &'a [u8],
    target: &'a [u8],
    version: &'a [u8],
}

impl<'a> Line<'a> {
    /// "GET /path HTTP/1.1"; of a cut line the version is missing; "GET /path" is HTTP/0.9. nginx lets spaces
    /// stand in a target.
    fn parse(line: &'a [u8], cut: bool) -> Option<Self> {
        let space = line.iter().position(|byte| *byte == b' ')?;
        let (method, rest) = line.split_at_checked(space)?;
        let rest = rest.trim_ascii();
        if method.is_empty() || rest.is_empty() || !method.iter().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        if cut {
            return Some(Self { method, target: rest, version: b"" });
        }
        let last = rest.iter().rposition(|byte| *byte == b' ');
        let split = last
            .and_then(|at| rest.split_at_checked(at))
            .map(|(target, version)| (target, version.trim_ascii()));
        match split {
            Some((target, version)) if version.starts_with(b"HTTP/") => {
                Some(Self { method, target: target.trim_ascii_end(), version })
            }
            _ => Some(Self { method, target: rest, version: b"" }),
        }
    }
}

/// nginx's number is 1001 for HTTP/1.1, and 2000 and 3000 for the binary protocols; 0 until it was parsed.
fn protocol(number: u32, text: &[u8]) -> Protocol {
    match number {
        9 => Protocol::Http09,
        1000 => Protocol::Http10,
        1001..2000 => Protocol::Http11,
        2000..3000 => Protocol::Http2,
        3000..4000 => Protocol::Http3,
        _ => match text {
            b"HTTP/1.0" => Protocol::Http10,
            b"HTTP/1.1" => Protocol::Http11,
            _ => Protocol::Unknown,
        },
    }
}

/// Bytes the kernel program captures behind a host that stands near the request line.
const BEHIND_MAX: usize = 8;

/// A port, if that is all that stands there up to the header's end: digits before an `@` are a password.
fn port(behind: &[u8]) -> Option<u16> {
    let digits = behind.strip_prefix(b":")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    // Fewer than the bytes asked for: the header ended there.
    let ended = end == digits.len() && behind.len() < BEHIND_MAX;
    if !ended && !matches!(digits.get(end), Some(b'\0' | b'\r' | b'\n' | b' ' | b'/')) {
        return None;
    }
    std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
}

fn remote(head: &nginx::Record) -> Remote {
    const AF_UNIX: u16 = 1;
    const AF_INET: u16 = 2;
    const AF_INET6: u16 = 10;
    let port = u16::from_be(head.port);
    match head.family {
        AF_INET => {
            let [a, b, c, d, ..] = head.address;
            Remote::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port))
        }
        AF_INET6 => {
            let address = Ipv6Addr::from(head.address);
            Remote::Ip(SocketAddr::new(address.to_canonical(), port))
        }
        AF_UNIX => Remote::Unix,
        _ => Remote::Unknown,
    }
}

fn tries<'a>(record: &RawRecord<'a>) -> Result<([Try<'a>; TRIES_MAX], bool), Undecodable> {
    let told = usize::from(record.head.tries).min(TRIES_MAX);
    let mut tries = [Try::default(); TRIES_MAX];
    let mut at = usize::from(record.head.peers_at);
    let mut cut = usize::from(record.head.tries) > TRIES_MAX;
    for (index, told) in tries.iter_mut().enumerate().take(told) {
        let seen = record.tried(index).ok_or(Undecodable::Malformed)?;
        let len = usize::from(seen.peer_len);
        let peer = record.text.get(at..at + len).ok_or(Undecodable::Malformed)?;
        at += len;
        cut |= len >= limits::PEER;
        let ms = |ms: u32| (ms != u32::MAX).then_some(ms);
        *told = Try {
            peer,
            status: seen.status,
            connect_ms: ms(seen.connect_ms),
            header_ms: ms(seen.header_ms),
            response_ms: ms(seen.response_ms),
            bytes_received: seen.bytes_received,
        };
    }
    Ok((tries, cut))
}

#[cfg(test)]
mod tests;
