//! What a connection speaks, found out from the first bytes of both directions.

use gatewatch_event::Exchange;

use super::{
    Direction, Part,
    decoder::Context,
    h1::{self, After, Http1, Looks},
    h2,
};
use crate::protocol::{
    http2::{self, PREFACE},
    tls,
};

/// Pieces looked at before a connection that was joined later is given up.
const PIECES_MAX: u32 = 4096;
/// Bytes of each direction kept while too little is there to tell.
const KEPT_MAX: usize = 64;

/// A part kept until it is known what to do with it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) direction: Direction,
    pub(super) at_ns: u64,
    pub(super) call_start: bool,
    pub(super) wire_len: usize,
    pub(super) bytes: Vec<u8>,
    pub(super) hole: u64,
}

/// What was found.
pub(super) enum Found {
    Undecided,
    /// HTTP/1 that was joined later, as far as it is read; and the direction of requests.
    Http1(Box<Http1>, Direction),
    /// HTTP/1 that was joined later, and changes to something else at once.
    Http1Ends(After, Direction),
    /// HTTP/1 from its beginning.
    Http1Begins(Direction, Vec<Kept>),
    /// HTTP/2; the direction of requests; joined later.
    Http2(Option<Direction>, bool, Vec<Kept>),
    Tls(Vec<Kept>),
    /// TLS whose handshake is over.
    Closed,
    /// Nothing that is looked into.
    Foreign,
}

/// A connection of which nothing is known yet.
#[derive(Debug)]
pub(super) struct Start {
    /// It was joined later.
    mid: bool,
    kept: Vec<Kept>,
    /// HTTP/1 on trial, where it was joined later.
    trial: Option<(Box<Http1>, Direction)>,
    pieces: u32,
}

/// What the first bytes of a direction can be.
enum Front {
    More,
    Request,
    Response,
    /// A client of HTTP/2, or a server.
    Http2Client,
    Http2Server,
    Tls,
    No,
}

impl Start {
    pub(super) fn new(mid: bool) -> Self {
        Self { mid, kept: Vec::new(), trial: None, pieces: 0 }
    }

    pub(super) fn held(&self) -> usize {
        let kept: usize = self.kept.iter().map(|kept| kept.bytes.capacity() + size_of::<Kept>()).sum();
        kept + self.trial.as_ref().map_or(0, |(http1, _)| http1.held())
    }

    pub(super) fn close(&mut self, at_ns: u64, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        if let Some((http1, _)) = &mut self.trial
            && http1.synced()
        {
            http1.close(at_ns, cx, out);
        }
    }

    pub(super) fn feed(
        &mut self,
        direction: Direction,
        asks: Option<Direction>,
        part: &mut Part<'_>,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) -> Found {
        if part.hole > 0 && !self.mid {
            // Its beginning was lost: as if it had been joined later.
            self.mid = true;
            let kept = std::mem::take(&mut self.kept);
            for Kept { direction, at_ns, call_start, wire_len, bytes, hole } in kept {
                let mut part = Part { at_ns, call_start, wire_len, bytes: &bytes, hole };
                let found = self.join(direction, asks, &mut part, cx, out);
                if !matches!(found, Found::Undecided) {
                    return found;
                }
            }
        }
        if self.mid { self.join(direction, asks, part, cx, out) } else { self.begin(direction, asks, part) }
    }

