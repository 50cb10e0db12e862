use gatewatch_capture::nginx::{Record, bytes_of_record};

use super::*;
use crate::testing::{Held, NOW, Noise};

/// What must be read of a request line: method, its name, target, error.
type Read = (Method, &'static str, &'static str, ErrorCode);

fn check_line(line: &[u8], version: u32, expected: Read) {
    let held = Held::with(|held| {
        held.line = line.to_vec();
        held.head.http_version = version;
    });
    let bytes = held.bytes();
    let request = request(&bytes).unwrap();
    let seen = (request.method, request.method_name, request.target, request.error);
    let (method, name, target, error) = expected;
    let shown = String::from_utf8_lossy(line).into_owned();
    assert_eq!(seen, (method, name.as_bytes(), target.as_bytes(), error), "{shown:?}");
}

#[test]
fn request_lines_of_every_kind() {
    use ErrorCode::{Ok, Parse};
    use Method::{Get, Options, Other, Post, Unknown};
    let table: &[(&[u8], Read)] = &[
        (b"GET / HTTP/1.1", (Get, "GET", "/", Ok)),
        (b"POST /a?b=c#d HTTP/1.0", (Post, "POST", "/a?b=c#d", Ok)),
        // nginx lets spaces stand in a target.
        (b"GET /a b  c HTTP/1.1", (Get, "GET", "/a b  c", Ok)),
        (b"GET   /a   HTTP/1.1  ", (Get, "GET", "/a", Ok)),
        (b"GET /HTTP/1.1 HTTP/1.1", (Get, "GET", "/HTTP/1.1", Ok)),
        (b"GET http://u:p@h:81/x?y HTTP/1.1", (Get, "GET", "http://u:p@h:81/x?y", Ok)),
        (b"OPTIONS * HTTP/1.1", (Options, "OPTIONS", "*", Ok)),
        (b"CONNECT h:443 HTTP/1.1", (Method::Connect, "CONNECT", "h:443", Ok)),
        // HTTP/0.9 names no version.
        (b"GET /old", (Get, "GET", "/old", Ok)),
        (b"GET /old way", (Get, "GET", "/old way", Ok)),
        // Methods are case-sensitive.
        (b"get / HTTP/1.1", (Other, "get", "/", Ok)),
        (b"PROPFIND /dav HTTP/1.1", (Other, "PROPFIND", "/dav", Ok)),
        (b"GET /\0\x1b[2J HTTP/1.1", (Get, "GET", "/\0\x1b[2J", Ok)),
        (b"", (Unknown, "", "", Parse)),
        (b"GET", (Unknown, "", "", Parse)),
        (b"GET ", (Unknown, "", "", Parse)),
        (b"GET    ", (Unknown, "", "", Parse)),
        (b" / HTTP/1.1", (Unknown, "", "", Parse)),
        (b"\x16\x03\x01\x02\0\x01 garbage", (Unknown, "", "", Parse)),
        (b"G\0T / HTTP/1.1", (Unknown, "", "", Parse)),
    ];
    for (line, expected) in table {
        check_line(line, 1001, *expected);
    }
}

#[test]
fn a_target_that_is_not_utf8_is_kept_byte_by_byte() {
    let bytes = Held::of_line(b"GET /\xff\xfe/\xc0 HTTP/1.1").bytes();
    assert_eq!(request(&bytes).unwrap().target, b"/\xff\xfe/\xc0");
}

#[test]
fn a_line_is_cut_at_its_limit_and_says_so() {
    for (target_len, cut) in [(1024 - 13, false), (1024 - 12, true), (5000, true)] {
        let target = [b"/".as_slice(), &vec![b'a'; target_len - 1]].concat();
        let bytes = Held::of_line(&[b"GET ", target.as_slice(), b" HTTP/1.1"].concat()).bytes();
        let request = request(&bytes).unwrap();
        assert_eq!(request.cut.target, cut, "{target_len}");
        assert_eq!(request.error, ErrorCode::Ok, "a cut line is no error");
        assert_eq!(request.protocol, Protocol::Http11, "the number tells what the cut line does not");
        assert!(target.starts_with(request.target) || cut);
        // Of a line cut inside its version, what was left of that version cannot be told from the target.
        assert_eq!(&request.target[..1000], &target[..1000]);
        assert_eq!(request.target.len() == target.len(), !cut, "{target_len}");
    }
}

