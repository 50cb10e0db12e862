//! The head of an HTTP/1 message, as far as it was seen.

use httparse::{EMPTY_HEADER, Error, Header, Request, Response, Status};

/// Longest method taken for one; the longest registered has 17.
const METHOD_MAX: usize = 32;
/// Header fields looked at; those behind are not needed to know the protocol.
const HEADERS_MAX: usize = 48;

/// What the protocol is to change to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    WebSocket,
    /// HTTP/2 in clear text.
    H2c,
}

/// What stands at the front of some bytes.
#[derive(Debug, PartialEq)]
pub(crate) enum Head<'a> {
    /// No HTTP/1.
    No,
    /// May become one when more is seen.
    Maybe,
    Request {
        target: &'a [u8],
        host: Option<&'a [u8]>,
        upgrade: Option<Upgrade>,
        /// Nothing of the head is missing.
        whole: bool,
    },
    Response {
        status: u16,
        upgrade: Option<Upgrade>,
        /// Where the body begins, once the head is whole.
        body: Option<usize>,
    },
}

pub(crate) fn read(bytes: &[u8]) -> Head<'_> {
    let front = bytes.trim_ascii_start();
    if front.starts_with(b"HTTP/") { response(bytes) } else { request(bytes) }
}

fn request(bytes: &[u8]) -> Head<'_> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    let end = request.parse(bytes);
    if request.method.is_some_and(|method| method.len() > METHOD_MAX) {
        return Head::No;
    }
    // Only what ended in `HTTP/1.x` is a request line.
    if let (Some(target), Some(_)) = (request.path, request.version) {
        return Head::Request {
            target: target.as_bytes(),
            host: find(request.headers, "host"),
            upgrade: upgrade(request.headers),
            whole: !matches!(end, Ok(Status::Partial)),
        };
    }
    let method_goes_on = request.method.is_none() && bytes.len() > METHOD_MAX + 4;
    if matches!(end, Ok(Status::Partial)) && !method_goes_on { Head::Maybe } else { Head::No }
}

fn response(bytes: &[u8]) -> Head<'_> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut response = Response::new(&mut headers);
    let end = response.parse(bytes);
    match (response.version, response.code, &end) {
        (Some(_), Some(status), Ok(_) | Err(Error::TooManyHeaders)) if (100..600).contains(&status) => {
            let body = match end {
                Ok(Status::Complete(len)) => Some(len),
                Ok(Status::Partial) | Err(_) => None,
            };
            Head::Response { status, upgrade: upgrade(response.headers), body }
        }
        (_, None, Ok(Status::Partial)) => Head::Maybe,
        _ => Head::No,
    }
}

/// The target of a request line that is longer than what was seen of it: nothing says HTTP yet, but a method that
/// everybody uses and a path.
pub(crate) fn cut_line(bytes: &[u8]) -> Option<&[u8]> {
    const KNOWN: [&[u8]; 7] =
        [b"GET /", b"POST /", b"PUT /", b"HEAD /", b"PATCH /", b"DELETE /", b"OPTIONS /"];
    let method = KNOWN.iter().find(|known| bytes.starts_with(known))?;
    let target = bytes.get(method.len().checked_sub(1)?..)?;
    // Longer than any line of a protocol that has the same verbs.
    let fits = bytes.len() >= 256 && target.iter().all(|b| b.is_ascii_graphic() || *b >= 0x80);
    fits.then_some(target)
}

fn find<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

