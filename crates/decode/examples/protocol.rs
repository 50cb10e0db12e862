//! Cost of looking at one sample of a connection: `cargo run --release --example protocol`.

use std::hint::black_box;
use std::time::Instant;

use gatewatch_decode::protocol::{Direction, Ports, Recogniser};
use gatewatch_event::Transport;

const PORTS: Ports = Ports { a: 40000, b: 8000 };

fn main() {
    println!("a connection's state: {} bytes", size_of::<Recogniser>());
    for (name, text) in [
        ("http1", include_str!("../src/protocol/samples/http11-curl.hex")),
        ("websocket", include_str!("../src/protocol/samples/websocket-python.hex")),
        ("http2", include_str!("../src/protocol/samples/h2-nghttp.hex")),
        ("grpc", include_str!("../src/protocol/samples/grpc-python.hex")),
        ("tls 1.2", include_str!("../src/protocol/samples/tls12-openssl.hex")),
        ("tls 1.3", include_str!("../src/protocol/samples/tls13-openssl.hex")),
        ("tls 1.3, hello of two segments", include_str!("../src/protocol/samples/tls13-go-post-quantum.hex")),
        ("dns over tcp", include_str!("../src/protocol/samples/dns-tcp-go.hex")),
    ] {
        report(name, &text.lines().filter_map(sample).collect::<Vec<_>>());
    }
    let noise: Vec<u8> = (0..1500_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    report("noise", &[(Direction::FromInitiator, noise.clone()), (Direction::FromResponder, noise)]);
    let text = vec![b'x'; 1500];
    report("one long word", &[(Direction::FromInitiator, text.clone()), (Direction::FromResponder, text)]);
}

fn sample(line: &str) -> Option<(Direction, Vec<u8>)> {
    let (from, hex) = line.split_once(' ')?;
    let direction = match from {
        ">" => Direction::FromInitiator,
        "<" => Direction::FromResponder,
        _ => return None,
    };
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let byte = |pair: &[u8]| Some((digit(*pair.first()?)? << 4) | digit(*pair.get(1)?)?);
    Some((direction, hex.as_bytes().chunks(2).filter_map(byte).collect()))
}

fn report(name: &str, samples: &[(Direction, Vec<u8>)]) {
    let feed = |samples: &[(Direction, Vec<u8>)]| {
        let mut recogniser = Recogniser::new();
        for (direction, bytes) in samples {
            recogniser.feed(*direction, black_box(bytes), bytes.len(), Transport::Tcp, PORTS);
        }
        recogniser
    };
    let all = best(|| drop(black_box(feed(samples))));
    let known = feed(samples);
    let verdict = best(|| drop(black_box(known.verdict())));
    let first = samples.get(..1).unwrap_or_default();
    println!(
        "{:>7.1} ns the first, {:>7.1} ns all of {}, {verdict:>6.1} ns the verdict  {name}: {}",
        best(|| drop(black_box(feed(first)))),
        all,
        samples.len(),
        known.verdict().application.as_str(),
    );
}

/// The best of many short batches: what remains when nothing else ran in between.
fn best(mut work: impl FnMut()) -> f64 {
    let rounds = 1_000_u32;
    (0..200)
        .map(|_| {
            let started = Instant::now();
            (0..rounds).for_each(|_| work());
            started.elapsed().as_secs_f64() * 1e9 / f64::from(rounds)
        })
        .fold(f64::INFINITY, f64::min)
}
