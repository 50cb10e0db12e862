//! A message of DNS: its header and its first question.
//!
//! Libraries read a message whole, and refuse one that was cut; the answers, where all the difficulty is, are not
//! wanted here.

use super::{bytes::Bytes, names};

const HEADER: usize = 12;
/// Longest name with dots between its labels; 255 bytes on the wire.
const NAME_MAX: usize = 253;
/// What "query" is among the kinds of messages; update and notify travel between servers.
const QUERY: u16 = 0;
const NOTIFY: u16 = 4;
const UPDATE: u16 = 5;

/// What a message asks for, or answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// The first question's name; none in announcements of mDNS.
    pub(super) name: Option<String>,
}

/// Reads one message. On a port that is not DNS's (`usual` is false) only what cannot be chance is one.
pub(super) fn read(bytes: &[u8], usual: bool) -> Option<Message> {
    let mut left = Bytes(bytes);
    let (_id, flags) = (left.u16()?, left.u16()?);
    let (questions, answers) = (left.u16()?, left.u16()?);
    let (authorities, additional) = (left.u16()?, left.u16()?);
    let response = flags & 0x8000 != 0;
    let operation = (flags >> 11) & 0xf;
    let code = flags & 0xf;
    // A bit that must be zero, errors where nobody answered, and more records than fit.
    let sane = flags & 0x40 == 0 && (response || code == 0) && code <= 10;
    let records = u32::from(questions) * 5 + (u32::from(answers) + u32::from(authorities)) * 11;
    if !sane || !fits(records, bytes) {
        return None;
    }
    if usual {
        if !matches!(operation, QUERY | NOTIFY | UPDATE) || questions > 64 || additional > 256 {
            return None;
        }
        if questions == 0 {
            return (response && answers > 0).then_some(Message { name: None });
        }
    } else {
        let quiet = response || (answers == 0 && authorities == 0);
        if operation != QUERY || questions != 1 || !quiet || additional > 16 {
            return None;
        }
    }
    let name = name(&mut left)?;
    let (kind, class) = (left.u16()?, left.u16()?);
    // The top bit is mDNS's wish for an answer to itself alone.
    let known_class = matches!(class & 0x7fff, 1 | 3 | 4 | 255);
    // Nobody asks for more than the registered kinds; 65280 and above are private.
    let known_kind = (1..=260).contains(&kind) || kind == 32768 || kind == 32769;
    (known_class && known_kind).then_some(Message { name: Some(name) })
}

/// Reads a message with its length in front, as TCP carries it. `None` also where a whole header is missing.
pub(super) fn read_sized(bytes: &[u8], usual: bool) -> Option<Message> {
    let mut left = Bytes(bytes);
    let len = usize::from(left.u16()?);
    let message = left.take_up_to(len);
    // Queries may follow each other; then another length stands there, never a cut one.
    (len > HEADER).then(|| read(message, usual))?
}

/// A datagram may have been cut, but no server answers with more than what fits into 64 KiB.
fn fits(record_bytes: u32, bytes: &[u8]) -> bool {
    let room = if bytes.len() < 512 { bytes.len() } else { usize::from(u16::MAX) };
    usize::try_from(record_bytes).is_ok_and(|needed| needed <= room)
}

/// A question's name. The first is never compressed: there is nothing before it to point to.
fn name(left: &mut Bytes<'_>) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let len = left.u8()?;
        if len == 0 {
            break;
        }
        if len > 63 || text.len() + usize::from(len) + 1 > NAME_MAX {
            return None;
        }
        if !text.is_empty() {
            text.push(b'.');
        }
        // A dot inside of a label would pass for the border of two.
        text.extend(left.take(len.into())?.iter().map(|b| if *b == b'.' { 0xff } else { *b }));
    }
    names::host(if text.is_empty() { b"." } else { &text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(flags: u16, counts: [u16; 4], name: &[u8], kind: u16, class: u16) -> Vec<u8> {
        let mut out = vec![0x12, 0x34];
        out.extend(flags.to_be_bytes());
        out.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        out.extend(name);
        out.extend(kind.to_be_bytes());
        out.extend(class.to_be_bytes());
        out
    }

    fn asked(bytes: &[u8]) -> Option<String> {
        read(bytes, false)?.name
    }

    #[test]
    fn names_are_harmless() {
        for (name, shown) in [
            (&b"\x03www\x07Example\x03COM\0"[..], "www.example.com"),
            (b"\0", "."),
            (b"\x05_http\x04_tcp\x05local\0", "_http._tcp.local"),
            (b"\x03a.b\x03com\0", "a\u{fffd}b.com"),
            (b"\x04a\x1b[2\x03com\0", "a\u{fffd}[2.com"),
        ] {
            assert_eq!(asked(&query(0x0100, [1, 0, 0, 1], name, 1, 1)).as_deref(), Some(shown));
        }
        let label = |len: u8| [vec![len], vec![b'a'; len.into()]].concat();
        let longest = [label(63), label(63), label(63), label(61), vec![0]].concat();
        assert_eq!(asked(&query(0, [1, 0, 0, 0], &longest, 1, 1)).unwrap().len(), 253);
        let too_long = [label(63), label(63), label(63), label(62), vec![0]].concat();
        assert_eq!(asked(&query(0, [1, 0, 0, 0], &too_long, 1, 1)), None);
        assert_eq!(asked(&query(0, [1, 0, 0, 0], b"\xc0\x0c", 1, 1)), None, "a pointer to itself");
    }

    #[test]
    fn headers_that_make_no_sense() {
        let name = b"\x01a\0";
        let good = query(0x0100, [1, 0, 0, 0], name, 28, 1);
        assert!(asked(&good).is_some());
        for bad in [
            query(0x0140, [1, 0, 0, 0], name, 1, 1),
            query(0x0103, [1, 0, 0, 0], name, 1, 1),
            query(0x0100, [1, 1, 0, 0], name, 1, 1),
            query(0x8180, [1, 500, 0, 0], name, 1, 1),
            query(0x0100, [2, 0, 0, 0], name, 1, 1),
            query(0x1000, [1, 0, 0, 0], name, 1, 1),
            query(0x0100, [1, 0, 0, 0], name, 0, 1),
            query(0x0100, [1, 0, 0, 0], name, 1, 2),
            good[..good.len() - 1].to_vec(),
            vec![0; 100],
        ] {
            assert_eq!(read(&bad, false), None, "{bad:x?}");
        }
    }

    #[test]
    fn mdns_announces_without_a_question() {
        let mut announcement = query(0x8400, [0, 1, 0, 0], b"\x01a\x05local\0", 1, 0x8001);
        announcement.extend([0, 0, 0, 120, 0, 4, 127, 0, 0, 1]);
        assert_eq!(read(&announcement, true), Some(Message { name: None }));
        assert_eq!(read(&announcement, false), None, "elsewhere that is too little to tell by");
        let own = query(0, [1, 0, 0, 0], b"\x01a\x05local\0", 1, 0x8001);
        assert_eq!(read(&own, true).and_then(|it| it.name).as_deref(), Some("a.local"));
    }

    #[test]
    fn over_tcp_the_length_stands_in_front() {
        let message = query(0x0100, [1, 0, 0, 0], b"\x01a\0", 1, 1);
        let mut sized = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
        sized.extend(&message);
        assert_eq!(read_sized(&sized, false).and_then(|it| it.name).as_deref(), Some("a"));
        assert_eq!(read_sized(&sized[..12], false), None);
        assert_eq!(read_sized(&message, false), None);
    }
}