    /// From the first byte on.
    fn begin(&mut self, direction: Direction, asks: Option<Direction>, part: &Part<'_>) -> Found {
        self.kept.push(Kept {
            direction,
            at_ns: part.at_ns,
            call_start: part.call_start,
            wire_len: part.wire_len,
            bytes: part.bytes.to_vec(),
            hole: part.hole,
        });
        let mut front: Vec<u8> = Vec::new();
        for kept in self.kept.iter().filter(|kept| kept.direction == direction) {
            front.extend_from_slice(&kept.bytes);
        }
        let may_ask = asks.is_none_or(|asks| asks == direction);
        let may_answer = asks.is_none_or(|asks| asks != direction);
        let kept = |this: &mut Self| std::mem::take(&mut this.kept);
        match front_of(&front, part.wire_len) {
            Front::More if front.len() < KEPT_MAX && self.kept.len() < 2 * KEPT_MAX => Found::Undecided,
            Front::Request if may_ask => Found::Http1Begins(direction, kept(self)),
            Front::Response if may_answer => Found::Http1Begins(direction.other(), kept(self)),
            Front::Http2Client if may_ask => Found::Http2(Some(direction), false, kept(self)),
            Front::Http2Server if may_answer => Found::Http2(Some(direction.other()), false, kept(self)),
            Front::Tls => Found::Tls(kept(self)),
            Front::More
            | Front::Request
            | Front::Response
            | Front::Http2Client
            | Front::Http2Server
            | Front::No => Found::Foreign,
        }
    }

    /// Somewhere on the way.
    fn join(
        &mut self,
        direction: Direction,
        asks: Option<Direction>,
        part: &mut Part<'_>,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) -> Found {
        self.pieces += 1;
        if self.pieces > PIECES_MAX {
            return Found::Foreign;
        }
        if part.call_start {
            let kept = || {
                let Part { at_ns, call_start, wire_len, hole, .. } = *part;
                vec![Kept { direction, at_ns, call_start, wire_len, bytes: part.bytes.to_vec(), hole }]
            };
            if part.bytes.starts_with(PREFACE) {
                return Found::Http2(Some(direction), false, kept());
            }
            match tls::read(part.bytes, part.wire_len) {
                tls::Front::Hello(_) => return Found::Tls(kept()),
                tls::Front::Records { sure: true } => return Found::Closed,
                tls::Front::Records { .. } | tls::Front::Maybe | tls::Front::No => {}
            }
            if h2::at_boundary(part.bytes, part.wire_len) {
                return Found::Http2(asks, true, kept());
            }
            // A guess that leads to nothing gives way to the opposite one.
            if let Some(guess) = asks.or_else(|| guess_of(direction, part.bytes))
                && self.trial.as_ref().is_none_or(|(trial, asks)| *asks != guess && !trial.within_head())
            {
                self.trial = Some((Box::new(Http1::new(true)), guess));
            }
        }
        let Some((mut http1, asks)) = self.trial.take() else { return Found::Undecided };
        match http1.feed(direction == asks, part, cx, out) {
            After::Http1 if http1.synced() => return Found::Http1(http1, asks),
            After::Http1 | After::Foreign => {}
            after @ (After::Opaque | After::Http2(_)) => return Found::Http1Ends(after, asks),
        }
        self.trial = Some((http1, asks));
        Found::Undecided
    }
}

/// The direction of requests, if a call's first bytes suggest one.
fn guess_of(direction: Direction, bytes: &[u8]) -> Option<Direction> {
    if h1::begins_request(bytes) != Looks::No {
        return Some(direction);
    }
    (h1::looks_like_response(bytes) != Looks::No).then_some(direction.other())
}

fn front_of(bytes: &[u8], wire_len: usize) -> Front {
    if bytes.starts_with(PREFACE) {
        return Front::Http2Client;
    }
    if PREFACE.starts_with(bytes) || b"HTTP/1.".starts_with(bytes) {
        return Front::More;
    }
    match bytes {
        [0x16] | [0x16, 3] => return Front::More,
        [0x16, 3, 0..=4, ..] => return Front::Tls,
        _ => {}
    }
    if h1::looks_like_response(bytes) != Looks::No {
        return Front::Response;
    }
    match http2::front(bytes, wire_len.max(bytes.len())) {
        http2::Front::Beginning | http2::Front::Frames => return Front::Http2Server,
        http2::Front::Maybe => return Front::More,
        http2::Front::No => {}
    }
    let blank = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    match bytes.get(blank) {
        None => Front::More,
        Some(first) if first.is_ascii_alphabetic() => Front::Request,
        Some(_) => Front::No,
    }
}
