//! The thread of the hold: takes orders and events, and does what the table says.

use std::{
    sync::{
        Arc, PoisonError,
        atomic::Ordering,
        mpsc::{Receiver, Sender},
    },
    time::Duration,
};

use gatewatch_capture::{
    clock::monotonic,
    hold::{HoldProbe, Key, Limits, Waker},
};
use gatewatch_target::{
    conntrack::Conntrack,
    interfaces::{Changes, interfaces},
};

use super::{
    Command, Settings, Shared, frame,
    table::{Action, Table},
};

pub(super) struct Worker {
    settings: Settings,
    orders: Receiver<Command>,
    commands: Sender<Command>,
    waker: Waker,
    shared: Arc<Shared>,
    table: Table,
    /// Loaded when it is first needed.
    probe: Option<HoldProbe>,
    /// `None`: the node's kernel has none.
    conntrack: Option<Conntrack>,
    leased_ns: u64,
    published_ns: u64,
    lost_events: u64,
    /// Interfaces the programs could not be attached to.
    refused: Vec<u32>,
    /// When that is tried again.
    retry_ns: u64,
    watching: bool,
}

/// The longest the thread sleeps while it holds: counts are published and the lease renewed so often.
const TURN: Duration = Duration::from_millis(250);
/// Interfaces the programs could not be attached to are tried again no more often.
const RETRY_NS: u64 = 1_000_000_000;
/// Counts are published no more often.
const PUBLISH_NS: u64 = 100_000_000;
/// Events taken at a time, so that none makes a replay wait.
const EVENTS: usize = 4096;

