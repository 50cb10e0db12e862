//! The clear part of TLS: record headers, and the two hellos.
//!
//! Read by hand and not with `tls-parser`: a hello is often cut in the middle, and what stands before the cut is
//! wanted; it would also bring twenty crates to read four extensions.

use std::borrow::Cow;

use gatewatch_event::{Tls, TlsVersion};

use super::{bytes::Bytes, names};

/// Longest payload of a record: 2^14, and what encryption may add.
const RECORD_MAX: usize = (1 << 14) + 2048;
/// Longest hello believed; post-quantum key shares make two kilobytes.
const HELLO_MAX: usize = 1 << 16;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

/// What stands at the front of some bytes.
#[derive(Debug, PartialEq)]
pub(crate) enum Front {
    /// No TLS.
    No,
    /// May become a hello when more is seen.
    Maybe,
    Hello(Hello),
    /// Other records.
    Records {
        /// They end exactly where the bytes do, or several follow each other: no chance hit.
        sure: bool,
    },
}

/// A hello, as far as it was seen.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Hello {
    pub(crate) from_server: bool,
    /// Chosen by a server, the highest of a client. Only once nothing that follows can overrule it.
    version: Option<TlsVersion>,
    sni: Option<String>,
    /// Chosen by a server, the first of a client.
    alpn: Option<String>,
    cipher: Option<u16>,
    /// Nothing of it is missing.
    pub(crate) whole: bool,
}

/// What both sides told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    client: Option<Side>,
    server: Option<Side>,
    sni: Option<String>,
    cipher: Option<u16>,
}

#[derive(Clone, Debug, Default)]
struct Side {
    version: Option<TlsVersion>,
    alpn: Option<String>,
}

impl Known {
    /// Adds a hello, or more of one seen before. What was told first stays: later bytes may be of something else.
    pub(crate) fn add(&mut self, hello: Hello) {
        let side = if hello.from_server { &mut self.server } else { &mut self.client };
        let side = side.get_or_insert_default();
        side.version = side.version.or(hello.version);
        side.alpn = side.alpn.take().or(hello.alpn);
        if hello.from_server {
            self.cipher = self.cipher.or(hello.cipher);
        } else {
            self.sni = self.sni.take().or(hello.sni);
        }
    }

    pub(crate) fn answered(&self) -> bool {
        self.server.is_some()
    }

    pub(crate) fn told(&self) -> Tls {
        let either = |of: fn(&Side) -> Option<&TlsVersion>| {
            self.server.as_ref().and_then(of).or(self.client.as_ref().and_then(of)).copied()
        };
        let alpn = |side: &Option<Side>| side.as_ref().and_then(|side| side.alpn.clone());
        Tls {
            version: either(|side| side.version.as_ref()),
            sni: self.sni.clone(),
            alpn: alpn(&self.server).or_else(|| alpn(&self.client)),
            cipher: self.cipher,
        }
    }
}

/// Reads the front of `bytes`; `on_the_wire` is how many there were before any were cut off.
pub(crate) fn read(bytes: &[u8], on_the_wire: usize) -> Front {
    let mut left = Bytes(bytes);
    let Some((kind, _)) = record(&mut left) else {
        // A header that goes on behind the end fits as far as it goes.
        let begun = match bytes {
            [] | [HANDSHAKE] | [HANDSHAKE, 3] | [HANDSHAKE, 3, ..=3] | [HANDSHAKE, 3, ..=3, _] => true,
            [_, ..] => false,
        };
        return if begun { Front::Maybe } else { Front::No };
    };
    if kind == HANDSHAKE {
        let message = message(bytes);
        match message.first() {
            Some(&kind @ (CLIENT_HELLO | SERVER_HELLO)) => {
                return match hello(&message, kind == SERVER_HELLO) {
                    Ok(Some(hello)) => Front::Hello(hello),
                    Ok(None) => Front::Maybe,
                    Err(NoHello) => records(bytes, on_the_wire),
                };
            }
            None => return Front::Maybe,
            Some(_) => {}
        }
    }
    records(bytes, on_the_wire)
}

