//! Host names: the rule's side and the request's side brought to one spelling.

use std::iter;

/// Longest host name (RFC 1035); what is longer was cut or is no name and matches no domain.
const MAX_HOST_BYTES: usize = 255;

/// The domain of a rule.
#[derive(Debug)]
pub(super) enum DomainPattern {
    /// No domain given: any request, with or without a host.
    Any,
    /// Lower case, no trailing dot.
    Exact(Box<[u8]>),
    /// The part after `*.`, lower case; empty for `*`, which takes any host.
    Wildcard(Box<[u8]>),
}

impl DomainPattern {
    pub(super) fn parse(domain: Option<&str>) -> Result<Self, &'static str> {
        let Some(domain) = domain else {
            return Ok(Self::Any);
        };
        if domain == "*" {
            return Ok(Self::Wildcard(Box::default()));
        }
        let (wildcard, name) = match domain.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, domain),
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if name.is_empty() || name.len() > MAX_HOST_BYTES {
            return Err("a host name has 1 to 255 bytes");
        }
        if name.contains('*') {
            return Err("`*` may only stand for whole labels at the front, as in `*.example.com`");
        }
        if !name.is_ascii() {
            return Err("write an international name in its ASCII form, `xn--…`");
        }
        if name.contains('/') {
            return Err("give the host name alone, without scheme and path");
        }
        let address = name.starts_with('[') && name.ends_with(']');
        if !address && name.contains(':') {
            return Err("give the host name without its port: the port is ignored in matching");
        }
        if name.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err("a host name has no spaces or control characters");
        }
        if !address && name.split('.').any(str::is_empty) {
            return Err("a label between two dots is empty");
        }
        let name = name.into_bytes().into_boxed_slice();
        Ok(if wildcard { Self::Wildcard(name) } else { Self::Exact(name) })
    }

    /// Bytes that are fixed: the more, the more specific.
    pub(super) fn literal_len(&self) -> usize {
        match self {
            Self::Any => 0,
            Self::Exact(name) | Self::Wildcard(name) => name.len(),
        }
    }
}

/// A request's host in the rules' spelling, without allocating.
pub(super) struct HostBuf {
    bytes: [u8; MAX_HOST_BYTES],
    len: usize,
}

impl HostBuf {
    /// `None` when there is no host or it is too long to be one.
    pub(super) fn normalise(raw: &[u8]) -> Option<Self> {
        let mut name = without_port(raw);
        if let [rest @ .., b'.'] = name {
            name = rest;
        }
        if name.is_empty() {
            return None;
        }
        let mut bytes = [0; MAX_HOST_BYTES];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        bytes.make_ascii_lowercase();
        Some(Self { bytes, len: name.len() })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Cuts `:8080`; an IPv6 address keeps its brackets, and colons inside them are no port.
fn without_port(raw: &[u8]) -> &[u8] {
    // Hosts are short and ports shorter: walk back over the digits.
    let digits = raw.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    match raw.split_at_checked(raw.len().saturating_sub(digits)) {
        Some(([name @ .., b':'], _)) if !name.contains(&b':') || name.ends_with(b"]") => name,
        _ => raw,
    }
}

pub(super) fn label_count(name: &[u8]) -> usize {
    if name.is_empty() { 0 } else { name.iter().filter(|&&byte| byte == b'.').count() + 1 }
}

/// The tails of a host which a `*.` may leave: after each dot, from the right, at most `labels` labels;
/// last the empty one, for `*`.
pub(super) fn tails(host: &[u8], labels: usize) -> impl Iterator<Item = &[u8]> {
    let mut end = host.len();
    let dots = iter::from_fn(move || {
        let at = host.get(..end)?.iter().rposition(|&byte| byte == b'.')?;
        end = at;
        host.get(at + 1..)
    });
    dots.take(labels).chain(iter::once(&[][..]))
}
