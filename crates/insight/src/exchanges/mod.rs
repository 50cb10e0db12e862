//! HTTP requests as the node's sockets show them, folded into series: who asked which Service's pod for what, how it
//! ended and how long it took.
//!
//! Two tables. [`Requests`] tells sources, paths and processes apart and only counts; [`Answers`] tells destinations,
//! methods and outcomes apart and keeps latency and bytes. Both are bounded: beyond, requests are counted under
//! `other` and [`Exchanges::folded`] tells how many, so that sums over a destination stay right as long as its name
//! has a place. Series are listed in the order of their birth and keep their place until [`Exchanges::forget`], so
//! whoever shows each at 0 once before its value has to remember one number and [`Exchanges::generation`].

pub mod hops;
mod names;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use gatewatch_event::request::Method;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::{
    paths::{GroupId, Limits, PathGroups},
    traffic::{Histogram, OTHER},
};
use names::{Interned, NameId};

/// How much is told apart.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Series of requests.
    pub requests: usize,
    /// Series of answers.
    pub answers: usize,
    /// Groups of paths over all destinations.
    pub paths: usize,
    /// Series under `other` that still tell the destination, beyond `requests` and `answers`.
    pub destinations: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { requests: 10_000, answers: 5_000, paths: 4_000, destinations: 2_000 }
    }
}

/// A request as it is folded; its texts are masked and bounded already.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Who asked: an address, or the name of a workload.
    pub source: &'a str,
    /// Where the destination is; empty: not known.
    pub namespace: &'a str,
    /// The bare name of the Service; empty: none.
    pub service: &'a str,
    /// The pod; empty: none.
    pub pod: &'a str,
    /// The method.
    pub method: Method,
    /// The path without its query; empty: not seen.
    pub path: &'a str,
    /// The name of the process that answered.
    pub comm: &'a str,
    /// How it ended.
    pub outcome: Outcome,
    /// From the request's first byte to the response's last, nanoseconds; `None`: one of them was not seen.
    pub duration_ns: Option<u64>,
    /// Of the request.
    pub request_bytes: u64,
    /// Of the response.
    pub response_bytes: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// With this class of status, 1 to 5; 0: a status outside of them.
    Class(u8),
    /// gRPC's own code; `None`: it told none (broken off).
    Grpc(Option<u32>),
    /// The connection ended without an answer.
    Unanswered,
    /// What became of it was not seen.
    Unseen,
}

impl Outcome {
    /// Of an exchange's parts.
    #[must_use]
    pub fn of(exchange: &gatewatch_event::Exchange) -> Self {
        match (exchange.status, exchange.partial) {
            (None, true) => Self::Unseen,
            (None, false) if exchange.grpc => Self::Grpc(None),
            (None, false) => Self::Unanswered,
            (Some(_), _) if exchange.grpc => Self::Grpc(exchange.grpc_status),
            (Some(status), _) => Self::Class(match status {
                100..600 => u8::try_from(status / 100).unwrap_or(0),
                _ => 0,
            }),
        }
    }

    /// The value of a label: `2xx`, `UNAVAILABLE`, `none`, `unknown`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Class(1) => "1xx",
            Self::Class(2) => "2xx",
            Self::Class(3) => "3xx",
            Self::Class(4) => "4xx",
            Self::Class(5) => "5xx",
            Self::Class(_) => OTHER,
            Self::Grpc(Some(code)) => {
                usize::try_from(code).ok().and_then(|code| GRPC_CODES.get(code)).copied().unwrap_or(OTHER)
            }
            Self::Grpc(None) | Self::Unanswered => "none",
            Self::Unseen => "unknown",
        }
    }

    /// It speaks gRPC: the name is one of gRPC's codes.
    #[must_use]
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc(_))
    }

    /// The server failed, as OpenTelemetry has it: 5xx, no answer, and those of gRPC's codes that are no fault of
    /// the caller's.
    #[must_use]
    pub fn is_error(self) -> bool {
        match self {
            Self::Class(class) => class == 5,
            // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
            Self::Grpc(Some(code)) => matches!(code, 2 | 4 | 12 | 13 | 14 | 15),
            Self::Grpc(None) | Self::Unanswered => true,
            Self::Unseen => false,
        }
    }

    /// Codes that have no name are one.
    fn bounded(self) -> Self {
        match self {
            Self::Grpc(Some(17..)) => Self::Grpc(Some(17)),
            Self::Class(6..) => Self::Class(0),
            Self::Class(_) | Self::Grpc(_) | Self::Unanswered | Self::Unseen => self,
        }
    }
}

