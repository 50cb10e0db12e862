//! The first request's hold: a Service at zero pods answers its very first request.
//!
//! While a Service that asked for it has no ready endpoint, the refusals its callers would get are held back on the last
//! step to them; when the first endpoint is ready, their SYNs are sent once more, and they connect. At the limit
//! they are refused after all. `docs/hold.md` says where this cannot work.
//!
//! A thread of its own does the work, for a replay is due every few milliseconds; whoever owns a [`Hold`] only tells it
//! what it knows, and never waits for it.

pub mod counts;
mod frame;
mod table;
mod worker;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use gatewatch_capture::{clock::monotonic, hold::Waker};

pub use counts::Counts;
use worker::Worker;

/// How much is held, and for how long without a word.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Attempts held at once on this node; some 250 bytes of kernel memory each.
    pub attempts: u32,
    /// Attempts held at once of one pod.
    pub per_pod: u32,
    /// How long the kernel holds on after the last [`Hold::tick`].
    pub lease: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { attempts: 16_384, per_pod: 1024, lease: Duration::from_secs(2) }
    }
}

/// A TCP port of a Service at one of its addresses (cluster, external or load balancer IP, or node port), where the
/// Service's annotation asks for the hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where it is called.
    pub address: SocketAddr,
    /// How long an attempt to connect is held at most.
    pub limit: Duration,
    /// It has a ready endpoint.
    pub ready: bool,
}

enum Command {
    Services(Vec<Wanted>),
    Interfaces,
    End,
}

#[derive(Default)]
struct Shared {
    ticked_ns: AtomicU64,
    counts: Mutex<Counts>,
    notes: Mutex<Vec<String>>,
}

impl Shared {
    fn note(&self, text: String) {
        const NOTES: usize = 100;
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() < NOTES {
            notes.push(text);
        }
    }
}

/// The hold of this node. When dropped, nothing is held any more: who waits is refused at its next SYN.
pub struct Hold {
    commands: Sender<Command>,
    waker: Waker,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Hold {
    /// Starts the thread, in this thread's network namespace, which must be the node's. Nothing is loaded into the
    /// kernel before a Service asks for the hold.
    ///
    /// # Errors
    /// When the process has no descriptor or thread left.
    pub fn new(settings: Settings) -> Result<Self> {
        let (commands, orders) = channel();
        let (waker, shared) = (Waker::new()?, Arc::new(Shared::default()));
        shared.ticked_ns.store(monotonic(), Ordering::Relaxed);
        let (to_itself, wakes, shares) = (commands.clone(), waker.clone(), Arc::clone(&shared));
        // Made inside the thread: the programs' handles belong to one.
        let run = move || Worker::new(settings, orders, to_itself, wakes, shares).run();
        let thread = std::thread::Builder::new()
            .name("hold".to_owned())
            .spawn(run)
            .context("start the hold's thread")?;
        Ok(Self { commands, waker, shared, thread: Some(thread) })
    }

    /// All addresses whose Services ask for the hold, with and without endpoints; called when that changes. One that
    /// is there no longer is let go.
    pub fn services(&self, wanted: Vec<Wanted>) {
        self.tell(Command::Services(wanted));
    }

    /// Whoever owns this is alive, and knows what is ready. Call it at least each half of [`Settings::lease`]; it
    /// costs nothing.
    pub fn tick(&self) {
        self.shared.ticked_ns.store(monotonic(), Ordering::Relaxed);
    }

    /// What was done, half a second ago at most.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What went wrong since the last call, for the log.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, command: Command) {
        // The thread ends with this only.
        let _told = self.commands.send(command);
        self.waker.wake();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.tell(Command::End);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
