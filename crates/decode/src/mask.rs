//! Masking: what may be a secret leaves the process only as `***`.
//!
//! Everything that is logged, labelled or exported and comes from a request passes here. Masked by default:
//!
//! * every query value (`?a=1&token=x` → `?a=***&token=***`), a query pair without `=` wholly, fragments;
//! * user and password in URLs, at the front and inside paths (`http://u:p@host/` → `http://***@host/`);
//! * values of path parameters (`;jsessionid=…`), and all that follows `token=` and its kind in a path;
//! * in any place: JWTs, AWS key ids, tokens with a vendor's prefix, what follows `bearer`, and runs of 32
//!   or more characters that look random (UUIDs are names, not secrets, and stay).
//!
//! Percent-escapes, also doubled ones (`%253F`), count as the character they stand for. Where it is not
//! clear what a receiver would take for key and value, more is masked, never less.
//!
//! Input is any bytes. Output is valid UTF-8 (U+FFFD for what is not); control characters stay, as
//! escaping belongs to the writer. Work is linear in the input; only the configured patterns may cost more.

mod escape;
#[cfg(test)]
mod tests;
mod token;

use std::borrow::Cow;
use std::net::IpAddr;

use memchr::{memchr, memchr2, memrchr};
use regex::{Regex, RegexBuilder};

/// What stands for a masked part.
pub const MASK: &str = "***";
/// Most patterns of the configuration.
pub const MAX_PATTERNS: usize = 64;
/// Longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// What one compiled pattern may take, in bytes.
const MAX_COMPILED_BYTES: usize = 1 << 20;
/// Longest query key that is shown.
const MAX_KEY_BYTES: usize = 64;

/// What is masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskSettings {
    /// Off: everything passes unchanged, but for invalid UTF-8.
    pub enabled: bool,
    /// Mask all query values; off: only those which look like secrets or have a telling key.
    pub query_values: bool,
    /// Further regular expressions; each match is masked.
    pub patterns: Vec<String>,
    /// Mask the user agent wholly.
    pub user_agent: bool,
    /// Shorten client addresses to their network (/24 and /48).
    pub remote_addr: bool,
}

impl Default for MaskSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            query_values: true,
            patterns: Vec::new(),
            user_agent: false,
            remote_addr: false,
        }
    }
}

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// The expression does not compile, is too large, or matches nothing but the empty text.
    #[error("bad pattern: {why}")]
    Pattern {
        /// Index in [`MaskSettings::patterns`].
        index: usize,
        /// What is wrong with it, in one line.
        why: String,
    },
    /// More than [`MAX_PATTERNS`].
    #[error("{0} patterns are too many: {MAX_PATTERNS} at most")]
    TooMany(usize),
}

/// Masks request targets and header values; immutable, shareable between threads.
#[derive(Debug)]
pub struct Masker {
    enabled: bool,
    query_values: bool,
    user_agent: bool,
    remote_addr: bool,
    patterns: Vec<Regex>,
}

impl Default for Masker {
    fn default() -> Self {
        Self {
            enabled: true,
            query_values: true,
            user_agent: false,
            remote_addr: false,
            patterns: Vec::new(),
        }
    }
}

impl Masker {
    /// Compiles the settings.
    pub fn new(settings: MaskSettings) -> Result<Self, MaskError> {
        if settings.patterns.len() > MAX_PATTERNS {
            return Err(MaskError::TooMany(settings.patterns.len()));
        }
        let mut patterns = Vec::with_capacity(settings.patterns.len());
        for (index, pattern) in settings.patterns.iter().enumerate() {
            patterns.push(compile(pattern).map_err(|why| MaskError::Pattern { index, why })?);
        }
        Ok(Self {
            enabled: settings.enabled,
            query_values: settings.query_values,
            user_agent: settings.user_agent,
            remote_addr: settings.remote_addr,
            patterns,
        })
    }

