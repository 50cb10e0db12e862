use super::*;

const METHODS: [(&str, Method); 9] = [
    ("GET", Method::Get),
    ("HEAD", Method::Head),
    ("POST", Method::Post),
    ("PUT", Method::Put),
    ("DELETE", Method::Delete),
    ("PATCH", Method::Patch),
    ("OPTIONS", Method::Options),
    ("CONNECT", Method::Connect),
    ("TRACE", Method::Trace),
];

fn request(target: &[u8]) -> Request<'_> {
    Request {
        worker: 0,
        pid: 0,
        tid: 0,
        ended_ns: 0,
        duration_ns: 0,
        precise: true,
        method: Method::Get,
        method_name: b"GET",
        target,
        host: b"",
        host_port: None,
        user_agent: b"",
        remote: Remote::Unknown,
        protocol: Protocol::Http11,
        tls: false,
        status: 200,
        connection: 1,
        connection_request: 1,
        request_bytes: 0,
        response_bytes: 0,
        tries: 0,
        upstream: [Try::default(); TRIES_MAX],
        lua_ns: [0; LUA_PHASES.len()],
        cut: Cut::default(),
        error: ErrorCode::Ok,
    }
}

#[test]
fn paths_of_every_kind_of_target() {
    let check = |target: &[u8], path: &[u8]| {
        let shown = String::from_utf8_lossy(target);
        assert_eq!(request(target).path(), path, "{shown:?}");
    };
    check(b"/", b"/");
    check(b"/a/b", b"/a/b");
    check(b"/a?b=/c", b"/a");
    check(b"/a#b", b"/a");
    check(b"/a?b#c?d", b"/a");
    check(b"/a#b?c", b"/a");
    check(b"?a", b"");
    check(b"", b"");
    check(b"*", b"*");
    check(b"http://host/a/b?c", b"/a/b");
    check(b"http://host:81/", b"/");
    check(b"http://host", b"/");
    check(b"http://host?a=/b", b"/");
    check(b"http://", b"/");
    // An address inside a path is part of the path.
    check(b"/go/http://host/a", b"/go/http://host/a");
    check(b"/?to=http://host/a", b"/");
    // Without a scheme there is no authority: what CONNECT asks for, and what nginx refuses.
    check(b"host:443", b"host:443");
    check(b"a/b", b"a/b");
    check(b"//host/a", b"//host/a");
    check(b"/\xff\x00 \x1b", b"/\xff\x00 \x1b");
}

#[test]
fn methods_are_known_by_their_exact_names() {
    for (name, method) in METHODS {
        assert_eq!(Method::of(name.as_bytes()), method);
        assert_eq!(method.name(), name);
    }
    for other in ["get", "GET ", "GETS", "PROPFIND", "_OTHER", "\0"] {
        assert_eq!(Method::of(other.as_bytes()), Method::Other, "{other:?}");
    }
    assert_eq!(Method::of(b""), Method::Unknown);
    assert_eq!(Method::Other.name(), "_OTHER", "OpenTelemetry's name");
    assert_eq!(Method::Unknown.name(), "");
}

#[test]
fn protocols_have_the_names_of_alpn() {
    let all = [
        (Protocol::Http09, "http/0.9"),
        (Protocol::Http10, "http/1.0"),
        (Protocol::Http11, "http/1.1"),
        (Protocol::Http2, "h2"),
        (Protocol::Http3, "h3"),
        (Protocol::Unknown, ""),
    ];
    for (protocol, name) in all {
        assert_eq!(protocol.name(), name);
    }
}

/// The numbers go into log lines: part of the contract.
#[test]
fn error_codes_are_numbers_of_the_contract() {
    assert_eq!([ErrorCode::Ok as u8, ErrorCode::Parse as u8, ErrorCode::Memory as u8], [0, 1, 2]);
}

#[test]
fn any_cut_counts() {
    assert!(!Cut::default().any());
    for cut in [
        Cut { target: true, ..Cut::default() },
        Cut { host: true, ..Cut::default() },
        Cut { user_agent: true, ..Cut::default() },
        Cut { upstream: true, ..Cut::default() },
    ] {
        assert!(cut.any(), "{cut:?}");
    }
}

#[test]
fn remote_addresses_are_shown_without_port() {
    let check = |remote: Remote, shown: &str, ip: Option<&str>| {
        assert_eq!(remote.to_string(), shown);
        assert_eq!(remote.ip().map(|ip| ip.to_string()).as_deref(), ip);
    };
    check(Remote::Ip("192.0.2.1:80".parse().unwrap()), "192.0.2.1", Some("192.0.2.1"));
    check(Remote::Ip("[2001:db8::1]:80".parse().unwrap()), "2001:db8::1", Some("2001:db8::1"));
    check(Remote::Unix, "unix:", None);
    check(Remote::Unknown, "", None);
}

#[test]
fn tries_are_told_up_to_four_and_summed() {
    let mut request = request(b"/");
    for (n, tried) in request.upstream.iter_mut().enumerate() {
        *tried = Try {
            response_ms: (n != 1).then_some(10),
            header_ms: Some(u32::try_from(n).unwrap()),
            ..Try::default()
        };
    }
    for (tries, told, ms, header) in [
        (0, 0, None, None),
        (1, 1, Some(10), Some(0)),
        // A try that never ended adds nothing.
        (2, 2, Some(10), Some(1)),
        (4, 4, Some(30), Some(3)),
        (9, 4, Some(30), Some(3)),
        (u16::MAX, 4, Some(30), Some(3)),
    ] {
        request.tries = tries;
        assert_eq!(request.told_tries().len(), told);
        assert_eq!((request.upstream_ms(), request.upstream_header_ms()), (ms, header), "{tries} tries");
    }
    request.upstream[0].response_ms = Some(u32::MAX);
    request.upstream[2].response_ms = Some(u32::MAX);
    request.tries = 3;
    assert_eq!(request.upstream_ms(), Some(2 * u64::from(u32::MAX)), "the sum is wider than its parts");
}
