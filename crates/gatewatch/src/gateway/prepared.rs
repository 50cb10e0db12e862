//! A configuration made ready: what takes time to compile is compiled before the hot loop gets it.

use std::sync::Arc;

use anyhow::Result;
use gatewatch_config::{Change, Config, diff};
use gatewatch_decode::mask::Masker;
use gatewatch_insight::{filter::Filter, traffic};

use crate::settings;

/// A configuration with what follows from it.
pub struct Prepared {
    /// It.
    pub config: Arc<Config>,
    /// What differs from the one before.
    pub changes: Vec<Change>,
    /// Groups, routes and bounds.
    pub traffic: traffic::Settings,
    /// What is hidden.
    pub masker: Masker,
    /// Which requests are reported.
    pub filter: Filter,
}

impl Prepared {
    /// Compiles everything.
    ///
    /// # Errors
    /// A rule or a pattern that does not compile.
    pub fn new(config: Arc<Config>, before: &Config) -> Result<Self> {
        Ok(Self {
            changes: diff(before, &config),
            traffic: settings::traffic(&config)?,
            masker: settings::masker(&config)?,
            filter: settings::filter(&config)?,
            config,
        })
    }
}