    /// Masks a request target: path and query, or an absolute URL, or `host:port`.
    pub fn mask_target<'a>(&self, target: &'a [u8]) -> Cow<'a, str> {
        if !self.enabled {
            return String::from_utf8_lossy(target);
        }
        if is_plain(target) {
            return self.apply_patterns(String::from_utf8_lossy(target));
        }
        let mut out = Vec::with_capacity(target.len().saturating_add(16));
        self.target(target, &mut out);
        self.apply_patterns(Cow::Owned(into_text(out)))
    }

    /// Masks a header value that is shown: host, upstream address, referrer, any other.
    pub fn mask_header<'a>(&self, value: &'a [u8]) -> Cow<'a, str> {
        if !self.enabled {
            return String::from_utf8_lossy(value);
        }
        if is_plain(value) && !value.contains(&b' ') {
            return self.apply_patterns(String::from_utf8_lossy(value));
        }
        let mut out = Vec::with_capacity(value.len().saturating_add(16));
        let mut hide = false;
        for piece in value.split_inclusive(|&byte| ends_word(byte)) {
            let (word, end) = match piece.split_last() {
                Some((last, word)) if ends_word(*last) => (word, Some(*last)),
                _ => (piece, None),
            };
            if hide && !word.is_empty() {
                out.extend_from_slice(MASK.as_bytes());
                hide = false;
            } else if word.eq_ignore_ascii_case(b"bearer") {
                out.extend_from_slice(word);
                hide = true;
            } else {
                self.target(word, &mut out);
            }
            out.extend(end);
        }
        self.apply_patterns(Cow::Owned(into_text(out)))
    }

    /// Masks a user agent: wholly if so configured, else as any header.
    pub fn mask_user_agent<'a>(&self, value: &'a [u8]) -> Cow<'a, str> {
        if self.enabled && self.user_agent && !value.is_empty() {
            return Cow::Borrowed(MASK);
        }
        self.mask_header(value)
    }

    /// Masks a client address: its network instead of the host if so configured, else unchanged.
    pub fn mask_remote_addr<'a>(&self, addr: &'a str) -> Cow<'a, str> {
        if !(self.enabled && self.remote_addr) || addr.is_empty() {
            return Cow::Borrowed(addr);
        }
        Cow::Owned(match addr.parse().map(|addr: IpAddr| addr.to_canonical()) {
            Ok(IpAddr::V4(addr)) => {
                let [a, b, c, _] = addr.octets();
                format!("{a}.{b}.{c}.0/24")
            }
            Ok(IpAddr::V6(addr)) => {
                let [a, b, c, ..] = addr.segments();
                format!("{}/48", std::net::Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
            }
            Err(_) => MASK.to_owned(),
        })
    }

    fn target(&self, target: &[u8], out: &mut Vec<u8>) {
        let rest = mask_authority(target, out);
        let Some(at) = memchr2(b'?', b'#', rest) else {
            mask_path(rest, out);
            return;
        };
        let (path, tail) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        mask_path(path, out);
        match tail.split_first() {
            Some((b'?', query)) => {
                out.push(b'?');
                self.query(query, out);
            }
            Some((mark, fragment)) => {
                out.push(*mark);
                mask_all(fragment, out);
            }
            None => {}
        }
    }

    /// Only a raw `&` separates pairs and only the first raw `=` ends a key: whatever else a receiver may
    /// take for a separator lies inside a value, and values are masked whole.
    fn query(&self, query: &[u8], out: &mut Vec<u8>) {
        for (nth, pair) in query.split(|&byte| byte == b'&').enumerate() {
            if nth > 0 {
                out.push(b'&');
            }
            if !self.query_values {
                // A query inside a value is not looked into: all of it could be secret.
                let nested =
                    pair.iter().position(|&byte| byte == b'?').or_else(|| find_ignoring_case(pair, b"%3f"));
                let (outer, inner) = nested.and_then(|at| pair.split_at_checked(at)).unwrap_or((pair, b""));
                mask_path(outer, out);
                mask_all(inner, out);
                continue;
            }
            let Some(at) = memchr(b'=', pair) else {
                mask_all(pair, out);
                continue;
            };
            let (key, value) = pair.split_at_checked(at).unwrap_or((pair, &[]));
            let value = value.get(1..).unwrap_or_default();
            // `dG9rZW4=` and `dG9rZQ==` are tokens, not keys: there the `=` is padding.
            let padding = value.iter().all(|&byte| byte == b'=');
            let upper = key.iter().any(u8::is_ascii_uppercase);
            if padding && (!value.is_empty() || upper) {
                mask_all(pair, out);
                continue;
            }
            if is_showable_key(key) {
                out.extend_from_slice(key);
            } else {
                mask_all(key, out);
            }
            out.push(b'=');
            mask_all(value, out);
        }
    }

    /// On the text that is already masked, so that a pattern can hide more but never break the rules above.
    fn apply_patterns<'a>(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        if self.patterns.is_empty() {
            return text;
        }
        // All patterns see the same text: one after the other, the first could cut what the second needs.
        let mut found: Vec<(usize, usize)> = self
            .patterns
            .iter()
            .flat_map(|pattern| pattern.find_iter(&text))
            .filter(|hit| !hit.is_empty())
            .map(|hit| (hit.start(), hit.end()))
            .collect();
        if found.is_empty() {
            return text;
        }
        found.sort_unstable();
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for (start, end) in found {
            if start >= done {
                out.push_str(text.get(done..start).unwrap_or_default());
                out.push_str(MASK);
            }
            done = done.max(end);
        }
        out.push_str(text.get(done..).unwrap_or_default());
        Cow::Owned(out)
    }
}

