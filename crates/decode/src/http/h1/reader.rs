//! One direction of HTTP/1 cut into messages: where a head is, and how far its body goes.

use memchr::memchr;

use super::super::decoder::Context;

/// Longest head that is put together; what is longer is read as far as it was kept, and its body's end is lost.
pub(super) const HEAD_MAX: usize = 16 << 10;
/// Longest line of a chunk's size, and most bytes of trailers.
const LINE_MAX: u32 = 16 << 10;

/// What stands in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looks {
    /// A first line, whole and right.
    Sure,
    /// May become one.
    Maybe,
    No,
}

/// A head read from its bytes.
pub(super) enum Parsed<H> {
    /// The head, and how long it is.
    Whole(H, usize),
    /// More is needed.
    More,
    /// It is none.
    Bad,
}

/// The head of a request or of a response.
pub(super) trait Head: Sized {
    fn looks(bytes: &[u8]) -> Looks;
    /// The same in a search, where only the well-known counts: the end of a head that was cut must not pass for one.
    fn begins(bytes: &[u8]) -> Looks {
        Self::looks(bytes)
    }
    fn parse(bytes: &[u8], cx: &mut Context<'_>) -> Parsed<Self>;
    /// From the beginning of a head whose end was not seen.
    fn cut(bytes: &[u8], cx: &mut Context<'_>) -> Option<Self>;
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
    /// It is not known.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between messages, or within a head.
    Head,
    Length(u64),
    /// Within a chunk; its CRLF is counted in.
    Chunk(u64),
    /// Within the line of a chunk's size.
    Size {
        size: u64,
        digits: u8,
        done: bool,
        line: u32,
    },
    /// Within the lines behind the last chunk.
    Trailers {
        blank: bool,
        all: u32,
    },
    UntilClose,
    /// Where messages begin is not known.
    Lost,
}

const SIZE: State = State::Size { size: 0, digits: 0, done: false, line: 0 };

/// What was found.
pub(super) enum Step<H> {
    /// A head; [`Reader::body`] is to be told of its body.
    Head(H),
    /// The end of a message that has a body.
    End,
    /// Bytes that belong to no message known.
    Skipped,
    /// No head where one had to be.
    Bad,
    /// Nothing more in these bytes.
    Dry,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Reader {
    state: State,
    kept: Vec<u8>,
    line_seen: bool,
    /// The head that is kept was begun in a search.
    unsure: bool,
    /// The body may be missing: a head that stands where it would go on counts.
    peek: bool,
    /// Bytes of the stream gone by.
    pub(super) taken: u64,
    /// Where the message in hand began, and when.
    pub(super) start: u64,
    pub(super) began_ns: u64,
}

impl Reader {
    pub(super) fn new(lost: bool) -> Self {
        let state = if lost { State::Lost } else { State::Head };
        Self {
            state,
            kept: Vec::new(),
            line_seen: false,
            unsure: false,
            peek: false,
            taken: 0,
            start: 0,
            began_ns: 0,
        }
    }

    pub(super) fn held(&self) -> usize {
        self.kept.capacity()
    }

    /// Between two messages.
    pub(super) fn at_boundary(&self) -> bool {
        self.state == State::Head && self.kept.is_empty()
    }

    /// A head is being put together.
    pub(super) fn within_head(&self) -> bool {
        self.state == State::Head && !self.kept.is_empty()
    }

    /// A body goes on.
    pub(super) fn in_body(&self) -> bool {
        !matches!(self.state, State::Head | State::Lost)
    }

    pub(super) fn lost(&self) -> bool {
        self.state == State::Lost
    }

    pub(super) fn until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Bytes of the message in hand.
    pub(super) fn message_bytes(&self) -> u64 {
        self.taken.saturating_sub(self.start)
    }

    /// How the message goes on whose head was just read; true if it is over.
    pub(super) fn body(&mut self, framing: Framing, peek: bool) -> bool {
        self.peek = peek;
        self.state = match framing {
            Framing::None | Framing::Length(0) => State::Head,
            Framing::Length(left) => State::Length(left),
            Framing::Chunked => SIZE,
            Framing::UntilClose => State::UntilClose,
            Framing::Lost => State::Lost,
        };
        self.state == State::Head
    }

    /// A head at the beginning of a piece counts although a body goes on.
    pub(super) fn expect_head(&mut self) {
        self.peek = true;
    }

    /// Reads on; `bytes` loses what was read. `call_start`: they begin as a system call's did.
    pub(super) fn step<H: Head>(
        &mut self,
        bytes: &mut &[u8],
        at_ns: u64,
        call_start: bool,
        cx: &mut Context<'_>,
    ) -> Step<H> {
        loop {
            if bytes.is_empty() {
                return Step::Dry;
            }
            match self.state {
                State::Head => return self.head(bytes, at_ns, cx),
                State::Lost => {
                    // Elsewhere than at the beginning of a call, anybody's body may say such things.
                    if !call_start || H::begins(bytes) == Looks::No {
                        self.take(bytes, bytes.len());
                        return Step::Skipped;
                    }
                    (self.state, self.unsure) = (State::Head, true);
                }
                State::Length(left) => {
                    if std::mem::take(&mut self.peek) && H::looks(bytes) == Looks::Sure {
                        self.state = State::Head;
                        return Step::End;
                    }
                    let left = left - self.take_up_to(bytes, left);
                    self.state = State::Length(left);
                    if left == 0 {
                        self.state = State::Head;
                        return Step::End;
                    }
                }
                State::UntilClose => {
                    if self.peek && call_start && H::looks(bytes) == Looks::Sure {
                        (self.state, self.peek) = (State::Head, false);
                        return Step::End;
                    }
                    self.take(bytes, bytes.len());
                }
                State::Chunk(left) => {
                    let left = left - self.take_up_to(bytes, left);
                    self.state = if left == 0 { SIZE } else { State::Chunk(left) };
                }
                State::Size { digits, .. } => {
                    if std::mem::take(&mut self.peek) && digits == 0 && H::looks(bytes) == Looks::Sure {
                        self.state = State::Head;
                        return Step::End;
                    }
                    if !self.size(bytes) {
                        return Step::Bad;
                    }
                }
                State::Trailers { blank, all } => match self.trailer(bytes, blank, all) {
                    Some(true) => return Step::End,
                    Some(false) => {}
                    None => return Step::Bad,
                },
            }
        }
    }

    /// `len` bytes that nobody saw. True if they lay within a body, so that nothing is lost by it.
    pub(super) fn hole(&mut self, len: u64) -> Hole {
        self.taken += len;
        self.peek = false;
        match &mut self.state {
            State::UntilClose => Hole::Harmless,
            State::Length(left) | State::Chunk(left) if len < *left => {
                *left -= len;
                Hole::Harmless
            }
            State::Length(left) if len == *left => {
                self.state = State::Head;
                Hole::End
            }
            State::Chunk(left) if len == *left => {
                self.state = SIZE;
                Hole::Harmless
            }
            State::Head if !self.kept.is_empty() => Hole::WithinHead,
            State::Head
            | State::Length(_)
            | State::Chunk(_)
            | State::Size { .. }
            | State::Trailers { .. }
            | State::Lost => {
                self.lose();
                Hole::Lost
            }
        }
    }

    /// The head in hand as far as it is there; its end will not be seen.
    pub(super) fn cut<H: Head>(&mut self, cx: &mut Context<'_>) -> Option<H> {
        let head = H::cut(&self.kept, cx);
        self.lose();
        head
    }

    /// From here on a message's beginning has to be looked for.
    pub(super) fn lose(&mut self) {
        self.state = State::Lost;
        self.unsure = false;
        self.kept = Vec::new();
    }

    fn head<H: Head>(&mut self, bytes: &mut &[u8], at_ns: u64, cx: &mut Context<'_>) -> Step<H> {
        if self.kept.is_empty() {
            // Empty lines in front of a message are tolerated, as servers do.
            let blank = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            self.take(bytes, blank);
            if bytes.is_empty() {
                return Step::Dry;
            }
            (self.start, self.began_ns, self.line_seen) = (self.taken, at_ns, false);
            match H::parse(bytes, cx) {
                Parsed::Whole(head, len) => {
                    self.unsure = false;
                    self.take(bytes, len);
                    return Step::Head(head);
                }
                Parsed::Bad => return self.bad(bytes),
                Parsed::More => {}
            }
        }
        let before = self.kept.len();
        let room = HEAD_MAX.saturating_sub(before).min(bytes.len());
        let (new, _) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        self.kept.extend_from_slice(new);
        let Some(end) = end_of_head(&self.kept, before.saturating_sub(3)) else {
            self.take(bytes, room);
            // Looked at while it is short, and once more when its first line is there: not for each byte.
            let line_ends =
                !self.line_seen && memchr(b'\n', self.kept.get(before..).unwrap_or_default()).is_some();
            self.line_seen |= line_ends;
            let looks = if self.unsure { H::begins } else { H::looks };
            if (line_ends || self.kept.len() <= 64) && looks(&self.kept) == Looks::No {
                return self.bad(bytes);
            }
            if self.kept.len() < HEAD_MAX {
                return Step::Dry;
            }
            cx.counts().too_long += 1;
            let head = self.cut(cx);
            return head.map_or(Step::Bad, Step::Head);
        };
        self.take(bytes, end.saturating_sub(before));
        self.kept.truncate(end);
        let mut kept = std::mem::take(&mut self.kept);
        let parsed = H::parse(&kept, cx);
        kept.clear();
        // Whoever sends heads in pieces does so again: small room is kept for them.
        if kept.capacity() <= 2048 {
            self.kept = kept;
        }
        match parsed {
            Parsed::Whole(head, _) => {
                self.unsure = false;
                Step::Head(head)
            }
            Parsed::More | Parsed::Bad => self.bad(bytes),
        }
    }

    /// What follows is passed over as well: nobody knows where it belongs.
    fn bad<H>(&mut self, bytes: &mut &[u8]) -> Step<H> {
        self.take(bytes, bytes.len());
        let misled = self.unsure;
        self.lose();
        if misled { Step::Skipped } else { Step::Bad }
    }

    /// Reads on in the line of a chunk's size; false if it is none.
    fn size(&mut self, bytes: &mut &[u8]) -> bool {
        let State::Size { mut size, mut digits, mut done, mut line } = self.state else { return false };
        while let Some((&byte, _)) = bytes.split_first() {
            self.take(bytes, 1);
            line += 1;
            let digit = char::from(byte).to_digit(16);
            match byte {
                b'\n' if digits == 0 => return false,
                b'\n' => {
                    self.state = if size == 0 {
                        State::Trailers { blank: true, all: 0 }
                    } else {
                        State::Chunk(size.saturating_add(2))
                    };
                    return true;
                }
                _ if done => {}
                b';' | b' ' | b'\t' | b'\r' => done = true,
                _ => match digit {
                    Some(digit) if digits < 15 => {
                        size = size << 4 | u64::from(digit);
                        digits += 1;
                    }
                    _ => return false,
                },
            }
            if line > LINE_MAX {
                return false;
            }
        }
        self.state = State::Size { size, digits, done, line };
        true
    }

    /// Reads on in the lines behind the last chunk; true at their end. `blank`: nothing but `\r` of the line so far.
    fn trailer(&mut self, bytes: &mut &[u8], mut blank: bool, mut all: u32) -> Option<bool> {
        while let Some(at) = memchr(b'\n', bytes) {
            let line = bytes.get(..at).unwrap_or_default();
            blank &= line.iter().all(|b| *b == b'\r');
            all = all.saturating_add(u32::try_from(at).unwrap_or(u32::MAX));
            self.take(bytes, at + 1);
            if std::mem::replace(&mut blank, true) {
                self.state = State::Head;
                return Some(true);
            }
        }
        blank &= bytes.iter().all(|b| *b == b'\r');
        all = all.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.take(bytes, bytes.len());
        self.state = State::Trailers { blank, all };
        (all <= LINE_MAX).then_some(false)
    }

    fn take(&mut self, bytes: &mut &[u8], len: usize) {
        let len = len.min(bytes.len());
        *bytes = bytes.get(len..).unwrap_or_default();
        self.taken += len as u64;
    }

    fn take_up_to(&mut self, bytes: &mut &[u8], len: u64) -> u64 {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
        self.take(bytes, len);
        len as u64
    }
}

/// What a hole did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hole {
    /// It lay within a body.
    Harmless,
    /// It took the rest of a body, and no more.
    End,
    /// It cut the head in hand: [`Reader::cut`] tells what is there.
    WithinHead,
    /// Where the next message begins is not known.
    Lost,
}

/// Behind the empty line that ends a head; what stands before `from` was searched already.
fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = memchr(b'\n', bytes.get(at..)?) {
        at += found + 1;
        match bytes.get(at..) {
            Some([b'\n', ..]) => return Some(at + 1),
            Some([b'\r', b'\n', ..]) => return Some(at + 2),
            _ => {}
        }
    }
    None
}
