use gatewatch_capture::nginx::{Record, bytes_of_record};

use super::*;
use crate::testing::{Held, NOW, Noise};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Yes,
    No,
    Nothing,
}

fn check(what: &str, expected: Said, change: impl FnOnce(&mut Held)) {
    let verdict = judge(&Held::with(change).bytes(), NOW);
    let said = match verdict {
        Verdict::Agrees => Said::Yes,
        Verdict::Disagrees(_) => Said::No,
        Verdict::Silent => Said::Nothing,
    };
    assert_eq!(said, expected, "{what}: {verdict:?}");
}

#[test]
fn true_records_agree() {
    check("a plain one", Said::Yes, |_| {});
    for (method, bit) in [
        ("GET", 0x2),
        ("HEAD", 0x4),
        ("POST", 0x8),
        ("PUT", 0x10),
        ("DELETE", 0x20),
        ("OPTIONS", 0x200),
        ("PATCH", 0x4000),
        ("TRACE", 0x8000),
    ] {
        check(method, Said::Yes, |held| {
            held.line = format!("{method} /x HTTP/1.1").into_bytes();
            held.head.method = bit;
        });
    }
    check("no upstream", Said::Yes, |held| (held.head.tries, held.peers) = (0, vec![]));
    check("an upstream that did not answer", Said::Yes, |held| {
        let told = &mut held.upstream[0];
        (told.status, told.connect_ms, told.header_ms) = (0, u32::MAX, u32::MAX);
    });
    check("over a Unix socket", Said::Yes, |held| held.head.family = 1);
    check("HTTP/2", Said::Yes, |held| held.head.http_version = 2000);
    check("HTTP/3", Said::Yes, |held| held.head.http_version = 3000);
    check("a client that went away", Said::Yes, |held| held.head.status = 499);
    check("a cut line", Said::Yes, |held| held.line = [b"GET /", [b'a'; 3000].as_slice()].concat());
    check("a connection that stood for a year", Said::Yes, |held| {
        held.head.start_sec -= 365 * 24 * 3600;
    });
    check("clocks a minute apart", Said::Yes, |held| {
        (held.head.start_sec, held.head.start_msec) = (NOW / 1_000_000_000 + 60, 0);
    });
}

#[test]
fn what_was_never_parsed_says_nothing() {
    check("400", Said::Nothing, |held| held.head.status = 400);
    check("400 by its error status", Said::Nothing, |held| held.head.err_status = 400);
    check("400 whose method is not known", Said::Nothing, |held| {
        (held.head.status, held.head.method) = (400, 1);
    });
    check("a line too long to be counted", Said::Nothing, |held| held.head.request_bytes = 0);
    check("no line", Said::Nothing, |held| held.line.clear());
    check("a line that is none", Said::Nothing, |held| held.line = b"\x16\x03\x01".to_vec());
    check("a method without a bit of its own", Said::Nothing, |held| {
        (held.line, held.head.method) = (b"PROPFIND / HTTP/1.1".to_vec(), 0x800);
    });
    check("memory that was gone", Said::Nothing, |held| held.head.flags |= Flags::NGINX_NO_REQUEST.0);
}

#[test]
fn an_error_page_goes_on_with_get() {
    let sent = |status, method| {
        move |held: &mut Held| {
            held.line = b"POST /form HTTP/1.1".to_vec();
            (held.head.status, held.head.method) = (status, method);
        }
    };
    check("POST", Said::Yes, sent(200, 0x8));
    check("an error page for a POST", Said::Yes, sent(502, 0x2));
    check("the least status that has one", Said::Yes, sent(300, 0x2));
    check("GET where a POST went well", Said::No, sent(200, 0x2));
    check("GET and no status", Said::No, sent(0, 0x2));
    check("another method than either", Said::No, sent(502, 0x10));
}