fn find_ignoring_case(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window.eq_ignore_ascii_case(part))
}

fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.is_empty() || pattern.len() > MAX_PATTERN_BYTES {
        return Err(format!("it must have 1 to {MAX_PATTERN_BYTES} bytes"));
    }
    RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_COMPILED_BYTES)
        .build()
        .map_err(|error| {
            // The parser draws over several lines; the last one says what is wrong.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        })
}

/// What a byte means to [`is_plain`].
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Plain; 256];
    let mut at = 0;
    let special = b"?;%@#=";
    while at < special.len() {
        classes[special[at] as usize] = Class::Special;
        at += 1;
    }
    classes[b'/' as usize] = Class::Slash;
    classes
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Slash,
    Special,
}

/// Whether nothing in the text can need masking. Settles most requests in one pass over a small table
/// (paths are short: several vectorised scans cost more than they save).
fn is_plain(text: &[u8]) -> bool {
    let mut start = 0;
    for (at, &byte) in text.iter().enumerate() {
        match CLASSES.get(usize::from(byte)) {
            Some(Class::Plain) => {}
            Some(Class::Slash) => {
                if !is_plain_segment(text, start, at) {
                    return false;
                }
                start = at + 1;
            }
            Some(Class::Special) | None => return false,
        }
    }
    is_plain_segment(text, start, text.len())
}

/// Six is the length of `bearer`; what is shorter than the least token is not looked at.
fn is_plain_segment(text: &[u8], start: usize, end: usize) -> bool {
    let len = end - start;
    let bearer = || text.get(start..end).is_some_and(|it| it.eq_ignore_ascii_case(b"bearer"));
    len < token::MIN_BYTES && (len != 6 || !bearer())
}

/// Masks the user part of `scheme://user:password@host`; gives what follows the `@`, or everything.
///
/// Up to the next slash all belongs to the authority here, `?` and `#` too: a password may hold them raw.
fn mask_authority<'a>(target: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    if target.starts_with(b"/") {
        return target;
    }
    let Some(scheme) = memchr::memmem::find(target, b"://") else {
        return target;
    };
    let start = scheme + 3;
    let rest = target.get(start..).unwrap_or_default();
    // A slash, a question mark or an ampersand before the scheme: it is a URL inside something else.
    if target.iter().take(scheme).any(|byte| matches!(byte, b'/' | b'?' | b'&' | b'#' | b'=')) {
        return target;
    }
    let end = memchr(b'/', rest).unwrap_or(rest.len());
    let Some(at) = rest.get(..end).and_then(|authority| memrchr(b'@', authority)) else {
        return target;
    };
    let (user, rest) = rest.split_at_checked(at).unwrap_or((rest, &[]));
    mask_path(target.get(..start).unwrap_or_default(), out);
    out.extend_from_slice(MASK.as_bytes());
    // Was it a password or already the query? Then what follows may be a value: nothing of it is shown.
    if escape::find(user, b"?#").is_some() { &[] } else { rest }
}

