//! Telling a secret by its looks.

use std::borrow::Cow;

use super::{MASK, escape};

/// Nothing shorter is taken for a secret by its looks alone: the length of an AWS key id.
pub(super) const MIN_BYTES: usize = 20;
/// From here on a random-looking run is a token; shorter ones are ids and hashes in names.
const MIN_RANDOM_BYTES: usize = 32;

/// Tokens which say by their front what they are (GitHub, GitLab, Slack, Stripe, OpenAI, npm, Vault).
const PREFIXES: &[&[u8]] = &[
    b"ghp_",
    b"gho_",
    b"ghu_",
    b"ghs_",
    b"ghr_",
    b"github_pat_",
    b"glpat-",
    b"xoxb-",
    b"xoxp-",
    b"xoxa-",
    b"sk_live_",
    b"sk_test_",
    b"rk_live_",
    b"sk-",
    b"npm_",
    b"hvs.",
];

/// Keys whose value is hidden wherever it stands; compared without `-` and `_`, in lower case.
pub(super) const TELLING_KEYS: &[&[u8]] = &[
    b"accesskey",
    b"accesstoken",
    b"apikey",
    b"assertion",
    b"auth",
    b"authorization",
    b"authtoken",
    b"bearer",
    b"clientsecret",
    b"code",
    b"credential",
    b"credentials",
    b"csrf",
    b"csrftoken",
    b"idtoken",
    b"jsessionid",
    b"jwt",
    b"key",
    b"otp",
    b"passphrase",
    b"passwd",
    b"password",
    b"phpsessid",
    b"pin",
    b"privatekey",
    b"pwd",
    b"refreshtoken",
    b"secret",
    b"session",
    b"sessionid",
    b"sid",
    b"sig",
    b"signature",
    b"token",
    b"xamzcredential",
    b"xamzsecuritytoken",
    b"xamzsignature",
    b"xapikey",
];

/// Whether a key announces a secret.
pub(super) fn is_telling_key(key: &[u8]) -> bool {
    // Longer than any of them even with separators and escapes.
    if key.len() > 128 {
        return false;
    }
    let mut plain = escape::decode(key);
    plain.retain(|byte| !matches!(byte, b'-' | b'_'));
    plain.make_ascii_lowercase();
    // `a,token`, `?token` and `x token`: only the word before the `=` counts.
    let word = plain.rsplit(|byte| !byte.is_ascii_alphanumeric()).next().unwrap_or_default();
    TELLING_KEYS.binary_search(&word).is_ok()
}

/// Copies a text with its secrets masked; an escaped text that holds one is masked wholly.
pub(super) fn mask(text: &[u8], out: &mut Vec<u8>) {
    if text.contains(&b'%') {
        let decoded = escape::decode(text);
        if holds_secret_plain(&decoded) {
            out.extend_from_slice(MASK.as_bytes());
        } else {
            out.extend_from_slice(text);
        }
        return;
    }
    if text.len() < MIN_BYTES && !is_bearer_pair(text) {
        out.extend_from_slice(text);
        return;
    }
    if is_bearer_pair(text) {
        out.extend_from_slice(MASK.as_bytes());
        return;
    }
    for piece in text.chunk_by(|a, b| is_token_byte(*a) == is_token_byte(*b)) {
        match secret_in(piece) {
            Some(start) => {
                out.extend_from_slice(piece.get(..start).unwrap_or_default());
                out.extend_from_slice(MASK.as_bytes());
            }
            None => out.extend_from_slice(piece),
        }
    }
}

/// Whether a text, escaped or not, holds a secret.
pub(super) fn holds_secret(text: &[u8]) -> bool {
    let text = if text.contains(&b'%') { Cow::Owned(escape::decode(text)) } else { Cow::Borrowed(text) };
    holds_secret_plain(&text)
}

fn holds_secret_plain(text: &[u8]) -> bool {
    is_bearer_pair(text)
        || text
            .chunk_by(|a, b| is_token_byte(*a) == is_token_byte(*b))
            .any(|piece| secret_in(piece).is_some())
}

