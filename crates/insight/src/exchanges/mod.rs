//! Requests received, as sockets show them: who asked which pod of which Service for what, and how it was answered.
//!
//! Bounded: past a bound, sources, paths and processes are counted together under [`OTHER`]; that is counted, too.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use gatewatch_event::{Exchange, request::Method};

use crate::{
    demand::{Callee, OTHER},
    health::HealthChecks,
    paths::{Limits, PathGroups},
    traffic::Histogram,
};

#[cfg(test)]
mod tests;

/// Programs that stand in for a pod's own server, and for its own client.
const PROXIES: [&str; 5] = ["envoy", "pilot-agent", "linkerd2-proxy", "linkerd-proxy", "ztunnel"];
/// Network namespaces remembered to have a proxy.
const MESHED_MAX: usize = 10_000;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most series of requests.
    pub series: usize,
    /// Most groups of paths.
    pub groups: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { series: 20_000, groups: 1000 }
    }
}

/// Where a request was received.
#[derive(Clone, Debug)]
pub struct Received<'a> {
    /// The caller: its address, or its workload.
    pub source: Arc<str>,
    /// The caller's address, and that of the server.
    pub ends: Option<(IpAddr, IpAddr)>,
    /// The server's pod and Service.
    pub callee: Callee,
    /// The server's process.
    pub comm: &'a str,
    /// The network namespace it is in.
    pub network_namespace: u32,
}

/// What tells series of requests apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The caller.
    pub source: Arc<str>,
    /// Who was asked.
    pub callee: Callee,
    /// How.
    pub method: Method,
    /// For what: the group of the path.
    pub path: Arc<str>,
    /// The process that answered.
    pub comm: Arc<str>,
}

/// A count and when its series began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub count: u64,
    /// By the clock of the exchanges, nanoseconds.
    pub born_ns: u64,
}

/// How requests at one callee were answered.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// By status, and gRPC's own where there is one; 0: none came.
    pub by_status: HashMap<(u16, Option<u32>), Counted>,
    /// From the request's first byte to the answer's last.
    pub durations: Histogram,
    /// When these series began.
    pub born_ns: u64,
    /// Bytes of requests.
    pub request_bytes: u64,
    /// Bytes of answers.
    pub response_bytes: u64,
}

/// What was counted in no series, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apart {
    /// Health checks.
    pub health_checks: u64,
    /// Hops between a pod's own server or client and its mesh's proxy.
    pub hops: u64,
    /// Counted under [`OTHER`].
    pub folded: u64,
    /// Answers to requests that were not seen: they stand in [`Answers`] only.
    pub unseen: u64,
}

/// All of it.
pub struct Exchanges {
    bounds: Bounds,
    health: HealthChecks,
    paths: PathGroups,
    scopes: HashMap<Callee, u32>,
    names: HashSet<Arc<str>>,
    requests: HashMap<Key, Counted>,
    answers: HashMap<Callee, Answers>,
    meshed: HashSet<u32>,
    apart: Apart,
}

impl Exchanges {
    /// Nothing yet.
    #[must_use]
    pub fn new(bounds: Bounds, health: HealthChecks) -> Self {
        Self {
            bounds,
            health,
            paths: PathGroups::new(Limits { max_groups: bounds.groups, ..Limits::default() }),
            scopes: HashMap::new(),
            names: HashSet::new(),
            requests: HashMap::new(),
            answers: HashMap::new(),
            meshed: HashSet::new(),
            apart: Apart::default(),
        }
    }

    /// A process that speaks HTTP in this network namespace. To be told before its first exchange.
    pub fn met(&mut self, comm: &str, network_namespace: u32) {
        if is_proxy(comm) && self.meshed.len() < MESHED_MAX {
            self.meshed.insert(network_namespace);
        }
    }

