//! Requests and answers put together: the rules are in the [module above](super).

use std::sync::Arc;

use gatewatch_event::{Exchange, request::Method};

use super::{
    After, Http1, WAITING_MAX,
    head::{RequestHead, ResponseHead},
    reader::Framing,
};
use crate::http::{decoder::Context, hand_out};

/// A request that has no answer yet.
#[derive(Debug)]
pub(super) struct Waiting {
    exchange: Exchange,
    /// What it asks to change to.
    upgrade: Option<Arc<str>>,
    /// It waits for a 100 before it sends its body.
    expects: bool,
    turn: u32,
    /// Requests may have been lost right in front of it.
    after_hole: bool,
    /// Others waited when it came.
    behind: bool,
}

impl Waiting {
    fn began_by(&self, at_ns: u64) -> bool {
        self.exchange.began_ns.is_some_and(|began_ns| began_ns <= at_ns)
    }
}

/// A response that is being read.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    grpc: bool,
    grpc_status: Option<u32>,
    /// Its place in the stream.
    start: u64,
    pub(super) last_ns: u64,
    of: Of,
    /// Whether it belongs to its request is seen only when the next one comes.
    deferred: bool,
    /// Its end was not seen.
    pub(super) open_ended: bool,
}

/// What an answer belongs to.
#[derive(Debug)]
enum Of {
    Request(Box<Waiting>),
    /// A request that was not seen.
    Unseen,
    /// It is not known which; it is accounted for elsewhere.
    Unknown,
}

/// Whose body the reader of requests is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// That of the last one that waits.
    Last,
    /// That of the one being answered.
    Answered,
    /// Of none that is still of interest.
    Gone,
}

impl Http1 {
    /// A request begins.
    pub(super) fn request(
        &mut self,
        head: RequestHead,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) {
        let began_ns = self.requests.began_ns;
        self.synced = true;
        if (self.answered_since || self.waiting.is_empty()) && self.last_answer_ns <= began_ns {
            self.answered_since = false;
            self.begin_turn(began_ns, cx, out);
        }
        let after_hole = std::mem::take(&mut self.requests_lost);
        if after_hole {
            self.doubt(cx, out);
        } else {
            self.confirm(cx, out);
        }
        if self.waiting.len() >= WAITING_MAX {
            self.astray = true;
            self.settle(began_ns, cx, out);
        }
        let exchange = Exchange {
            began_ns: Some(began_ns),
            version: head.version,
            grpc: head.grpc,
            method: head.method,
            host: head.host,
            path: head.path,
            user_agent: head.agent,
            request_bytes: self.requests.message_bytes(),
            partial: head.cut,
            ..Exchange::default()
        };
        let behind = !self.waiting.is_empty() || self.answer.is_some();
        self.waiting.push_back(Waiting {
            exchange,
            upgrade: head.upgrade,
            expects: head.expects,
            turn: self.turn,
            after_hole,
            behind,
        });
        self.reading = Reading::Last;
    }

    /// A request follows an answer: see the module's head.
    fn begin_turn(&mut self, at_ns: u64, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        self.turn = self.turn.wrapping_add(1);
        if self.astray || self.answers_lost {
            self.cut_answer(at_ns, cx, out);
        }
        if let Some(answer) = self.answer.take_if(|answer| answer.open_ended) {
            let (last_ns, end) = (answer.last_ns, self.responses.taken);
            self.finish(answer, last_ns, end, cx, out);
        }
        if self.astray || self.answers_lost {
            self.settle(at_ns, cx, out);
            (self.astray, self.answers_lost) = (self.rolls, false);
        }
        if self.responses.until_close() {
            // It was no such body after all, if an answer follows.
            self.responses.expect_head();
        }
    }

    /// An answer's head whose end will not come tells its status all the same.
    fn cut_answer(&mut self, at_ns: u64, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        if self.responses.within_head()
            && let Some(head) = self.responses.cut(cx)
        {
            let _over_anyway = self.response(head, at_ns, cx, out);
        }
    }

    /// No request was lost since the last one: what was put together belongs together.
    fn confirm(&mut self, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        if let Some(exchange) = self.deferred.take() {
            hand_out(exchange, cx, out);
        }
        if let Some(answer) = &mut self.answer {
            answer.deferred = false;
        }
    }

    /// The same, but requests were lost.
    fn doubt(&mut self, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        let running = self.answer.as_mut().filter(|answer| answer.deferred).map(|answer| {
            answer.deferred = false;
            std::mem::replace(&mut answer.of, Of::Unknown)
        });
        let ended = self.deferred.take();
        let asked = match running {
            Some(Of::Request(waiting)) => Some(waiting.exchange),
            Some(Of::Unseen | Of::Unknown) | None => None,
        };
        for exchange in ended.into_iter().chain(asked) {
            cx.counts().unpaired += 1;
            let partial =
                Exchange { status: None, grpc_status: None, response_bytes: 0, partial: true, ..exchange };
            hand_out(partial, cx, out);
        }
    }