#[test]
fn the_version_is_the_number_or_else_the_text() {
    let check = |number, line: &[u8], expected| {
        let bytes = Held::with(|held| {
            held.line = line.to_vec();
            held.head.http_version = number;
        })
        .bytes();
        assert_eq!(request(&bytes).unwrap().protocol, expected, "{number}");
    };
    check(9, b"GET /", Protocol::Http09);
    check(1000, b"GET / HTTP/1.0", Protocol::Http10);
    check(1001, b"GET / HTTP/1.1", Protocol::Http11);
    check(1999, b"GET / HTTP/1.999", Protocol::Http11);
    check(2000, b"GET / HTTP/2.0", Protocol::Http2);
    check(3000, b"GET / HTTP/3.0", Protocol::Http3);
    check(0, b"GET / HTTP/1.0", Protocol::Http10);
    check(0, b"GET / HTTP/1.1", Protocol::Http11);
    check(0, b"GET / HTTP/7.7", Protocol::Unknown);
    check(0, b"", Protocol::Unknown);
    check(u32::MAX, b"GET /", Protocol::Unknown);
}

#[test]
fn the_port_stands_behind_the_host() {
    let check = |behind: &[u8], expected: Option<u16>| {
        let bytes = Held::with(|held| held.behind = behind.to_vec()).bytes();
        let request = request(&bytes).unwrap();
        assert_eq!(request.host, b"api.example.com");
        assert_eq!(request.host_port, expected, "{:?}", String::from_utf8_lossy(behind));
    };
    check(b":8000\0X", Some(8000));
    check(b":80\r\nUse", Some(80));
    check(b":65535\r\n", Some(65535));
    check(b":0\r\n", Some(0));
    check(b":65536\r\n", None);
    check(b":9999999", None);
    check(b":", None);
    check(b":x", None);
    check(b"8000", None);
    check(b"\r\n:80", None);
    check(b"", None);
    check(b"\xff\xfe", None);
}

#[test]
fn no_port_is_read_beyond_the_text() {
    let (mut head, text) = Held::default().parts();
    head.host_behind = u16::MAX;
    let bytes = bytes_of_record(&head, &text);
    assert_eq!(request(&bytes).unwrap().host_port, None, "a port is no ground to lose a request");
}

#[test]
fn long_texts_are_cut_and_say_so() {
    let check = |host: usize, agent: usize, expected: (bool, bool)| {
        let bytes = Held::with(|held| {
            held.host = vec![b'h'; host];
            held.agent = vec![b'u'; agent];
        })
        .bytes();
        let request = request(&bytes).unwrap();
        assert_eq!((request.cut.host, request.cut.user_agent), expected, "{host} {agent}");
        assert_eq!((request.host.len(), request.user_agent.len()), (host.min(256), agent.min(256)));
        assert_eq!(request.cut.any(), expected.0 || expected.1);
    };
    check(0, 0, (false, false));
    check(256, 256, (false, false));
    check(257, 256, (true, false));
    check(256, 257, (false, true));
    check(4000, 4000, (true, true));
}

