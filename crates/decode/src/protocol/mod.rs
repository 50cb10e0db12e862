//! The application protocol of a connection, told from its first bytes.
//!
//! A [`Recogniser`] is fed the first payload bytes of a few packets of each direction, and holds what they tell. It
//! believes bytes before ports, and only bytes that cannot be chance: where nothing fits, the port's usual
//! protocol is named, and [`Verdict::confident`] says that it is a guess.
//!
//! All input is hostile. Work is linear in what is fed, nothing is kept beyond [`KEPT_MAX`] bytes a direction, and
//! that only while a hello or a head is being put together. Names are cleaned as hosts are elsewhere; a path is
//! not masked yet.

pub(crate) mod bytes;
mod dns;
mod hpack;
pub(crate) mod http1;
pub(crate) mod http2;
mod join;
pub(crate) mod names;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tls;

use std::borrow::Cow;

use gatewatch_event::{Application, Tls, Transport};

use http1::{Head, Upgrade};
use join::{Joined, join};

/// Most bytes kept of one direction, while a message is put together from several packets.
pub const KEPT_MAX: usize = 4096;
/// Samples looked at in each direction; later ones change nothing.
pub const SAMPLES_MAX: u8 = 4;

/// `HTTP/1.1 200 OK`: as much as tells a status line.
const LINE_FRONT: usize = 16;

/// Where a sample came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the side that opened the connection.
    FromInitiator,
    /// From the side that accepted it.
    FromResponder,
    /// From the first side to the second, where nobody knows which opened it.
    AToB,
    /// The other way.
    BToA,
}

/// The ports of both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The initiator's, or that of side A.
    pub a: u16,
    /// The responder's, or that of side B.
    pub b: u16,
}

/// What is known of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Its protocol.
    pub application: Application,
    /// What a hello told. Of TLS only.
    pub tls: Option<Tls>,
    /// The host of the first request without its port, or the name of the first question to DNS: lower case, at
    /// most 255 bytes, U+FFFD for what no host has.
    pub host: Option<String>,
    /// The path of the first request without its query: at most 512 bytes, without control characters. Not
    /// masked: it goes through [`mask::Masker`](crate::mask::Masker) before it is shown.
    pub path: Option<String>,
    /// Told by bytes that cannot be chance. Otherwise by a port, or by too little.
    pub confident: bool,
}

/// What the bytes were found to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Unknown,
    Http1,
    Http2,
    Tls,
    Dns,
}

/// Puts together what the samples of one connection tell.
#[derive(Debug, Default)]
pub struct Recogniser {
    a: Side,
    b: Side,
    kind: Kind,
    /// Later samples do not overturn `kind`.
    sure: bool,
    /// What the port suggests.
    usual: Application,
    host: Option<Box<str>>,
    path: Option<Box<str>>,
    /// The first request's host and path are told as far as they ever will be.
    placed: bool,
    tls: Option<Box<tls::Known>>,
    /// What HTTP/1 was asked to change to, until that is refused.
    asked: Option<Upgrade>,
    /// What it changed to.
    changed: Option<Upgrade>,
    /// An HTTP/1 response was seen.
    answered: bool,
    grpc: bool,
}

/// One direction.
#[derive(Debug, Default)]
struct Side {
    samples: u8,
    /// This side's hello is read in full.
    told: bool,
    /// The front of a message that needs more.
    kept: Vec<u8>,
    walk: Option<Box<http2::Walk>>,
}

/// What to do with bytes that were looked at.
#[derive(PartialEq, Eq)]
enum Next {
    /// They were understood as far as they go.
    Done,
    /// They will tell more once the following bytes are known.
    Keep,
    /// They are nothing known.
    Stranger,
}

impl Recogniser {
    /// Knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at the first payload bytes of a packet; `wire_len` is the length of all of them.
    ///
    /// Samples of a direction come in order. One that was sent again or came late costs detail, not correctness.
    pub fn feed(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        wire_len: usize,
        transport: Transport,
        ports: Ports,
    ) {
        let (from_a, roles_known) = match direction {
            Direction::FromInitiator => (true, true),
            Direction::FromResponder => (false, true),
            Direction::AToB => (true, false),
            Direction::BToA => (false, false),
        };
        self.usual = by_ports(transport, ports, roles_known);
        if bytes.is_empty() {
            return;
        }
        let on_the_wire = wire_len.max(bytes.len());
        let dns =
            [ports.a, ports.b].map(|port| Application::by_port(transport, port)).contains(&Application::Dns);
        match transport {
            Transport::Tcp => self.segment(from_a, bytes, on_the_wire - bytes.len(), dns),
            Transport::Udp => self.datagram(from_a, bytes, dns),
        }
    }