    /// Counts a request that a server has answered. Whether it was counted as one.
    pub fn received(&mut self, received: &Received<'_>, exchange: &Exchange) -> bool {
        if self.is_hop(received) {
            self.apart.hops += 1;
            return false;
        }
        if self.health.is_one(&exchange.path, &exchange.user_agent) {
            self.apart.health_checks += 1;
            return false;
        }
        self.answered(&received.callee, exchange);
        if exchange.method == Method::Unknown {
            self.apart.unseen += 1;
            return false;
        }
        let key = self.key(received, exchange);
        let counted = self.requests.entry(key).or_insert(Counted { count: 0, born_ns: exchange.ended_ns });
        counted.count += 1;
        true
    }

    /// With a proxy in the pod, what comes from the pod itself is on its way between the two: the request was, or will be,
    /// seen where it enters the pod.
    fn is_hop(&self, received: &Received<'_>) -> bool {
        let Some((from, to)) = received.ends else { return false };
        let is_inner = from.is_loopback() || from == to;
        is_inner && self.meshed.contains(&received.network_namespace)
    }

    fn answered(&mut self, callee: &Callee, exchange: &Exchange) {
        let full = self.answers.len() >= self.bounds.series;
        let callee =
            if full && !self.answers.contains_key(callee) { Callee::default() } else { callee.clone() };
        let answers = self
            .answers
            .entry(callee)
            .or_insert_with(|| Answers { born_ns: exchange.ended_ns, ..Answers::default() });
        let status = (exchange.status.unwrap_or_default(), exchange.grpc_status.filter(|code| *code <= 16));
        let counted =
            answers.by_status.entry(status).or_insert(Counted { count: 0, born_ns: exchange.ended_ns });
        counted.count += 1;
        answers.request_bytes = answers.request_bytes.saturating_add(exchange.request_bytes);
        answers.response_bytes = answers.response_bytes.saturating_add(exchange.response_bytes);
        if let Some(duration) = exchange.duration_ns() {
            answers.durations.add(duration);
        }
    }

    fn key(&mut self, received: &Received<'_>, exchange: &Exchange) -> Key {
        // APIs of different Services have paths of their own.
        let next = u32::try_from(self.scopes.len()).unwrap_or(u32::MAX);
        let of = Callee { pod: Arc::default(), ..received.callee.clone() };
        let scope = match self.scopes.get(&of) {
            Some(scope) => *scope,
            None if self.scopes.len() >= self.bounds.groups => 0,
            None => *self.scopes.entry(of).or_insert(next),
        };
        let group = self.paths.group(scope, exchange.path.as_bytes());
        let path = self.paths.name(group).to_owned();
        let mut key = Key {
            source: self.name(&received.source),
            callee: received.callee.clone(),
            method: exchange.method,
            path: self.name(&path),
            comm: self.name(received.comm),
        };
        if self.requests.len() >= self.bounds.series && !self.requests.contains_key(&key) {
            self.apart.folded += 1;
            let other = self.name(OTHER);
            (key.source, key.path, key.comm) = (Arc::clone(&other), Arc::clone(&other), other);
            if !self.requests.contains_key(&key)
                && self.requests.len() >= self.bounds.series.saturating_mul(2)
            {
                key.callee = Callee::default();
            }
        }
        key
    }

    /// The same text once only. Bounded by the series that hold them, and by what is let go with them.
    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(name) = self.names.get(text) {
            return Arc::clone(name);
        }
        let name: Arc<str> = Arc::from(text);
        if self.names.len() < self.bounds.series.saturating_mul(2) {
            self.names.insert(Arc::clone(&name));
        }
        name
    }

    /// A Service or a pod is no more: its series end.
    pub fn gone(&mut self, callee: &Callee) {
        self.requests.retain(|key, _| key.callee != *callee);
        self.answers.remove(callee);
    }

    /// Requests by series, in no order.
    pub fn requests(&self) -> impl Iterator<Item = (&Key, &Counted)> {
        self.requests.iter()
    }

    /// Answers by callee, in no order.
    pub fn answers(&self) -> impl Iterator<Item = (&Callee, &Answers)> {
        self.answers.iter()
    }

    /// What stands in no series.
    #[must_use]
    pub fn apart(&self) -> Apart {
        self.apart
    }
}

fn is_proxy(comm: &str) -> bool {
    PROXIES.contains(&comm)
}