#[test]
fn the_client_has_its_address() {
    let check = |family: u16, address: [u8; 16], shown: &str, port: Option<u16>| {
        let bytes = Held::with(|held| (held.head.family, held.head.address) = (family, address)).bytes();
        let remote = request(&bytes).unwrap().remote;
        assert_eq!(remote.to_string(), shown);
        let seen = match remote {
            Remote::Ip(address) => Some(address.port()),
            Remote::Unix | Remote::Unknown => None,
        };
        assert_eq!(seen, port, "{shown}");
    };
    let v4 = |a: [u8; 4]| {
        let mut address = [0xee; 16]; // what stands behind an IPv4 address is not read
        address[..4].copy_from_slice(&a);
        address
    };
    let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    check(2, v4([192, 0, 2, 7]), "192.0.2.7", Some(40_000));
    check(2, v4([0; 4]), "0.0.0.0", Some(40_000));
    check(10, v6("2001:db8::1"), "2001:db8::1", Some(40_000));
    // A socket that listens on IPv6 sees IPv4 clients so; people know them by their own address.
    check(10, v6("::ffff:203.0.113.9"), "203.0.113.9", Some(40_000));
    check(1, [b'/'; 16], "unix:", None);
    check(0, [1; 16], "", None);
    check(u16::MAX, [1; 16], "", None);
}

#[test]
fn upstream_tries_are_told_up_to_four() {
    for tries in 0..=5u16 {
        let held = Held::with(|held| {
            held.head.tries = tries;
            let told = usize::from(tries).min(TRIES_MAX);
            held.peers = (0..told).map(|n| format!("10.0.0.{n}:80").into_bytes()).collect();
            for (n, told) in held.upstream.iter_mut().enumerate() {
                let n = u32::try_from(n).unwrap();
                *told = nginx::Try {
                    bytes_received: 100 + u64::from(n),
                    response_ms: 10 + n,
                    connect_ms: if n == 0 { u32::MAX } else { n },
                    header_ms: if n == 3 { u32::MAX } else { n + 5 },
                    status: 500 + u16::try_from(n).unwrap(),
                    peer_len: 0,
                };
            }
        });
        let bytes = held.bytes();
        let request = request(&bytes).unwrap();
        assert_eq!(request.tries, tries);
        assert_eq!(request.cut.upstream, tries == 5);
        let told = request.told_tries();
        assert_eq!(told.len(), usize::from(tries).min(4));
        for (n, tried) in told.iter().enumerate() {
            let n32 = u32::try_from(n).unwrap();
            assert_eq!(tried.peer, format!("10.0.0.{n}:80").as_bytes());
            assert_eq!(usize::from(tried.status), 500 + n);
            assert_eq!(tried.connect_ms, (n > 0).then_some(n32), "~0 is: it did not come to it");
            assert_eq!(tried.header_ms, (n != 3).then_some(n32 + 5));
            assert_eq!(tried.response_ms, Some(10 + n32));
            assert_eq!(tried.bytes_received, 100 + u64::from(n32));
        }
        let sum = (0..told.len() as u64).map(|n| 10 + n).sum();
        assert_eq!(request.upstream_ms(), (tries > 0).then_some(sum));
        assert_eq!(request.upstream_header_ms(), told.last().and_then(|last| last.header_ms));
    }
}

#[test]
fn a_peer_as_long_as_the_limit_counts_as_cut() {
    for (len, cut) in [(0, false), (63, false), (64, true), (200, true)] {
        let bytes = Held::with(|held| held.peers = vec![vec![b'p'; len]]).bytes();
        let request = request(&bytes).unwrap();
        assert_eq!(request.cut.upstream, cut, "{len}");
        assert_eq!(request.told_tries()[0].peer.len(), len.min(64));
    }
}