/// The header of a record that can be one.
fn record(left: &mut Bytes<'_>) -> Option<(u8, usize)> {
    let kind = left.u8().filter(|kind| (CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(kind))?;
    let version = left.u16()?;
    let len = usize::from(left.u16()?);
    // SSL's number stands in the record of some old clients' hellos.
    let known = TlsVersion::of(version).is_some_and(|version| version < TlsVersion::Tls13)
        || (kind == HANDSHAKE && version == 0x0300);
    let fits = match kind {
        CHANGE_CIPHER_SPEC => len == 1,
        // Two bytes, or those encrypted.
        ALERT => (2..=256).contains(&len),
        _ => (1..=RECORD_MAX).contains(&len),
    };
    (known && fits).then_some((kind, len))
}

/// Walks from record to record.
fn records(bytes: &[u8], on_the_wire: usize) -> Front {
    let mut left = Bytes(bytes);
    let mut count = 0_u32;
    let mut behind = 0_usize;
    while !left.0.is_empty() {
        let header_is_cut = left.0.len() < 5;
        let Some((_, len)) = record(&mut left) else {
            // A stranger behind a single record makes that one chance.
            let sure = count > 1;
            return if sure || (count > 0 && header_is_cut) { Front::Records { sure } } else { Front::No };
        };
        count += 1;
        behind = len.saturating_sub(left.take_up_to(len).len());
    }
    let cut = on_the_wire.saturating_sub(bytes.len());
    Front::Records { sure: count > 1 || behind == cut }
}

/// The handshake's bytes without the headers of the records that carry them.
fn message(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut left = Bytes(bytes);
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    while let Some((HANDSHAKE, len)) = record(&mut left) {
        let part = left.take_up_to(len);
        if message.is_empty() {
            message = Cow::Borrowed(part);
        } else {
            message.to_mut().extend_from_slice(part);
        }
    }
    message
}

/// It begins as a hello and cannot be one.
struct NoHello;

/// A hello; `None` if too little of it was seen to say that it is one.
fn hello(message: &[u8], from_server: bool) -> Result<Option<Hello>, NoHello> {
    let mut left = Bytes(message);
    let front = |left: &mut Bytes<'_>| {
        left.u8()?;
        Some((left.u24()?, left.u16()?))
    };
    let Some((len, legacy)) = front(&mut left) else {
        return Ok(None);
    };
    // Version, random and three lengths are always there.
    if !(0x0300..=0x0303).contains(&legacy) || !(38..=HELLO_MAX).contains(&len) {
        return Err(NoHello);
    }
    let whole = left.0.len() + 2 >= len;
    left = Bytes(left.take_up_to(len - 2));
    let mut hello = Hello { from_server, whole, ..Hello::default() };
    let complete = body(&mut left, &mut hello)?;
    if complete.is_some() {
        // Without the extension, the field in front counts.
        hello.version = hello.version.or(TlsVersion::of(legacy));
    }
    // What claims to be whole, and ends within a field, is something else.
    if whole && complete.is_none() { Err(NoHello) } else { Ok(Some(hello)) }
}

/// The rest of a hello; `None` where it was cut.
fn body(left: &mut Bytes<'_>, hello: &mut Hello) -> Result<Option<()>, NoHello> {
    if left.take(32).is_none() {
        return Ok(None);
    }
    if left.0.first().is_some_and(|len| *len > 32) {
        return Err(NoHello);
    }
    if left.sized8().is_none() {
        return Ok(None);
    }
    if hello.from_server {
        hello.cipher = left.u16();
        if left.u8().is_none() {
            return Ok(None);
        }
    } else {
        match left.0 {
            [a, b, ..] if (*a, *b) == (0, 0) || b % 2 == 1 => return Err(NoHello),
            _ => {}
        }
        let (Some(_ciphers), Some(compression)) = (left.sized16(), left.sized8()) else {
            return Ok(None);
        };
        // To offer no compression is not optional.
        if !compression.contains(&0) {
            return Err(NoHello);
        }
    }
    // Until TLS 1.2 a hello could end here.
    if left.0.is_empty() && hello.whole {
        return Ok(Some(()));
    }
    let Some(len) = left.u16() else { return Ok(None) };
    let cut = left.0.len() < usize::from(len);
    extensions(Bytes(left.take_up_to(len.into())), hello);
    Ok((!cut).then_some(()))
}

fn extensions(mut left: Bytes<'_>, hello: &mut Hello) {
    while let (Some(kind), Some(content)) = (left.u16(), left.sized16()) {
        let content = Bytes(content);
        match kind {
            SERVER_NAME if !hello.from_server && hello.sni.is_none() => hello.sni = server_name(content),
            ALPN if hello.alpn.is_none() => hello.alpn = first_protocol(content),
            SUPPORTED_VERSIONS if hello.version.is_none() => {
                hello.version = if hello.from_server { version(content) } else { highest(content) };
            }
            _ => {}
        }
    }
}

fn server_name(mut content: Bytes<'_>) -> Option<String> {
    let mut list = Bytes(content.sized16()?);
    while let (Some(kind), Some(name)) = (list.u8(), list.sized16()) {
        if kind == 0 {
            return names::host(name);
        }
    }
    None
}

fn first_protocol(mut content: Bytes<'_>) -> Option<String> {
    let mut list = Bytes(content.sized16()?);
    std::iter::from_fn(|| list.sized8()).find_map(names::alpn)
}

fn version(mut content: Bytes<'_>) -> Option<TlsVersion> {
    content.u16().and_then(TlsVersion::of)
}

fn highest(mut content: Bytes<'_>) -> Option<TlsVersion> {
    let mut list = Bytes(content.sized8()?);
    std::iter::from_fn(|| list.u16()).filter_map(TlsVersion::of).max()
}
