//! What all conversations share: the mask, the counts, and the bound of what they may hold together.

use std::sync::Arc;

use crate::{mask::Masker, protocol::names};

/// What conversations may hold together, in bytes, where nothing else is said.
pub const HELD_MAX: usize = 64 << 20;
/// Longest user agent kept, in bytes.
const AGENT_MAX: usize = 64;
/// Longest text looked at to become one that is shown: behind it nothing is shown anyway.
const RAW_MAX: usize = 4096;
/// Longest text whose cleaned form is remembered.
const REMEMBERED_MAX: usize = 256;

/// What became of what was fed, over all conversations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Exchanges handed out.
    pub exchanges: u64,
    /// Of these, those of which something was not seen.
    pub partial: u64,
    /// Requests and answers that were both seen, and not put together, since it was not sure that they belong
    /// together. A request is handed out all the same, once, as `partial` and without a status.
    pub unpaired: u64,
    /// Answers handed out without their request, which came before the agent or was lost.
    pub orphans: u64,
    /// Holes (bytes not copied, pieces lost) that did not lie wholly within a body of known length.
    pub holes: u64,
    /// Bytes passed over while looking for the next message or frame.
    pub skipped_bytes: u64,
    /// Heads that are no HTTP, where a head had to be; frames and header blocks likewise.
    pub garbage: u64,
    /// Heads and header blocks longer than is kept.
    pub too_long: u64,
    /// Pieces that had been fed before, or overlap such.
    pub repeated: u64,
    /// Conversations that turned out to be something else than HTTP or TLS.
    pub foreign: u64,
    /// Conversations given up because all together held more than allowed.
    pub over_budget: u64,
    /// Streams of HTTP/2 handed out early, because a connection had too many.
    pub streams_over: u64,
    /// Header fields that name an entry of a dynamic table which was not seen.
    pub unknown_fields: u64,
    /// TLS handshakes told.
    pub handshakes: u64,
}

/// Shared by all conversations of a thread.
#[derive(Debug)]
pub struct Decoder {
    masker: Masker,
    /// What became of what was fed.
    pub counts: Counts,
    pub(super) held: usize,
    held_max: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(Masker::default(), HELD_MAX)
    }
}

impl Decoder {
    /// Conversations together hold at most about `held_max` bytes; one that would exceed it is given up.
    #[must_use]
    pub fn new(masker: Masker, held_max: usize) -> Self {
        Self { masker, counts: Counts::default(), held: 0, held_max }
    }

    /// Masks by other settings from now on.
    pub fn set_masker(&mut self, masker: Masker) {
        self.masker = masker;
    }

    /// What conversations hold now, in bytes, without the allocator's own.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held
    }

    pub(super) fn full(&self) -> bool {
        self.held > self.held_max
    }

    fn path(&self, target: &[u8]) -> Arc<str> {
        let end = target.iter().position(|b| matches!(b, b'?' | b'#')).unwrap_or(target.len()).min(RAW_MAX);
        // Masked before it is cut: half a token may not look like one.
        let masked = self.masker.mask_target(target.get(..end).unwrap_or_default());
        names::path(masked.as_bytes()).map_or_else(Arc::default, Arc::from)
    }

    fn host(&self, text: &[u8]) -> Arc<str> {
        let Some(host) = text.get(..text.len().min(RAW_MAX)).and_then(names::authority) else {
            return Arc::default();
        };
        Arc::from(self.masker.mask_header(host.as_bytes()))
    }

    fn agent(&self, text: &[u8]) -> Arc<str> {
        let masked = self.masker.mask_header(text.get(..text.len().min(256)).unwrap_or_default());
        Arc::from(names::text(masked.as_bytes(), AGENT_MAX).unwrap_or_default())
    }
}

/// The last text of its kind and what it was made into: on a connection the same comes again and again.
#[derive(Debug, Default)]
struct Remembered {
    raw: Vec<u8>,
    text: Arc<str>,
}

impl Remembered {
    fn get(&mut self, raw: &[u8], make: impl FnOnce(&[u8]) -> Arc<str>) -> Arc<str> {
        if self.raw != raw {
            let text = make(raw);
            if raw.len() > REMEMBERED_MAX {
                return text;
            }
            self.raw.clear();
            self.raw.extend_from_slice(raw);
            self.text = text;
        }
        Arc::clone(&self.text)
    }

    fn held(&self) -> usize {
        self.raw.capacity() + self.text.len()
    }
}

/// The texts a conversation remembers.
#[derive(Debug, Default)]
pub(super) struct Texts {
    path: Remembered,
    host: Remembered,
    agent: Remembered,
}

impl Texts {
    pub(super) fn held(&self) -> usize {
        self.path.held() + self.host.held() + self.agent.held()
    }
}

/// What the parts of a conversation work with.
pub(super) struct Context<'a> {
    pub(super) decoder: &'a mut Decoder,
    pub(super) texts: &'a mut Texts,
}

impl Context<'_> {
    pub(super) fn counts(&mut self) -> &mut Counts {
        &mut self.decoder.counts
    }

    /// A target's path: cleaned, masked, bounded.
    pub(super) fn path(&mut self, target: &[u8]) -> Arc<str> {
        self.texts.path.get(target, |raw| self.decoder.path(raw))
    }

    /// An authority's host: without port, cleaned, masked, bounded.
    pub(super) fn host(&mut self, authority: &[u8]) -> Arc<str> {
        self.texts.host.get(authority, |raw| self.decoder.host(raw))
    }

    /// The beginning of a user agent.
    pub(super) fn agent(&mut self, text: &[u8]) -> Arc<str> {
        self.texts.agent.get(text, |raw| self.decoder.agent(raw))
    }
}

/// The name of a protocol that is changed to, in lower case.
pub(super) fn protocol_name(text: &[u8]) -> Option<Arc<str>> {
    let first = text.split(|b| matches!(b, b',' | b'/' | b' ')).next()?;
    names::alpn(&first.to_ascii_lowercase()).map(Arc::from)
}

/// A content type of gRPC: `application/grpc`, `application/grpc+proto`, `application/grpc-web` …
pub(super) fn is_grpc(content_type: &[u8]) -> bool {
    let front = content_type
        .split_at_checked(16)
        .filter(|(front, _)| front.eq_ignore_ascii_case(b"application/grpc"));
    front.is_some_and(|(_, rest)| !rest.first().is_some_and(u8::is_ascii_alphanumeric))
}

/// A number in decimal digits and nothing else.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii();
    let plain = !digits.is_empty() && digits.len() <= 19 && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}
