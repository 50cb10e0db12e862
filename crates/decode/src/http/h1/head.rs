//! The heads of HTTP/1, read with `httparse` for the few fields that are wanted.

use std::{mem::MaybeUninit, sync::Arc};

use gatewatch_event::{HttpVersion, request::Method};
use httparse::{EMPTY_HEADER, Error, Header, ParserConfig, Request, Response, Status};

use super::{
    super::decoder::{Context, is_grpc, number, protocol_name},
    reader::{Framing, Head, Looks, Parsed},
};
use crate::protocol::http1::place;

/// Header fields read; a head with more is read as far as these go, and its body's end is not known.
const HEADERS_MAX: usize = 128;
/// Longest method taken for one; the longest registered has 17.
const METHOD_MAX: usize = 32;

/// Methods that a request is found by in a search: those of HTTP, and WebDAV's. None is the end of another.
const KNOWN: [&[u8]; 18] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"PATCH ",
    b"OPTIONS ",
    b"CONNECT ",
    b"TRACE ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"LOCK ",
    b"UNLOCK ",
    b"REPORT ",
    b"SEARCH ",
];

/// A request's head.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub(super) method: Method,
    pub(super) version: HttpVersion,
    pub(super) host: Arc<str>,
    pub(super) path: Arc<str>,
    pub(super) agent: Arc<str>,
    pub(super) grpc: bool,
    /// It waits for a 100 before it sends its body.
    pub(super) expects: bool,
    /// What it asks to change to.
    pub(super) upgrade: Option<Arc<str>>,
    pub(super) framing: Framing,
    /// Its end was not seen.
    pub(super) cut: bool,
}

/// A response's head.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) grpc: bool,
    pub(super) grpc_status: Option<u32>,
    pub(super) upgrade: Option<Arc<str>>,
    /// As its fields tell: what was asked for may overrule it.
    pub(super) framing: Framing,
}

/// As lenient as servers are that do not refuse the request.
fn config() -> ParserConfig {
    let mut config = ParserConfig::default();
    config
        .allow_multiple_spaces_in_request_line_delimiters(true)
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_requests(true)
        .ignore_invalid_headers_in_responses(true);
    config
}

fn version(minor: Option<u8>) -> HttpVersion {
    if minor == Some(0) { HttpVersion::Http10 } else { HttpVersion::Http11 }
}

/// The fields that are wanted of either head.
#[derive(Default)]
struct Wanted<'a> {
    host: Option<&'a [u8]>,
    agent: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    /// Lengths that are none, or contradict each other.
    unclear: bool,
    grpc: bool,
    grpc_status: Option<u32>,
    upgrade: Option<&'a [u8]>,
    expects: bool,
}

impl<'a> Wanted<'a> {
    fn of(headers: &[Header<'a>]) -> Self {
        let mut wanted = Self::default();
        for Header { name, value } in headers {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            // Told apart by length first: most fields are none of these.
            match name.len() {
                4 if is("host") => wanted.host = wanted.host.or(Some(value)),
                6 if is("expect") => wanted.expects = value.eq_ignore_ascii_case(b"100-continue"),
                7 if is("upgrade") => wanted.upgrade = wanted.upgrade.or(Some(value)),
                10 if is("user-agent") => wanted.agent = wanted.agent.or(Some(value)),
                11 if is("grpc-status") => {
                    wanted.grpc_status = number(value).and_then(|status| u32::try_from(status).ok());
                }
                12 if is("content-type") => wanted.grpc = is_grpc(value),
                14 if is("content-length") => wanted.length(value),
                17 if is("transfer-encoding") => {
                    let last = value.rsplit(|b| *b == b',').next().unwrap_or_default();
                    wanted.chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
                }
                _ => {}
            }
        }
        wanted
    }

    fn length(&mut self, value: &[u8]) {
        for value in value.split(|b| *b == b',') {
            let length = number(value);
            self.unclear |= length.is_none() || self.length.is_some_and(|known| Some(known) != length);
            self.length = self.length.or(length);
        }
    }

    fn framing(&self, otherwise: Framing) -> Framing {
        match (self.chunked, self.unclear, self.length) {
            (true, ..) => Framing::Chunked,
            (_, true, _) => Framing::Lost,
            (.., Some(length)) => Framing::Length(length),
            (.., None) => otherwise,
        }
    }
}

impl Head for RequestHead {
    fn looks(bytes: &[u8]) -> Looks {
        let Some(end) = bytes.iter().take(METHOD_MAX + 1).position(|b| !is_token(*b)) else {
            return if bytes.len() <= METHOD_MAX { Looks::Maybe } else { Looks::No };
        };
        let Some((method, [b' ', rest @ ..])) = bytes.split_at_checked(end) else { return Looks::No };
        if method.is_empty() {
            return Looks::No;
        }
        let Some(line_end) = memchr::memchr(b'\n', rest) else {
            let fits = rest.iter().all(|b| *b > b' ' && *b != 0x7f || matches!(b, b' ' | b'\r'));
            return if fits { Looks::Maybe } else { Looks::No };
        };
        let line = rest.get(..line_end).unwrap_or_default().trim_ascii_end();
        let versioned = line.strip_suffix(b" HTTP/1.1").or(line.strip_suffix(b" HTTP/1.0"));
        if versioned.is_some_and(|target| !target.is_empty()) { Looks::Sure } else { Looks::No }
    }

