//! The configuration as it is now, for every part that runs beside the hot loop.
//!
//! Take a [`Newest`] at the start ([`Live::subscribe`]). A thread asks `has_changed()` between two turns and takes
//! `borrow_and_update().clone()`; a task awaits `changed()`. What it gets is checked as a whole and in use already: the
//! hot loop hands it on once it has applied its own share of it. Only the newest is kept, so a slow part skips what came
//! between.

use std::sync::Arc;

use gatewatch_config::Config;
use tokio::sync::watch;

/// A part's view of the newest configuration.
pub type Newest = watch::Receiver<Arc<Config>>;

/// The hot loop's end.
#[derive(Debug)]
pub struct Live(watch::Sender<Arc<Config>>);

impl Live {
    /// Begins with the configuration of the start.
    pub fn new(config: Arc<Config>) -> Self {
        Self(watch::Sender::new(config))
    }

    /// For a part that wants to follow it.
    pub fn subscribe(&self) -> Newest {
        self.0.subscribe()
    }

    /// The newest.
    pub fn now(&self) -> Arc<Config> {
        Arc::clone(&self.0.borrow())
    }

    /// A newer one is in use.
    pub fn set(&self, config: Arc<Config>) {
        self.0.send_replace(config);
    }
}
