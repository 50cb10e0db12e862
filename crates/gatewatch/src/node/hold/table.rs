//! Who waits for whom, and what is to be done next. Knows neither kernel nor clock: time is an argument.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use gatewatch_capture::hold::{Event, Happened, Key};

use super::{Wanted, counts::Counts};

/// How long a refusal is waited for that a last replay is to bring; ICMP errors are rated, and it may never come.
const REFUSAL_NS: u64 = 20_000_000;
/// How long an attempt is known that was let go, so that a client that missed its refusal is not held anew. Linux sends
/// its last SYN after 63 s and gives up at 127 s.
const OVER_NS: u64 = 130_000_000_000;
/// How long an address is held after its first connection: others whose packets are under way profit.
const OPENED_NS: u64 = 1_000_000_000;
/// Between two replays of all that wait at an address, as long as it is not said to be ready.
const BURST_NS: u64 = 10_000_000;
/// Between two replays at an address: the least, the most, and the share of the time since it was ready. So replays
/// lengthen no wait by more than that share, and a Service whose rules come late costs little.
const PAUSE_NS: (u64, u64) = (500_000, 25_000_000);
const PAUSE_SHARE: u64 = 32;
/// The least once more, for each address where somebody waits for rules: a replay takes some 0.13 ms of a processor, and
/// kube-proxy needs one, too. And the most of that.
const CROWD_NS: (u64, u64) = (200_000, 10_000_000);

/// What the kernel is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Hold refusals from this address back.
    Hold(SocketAddr, Duration),
    /// Let them pass.
    Release(SocketAddr),
    /// Send the SYN again: there may be an endpoint.
    Replay {
        key: Key,
        isn: u32,
        /// For the first time: what became of the SYN before is of no use.
        first: bool,
    },
    /// Send the SYN again: its refusal will pass.
    Ask(Key, u32),
    /// Refuse it by hand.
    Refuse(Key, u32),
    /// Forget it.
    Forget(Key, u32),
}

#[derive(Debug)]
struct Address {
    limit: Duration,
    /// Since when it has an endpoint.
    ready_ns: Option<u64>,
    /// When the first held attempt was connected since then.
    opened_ns: Option<u64>,
    next_ns: u64,
    /// A refusal was held back: something does refuse there, and does not merely keep silent.
    refuses: bool,
    /// Held attempts of each pod's interface, the next to be replayed first; with some that are over. Apart, so that no
    /// pod's many make another's few wait.
    queues: HashMap<u32, VecDeque<(Key, u32)>>,
}

impl Address {
    /// When it is held no more though it was ready.
    fn over_ns(&self) -> Option<u64> {
        let limit = u64::try_from(self.limit.as_nanos()).unwrap_or(u64::MAX);
        let over = self.ready_ns?.saturating_add(limit);
        Some(self.opened_ns.map_or(over, |opened| over.min(opened.saturating_add(OPENED_NS))))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Held,
    /// Let go; its refusal is awaited.
    Asked,
    Over,
}

#[derive(Debug)]
struct Attempt {
    isn: u32,
    began_ns: u64,
    /// When something happens if nothing else does.
    due_ns: u64,
    cookie: u64,
    phase: Phase,
    replayed: bool,
    /// If no refusal comes it may be made by hand. Decided as it is let go.
    refusable: bool,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    addresses: HashMap<SocketAddr, Address>,
    attempts: HashMap<Key, Attempt>,
    sockets: HashMap<u64, Key>,
    due: BinaryHeap<Reverse<(u64, Key, u32)>>,
    /// Addresses that have an endpoint and are held still.
    ready: Vec<SocketAddr>,
    pub(super) counts: Counts,
    pub(super) actions: Vec<Action>,
}

impl Table {
    /// The programs have something to do.
    pub(super) fn is_holding(&self) -> bool {
        !self.addresses.is_empty() || self.counts.waiting > 0
    }

