//! Recorded conversations of programs nobody here wrote: the samples of `protocol`.

use super::*;
use crate::protocol::tests::hex;

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
