//! The nodes' side: who is called is told at once to every scaler that listens.
//!
//! [`board`] makes two ends. The hot loop owns the [`Board`]: a call costs it one look-up and a few atomic operations,
//! and nobody can make it wait. The [`Feed`] goes to [`serve`], on the async side.

mod keeper;
mod serve;
mod slot;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;

use crate::{history::KEPT, service::Service};
pub use serve::serve;
use slot::Slot;

/// When the board is full, how long until it is swept again.
const SWEEP_NS: u64 = 10_000_000_000;

/// What a node tells of itself, and bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name: a scaler adds up what different nodes saw.
    pub node: String,
    /// A number that no other start of the agent on this node has, such as its start in nanoseconds since 1970.
    pub epoch: u64,
    /// Services at most. Past that, one that was not called for ten minutes makes room, or calls are not told.
    pub services: usize,
    /// Scalers at most.
    pub readers: usize,
}

impl Settings {
    /// For a node of this name, with bounds that fit a large cluster: 16,384 Services, 16 scalers.
    #[must_use]
    pub fn new(node: String, epoch: u64) -> Self {
        Self { node, epoch, services: 16_384, readers: 16 }
    }
}

/// What became of demand on its way out. Monotonic but for `readers`.
#[derive(Debug, Default)]
pub struct Figures {
    /// Scalers that listen now.
    pub readers: AtomicU64,
    /// Scalers cut off because they read too slowly; each finds the whole picture again when it comes back.
    pub slow_readers: AtomicU64,
    /// Scalers turned away because too many listen.
    pub refused_readers: AtomicU64,
    /// Attempts not told because the board was full.
    pub untold: AtomicU64,
    /// Messages handed to scalers.
    pub updates: AtomicU64,
}

/// By namespace and name: looked up without making a key of both.
type Services = HashMap<Box<str>, HashMap<Box<str>, Arc<Slot>>>;

/// The hot loop's end.
#[derive(Debug)]
pub struct Board {
    services: Services,
    count: usize,
    limit: usize,
    swept_ns: u64,
    bell: mpsc::Sender<Arc<Slot>>,
    figures: Arc<Figures>,
}

/// The async side's end, for [`serve`].
#[derive(Debug)]
pub struct Feed {
    settings: Settings,
    rung: mpsc::Receiver<Arc<Slot>>,
    figures: Arc<Figures>,
}

/// Makes the two ends.
#[must_use]
pub fn board(settings: Settings) -> (Board, Feed) {
    // Each Service stands in there once at most, and once more when it goes.
    let (bell, rung) = mpsc::channel(settings.services.saturating_mul(2).max(1));
    let figures = Arc::new(Figures::default());
    let board = Board {
        services: HashMap::new(),
        count: 0,
        limit: settings.services,
        swept_ns: 0,
        bell,
        figures: Arc::clone(&figures),
    };
    (board, Feed { settings, rung, figures })
}

impl Board {
    /// The Service was called `count` times, the last of them at `unix_ns`.
    pub fn called(&mut self, namespace: &str, name: &str, count: u64, unix_ns: u64) {
        let known = |services: &Services| services.get(namespace)?.get(name).map(Arc::clone);
        let Some(slot) = known(&self.services).or_else(|| self.admit(namespace, name, unix_ns)) else {
            self.figures.untold.fetch_add(count, Ordering::Relaxed);
            return;
        };
        if slot.called(count, unix_ns) && self.bell.try_send(Arc::clone(&slot)).is_err() {
            // Nobody serves, or it hangs: its next call tries again.
            slot.quieten();
        }
    }

    /// The Service exists no more.
    pub fn forget(&mut self, namespace: &str, name: &str) {
        let Some(names) = self.services.get_mut(namespace) else { return };
        let Some(slot) = names.remove(name) else { return };
        if names.is_empty() {
            self.services.remove(namespace);
        }
        self.count -= 1;
        slot.leave();
        // Is there no room, its demand is forgotten with age.
        let _full = self.bell.try_send(slot);
    }

    /// Services on the board.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no Service was called yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn admit(&mut self, namespace: &str, name: &str, unix_ns: u64) -> Option<Arc<Slot>> {
        if self.count >= self.limit {
            self.sweep(unix_ns);
        }
        if self.count >= self.limit {
            return None;
        }
        let slot = Arc::new(Slot::new(Service::new(namespace, name)?));
        self.count += 1;
        let names = self.services.entry(namespace.into()).or_default();
        names.insert(name.into(), Arc::clone(&slot));
        Some(slot)
    }

    /// Drops those whose demand no window shows any more. Not at every call: it looks at all.
    fn sweep(&mut self, now_ns: u64) {
        if now_ns < self.swept_ns.saturating_add(SWEEP_NS) {
            return;
        }
        self.swept_ns = now_ns;
        let kept_ns = u64::try_from(KEPT.as_nanos()).unwrap_or(u64::MAX);
        self.services.retain(|_, names| {
            names.retain(|_, slot| slot.last_call_ns().saturating_add(kept_ns) > now_ns);
            !names.is_empty()
        });
        self.count = self.services.values().map(HashMap::len).sum();
    }
}

impl Feed {
    /// Figures that go on being counted after the feed is handed to [`serve`].
    #[must_use]
    pub fn figures(&self) -> Arc<Figures> {
        Arc::clone(&self.figures)
    }
}