#[test]
fn flags_become_outcomes() {
    let check = |flags: &[Flags], expected: Result<ErrorCode, Undecodable>| {
        let flags = flags.iter().fold(0, |all, flag| all | flag.0);
        let bytes = Held::with(|held| held.head.flags = flags).bytes();
        assert_eq!(request(&bytes).map(|request| request.error), expected, "{flags:#x}");
    };
    check(&[], Ok(ErrorCode::Ok));
    check(&[Flags::NGINX_TLS, Flags::NGINX_STARTED], Ok(ErrorCode::Ok));
    check(&[Flags::NGINX_NO_REQUEST], Err(Undecodable::Unreadable));
    check(&[Flags::NGINX_BAD_SIGNATURE], Err(Undecodable::NotARequest));
    check(&[Flags::NGINX_NOT_MAIN], Err(Undecodable::NotARequest));
    check(&[Flags::NGINX_NO_REQUEST, Flags::NGINX_BAD_SIGNATURE], Err(Undecodable::Unreadable));
    for flag in [
        Flags::NGINX_NO_CONNECTION,
        Flags::NGINX_LINE_UNREAD,
        Flags::NGINX_HOST_UNREAD,
        Flags::NGINX_AGENT_UNREAD,
        Flags::NGINX_ADDRESS_UNREAD,
        Flags::NGINX_UPSTREAM_UNREAD,
    ] {
        check(&[flag], Ok(ErrorCode::Memory));
        check(&[flag, Flags::NGINX_STARTED], Ok(ErrorCode::Memory));
    }
}

#[test]
fn memory_that_was_not_read_is_told_before_a_line_that_was_not_understood() {
    let bytes = Held::with(|held| {
        held.line.clear();
        held.head.flags = Flags::NGINX_LINE_UNREAD.0;
    })
    .bytes();
    assert_eq!(request(&bytes).unwrap().error, ErrorCode::Memory);
}

#[test]
fn tls_and_times() {
    let bytes = Held::with(|held| held.head.flags = Flags::NGINX_TLS.0 | Flags::NGINX_STARTED.0).bytes();
    let seen = request(&bytes).unwrap();
    assert!(seen.tls && seen.precise);
    assert_eq!((seen.duration_ns, seen.ended_ns), (12_345_678, 5_012_345_678));
    assert_eq!((seen.worker, seen.pid, seen.tid), (2, 100, 101));
    assert_eq!((seen.connection, seen.connection_request), (17, 3));
    assert_eq!((seen.request_bytes, seen.response_bytes), (120, 4096));

    // Without a start there is no duration to the nanosecond, whatever stands in its place.
    let bytes = Held::with(|held| held.head.flags = 0).bytes();
    let seen = request(&bytes).unwrap();
    assert!(!seen.tls && !seen.precise);
    assert_eq!(seen.duration_ns, 0);

    let bytes = Held::with(|held| held.head.start_ns = u64::MAX).bytes();
    assert_eq!(request(&bytes).unwrap().duration_ns, 0, "an end before the start");
}