fn upgrade(headers: &[Header<'_>]) -> Option<Upgrade> {
    let wanted = find(headers, "upgrade")?;
    wanted.split(|b| *b == b',').find_map(|protocol| {
        let protocol = protocol.trim_ascii();
        if protocol.eq_ignore_ascii_case(b"websocket") {
            Some(Upgrade::WebSocket)
        } else {
            protocol.eq_ignore_ascii_case(b"h2c").then_some(Upgrade::H2c)
        }
    })
}

/// Host and path of a request; a target that names a host outweighs the header, as RFC 9112 has it.
pub(crate) fn place<'a>(target: &'a [u8], header: Option<&'a [u8]>) -> (Option<&'a [u8]>, Option<&'a [u8]>) {
    if target.starts_with(b"/") || target == b"*" {
        return (header, Some(target));
    }
    let Some(scheme) = target.windows(3).take(16).position(|at| at == b"://") else {
        // `CONNECT host:port` has no path.
        return (header.or(Some(target)), None);
    };
    let rest = target.get(scheme + 3..).unwrap_or_default();
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (host, path) = rest.split_at_checked(end).unwrap_or((rest, b""));
    (Some(host), Some(if path.starts_with(b"/") { path } else { b"/" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: &[u8]) -> Head<'_> {
        read(bytes)
    }

    #[test]
    fn any_token_is_a_method_but_only_http_is_http() {
        for method in ["GET", "M-SEARCH", "PROPFIND", "get", "x!#$%&'*+.^_`|~1"] {
            let text = format!("{method} /a HTTP/1.1\r\nHost: h\r\n\r\n");
            assert!(
                matches!(
                    line(text.as_bytes()),
                    Head::Request { target: b"/a", host: Some(b"h"), whole: true, .. }
                ),
                "{method}"
            );
        }
        for other in [
            &b"INVITE sip:a@b SIP/2.0\r\n\r\n"[..],
            b"DESCRIBE rtsp://h/a RTSP/1.0\r\n",
            b"GET /a HTTP/2.0\r\n\r\n",
            b"GET /a HTTP/0.9\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"220 mail ESMTP\r\n",
            b"HTTP/1.1 OK\r\n",
            b"HTTP/1.1 099 x\r\n\r\n",
            b"HTTP/1.1 999 x\r\n\r\n",
            b"HTTP/3 200 OK\r\n\r\n",
            b"*3\r\n$3\r\nSET\r\n",
            b" GET / HTTP/1.1\r\n\r\n",
            b"A-METHOD-OF-MORE-THAN-THIRTY-TWO-BYTES / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(line(other), Head::No, "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn a_head_grows() {
        let text = b"\r\nGET /a?b HTTP/1.0\r\nUpgrade: foo, WebSocket\r\nHost: h\r\n\r\nbody";
        let mut seen = Vec::new();
        for end in 0..=text.len() {
            let kind = match line(&text[..end]) {
                Head::No => 'n',
                Head::Maybe => 'm',
                Head::Request { host: None, .. } => 'l',
                Head::Request { upgrade: Some(Upgrade::WebSocket), whole: false, .. } => 'h',
                Head::Request { upgrade: Some(Upgrade::WebSocket), whole: true, .. } => 'w',
                other @ (Head::Request { .. } | Head::Response { .. }) => panic!("{other:?}"),
            };
            if seen.last() != Some(&kind) {
                seen.push(kind);
            }
        }
        assert_eq!(seen, ['m', 'l', 'h', 'w']);
    }

    #[test]
    fn a_broken_field_does_not_hide_the_line() {
        let head = line(b"GET / HTTP/1.1\r\nHost: h\r\nbro ken\r\n\r\n");
        assert!(matches!(head, Head::Request { host: Some(b"h"), whole: true, .. }), "{head:?}");
        let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(100));
        assert!(matches!(line(many.as_bytes()), Head::Request { host: Some(b"h"), whole: true, .. }));
    }

    #[test]
    fn places() {
        for (target, header, host, path) in [
            ("/a?b", Some("h"), Some("h"), Some("/a?b")),
            ("*", Some("h"), Some("h"), Some("*")),
            ("http://u:p@o/a", Some("h"), Some("u:p@o"), Some("/a")),
            ("http://o?x", None, Some("o"), Some("/")),
            ("o:443", Some("h:443"), Some("h:443"), None),
            ("o:443", None, Some("o:443"), None),
        ] {
            let (got_host, got_path) = place(target.as_bytes(), header.map(str::as_bytes));
            assert_eq!((got_host, got_path), (host.map(str::as_bytes), path.map(str::as_bytes)), "{target}");
        }
    }

    #[test]
    fn a_line_cut_short() {
        let long = format!("GET /{}", "a".repeat(400));
        assert_eq!(cut_line(long.as_bytes()).map(<[u8]>::len), Some(401));
        assert_eq!(cut_line(b"GET /a"), None, "too little to tell");
        assert_eq!(
            cut_line(format!("GET /{}\r\n", "a".repeat(400)).as_bytes()),
            None,
            "the line ended without HTTP"
        );
    }
}
