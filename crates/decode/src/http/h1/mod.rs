//! HTTP/1: requests and answers cut out of both directions, and put together.
//!
//! # Which answer belongs to which request
//!
//! While nothing is lost, the first answer belongs to the first request that waits. An answer that begins before
//! its request did belongs to another; one that is reported before its request is (two threads of a client write and
//! read) waits for it.
//!
//! A hole that may have swallowed heads breaks the count. From then on:
//!
//! * A hole among requests only: those in front of it still get their answers in order. The one behind it gets the
//!   next answer if nothing else waited; otherwise none.
//! * A hole among answers: on a connection that never had two requests under way, an answer belongs to the latest
//!   request before it. This is held back until the next request shows that no request was lost meanwhile.
//! * Both, or a connection that pipelines: nothing is put together until the next *turn*. Requests are handed out
//!   without a status, once.
//! * A turn begins with a request that follows an answer: whoever does not pipeline has had all answers then,
//!   whatever was lost. So no mistake outlives a turn. Whoever sends further requests while answers to earlier ones
//!   are still to come has no such moment: after a hole nothing is put together any more on such a connection.

mod head;
mod pair;
mod reader;

use std::collections::VecDeque;

use gatewatch_event::Exchange;

pub(super) use reader::Looks;

use super::{Part, decoder::Context};
use head::{RequestHead, ResponseHead};
use pair::{Answer, Reading, Waiting};
use reader::{Framing, Head, Hole, Reader, Step};

/// Bytes and pieces of answers that wait for their request's report.
const EARLY_MAX: (usize, usize) = (16 << 10, 64);
/// Requests that wait for answers; more are handed out without.
const WAITING_MAX: usize = 1024;

/// What a conversation is to go on as.
pub(super) enum After {
    /// As before.
    Http1,
    /// It never was HTTP/1.
    Foreign,
    /// Something that is not looked into.
    Opaque,
    /// HTTP/2; its first stream answers this request.
    Http2(Box<Exchange>),
}

#[derive(Debug)]
struct Early {
    at_ns: u64,
    call_start: bool,
    bytes: Vec<u8>,
    hole: u64,
}

/// A connection that speaks HTTP/1.
#[derive(Debug)]
pub(super) struct Http1 {
    requests: Reader,
    responses: Reader,
    waiting: VecDeque<Waiting>,
    answer: Option<Answer>,
    reading: Reading,
    early: VecDeque<Early>,
    early_bytes: usize,
    /// An exchange put together behind a hole, until the next request shows that it was right.
    deferred: Option<Exchange>,
    /// A head was seen.
    synced: bool,
    /// Requests may have been lost since the latest one's head; answers likewise.
    requests_lost: bool,
    answers_lost: bool,
    /// Nothing is put together until the next turn; answers passed over since.
    astray: bool,
    unpaired: usize,
    turn: u32,
    /// Answers came since the latest request.
    answered_since: bool,
    last_answer_ns: u64,
    pipelines: bool,
    rolls: bool,
}

impl Http1 {
    /// `mid`: the connection has gone on for a while.
    pub(super) fn new(mid: bool) -> Self {
        Self {
            requests: Reader::new(mid),
            responses: Reader::new(mid),
            waiting: VecDeque::new(),
            answer: None,
            reading: Reading::Gone,
            early: VecDeque::new(),
            early_bytes: 0,
            deferred: None,
            synced: false,
            requests_lost: mid,
            answers_lost: false,
            astray: false,
            unpaired: 0,
            turn: 0,
            answered_since: false,
            last_answer_ns: 0,
            pipelines: false,
            rolls: false,
        }
    }

    /// A head was seen: it is HTTP/1.
    pub(super) fn synced(&self) -> bool {
        self.synced
    }

    /// A head is being put together.
    pub(super) fn within_head(&self) -> bool {
        self.requests.within_head() || self.responses.within_head()
    }

    /// Bytes held, roughly.
    pub(super) fn held(&self) -> usize {
        self.requests.held()
            + self.responses.held()
            + self.waiting.capacity() * size_of::<Waiting>()
            + self.waiting.len() * 512
            + self.early_bytes
            + self.early.capacity() * size_of::<Early>()
    }

    /// Reads a part of one direction; what is behind a change to another protocol is left in `part`.
    pub(super) fn feed(
        &mut self,
        of_request: bool,
        part: &mut Part<'_>,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) -> After {
        if of_request {
            return self.feed_request(part, cx, out);
        }
        if self.is_early() || !self.early.is_empty() {
            if self.keep_early(part) {
                return After::Http1;
            }
            // Too much for one that is only a little early: its request was lost, or the end of its head.
            if self.requests.within_head()
                && let Some(head) = self.requests.cut(cx)
            {
                self.request(head, cx, out);
                self.lose_requests(cx, out);
            }
            let after = self.release_early(u64::MAX, cx, out);
            if !matches!(after, After::Http1) {
                return after;
            }
        }
        self.feed_response(part, cx, out)
    }

