//! A service mesh's hops: one request that a sidecar receives and passes on to the program beside it, both of which
//! are seen, counted once.
//!
//! In a pod with a sidecar a request shows in up to three places ([`Place`]):
//!
//! * *outer*: the sidecar receives it from outside the pod. It knows the source; it may be encrypted, and then is not
//!   seen;
//! * *inner*: the program receives it over the pod's own addresses. It knows the program;
//! * *outbound*: the sidecar receives what its program sends out. That request is received elsewhere: here it is a
//!   hop and nothing else.
//!
//! An outer and an inner one are the same if method, path and status are, and the inner lies within the outer in
//! time: the sidecar reads first and answers last. They are told as one, with the hop apart. What finds no other half
//! within [`WAIT_NS`] is a request by itself: encrypted towards the sidecar, or a program beside it asking directly.
//! While a pod's outer side is never seen, its inner one does not wait; should an outer one come after all, it still
//! finds what was told already, and counts as the hop.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, BuildHasherDefault},
    net::IpAddr,
    sync::Arc,
};

use gatewatch_event::{Exchange, request::Method};
use hashbrown::HashMap;
use rustc_hash::{FxBuildHasher, FxHasher};

/// How long one half waits for the other: both end within microseconds of each other, but may be reported apart.
pub const WAIT_NS: u64 = 500_000_000;
/// After so long without an outer request a pod's inner ones do not wait.
const OUTER_UNSEEN_NS: u64 = 60_000_000_000;
/// Halves that wait in one pod; beyond, the oldest is a request by itself.
const WAITING_MAX: usize = 1024;
/// Pods remembered.
const PODS_MAX: usize = 1024;

/// The names of the sidecars' processes, as the kernel has them.
const PROXIES: [&str; 4] = ["envoy", "pilot-agent", "linkerd2-proxy", "linkerd-proxy"];
/// From where Istio's sidecar passes on what it received.
const ISTIO_INBOUND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 6));

/// The process is a sidecar's proxy. Its first thread may bear another name: threads of Envoy begin with `wrk:`.
#[must_use]
pub fn is_proxy(comm: &str) -> bool {
    PROXIES.contains(&comm) || comm.starts_with("wrk:worker_")
}

/// Where in a pod a request was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There is no sidecar, or it has nothing to do with it.
    Plain,
    /// By the sidecar, from outside.
    Outer,
    /// By a program, over the pod's own addresses.
    Inner,
    /// By the sidecar, from its own pod.
    Outbound,
}

/// Where a request was received: by a process of this name, from `remote`, in a pod that has these addresses and,
/// maybe, a sidecar. Only for what a *server* received.
#[must_use]
pub fn place(comm: &str, remote: IpAddr, pod_addresses: &[IpAddr], pod_has_sidecar: bool) -> Place {
    let remote = remote.to_canonical();
    let own = remote.is_loopback() || pod_addresses.iter().any(|address| address.to_canonical() == remote);
    match (is_proxy(comm), own) {
        (true, true) => Place::Outbound,
        (true, false) => Place::Outer,
        (false, true) if pod_has_sidecar || remote == ISTIO_INBOUND => Place::Inner,
        (false, _) => Place::Plain,
    }
}

/// What makes two halves one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    what: u64,
    began_ns: u64,
    ended_ns: u64,
}

impl Mark {
    fn of(exchange: &Exchange) -> Self {
        let Exchange { method, path, status, ended_ns, began_ns, .. } = exchange;
        let what: (Method, &str, Option<u16>) = (*method, path, *status);
        let what = BuildHasherDefault::<FxHasher>::default().hash_one(what);
        Self { what, began_ns: began_ns.unwrap_or(*ended_ns), ended_ns: *ended_ns }
    }

    fn lies_within(self, outer: Self) -> bool {
        self.what == outer.what && outer.began_ns <= self.began_ns && self.ended_ns <= outer.ended_ns
    }
}

/// What is to be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counted<T> {
    /// A request.
    Request(T),
    /// A request whose two halves were both seen: the program's, and the sidecar's, which knows the source. One
    /// request and one hop.
    Both {
        /// What the program received.
        inner: T,
        /// What the sidecar received.
        outer: T,
    },
    /// A hop of a request that is counted elsewhere, or was already.
    Hop(T),
}

#[derive(Debug)]
struct Half<T> {
    mark: Mark,
    since_ns: u64,
    /// `None`: it was told already.
    what: Option<T>,
}

#[derive(Debug)]
struct Pod<T> {
    inner: VecDeque<Half<T>>,
    outer: VecDeque<Half<T>>,
    outer_ns: Option<u64>,
}