    /// These, and no others, are Services that may be held.
    pub(super) fn services(&mut self, wanted: &[Wanted], now_ns: u64) {
        let by_address: HashMap<SocketAddr, &Wanted> =
            wanted.iter().map(|wanted| (wanted.address, wanted)).collect();
        let gone: Vec<_> =
            self.addresses.keys().filter(|address| !by_address.contains_key(*address)).copied().collect();
        for address in gone {
            self.lift(address, now_ns);
        }
        for wanted in by_address.into_values() {
            if wanted.ready {
                self.ready(wanted.address, now_ns);
                continue;
            }
            match self.addresses.get_mut(&wanted.address) {
                Some(known) => {
                    // An endpoint lost before its address was let go.
                    known.ready_ns = None;
                    known.opened_ns = None;
                    self.ready.retain(|address| *address != wanted.address);
                    if known.limit == wanted.limit {
                        continue;
                    }
                    known.limit = wanted.limit;
                }
                None => {
                    let address = Address {
                        limit: wanted.limit,
                        ready_ns: None,
                        opened_ns: None,
                        next_ns: 0,
                        refuses: false,
                        queues: HashMap::new(),
                    };
                    self.addresses.insert(wanted.address, address);
                }
            }
            self.actions.push(Action::Hold(wanted.address, wanted.limit));
        }
        self.counts.addresses = u64::try_from(self.addresses.len()).unwrap_or(u64::MAX);
    }

    /// The address has an endpoint.
    fn ready(&mut self, address: SocketAddr, now_ns: u64) {
        let Some(known) = self.addresses.get_mut(&address) else { return };
        if known.ready_ns.is_none() {
            // It may have answered just before we were told.
            known.opened_ns = known.opened_ns.filter(|opened| now_ns.saturating_sub(*opened) < OPENED_NS);
            known.ready_ns = Some(now_ns);
            known.next_ns = now_ns;
            self.ready.push(address);
        }
    }

    /// The address is held no more: who waits still is refused, unless an endpoint answers.
    fn lift(&mut self, address: SocketAddr, now_ns: u64) {
        let Some(known) = self.addresses.remove(&address) else { return };
        self.ready.retain(|other| *other != address);
        self.actions.push(Action::Release(address));
        for (key, isn) in known.queues.into_values().flatten() {
            if let Some(attempt) = self.attempts.get_mut(&key)
                && attempt.isn == isn
                && attempt.phase == Phase::Held
            {
                attempt.due_ns = now_ns;
                attempt.refusable = known.refuses && known.opened_ns.is_none();
                self.due.push(Reverse((now_ns, key, isn)));
            }
        }
        self.counts.addresses = u64::try_from(self.addresses.len()).unwrap_or(u64::MAX);
    }

    pub(super) fn event(&mut self, event: &Event) {
        match *event {
            Event::Attempt { key, isn, at_ns, happened } => match happened {
                Happened::Began { until_ns, cookie } => self.began(key, isn, at_ns, until_ns, cookie),
                Happened::Connected => self.connected(key, isn, at_ns),
                Happened::Closed => {
                    if let Some(address) = self.addresses.get_mut(&key.service) {
                        address.refuses = true;
                    }
                }
                Happened::Refused => {
                    if let Some(attempt) = self.attempts.get_mut(&key).filter(|attempt| attempt.isn == isn)
                        && attempt.phase != Phase::Over
                    {
                        attempt.phase = Phase::Over;
                        self.counts.expired += 1;
                        self.counts.waiting -= 1;
                        attempt.due_ns = at_ns.saturating_add(OVER_NS);
                        self.due.push(Reverse((attempt.due_ns, key, isn)));
                    }
                }
            },
            Event::GaveUp { cookie } => {
                let Some(key) = self.sockets.get(&cookie).copied() else { return };
                if let Some(attempt) = self.remove(&key, None) {
                    self.counts.gave_up += u64::from(attempt.phase == Phase::Held);
                    self.actions.push(Action::Forget(key, attempt.isn));
                }
            }
        }
    }