/// Masks a path, or any text that is written like one.
fn mask_path(path: &[u8], out: &mut Vec<u8>) {
    // An escaped `?` is a `?` to whoever decodes once more: all behind it is hidden, keys too.
    let cut = escape::find_escaped(path, b"?#");
    let (path, hidden) = match cut {
        Some(hit) => path.split_at_checked(hit.end).unwrap_or((path, &[])),
        None => (path, &[][..]),
    };
    let mut hide = false;
    let mut after_empty = false;
    for (nth, segment) in path.split(|&byte| byte == b'/').enumerate() {
        if nth > 0 {
            out.push(b'/');
        }
        let double_slash = after_empty;
        after_empty = nth > 0 && segment.is_empty();
        if hide && !segment.is_empty() {
            out.extend_from_slice(MASK.as_bytes());
            hide = false;
            continue;
        }
        hide |= segment.eq_ignore_ascii_case(b"bearer");
        if mask_segment(segment, double_slash, out) == Rest::Hidden {
            return;
        }
    }
    mask_all(hidden, out);
}

/// What becomes of the part of a path behind a segment.
#[derive(PartialEq, Eq)]
enum Rest {
    Shown,
    /// The segment held a telling key, and a value with raw slashes goes on in the next segment.
    Hidden,
}

fn mask_segment(segment: &[u8], double_slash: bool, out: &mut Vec<u8>) -> Rest {
    if !segment.iter().any(|byte| matches!(byte, b'@' | b'%' | b';' | b'&' | b'=')) {
        token::mask(segment, out);
        return Rest::Shown;
    }
    let Some((keep, at)) = find_userinfo(segment, double_slash) else {
        return mask_pieces(segment, out);
    };
    if mask_pieces(segment.get(..keep).unwrap_or_default(), out) == Rest::Hidden {
        return Rest::Hidden;
    }
    out.extend_from_slice(MASK.as_bytes());
    mask_pieces(segment.get(at..).unwrap_or_default(), out)
}

/// Masks the parameters of a segment: what `;`, `&` and `=` divide.
fn mask_pieces(segment: &[u8], out: &mut Vec<u8>) -> Rest {
    let mut rest = segment;
    let mut first = true;
    loop {
        let separator = escape::find(rest, b";&");
        let piece = separator.as_ref().map_or(rest, |hit| rest.get(..hit.start).unwrap_or_default());
        match escape::find(piece, b"=") {
            Some(equals) => {
                let key = piece.get(..equals.start).unwrap_or_default();
                let value = piece.get(equals.end..).unwrap_or_default();
                if token::is_telling_key(key) {
                    out.extend_from_slice(piece.get(..equals.end).unwrap_or_default());
                    out.extend_from_slice(MASK.as_bytes());
                    return Rest::Hidden;
                }
                if first {
                    token::mask(piece, out);
                } else {
                    token::mask(key, out);
                    out.extend_from_slice(piece.get(equals.start..equals.end).unwrap_or_default());
                    mask_all(value, out);
                }
            }
            None => token::mask(piece, out),
        }
        let Some(hit) = separator else { return Rest::Shown };
        out.extend_from_slice(rest.get(hit.start..hit.end).unwrap_or_default());
        rest = rest.get(hit.end..).unwrap_or_default();
        first = false;
    }
}

/// Where `user:password` begins and where its `@` stands.
///
/// An `@` alone says little (`/@scope/package`, `/users/me@example.com`): the text before it counts when it
/// holds a colon or follows `//`.
fn find_userinfo(segment: &[u8], double_slash: bool) -> Option<(usize, usize)> {
    let at = escape::find_last(segment, b"@")?.start;
    let before = segment.get(..at)?;
    if double_slash {
        return Some((0, at));
    }
    if let Some(slashes) = escape::find_double(before, b'/') {
        return Some((slashes.end, at));
    }
    escape::find(before, b":").map(|_| (0, at))
}

/// A key is shown when it is written like one; anything odd in it may be a part of a value.
fn is_showable_key(key: &[u8]) -> bool {
    if key.len() > MAX_KEY_BYTES || token::holds_secret(key) {
        return false;
    }
    let mut rest = key;
    while let Some((&first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'$' | b'[' | b']', _) => tail,
            // Brackets of `filter[name]`, escaped.
            (b'%', [b'5', b'b' | b'B' | b'd' | b'D', tail @ ..]) => tail,
            _ => return false,
        };
    }
    true
}

/// Writes the mask for a text, nothing for an empty one: that a value is missing is no secret.
fn mask_all(text: &[u8], out: &mut Vec<u8>) {
    if !text.is_empty() {
        out.extend_from_slice(MASK.as_bytes());
    }
}

fn ends_word(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'"' | b'\'' | b',' | b'(' | b')' | b'<' | b'>')
}

fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
