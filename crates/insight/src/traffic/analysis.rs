//! Which hosts and paths have figures of their own (`domain_analysis`, `path_analysis`). The rest is folded, not left
//! out: totals stay whole.

use crate::routes::{RouteError, Routes, Rule};

/// What hosts, or paths, without figures of their own are counted under together. No host and no path is spelt so.
pub const UNTRACKED: &str = "(untracked)";

/// What hosts are counted under where figures by host are off; likewise paths.
const OFF: &str = "";

/// The rule for one of both.
#[derive(Debug)]
pub struct Analysis {
    enabled: bool,
    /// Empty: all.
    track: Routes,
    exclude: Routes,
}

impl Default for Analysis {
    /// All have figures of their own.
    fn default() -> Self {
        Self { enabled: true, track: Routes::default(), exclude: Routes::default() }
    }
}

impl Analysis {
    /// Of hosts, by patterns of domains; what is excluded is so even if it is tracked.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn of_hosts(enabled: bool, track: &[String], exclude: &[String]) -> Result<Self, RouteError> {
        let rule = |domain: &String| Rule { domain: Some(domain.clone()), ..unnamed() };
        Self::new(enabled, track.iter().map(rule).collect(), exclude.iter().map(rule).collect())
    }

    /// Of paths.
    ///
    /// # Errors
    /// A pattern that is none, or all together too large.
    pub fn of_paths(enabled: bool, track: &[String], exclude: &[String]) -> Result<Self, RouteError> {
        let rule = |path: &String| Rule { path: Some(path.clone()), ..unnamed() };
        Self::new(enabled, track.iter().map(rule).collect(), exclude.iter().map(rule).collect())
    }

    fn new(enabled: bool, track: Vec<Rule>, exclude: Vec<Rule>) -> Result<Self, RouteError> {
        Ok(Self { enabled, track: Routes::compile(&track)?, exclude: Routes::compile(&exclude)? })
    }

    /// None is folded.
    pub(super) fn takes_all(&self) -> bool {
        self.enabled && self.track.is_empty() && self.exclude.is_empty()
    }

    /// What a host or path is counted under instead of itself, if it is. The other of both is left empty.
    pub(super) fn fold(&self, host: &str, path: &str) -> Option<&'static str> {
        if self.takes_all() {
            return None;
        }
        if !self.enabled {
            return Some(OFF);
        }
        let (host, path) = (host.as_bytes(), path.as_bytes());
        let tracked = self.track.is_empty() || self.track.find(host, path).is_some();
        let excluded = || !self.exclude.is_empty() && self.exclude.find(host, path).is_some();
        (!tracked || excluded()).then_some(UNTRACKED)
    }
}

fn unnamed() -> Rule {
    // A rule needs a service; here only the match counts.
    Rule { domain: None, path: None, service: "-".to_owned(), priority: 0 }
}