impl Worker {
    pub(super) fn new(
        settings: Settings,
        orders: Receiver<Command>,
        commands: Sender<Command>,
        waker: Waker,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            settings,
            orders,
            commands,
            waker,
            shared,
            table: Table::default(),
            probe: None,
            conntrack: None,
            leased_ns: 0,
            published_ns: 0,
            lost_events: 0,
            refused: Vec::new(),
            retry_ns: 0,
            watching: false,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let mut links_changed = false;
            while let Ok(command) = self.orders.try_recv() {
                match command {
                    Command::Services(wanted) => {
                        if self.probe.is_none() && wanted.iter().all(|wanted| wanted.ready) {
                            continue;
                        }
                        if self.load() {
                            self.table.services(&wanted, monotonic());
                        }
                    }
                    Command::Interfaces => links_changed = true,
                    Command::End => return,
                }
            }
            let sleep = self.turn(links_changed);
            match &self.probe {
                Some(probe) if self.table.is_holding() => probe.wait(sleep, &self.waker),
                _ => self.waker.wait(sleep),
            }
        }
    }

    fn load(&mut self) -> bool {
        if self.probe.is_none() {
            let limits = Limits { attempts: self.settings.attempts, per_pod: self.settings.per_pod };
            match HoldProbe::load(limits) {
                Ok(probe) => {
                    self.probe = Some(probe);
                    self.conntrack = Conntrack::new().ok();
                }
                Err(error) => self.shared.note(format!("first requests are not held: {error}")),
            }
        }
        self.probe.is_some()
    }

    /// What there is to do now; how long to sleep then, `None`: until woken.
    fn turn(&mut self, links_changed: bool) -> Option<Duration> {
        let table = &mut self.table;
        let probe = self.probe.as_mut()?;
        probe.events(EVENTS, |event| table.event(&event));
        table.advance(monotonic());
        self.act();
        self.renew();
        self.attach(links_changed);
        self.publish();
        if !self.table.is_holding() {
            return None;
        }
        let next = self.table.next_ns().map(|next| Duration::from_nanos(next.saturating_sub(monotonic())));
        Some(next.map_or(TURN, |next| next.min(TURN)))
    }

    fn act(&mut self) {
        // What happens on the way (a SYN-ACK that comes at once) is an event, and seen at the next turn.
        for action in std::mem::take(&mut self.table.actions) {
            let Some(probe) = &mut self.probe else { return };
            match action {
                Action::Hold(address, limit) => {
                    if let Err(error) = probe.hold(address, limit) {
                        self.shared.note(format!("{address} is not held: {error}"));
                    }
                }
                Action::Release(address) => probe.release(address),
                Action::Forget(key, isn) => probe.forget(&key, isn),
                Action::Replay { key, isn, first } => self.replay(&key, isn, first),
                Action::Ask(key, isn) => self.replay(&key, isn, false),
                Action::Refuse(key, isn) => {
                    let Some(attempt) = probe.attempt(&key).filter(|attempt| attempt.isn == isn) else {
                        continue;
                    };
                    if attempt.answered {
                        continue;
                    }
                    if let Some(refusal) = frame::refusal(&attempt.syn) {
                        // A pod that is gone needs none.
                        let _gone = probe.to_pod(key.ifindex, &refusal);
                    }
                }
            }
        }
    }

    fn replay(&mut self, key: &Key, isn: u32, first: bool) {
        let Some(probe) = &mut self.probe else { return };
        let Some(attempt) = probe.attempt(key).filter(|attempt| attempt.isn == isn && !attempt.answered)
        else {
            return;
        };
        let counts = &mut self.table.counts;
        if let Some(conntrack) = &mut self.conntrack {
            // Before there was an endpoint, no translation can have been right; and a SYN that passed while the rules
            // were exchanged may have found neither the old nor the new ones, and is not translated at all.
            let astray = match conntrack.answers(key.client, key.service) {
                Ok(answers) => answers.is_some_and(|who| first || who == key.service),
                Err(_) => false,
            };
            if astray && conntrack.forget(key.client, key.service).is_ok() {
                counts.astray += 1;
            }
        }
        let sent = frame::replay(&attempt.syn).map(|syn| probe.from_pod(key.ifindex, &syn));
        counts.replays += 1;
        if !matches!(sent, Some(Ok(()))) {
            counts.replay_failures += 1;
            if counts.replay_failures == 1
                && let Some(Err(error)) = sent
            {
                self.shared.note(format!(
                    "held requests wait for their clients to ask again, a second or longer: {error}"
                ));
            }
        }
    }

    fn renew(&mut self) {
        let Some(probe) = &mut self.probe else { return };
        let lease = u64::try_from(self.settings.lease.as_nanos()).unwrap_or(u64::MAX >> 1);
        let until_ns = self.shared.ticked_ns.load(Ordering::Relaxed).saturating_add(lease);
        if until_ns != self.leased_ns && self.table.is_holding() {
            match probe.lease(until_ns) {
                Ok(()) => self.leased_ns = until_ns,
                Err(error) => self.shared.note(format!("nothing is held: {error}")),
            }
        }
    }

    /// The programs are at all pods' interfaces while something is held, else nowhere.
    fn attach(&mut self, links_changed: bool) {
        let Some(probe) = &mut self.probe else { return };
        let holding = self.table.is_holding();
        let attached = self.table.counts.interfaces > 0;
        if holding && !self.watching {
            self.watching = true;
            watch(self.commands.clone(), self.waker.clone(), Arc::clone(&self.shared));
        }
        let now_ns = monotonic();
        let retry = !self.refused.is_empty() && now_ns >= self.retry_ns;
        if holding == attached && !(holding && (links_changed || retry)) {
            return;
        }
        self.retry_ns = now_ns.saturating_add(RETRY_NS);
        let pods: Vec<u32> = if holding {
            match interfaces() {
                Ok(found) => found
                    .iter()
                    .filter(|interface| interface.veth && interface.peer.is_none())
                    .map(|interface| interface.index)
                    .collect(),
                Err(error) => {
                    self.shared.note(format!("cannot list the interfaces: {error}"));
                    return;
                }
            }
        } else {
            self.table.forget(|_| true);
            for action in std::mem::take(&mut self.table.actions) {
                if let Action::Forget(key, isn) = action {
                    probe.forget(&key, isn);
                }
            }
            Vec::new()
        };
        self.table.forget(|key| !pods.contains(&key.ifindex));
        let there = probe.attached();
        for gone in there.iter().filter(|index| !pods.contains(index)) {
            probe.detach(*gone);
        }
        for pod in pods.iter().filter(|index| !there.contains(index)) {
            match probe.attach(*pod) {
                Ok(_) => self.refused.retain(|index| index != pod),
                Err(_) if self.refused.contains(pod) => {}
                Err(error) => {
                    self.refused.push(*pod);
                    self.shared.note(format!("first requests of a pod are not held as yet: {error}"));
                }
            }
        }
        self.refused.retain(|index| pods.contains(index));
        self.table.counts.interfaces = u64::try_from(probe.attached().len()).unwrap_or(u64::MAX);
    }

    fn publish(&mut self) {
        let Some(probe) = &mut self.probe else { return };
        let (table, now_ns) = (&mut self.table, monotonic());
        if now_ns.saturating_sub(self.published_ns) < PUBLISH_NS && table.is_holding() {
            return;
        }
        self.published_ns = now_ns;
        table.counts.kernel = probe.tallies();
        if table.counts.kernel.no_event != self.lost_events {
            self.lost_events = table.counts.kernel.no_event;
            let mut found = Vec::new();
            let told = probe.attempts(|key, attempt| found.push((key, attempt)));
            if let Err(error) = told {
                self.shared.note(error.to_string());
            }
            for (key, attempt) in found {
                if attempt.answered {
                    probe.forget(&key, attempt.isn);
                } else if !table.knows(&key, attempt.isn) {
                    table.began(key, attempt.isn, attempt.first_ns, attempt.until_ns, attempt.cookie);
                }
            }
        }
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&table.counts);
    }
}

/// Tells of interfaces that come and go, until nobody listens.
fn watch(commands: Sender<Command>, waker: Waker, shared: Arc<Shared>) {
    let watch = move |mut changes: Changes| {
        while changes.wait().is_ok() && commands.send(Command::Interfaces).is_ok() {
            waker.wake();
        }
    };
    let started = Changes::new().and_then(|changes| {
        std::thread::Builder::new().name("hold-links".to_owned()).spawn(move || watch(changes))
    });
    if let Err(error) = started {
        shared.note(format!("first requests of new pods are not held: {error}"));
    }
}
