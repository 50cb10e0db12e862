//! HTTP/2, and gRPC in it: frames of both directions, put together by stream.
//!
//! A stream is handed out when its response ends, when either side resets it, when a `CONNECT` is granted, or with
//! the connection. Numbers of streams only grow, so a request that was lost is known by a later one; until then an
//! answer waits for it, for two threads of a client may be told of in either order. Behind a hole among answers,
//! streams that say nothing for [`SILENT_NS`] are handed out as they are: their end may have been in it.

mod frames;
mod streams;
mod table;
#[cfg(test)]
mod tests;

use gatewatch_event::Exchange;

use super::{Direction, Part, decoder::Context};
use crate::protocol::bytes::Bytes;
use frames::{
    ACK, CONTINUATION, DATA, Frame, Frames, GOAWAY, HEADERS, PUSH_PROMISE, RST_STREAM, SETTINGS, Step,
};
use streams::Streams;
use table::{Fields, Table};

pub(super) use frames::at_boundary;

/// How long a stream may be silent whose end may have been lost.
const SILENT_NS: u64 = 10_000_000_000;
/// Longest header block put together from several frames.
const BLOCK_MAX: usize = frames::KEPT_MAX;
/// The setting that bounds the other side's table.
const HEADER_TABLE_SIZE: u16 = 1;

/// One direction.
#[derive(Debug)]
struct Way {
    frames: Frames,
    table: Table,
    /// A header block that goes on in the next frame.
    open: Option<Box<Open>>,
}

#[derive(Debug)]
struct Open {
    head: Frame,
    block: Vec<u8>,
    broken: bool,
    bytes: u64,
}

/// A connection that speaks HTTP/2.
#[derive(Debug)]
pub(super) struct Http2 {
    received: Way,
    sent: Way,
    /// The direction of requests, once it is known.
    asks: Option<Direction>,
    streams: Streams,
}

/// Which direction a frame came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Request,
    Response,
}

impl Http2 {
    /// `asks`: the direction of requests, if it is known; `mid`: the connection has gone on for a while.
    pub(super) fn new(asks: Option<Direction>, mid: bool) -> Self {
        let way = |direction| Way {
            frames: Frames::new(mid, asks == Some(direction)),
            table: Table::new(mid),
            open: None,
        };
        Self {
            received: way(Direction::Received),
            sent: way(Direction::Sent),
            asks,
            streams: Streams::new(mid),
        }
    }

    /// A connection that began as HTTP/1, with the request that asked for the change.
    pub(super) fn upgraded(asks: Direction, request: Exchange) -> Self {
        let mut this = Self::new(Some(asks), false);
        this.streams.ask_first(request);
        this
    }

    /// The direction of requests, once it is known.
    pub(super) fn asks(&self) -> Option<Direction> {
        self.asks
    }

    pub(super) fn held(&self) -> usize {
        let ways = [&self.received, &self.sent];
        self.streams.held()
            + ways
                .iter()
                .map(|way| {
                    let open = way.open.as_ref().map_or(0, |open| open.block.capacity());
                    way.frames.held() + way.table.held() + open
                })
                .sum::<usize>()
    }

    /// Reads a part of one direction.
    pub(super) fn feed(
        &mut self,
        direction: Direction,
        part: &mut Part<'_>,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) {
        let Self { received, sent, asks, streams } = self;
        let (way, other) = match direction {
            Direction::Received => (received, &mut sent.table),
            Direction::Sent => (sent, &mut received.table),
        };
        let mut read = Read { direction, at_ns: part.at_ns, asks, streams, other };
        if part.hole > 0 {
            let (frame, in_step) = way.frames.hole(part.hole);
            if let Some(frame) = frame {
                let Way { table, open, .. } = way;
                read.frame(table, open, frame, None, cx, out);
            }
            if !in_step {
                read.lost(way, cx, out);
            }
            return;
        }
        let mut wire_len = part.call_start.then_some(part.wire_len);
        loop {
            let Way { frames, table, open } = way;
            match frames.step(&mut part.bytes, part.at_ns, wire_len.take()) {
                Step::Dry => break,
                Step::Frame(frame, payload) => {
                    read.frame(table, open, frame, payload.bytes(), cx, out);
                    frames.release(payload);
                }
                Step::Skipped(len) => {
                    cx.counts().skipped_bytes += len as u64;
                    table.lose();
                }
                Step::Bad => {
                    cx.counts().garbage += 1;
                    read.lost(way, cx, out);
                }
            }
        }
    }

