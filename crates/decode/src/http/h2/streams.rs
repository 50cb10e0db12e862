//! The streams of a connection: each one request and its answer.

use std::collections::VecDeque;

use gatewatch_event::{Exchange, HttpVersion, request::Method};

use super::{Role, SILENT_NS, frames::Frame, table::Fields};
use crate::http::{decoder::Context, hand_out};

/// Streams kept of one connection; when there are more, the oldest is handed out.
pub(super) const STREAMS_MAX: usize = 4096;

/// Stretches of lost requests remembered.
const MISSING_MAX: usize = 32;

#[derive(Debug)]
struct Stream {
    exchange: Exchange,
    /// Its request was seen.
    asked: bool,
    /// A final answer has begun.
    answered: bool,
    /// Its answer has ended, and its request is not seen yet.
    ended: bool,
    seen_ns: u64,
}

impl Stream {
    fn new(at_ns: u64) -> Self {
        let exchange = Exchange { version: HttpVersion::Http2, ..Exchange::default() };
        Self { exchange, asked: false, answered: false, ended: false, seen_ns: at_ns }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Streams {
    /// In the order of their numbers, which mostly is that of their coming.
    open: Vec<(u32, Box<Stream>)>,
    /// The highest number that a request was seen of.
    last: u32,
    /// Of those open, how many have no request yet.
    unasked: usize,
    /// Requests may have been lost since the last one seen.
    requests_lost: bool,
    /// When answers may have been lost.
    answers_lost_ns: Option<u64>,
    /// Numbers whose requests were lost, first and last: their answers are told of nevertheless.
    missing: VecDeque<(u32, u32)>,
}

impl Streams {
    pub(super) fn new(mid: bool) -> Self {
        Self {
            open: Vec::new(),
            last: 0,
            unasked: 0,
            requests_lost: mid,
            answers_lost_ns: None,
            missing: VecDeque::new(),
        }
    }

    pub(super) fn held(&self) -> usize {
        self.open.capacity() * size_of::<(u32, Box<Stream>)>() + self.open.len() * (size_of::<Stream>() + 64)
    }

    /// The first stream answers a request that was made over HTTP/1.
    pub(super) fn ask_first(&mut self, request: Exchange) {
        let mut stream = Stream::new(request.began_ns.unwrap_or(0));
        stream.asked = request.began_ns.is_some();
        stream.exchange = request;
        self.unasked = usize::from(!stream.asked);
        self.last = 1;
        self.open.push((1, Box::new(stream)));
    }

    pub(super) fn request(
        &mut self,
        head: Frame,
        fields: Fields,
        bytes: u64,
        at_ns: u64,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) {
        // Streams with even numbers are pushed.
        if head.stream.is_multiple_of(2) {
            return;
        }
        if head.stream <= self.last {
            // Trailers, or of a stream that is over.
            if let Some(stream) = self.get(head.stream) {
                stream.seen_ns = at_ns;
                stream.exchange.request_bytes += bytes;
            }
            return;
        }
        if std::mem::take(&mut self.requests_lost) && head.stream - self.last > 2 {
            if self.missing.len() >= MISSING_MAX {
                self.missing.pop_front();
            }
            self.missing.push_back((self.last + 1, head.stream - 1));
        }
        self.last = head.stream;
        if self.unasked > 0 {
            self.give_up_unasked(head.stream, cx, out);
        }
        self.give_up_silent(at_ns, cx, out);
        let at = self.place(head.stream, at_ns, cx, out);
        let Some((_, stream)) = self.open.get_mut(at) else { return };
        stream.asked = true;
        stream.seen_ns = at_ns;
        self.unasked -= 1;
        let exchange = &mut stream.exchange;
        exchange.began_ns = Some(head.began_ns);
        exchange.method = fields.method.unwrap_or(Method::Unknown);
        let complete = fields.method.is_some()
            && fields.host.is_some()
            && (fields.path.is_some() || fields.method == Some(Method::Connect));
        exchange.path = fields.path.unwrap_or_default();
        exchange.host = fields.host.unwrap_or_default();
        exchange.user_agent = fields.agent.unwrap_or_default();
        exchange.grpc |= fields.grpc;
        exchange.request_bytes += bytes;
        // Without a method it is no request as the standard has it.
        exchange.partial |= fields.broken || fields.method.is_none() || (fields.unknown > 0 && !complete);
        if exchange.method == Method::Connect {
            exchange.upgraded = Some(fields.protocol.unwrap_or_else(|| "connect".into()));
        }
        if stream.ended {
            let ended_ns = stream.seen_ns.max(exchange.ended_ns);
            let ended_ns = if exchange.ended_ns == 0 { ended_ns } else { exchange.ended_ns };
            self.end(at, ended_ns, cx, out);
        }
    }

    pub(super) fn response(
        &mut self,
        head: Frame,
        fields: Fields,
        bytes: u64,
        at_ns: u64,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) {
        if head.stream.is_multiple_of(2) {
            return;
        }
        let known = self.find(head.stream).is_ok();
        if !known && head.stream <= self.last {
            // Of a stream that is over, or whose request was lost; trailers have no status.
            let is = |(first, last): &(u32, u32)| (*first..=*last).contains(&head.stream);
            if fields.status.is_none() || !self.missing.iter().any(is) {
                return;
            }
        }
        let at = self.place(head.stream, at_ns, cx, out);
        let Some((_, stream)) = self.open.get_mut(at) else { return };
        stream.seen_ns = at_ns;
        let exchange = &mut stream.exchange;
        exchange.response_bytes += bytes;
        exchange.grpc |= fields.grpc;
        exchange.grpc_status = fields.grpc_status.or(exchange.grpc_status);
        exchange.partial |= fields.broken;
        if fields.status.is_some_and(|status| (100..200).contains(&status)) {
            return;
        }
        if !stream.answered {
            stream.answered = true;
            exchange.status = fields.status.filter(|status| (200..1000).contains(status));
            exchange.partial |= exchange.status.is_none();
            let granted = exchange.status.is_some_and(|status| status < 300);
            if exchange.method == Method::Connect && granted && stream.asked {
                return self.end(at, at_ns, cx, out);
            }
        }
        if head.ends_stream() {
            self.answer_ends(at, at_ns, cx, out);
        }
    }

    pub(super) fn data(
        &mut self,
        role: Role,
        frame: Frame,
        at_ns: u64,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) {
        let Ok(at) = self.find(frame.stream) else { return };
        let Some((_, stream)) = self.open.get_mut(at) else { return };
        stream.seen_ns = at_ns;
        match role {
            Role::Request => stream.exchange.request_bytes += frame.bytes(),
            Role::Response => {
                stream.exchange.response_bytes += frame.bytes();
                if frame.ends_stream() {
                    self.answer_ends(at, at_ns, cx, out);
                }
            }
        }
    }

    /// Either side is done with a stream.
    pub(super) fn reset(
        &mut self,
        id: u32,
        at_ns: u64,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) {
        if let Ok(at) = self.find(id) {
            self.answer_ends(at, at_ns, cx, out);
        }
    }

    /// The server has not looked at streams above `last`, and will not.
    pub(super) fn go_away(
        &mut self,
        last: u32,
        at_ns: u64,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) {
        while let Some((id, stream)) = self.open.last()
            && *id > last
            && stream.asked
        {
            self.end(self.open.len() - 1, at_ns, cx, out);
        }
    }

    /// Requests may have been lost.
    pub(super) fn lose_requests(&mut self, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        self.requests_lost = true;
        if self.unasked > 0 {
            self.give_up_unasked(u32::MAX, cx, out);
        }
    }

    /// Ends of answers may have been lost.
    pub(super) fn lose_answers(&mut self, at_ns: u64) {
        self.answers_lost_ns = Some(at_ns);
    }

    pub(super) fn close(&mut self, at_ns: u64, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        let unsure = self.answers_lost_ns.is_some();
        for (_, stream) in self.open.drain(..) {
            let mut exchange = stream.exchange;
            if !stream.ended {
                exchange.ended_ns = at_ns;
                exchange.partial |= unsure;
            }
            cx.counts().orphans += u64::from(!stream.asked);
            exchange.partial |= !stream.asked;
            not_granted(&mut exchange);
            hand_out(exchange, cx, out);
        }
        self.unasked = 0;
    }

    fn answer_ends(&mut self, at: usize, at_ns: u64, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        let Some((id, stream)) = self.open.get_mut(at) else { return };
        if !stream.asked && !self.requests_lost && *id > self.last {
            // Its request will be told of, or one with a higher number.
            stream.ended = true;
            stream.exchange.ended_ns = at_ns;
            return;
        }
        self.last = self.last.max(*id);
        self.end(at, at_ns, cx, out);
    }

    fn end(&mut self, at: usize, ended_ns: u64, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        if at >= self.open.len() {
            return;
        }
        let (_, stream) = self.open.remove(at);
        let mut exchange = stream.exchange;
        exchange.ended_ns = ended_ns;
        if !stream.asked {
            self.unasked -= 1;
            cx.counts().orphans += 1;
            exchange.partial = true;
        }
        not_granted(&mut exchange);
        hand_out(exchange, cx, out);
    }

    fn find(&self, id: u32) -> Result<usize, usize> {
        // The newest is asked for most.
        match self.open.last() {
            Some((last, _)) if *last == id => Ok(self.open.len() - 1),
            Some((last, _)) if *last < id => Err(self.open.len()),
            _ => self.open.binary_search_by_key(&id, |(id, _)| *id),
        }
    }

    fn get(&mut self, id: u32) -> Option<&mut Stream> {
        let at = self.find(id).ok()?;
        self.open.get_mut(at).map(|(_, stream)| &mut **stream)
    }

    /// The stream's place, made if need be; a new one counts as unasked.
    fn place(&mut self, id: u32, at_ns: u64, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) -> usize {
        if let Ok(at) = self.find(id) {
            return at;
        }
        if self.open.len() >= STREAMS_MAX {
            cx.counts().streams_over += 1;
            if let Some((_, oldest)) = self.open.first_mut() {
                oldest.exchange.partial = true;
            }
            self.end(0, at_ns, cx, out);
        }
        let at = self.find(id).unwrap_or_else(|at| at);
        self.open.insert(at, (id, Box::new(Stream::new(at_ns))));
        self.unasked += 1;
        at
    }

    /// Hands out answers whose requests were lost: one with a higher number has come.
    fn give_up_unasked(&mut self, below: u32, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        let mut at = 0;
        while let Some((id, stream)) = self.open.get(at) {
            if *id < below && !stream.asked && stream.ended {
                let ended_ns = stream.exchange.ended_ns;
                self.last = self.last.max(*id);
                self.end(at, ended_ns, cx, out);
            } else {
                at += 1;
            }
        }
    }

    /// Hands out the oldest, as long as they are silent since something was lost.
    fn give_up_silent(&mut self, at_ns: u64, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        let Some(lost_ns) = self.answers_lost_ns else { return };
        if at_ns.saturating_sub(lost_ns) < SILENT_NS {
            return;
        }
        let mut at = 0;
        while let Some((_, stream)) = self.open.get_mut(at) {
            if stream.seen_ns <= lost_ns {
                stream.exchange.partial = true;
                let ended_ns = stream.seen_ns;
                self.end(at, ended_ns, cx, out);
            } else {
                at += 1;
            }
        }
        self.answers_lost_ns = None;
    }
}

/// What was asked for is not what came.
fn not_granted(exchange: &mut Exchange) {
    let h2c = exchange.method != Method::Connect;
    if !h2c && !exchange.status.is_some_and(|status| (200..300).contains(&status)) {
        exchange.upgraded = None;
    }
}
