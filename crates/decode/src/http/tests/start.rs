//! Recorded conversations of programs nobody here wrote: the samples of `protocol`.

use gatewatch_event::TlsVersion;

use super::*;
use crate::{mask::Masker, protocol::tests::hex};

/// Lines of `> hex` and `< hex`.
fn recorded(text: &str) -> Vec<Said> {
    let mut talk = Vec::new();
    for line in text.lines() {
        let (by, bytes) = match line.split_at_checked(2) {
            Some(("> ", bytes)) => (true, bytes),
            Some(("< ", bytes)) => (false, bytes),
            _ => continue,
        };
        talk.push(Said { by_client: by, at_ns: 1 + talk.len() as u64, bytes: hex(bytes) });
    }
    assert!(!talk.is_empty());
    talk
}

macro_rules! recordings {
    ($($name:literal => $expected:expr,)*) => {
        const RECORDINGS: &[(&str, &str, &[&str])] =
            &[$(($name, include_str!(concat!("../../protocol/samples/", $name, ".hex")), &$expected)),*];
    };
}

recordings! {
    "http11-curl" => ["Http11 GET /v1/users 200 api.example.com"],
    "http10-curl" => ["Http10 _OTHER /dav/ 200 127.0.0.1"],
    "websocket-python" => ["Http11 GET /chat 101 127.0.0.1 websocket"],
    "websocket-refused" => ["Http11 GET /chat 200 127.0.0.1"],
    "h2-curl" => ["Http2 GET /v1/users 200 api.example.com"],
    "h2-nghttp" => ["Http2 GET /v1/nghttp 200 api.example.com"],
    "grpc-python" => ["Http2 POST /shop.v1.Users/Get 200 users.example.com grpc Some(0)"],
    "h2c-curl" => ["Http11 GET /up 200 api.example.com h2c"],
    "h2c-nghttp" => ["Http11 GET /up 200 127.0.0.1 h2c"],
    "h2c-refused-curl" => ["Http11 GET /up 200 127.0.0.1"],
    "tls-to-http-port" => ["Http11 GET / 400 127.0.0.1"],
}

#[test]
fn recorded_conversations() {
    for (name, text, expected) in RECORDINGS {
        let talk = recorded(text);
        let told: Vec<String> = exchanges(&talk)
            .iter()
            .map(|it| {
                let grpc = if it.grpc { format!(" grpc {:?}", it.grpc_status) } else { String::new() };
                let to = it.upgraded.as_ref().map(|to| format!(" {to}")).unwrap_or_default();
                format!("{:?} {} {}{grpc}{to}", it.version, short(std::slice::from_ref(it))[0], it.host)
            })
            .collect();
        assert_eq!(told, *expected, "{name}");
    }
}

#[test]
fn a_handshake_is_told_once() {
    let tls = |sni: Option<&str>, version, alpn: Option<&str>| {
        (sni.map(str::to_owned), Some(version), alpn.map(str::to_owned))
    };
    for (text, expected) in [
        (
            include_str!("../../protocol/samples/tls12-curl-h2.hex"),
            tls(Some("gateway.test"), TlsVersion::Tls12, Some("h2")),
        ),
        (
            include_str!("../../protocol/samples/tls13-go-post-quantum.hex"),
            tls(Some("a-rather-long-name.gateway.test"), TlsVersion::Tls13, Some("h2")),
        ),
    ] {
        let talk = recorded(text);
        for size in [usize::MAX, 100, 1] {
            for side in [Side::Server, Side::Client, Side::Unknown] {
                let mut feeder = Feeder::new(side, false);
                let mut handshakes = Vec::new();
                for said in &talk {
                    for bytes in said.bytes.chunks(size) {
                        feeder.call(said.by_client, said.at_ns, bytes, usize::MAX);
                        handshakes.extend(feeder.conversation.take_handshake());
                    }
                }
                assert!(feeder.conversation.is_done());
                assert_eq!(feeder.conversation.speaks(), Speaks::Tls);
                let [told] = &*handshakes else { panic!("{handshakes:?}") };
                assert_eq!((told.sni.clone(), told.version, told.alpn.clone()), expected, "calls of {size}");
                assert_eq!(feeder.close(9).1.handshakes, 1);
            }
        }
        // A client that nobody answers.
        let mut feeder = Feeder::new(Side::Client, false);
        feeder.say(&talk[0]);
        assert_eq!(feeder.conversation.take_handshake(), None);
        let Feeder { mut conversation, mut decoder, .. } = feeder;
        conversation.close(9, &mut decoder, &mut |_| {});
        assert_eq!(conversation.take_handshake().and_then(|told| told.sni), expected.0);
        // Joined behind the handshake.
        let mut feeder = Feeder::new(Side::Server, true);
        let record = [&[0x17, 3, 3, 0, 5][..], b"close"].concat();
        feeder.call(true, 1, &record.repeat(2), usize::MAX);
        assert_eq!((feeder.conversation.speaks(), feeder.conversation.is_done()), (Speaks::Tls, true));
    }
}

#[test]
fn what_all_hold_together_is_bounded() {
    let mut decoder = Decoder::new(Masker::default(), 1 << 20);
    let mut conversations: Vec<_> = (0..2000).map(|_| Conversation::new(Side::Server, false)).collect();
    let head = [b"GET / HTTP/1.1\r\nX: ", &*vec![b'x'; 8000]].concat();
    for (at, bytes) in head.chunks(1000).enumerate() {
        for conversation in &mut conversations {
            let position = 1000 * at as u64;
            let length = bytes.len() as u64;
            let piece = Piece { at_ns: 1, direction: Direction::Received, position, length, bytes };
            conversation.push(&piece, &mut decoder, &mut |_| panic!("nothing has ended"));
            assert!(decoder.held_bytes() <= 1 << 20);
        }
    }
    assert!(decoder.counts.over_budget > 1000, "{:?}", decoder.counts);
    for conversation in &mut conversations {
        conversation.close(2, &mut decoder, &mut |_| {});
    }
    assert_eq!(decoder.held_bytes(), 0);
}
