//! Who knows all demand of the node, and tells the readers.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use super::{Feed, Figures, Settings, slot::Slot};
use crate::{
    history::{History, KEPT},
    picture::unix_ns,
    proto::demand::{ServiceDemand, Slice, Update},
    service::Service,
};

/// News of Services that go on being called is told so often.
const COALESCED: Duration = Duration::from_millis(50);
/// A Service not called for so long is quiet: its next call is told at once.
const QUIET: Duration = Duration::from_millis(500);
/// A sign of life where there is no news, and the time to forget what is old.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Services in a message at most, so that a message stays far below gRPC's 4 MiB.
const SERVICES_MAX: usize = 500;
/// Messages that may wait for a reader: three seconds of news.
const UNREAD_MAX: usize = 64;

/// The whole picture, and the news that follow it.
pub(super) struct Subscription {
    pub(super) picture: Vec<Update>,
    pub(super) news: mpsc::Receiver<Arc<Update>>,
}

/// Asks for a subscription; none is given where too many read.
pub(super) type Ask = oneshot::Sender<Option<Subscription>>;

pub(super) struct Keeper {
    settings: Settings,
    figures: Arc<Figures>,
    records: HashMap<Service, Record>,
    /// Those that are looked at each [`COALESCED`].
    loud: Vec<Service>,
    readers: Vec<mpsc::Sender<Arc<Update>>>,
}

struct Record {
    slot: Arc<Slot>,
    /// Of the slot's attempts, those in the history.
    counted: u64,
    changed: Instant,
    history: History,
}

impl Record {
    /// Takes over what the slot counted since, and tells it, if there was anything.
    fn news(&mut self, now: Instant) -> Option<ServiceDemand> {
        let attempts = self.slot.attempts();
        let fresh = attempts.wrapping_sub(self.counted);
        if fresh == 0 {
            return None;
        }
        let at_ns = self.slot.last_call_ns();
        self.counted = attempts;
        self.changed = now;
        self.history.add(at_ns, fresh);
        Some(self.tell(at_ns))
    }

    /// The Service's demand, with the slices from that of `from_ns` on.
    fn tell(&self, from_ns: u64) -> ServiceDemand {
        ServiceDemand {
            namespace: self.slot.service.namespace.to_string(),
            name: self.slot.service.name.to_string(),
            gone: false,
            last_call_unix_ns: self.slot.last_call_ns(),
            slices: self
                .history
                .since(from_ns)
                .map(|(number, attempts)| Slice { number, attempts })
                .collect(),
        }
    }
}

impl Keeper {
    pub(super) fn new(settings: Settings, figures: Arc<Figures>) -> Self {
        Self { settings, figures, records: HashMap::new(), loud: Vec::new(), readers: Vec::new() }
    }

    /// Goes on until nobody is left who could ask, or it is dropped.
    pub(super) async fn run(mut self, mut rung: mpsc::Receiver<Arc<Slot>>, mut asks: mpsc::Receiver<Ask>) {
        let mut tick = tokio::time::interval(COALESCED);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sign = tokio::time::interval(SIGN_OF_LIFE);
        sign.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut slots = Vec::new();
        let mut board = true;
        loop {
            tokio::select! {
                biased;
                n = rung.recv_many(&mut slots, SERVICES_MAX), if board => {
                    // With the board gone, what it told stays readable.
                    board = n > 0;
                    self.rung(slots.drain(..));
                }
                ask = asks.recv() => match ask {
                    Some(ask) => self.subscribe(ask),
                    None => return,
                },
                _ = tick.tick(), if !self.loud.is_empty() => self.look(),
                _ = sign.tick() => {
                    self.grow_old();
                    self.tell(Vec::new());
                }
            }
        }
    }