#[test]
fn lua_times_keep_their_order() {
    let bytes = Held::with(|held| held.lua_ns = Some([1, 2, 3, 4, 5, 6, 7, 8])).bytes();
    assert_eq!(request(&bytes).unwrap().lua_ns, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn the_status_is_what_nginx_logs() {
    let check = |status, err_status, expected| {
        let bytes = Held::with(|held| {
            (held.head.status, held.head.err_status) = (status, err_status);
        })
        .bytes();
        assert_eq!(request(&bytes).unwrap().status, expected);
    };
    check(200, 0, 200);
    check(302, 404, 404); // an error page that redirects
    check(0, 499, 499);
    check(0, 0, 0);
}

#[test]
fn nginx_own_start_time() {
    let check = |sec, msec, expected| {
        let bytes = Held::with(|held| (held.head.start_sec, held.head.start_msec) = (sec, msec)).bytes();
        assert_eq!(started_by_nginx(&bytes), expected, "{sec} {msec}");
    };
    check(1_700_000_000, 250, Some(1_700_000_000_250_000_000));
    check(1, 0, Some(1_000_000_000));
    check((1 << 33) - 1, 999, Some(8_589_934_591_999_000_000));
    check(0, 1, None);
    check(1 << 33, 0, None);
    check(1_700_000_000, 1000, None);
    check(u64::MAX, u32::MAX, None);
    assert_eq!(started_by_nginx(&[0; 20]), None);
}

#[test]
fn texts_outside_of_the_record_are_malformed() {
    let check = |what: &str, change: &dyn Fn(&mut Record, u16)| {
        let (mut head, text) = Held::default().parts();
        change(&mut head, u16::try_from(text.len()).unwrap());
        let bytes = bytes_of_record(&head, &text);
        assert_eq!(request(&bytes).map(drop), Err(Undecodable::Malformed), "{what}");
    };
    check("line begins outside", &|head, len| head.line_at = len + 1);
    check("line ends outside", &|head, len| head.line_captured = len);
    check("both at their largest", &|head, _| (head.line_at, head.line_captured) = (u16::MAX, u16::MAX));
    check("host", &|head, len| head.host_at = len);
    check("host's end", &|head, _| head.host_captured = u16::MAX);
    check("agent", &|head, len| head.agent_at = len);
    check("agent's end", &|head, _| head.agent_captured = u16::MAX);
    check("peers", &|head, len| head.peers_at = len);
    check("peers' end", &|head, _| head.peers_at += 1);
    check("tries that are not there", &|head, _| head.tries = 4);
}

#[test]
fn what_is_empty_may_stand_at_the_very_end() {
    let (mut head, text) = Held::with(|held| held.agent.clear()).parts();
    head.agent_at = u16::try_from(text.len()).unwrap();
    let bytes = bytes_of_record(&head, &text);
    assert_eq!(request(&bytes).unwrap().user_agent, b"");
}

#[test]
fn every_truncation_is_malformed() {
    let bytes = Held::default().bytes();
    assert!(request(&bytes).is_ok());
    for len in 0..bytes.len() {
        assert_eq!(request(&bytes[..len]).map(drop), Err(Undecodable::Malformed), "{len} of {}", bytes.len());
    }
}

/// Random heads, with flags as they are or cleared so that the texts are reached, before random text.
#[test]
fn no_bytes_panic() {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let whole = size_of::<Record>() + 1200;
    let mut outcomes = std::collections::HashMap::<_, u32>::new();
    for round in 0..100_000 {
        let mut bytes = noise.bytes(if round % 8 == 0 { round % whole } else { whole });
        if round % 2 == 0
            && let Some(RawRecord { mut head, text }) = RawRecord::new(&bytes)
        {
            head.flags &= Flags::NGINX_TLS.0 | Flags::NGINX_STARTED.0 | Flags::NGINX_LINE_UNREAD.0;
            for field in [&mut head.line_at, &mut head.host_at, &mut head.agent_at, &mut head.peers_at] {
                *field %= 900;
            }
            for field in [&mut head.line_captured, &mut head.host_captured, &mut head.agent_captured] {
                *field %= 300;
            }
            let mut text = text.to_vec();
            for tried in text.chunks_exact_mut(size_of::<nginx::Try>()).take(4) {
                // The last member is the length of the peer's name.
                let len = tried.len();
                let peer_len = u16::from(tried[len - 1]) % 90;
                tried[len - 2..].copy_from_slice(&peer_len.to_ne_bytes());
            }
            bytes = bytes_of_record(&head, &text);
        }
        let _verdict = crate::proof::judge(&bytes, NOW);
        let _started = started_by_nginx(&bytes);
        let outcome = request(&bytes).map(|request| {
            let _derived = (request.path().len(), request.upstream_ms(), request.remote.to_string());
        });
        *outcomes.entry(outcome).or_default() += 1;
    }
    // The noise must have reached every way out, or it tests nothing.
    for expected in
        [Ok(()), Err(Undecodable::Malformed), Err(Undecodable::Unreadable), Err(Undecodable::NotARequest)]
    {
        assert!(outcomes.get(&expected).is_some_and(|n| *n > 100), "{expected:?}: {outcomes:?}");
    }
}

/// The agent counts by these names; the ledger must know each from the start (its own test holds the list).
#[test]
fn reasons_are_told_apart() {
    let names =
        [Undecodable::Malformed, Undecodable::Unreadable, Undecodable::NotARequest].map(Undecodable::reason);
    assert_eq!(names, ["malformed_record", "unreadable_memory", "not_a_request"]);
}
