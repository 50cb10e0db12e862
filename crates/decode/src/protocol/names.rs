//! Names from the network, made fit to be labels: bounded, valid UTF-8, nothing in them that could pass for more.

/// Longest host, in bytes; no name of the DNS is longer.
pub(crate) const HOST_MAX: usize = 255;
/// Longest path kept, in bytes.
pub(crate) const PATH_MAX: usize = 512;
/// Longest protocol name of ALPN, in bytes; IANA's longest has 17.
const ALPN_MAX: usize = 32;

/// The host of a `Host` header, an `:authority` or a request target: without user, password and port.
pub(crate) fn authority(text: &[u8]) -> Option<String> {
    let text = text.trim_ascii();
    // Whatever stands before the last `@` are credentials.
    let text = text.iter().rposition(|b| *b == b'@').and_then(|at| text.get(at + 1..)).unwrap_or(text);
    host(without_port(text))
}

fn without_port(text: &[u8]) -> &[u8] {
    let Some(colon) = text.iter().rposition(|b| *b == b':') else {
        return text;
    };
    let Some((name, [_, port @ ..])) = text.split_at_checked(colon) else {
        return text;
    };
    // A bare IPv6 address has more colons; one with a port stands in brackets.
    let one_colon = !name.contains(&b':') || name.ends_with(b"]");
    if one_colon && port.iter().all(u8::is_ascii_digit) { name } else { text }
}

/// A name in lower case; U+FFFD stands for what no host has, as with the gateway's own hosts.
pub(crate) fn host(text: &[u8]) -> Option<String> {
    let plain = |c: char| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']' | '*')
    };
    let clean = |c: char| Some(c.to_ascii_lowercase()).filter(|c| plain(*c)).unwrap_or('\u{fffd}');
    bounded(text, HOST_MAX, clean)
}

/// The path of a request target, up to its query: what follows may hold secrets, and is never kept.
///
/// Not masked: a path may hold a token too, and goes through `mask::Masker` before it is shown.
pub(crate) fn path(target: &[u8]) -> Option<String> {
    let end = target.iter().position(|b| matches!(b, b'?' | b'#')).unwrap_or(target.len());
    // Controls are replaced here; what else could fool a terminal is the writer's to escape.
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    bounded(target.get(..end)?, PATH_MAX, clean)
}

/// A protocol of ALPN. What is not printable is made up (RFC 8701), and no name.
pub(crate) fn alpn(text: &[u8]) -> Option<String> {
    let fits = text.len() <= ALPN_MAX && text.iter().all(|b| b.is_ascii_graphic());
    fits.then(|| bounded(text, ALPN_MAX, |c| c)).flatten()
}

/// Any text without control characters, at most `max` bytes of it.
pub(crate) fn text(text: &[u8], max: usize) -> Option<String> {
    bounded(text, max, |c| if c.is_control() { '\u{fffd}' } else { c })
}

/// At most `max` bytes of it, cut between characters; nothing for nothing.
fn bounded(text: &[u8], max: usize, clean: impl Fn(char) -> char) -> Option<String> {
    let mut out = String::with_capacity(text.len().min(max));
    let shown = text.get(..max).unwrap_or(text);
    for c in shown
        .utf8_chunks()
        .flat_map(|chunk| chunk.valid().chars().chain((!chunk.invalid().is_empty()).then_some('\u{fffd}')))
    {
        let c = clean(c);
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    (!out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, host) in [
            ("Example.COM", Some("example.com")),
            ("example.com:8080", Some("example.com")),
            ("example.com:", Some("example.com")),
            ("[2001:DB8::1]:443", Some("[2001:db8::1]")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("user:secret@example.com:1", Some("example.com")),
            ("a@b@c", Some("c")),
            (" spaced ", Some("spaced")),
            ("ex\u{1b}[2Jample", Some("ex\u{fffd}[2jample")),
            ("bücher.example", Some("b\u{fffd}cher.example")),
            ("host:12x", Some("host:12x")),
            (":80", None),
            ("", None),
            ("@", None),
        ] {
            assert_eq!(authority(text.as_bytes()).as_deref(), host, "{text}");
        }
        assert_eq!(host(&[b'a'; 300]).unwrap().len(), HOST_MAX);
        let hostile = host(&[0xff; 300]).unwrap();
        assert!(hostile.len() <= HOST_MAX && hostile.chars().all(|c| c == '\u{fffd}'), "{hostile}");
    }

    #[test]
    fn paths() {
        for (target, shown) in [
            (&b"/a/b?token=x"[..], Some("/a/b")),
            (b"/a#b", Some("/a")),
            (b"?x", None),
            (b"*", Some("*")),
            ("/grüße".as_bytes(), Some("/grüße")),
            (b"/\xff\x1b", Some("/\u{fffd}\u{fffd}")),
        ] {
            assert_eq!(path(target).as_deref(), shown, "{target:?}");
        }
        let long = [b"/".to_vec(), vec![0xff; 4000]].concat();
        assert!(path(&long).unwrap().len() <= PATH_MAX);
    }

    #[test]
    fn protocols_of_alpn() {
        assert_eq!(alpn(b"h2").as_deref(), Some("h2"));
        assert_eq!(alpn(b"http/1.1").as_deref(), Some("http/1.1"));
        assert_eq!(alpn(b"\x0a\x0a"), None);
        assert_eq!(alpn(b""), None);
        assert_eq!(alpn(&[b'a'; 33]), None);
    }
}
