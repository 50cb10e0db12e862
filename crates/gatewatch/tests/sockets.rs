//! What is sent and received on sockets: every byte of HTTP at its place, whichever system call moved it, and none of what
//! is not HTTP.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use common::Turn;
use gatewatch_capture::socket::{ConnectionId, Content, Direction, Event, Settings, Side, SocketProbe};
use serde_json::Value;

const CALLS: &str = include_str!("sockets/calls.py");

/// A piece, owned.
#[derive(Clone, Debug)]
struct Piece {
    position: u64,
    length: u32,
    bytes: Vec<u8>,
    bufferless: bool,
}

/// What was handed out of one stream.
#[derive(Clone, Debug, Default)]
struct Stream {
    pieces: BTreeMap<Direction, Vec<Piece>>,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    side: Option<Side>,
    joined: bool,
    pid: u32,
    comm: String,
    ended: bool,
}

#[derive(Default)]
struct Seen {
    streams: BTreeMap<ConnectionId, Stream>,
}

impl Seen {
    fn drain(&mut self, probe: &SocketProbe) {
        probe.drain(usize::MAX >> 1, |event| match event {
            Event::Piece(piece) => {
                let stream = self.streams.entry(piece.connection).or_default();
                stream.local = piece.local;
                stream.remote = piece.remote;
                stream.side = stream.side.or(piece.side);
                stream.joined |= piece.joined;
                stream.pid = piece.pid;
                let name: Vec<u8> = piece.comm.iter().copied().take_while(|byte| *byte != 0).collect();
                stream.comm = String::from_utf8(name).unwrap();
                assert_eq!(piece.connection.decrypted, piece.content == Content::Decrypted);
                stream.pieces.entry(piece.direction).or_default().push(Piece {
                    position: piece.position,
                    length: piece.length,
                    bytes: piece.bytes.to_vec(),
                    bufferless: piece.bufferless,
                });
            }
            Event::End(end) => {
                if let Some(stream) = self.streams.get_mut(&end.connection) {
                    stream.ended = true;
                }
            }
        });
    }

    /// The end of a connection with these ports.
    fn end(&self, local: u64, remote: u64) -> Option<&Stream> {
        let is = |address: Option<SocketAddr>, port| address.is_some_and(|a| u64::from(a.port()) == port);
        self.streams.values().find(|stream| is(stream.local, local) && is(stream.remote, remote))
    }
}

/// Holds what was seen against what was sent; how many bytes were seen.
fn agrees(stream: &Stream, direction: Direction, sent: &[u8], what: &str) -> usize {
    let mut seen = 0;
    let mut at = None;
    for piece in stream.pieces.get(&direction).into_iter().flatten() {
        let from = usize::try_from(piece.position).unwrap();
        assert!(at.is_none_or(|at| at <= from), "{what}: a piece at {from} after {at:?}");
        assert!(from + piece.bytes.len() <= sent.len(), "{what}: more than was sent");
        assert_eq!(piece.bytes, sent[from..from + piece.bytes.len()], "{what}: the piece at {from}");
        assert_eq!(piece.bufferless, piece.bytes.is_empty(), "{what}");
        at = Some(from + usize::try_from(piece.length).unwrap());
        seen += piece.bytes.len();
    }
    seen
}

/// The conversations of `sockets/calls.py`.
struct Calls {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl Calls {
    /// Stands where its oldest connection is in use already.
    fn start(part: &[&str]) -> Self {
        let mut child = Command::new("timeout")
            .args(["60", "python3", "-c", CALLS])
            .args(part)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { stdin: child.stdin.take(), child, lines }
    }