/// `Bearer abc` in one segment, the blank written as space or plus, or `bearer:abc`.
fn is_bearer_pair(text: &[u8]) -> bool {
    match text.split_at_checked(6) {
        Some((word, [b' ' | b'+' | b':' | b'=' | b'\t', _, ..])) => word.eq_ignore_ascii_case(b"bearer"),
        _ => false,
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'~' | b'+')
}

/// Where in a run of token bytes the secret begins; it is taken to reach to the run's end.
fn secret_in(run: &[u8]) -> Option<usize> {
    if run.len() < MIN_BYTES {
        return None;
    }
    if let Some(at) = run.windows(3).position(|three| three == b"eyJ")
        && run.get(at..).is_some_and(|rest| rest.len() >= MIN_BYTES && rest.contains(&b'.'))
    {
        return Some(at);
    }
    let mut start = 0;
    for part in run.split(|&byte| byte == b'.') {
        if is_random(part) || holds_aws_key(part) {
            return Some(start);
        }
        start += part.len() + 1;
    }
    (0..run.len()).find(|&at| begins_vendor_token(run, at))
}

/// A vendor's prefix counts at a word's start (`disk-…` holds no `sk-` key) with 16 characters behind it,
/// a digit among them: `sk-` also begins ordinary words.
fn begins_vendor_token(run: &[u8], at: usize) -> bool {
    let inside_word = at > 0 && run.get(at - 1).is_some_and(u8::is_ascii_alphanumeric);
    let rest = run.get(at..).unwrap_or_default();
    if inside_word || !matches!(rest.first(), Some(b'g' | b'h' | b'n' | b'r' | b's' | b'x')) {
        return false;
    }
    PREFIXES.iter().filter_map(|prefix| rest.strip_prefix(*prefix)).any(|key| {
        // The first characters decide, so that a run full of prefixes stays cheap.
        key.len() >= 16 && key.iter().take(64).any(u8::is_ascii_digit)
    })
}

/// `AKIA` or `ASIA` and 16 capitals and digits.
fn holds_aws_key(run: &[u8]) -> bool {
    let capital = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    run.windows(MIN_BYTES)
        .any(|id| (id.starts_with(b"AKIA") || id.starts_with(b"ASIA")) && id.iter().all(capital))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lower,
    Upper,
    Digit,
    Other,
}

fn kind(byte: u8) -> Kind {
    match byte {
        b'a'..=b'z' => Kind::Lower,
        b'A'..=b'Z' => Kind::Upper,
        b'0'..=b'9' => Kind::Digit,
        _ => Kind::Other,
    }
}

/// Whether a long run looks random.
///
/// Letters alone say little: an English slug has as many different ones as a key. What tells them apart is
/// how often neighbours change between lower case, upper case and digits: in base64 at six places of ten, in
/// words with numbers (`top-100-films-of-2023`) and generated names (`web-7d4b9c6f5-x2k9p`) far less often.
fn is_random(run: &[u8]) -> bool {
    if run.len() < MIN_RANDOM_BYTES || is_uuid(run) {
        return false;
    }
    let digits = run.iter().filter(|byte| byte.is_ascii_digit()).count();
    if digits > 0 && digits < run.len() && run.iter().all(u8::is_ascii_hexdigit) {
        return true;
    }
    let changes = run
        .iter()
        .zip(run.iter().skip(1))
        .map(|(a, b)| (kind(*a), kind(*b)))
        .filter(|(a, b)| a != b && *a != Kind::Other && *b != Kind::Other)
        .count();
    // Without digits it may be a camelCase name, where a third of the neighbours change.
    if digits >= 3 { changes * 3 >= run.len() } else { changes * 20 >= run.len() * 9 }
}

/// `8-4-4-4-12` hexadecimal digits.
fn is_uuid(run: &[u8]) -> bool {
    run.len() == 36
        && run.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