    pub(super) fn began(&mut self, key: Key, isn: u32, at_ns: u64, until_ns: u64, cookie: u64) {
        // The port was used again: the kernel has put the new attempt in the old one's place.
        if let Some(old) = self.remove(&key, None) {
            self.counts.gave_up += u64::from(old.phase == Phase::Held);
        }
        let attempt = Attempt {
            isn,
            began_ns: at_ns,
            due_ns: until_ns,
            cookie,
            phase: Phase::Held,
            replayed: false,
            refusable: false,
        };
        self.attempts.insert(key, attempt);
        self.counts.waiting += 1;
        if cookie != 0 {
            self.sockets.insert(cookie, key);
        }
        self.due.push(Reverse((until_ns, key, isn)));
        // Who uses one port again and again leaves nothing behind here either.
        let (attempts, room) = (&self.attempts, 4 * self.attempts.len() + 1024);
        if self.due.len() > room {
            let is_known = |key: &Key, isn| attempts.get(key).is_some_and(|attempt| attempt.isn == isn);
            self.due.retain(|Reverse((_, key, isn))| is_known(key, *isn));
        }
        if let Some(address) = self.addresses.get_mut(&key.service) {
            if let Some(attempt) = self.attempts.get_mut(&key) {
                // Its own SYN may well be under way to an endpoint.
                attempt.replayed = address.ready_ns.is_some();
            }
            let queue = address.queues.entry(key.ifindex).or_default();
            queue.push_front((key, isn));
            if queue.len() > room {
                queue.retain(|(key, isn)| is_held(&self.attempts, key, *isn));
            }
            address.next_ns = address.next_ns.min(at_ns + PAUSE_NS.0);
        }
    }

    fn connected(&mut self, key: Key, isn: u32, at_ns: u64) {
        self.actions.push(Action::Forget(key, isn));
        let Some(attempt) = self.remove(&key, Some(isn)) else { return };
        self.counts.connected += 1;
        self.counts.wait.observe(at_ns.saturating_sub(attempt.began_ns));
        let Some(address) = self.addresses.get_mut(&key.service) else { return };
        if let Some(ready_ns) = address.ready_ns {
            self.counts.after_ready.observe(at_ns.saturating_sub(ready_ns.max(attempt.began_ns)));
        }
        let again = |opened: u64| address.ready_ns.is_none() && at_ns > opened.saturating_add(BURST_NS);
        if address.opened_ns.is_none_or(again) {
            // Where one gets through, the others do.
            address.opened_ns = Some(at_ns);
            let waiting = address.queues.values().flatten();
            self.actions.extend(waiting.filter_map(|(key, isn)| replay(&mut self.attempts, *key, *isn)));
        }
    }

    fn remove(&mut self, key: &Key, isn: Option<u32>) -> Option<Attempt> {
        if isn.is_some_and(|isn| self.attempts.get(key).is_none_or(|attempt| attempt.isn != isn)) {
            return None;
        }
        let attempt = self.attempts.remove(key)?;
        self.counts.waiting -= u64::from(attempt.phase != Phase::Over);
        if self.sockets.get(&attempt.cookie) == Some(key) {
            self.sockets.remove(&attempt.cookie);
        }
        Some(attempt)
    }

    /// The interface is gone, or all is let go: nobody waits there any more.
    pub(super) fn forget(&mut self, which: impl Fn(&Key) -> bool) {
        let gone: Vec<_> = self.attempts.keys().filter(|key| which(key)).copied().collect();
        for key in gone {
            if let Some(attempt) = self.remove(&key, None) {
                self.counts.gave_up += u64::from(attempt.phase == Phase::Held);
                self.actions.push(Action::Forget(key, attempt.isn));
            }
        }
    }

