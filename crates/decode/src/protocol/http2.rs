//! HTTP/2 in clear text: the preface, and the walk from frame to frame to the header fields.

use std::borrow::Cow;

use super::{
    KEPT_MAX,
    bytes::Bytes,
    hpack::{self, Fields},
    join::{Joined, join},
};

/// What a client sends first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest payload before the other side allowed more; nobody is seen to allow it in clear text.
const FRAME_MAX: usize = 1 << 14;
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const HAS_PRIORITY: u8 = 0x20;

/// What stands at the front of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Front {
    /// No HTTP/2.
    No,
    /// May become it when more is seen.
    Maybe,
    /// A connection from its beginning.
    Beginning,
    /// Frames of a connection that began earlier.
    Frames,
}

/// A frame's header.
#[derive(Clone, Copy, Debug)]
struct Frame {
    len: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frame {
    fn read(left: &mut Bytes<'_>) -> Option<Self> {
        let mut header = Bytes(left.take(HEADER)?);
        let (len, kind, flags) = (header.u24()?, header.u8()?, header.u8()?);
        Some(Self { len, kind, flags, stream: header.u32()? })
    }

    /// Its parts fit each other. Types that were added later are taken for one only where a frame must stand.
    fn sane(self, in_step: bool) -> bool {
        let Self { len, kind, flags, stream } = self;
        let of_stream = stream != 0 && stream < 1 << 31;
        let only = |known: u8| flags & !known == 0;
        match kind {
            DATA => of_stream && only(0x9) && len <= FRAME_MAX,
            HEADERS => of_stream && only(0x2d) && (1..=FRAME_MAX).contains(&len),
            PRIORITY => of_stream && only(0) && len == 5,
            RST_STREAM => of_stream && only(0) && len == 4,
            SETTINGS if flags == ACK => stream == 0 && len == 0,
            SETTINGS => stream == 0 && flags == 0 && len % 6 == 0 && len <= 6 * 64,
            PUSH_PROMISE => of_stream && only(0xc) && (4..=FRAME_MAX).contains(&len),
            PING => stream == 0 && only(ACK) && len == 8,
            GOAWAY => stream == 0 && only(0) && (8..=FRAME_MAX).contains(&len),
            WINDOW_UPDATE => stream < 1 << 31 && only(0) && len == 4,
            CONTINUATION => of_stream && only(END_HEADERS) && len <= FRAME_MAX,
            _ => in_step && len <= FRAME_MAX,
        }
    }

    /// So much of its header is fixed that it is no chance hit.
    fn telling(self) -> bool {
        matches!(self.kind, RST_STREAM | PRIORITY | SETTINGS | PING | WINDOW_UPDATE) && self.stream < 1 << 24
    }
}

/// Reads the front of `bytes`; `on_the_wire` is how many there were before any were cut off.
pub(crate) fn front(bytes: &[u8], on_the_wire: usize) -> Front {
    if bytes.starts_with(PREFACE) {
        return Front::Beginning;
    }
    if PREFACE.starts_with(bytes) {
        return Front::Maybe;
    }
    if bytes.len() < HEADER {
        // Of a server's first frame, which has the type 4 and no flag and no stream.
        let begun =
            bytes.iter().zip([0, 0, 0xff, SETTINGS, 0, 0, 0, 0]).all(|(b, of)| of == 0xff || *b == of);
        return if begun { Front::Maybe } else { Front::No };
    }
    let mut left = Bytes(bytes);
    let (mut count, mut telling, mut missing) = (0_u32, 0_u32, 0_usize);
    let mut first = None;
    while missing == 0 && !left.0.is_empty() {
        let Some(frame) = Frame::read(&mut left) else {
            // Cut within a header.
            break;
        };
        let payload = left.take_up_to(frame.len);
        if !frame.sane(false) || !plausible(frame, payload) {
            return Front::No;
        }
        first.get_or_insert(frame);
        missing = frame.len - payload.len();
        count += 1;
        telling += u32::from(frame.telling());
    }
    let cut = on_the_wire.saturating_sub(bytes.len());
    let no_stranger = left.0.is_empty();
    let ends_with_packet = missing == cut && no_stranger;
    let begins = first.is_some_and(|first| first.kind == SETTINGS && first.flags == 0);
    if begins && (count > 1 || (no_stranger && missing <= cut)) {
        Front::Beginning
    } else if begins {
        Front::Maybe
    } else if (ends_with_packet && (telling > 0 || count > 1)) || telling > 1 {
        Front::Frames
    } else {
        Front::No
    }
}

/// What can be told of the payloads that have a form.
fn plausible(frame: Frame, payload: &[u8]) -> bool {
    match frame.kind {
        // Identifiers are small numbers, for experiments (gRPC has one), or made up (RFC 8701). This is what tells the beginning of a server's
        // answer from a length of four bytes with zeros behind, which other protocols begin with.
        SETTINGS => payload.chunks_exact(6).all(|setting| match setting {
            [high, low, ..] => {
                (*high == 0 && (1..=16).contains(low)) || *high >= 0xf0 || (high == low && high & 0xf == 0xa)
            }
            _ => false,
        }),
        WINDOW_UPDATE => payload.iter().any(|b| *b != 0) || payload.len() < frame.len,
        _ => true,
    }
}

/// One direction of a connection, read from frame to frame.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// The beginning of what needs more to be read: a cut header, or header fields.
    kept: Vec<u8>,
    /// Bytes of a frame's payload that are still to come.
    skip: usize,
    /// Where frames begin is not known: bytes were missed.
    astray: bool,
}