    /// The connection is over: hands out what is open.
    pub(super) fn close(&mut self, at_ns: u64, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        self.streams.close(at_ns, cx, out);
    }
}

/// What reading one direction works with.
struct Read<'a> {
    direction: Direction,
    at_ns: u64,
    asks: &'a mut Option<Direction>,
    streams: &'a mut Streams,
    /// The table of the other direction, whose size this one's settings allow.
    other: &'a mut Table,
}

impl Read<'_> {
    fn role(&self) -> Option<Role> {
        self.asks.map(|asks| if asks == self.direction { Role::Request } else { Role::Response })
    }

    /// Bytes were missed, and nobody knows how many frames.
    fn lost(&mut self, way: &mut Way, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        cx.counts().holes += 1;
        way.table.lose();
        way.open = None;
        match self.role() {
            Some(Role::Request) => self.streams.lose_requests(cx, out),
            Some(Role::Response) => self.streams.lose_answers(self.at_ns),
            None => {}
        }
    }

    /// A frame ended. `payload`: what it holds, where that is read and was seen.
    fn frame(
        &mut self,
        table: &mut Table,
        open: &mut Option<Box<Open>>,
        frame: Frame,
        payload: Option<&[u8]>,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) {
        if frame.kind != CONTINUATION && open.take().is_some() {
            // Nothing may come in between: the rest of that block was lost.
            table.lose();
        }
        match frame.kind {
            HEADERS | PUSH_PROMISE => {
                let block = payload.and_then(|payload| frame.block(payload));
                if frame.ends_headers() {
                    return self.block(table, frame, block, frame.bytes(), cx, out);
                }
                *open = Some(Box::new(Open {
                    head: frame,
                    block: block.map(<[u8]>::to_vec).unwrap_or_default(),
                    broken: block.is_none(),
                    bytes: frame.bytes(),
                }));
            }
            CONTINUATION => {
                let Some(mut begun) = open.take() else {
                    // Of a block whose beginning was lost.
                    table.lose();
                    return;
                };
                begun.bytes += frame.bytes();
                let room = BLOCK_MAX.saturating_sub(begun.block.len());
                match payload.filter(|payload| payload.len() <= room) {
                    Some(payload) => begun.block.extend_from_slice(payload),
                    None => {
                        cx.counts().too_long += u64::from(!begun.broken && payload.is_some());
                        begun.broken = true;
                        begun.block = Vec::new();
                    }
                }
                if !frame.ends_headers() {
                    *open = Some(begun);
                    return;
                }
                let block = (!begun.broken).then_some(&*begun.block);
                self.block(table, begun.head, block, begun.bytes, cx, out);
            }
            DATA => {
                if let Some(role) = self.role() {
                    self.streams.data(role, frame, self.at_ns, cx, out);
                }
            }
            RST_STREAM => self.streams.reset(frame.stream, self.at_ns, cx, out),
            SETTINGS if frame.flags & ACK == 0 => self.settings(payload.unwrap_or_default()),
            GOAWAY if self.role() == Some(Role::Response) => {
                if let Some(last) = payload.and_then(|payload| Bytes(payload).u32()) {
                    self.streams.go_away(last & 0x7fff_ffff, self.at_ns, cx, out);
                }
            }
            _ => {}
        }
    }

    fn settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            let mut left = Bytes(setting);
            if let (Some(HEADER_TABLE_SIZE), Some(size)) = (left.u16(), left.u32()) {
                self.other.allow(usize::try_from(size).unwrap_or(usize::MAX));
            }
        }
    }

    /// A header block is complete, or lost.
    fn block(
        &mut self,
        table: &mut Table,
        head: Frame,
        block: Option<&[u8]>,
        bytes: u64,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) {
        let fields = match block {
            Some(block) => table.read(block, cx),
            None => {
                table.lose();
                Fields::lost()
            }
        };
        cx.counts().garbage += u64::from(fields.broken && block.is_some());
        if head.kind == PUSH_PROMISE {
            return;
        }
        if self.asks.is_none() {
            let asks = fields.method.is_some() || fields.path.is_some();
            let answers = fields.status.is_some();
            *self.asks = match (asks, answers) {
                (true, _) => Some(self.direction),
                (_, true) => Some(self.direction.other()),
                _ => None,
            };
        }
        match self.role() {
            Some(Role::Request) => self.streams.request(head, fields, bytes, self.at_ns, cx, out),
            Some(Role::Response) => self.streams.response(head, fields, bytes, self.at_ns, cx, out),
            None => {}
        }
    }
}