    /// The body of the request being read is over.
    pub(super) fn request_ends(&mut self) {
        let bytes = self.requests.message_bytes();
        if let Some(exchange) = self.being_read() {
            exchange.request_bytes = bytes;
        }
        self.reading = Reading::Gone;
    }

    fn being_read(&mut self) -> Option<&mut Exchange> {
        match (self.reading, &mut self.answer) {
            (Reading::Last, _) => self.waiting.back_mut().map(|waiting| &mut waiting.exchange),
            (Reading::Answered, Some(Answer { of: Of::Request(waiting), .. })) => Some(&mut waiting.exchange),
            (Reading::Answered, _) | (Reading::Gone, _) => None,
        }
    }

    /// A hole among requests.
    pub(super) fn lose_requests(&mut self, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        cx.counts().holes += 1;
        if let Some(exchange) = self.being_read() {
            exchange.partial = true;
        }
        self.request_ends();
        self.requests_lost = true;
        self.doubt(cx, out);
    }

    /// A hole among answers.
    pub(super) fn lose_answers(&mut self, cx: &mut Context<'_>) {
        cx.counts().holes += 1;
        self.answers_lost = true;
        if let Some(answer) = &mut self.answer {
            answer.open_ended = true;
        }
    }

    /// An answer begins.
    pub(super) fn response(
        &mut self,
        head: ResponseHead,
        at_ns: u64,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) -> After {
        self.synced = true;
        let (began_ns, start) = (self.responses.began_ns, self.responses.start);
        if let Some(answer) = self.answer.take() {
            // Its end was not seen, or is told by this head.
            let last_ns = answer.last_ns;
            self.finish(answer, last_ns, start, cx, out);
        }
        if head.status < 200 && head.status != 101 {
            self.responses.body(Framing::None, false);
            if let Some(waiting) = self.waiting.front_mut().filter(|_| head.status == 100) {
                waiting.expects = false;
            }
            return After::Http1;
        }
        if self.answers_lost && self.requests.within_head() && self.requests.began_ns <= began_ns {
            // The latest request is not all there. Whether further ones came behind it, nobody knows.
            if let Some(head) = self.requests.cut(cx) {
                self.request(head, cx, out);
            }
            self.lose_requests(cx, out);
            self.answers_lost = true;
        }
        let (of, deferred) = self.match_up(began_ns, at_ns, cx, out);
        let asked = if let Of::Request(waiting) = &of { Some(waiting) } else { None };
        let method = asked.map_or(Method::Unknown, |waiting| waiting.exchange.method);
        let tunnel = method == Method::Connect && (200..300).contains(&head.status);
        let changes = head.status == 101 || tunnel;
        let to = head.upgrade.or_else(|| asked.and_then(|waiting| waiting.upgrade.clone()));
        // Refused before it sent its body: perhaps it never will.
        let refused = asked.is_some_and(|waiting| waiting.expects);
        let framing = if method == Method::Head || changes { Framing::None } else { head.framing };
        let answer = Answer {
            status: head.status,
            grpc: head.grpc,
            grpc_status: head.grpc_status,
            start,
            last_ns: at_ns,
            of,
            deferred,
            open_ended: false,
        };
        if changes {
            self.responses.body(Framing::None, false);
            return self.change(answer, to.filter(|_| !tunnel), at_ns, cx, out);
        }
        if refused {
            self.requests.expect_head();
        }
        self.answer = Some(answer);
        if self.responses.body(framing, method == Method::Unknown) {
            self.response_ends(at_ns, cx, out);
        }
        if framing == Framing::Lost {
            self.lose_answers(cx);
        }
        After::Http1
    }

    /// The connection goes on as something else.
    fn change(
        &mut self,
        mut answer: Answer,
        to: Option<Arc<str>>,
        at_ns: u64,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) -> After {
        answer.deferred = false;
        let to = to.unwrap_or_else(|| Arc::from("connect"));
        let is_http2 = &*to == "h2c";
        match &mut answer.of {
            Of::Request(waiting) if is_http2 => {
                waiting.exchange.upgraded = Some(to);
                return After::Http2(Box::new(std::mem::take(&mut waiting.exchange)));
            }
            Of::Request(waiting) => waiting.exchange.upgraded = Some(to),
            Of::Unseen | Of::Unknown => {}
        }
        let end = self.responses.taken;
        self.finish(answer, at_ns, end, cx, out);
        self.settle(at_ns, cx, out);
        if is_http2 { After::Http2(Box::default()) } else { After::Opaque }
    }

