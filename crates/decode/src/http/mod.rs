//! HTTP spoken on a connection, from the bytes that its system calls moved to [`Exchange`]s.
//!
//! A [`Conversation`] is fed [`Piece`]s of both directions and hands out an [`Exchange`] for each request when it has
//! ended. It finds out by itself what is spoken: HTTP/1, HTTP/2 (gRPC), TLS, whose handshake tells a little, or
//! something else.
//!
//! Pieces of one direction come in the order of their positions. Between the directions their times count: that of a
//! sent piece is taken when its call *begins*, that of a received one when its call *returns*, so that an answer is
//! never told to have begun before its request. Their reports may come in either order.
//!
//! All bytes are hostile. Work is linear in what is fed; what is held is bounded for each conversation, and for all
//! together by [`Decoder`]. Bytes that were not seen are passed over exactly where they lie in a body of known
//! length; otherwise the next beginning is looked for where a call begins, and what is handed out is marked `partial`
//! where something of it is missing. A lost request or answer never shifts those that follow: see `h1`.

mod decoder;
mod h1;
mod h2;
mod handshake;
mod start;
#[cfg(test)]
mod tests;

use gatewatch_event::{Exchange, Tls};

pub use decoder::{Counts, Decoder, HELD_MAX};

use decoder::{Context, Texts};
use h1::{After, Http1};
use h2::Http2;
use handshake::Handshake;
use start::{Found, Start};

/// Which way bytes went, as the watched process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Direction {
    Sent,
    Received,
}

impl Direction {
    fn other(self) -> Self {
        match self {
            Self::Sent => Self::Received,
            Self::Received => Self::Sent,
        }
    }
}

/// What the watched process is to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It accepted the connection: requests are received.
    Server,
    /// It opened the connection: requests are sent.
    Client,
    /// Not known: the bytes will tell.
    Unknown,
}

/// What one call moved.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// CLOCK_MONOTONIC, nanoseconds: of what was sent, when the call began; of what was received, when it returned.
    pub at_ns: u64,
    /// Which way.
    pub direction: Direction,
    /// Where its first byte stands in this direction's stream, from 0 on, since counting began.
    pub position: u64,
    /// How many bytes the call moved.
    pub length: u64,
    /// The first of them; the rest was not copied.
    pub bytes: &'a [u8],
}

/// A stretch of one direction without a hole, or a hole.
#[derive(Debug)]
struct Part<'a> {
    at_ns: u64,
    /// It begins where a call began.
    call_start: bool,
    /// How many bytes the call moved.
    wire_len: usize,
    bytes: &'a [u8],
    /// So many bytes were not seen; then there are no `bytes`.
    hole: u64,
}

/// What a conversation is found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// Too little was seen.
    Undecided,
    /// HTTP/1, as yet.
    Http1,
    /// HTTP/2.
    Http2,
    /// TLS. Once its handshake is told, further pieces tell nothing.
    Tls,
    /// Something that is not looked into: pieces need not be fed any more.
    Other,
}

#[derive(Debug)]
enum Kind {
    Start(Box<Start>),
    Http1(Box<Http1>, Direction),
    Http2(Box<Http2>),
    Tls(Box<Handshake>),
    /// TLS whose handshake is told, or was not seen.
    Closed,
    Other,
}

/// One connection. See the [module](self).
#[derive(Debug)]
pub struct Conversation {
    kind: Kind,
    /// The direction in which requests go.
    asks: Option<Direction>,
    /// The position of the next byte of what was received, and of what was sent.
    next: [u64; 2],
    texts: Texts,
    held: usize,
    handshake: Option<Tls>,
}

impl Conversation {
    /// Nothing seen yet. `started_mid`: it went on before its bytes were counted.
    #[must_use]
    pub fn new(side: Side, started_mid: bool) -> Self {
        let asks = match side {
            Side::Server => Some(Direction::Received),
            Side::Client => Some(Direction::Sent),
            Side::Unknown => None,
        };
        Self {
            kind: Kind::Start(Box::new(Start::new(started_mid))),
            asks,
            next: [0; 2],
            texts: Texts::default(),
            held: 0,
            handshake: None,
        }
    }

    /// What it is found to be so far.
    #[must_use]
    pub fn speaks(&self) -> Speaks {
        match self.kind {
            Kind::Start(_) => Speaks::Undecided,
            Kind::Http1(..) => Speaks::Http1,
            Kind::Http2(_) => Speaks::Http2,
            Kind::Tls(_) | Kind::Closed => Speaks::Tls,
            Kind::Other => Speaks::Other,
        }
    }

    /// In which direction requests go, once it is known.
    #[must_use]
    pub fn asks(&self) -> Option<Direction> {
        self.asks
    }