/// gRPC's codes by their numbers.
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct To {
    pub namespace: Arc<str>,
    pub service: Arc<str>,
    pub pod: Arc<str>,
}

/// Requests of one source for one thing.
#[derive(Clone, Debug)]
pub struct Requests {
    key: RequestKey,
    /// Who asked.
    pub source: Arc<str>,
    /// Whom.
    pub to: To,
    /// How; by [`Method::name`].
    pub method: Method,
    /// The path's group; empty: it was not seen.
    pub path: Arc<str>,
    /// The process that answered.
    pub comm: Arc<str>,
    /// How many.
    pub count: u64,
    /// When the first of them was counted.
    pub born_ns: u64,
    seen_ns: u64,
}

/// Answers of one destination that ended alike.
#[derive(Clone, Debug)]
pub struct Answers {
    key: AnswerKey,
    /// Who answered.
    pub to: To,
    /// What; by [`Method::name`].
    pub method: Method,
    /// How.
    pub outcome: Outcome,
    /// How many, those without a duration included.
    pub count: u64,
    /// Durations, where they were seen.
    pub duration: Histogram,
    /// Bytes of requests.
    pub request_bytes: u64,
    /// Bytes of responses.
    pub response_bytes: u64,
    /// When the first of them was counted.
    pub born_ns: u64,
    seen_ns: u64,
}

