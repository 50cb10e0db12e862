//! What one segment of a path looks like, told from its bytes alone.

/// The class of a segment. Everything but [`Shape::Word`] and [`Shape::Empty`] is a value at first sight.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    /// Anything that may be either a part of the API or a value: only its use tells.
    Word,
    /// Nothing between two slashes, or after the last.
    Empty,
    /// Digits, lists of digits, or a name that ends in four or more digits.
    Number,
    /// `8-4-4-4-12` hexadecimal digits.
    Uuid,
    /// Eight or more hexadecimal digits, `sha256:…`.
    Hash,
    /// `2026-01-31`, with or without a time.
    Date,
    /// Long mixtures of letters and digits, over-long segments, bytes that are no text.
    Token,
    /// `a@b.c`.
    Email,
    /// Four small numbers with dots.
    Ip,
    /// `main...topic`.
    Range,
}

impl Shape {
    /// How a group's name shows the class.
    pub(super) fn placeholder(self) -> &'static str {
        match self {
            Self::Word => LEARNED,
            Self::Empty => "",
            Self::Number => "{id}",
            Self::Uuid => "{uuid}",
            Self::Hash => "{hash}",
            Self::Date => "{date}",
            Self::Token => "{token}",
            Self::Email => "{email}",
            Self::Ip => "{ip}",
            Self::Range => "{range}",
        }
    }
}

/// How a group's name shows a position that was learned to hold values.
pub(super) const LEARNED: &str = "{…}";

/// What ends a segment in a path.
const END: u8 = 0;
const DIGIT: u8 = 1;
const HEX: u8 = 2;
const LOWER: u8 = 4;
const UPPER_HEX: u8 = 8;
const UPPER: u8 = 16;
const DASH: u8 = 32;
const OTHER: u8 = 64;
const BAD: u8 = 128;
const LETTER: u8 = HEX | LOWER | UPPER_HEX | UPPER;
/// Longer segments are shown as a token whatever they hold.
const LONG: usize = 80;

const fn class(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => DIGIT,
        b'a'..=b'f' => HEX,
        b'g'..=b'z' => LOWER,
        b'A'..=b'F' => UPPER_HEX,
        b'G'..=b'Z' => UPPER,
        b'-' => DASH,
        b'/' | b'?' | b'#' => END,
        0x21..=0x7e => OTHER,
        _ => BAD,
    }
}

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "256 entries, one for each byte"
)]
const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = class(byte as u8);
        byte += 1;
    }
    table
};

fn class_of(byte: u8) -> u8 {
    CLASS.get(usize::from(byte)).copied().unwrap_or(BAD)
}

/// The first segment of a path, its class, and what comes after it from the sign that ends it.
#[inline]
pub(super) fn segment(path: &[u8]) -> (&[u8], Shape, &[u8]) {
    let (mut seen, mut digits, mut end) = (0, 0_usize, 0);
    for &byte in path {
        let class = class_of(byte);
        if class == END {
            break;
        }
        seen |= class;
        digits += usize::from(class & DIGIT);
        end += 1;
    }
    let (segment, rest) = path.split_at_checked(end).unwrap_or((path, b""));
    (segment, shape_of(segment, seen, digits), rest)
}

/// The class of one segment, or of a part of one.
pub(super) fn shape(segment: &[u8]) -> Shape {
    let (mut seen, mut digits) = (0, 0_usize);
    for &byte in segment {
        let class = class_of(byte);
        seen |= if class == END { OTHER } else { class };
        digits += usize::from(class & DIGIT);
    }
    shape_of(segment, seen, digits)
}

#[inline]
fn shape_of(segment: &[u8], seen: u8, digits: usize) -> Shape {
    if segment.is_empty() {
        Shape::Empty
    } else if segment.len() > LONG {
        Shape::Token
    } else if seen & (DIGIT | BAD | OTHER) == 0 {
        Shape::Word
    } else if seen == DIGIT {
        Shape::Number
    } else {
        mixed(segment, seen, digits)
    }
}

/// Segments with digits and something else, with signs, or with bytes outside ASCII.
fn mixed(segment: &[u8], seen: u8, digits: usize) -> Shape {
    if seen & BAD != 0 {
        let text = std::str::from_utf8(segment);
        return if text.is_ok_and(|t| !t.chars().any(|c| c.is_control() || c == '\u{feff}')) {
            Shape::Word
        } else {
            Shape::Token
        };
    }
    if seen & OTHER != 0
        && let Some(at) = memchr::memchr(b'@', segment)
        && at > 0
        && segment.get(at..).is_some_and(|domain| domain.len() > 3 && domain.contains(&b'.'))
    {
        return Shape::Email;
    }
    if seen & OTHER != 0
        && let Some(at) = memchr::memmem::find(segment, b"..")
        && at > 0
        && segment.last() != Some(&b'.')
    {
        return Shape::Range;
    }
    if digits == 0 {
        return Shape::Word;
    }
    if date(segment) {
        return Shape::Date;
    }
    if seen & LETTER == 0 {
        return numeric(segment, digits);
    }
    let one_case = seen & UPPER_HEX == 0 || seen & HEX == 0;
    let hex = seen & (LOWER | UPPER | OTHER) == 0;
    if hex && segment.len() == 36 && [8, 13, 18, 23].iter().all(|&at| segment.get(at) == Some(&b'-')) {
        return Shape::Uuid;
    }
    if hex && one_case && seen & DASH == 0 && (segment.len() >= 16 || segment.len() >= 8 && digits >= 2) {
        return Shape::Hash;
    }
    if let Some(at) = memchr::memchr(b':', segment)
        && segment.get(at + 1..).is_some_and(|s| s.len() >= 32 && s.iter().all(u8::is_ascii_hexdigit))
    {
        return Shape::Hash;
    }
    let tail = segment.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    if tail >= 4 && tail == digits && !segment.contains(&b'(') {
        return Shape::Number;
    }
    if token(segment, seen) { Shape::Token } else { Shape::Word }
}

