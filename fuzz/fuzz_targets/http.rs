//! Calls on a socket: any bytes, in any pieces, some of them lost or not copied whole.
#![no_main]

use gatewatch_decode::http::{Conversation, Decoder, Direction, Piece, Side};
use gatewatch_decode::mask::Masker;
use gatewatch_event::{Exchange, request::Method};
use libfuzzer_sys::fuzz_target;

const HELD_MAX: usize = 1 << 20;

// The first byte says who looks at it. Each call has a byte in front for what it is, and two for its length.
fuzz_target!(|bytes: &[u8]| {
    let Some((&who, mut rest)) = bytes.split_first() else { return };
    let side = [Side::Server, Side::Client, Side::Unknown, Side::Server][usize::from(who & 3)];
    let mut decoder = Decoder::new(Masker::default(), HELD_MAX);
    let mut conversation = Conversation::new(side, who & 4 != 0);
    let mut positions = [0_u64; 2];
    let mut calls = [0_u64; 2];
    let (mut told, mut at_ns) = (0, 1_000);
    while let Some((&[what, high, low], behind)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([high, low])).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        rest = behind;
        let sent = what & 1 != 0;
        let direction = if sent { Direction::Sent } else { Direction::Received };
        let position = &mut positions[usize::from(sent)];
        // Bytes that were lost in front, or come again, and those not copied behind.
        let lost = if what & 2 != 0 { u64::from(what >> 4) * 5 } else { 0 };
        let again = if what & 4 != 0 { u64::from(what >> 4).min(*position) } else { 0 };
        let cut = if what & 8 != 0 { u64::from(what) * 7 } else { 0 };
        let at = *position + lost - again.min(*position);
        *position = (*position).max(at + len as u64 + cut);
        // Some are reported late.
        at_ns += u64::from(what >> 4);
        let piece =
            Piece { at_ns: at_ns - u64::from(what & 3), direction, position: at, length: len as u64 + cut, bytes };
        calls[usize::from(sent)] += 1;
        conversation.push(&piece, &mut decoder, &mut |exchange| {
            check(&exchange);
            told += 1;
        });
        assert!(decoder.held_bytes() <= HELD_MAX, "{} held", decoder.held_bytes());
    }
    conversation.close(at_ns + 1, &mut decoder, &mut |exchange| {
        check(&exchange);
        told += 1;
    });
    if let Some(tls) = conversation.take_handshake() {
        assert!(tls.sni.is_none_or(|sni| !sni.is_empty() && sni.len() <= 255));
    }
    assert_eq!(decoder.counts.exchanges, told);
    assert_eq!(decoder.held_bytes(), 0);
    // A message takes bytes: nobody makes more exchanges than bytes.
    assert!(told <= bytes.len() as u64);
});

fn check(exchange: &Exchange) {
    let Exchange { host, path, user_agent, upgraded, .. } = exchange;
    assert!(host.len() <= 255 && path.len() <= 512 && user_agent.len() <= 64, "{exchange:?}");
    assert!(!host.contains(|c: char| c.is_ascii_uppercase() || c.is_control() || c == ' '), "{host:?}");
    assert!(!path.contains(|c: char| c.is_control() || c == '?' || c == '#'), "{path:?}");
    assert!(!user_agent.contains(char::is_control), "{user_agent:?}");
    assert!(upgraded.as_ref().is_none_or(|to| to.len() <= 32 && !to.contains(char::is_control)));
    assert!(exchange.status.is_none_or(|status| (100..1000).contains(&status)), "{exchange:?}");
    // What was not seen is said.
    assert!(exchange.began_ns.is_some() || exchange.partial, "{exchange:?}");
    assert!(exchange.method != Method::Unknown || exchange.partial, "{exchange:?}");
}