impl Walk {
    /// Reads what follows; `cut` bytes behind it were not captured.
    pub(crate) fn feed(&mut self, bytes: &[u8], cut: usize, last: bool, mut found: impl FnMut(Fields)) {
        let mut new = Bytes(bytes);
        self.skip -= new.take_up_to(self.skip).len();
        let joined = match join(&mut self.kept, new.0) {
            Joined::Again => return,
            Joined::Bytes(joined) => joined,
        };
        let full = joined.len() >= KEPT_MAX;
        let last = last || full || cut > 0;
        let rest = self.frames(&joined, last, &mut found);
        if full {
            // Too long to be kept: where the next frame begins is lost.
            (self.astray, self.skip) = (true, 0);
        } else if last {
            // Where a hole ends within a payload whose length is known, the way goes on behind it.
            self.astray |= !rest.is_empty() || self.skip < cut;
            self.skip = self.skip.saturating_sub(cut);
        } else {
            self.kept = rest.to_vec();
        }
    }

    /// Walks over whole frames, and tells what is left behind them.
    fn frames<'a>(&mut self, bytes: &'a [u8], last: bool, found: &mut impl FnMut(Fields)) -> &'a [u8] {
        let mut left = Bytes(bytes.strip_prefix(PREFACE).unwrap_or(bytes));
        if left.0.len() == bytes.len() && PREFACE.starts_with(bytes) {
            return bytes;
        }
        loop {
            let here = left;
            let Some(frame) = Frame::read(&mut left) else { return here.0 };
            if !frame.sane(!self.astray) {
                self.astray = true;
                return &[];
            }
            if frame.kind == HEADERS {
                let (block, whole) = block(frame, &mut left);
                if whole || last {
                    found(hpack::read(&block));
                }
                if whole {
                    continue;
                }
                self.skip =
                    if last { frame.len.saturating_sub(here.0.len().saturating_sub(HEADER)) } else { 0 };
                return if last { &[] } else { here.0 };
            }
            let had = left.take_up_to(frame.len).len();
            if had < frame.len {
                self.skip = frame.len - had;
                return &[];
            }
        }
    }
}

/// The header fields of a frame and of its continuations, and whether that is all of them.
fn block<'a>(headers: Frame, left: &mut Bytes<'a>) -> (Cow<'a, [u8]>, bool) {
    let payload = left.take_up_to(headers.len);
    let mut whole = payload.len() == headers.len;
    let mut block = Cow::Borrowed(fragment(headers, payload));
    let mut frame = headers;
    while whole && frame.flags & END_HEADERS == 0 {
        let next = Frame::read(left).filter(|it| it.kind == CONTINUATION && it.stream == headers.stream);
        let Some(next) = next else {
            whole = false;
            break;
        };
        let payload = left.take_up_to(next.len);
        whole = payload.len() == next.len;
        block.to_mut().extend_from_slice(payload);
        frame = next;
    }
    (block, whole)
}