    /// More samples cannot tell more: feeding can stop.
    #[must_use]
    pub fn settled(&self) -> bool {
        if self.a.samples >= SAMPLES_MAX && self.b.samples >= SAMPLES_MAX {
            return true;
        }
        self.sure
            && match self.kind {
                Kind::Unknown => false,
                Kind::Dns => self.host.is_some(),
                Kind::Tls => self.a.told && self.b.told,
                Kind::Http1 => self.placed && self.answered || self.changed == Some(Upgrade::WebSocket),
                Kind::Http2 => self.grpc && self.placed,
            }
    }

    /// Frees what is kept for messages that are not complete: no more samples come.
    pub fn release(&mut self) {
        for side in [&mut self.a, &mut self.b] {
            side.kept = Vec::new();
            side.walk = None;
            side.samples = SAMPLES_MAX;
        }
    }

    /// What is known so far.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let application = match self.kind {
            Kind::Unknown => self.usual,
            Kind::Http1 => match self.changed.or(self.asked) {
                Some(Upgrade::WebSocket) => Application::WebSocket,
                Some(Upgrade::H2c) | None => Application::Http1,
            },
            Kind::Http2 if self.grpc => Application::Grpc,
            Kind::Http2 => Application::Http2,
            Kind::Tls => Application::Tls,
            Kind::Dns => Application::Dns,
        };
        // To ask for WebSocket is not to get it.
        let only_asked = application == Application::WebSocket && self.changed.is_none();
        Verdict {
            application,
            tls: self.tls.as_ref().map(|tls| tls.told()),
            host: self.host.as_deref().map(str::to_owned),
            path: self.path.as_deref().map(str::to_owned),
            confident: self.sure && !only_asked,
        }
    }

    fn side(&mut self, from_a: bool) -> &mut Side {
        if from_a { &mut self.a } else { &mut self.b }
    }

    /// False once this side has been looked at enough.
    fn count(&mut self, from_a: bool) -> bool {
        let side = self.side(from_a);
        let counts = side.samples < SAMPLES_MAX;
        side.samples = side.samples.saturating_add(1);
        counts
    }

    fn datagram(&mut self, from_a: bool, bytes: &[u8], dns: bool) {
        if !self.count(from_a) || (self.sure && self.host.is_some()) {
            return;
        }
        if let Some(message) = dns::read(bytes, dns) {
            self.is_dns(message);
        }
    }

    fn is_dns(&mut self, message: dns::Message) {
        self.become_known(Kind::Dns, true);
        if self.host.is_none() {
            self.host = message.name.map(String::into_boxed_str);
        }
    }

    /// `cut` is how many bytes of the segment behind `bytes` were not captured.
    fn segment(&mut self, from_a: bool, bytes: &[u8], cut: usize, dns: bool) {
        if !self.count(from_a) || self.changed == Some(Upgrade::WebSocket) {
            return;
        }
        if self.kind == Kind::Http2 {
            return self.frames(from_a, bytes, cut);
        }
        let side = self.side(from_a);
        if side.told {
            return;
        }
        match join(&mut side.kept, bytes) {
            // The last there will be: what it was to complete stays as it is.
            Joined::Again if side.samples >= SAMPLES_MAX => side.kept = Vec::new(),
            Joined::Again => {}
            Joined::Bytes(joined @ Cow::Borrowed(_)) => {
                self.start(from_a, joined, cut, dns);
            }
            Joined::Bytes(joined @ Cow::Owned(_)) => {
                if !self.start(from_a, joined, cut, dns) {
                    // They do not belong together.
                    self.start(from_a, Cow::Borrowed(bytes), cut, dns);
                }
            }
        }
    }

    /// Looks at the front of a message, and keeps it if more is needed. False if it is nothing.
    fn start(&mut self, from_a: bool, bytes: Cow<'_, [u8]>, cut: usize, dns: bool) -> bool {
        let last = cut > 0 || bytes.len() >= KEPT_MAX || self.side(from_a).samples >= SAMPLES_MAX;
        let next = match self.kind {
            Kind::Tls if self.sure => self.tls(from_a, &bytes, cut),
            Kind::Http1 if self.sure => self.http1(from_a, &bytes, cut, last),
            Kind::Dns => Next::Done,
            Kind::Unknown | Kind::Http1 | Kind::Http2 | Kind::Tls => self.any(from_a, &bytes, cut, last, dns),
        };
        if next == Next::Keep && !last {
            self.side(from_a).kept = bytes.into_owned();
        }
        next != Next::Stranger
    }

    fn any(&mut self, from_a: bool, bytes: &[u8], cut: usize, last: bool, dns: bool) -> Next {
        let mut maybe = false;
        match http2::front(bytes, bytes.len() + cut) {
            http2::Front::No => {}
            http2::Front::Maybe => maybe = true,
            front @ (http2::Front::Beginning | http2::Front::Frames) => {
                self.become_known(Kind::Http2, front == http2::Front::Beginning);
                self.frames(from_a, bytes, cut);
                return Next::Done;
            }
        }
        let mut next = self.tls(from_a, bytes, cut);
        if next == Next::Stranger {
            next = self.http1(from_a, bytes, cut, last);
        }
        if next != Next::Done && self.kind != Kind::Http1 {
            if let Some(message) = dns::read_sized(bytes, dns) {
                self.is_dns(message);
                return Next::Done;
            }
            // Some send the length in a packet of its own.
            maybe |= dns && bytes.len() < 2 + 12 + 5;
        }
        if next == Next::Stranger && maybe { Next::Keep } else { next }
    }

    fn tls(&mut self, from_a: bool, bytes: &[u8], cut: usize) -> Next {
        match tls::read(bytes, bytes.len() + cut) {
            tls::Front::No => Next::Stranger,
            tls::Front::Maybe => Next::Keep,
            tls::Front::Records { sure } => {
                self.become_known(Kind::Tls, sure);
                Next::Done
            }
            tls::Front::Hello(hello) => {
                self.become_known(Kind::Tls, true);
                let whole = hello.whole;
                let tls = self.tls.get_or_insert_default();
                tls.add(hello);
                if tls.answered() {
                    // The client had been understood: what is kept of it will not grow to anything.
                    self.side(!from_a).kept = Vec::new();
                }
                self.side(from_a).told |= whole;
                if whole { Next::Done } else { Next::Keep }
            }
        }
    }

    fn http1(&mut self, from_a: bool, bytes: &[u8], cut: usize, last: bool) -> Next {
        match http1::read(bytes) {
            Head::No => Next::Stranger,
            // Most likely a part of a body, unless it is as short as the beginning of a line.
            Head::Maybe if self.kind == Kind::Http1 && self.sure && bytes.len() > LINE_FRONT => {
                Next::Stranger
            }
            Head::Maybe => {
                if last && let Some(target) = http1::cut_line(bytes) {
                    self.become_known(Kind::Http1, false);
                    self.place(None, Some(target), true);
                }
                Next::Keep
            }
            Head::Request { target, host, upgrade, whole } => {
                self.become_known(Kind::Http1, true);
                let (host, path) = http1::place(target, host);
                self.place(host, path, whole || last);
                self.asked = upgrade.or(self.asked);
                if whole { Next::Done } else { Next::Keep }
            }
            Head::Response { status, upgrade, body } => {
                self.become_known(Kind::Http1, true);
                if status != 101 {
                    // Others below 200 come before the answer.
                    if status >= 200 {
                        self.answered = true;
                        self.asked = None;
                    }
                    return Next::Done;
                }
                if body.is_none() && !last {
                    return Next::Keep;
                }
                self.changed = upgrade.or(self.asked);
                if self.changed == Some(Upgrade::H2c) {
                    self.kind = Kind::Http2;
                    let frames = body.and_then(|at| bytes.get(at..)).unwrap_or_default();
                    self.frames(from_a, frames, cut);
                }
                Next::Done
            }
        }
    }

    fn frames(&mut self, from_a: bool, bytes: &[u8], cut: usize) {
        let side = self.side(from_a);
        let last = side.samples >= SAMPLES_MAX;
        let mut walk = side.walk.take().unwrap_or_default();
        walk.feed(bytes, cut, last, |fields| {
            if fields.grpc() {
                // No chance hit, even where the frames alone could be one.
                (self.grpc, self.sure) = (true, true);
            }
            if fields.path.is_some() || fields.authority.is_some() {
                self.place(fields.authority.as_deref(), fields.path.as_deref(), true);
            }
        });
        if !last {
            self.side(from_a).walk = Some(walk);
        }
    }

    /// Host and path of the first request, of which nothing more comes if it is `all`.
    fn place(&mut self, host: Option<&[u8]>, path: Option<&[u8]>, all: bool) {
        if self.placed {
            return;
        }
        self.placed = all;
        if self.host.is_none() {
            self.host = host.and_then(names::authority).map(String::into_boxed_str);
        }
        if self.path.is_none() {
            self.path = path.and_then(names::path).map(String::into_boxed_str);
        }
    }

    fn become_known(&mut self, kind: Kind, sure: bool) {
        if !self.sure {
            if self.kind != kind {
                // What an earlier guess brought is of something else.
                (self.host, self.path, self.placed) = (None, None, false);
            }
            self.kind = kind;
            self.sure = sure;
        }
    }
}

/// What the ports suggest: the responder's, or, where nobody knows who that is, the lower one that has a name.
fn by_ports(transport: Transport, ports: Ports, roles_known: bool) -> Application {
    let of = |port| Application::by_port(transport, port);
    if roles_known {
        return of(ports.b);
    }
    match of(ports.a.min(ports.b)) {
        Application::Unknown => of(ports.a.max(ports.b)),
        known @ (Application::Http1
        | Application::Http2
        | Application::Grpc
        | Application::WebSocket
        | Application::Tls
        | Application::Dns
        | Application::Other(_)) => known,
    }
}