    fn begins(bytes: &[u8]) -> Looks {
        let known = KNOWN.iter().any(|known| known.starts_with(bytes) || bytes.starts_with(known));
        if known { Self::looks(bytes) } else { Looks::No }
    }

    fn parse(bytes: &[u8], cx: &mut Context<'_>) -> Parsed<Self> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = Request::new(&mut []);
        match config().parse_request_with_uninit_headers(&mut request, bytes, &mut headers) {
            Ok(Status::Complete(len)) => match read_request(&request, cx) {
                Some(head) => Parsed::Whole(head, len),
                None => Parsed::Bad,
            },
            Ok(Status::Partial) if request.method.is_some_and(|method| method.len() > METHOD_MAX) => {
                Parsed::Bad
            }
            Ok(Status::Partial) if Self::looks(bytes) == Looks::No => Parsed::Bad,
            Ok(Status::Partial) => Parsed::More,
            Err(Error::TooManyHeaders) => too_many(bytes, cx),
            Err(_) => Parsed::Bad,
        }
    }

    fn cut(bytes: &[u8], cx: &mut Context<'_>) -> Option<Self> {
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut request = Request::new(&mut headers);
        // Whatever it says: the fields in front of the cut are filled in.
        let _partial = config().parse_request(&mut request, bytes);
        if request.version.is_none() {
            // Half a target is not the target.
            let (method, rest) = bytes.split_at_checked(bytes.iter().position(|b| *b == b' ')?)?;
            let method = Method::of(method);
            let known = !matches!(method, Method::Other | Method::Unknown) && rest.starts_with(b" /");
            return known.then(|| Self { method, ..Self::unknown() });
        }
        let head = read_request(&request, cx)?;
        Some(Self { framing: Framing::Lost, cut: true, ..head })
    }
}

impl RequestHead {
    fn unknown() -> Self {
        Self {
            method: Method::Unknown,
            version: HttpVersion::Http11,
            host: Arc::default(),
            path: Arc::default(),
            agent: Arc::default(),
            grpc: false,
            expects: false,
            upgrade: None,
            framing: Framing::Lost,
            cut: true,
        }
    }
}

fn read_request(request: &Request<'_, '_>, cx: &mut Context<'_>) -> Option<RequestHead> {
    let method = request.method.filter(|method| method.len() <= METHOD_MAX)?;
    let wanted = Wanted::of(request.headers);
    let (host, path) = place(request.path?.as_bytes(), wanted.host);
    Some(RequestHead {
        method: Method::of(method.as_bytes()),
        version: version(request.version),
        host: host.map_or_else(Arc::default, |host| cx.host(host)),
        path: path.map_or_else(Arc::default, |path| cx.path(path)),
        agent: wanted.agent.map_or_else(Arc::default, |agent| cx.agent(agent)),
        grpc: wanted.grpc,
        expects: wanted.expects,
        upgrade: wanted.upgrade.and_then(protocol_name),
        framing: wanted.framing(Framing::None),
        cut: false,
    })
}

/// A head with more fields than are read, once its end is there.
fn too_many<H: Head>(bytes: &[u8], cx: &mut Context<'_>) -> Parsed<H> {
    let whole = memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4);
    match whole {
        Some(len) => H::cut(bytes, cx).map_or(Parsed::Bad, |head| Parsed::Whole(head, len)),
        None => Parsed::More,
    }
}

impl Head for ResponseHead {
    fn looks(bytes: &[u8]) -> Looks {
        const LINE: &[u8] = b"HTTP/1.? ###";
        let fits = bytes.iter().zip(LINE).all(|(byte, of)| match of {
            b'?' => matches!(byte, b'0' | b'1'),
            b'#' => byte.is_ascii_digit(),
            _ => byte == of,
        });
        match bytes.get(LINE.len()) {
            _ if !fits => Looks::No,
            None => Looks::Maybe,
            Some(b' ' | b'\r' | b'\n') => Looks::Sure,
            Some(_) => Looks::No,
        }
    }

    fn parse(bytes: &[u8], cx: &mut Context<'_>) -> Parsed<Self> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut response = Response::new(&mut []);
        match config().parse_response_with_uninit_headers(&mut response, bytes, &mut headers) {
            Ok(Status::Complete(len)) => match read_response(&response) {
                Some(head) => Parsed::Whole(head, len),
                None => Parsed::Bad,
            },
            Ok(Status::Partial) if Self::looks(bytes) == Looks::No => Parsed::Bad,
            Ok(Status::Partial) => Parsed::More,
            Err(Error::TooManyHeaders) => too_many(bytes, cx),
            Err(_) => Parsed::Bad,
        }
    }

    fn cut(bytes: &[u8], _cx: &mut Context<'_>) -> Option<Self> {
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut response = Response::new(&mut headers);
        let _partial = config().parse_response(&mut response, bytes);
        Some(Self { framing: Framing::Lost, ..read_response(&response)? })
    }
}

fn read_response(response: &Response<'_, '_>) -> Option<ResponseHead> {
    let status = response.code.filter(|status| (100..1000).contains(status))?;
    let wanted = Wanted::of(response.headers);
    Some(ResponseHead {
        status,
        grpc: wanted.grpc,
        grpc_status: wanted.grpc_status,
        upgrade: wanted.upgrade.and_then(protocol_name),
        framing: match status {
            100..200 | 204 | 304 => Framing::None,
            _ => wanted.framing(Framing::UntilClose),
        },
    })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
