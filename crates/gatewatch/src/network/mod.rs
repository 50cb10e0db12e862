//! Packets and connections: a thread of its own that loads, attaches, mends and reads, and that nothing else waits for.

mod listing;
pub mod lock;
mod picture;
mod wanted;
mod watch;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use gatewatch_capture::CaptureError;
use gatewatch_export::{http::Meeting, log::Level};

/// How often it is looked whether anything is to be watched.
const LOOK: Duration = Duration::from_millis(500);

use crate::gateway::live::Newest;

use lock::Lock;
use watch::Watch;

/// Between two tries to load what failed.
const BACKOFF: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(30)];

/// The running watcher.
#[derive(Debug)]
pub struct Network {
    thread: JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    unload: AtomicBool,
}

impl Network {
    /// Begins to watch. What cannot be had is said in the log, and tried again; the gateway's requests do not wait
    /// for it.
    ///
    /// # Errors
    /// When another agent watches this network namespace.
    pub fn start(mut newest: Newest, meeting: Arc<Meeting>) -> Result<Self> {
        let enabled = newest.borrow_and_update().network.enabled;
        let lock = if enabled { Some(Lock::take()?) } else { None };
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("network".to_owned())
                .spawn(move || Supervisor { newest, meeting: &meeting, shared: &shared }.run(lock))
                .context("cannot start the network's thread")?
        };
        Ok(Self { thread, shared })
    }

    /// Ends it; with `unload`, the counting too.
    pub fn finish(self, unload: bool) {
        self.shared.unload.store(unload, Ordering::Release);
        self.shared.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        // A panic of the thread has been said.
        let _ended = self.thread.join();
    }
}

/// Keeps a watch going: one that fails is begun anew, later and later.
struct Supervisor<'a> {
    newest: Newest,
    meeting: &'a Meeting,
    shared: &'a Shared,
}

impl Supervisor<'_> {
    fn run(&mut self, mut lock: Option<Lock>) {
        let desk = &self.meeting.network;
        let mut failures = 0;
        let mut said = String::new();
        while !self.is_stopped() {
            if !self.newest.borrow_and_update().network.enabled {
                self.rest(LOOK);
                continue;
            }
            let began = Instant::now();
            let ran = match lock.take().map_or_else(Lock::take, Ok) {
                Ok(held) => {
                    desk.open(thread::current());
                    let ran = catch_unwind(AssertUnwindSafe(|| {
                        let config = Arc::clone(&self.newest.borrow_and_update());
                        Watch::start(&config, self.meeting)?.run(&mut self.newest, self.shared)
                    }));
                    desk.close();
                    lock = Some(held);
                    ran
                }
                Err(error) => Ok(Err(error)),
            };
            let message = match ran {
                Ok(Ok(())) => return,
                // Rights do not come by waiting.
                Ok(Err(error)) if lacks_rights(&error) => {
                    let text = format!(
                        "packets and connections are not watched: {error:#}. --no-network (network.enabled: false) does without"
                    );
                    desk.say(Level::Warn, text);
                    return;
                }
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "a defect of gatewatch: see its standard error".to_owned(),
            };
            if began.elapsed() > Duration::from_secs(60) {
                failures = 0;
            }
            let pause = BACKOFF.get(failures).or(BACKOFF.last()).copied().unwrap_or(LOOK);
            failures += 1;
            if message != said {
                let text = format!(
                    "packets and connections are not watched for now, and it is tried again: {message}"
                );
                desk.say(Level::Error, text);
                said = message;
            }
            self.rest(pause);
        }
    }

    fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.is_stopped() && Instant::now() < until {
            thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
    }
}

fn lacks_rights(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<CaptureError>(),
        Some(CaptureError::Capability { .. } | CaptureError::NoBtf | CaptureError::OldKernel { .. })
    )
}