/// Puts halves together. `T` is what the caller knows of an exchange.
#[derive(Debug)]
pub struct Hops<T> {
    pods: HashMap<Arc<str>, Pod<T>, FxBuildHasher>,
}

impl<T> Default for Hops<T> {
    fn default() -> Self {
        Self { pods: HashMap::default() }
    }
}

impl<T> Hops<T> {
    /// An exchange ended, in the pod of this name (unique on the node). Time as in [`Hops::tick`].
    pub fn add(
        &mut self,
        pod: &Arc<str>,
        place: Place,
        exchange: &Exchange,
        what: T,
        now_ns: u64,
        out: &mut impl FnMut(Counted<T>),
    ) {
        match place {
            Place::Plain => return out(Counted::Request(what)),
            Place::Outbound => return out(Counted::Hop(what)),
            Place::Inner | Place::Outer => {}
        }
        if !self.pods.contains_key(pod) {
            if self.pods.len() >= PODS_MAX {
                self.tick(now_ns, out);
            }
            if self.pods.len() >= PODS_MAX {
                return out(Counted::Request(what));
            }
            let new = Pod { inner: VecDeque::new(), outer: VecDeque::new(), outer_ns: None };
            self.pods.insert(Arc::clone(pod), new);
        }
        let Some(pod) = self.pods.get_mut(pod) else { return };
        pod.expire(now_ns, out);
        let mark = Mark::of(exchange);
        if place == Place::Outer {
            pod.outer(mark, what, now_ns, out);
        } else {
            pod.inner(mark, what, now_ns, out);
        }
    }

    /// Time has passed, by a clock in nanoseconds that does not go back: tells what waited long enough. To be called a
    /// few times a second.
    pub fn tick(&mut self, now_ns: u64, out: &mut impl FnMut(Counted<T>)) {
        self.pods.retain(|_, pod| {
            pod.expire(now_ns, out);
            let idle = pod.inner.is_empty() && pod.outer.is_empty();
            let unseen = pod.outer_ns.is_none_or(|ns| now_ns.saturating_sub(ns) > OUTER_UNSEEN_NS);
            !(idle && unseen)
        });
    }

    /// Halves that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pods.values().map(|pod| pod.inner.len() + pod.outer.len()).sum()
    }
}

impl<T> Pod<T> {
    fn outer(&mut self, mark: Mark, what: T, now_ns: u64, out: &mut impl FnMut(Counted<T>)) {
        self.outer_ns = Some(now_ns);
        let found = self.inner.iter().position(|inner| inner.mark.lies_within(mark));
        match found.and_then(|at| self.inner.remove(at)) {
            Some(Half { what: Some(inner), .. }) => out(Counted::Both { inner, outer: what }),
            Some(Half { what: None, .. }) => out(Counted::Hop(what)),
            None => self.wait(Place::Outer, mark, Some(what), now_ns, out),
        }
    }

    fn inner(&mut self, mark: Mark, what: T, now_ns: u64, out: &mut impl FnMut(Counted<T>)) {
        let found = self.outer.iter().position(|outer| mark.lies_within(outer.mark));
        if let Some(Half { what: Some(outer), .. }) = found.and_then(|at| self.outer.remove(at)) {
            return out(Counted::Both { inner: what, outer });
        }
        let expected = self.outer_ns.is_some_and(|ns| now_ns.saturating_sub(ns) <= OUTER_UNSEEN_NS);
        let what = if expected {
            Some(what)
        } else {
            out(Counted::Request(what));
            None
        };
        self.wait(Place::Inner, mark, what, now_ns, out);
    }

    fn wait(
        &mut self,
        place: Place,
        mark: Mark,
        what: Option<T>,
        now_ns: u64,
        out: &mut impl FnMut(Counted<T>),
    ) {
        let halves = if place == Place::Outer { &mut self.outer } else { &mut self.inner };
        if halves.len() >= WAITING_MAX
            && let Some(Half { what: Some(oldest), .. }) = halves.pop_front()
        {
            out(Counted::Request(oldest));
        }
        halves.push_back(Half { mark, since_ns: now_ns, what });
    }

    fn expire(&mut self, now_ns: u64, out: &mut impl FnMut(Counted<T>)) {
        for halves in [&mut self.inner, &mut self.outer] {
            while let Some(half) = halves.pop_front_if(|half| now_ns.saturating_sub(half.since_ns) >= WAIT_NS)
            {
                if let Some(what) = half.what {
                    out(Counted::Request(what));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