    /// Does what is due.
    pub(super) fn advance(&mut self, now_ns: u64) {
        while let Some(Reverse((at_ns, key, isn))) = self.due.peek().copied()
            && at_ns <= now_ns
        {
            self.due.pop();
            let Some(attempt) = self.attempts.get_mut(&key) else { continue };
            if attempt.isn != isn || attempt.due_ns != at_ns {
                continue;
            }
            match attempt.phase {
                Phase::Held => {
                    if let Some(address) = self.addresses.get(&key.service) {
                        attempt.refusable = address.refuses && address.opened_ns.is_none();
                    }
                    self.actions.push(Action::Ask(key, isn));
                    attempt.phase = Phase::Asked;
                    attempt.due_ns = now_ns + REFUSAL_NS;
                }
                Phase::Asked => {
                    if attempt.refusable {
                        self.actions.push(Action::Refuse(key, isn));
                    }
                    attempt.phase = Phase::Over;
                    attempt.due_ns = now_ns + OVER_NS;
                    self.counts.expired += 1;
                    self.counts.waiting -= 1;
                }
                Phase::Over => {
                    self.actions.push(Action::Forget(key, isn));
                    self.remove(&key, None);
                    continue;
                }
            }
            self.due.push(Reverse((attempt.due_ns, key, isn)));
        }
        let waits = |address: &&SocketAddr| {
            self.addresses.get(*address).is_some_and(|address| !address.queues.is_empty())
        };
        let crowd = u64::try_from(self.ready.iter().filter(waits).count()).unwrap_or(u64::MAX);
        let least_ns = crowd.saturating_mul(CROWD_NS.0).min(CROWD_NS.1).max(PAUSE_NS.0);
        for address in self.ready.clone() {
            self.advance_address(address, least_ns, now_ns);
        }
    }

    fn advance_address(&mut self, at: SocketAddr, least_ns: u64, now_ns: u64) {
        let Some(address) = self.addresses.get_mut(&at) else { return };
        if address.over_ns().is_some_and(|over_ns| over_ns <= now_ns) {
            return self.lift(at, now_ns);
        }
        if now_ns < address.next_ns {
            return;
        }
        // One of each pod finds out whether the rules are there; once one got through, many at a time.
        let share = if address.opened_ns.is_some() { 64 } else { 1 };
        for queue in address.queues.values_mut() {
            let mut replayed = 0;
            for _ in 0..queue.len() {
                let Some((key, isn)) = queue.pop_front() else { break };
                if let Some(again) = replay(&mut self.attempts, key, isn) {
                    queue.push_back((key, isn));
                    self.actions.push(again);
                    replayed += 1;
                }
                if replayed == share {
                    break;
                }
            }
        }
        address.queues.retain(|_, queue| !queue.is_empty());
        let since = now_ns.saturating_sub(address.ready_ns.unwrap_or(now_ns));
        address.next_ns = now_ns + (since / PAUSE_SHARE).clamp(least_ns, PAUSE_NS.1);
    }

    /// When something is due.
    pub(super) fn next_ns(&self) -> Option<u64> {
        let first = self.due.peek().map(|Reverse((at_ns, ..))| *at_ns);
        let ready =
            self.ready.iter().filter_map(|address| self.addresses.get(address)).filter_map(|address| {
                let next = (!address.queues.is_empty()).then_some(address.next_ns);
                next.into_iter().chain(address.over_ns()).min()
            });
        ready.chain(first).min()
    }

    /// An attempt is known, as this one of its key.
    pub(super) fn knows(&self, key: &Key, isn: u32) -> bool {
        self.attempts.get(key).is_some_and(|attempt| attempt.isn == isn)
    }
}

fn is_held(attempts: &HashMap<Key, Attempt>, key: &Key, isn: u32) -> bool {
    attempts.get(key).is_some_and(|attempt| attempt.isn == isn && attempt.phase == Phase::Held)
}

/// Its replay, if it is held still.
fn replay(attempts: &mut HashMap<Key, Attempt>, key: Key, isn: u32) -> Option<Action> {
    let attempt =
        attempts.get_mut(&key).filter(|attempt| attempt.isn == isn && attempt.phase == Phase::Held)?;
    Some(Action::Replay { key, isn, first: !std::mem::replace(&mut attempt.replayed, true) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
