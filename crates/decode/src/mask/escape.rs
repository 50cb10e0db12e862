//! Finding a character whether it stands raw or percent-escaped, once or several times.

/// Where a character stands: a single byte, or its escape.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A byte of the text after decoding, with the bytes it was written with.
struct Unit {
    value: u8,
    hit: Hit,
}

/// Walks over a text, an escape being one unit; each byte is visited once.
fn units(text: &[u8]) -> impl Iterator<Item = Unit> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = text.get(at..)?;
        let &first = rest.first()?;
        let (value, len) = if first == b'%' { escape_at(rest).unwrap_or((first, 1)) } else { (first, 1) };
        let start = at;
        at = at.saturating_add(len);
        Some(Unit { value, hit: Hit { start, end: at } })
    })
}

/// The value and length of the escape at the front: `%3F`, `%253F`, `%25253F`, …, and IIS's `%u003F`.
fn escape_at(text: &[u8]) -> Option<(u8, usize)> {
    if let [b'%', b'u' | b'U', a, b, c, d, ..] = text {
        let high = (hex(*a)? << 4) | hex(*b)?;
        let low = (hex(*c)? << 4) | hex(*d)?;
        // Beyond ASCII nothing is looked for; any byte that is no separator will do.
        return Some((if high == 0 { low } else { 0xff }, 6));
    }
    let mut at = 1;
    // `%25` followed by two more digits is an escaped escape.
    while let Some([b'2', b'5', a, b, ..]) = text.get(at..)
        && hex(*a).is_some()
        && hex(*b).is_some()
    {
        at += 2;
    }
    match text.get(at..) {
        Some([a, b, ..]) => Some(((hex(*a)? << 4) | hex(*b)?, at + 2)),
        _ => None,
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The first of `wanted`, raw or escaped.
pub(super) fn find(text: &[u8], wanted: &[u8]) -> Option<Hit> {
    units(text).find(|unit| wanted.contains(&unit.value)).map(|unit| unit.hit)
}

/// The last of `wanted`, raw or escaped.
pub(super) fn find_last(text: &[u8], wanted: &[u8]) -> Option<Hit> {
    units(text).filter(|unit| wanted.contains(&unit.value)).last().map(|unit| unit.hit)
}

/// The first of `wanted` that is escaped.
pub(super) fn find_escaped(text: &[u8], wanted: &[u8]) -> Option<Hit> {
    memchr::memchr(b'%', text)?;
    let escaped = |unit: &Unit| unit.hit.end - unit.hit.start > 1 && wanted.contains(&unit.value);
    units(text).find(escaped).map(|unit| unit.hit)
}

/// The first place where `wanted` stands twice in a row.
pub(super) fn find_double(text: &[u8], wanted: u8) -> Option<Hit> {
    let mut before: Option<Hit> = None;
    for unit in units(text) {
        if unit.value != wanted {
            before = None;
        } else if let Some(first) = before {
            return Some(Hit { start: first.start, end: unit.hit.end });
        } else {
            before = Some(unit.hit);
        }
    }
    None
}

/// The text with all escapes taken away.
pub(super) fn decode(text: &[u8]) -> Vec<u8> {
    units(text).map(|unit| unit.value).collect()
}