/// Requests that were counted with less detail than asked for, because a bound was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// Under source, pod, path and process `other`.
    pub requests: u64,
    /// Under pod `other`.
    pub answers: u64,
    /// Of these, those whose destination had no place either.
    pub destinations: u64,
    /// Under path `other`.
    pub paths: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ToKey {
    namespace: NameId,
    service: NameId,
    pod: NameId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RequestKey {
    source: NameId,
    to: ToKey,
    method: Method,
    /// `None`: it was not seen.
    path: Option<GroupId>,
    comm: NameId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct AnswerKey {
    to: ToKey,
    method: Method,
    outcome: Outcome,
}

/// All series.
pub struct Exchanges {
    bounds: Bounds,
    names: Interned,
    groups: PathGroups,
    /// The path learner's scope of a namespace and Service; never given twice.
    scopes: HashMap<(NameId, NameId), u32, FxBuildHasher>,
    next_scope: u32,
    requests: Vec<Requests>,
    by_request: HashMap<RequestKey, usize, FxBuildHasher>,
    answers: Vec<Answers>,
    by_answer: HashMap<AnswerKey, usize, FxBuildHasher>,
    folded: Folded,
    generation: u64,
}

impl Exchanges {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            names: Interned::new(),
            groups: PathGroups::new(Limits { max_groups: bounds.paths, ..Limits::default() }),
            bounds,
            scopes: HashMap::default(),
            next_scope: 0,
            requests: Vec::new(),
            by_request: HashMap::default(),
            answers: Vec::new(),
            by_answer: HashMap::default(),
            folded: Folded::default(),
            generation: 0,
        }
    }

    /// Counts one request at `now_ns`, of any clock that does not go back.
    pub fn observe(&mut self, seen: &Observation<'_>, now_ns: u64) {
        let to = ToKey {
            namespace: self.names.id(seen.namespace),
            service: self.names.id(seen.service),
            pod: self.names.id(seen.pod),
        };
        // What was not seen must not pass for the root.
        let path = (!seen.path.is_empty()).then(|| self.path(to, seen.path));
        let key = RequestKey {
            source: self.names.id(seen.source),
            to,
            method: seen.method,
            path,
            comm: self.names.id(seen.comm),
        };
        if let Some(requests) = self.request_place(key, now_ns).and_then(|at| self.requests.get_mut(at)) {
            requests.count += 1;
            requests.seen_ns = now_ns;
        }
        let key = AnswerKey { to, method: seen.method, outcome: seen.outcome.bounded() };
        if let Some(answers) = self.answer_place(key, now_ns).and_then(|at| self.answers.get_mut(at)) {
            answers.count += 1;
            answers.seen_ns = now_ns;
            if let Some(ns) = seen.duration_ns {
                answers.duration.add(ns);
            }
            answers.request_bytes = answers.request_bytes.wrapping_add(seen.request_bytes);
            answers.response_bytes = answers.response_bytes.wrapping_add(seen.response_bytes);
        }
    }

    /// Series of requests, in the order of their birth.
    #[must_use]
    pub fn requests(&self) -> &[Requests] {
        &self.requests
    }

    /// Series of answers, in the order of their birth.
    #[must_use]
    pub fn answers(&self) -> &[Answers] {
        &self.answers
    }

    /// What the bounds folded.
    #[must_use]
    pub fn folded(&self) -> Folded {
        self.folded
    }

    /// Changes when series were taken out, and the places of those behind them with it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes out series that counted nothing since `before_ns`. Those that come again begin anew, with a birth of
    /// their own. Not for the hot path: looks at all.
    pub fn forget(&mut self, before_ns: u64) {
        let was = (self.requests.len(), self.answers.len());
        self.requests.retain(|series| series.seen_ns >= before_ns);
        self.answers.retain(|series| series.seen_ns >= before_ns);
        self.generation += u64::from((self.requests.len(), self.answers.len()) != was);
        self.by_request = self.requests.iter().enumerate().map(|(at, series)| (series.key, at)).collect();
        self.by_answer = self.answers.iter().enumerate().map(|(at, series)| (series.key, at)).collect();
        let named = self.requests.iter().map(|series| series.key);
        let ids = named.flat_map(|key| [key.source, key.comm, key.to.namespace, key.to.service, key.to.pod]);
        let answering = self.answers.iter().map(|series| series.key.to);
        let ids = ids.chain(answering.flat_map(|to| [to.namespace, to.service, to.pod]));
        self.names.keep(ids);
        let Self { names, scopes, .. } = self;
        scopes.retain(|(namespace, service), _| names.has(*namespace) && names.has(*service));
    }

    fn path(&mut self, to: ToKey, path: &str) -> GroupId {
        let next = &mut self.next_scope;
        let scope = *self.scopes.entry((to.namespace, to.service)).or_insert_with(|| {
            *next = next.saturating_add(1);
            *next
        });
        let group = self.groups.group(scope, path.as_bytes());
        self.folded.paths += u64::from(group == GroupId::OTHER);
        group
    }

    fn request_place(&mut self, key: RequestKey, now_ns: u64) -> Option<usize> {
        if let Some(at) = self.by_request.get(&key) {
            return Some(*at);
        }
        let mut key = key;
        if self.requests.len() >= self.bounds.requests {
            self.folded.requests += 1;
            let pod = NameId::OTHER;
            let (source, comm) = (NameId::OTHER, NameId::OTHER);
            key = RequestKey { source, comm, path: Some(GroupId::OTHER), to: ToKey { pod, ..key.to }, ..key };
            let full = self.requests.len() >= self.bounds.requests + self.bounds.destinations;
            if full && !self.by_request.contains_key(&key) {
                self.folded.destinations += 1;
                key = RequestKey { to: ToKey::OTHER, method: Method::Other, ..key };
            }
            if let Some(at) = self.by_request.get(&key) {
                return Some(*at);
            }
        }
        self.requests.push(Requests {
            key,
            source: self.names.name(key.source),
            to: self.to(key.to),
            method: key.method,
            path: key.path.map_or("", |path| self.groups.name(path)).into(),
            comm: self.names.name(key.comm),
            count: 0,
            born_ns: now_ns,
            seen_ns: now_ns,
        });
        self.by_request.insert(key, self.requests.len() - 1);
        Some(self.requests.len() - 1)
    }

    fn answer_place(&mut self, key: AnswerKey, now_ns: u64) -> Option<usize> {
        if let Some(at) = self.by_answer.get(&key) {
            return Some(*at);
        }
        let mut key = key;
        if self.answers.len() >= self.bounds.answers {
            self.folded.answers += 1;
            key.to.pod = NameId::OTHER;
            let full = self.answers.len() >= self.bounds.answers + self.bounds.destinations;
            if full && !self.by_answer.contains_key(&key) {
                key = AnswerKey { to: ToKey::OTHER, method: Method::Other, ..key };
            }
            if let Some(at) = self.by_answer.get(&key) {
                return Some(*at);
            }
        }
        self.answers.push(Answers {
            key,
            to: self.to(key.to),
            method: key.method,
            outcome: key.outcome,
            count: 0,
            duration: Histogram::default(),
            request_bytes: 0,
            response_bytes: 0,
            born_ns: now_ns,
            seen_ns: now_ns,
        });
        self.by_answer.insert(key, self.answers.len() - 1);
        Some(self.answers.len() - 1)
    }

    fn to(&self, key: ToKey) -> To {
        To {
            namespace: self.names.name(key.namespace),
            service: self.names.name(key.service),
            pod: self.names.name(key.pod),
        }
    }
}

impl ToKey {
    const OTHER: Self = Self { namespace: NameId::OTHER, service: NameId::OTHER, pod: NameId::OTHER };
}