#[test]
fn what_cannot_be_disagrees() {
    let cannot = |what: &str, change: fn(&mut Record)| check(what, Said::No, |held| change(&mut held.head));
    cannot("signature", |head| head.flags |= Flags::NGINX_BAD_SIGNATURE.0);
    cannot("main", |head| head.flags |= Flags::NGINX_NOT_MAIN.0);
    cannot("line unread", |head| head.flags |= Flags::NGINX_LINE_UNREAD.0);
    cannot("connection unread", |head| head.flags |= Flags::NGINX_NO_CONNECTION.0);
    cannot("status", |head| head.status = 99);
    cannot("status beyond", |head| head.status = 1000);
    cannot("error status", |head| head.err_status = 1);
    cannot("no start", |head| head.start_sec = 0);
    cannot("a pointer for seconds", |head| head.start_sec = 0x5581_dead_beef);
    cannot("no milliseconds", |head| head.start_msec = 1000);
    cannot("1970", |head| head.start_sec = 250);
    cannot("the future", |head| head.start_sec = NOW / 1_000_000_000 + 61);
    cannot("method", |head| head.method = 0x8);
    cannot("no method", |head| head.method = 0);
    cannot("version", |head| head.http_version = 0x5581);
    cannot("no version", |head| head.http_version = 1);
    cannot("a pointer for the length", |head| head.request_bytes = 0x7ffe_5581_dead_beef);
    cannot("a pointer for what was sent", |head| head.response_bytes = 0x7ffe_5581_dead_beef);
    cannot("a pointer for the requests", |head| head.connection_requests = 0x5581_dead_beef);
    cannot("connection", |head| head.connection = 0);
    cannot("family", |head| head.family = 77);
    cannot("no family", |head| head.family = 0);
    check("upstream status", Said::No, |held| held.upstream[0].status = 7);
    check("upstream times", Said::No, |held| held.upstream[0].response_ms = 86_400_000);
    cannot("a thousand tries", |head| head.tries = 1000);
    check("a peer's name", Said::No, |held| held.peers[0][3] = 0x80);
    assert!(matches!(judge(&[0; 100], NOW), Verdict::Disagrees(_)), "too short");

    let (mut head, text) = Held::default().parts();
    head.line_at = u16::MAX;
    assert!(matches!(judge(&bytes_of_record(&head, &text), NOW), Verdict::Disagrees(_)), "outside");
}

/// A layout that is off by a few bytes shows each member its neighbour's bytes.
#[test]
fn a_shifted_layout_disagrees() {
    let (head, text) = Held::default().parts();
    // What the shift would make of each word, by turns: the word before it, or half of each.
    let shifts: [fn(&mut Record); 4] = [
        |head| (head.method, head.http_version) = (head.http_version, head.line_len),
        |head| (head.start_sec, head.start_msec) = (u64::from(head.start_msec), head.method),
        |head| head.start_sec = head.start_sec << 32 | u64::from(head.start_msec),
        |head| (head.connection_requests, head.connection) = (head.connection << 48, 0),
    ];
    for (n, shift) in shifts.into_iter().enumerate() {
        let mut head = head;
        shift(&mut head);
        let verdict = judge(&bytes_of_record(&head, &text), NOW);
        assert!(matches!(verdict, Verdict::Disagrees(_)), "{n}: {verdict:?}");
    }
}

#[test]
fn garbage_never_agrees() {
    let mut noise = Noise(42);
    let (good, text) = Held::default().parts();
    let mut disagreed = 0;
    for _ in 0..20_000 {
        let bytes = noise.bytes(size_of::<Record>());
        let Some(RawRecord { mut head, .. }) = RawRecord::new(&bytes) else { unreachable!() };
        // Kindest to the garbage: its texts lie inside and no flag gives it away.
        head.flags = good.flags;
        (head.line_at, head.line_captured, head.line_len) = (good.line_at, good.line_captured, good.line_len);
        (head.host_at, head.host_captured) = (good.host_at, good.host_captured);
        (head.agent_at, head.agent_captured) = (good.agent_at, good.agent_captured);
        (head.peers_at, head.tries) = (good.peers_at, good.tries);
        match judge(&bytes_of_record(&head, &text), NOW) {
            Verdict::Agrees => panic!("garbage agrees: {head:?}"),
            Verdict::Disagrees(_) => disagreed += 1,
            Verdict::Silent => {}
        }
    }
    assert!(disagreed > 19_000, "{disagreed}");
}
