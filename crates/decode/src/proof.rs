//! Is a layout true? Asked of live requests before anything read with it is reported.

use gatewatch_capture::nginx::{Flags, RawRecord};

use crate::nginx::{self, Undecodable};
use gatewatch_event::request::{Method, Protocol, Request};

/// What one record says of the layout it was read with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything agrees with everything.
    Agrees,
    /// Something cannot be: the layout does not fit.
    Disagrees(&'static str),
    /// Nothing to judge by (a request that was never parsed).
    Silent,
}

/// nginx's bits for methods, which it keeps beside the text of the request line.
fn method_bit(method: Method) -> Option<u32> {
    match method {
        Method::Get => Some(0x2),
        Method::Head => Some(0x4),
        Method::Post => Some(0x8),
        Method::Put => Some(0x10),
        Method::Delete => Some(0x20),
        Method::Options => Some(0x200),
        Method::Patch => Some(0x4000),
        Method::Trace => Some(0x8000),
        Method::Connect | Method::Other | Method::Unknown => None,
    }
}

/// Judges one record. `now` is in nanoseconds since 1970.
#[must_use]
pub fn judge(bytes: &[u8], now: u64) -> Verdict {
    judge_parsed(bytes, &nginx::request(bytes), now)
}

/// The same for a record that has been read already.
#[must_use]
pub fn judge_parsed(bytes: &[u8], parsed: &Result<Request<'_>, Undecodable>, now: u64) -> Verdict {
    let Some(record) = RawRecord::new(bytes) else { return Verdict::Disagrees("the record is too short") };
    let head = record.head;
    let request = match parsed {
        Ok(request) => request,
        Err(Undecodable::Malformed) => return Verdict::Disagrees("the record's texts lie outside of it"),
        Err(Undecodable::Unreadable) => return Verdict::Silent,
        Err(Undecodable::NotARequest) => {
            return Verdict::Disagrees("the request's signature or main pointer is wrong");
        }
    };
    if request.status != 0 && !(100..1000).contains(&request.status) {
        return Verdict::Disagrees("the status is none");
    }
    if let Some(started) = nginx::started_by_nginx(bytes) {
        const MINUTE: u64 = 60_000_000_000;
        if started > now + MINUTE {
            return Verdict::Disagrees("the request began in the future");
        }
        // A small number where the seconds should be is a time too: one in 1970.
        const DECADE: u64 = 10 * 365 * 24 * 60 * MINUTE;
        if started < now.saturating_sub(DECADE) {
            return Verdict::Disagrees("the request began more than ten years ago");
        }
    } else {
        return Verdict::Disagrees("the start time is none");
    }
    if head.flags & (Flags::NGINX_LINE_UNREAD.0 | Flags::NGINX_NO_CONNECTION.0) != 0 {
        return Verdict::Disagrees("request line or connection point nowhere");
    }
    if request.connection_request > 1 << 40 || request.response_bytes > 1 << 50 {
        return Verdict::Disagrees("the connection's counts cannot be");
    }
    by_line(request, head.method, head.http_version, head.line_len)
}

/// The part that only a request whose line was parsed can prove.
fn by_line(request: &Request<'_>, method: u32, version: u32, line_len: u32) -> Verdict {
    if line_len == 0 || request.method == Method::Unknown {
        return Verdict::Silent;
    }
    let by_text = method_bit(request.method);
    // For an error page nginx goes on with GET, whatever was sent.
    let agrees = by_text == Some(method) || (method == 0x2 && request.status >= 300);
    if by_text.is_none() || request.status == 400 {
        return Verdict::Silent;
    }
    if !agrees {
        return Verdict::Disagrees("the method is not the request line's");
    }
    // nginx gives up on a line that is too long before it has counted it.
    if request.request_bytes < 4 {
        return Verdict::Silent;
    }
    if request.protocol == Protocol::Unknown || !matches!(version, 9 | 1000..=1999 | 2000 | 3000) {
        return Verdict::Disagrees("the protocol's version is none");
    }
    if request.request_bytes > 1 << 50 {
        return Verdict::Disagrees("the request's length cannot be");
    }
    if request.connection == 0 {
        return Verdict::Disagrees("the connection has no number");
    }
    if matches!(request.remote, gatewatch_event::request::Remote::Unknown) {
        return Verdict::Disagrees("the client has no address");
    }
    if !plausible_upstream(request) {
        return Verdict::Disagrees("the upstream's states cannot be");
    }
    Verdict::Agrees
}

fn plausible_upstream(request: &Request<'_>) -> bool {
    request.tries < 1000
        && request.told_tries().iter().all(|tried| {
            let day = |ms: Option<u32>| ms.is_none_or(|ms| ms < 86_400_000);
            (tried.status == 0 || (100..1000).contains(&tried.status))
                && day(tried.connect_ms)
                && day(tried.header_ms)
                && day(tried.response_ms)
                && tried.peer.iter().all(|byte| byte.is_ascii_graphic())
        })
}

#[cfg(test)]
mod tests;