/// The payload of a `HEADERS` frame without padding and priority.
fn fragment(frame: Frame, payload: &[u8]) -> &[u8] {
    let mut left = Bytes(payload);
    let padding = if frame.flags & PADDED == 0 { 0 } else { usize::from(left.u8().unwrap_or(0)) };
    if frame.flags & HAS_PRIORITY != 0 && left.take(5).is_none() {
        return &[];
    }
    if payload.len() < frame.len {
        return left.0;
    }
    // More padding than there is makes the frame invalid.
    left.0.len().checked_sub(padding).and_then(|len| left.0.get(..len)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        out.extend([kind, flags]);
        out.extend(stream.to_be_bytes());
        out.extend(payload);
        out
    }

    /// `:path: /a`, in three bytes and a name's index.
    const PATH: &[u8] = b"\x44\x02/a";

    fn paths(samples: &[(&[u8], usize)]) -> Vec<Vec<u8>> {
        let mut walk = Walk::default();
        let mut paths = Vec::new();
        for (bytes, cut) in samples {
            walk.feed(bytes, *cut, false, |fields| paths.extend(fields.path));
        }
        paths
    }

    #[test]
    fn padding_priority_and_continuations_are_seen_through() {
        let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
        let plain = frame(HEADERS, END_HEADERS, 1, PATH);
        let padded = frame(HEADERS, END_HEADERS | PADDED, 1, &[&[3][..], PATH, &[0; 3]].concat());
        let dear = frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, &[&[0, 0, 0, 0, 9][..], PATH].concat());
        let split = [
            frame(HEADERS, 0, 1, &PATH[..1]),
            frame(CONTINUATION, 0, 1, &PATH[1..3]),
            frame(CONTINUATION, END_HEADERS, 1, &PATH[3..]),
        ]
        .concat();
        for headers in [plain, padded, dear, split] {
            let stream = [PREFACE, &settings, &frame(0x0c, 0, 0, b"later type"), &headers].concat();
            for at in 0..=stream.len() {
                let (a, b) = stream.split_at(at);
                assert_eq!(paths(&[(a, 0), (b, 0)]), [b"/a"], "split at {at}");
            }
        }
        let too_padded = frame(HEADERS, END_HEADERS | PADDED, 1, &[&[9][..], PATH].concat());
        assert!(paths(&[(&too_padded, 0)]).is_empty());
    }

    #[test]
    fn payloads_and_holes_are_passed_over() {
        let data = frame(DATA, 0, 1, &[0; 5000]);
        let headers = frame(HEADERS, END_HEADERS, 3, PATH);
        assert_eq!(paths(&[(&data[..1000], 0), (&data[1000..], 0), (&headers, 0)]), [b"/a"]);
        // The same with 4,009 bytes that were not captured, and with a hole up to the middle of a later frame.
        assert_eq!(paths(&[(&data[..1000], 4009), (&headers, 0)]), [b"/a"]);
        assert_eq!(
            paths(&[(&data[..1000], 4020), (&headers, 0)]),
            [b"/a"],
            "a packet often begins with a frame"
        );
        assert!(paths(&[(&data[..1000], 0), (&headers, 0)]).is_empty(), "that is data");
        // Fields that end in the hole.
        let two = [&[0x44, 2][..], b"/a", &[0x41, 9], b"authority"].concat();
        assert_eq!(paths(&[(&frame(HEADERS, END_HEADERS, 1, &two)[..20], 4)]), [b"/a"]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut walk = Walk::default();
        let mut headers = frame(HEADERS, 0, 1, &[0x82; 16_000]);
        headers.truncate(1400);
        walk.feed(&headers, 0, false, |_| {});
        for _ in 0..100 {
            walk.feed(&[0x82; 1401], 0, false, |_| {});
            walk.feed(&[0x83; 1402], 0, false, |_| {});
            assert!(walk.kept.len() <= KEPT_MAX, "{}", walk.kept.len());
        }
    }

    #[test]
    fn a_length_with_zeros_is_not_the_beginning() {
        // A broker's answer of 1,540 bytes to its first request.
        let mut other = vec![0, 0, 6, 4];
        other.resize(1544, 0);
        assert_eq!(front(&other, other.len()), Front::No);
        assert_eq!(front(&[0; 100], 100), Front::No);
        let server = [frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]), frame(SETTINGS, ACK, 0, b"")].concat();
        assert_eq!(front(&server, server.len()), Front::Beginning);
        assert_eq!(front(&server[..15], 15), Front::Beginning);
        assert_eq!(front(&server[..12], 24), Front::Beginning, "cut");
        assert_eq!(front(&server[..12], 12), Front::Maybe, "the rest comes");
    }

    #[test]
    fn frames_of_an_older_connection() {
        let ping = frame(PING, 0, 0, &[7; 8]);
        assert_eq!(front(&ping, ping.len()), Front::Frames);
        let answer = [frame(HEADERS, END_HEADERS, 5, PATH), frame(DATA, 1, 5, b"body")].concat();
        assert_eq!(front(&answer, answer.len()), Front::Frames);
        assert_eq!(front(&answer, answer.len() + 1), Front::No, "does not end with the packet");
        assert_eq!(front(&frame(DATA, 1, 5, b"body"), 13), Front::No, "one of these may be chance");
    }
}