    /// Nothing that is fed from now on will be handed out: the rest need not be copied.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.kind, Kind::Closed | Kind::Other)
    }

    /// What a TLS handshake told: once, as soon as both sides have said hello, or at the connection's end.
    pub fn take_handshake(&mut self) -> Option<Tls> {
        self.handshake.take()
    }

    /// Reads a piece, and hands out what it ends.
    pub fn push(&mut self, piece: &Piece<'_>, decoder: &mut Decoder, out: &mut impl FnMut(Exchange)) {
        if self.is_done() {
            return;
        }
        let Piece { at_ns, direction, position, length, bytes } = *piece;
        let length = length.max(bytes.len() as u64);
        let [received, sent] = &mut self.next;
        let next = if direction == Direction::Received { received } else { sent };
        let expected = std::mem::replace(next, (*next).max(position.saturating_add(length)));
        let again = expected.saturating_sub(position);
        if again > 0 {
            decoder.counts.repeated += 1;
        }
        let before = position.saturating_sub(expected);
        let new = usize::try_from(again).ok().and_then(|again| bytes.get(again..)).unwrap_or_default();
        let behind = length.saturating_sub(again.max(bytes.len() as u64));
        let wire_len = usize::try_from(length).unwrap_or(usize::MAX);
        let hole = |hole| Part { at_ns, call_start: false, wire_len, bytes: &[], hole };
        if before > 0 {
            self.feed(direction, hole(before), decoder, out);
        }
        if !new.is_empty() {
            let part = Part { at_ns, call_start: again == 0, wire_len, bytes: new, hole: 0 };
            self.feed(direction, part, decoder, out);
        }
        if behind > 0 {
            self.feed(direction, hole(behind), decoder, out);
        }
        self.account(decoder);
    }

    /// The connection is over, at this moment of the pieces' clock: hands out what is open.
    ///
    /// To be called for each conversation that was fed: what it held is taken off the decoder's account here.
    pub fn close(&mut self, at_ns: u64, decoder: &mut Decoder, out: &mut impl FnMut(Exchange)) {
        let mut cx = Context { decoder, texts: &mut self.texts };
        match std::mem::replace(&mut self.kind, Kind::Other) {
            Kind::Start(mut start) => start.close(at_ns, &mut cx, out),
            Kind::Http1(mut http1, _) => http1.close(at_ns, &mut cx, out),
            Kind::Http2(mut http2) => http2.close(at_ns, &mut cx, out),
            Kind::Tls(mut handshake) => self.tell(&mut handshake, decoder),
            Kind::Closed | Kind::Other => {}
        }
        self.texts = Texts::default();
        self.account(decoder);
    }

    fn account(&mut self, decoder: &mut Decoder) {
        let held = self.texts.held()
            + match &self.kind {
                Kind::Start(start) => start.held(),
                Kind::Http1(http1, _) => http1.held(),
                Kind::Http2(http2) => http2.held(),
                Kind::Tls(handshake) => handshake.held(),
                Kind::Closed | Kind::Other => 0,
            };
        let grown = held > self.held;
        decoder.held = (decoder.held + held).saturating_sub(std::mem::replace(&mut self.held, held));
        if grown && decoder.full() {
            decoder.counts.over_budget += 1;
            self.kind = Kind::Other;
            self.texts = Texts::default();
            decoder.held = decoder.held.saturating_sub(std::mem::take(&mut self.held));
        }
    }

    fn feed(
        &mut self,
        direction: Direction,
        mut part: Part<'_>,
        decoder: &mut Decoder,
        out: &mut impl FnMut(Exchange),
    ) {
        let mut cx = Context { decoder, texts: &mut self.texts };
        match &mut self.kind {
            Kind::Start(start) => {
                let found = start.feed(direction, self.asks, &mut part, &mut cx, out);
                self.begin(found, decoder, out);
            }
            Kind::Http1(http1, asks) => {
                let asks = *asks;
                let after = http1.feed(direction == asks, &mut part, &mut cx, out);
                self.go_on(after, asks);
                if matches!(self.kind, Kind::Http2(_)) && !part.bytes.is_empty() {
                    // What follows the answer that granted the change.
                    let rest = Part { call_start: false, ..part };
                    self.feed(direction, rest, decoder, out);
                }
            }
            Kind::Http2(http2) => {
                http2.feed(direction, &mut part, &mut cx, out);
                self.asks = self.asks.or(http2.asks());
            }
            Kind::Tls(handshake) => {
                let received = direction == Direction::Received;
                if handshake.feed(received, part.bytes, part.hole > 0)
                    && let Kind::Tls(mut handshake) = std::mem::replace(&mut self.kind, Kind::Closed)
                {
                    self.tell(&mut handshake, decoder);
                }
            }
            Kind::Closed | Kind::Other => {}
        }
    }

    /// Goes on as what was found, with what was kept until then.
    fn begin(&mut self, found: Found, decoder: &mut Decoder, out: &mut impl FnMut(Exchange)) {
        let (kind, kept) = match found {
            Found::Undecided => return,
            Found::Http1(http1, asks) => {
                self.asks = Some(asks);
                self.kind = Kind::Http1(http1, asks);
                return;
            }
            Found::Http1Ends(after, asks) => {
                self.asks = Some(asks);
                return self.go_on(after, asks);
            }
            Found::Http1Begins(asks, kept) => {
                self.asks = Some(asks);
                (Kind::Http1(Box::new(Http1::new(false)), asks), kept)
            }
            Found::Http2(asks, mid, kept) => (Kind::Http2(Box::new(Http2::new(asks, mid))), kept),
            Found::Tls(kept) => (Kind::Tls(Box::default()), kept),
            Found::Closed => (Kind::Closed, Vec::new()),
            Found::Foreign => {
                decoder.counts.foreign += 1;
                (Kind::Other, Vec::new())
            }
        };
        self.kind = kind;
        for kept in kept {
            let start::Kept { direction, at_ns, call_start, wire_len, bytes, hole } = kept;
            let part = Part { at_ns, call_start, wire_len, bytes: &bytes, hole };
            self.feed(direction, part, decoder, out);
        }
    }

    fn tell(&mut self, handshake: &mut Handshake, decoder: &mut Decoder) {
        self.handshake = handshake.told();
        decoder.counts.handshakes += u64::from(self.handshake.is_some());
    }

    fn go_on(&mut self, after: After, asks: Direction) {
        self.kind = match after {
            After::Http1 => return,
            After::Foreign | After::Opaque => Kind::Other,
            After::Http2(request) => Kind::Http2(Box::new(Http2::upgraded(asks, *request))),
        };
    }
}

fn hand_out(exchange: Exchange, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
    cx.counts().exchanges += 1;
    cx.counts().partial += u64::from(exchange.partial);
    out(exchange);
}
