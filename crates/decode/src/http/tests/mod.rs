//! Conversations from their bytes to exchanges.

mod http1;
mod http2;
mod model;
mod start;

use gatewatch_event::Exchange;

use super::*;

/// What one side says at a moment.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) by_client: bool,
    pub(super) at_ns: u64,
    pub(super) bytes: Vec<u8>,
}

pub(super) fn client(at_ns: u64, bytes: impl AsRef<[u8]>) -> Said {
    Said { by_client: true, at_ns, bytes: bytes.as_ref().to_vec() }
}

pub(super) fn server(at_ns: u64, bytes: impl AsRef<[u8]>) -> Said {
    Said { by_client: false, at_ns, bytes: bytes.as_ref().to_vec() }
}

/// Feeds a conversation as one side sees it.
pub(super) struct Feeder {
    pub(super) conversation: Conversation,
    pub(super) decoder: Decoder,
    pub(super) told: Vec<Exchange>,
    at_server: bool,
    positions: [u64; 2],
}

impl Feeder {
    pub(super) fn new(side: Side, mid: bool) -> Self {
        Self {
            conversation: Conversation::new(side, mid),
            decoder: Decoder::default(),
            told: Vec::new(),
            at_server: side != Side::Client,
            positions: [0; 2],
        }
    }

    fn direction(&self, by_client: bool) -> Direction {
        if by_client == self.at_server { Direction::Received } else { Direction::Sent }
    }

    /// A call of which the first `copied` bytes are seen.
    pub(super) fn call(&mut self, by_client: bool, at_ns: u64, bytes: &[u8], copied: usize) {
        let position = self.positions[usize::from(by_client)];
        let length = bytes.len() as u64;
        self.positions[usize::from(by_client)] += length;
        let bytes = &bytes[..copied.min(bytes.len())];
        let piece = Piece { at_ns, direction: self.direction(by_client), position, length, bytes };
        self.conversation.push(&piece, &mut self.decoder, &mut |exchange| self.told.push(exchange));
    }

    /// A call whose report was lost.
    pub(super) fn lose(&mut self, by_client: bool, bytes: usize) {
        self.positions[usize::from(by_client)] += bytes as u64;
    }

    pub(super) fn say(&mut self, said: &Said) {
        self.call(said.by_client, said.at_ns, &said.bytes, usize::MAX);
    }

    pub(super) fn close(mut self, at_ns: u64) -> (Vec<Exchange>, Counts) {
        self.conversation.close(at_ns, &mut self.decoder, &mut |exchange| self.told.push(exchange));
        assert_eq!(self.decoder.held_bytes(), 0);
        assert_eq!(self.decoder.counts.exchanges, self.told.len() as u64);
        (self.told, self.decoder.counts)
    }
}

/// What is told of a conversation, with its sides as they are, cut into calls of at most `size` bytes.
pub(super) fn told(side: Side, mid: bool, talk: &[Said], size: usize) -> (Vec<Exchange>, Counts) {
    let mut feeder = Feeder::new(side, mid);
    for said in talk {
        for bytes in said.bytes.chunks(size) {
            feeder.call(said.by_client, said.at_ns, bytes, usize::MAX);
        }
    }
    feeder.close(1_000_000)
}

/// The same however it is cut, and whoever looks at it.
pub(super) fn exchanges(talk: &[Said]) -> Vec<Exchange> {
    let (whole, counts) = told(Side::Server, false, talk, usize::MAX);
    assert_eq!((counts.garbage, counts.holes, counts.skipped_bytes), (0, 0, 0), "{counts:?}");
    for side in [Side::Server, Side::Client, Side::Unknown] {
        for size in [usize::MAX, 1, 2, 3, 5, 7, 8, 9, 13, 24, 50] {
            assert_eq!(told(side, false, talk, size).0, whole, "{side:?}, calls of {size}");
        }
        for said in 0..talk.len() {
            for at in 0..=talk[said].bytes.len() {
                let mut feeder = Feeder::new(side, false);
                for (n, it) in talk.iter().enumerate() {
                    let (a, b) = if n == said { it.bytes.split_at(at) } else { it.bytes.split_at(0) };
                    for bytes in [a, b].into_iter().filter(|bytes| !bytes.is_empty()) {
                        feeder.call(it.by_client, it.at_ns, bytes, usize::MAX);
                    }
                }
                assert_eq!(feeder.close(1_000_000).0, whole, "{side:?}, {said} cut at {at}");
            }
        }
    }
    whole
}

/// `GET /a 200`, for short.
pub(super) fn short(exchanges: &[Exchange]) -> Vec<String> {
    exchanges
        .iter()
        .map(|it| {
            let status = it.status.map_or("-".to_owned(), |status| status.to_string());
            let partial = if it.partial { " partial" } else { "" };
            format!("{} {} {status}{partial}", it.method.name(), it.path)
        })
        .collect()
}
