//! Cost of one request from its pieces to an exchange: `cargo run --release -p gatewatch-decode --example http`.

use std::hint::black_box;
use std::time::Instant;

use gatewatch_decode::http::{Conversation, Decoder, Direction, Piece, Side};

/// A server's view of a connection: calls of one round, and the requests in it.
struct Load {
    name: &'static str,
    begin: Vec<(Direction, Vec<u8>)>,
    round: fn(u32) -> Vec<(Direction, Vec<u8>)>,
    requests: u32,
}

fn main() {
    println!("a conversation's state: {} bytes", size_of::<Conversation>());
    let loads = [
        Load { name: "wrk to nginx", begin: Vec::new(), round: wrk, requests: 1 },
        Load { name: "a browser's head, other paths", begin: Vec::new(), round: browser, requests: 1 },
        Load { name: "wrk, 16 pipelined", begin: Vec::new(), round: pipeline, requests: 16 },
        Load { name: "h2load -m 10 to nghttpd", begin: h2_begin(), round: h2load, requests: 10 },
        Load { name: "grpc, unary, one at a time", begin: h2_begin(), round: grpc, requests: 1 },
    ];
    for load in loads {
        println!("{:>7.0} ns a request  {}", measure(&load), load.name);
    }
}

/// The best of several runs over many rounds, prepared before.
fn measure(load: &Load) -> f64 {
    let rounds = 50_000 / load.requests;
    let calls: Vec<_> =
        load.begin.iter().cloned().chain((0..rounds).flat_map(|round| (load.round)(round))).collect();
    (0..7)
        .map(|_| {
            let mut decoder = Decoder::default();
            let mut conversation = Conversation::new(Side::Server, false);
            let mut positions = [0, 0];
            let mut told = 0_u32;
            let started = Instant::now();
            for (at_ns, (direction, bytes)) in (0_u64..).zip(&calls) {
                let [received, sent] = &mut positions;
                let position = if *direction == Direction::Received { received } else { sent };
                let length = bytes.len() as u64;
                let piece = Piece { at_ns, direction: *direction, position: *position, length, bytes };
                *position += length;
                conversation.push(&piece, &mut decoder, &mut |exchange| {
                    told += 1;
                    drop(black_box(exchange));
                });
            }
            let took = started.elapsed().as_secs_f64() * 1e9;
            assert_eq!(told, rounds * load.requests, "{}: {:?}", load.name, decoder.counts);
            took / f64::from(told)
        })
        .fold(f64::INFINITY, f64::min)
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 02 Nov 2026 10:00:00 GMT\r\n\
    Content-Type: text/html\r\nContent-Length: 612\r\nLast-Modified: Mon, 02 Nov 2026 09:00:00 GMT\r\n\
    Connection: keep-alive\r\nETag: \"64f0a1b2-264\"\r\nAccept-Ranges: bytes\r\n\r\n";

fn answer() -> Vec<u8> {
    [ANSWER.as_bytes(), &[b'x'; 612]].concat()
}

fn wrk(_: u32) -> Vec<(Direction, Vec<u8>)> {
    let request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n".to_vec();
    vec![(Direction::Received, request), (Direction::Sent, answer())]
}

fn browser(round: u32) -> Vec<(Direction, Vec<u8>)> {
    let request = format!(
        "GET /v1/users/{round}/orders?page=2 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux \
         x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: application/json, text/plain, */*\r\n\
         Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAuthorization: Bearer \
         abcdefghijklmnopqrstuvwxyz0123456789\r\nCookie: session=0123456789abcdef; theme=dark\r\nConnection: \
         keep-alive\r\nReferer: https://shop.example/orders\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\n\
         Sec-Fetch-Site: same-origin\r\n\r\n"
    );
    vec![(Direction::Received, request.into_bytes()), (Direction::Sent, answer())]
}

fn pipeline(round: u32) -> Vec<(Direction, Vec<u8>)> {
    wrk(round).into_iter().map(|(direction, bytes)| (direction, bytes.repeat(16))).collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Settings, and the fields that later requests name by their place in the table.
fn h2_begin() -> Vec<(Direction, Vec<u8>)> {
    vec![
        (Direction::Received, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(4, 0, 0, &[])].concat()),
        (Direction::Sent, [frame(4, 0, 0, &[]), frame(4, 1, 0, &[])].concat()),
    ]
}

fn stream(round: u32, of: u32, n: u32) -> u32 {
    2 * (round * of + n) + 1
}

fn h2load(round: u32) -> Vec<(Direction, Vec<u8>)> {
    // Authority and agent are put into the table by the first request.
    let first = [&[0x82, 0x84, 0x86, 0x41, 14][..], b"127.0.0.1:8080", &[0x7a, 7], b"h2load/"].concat();
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    for n in 0..10 {
        let block = if (round, n) == (0, 0) { &*first } else { &[0x82, 0x84, 0x86, 0xbf, 0xbe] };
        asked.extend(frame(1, 5, stream(round, 10, n), block));
        let fields = [&[0x88, 0x0f, 0x0d, 3][..], b"612", &[0x0f, 0x12, 29], &[b'd'; 29]].concat();
        answered.extend(frame(1, 4, stream(round, 10, n), &fields));
        answered.extend(frame(0, 1, stream(round, 10, n), &[b'x'; 612]));
    }
    vec![(Direction::Received, asked), (Direction::Sent, answered)]
}

fn grpc(round: u32) -> Vec<(Direction, Vec<u8>)> {
    let id = stream(round, 1, 0);
    let path = b"/shop.v1.Users/Get";
    let first = [
        &[0x83, 0x86, 0x44, 18][..],
        path,
        &[0x41, 9],
        b"shop:8080",
        &[0x5f, 16],
        b"application/grpc",
        &[0x7a, 12],
        b"grpc-go/1.70",
        &[0x40, 2],
        b"te",
        &[8],
        b"trailers",
    ]
    .concat();
    let block = if round == 0 { &*first } else { &[0x83, 0x86, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe] };
    let asked = [frame(1, 4, id, block), frame(0, 1, id, &[7; 40])].concat();
    let kind = [&[0x88, 0x5f, 16][..], b"application/grpc"].concat();
    let status = [&[0x40, 11][..], b"grpc-status", &[1], b"0", &[0x40, 12], b"grpc-message", &[0]].concat();
    let (head, end) = if round == 0 { (&*kind, &*status) } else { (&[0x88, 0xc0][..], &[0xbf, 0xbe][..]) };
    let answered = [frame(1, 4, id, head), frame(0, 0, id, &[7; 40]), frame(1, 5, id, end)].concat();
    vec![(Direction::Received, asked), (Direction::Sent, answered)]
}