    /// What an answer belongs to, and whether that has still to be confirmed.
    fn match_up(
        &mut self,
        began_ns: u64,
        at_ns: u64,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) -> (Of, bool) {
        if !self.astray && self.waiting.is_empty() {
            return (Of::Unseen, false);
        }
        let found = if self.astray {
            None
        } else if self.answers_lost {
            // Those in front had theirs in the hole.
            let latest = self.waiting.iter().rposition(|waiting| waiting.began_by(began_ns));
            latest.filter(|_| !self.pipelines && !self.requests_lost)
        } else {
            let front = self.waiting.front();
            if front.is_some_and(|waiting| !waiting.began_by(began_ns)) {
                return (Of::Unseen, false);
            }
            let next = self.waiting.get(1).filter(|next| next.began_by(began_ns));
            let sure = front.filter(|front| !(front.after_hole && (self.pipelines || front.behind)));
            if let (Some(front), Some(next)) = (sure, next) {
                self.pipelines = true;
                self.rolls |= next.turn != front.turn;
            }
            sure.map(|_| 0)
        };
        let Some(at) = found else {
            self.astray = true;
            self.unpaired += 1;
            return (Of::Unknown, false);
        };
        for _ in 0..at {
            if let Some(Waiting { exchange, .. }) = self.waiting.pop_front() {
                hand_out(Exchange { ended_ns: at_ns, partial: true, ..exchange }, cx, out);
            }
        }
        let Some(mut waiting) = self.waiting.pop_front() else { return (Of::Unseen, false) };
        if self.waiting.is_empty() && self.reading == Reading::Last {
            self.reading = Reading::Answered;
        }
        waiting.exchange.partial |= self.answers_lost;
        (Of::Request(Box::new(waiting)), self.answers_lost)
    }

    /// The answer that is being read is over.
    pub(super) fn response_ends(&mut self, at_ns: u64, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        if let Some(answer) = self.answer.take() {
            let end = self.responses.taken;
            self.finish(answer, at_ns, end, cx, out);
        }
    }

    /// Hands out what an answer ends; `end` is its place in the stream.
    pub(super) fn finish(
        &mut self,
        answer: Answer,
        ended_ns: u64,
        end: u64,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) {
        let request_bytes = self.requests.message_bytes();
        let exchange = match answer.of {
            Of::Request(mut waiting) => {
                if self.reading == Reading::Answered {
                    self.reading = Reading::Gone;
                    waiting.exchange.request_bytes = request_bytes;
                }
                waiting.exchange
            }
            Of::Unseen => {
                cx.counts().orphans += 1;
                Exchange { partial: true, ..Exchange::default() }
            }
            Of::Unknown => return,
        };
        let exchange = Exchange {
            ended_ns,
            status: Some(answer.status),
            grpc: exchange.grpc || answer.grpc,
            grpc_status: answer.grpc_status,
            response_bytes: end.saturating_sub(answer.start),
            partial: exchange.partial || answer.open_ended,
            ..exchange
        };
        if answer.deferred {
            self.deferred = Some(exchange);
        } else {
            hand_out(exchange, cx, out);
        }
    }

    /// Hands out what waits, without answers; and for answers that exceed it, what is known: that there was a request.
    pub(super) fn settle(&mut self, at_ns: u64, cx: &mut Context<'_>, out: &mut impl FnMut(Exchange)) {
        let unsure = self.astray || self.answers_lost;
        let answers = std::mem::take(&mut self.unpaired);
        let requests = self.waiting.len();
        for Waiting { exchange, .. } in self.waiting.drain(..) {
            let partial = exchange.partial || unsure;
            hand_out(Exchange { ended_ns: at_ns, partial, ..exchange }, cx, out);
        }
        if self.reading == Reading::Last {
            self.reading = Reading::Gone;
        }
        cx.counts().unpaired += answers.min(requests) as u64;
        // Whoever rolls on gets answers to requests that were handed out already.
        for _ in requests..if self.rolls { 0 } else { answers } {
            cx.counts().orphans += 1;
            hand_out(Exchange { ended_ns: at_ns, partial: true, ..Exchange::default() }, cx, out);
        }
    }

    /// The connection is over: hands out what is open.
    pub(in crate::http) fn close(
        &mut self,
        at_ns: u64,
        cx: &mut Context<'_>,
        out: &mut impl FnMut(Exchange),
    ) {
        let _over_anyway = self.release_early(u64::MAX, cx, out);
        self.cut_answer(at_ns, cx, out);
        // Nothing shows any more that it was right.
        self.doubt(cx, out);
        if let Some(answer) = self.answer.take() {
            let ended_ns = if self.responses.until_close() { answer.last_ns } else { at_ns };
            let end = self.responses.taken;
            self.finish(answer, ended_ns, end, cx, out);
        }
        self.settle(at_ns, cx, out);
    }
}
