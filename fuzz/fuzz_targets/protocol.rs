//! Conversations of two sides: any bytes, in any pieces, with any ports.
#![no_main]

use gatewatch_decode::protocol::{Direction, Ports, Recogniser, Verdict};
use gatewatch_event::{Application, Transport};
use libfuzzer_sys::fuzz_target;

// Each sample has a byte in front for what it is, and two for its length.
fuzz_target!(|bytes: &[u8]| {
    let mut recogniser = Recogniser::new();
    let mut rest = bytes;
    let mut known = Application::Unknown;
    while let Some((&[what, high, low], behind)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([high, low])).min(behind.len()).min(1500);
        let (sample, behind) = behind.split_at(len);
        rest = behind;
        let direction = match what & 3 {
            0 => Direction::FromInitiator,
            1 => Direction::FromResponder,
            2 => Direction::AToB,
            _ => Direction::BToA,
        };
        let transport = if what & 4 == 0 { Transport::Tcp } else { Transport::Udp };
        let ports = Ports { a: 40000, b: if what & 8 == 0 { 8000 } else { 53 } };
        let cut = if what & 16 == 0 { 0 } else { usize::from(what) * 7 };
        let was_sure = recogniser.verdict().confident;
        recogniser.feed(direction, sample, len + cut, transport, ports);
        let verdict = recogniser.verdict();
        check(&verdict);
        if was_sure && !upgraded(known, verdict.application) {
            panic!("{known:?} became {:?}", verdict.application);
        }
        known = verdict.application;
    }
    let before = recogniser.verdict();
    recogniser.release();
    assert_eq!(recogniser.verdict(), before);
    assert!(recogniser.settled());
});

/// What is known for sure stays, but for the ways that lead on.
fn upgraded(from: Application, to: Application) -> bool {
    from == to
        || matches!(
            (from, to),
            (Application::Http1, Application::WebSocket | Application::Http2 | Application::Grpc)
                | (Application::Http2, Application::Grpc)
        )
}

fn check(verdict: &Verdict) {
    let sni = verdict.tls.as_ref().and_then(|tls| tls.sni.as_ref());
    for host in verdict.host.iter().chain(sni) {
        assert!(!host.is_empty() && host.len() <= 255, "{host}");
        assert!(!host.contains(|c: char| c.is_ascii_uppercase() || c.is_control() || c == ' '), "{host}");
    }
    if let Some(path) = &verdict.path {
        assert!(!path.is_empty() && path.len() <= 512, "{path}");
        assert!(!path.contains(|c: char| c.is_control() || c == '?'), "{path}");
    }
    if let Some(alpn) = verdict.tls.as_ref().and_then(|tls| tls.alpn.as_ref()) {
        assert!(alpn.bytes().all(|b| b.is_ascii_graphic()), "{alpn}");
    }
}