    fn feed_request(
        &mut self,
        part: &mut Part<'_>,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) -> After {
        if part.hole > 0 {
            match self.requests.hole(part.hole) {
                Hole::Harmless => {}
                Hole::End => self.request_ends(),
                Hole::WithinHead => {
                    // Answers that came before it are not its own.
                    let after = self.release_early(self.requests.began_ns, cx, out);
                    if let Some(head) = self.requests.cut(cx) {
                        self.request(head, cx, out);
                    }
                    self.lose_requests(cx, out);
                    return after;
                }
                Hole::Lost => self.lose_requests(cx, out),
            }
            return After::Http1;
        }
        let mut call_start = part.call_start;
        loop {
            let before = part.bytes.len();
            match self.requests.step::<RequestHead>(&mut part.bytes, part.at_ns, call_start, cx) {
                Step::Dry => break,
                Step::End => self.request_ends(),
                Step::Head(head) => {
                    // Answers that came before it are not its own.
                    let after = self.release_early(self.requests.began_ns, cx, out);
                    if !matches!(after, After::Http1) {
                        return after;
                    }
                    let framing = head.framing;
                    self.request(head, cx, out);
                    if self.requests.body(framing, false) {
                        self.request_ends();
                    }
                    if framing == Framing::Lost {
                        self.lose_requests(cx, out);
                    }
                }
                Step::Skipped => {
                    cx.counts().skipped_bytes += (before - part.bytes.len()) as u64;
                    self.requests_lost = true;
                }
                Step::Bad => {
                    if !self.synced {
                        return After::Foreign;
                    }
                    cx.counts().garbage += 1;
                    self.requests.lose();
                    self.lose_requests(cx, out);
                }
            }
            call_start = false;
        }
        if self.requests.in_body() {
            return After::Http1;
        }
        self.release_asked_for(cx, out)
    }

    fn feed_response(
        &mut self,
        part: &mut Part<'_>,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) -> After {
        self.answered_since = true;
        self.last_answer_ns = part.at_ns;
        if let Some(answer) = &mut self.answer {
            answer.last_ns = part.at_ns;
        }
        if part.hole > 0 {
            match self.responses.hole(part.hole) {
                Hole::Harmless => {}
                Hole::End => self.response_ends(part.at_ns, cx, out),
                Hole::WithinHead => {
                    let head: Option<ResponseHead> = self.responses.cut(cx);
                    let after = head.map(|head| self.response(head, part.at_ns, cx, out));
                    self.lose_answers(cx);
                    return after.unwrap_or(After::Http1);
                }
                Hole::Lost => self.lose_answers(cx),
            }
            return After::Http1;
        }
        let mut call_start = part.call_start;
        loop {
            let before = part.bytes.len();
            if self.responses.lost() && !self.awaited() {
                // Nobody waits for an answer: what looks like one is the rest of another.
                call_start = false;
            }
            match self.responses.step::<ResponseHead>(&mut part.bytes, part.at_ns, call_start, cx) {
                Step::Dry => break,
                Step::End => self.response_ends(part.at_ns, cx, out),
                Step::Head(head) => {
                    let after = self.response(head, part.at_ns, cx, out);
                    if !matches!(after, After::Http1) {
                        return after;
                    }
                }
                Step::Skipped => {
                    cx.counts().skipped_bytes += (before - part.bytes.len()) as u64;
                    self.answers_lost = true;
                }
                Step::Bad => {
                    if !self.synced {
                        return After::Foreign;
                    }
                    cx.counts().garbage += 1;
                    self.responses.lose();
                    self.lose_answers(cx);
                }
            }
            call_start = false;
        }
        After::Http1
    }

    /// Somebody may wait for an answer that has not begun.
    fn awaited(&self) -> bool {
        !self.waiting.is_empty() || self.requests_lost
    }

    /// What comes is an answer that nobody has asked for, as far as was told.
    fn is_early(&self) -> bool {
        let in_step = self.responses.at_boundary() && !self.answers_lost && !self.astray;
        let nobody = self.waiting.is_empty() && self.answer.is_none() && !self.responses.within_head();
        // Where half a request is there, the rest is late, or lost.
        nobody && (in_step && !self.requests_lost || self.requests.within_head())
    }

    fn keep_early(&mut self, part: &Part<'_>) -> bool {
        let (bytes, pieces) = EARLY_MAX;
        if self.early.len() >= pieces || self.early_bytes + part.bytes.len() > bytes {
            return false;
        }
        self.early_bytes += part.bytes.len();
        let Part { at_ns, call_start, hole, .. } = *part;
        self.early.push_back(Early { at_ns, call_start, bytes: part.bytes.to_vec(), hole });
        true
    }

    /// Reads the answers kept that began before `before_ns`: what they answer will not come any more.
    fn release_early(
        &mut self,
        before_ns: u64,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) -> After {
        while let Some(early) = self.early.pop_front_if(|early| early.at_ns < before_ns) {
            let after = self.replay(&early, cx, out);
            if !matches!(after, After::Http1) {
                return after;
            }
        }
        After::Http1
    }

    /// Reads the answers kept for which somebody waits now.
    fn release_asked_for(&mut self, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) -> After {
        while !self.early.is_empty() && !self.is_early() {
            let Some(early) = self.early.pop_front() else { break };
            let after = self.replay(&early, cx, out);
            if !matches!(after, After::Http1) {
                return after;
            }
        }
        After::Http1
    }

    fn replay(&mut self, early: &Early, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) -> After {
        self.early_bytes = self.early_bytes.saturating_sub(early.bytes.len());
        let Early { at_ns, call_start, hole, .. } = *early;
        self.feed_response(
            &mut Part { at_ns, call_start, wire_len: early.bytes.len(), bytes: &early.bytes, hole },
            cx,
            out,
        )
    }
}

pub(super) fn begins_request(bytes: &[u8]) -> Looks {
    RequestHead::begins(bytes)
}

pub(super) fn looks_like_response(bytes: &[u8]) -> Looks {
    ResponseHead::looks(bytes)
}
