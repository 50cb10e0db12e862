//! What the socket probe handed out, kept; and conversations that tell what they said.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use gatewatch_capture::socket::{ConnectionId, Content, Direction, Event, Side, SocketProbe};
use serde_json::Value;

/// A piece, owned.
#[derive(Clone, Debug)]
pub struct Piece {
    pub content: Content,
    pub position: u64,
    pub length: u32,
    pub bytes: Vec<u8>,
    pub bufferless: bool,
}

/// What was handed out of one stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    pub pieces: BTreeMap<Direction, Vec<Piece>>,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    pub side: Option<Side>,
    pub joined: bool,
    pub pid: u32,
    pub comm: String,
    pub ended: bool,
}

#[derive(Default)]
pub struct Seen {
    pub streams: BTreeMap<ConnectionId, Stream>,
}

impl Seen {
    pub fn drain(&mut self, probe: &SocketProbe) {
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
                    content: piece.content,
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

    /// The end of a connection with these ports: what is on the wire.
    pub fn end(&self, local: u64, remote: u64) -> Option<&Stream> {
        let is = |address: Option<SocketAddr>, port| address.is_some_and(|a| u64::from(a.port()) == port);
        let found = |(id, stream): &(&ConnectionId, &Stream)| {
            !id.decrypted && is(stream.local, local) && is(stream.remote, remote)
        };
        self.streams.iter().find(found).map(|(_, stream)| stream)
    }
}

/// Holds what was seen against what was sent; how many bytes were seen.
pub fn agrees(stream: &Stream, direction: Direction, sent: &[u8], what: &str) -> usize {
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

/// A program that waits for a line before it goes on, and tells what it said, a line of JSON for each connection.
pub struct Talk {
    pub child: Child,
    stdin: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl Talk {
    /// Stands where it has said that it is ready.
    pub fn start(program: &str, args: &[&str]) -> Self {
        let mut child = Command::new("timeout")
            .args(["--foreground", "60", program])
            .args(args)
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

    /// The program's own number, below `timeout`'s.
    pub fn pid(&self) -> u32 {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Goes on to the end; what it tells of each connection.
    pub fn run(mut self, probe: &SocketProbe, seen: &mut Seen) -> Vec<Value> {
        writeln!(self.stdin.take().unwrap()).unwrap();
        let told = self.lines.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        assert!(self.child.wait().unwrap().success());
        seen.drain(probe);
        told
    }
}

pub fn bytes(told: &Value, key: &str) -> Vec<u8> {
    let hex = told[key].as_str().unwrap().as_bytes();
    hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