/// Digits with signs between: lists and ranges are numbers, addresses are addresses, `2.0` is a version.
fn numeric(segment: &[u8], digits: usize) -> Shape {
    let dots = segment.iter().filter(|&&b| b == b'.').count();
    if dots == 3 && segment.len() <= 15 && digits + dots == segment.len() {
        return Shape::Ip;
    }
    let list = segment.iter().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'_' | b',' | b';' | b'+'));
    if list { Shape::Number } else { Shape::Word }
}

fn date(segment: &[u8]) -> bool {
    let Some((day, rest)) = segment.split_at_checked(10) else {
        return false;
    };
    let form =
        day.iter().enumerate().all(|(i, b)| if i == 4 || i == 7 { *b == b'-' } else { b.is_ascii_digit() });
    form && matches!(rest.first(), None | Some(b'T' | b't' | b' ' | b'+'))
}

/// A run of letters and digits no person would write: the changes between the two give it away.
fn token(segment: &[u8], seen: u8) -> bool {
    if segment.len() < 12 {
        return false;
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'=' | b'+' | b'~' | b'%');
    if !segment.iter().all(plain) {
        return segment.len() > 40 && segment.starts_with(b"eyJ");
    }
    let (mut turns, mut cases, mut before) = (0, 0, 0_u8);
    for &byte in segment {
        let now = class_of(byte);
        let both = now | before;
        if both & DIGIT != 0 && both & LETTER != 0 {
            turns += 1;
        }
        if both & (HEX | LOWER) != 0 && both & (UPPER_HEX | UPPER) != 0 {
            cases += 1;
        }
        before = now;
    }
    let both_cases = seen & (HEX | LOWER) != 0 && seen & (UPPER_HEX | UPPER) != 0;
    turns >= 4 || both_cases && segment.len() >= 14 && turns >= 1 && turns + cases >= 5
}

/// Where a last segment's suffix starts: a file's ending (`logo.png`) or a verb (`operations:cancel`).
pub(super) fn suffix(segment: &[u8]) -> Option<usize> {
    let mut at = segment.len();
    while at > 1 && segment.len() - at < 24 {
        at -= 1;
        let byte = segment.get(at)?;
        if byte.is_ascii_alphanumeric() {
            continue;
        }
        let tail = segment.get(at + 1..)?;
        let lead = segment.get(at - 1)?;
        if !lead.is_ascii_alphanumeric() || !tail.first().is_some_and(u8::is_ascii_alphabetic) {
            return None;
        }
        return match byte {
            b'.' if (2..=5).contains(&tail.len()) && !tail.iter().any(u8::is_ascii_uppercase) => Some(at),
            b':' if tail.len() >= 3 && tail.iter().all(u8::is_ascii_alphabetic) => Some(at),
            _ => None,
        };
    }
    None
}

/// `Orders(17)`, `Users(name='x',day=2026-01-31)`: the arguments of a call in the path, as OData has them, are values;
/// their names stay. `None` if the segment is no such call.
pub(super) fn call(segment: &[u8]) -> Option<Vec<u8>> {
    if segment.last() != Some(&b')') {
        return None;
    }
    let open = memchr::memchr(b'(', segment)?;
    let (head, rest) = segment.split_at_checked(open + 1)?;
    let close = memchr::memrchr(b')', rest)?;
    let (arguments, tail) = rest.split_at_checked(close)?;
    if open == 0 || arguments.is_empty() || segment.len() > LONG {
        return None;
    }
    let mut out = head.to_vec();
    for (i, argument) in arguments.split(|&b| b == b',').take(8).enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let mut value = argument;
        if let Some(at) = memchr::memchr(b'=', argument)
            && let Some((name, rest)) = argument.split_at_checked(at + 1)
        {
            out.extend_from_slice(name);
            value = rest;
        }
        let quoted = value.len() > 1 && value.starts_with(b"'") && value.ends_with(b"'");
        let inner = if quoted { value.get(1..value.len() - 1).unwrap_or(value) } else { value };
        let quote: &[u8] = if quoted { b"'" } else { b"" };
        out.extend_from_slice(quote);
        let class = shape(inner);
        out.extend_from_slice(if class == Shape::Empty { LEARNED } else { class.placeholder() }.as_bytes());
        out.extend_from_slice(quote);
    }
    out.extend_from_slice(tail);
    Some(out)
}