    fn rung(&mut self, slots: impl Iterator<Item = Arc<Slot>>) {
        let now = Instant::now();
        let mut news = Vec::new();
        for slot in slots {
            let service = slot.service.clone();
            if slot.is_gone() {
                // A Service of the same name may have come since.
                if self.records.get(&service).is_some_and(|it| Arc::ptr_eq(&it.slot, &slot)) {
                    self.records.remove(&service);
                    news.push(gone(&service));
                }
                continue;
            }
            let record = self.records.entry(service.clone()).or_insert_with(|| Record {
                slot: Arc::clone(&slot),
                counted: 0,
                changed: now,
                history: History::default(),
            });
            if !Arc::ptr_eq(&record.slot, &slot) {
                // Counts of the slot before it stay in the history.
                record.slot = slot;
                record.counted = 0;
            }
            news.extend(record.news(now));
            self.loud.push(service);
        }
        if !news.is_empty() {
            self.tell(news);
        }
    }

    /// Looks at the Services that go on being called.
    fn look(&mut self) {
        let now = Instant::now();
        let mut news = Vec::new();
        let records = &mut self.records;
        self.loud.sort_unstable();
        self.loud.dedup();
        self.loud.retain(|service| {
            let Some(record) = records.get_mut(service) else { return false };
            if let Some(it) = record.news(now) {
                news.push(it);
                return true;
            }
            if now.duration_since(record.changed) < QUIET {
                return true;
            }
            record.slot.quieten();
            let Some(it) = record.news(now) else { return false };
            // A call came in between, and did not ring.
            record.slot.keep_loud();
            news.push(it);
            true
        });
        if !news.is_empty() {
            self.tell(news);
        }
    }

    fn grow_old(&mut self) {
        let oldest = unix_ns().saturating_sub(u64::try_from(KEPT.as_nanos()).unwrap_or(u64::MAX));
        self.records.retain(|_, record| !record.slot.is_gone() && record.slot.last_call_ns() > oldest);
    }

    fn subscribe(&mut self, ask: Ask) {
        self.readers.retain(|reader| !reader.is_closed());
        if self.readers.len() >= self.settings.readers {
            self.figures.refused_readers.fetch_add(1, Ordering::Relaxed);
            let _gone = ask.send(None);
            return;
        }
        // What the records have not taken over yet follows as news.
        let all: Vec<_> = self.records.values().map(|record| record.tell(0)).collect();
        let mut picture: Vec<_> =
            all.chunks(SERVICES_MAX).map(|part| message(&self.settings, part.to_vec(), true)).collect();
        match picture.last_mut() {
            Some(last) => last.more = false,
            None => picture.push(message(&self.settings, Vec::new(), false)),
        }
        let (sender, news) = mpsc::channel(UNREAD_MAX);
        if ask.send(Some(Subscription { picture, news })).is_ok() {
            self.readers.push(sender);
        }
        self.count_readers();
    }

    fn tell(&mut self, mut news: Vec<ServiceDemand>) {
        if self.readers.is_empty() {
            return;
        }
        while news.len() > SERVICES_MAX {
            let part = news.split_off(news.len() - SERVICES_MAX);
            self.send(part);
        }
        self.send(news);
    }

    fn send(&mut self, news: Vec<ServiceDemand>) {
        let update = Arc::new(message(&self.settings, news, false));
        let figures = &self.figures;
        self.readers.retain(|reader| match reader.try_send(Arc::clone(&update)) {
            Ok(()) => {
                figures.updates.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                figures.slow_readers.fetch_add(1, Ordering::Relaxed);
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        self.count_readers();
    }

    fn count_readers(&self) {
        let readers = u64::try_from(self.readers.len()).unwrap_or(u64::MAX);
        self.figures.readers.store(readers, Ordering::Relaxed);
    }
}

impl Feed {
    /// Takes it apart: the keeper, and the end on which the board rings.
    pub(super) fn into_keeper(self) -> (Keeper, mpsc::Receiver<Arc<Slot>>) {
        (Keeper::new(self.settings, self.figures), self.rung)
    }
}

fn message(settings: &Settings, services: Vec<ServiceDemand>, more: bool) -> Update {
    Update { node: settings.node.clone(), epoch: settings.epoch, now_unix_ns: unix_ns(), more, services }
}

fn gone(service: &Service) -> ServiceDemand {
    ServiceDemand {
        namespace: service.namespace.to_string(),
        name: service.name.to_string(),
        gone: true,
        ..ServiceDemand::default()
    }
}
