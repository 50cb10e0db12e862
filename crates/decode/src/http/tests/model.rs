//! Random conversations with random losses, held against what was really said.
//!
//! Request `n` asks for `/n` and is answered with status `210 + n`, so that whatever is put together wrongly shows.

use super::*;
use crate::http::tests::http2::{frame, get, status};

/// Numbers that look random and are the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// One request at a time.
    InTurn,
    /// Several, and then their answers.
    Batches,
    /// The next request before the answers to earlier ones.
    Rolling,
}

/// A head and a body, apart: programs write them so or together.
fn request(random: &mut Random, n: usize) -> Vec<u8> {
    let body = vec![b'x'; random.below(60)];
    match random.below(4) {
        0 => [format!("POST /{n} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), &body]
            .concat(),
        1 => [
            b"PUT /",
            n.to_string().as_bytes(),
            b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            &chunked(random, &body),
        ]
        .concat(),
        _ => format!("GET /{n} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes(),
    }
}

fn chunked(random: &mut Random, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(1 + random.below(40)) {
        out.extend(format!("{:x}\r\n", chunk.len()).bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n\r\n");
    out
}

fn response(random: &mut Random, n: usize) -> Vec<u8> {
    let body = vec![b'y'; random.below(200)];
    let interim = if random.one_in(8) { "HTTP/1.1 103 Early Hints\r\n\r\n" } else { "" };
    let line = format!("{interim}HTTP/1.1 {} X\r\n", 210 + n);
    if random.one_in(3) {
        [line.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n", &chunked(random, &body)].concat()
    } else {
        [line.as_bytes(), format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat()
    }
}

/// Calls of one conversation, and in which turn each is.
fn conversation(random: &mut Random, manner: Manner, turns: usize) -> Vec<(usize, Said)> {
    let mut calls = Vec::new();
    let (mut asked, mut answered, mut at) = (0, 0, 10);
    for turn in 0..turns {
        let requests = if manner == Manner::InTurn { 1 } else { 2 + random.below(4) };
        for _ in 0..requests {
            at += 10;
            calls.push((turn, client(at, request(random, asked))));
            asked += 1;
        }
        let open = if manner == Manner::Rolling && turn + 1 < turns { 1 } else { 0 };
        while answered + open < asked {
            at += 10;
            calls.push((turn, server(at, response(random, answered))));
            answered += 1;
        }
    }
    calls
}

/// Feeds the calls, cut further, and loses some of them in the turns `lossy`.
fn lossy(
    random: &mut Random,
    calls: &[(usize, Said)],
    losses: std::ops::Range<usize>,
    side: Side,
    mid: bool,
) -> Vec<Exchange> {
    let size = [10_000, 10_000, 100, 40, 7][random.below(5)];
    lossy_in(random, calls, losses, side, mid, size)
}

fn lossy_in(
    random: &mut Random,
    calls: &[(usize, Said)],
    losses: std::ops::Range<usize>,
    side: Side,
    mid: bool,
    size: usize,
) -> Vec<Exchange> {
    let mut feeder = Feeder::new(side, mid);
    let copied = [1000, 1000, 200, 60][random.below(4)];
    for (turn, said) in calls {
        for bytes in said.bytes.chunks(size) {
            let may = losses.contains(turn);
            if may && random.one_in(5) {
                feeder.lose(said.by_client, bytes.len());
            } else {
                let copied = if may { copied } else { usize::MAX };
                feeder.call(said.by_client, said.at_ns, bytes, copied);
            }
        }
    }
    feeder.close(1_000_000).0
}

/// Each is told once, and with its own answer or none.
fn check(told: &[Exchange], requests: usize, what: &str) {
    let mut seen = vec![false; requests];
    assert!(told.len() <= requests, "{what}: {} of {requests}: {:?}", told.len(), short(told));
    for exchange in told {
        let Some(n) = exchange.path.strip_prefix('/').and_then(|n| n.parse::<usize>().ok()) else {
            assert!(exchange.path.is_empty() && exchange.partial, "{what}: {exchange:?}");
            continue;
        };
        assert!(!std::mem::replace(&mut seen[n], true), "{what}: {n} twice: {:?}", short(told));
        if let Some(status) = exchange.status {
            assert_eq!(usize::from(status), 210 + n, "{what}: {:?}", short(told));
            assert!(exchange.began_ns.unwrap() <= exchange.ended_ns);
        }
    }
}

#[test]
fn no_loss_ever_gives_a_request_the_answer_of_another() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for round in 0..10_000 {
        let manner = [Manner::InTurn, Manner::InTurn, Manner::Batches, Manner::Rolling][random.below(4)];
        let turns = 12;
        let calls = conversation(&mut random, manner, turns);
        let requests = calls.iter().filter(|(_, said)| said.by_client).count();
        // Pipelines are seen once before anything is lost; see the module's head.
        let from = if manner == Manner::InTurn { random.below(3) } else { 3 };
        let to = 8;
        let side = [Side::Server, Side::Client, Side::Unknown][random.below(3)];
        let told = lossy(&mut random, &calls, from..to, side, false);
        let what = format!("round {round}, {manner:?}, {side:?}");

        check(&told, requests, &what);
        if manner == Manner::Rolling {
            continue;
        }
        // What came after the losses is all there, but for the turn that shows that they are over.
        for (turn, said) in &calls {
            if !said.by_client || *turn <= to {
                continue;
            }
            let text = String::from_utf8_lossy(&said.bytes);
            let path = text.split(' ').nth(1).unwrap();
            let found = told.iter().find(|it| &*it.path == path);
            assert!(
                found.is_some_and(|it| it.status.is_some() && !it.partial),
                "{what}: {path} of turn {turn}: {:?}",
                short(&told)
            );
        }
    }
}

#[test]
fn without_losses_all_is_told_however_it_is_cut_and_ordered() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..5_000 {
        let manner = [Manner::InTurn, Manner::Batches, Manner::Rolling][random.below(3)];
        let calls = conversation(&mut random, manner, 6);
        let requests = calls.iter().filter(|(_, said)| said.by_client).count();
        let told = lossy(&mut random, &calls, 0..0, Side::Client, false);
        assert_eq!(told.len(), requests, "round {round}");
        assert!(
            told.iter().all(|it| it.status.is_some() && !it.partial),
            "round {round}: {:?}",
            short(&told)
        );
        check(&told, requests, "");
        // The same where each first answer of a turn is told of before the last request.
        let mut late = calls.clone();
        for at in 1..late.len() {
            if manner == Manner::InTurn && late[at - 1].1.by_client && !late[at].1.by_client {
                late.swap(at - 1, at);
            }
        }
        assert_eq!(lossy_in(&mut random, &late, 0..0, Side::Client, false, 100), told, "round {round}");
    }
}

#[test]
fn joined_anywhere_it_finds_its_way() {
    let mut random = Random(0x1234_5678_9abc_def1);
    for round in 0..4_000 {
        let calls = conversation(&mut random, Manner::InTurn, 8);
        let from = random.below(calls.len() / 2);
        // The first bytes of the first call are gone already.
        let mut rest = calls[from..].to_vec();
        let cut = random.below(rest[0].1.bytes.len());
        rest[0].1.bytes.drain(..cut);
        let side = [Side::Server, Side::Client, Side::Unknown][random.below(3)];
        let told = lossy(&mut random, &rest, 0..0, side, true);
        let first = rest[0].0;
        let what = format!("round {round}, {side:?} from {from}, {cut}");
        check_joined(&told, first, &what);
        assert!(told.len() >= 8 - first - 2, "{what}: {:?}", short(&told));
    }
}

fn check_joined(told: &[Exchange], first: usize, what: &str) {
    for exchange in told {
        let n: Option<usize> = exchange.path.strip_prefix('/').and_then(|n| n.parse().ok());
        let Some(n) = n else {
            assert!(exchange.partial, "{what}: {exchange:?}");
            assert!(
                exchange.status.is_none_or(|status| usize::from(status) == 210 + first),
                "{what}: {:?}",
                short(told)
            );
            continue;
        };
        assert_eq!(exchange.status.map(usize::from), Some(210 + n), "{what}: {:?}", short(told));
    }
}

#[test]
fn streams_of_http2_keep_their_answers_whatever_is_lost() {
    let mut random = Random(0xdead_beef_1234_5678);
    for round in 0..4_000 {
        let mut feeder = Feeder::new(Side::Server, false);
        feeder.call(
            true,
            1,
            &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(4, 0, 0, &[])].concat(),
            usize::MAX,
        );
        feeder.call(false, 1, &frame(4, 0, 0, &[]), usize::MAX);
        let mut open: Vec<usize> = Vec::new();
        let (mut asked, mut at) = (0, 10);
        while asked < 30 || !open.is_empty() {
            at += 10;
            let ask = asked < 30 && (open.is_empty() || random.one_in(2));
            let mut bytes = Vec::new();
            if ask {
                for _ in 0..1 + random.below(3) {
                    let stream = u32::try_from(2 * asked + 1).unwrap();
                    bytes.extend(frame(1, 4, stream, &get(&format!("/{asked}"))));
                    bytes.extend(frame(0, 1, stream, &vec![0; random.below(100)]));
                    open.push(asked);
                    asked += 1;
                }
            } else {
                for _ in 0..1 + random.below(open.len()) {
                    let n = open.remove(random.below(open.len()));
                    let stream = u32::try_from(2 * n + 1).unwrap();
                    bytes.extend(frame(1, 4, stream, &status(u16::try_from(210 + n).unwrap())));
                    bytes.extend(frame(0, 1, stream, &vec![0; random.below(100)]));
                }
            }
            if random.one_in(6) {
                feeder.lose(ask, bytes.len());
            } else {
                let copied = if random.one_in(3) { 20 + random.below(100) } else { usize::MAX };
                feeder.call(ask, at, &bytes, copied);
            }
        }
        let (told, _) = feeder.close(1_000_000);
        check(&told, asked, &format!("round {round}"));
    }
}

#[test]
fn any_bytes_do_no_harm() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    let parts: [&[u8]; 14] = [
        b"GET / HTTP/1.1\r\n",
        b"\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"5\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\x04\x01\x05\0\0\0\x01\x82\x84\x86\xbe",
        b"\0\0\0\x04\0\0\0\0\0",
        b"\x16\x03\x01\0\x05",
        b"Upgrade: h2c\r\n",
        b"HTTP/1.1 101 S\r\n",
        b"\0\0\x05\0\x01\0\0\0\x01hello",
        b"0\r\n\r\n",
    ];
    for _ in 0..4_000 {
        let side = [Side::Server, Side::Client, Side::Unknown][random.below(3)];
        let mut feeder = Feeder::new(side, random.one_in(2));
        for at in 0..20 {
            let mut bytes = Vec::new();
            for _ in 0..random.below(4) {
                bytes.extend(parts[random.below(parts.len())]);
            }
            if random.one_in(4) {
                bytes.extend((0..random.below(30)).map(|_| u8::try_from(random.below(256)).unwrap()));
            }
            let by_client = random.one_in(2);
            match random.below(8) {
                0 => feeder.lose(by_client, bytes.len()),
                1 => feeder.call(by_client, at, &bytes, 10),
                _ => feeder.call(by_client, at, &bytes, usize::MAX),
            }
        }
        feeder.close(100);
    }
}
