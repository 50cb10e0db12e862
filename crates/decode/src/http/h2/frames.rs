//! One direction of HTTP/2 cut into frames.

use crate::protocol::{
    bytes::Bytes,
    http2::{self as front, PREFACE},
};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const HAS_PRIORITY: u8 = 0x20;

const HEADER: usize = 9;
/// Longest payload that is kept to be read.
pub(super) const KEPT_MAX: usize = 64 << 10;

/// A frame's header, and when its first byte came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) began_ns: u64,
}

impl Frame {
    fn of(header: [u8; HEADER], began_ns: u64) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = header;
        let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Self { len, kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff, began_ns }
    }

    pub(super) fn ends_stream(self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    pub(super) fn ends_headers(self) -> bool {
        self.flags & END_HEADERS != 0
    }

    /// Bytes on the wire.
    pub(super) fn bytes(self) -> u64 {
        (self.len + HEADER) as u64
    }

    /// A peer that keeps to the standard can have sent it. Types that were added later pass.
    fn valid(self) -> bool {
        let Self { len, kind, stream, .. } = self;
        match kind {
            DATA | HEADERS | PUSH_PROMISE | CONTINUATION => stream != 0,
            PRIORITY => stream != 0 && len == 5,
            RST_STREAM => stream != 0 && len == 4,
            SETTINGS => stream == 0 && len % 6 == 0,
            PING => stream == 0 && len == 8,
            GOAWAY => stream == 0 && len >= 8,
            WINDOW_UPDATE => len == 4,
            _ => true,
        }
    }

    /// Its payload is read.
    fn is_read(self) -> bool {
        let kinds = matches!(self.kind, HEADERS | CONTINUATION | PUSH_PROMISE | GOAWAY | SETTINGS);
        kinds && self.len <= KEPT_MAX
    }

    /// The block of a `HEADERS` or `PUSH_PROMISE` frame without what stands around it; `None`: it is malformed.
    pub(super) fn block(self, payload: &[u8]) -> Option<&[u8]> {
        let mut left = Bytes(payload);
        if self.kind == CONTINUATION {
            return Some(payload);
        }
        let padding = if self.flags & PADDED == 0 { 0 } else { usize::from(left.u8()?) };
        if self.kind == HEADERS && self.flags & HAS_PRIORITY != 0 {
            left.take(5)?;
        }
        if self.kind == PUSH_PROMISE {
            left.take(4)?;
        }
        left.0.get(..left.0.len().checked_sub(padding)?)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of the preface were read.
    Preface(usize),
    /// So many bytes of a header were read.
    Header(usize),
    /// So many bytes of a payload are to come.
    Payload { frame: Frame, left: usize, broken: bool },
    /// Where frames begin is not known.
    Astray,
}

/// What was found.
pub(super) enum Step<'a> {
    /// A frame has ended.
    Frame(Frame, Payload<'a>),
    /// Bytes that belong to no frame known.
    Skipped(usize),
    /// No frame, where one had to be.
    Bad,
    Dry,
}

/// What a frame holds.
pub(super) enum Payload<'a> {
    Here(&'a [u8]),
    /// It came in several pieces; to be given back to [`Frames::release`].
    Kept(Vec<u8>),
    /// It is not read, or was not seen.
    None,
}

impl Payload<'_> {
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Here(bytes) => Some(bytes),
            Self::Kept(bytes) => Some(bytes),
            Self::None => None,
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Frames {
    state: State,
    header: [u8; HEADER],
    began_ns: u64,
    kept: Vec<u8>,
}

impl Frames {
    pub(super) fn new(mid: bool, preface: bool) -> Self {
        let state = match (mid, preface) {
            (true, _) => State::Astray,
            (false, true) => State::Preface(0),
            (false, false) => State::Header(0),
        };
        Self { state, header: [0; HEADER], began_ns: 0, kept: Vec::new() }
    }

    pub(super) fn held(&self) -> usize {
        self.kept.capacity()
    }

    pub(super) fn lose(&mut self) {
        self.state = State::Astray;
        self.kept = Vec::new();
    }

    /// Reads on. `wire_len`: how long the piece was of which `bytes` are the beginning, if they are that.
    pub(super) fn step<'a>(&mut self, bytes: &mut &'a [u8], at_ns: u64, wire_len: Option<usize>) -> Step<'a> {
        loop {
            let Some(&first) = bytes.first() else { return Step::Dry };
            match self.state {
                State::Preface(n) => {
                    if PREFACE.get(n) != Some(&first) {
                        self.lose();
                        return Step::Bad;
                    }
                    *bytes = bytes.get(1..).unwrap_or_default();
                    self.state =
                        if n + 1 == PREFACE.len() { State::Header(0) } else { State::Preface(n + 1) };
                }
                State::Astray => {
                    if !wire_len.is_some_and(|len| at_boundary(bytes, len)) {
                        return Step::Skipped(std::mem::take(bytes).len());
                    }
                    let preface = PREFACE.starts_with(bytes) || bytes.starts_with(PREFACE);
                    self.state = if preface { State::Preface(0) } else { State::Header(0) };
                }
                State::Header(filled) => {
                    if filled == 0 {
                        self.began_ns = at_ns;
                    }
                    let room = self.header.get_mut(filled..).unwrap_or_default();
                    let len = room.len().min(bytes.len());
                    let (new, rest) = bytes.split_at_checked(len).unwrap_or_default();
                    room.iter_mut().zip(new).for_each(|(to, from)| *to = *from);
                    *bytes = rest;
                    if filled + len < HEADER {
                        self.state = State::Header(filled + len);
                        return Step::Dry;
                    }
                    let frame = Frame::of(self.header, self.began_ns);
                    if !frame.valid() {
                        self.lose();
                        return Step::Bad;
                    }
                    if frame.len == 0 {
                        self.state = State::Header(0);
                        return Step::Frame(frame, Payload::Here(&[]));
                    }
                    self.state = State::Payload { frame, left: frame.len, broken: false };
                }
                State::Payload { frame, left, broken } => {
                    let len = left.min(bytes.len());
                    let (new, rest) = bytes.split_at_checked(len).unwrap_or_default();
                    *bytes = rest;
                    let reads = frame.is_read() && !broken;
                    if len < left {
                        if reads {
                            self.kept.extend_from_slice(new);
                        }
                        self.state = State::Payload { frame, left: left - len, broken };
                        return Step::Dry;
                    }
                    self.state = State::Header(0);
                    if !reads {
                        return Step::Frame(frame, Payload::None);
                    }
                    if left == frame.len {
                        return Step::Frame(frame, Payload::Here(new));
                    }
                    self.kept.extend_from_slice(new);
                    return Step::Frame(frame, Payload::Kept(std::mem::take(&mut self.kept)));
                }
            }
        }
    }

    /// After a frame is read.
    pub(super) fn release(&mut self, payload: Payload<'_>) {
        if let Payload::Kept(mut kept) = payload
            && kept.capacity() <= 2048
        {
            kept.clear();
            self.kept = kept;
        }
    }

    /// `len` bytes that nobody saw: the frame that ended in them, and whether the next one's beginning is known.
    pub(super) fn hole(&mut self, len: u64) -> (Option<Frame>, bool) {
        if let State::Payload { frame, left, .. } = self.state {
            let whole = usize::try_from(len).unwrap_or(usize::MAX);
            self.kept.clear();
            if whole < left {
                self.state = State::Payload { frame, left: left - whole, broken: true };
                return (None, true);
            }
            if whole == left {
                self.state = State::Header(0);
                return (Some(frame), true);
            }
            self.lose();
            return (Some(frame), false);
        }
        self.lose();
        (None, false)
    }
}

/// A piece begins with a frame.
pub(in crate::http) fn at_boundary(bytes: &[u8], wire_len: usize) -> bool {
    match front::front(bytes, wire_len) {
        front::Front::Beginning | front::Front::Frames => true,
        front::Front::No | front::Front::Maybe => {
            // One frame of this kind that is exactly as long as the piece is no chance either.
            let header = bytes.first_chunk::<HEADER>();
            header.is_some_and(|header| {
                let frame = Frame::of(*header, 0);
                let fits = frame.bytes() == wire_len as u64 && frame.valid() && frame.len > 0;
                let known_flags = frame.flags & !(END_STREAM | END_HEADERS | PADDED | HAS_PRIORITY) == 0;
                fits && matches!(frame.kind, HEADERS | DATA) && known_flags
            })
        }
    }
}