    /// Goes on to the end; what it tells of each connection.
    fn run(mut self, probe: &SocketProbe, seen: &mut Seen) -> Vec<Value> {
        writeln!(self.stdin.take().unwrap()).unwrap();
        let told = self.lines.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        assert!(self.child.wait().unwrap().success());
        seen.drain(probe);
        told
    }
}

fn probe(settings: &Settings) -> SocketProbe {
    let mut probe = SocketProbe::load(settings).unwrap();
    probe.attach().unwrap();
    probe
}

fn bytes(told: &Value, key: &str) -> Vec<u8> {
    let hex = told[key].as_str().unwrap().as_bytes();
    hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn every_call_is_seen_whole_and_at_its_place() {
    let _turn = Turn::alone();
    let calls = Calls::start(&[]);
    let probe = probe(&Settings::default());
    let mut seen = Seen::default();
    for told in calls.run(&probe, &mut seen) {
        let name = told["name"].as_str().unwrap();
        let ports = [told["client"].as_u64().unwrap(), told["server"].as_u64().unwrap()];
        let ends = [seen.end(ports[0], ports[1]), seen.end(ports[1], ports[0])];
        let sides = [Side::Client, Side::Server];
        // What the end receives, and what it sends.
        for ((end, side), ways) in ends.into_iter().zip(sides).zip([["down", "up"], ["up", "down"]]) {
            let end = end.unwrap_or_else(|| panic!("{name}: nothing of the {side:?}"));
            assert_eq!(end.side, Some(side), "{name}");
            assert_eq!(u64::from(end.pid), told["pid"].as_u64().unwrap());
            assert!(end.comm.starts_with("python3"), "{}", end.comm);
            assert!(end.ended, "{name}: the end of the {side:?}");
            assert_eq!(end.joined, name == "older than the agent", "{name}");
            for (direction, key) in [Direction::Received, Direction::Sent].into_iter().zip(ways) {
                let sent = bytes(&told, key);
                let what = format!("{name}, {side:?}, {direction:?}");
                let found = agrees(end, direction, &sent, &what);
                let before =
                    if name == "older than the agent" { told["before"][key].as_u64().unwrap() } else { 0 };
                let whole = sent.len() - usize::try_from(before).unwrap();
                let calls = if direction == Direction::Sent { "send by " } else { "receive by " };
                match name.strip_prefix(calls) {
                    Some("sendfile" | "splice" | "discard") => {
                        assert!(found < whole && found > 0, "{what}: {found} of {whole}");
                    }
                    _ => assert_eq!(found, whole, "{what}"),
                }
            }
        }
    }
    let tallies = probe.tallies();
    assert_eq!((tallies.lost, tallies.lost_ends, tallies.faults), (0, 0, 0), "{tallies:?}");
    assert!(tallies.bufferless > 0, "{tallies:?}");
}

#[test]
fn what_is_not_http_is_copied_no_more() {
    let _turn = Turn::alone();
    let calls = Calls::start(&["others"]);
    let probe = probe(&Settings::default());
    let mut seen = Seen::default();
    let told = calls.run(&probe, &mut seen);
    for told in &told {
        let ports = [told["client"].as_u64().unwrap(), told["server"].as_u64().unwrap()];
        for end in [seen.end(ports[0], ports[1]), seen.end(ports[1], ports[0])].into_iter().flatten() {
            let pieces: usize = end.pieces.values().map(Vec::len).sum();
            let up = bytes(told, "up");
            // What could have become a request line is followed for a while.
            assert!(up.starts_with(b"GETAWAY") && pieces < 1200, "{pieces} pieces of {:?}", &up[..7]);
        }
    }
    let tallies = probe.tallies();
    assert!(tallies.other >= 2 * u64::try_from(told.len() - 1).unwrap(), "{tallies:?}");
}

#[test]
fn excluded_processes_are_not_seen() {
    let _turn = Turn::alone();
    let calls = Calls::start(&["flood"]);
    let probe = probe(&Settings { exclude_comms: vec!["python3".into()], ..Settings::default() });
    let mut seen = Seen::default();
    calls.run(&probe, &mut seen);
    assert!(seen.streams.values().all(|stream| stream.comm != "python3"));
    assert!(probe.tallies().excluded >= 2);
}

#[test]
fn what_a_full_ring_loses_is_counted_and_shows_as_a_gap() {
    let _turn = Turn::alone();
    let calls = Calls::start(&["flood"]);
    let probe = probe(&Settings { ring_bytes: 64 << 10, ..Settings::default() });
    let mut seen = Seen::default();
    // Nobody drains while they go.
    let told = calls.run(&probe, &mut seen).remove(0);
    let tallies = probe.tallies();
    assert!(tallies.lost > 0 && tallies.lost_bytes > 0, "{tallies:?}");
    let end = seen.end(told["server"].as_u64().unwrap(), told["client"].as_u64().unwrap()).unwrap();
    agrees(end, Direction::Received, &bytes(&told, "up"), "the part that found room");
}
